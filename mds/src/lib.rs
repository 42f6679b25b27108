//! The metadata server.

pub mod log;
pub mod state;
