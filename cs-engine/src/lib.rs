//! The chunk server: chunks on one disk behind a write journal.
//!
//! [`format`] says what is on the disk, [`journal`], [`tables`] and [`store`] keep it, [`engine`] is what requests meet.

pub mod daemon;
pub mod engine;
pub mod format;
pub mod journal;
pub mod server;
pub mod store;
pub mod tables;
