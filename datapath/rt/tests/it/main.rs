//! Tests of the executor on a real ring (and, in the `sim_*` modules, on the simulator).

mod uring_basic;
