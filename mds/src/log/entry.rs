//! What the log is made of: ids, votes, members and entries.
//!
//! These are the log's own types. They know nothing of the consensus library, so that a change of that library
//! cannot change the disk format.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Identifies a member of the consensus group; chosen by the operator or drawn at creation, never reused.
pub type NodeId = u64;

/// Identifies an entry: which leader proposed it, and where it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    /// The term of the leader.
    pub term: u64,
    /// The leader.
    pub node: NodeId,
    /// The position in the log, from 0.
    pub index: u64,
}

impl std::fmt::Display for LogId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.term, self.node, self.index)
    }
}

/// What a member has promised, or granted, to a leader or candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// Whom it is for.
    pub node: NodeId,
    /// Whether a majority has granted it.
    pub committed: bool,
}

/// Who the members are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The voters: one set, or two while the group changes from the first to the second.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// The address of every voter and learner.
    pub addresses: BTreeMap<NodeId, String>,
}

impl Membership {
    /// A group of one.
    #[must_use]
    pub fn founder(node: NodeId, address: &str) -> Self {
        Self { voters: vec![BTreeSet::from([node])], addresses: BTreeMap::from([(node, address.to_owned())]) }
    }
}

/// Commands that were proposed together and stand in one entry: one write and one flush for all of them.
///
/// Kept as it is stored: the number of commands, then each with its length before it (all `u32`, little-endian).
#[derive(Clone, PartialEq, Eq)]
pub struct Batch(Rc<[u8]>);

/// Bytes that are no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the commands of an entry do not fill it exactly")]
pub struct BatchError;

impl Batch {
    /// What a command adds to the size of a batch besides its own bytes.
    pub const OVERHEAD: usize = 4;

    /// A batch of these commands.
    ///
    /// # Panics
    /// When there are more than 2^32 of them or one has more than 4 GiB.
    #[must_use]
    pub fn of<'a>(commands: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let (mut bytes, mut count) = (vec![0; 4], 0_u32);
        for command in commands {
            count += 1;
            let len = u32::try_from(command.len()).expect("commands are far below 4 GiB");
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(command);
        }
        bytes[..4].copy_from_slice(&count.to_le_bytes());
        Self(bytes.into())
    }

    /// Checks stored bytes.
    ///
    /// # Errors
    /// [`BatchError`] when they are no batch.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BatchError> {
        let mut rest = bytes;
        let count = take_len(&mut rest).ok_or(BatchError)?;
        for _ in 0..count {
            let len = take_len(&mut rest).ok_or(BatchError)?;
            rest = rest.get(len..).ok_or(BatchError)?;
        }
        if rest.is_empty() { Ok(Self(bytes.into())) } else { Err(BatchError) }
    }

    /// The stored form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The commands in their order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[4..];
        std::iter::from_fn(move || {
            let len = take_len(&mut rest)?;
            let (command, after) = rest.split_at(len);
            rest = after;
            Some(command)
        })
    }

    /// How many commands there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        take_len(&mut &self.0[..]).unwrap_or(0) as u64
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} commands, {} bytes)", self.count(), self.0.len())
    }
}

fn take_len(bytes: &mut &[u8]) -> Option<usize> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*len) as usize)
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader's first entry.
    Blank,
    /// Commands for the state machine.
    Commands(Batch),
    /// Who the members are from here on.
    Membership(Membership),
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: LogId,
    /// What it says.
    pub payload: Payload,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_give_back_their_commands() {
        let commands: [&[u8]; 4] = [b"one", b"", b"three", &[0; 300]];
        let batch = Batch::of(commands);
        assert_eq!(batch.count(), 4);
        assert_eq!(batch.iter().collect::<Vec<_>>(), commands);
        assert_eq!(Batch::from_bytes(batch.as_bytes()), Ok(batch));
        assert_eq!(Batch::of([]).iter().count(), 0);
    }

    #[test]
    fn anything_cut_or_longer_is_no_batch() {
        let bytes = Batch::of([&b"one"[..], b"two"]).as_bytes().to_vec();
        for len in 0..bytes.len() {
            assert_eq!(Batch::from_bytes(&bytes[..len]), Err(BatchError), "{len}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Batch::from_bytes(&longer), Err(BatchError));
        let mut huge = bytes;
        huge[4..8].fill(0xff);
        assert_eq!(Batch::from_bytes(&huge), Err(BatchError));
    }
}
