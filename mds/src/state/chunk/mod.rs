//! Chunks: the entries of a file's map, small enough for a large cluster.

mod deletion;
mod entry;
mod map;
mod members;

pub use deletion::{Deletion, Deletions};
pub use entry::ChunkEntry;
pub(in crate::state) use entry::ChunkParts;
pub use map::ChunkMap;
pub use members::{Member, MemberSet, MemberState, SLOT_MAX};
