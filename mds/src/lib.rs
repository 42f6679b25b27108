//! The metadata server.

pub mod daemon;
pub mod log;
pub mod raft;
pub mod server;
pub mod state;
