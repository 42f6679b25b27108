//! The chunk server: chunks on one disk behind a write journal.
//!
//! [`format`] says what is on the disk, [`journal`], [`tables`] and [`store`] keep it, [`engine`] is what requests meet; [`check`] walks a
//! stopped server.

pub mod check;
pub mod daemon;
pub mod engine;
pub mod format;
pub mod journal;
mod sectors;
pub mod server;
pub mod store;
pub mod tables;
