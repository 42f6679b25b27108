//! Identifiers, epochs and versions: numbers that are never used twice (C12).
//!
//! An [`Epoch`], [`Version`], [`ChunkId`] or [`FileId`] is `generation << 48 | counter`. The cluster
//! generation is raised by every restore from a backup, so whatever the restored state hands out is higher
//! than anything handed out, and then forgotten, after the backup was taken.

use std::fmt;

/// Bits of the counter below the cluster generation.
const COUNTER_BITS: u32 = 48;
/// The largest counter: about 2.8 × 10¹⁴ of each kind per generation.
pub const COUNTER_MAX: u64 = (1 << COUNTER_BITS) - 1;

/// The first id of a chunk server; lower numbers are for metadata servers.
pub const FIRST_CS_ID: u32 = 1025;
/// The first id of a client.
pub const FIRST_CLIENT_ID: u32 = 2049;

macro_rules! generational {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// Below every value that is handed out; means "none yet".
            pub const ZERO: Self = Self(0);

            /// Builds a value from its two parts. `counter` is at most [`COUNTER_MAX`].
            pub const fn new(generation: u16, counter: u64) -> Self {
                assert!(counter <= COUNTER_MAX, "a counter has 48 bits");
                Self((generation as u64) << COUNTER_BITS | counter)
            }

            /// Takes the number as it stands in messages and on disk.
            pub const fn from_raw(raw: u64) -> Self {
                Self(raw)
            }

            /// The number as it stands in messages and on disk.
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The cluster generation that handed this value out.
            pub const fn generation(self) -> u16 {
                (self.0 >> COUNTER_BITS) as u16
            }

            /// The counter within its generation.
            pub const fn counter(self) -> u64 {
                self.0 & COUNTER_MAX
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.generation(), self.counter())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

generational! {
    /// The epoch of a file's lease (C1). It only grows, per file.
    Epoch
}
generational! {
    /// The version of a chunk (C7). It only grows, per chunk.
    Version
}
generational! {
    /// A chunk. Unique in the cluster, for ever.
    ChunkId
}
generational! {
    /// A file or directory. Unique in the cluster, for ever.
    FileId
}

impl Epoch {
    /// The epoch to prepare after this one in a cluster of `generation`.
    ///
    /// Greater than `self` in every case: a new generation starts its own count.
    pub const fn next(self, generation: u16) -> Self {
        if generation > self.generation() {
            Self::new(generation, 1)
        } else {
            Self::new(self.generation(), self.counter() + 1)
        }
    }
}

impl Version {
    /// The version of a chunk that was just allocated.
    pub const fn first(generation: u16) -> Self {
        Self::new(generation, 1)
    }

    /// The version after this one in a cluster of `generation`; greater in every case, as [`Epoch::next`].
    pub const fn next(self, generation: u16) -> Self {
        if generation > self.generation() {
            Self::new(generation, 1)
        } else {
            Self::new(self.generation(), self.counter() + 1)
        }
    }
}

macro_rules! small_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "#{}"), self.0)
            }
        }
    };
}

small_id! {
    /// A chunk server; the operator sees it as CSID. Never reused.
    CsId, "CS"
}
small_id! {
    /// A client session's owner; the operator sees it as CLID. Never reused.
    ClientId, "CL"
}

/// A 128-bit name: of the cluster, a chunk server's directory, a client's state directory, a boot.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Reads the bytes of a message; `None` unless there are exactly 16.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uuid({self})")
    }
}

/// 128 random bits that prove who sends: the token of a client's session, the nonce of a chunk server's
/// registration. A message, so that commands can carry it; never shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Message)]
#[prost(skip_debug)]
pub struct Secret {
    /// The first 8 of the 16 bytes, big-endian.
    #[prost(fixed64, tag = "1")]
    pub high: u64,
    /// The other 8.
    #[prost(fixed64, tag = "2")]
    pub low: u64,
}

impl Secret {
    /// Stands for "none yet".
    pub const NONE: Self = Self { high: 0, low: 0 };

    /// Whether it is [`Secret::NONE`].
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Reads the bytes of a message: 16, or none at all for [`Secret::NONE`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::NONE);
        }
        let all = u128::from_be_bytes(bytes.try_into().ok()?);
        // The two halves of 128 bits.
        Some(Self { high: (all >> 64) as u64, low: all as u64 })
    }

    /// The 16 bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.high) << 64 | u128::from(self.low)).to_be_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_none() { "Secret(none)" } else { "Secret(..)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c12_the_generation_stands_above_every_counter() {
        let old = Epoch::new(1, COUNTER_MAX);
        let new = Epoch::new(2, 0);
        assert!(new > old);
        assert_eq!((old.generation(), old.counter()), (1, COUNTER_MAX));
        assert_eq!(Epoch::from_raw(old.raw()), old);
        assert_eq!(old.to_string(), "1.281474976710655");
    }

    #[test]
    fn c1_the_next_epoch_is_higher_within_and_across_generations() {
        let cases = [
            (Epoch::ZERO, 1, Epoch::new(1, 1)),
            (Epoch::new(1, 7), 1, Epoch::new(1, 8)),
            (Epoch::new(1, 7), 3, Epoch::new(3, 1)),
            (Epoch::new(3, 7), 3, Epoch::new(3, 8)),
        ];
        for (from, generation, want) in cases {
            assert_eq!(from.next(generation), want);
            assert!(want > from);
        }
    }

    #[test]
    fn secrets_are_read_and_not_shown() {
        let bytes: Vec<u8> = (1..=16).collect();
        let secret = Secret::from_bytes(&bytes).unwrap();
        assert_eq!(secret.to_bytes().to_vec(), bytes);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(Secret::from_bytes(&[]), Some(Secret::NONE));
        assert_eq!(Secret::from_bytes(&[0; 15]), None);
    }

    #[test]
    fn a_uuid_has_sixteen_bytes() {
        assert_eq!(Uuid::from_bytes(&[0; 15]), None);
        assert_eq!(Uuid::from_bytes(&[0; 17]), None);
        assert_eq!(Uuid::from_bytes(&[0xab; 16]).unwrap().to_string(), "ab".repeat(16));
    }
}
