//! Tests of the metadata server from outside.

mod raft_damage;
mod raft_ledger;
mod raft_member;
mod raft_peers;
mod raft_sim;
mod server_access;
mod server_chunks;
mod server_cluster;
mod server_compare;
mod server_daemon;
mod server_inodes;
mod server_inventory;
mod server_leases;
mod server_names;
mod server_registration;
mod server_sim;
mod server_world;
mod state_memory;
