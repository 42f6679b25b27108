//! Tests of the executor on a real ring (and, in the `sim_*` modules, on the simulator).

mod mailbox;
mod sim_both;
mod sim_disk;
mod sim_fault;
mod sim_net;
mod sim_process;
mod sim_storm;
mod sim_world;
mod uring_basic;
mod uring_edges;
