//! The log of the consensus group on disk, and the snapshots that let it be short.
//!
//! `docs/formats/mds-log.md` draws the bytes. A log is a row of segment files. What is appended together is one *group*:
//! it begins at a block boundary, is written with one write and made durable with one flush, and the next group is
//! written only then. So at most one group can be torn, and every record knows which record before it was durable.
//!
//! | module | holds |
//! |---|---|
//! | [`entry`] | ids, votes, members, entries |
//! | [`body`], [`record`] | their bytes |
//! | [`segment`], [`directory`] | the files |
//! | [`scan`], [`recover`] | what a log found on disk says, and what that means |
//! | [`index`], [`store`] | the log in use |
//! | [`snapshot`] | snapshots |
//! | [`failure`] | what can go wrong |
//!
//! All I/O is direct: what recovery reads is what the device has, not what a page cache still holds from before a
//! failed flush; one flush then makes it durable before anything is built on it.
//!
//! **Invariant:** nothing is answered before it is durable; a block that was made durable is never written again.
//! **Invariant:** after a failed write or flush the log takes nothing more; nothing is tried twice (C4).
//! **Invariant:** this module knows nothing of the consensus library.

mod body;
mod directory;
mod entry;
mod failure;
#[cfg(test)]
mod fixtures;
mod index;
mod record;
mod recover;
mod scan;
mod segment;
mod snapshot;
mod store;

pub use body::BodyError;
pub use directory::{Directory, Identity};
pub use entry::{Batch, BatchError, Entry, LogId, Membership, NodeId, Payload, Vote};
pub use failure::{LogFailure, OpenError, Strangeness};
pub use record::{BLOCK, Flaw};
pub use recover::{Contradiction, Corruption, TornTail};
pub use snapshot::{Loaded, SnapshotError, SnapshotMeta, Snapshots};
pub use store::{Log, LogOptions, LogStats, create};
