//! Between chunk servers: how a joiner is filled (C6, C7), and how members are compared. Reading is COPY_READ, whose body is that of
//! READ with epoch 0.

/// COPY_READ of one block with `unsettled`, refused as CORRUPT: in the error's detail, with the plain CRC32C below it that is on
/// record for that block. The joiner may have what was lost.
pub const RECORDED: u64 = 1 << 32;

/// Most units of one COPY_DIGEST: a chunk of 64 MiB by the block.
pub const DIGESTS_MAX: u32 = 16_384;

/// Bytes of one region of the map of changes.
pub const REGION: u32 = 64 << 10;

/// CHANGED_REGIONS request: a joiner asks a member what it lacks, before it copies.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ChangedRegions {
    /// File id.
    #[prost(uint64, tag = "1")]
    pub file_id: u64,
    /// Chunk id.
    #[prost(uint64, tag = "2")]
    pub chunk_id: u64,
    /// Version that both have installed.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// Version that the joiner held when it left; 0 = it is new.
    #[prost(uint64, tag = "4")]
    pub held: u64,
}

/// A listed write that may not be stable on all members (C5).
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ListedWrite {
    /// Its epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Its sequence number.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    /// First block.
    #[prost(uint32, tag = "3")]
    pub first_block: u32,
    /// Blocks.
    #[prost(uint32, tag = "4")]
    pub blocks: u32,
}

/// CHANGED_REGIONS reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChangedRegionsReply {
    /// The map reaches back to the version that the joiner held; else all regions are to be copied.
    #[prost(bool, tag = "1")]
    pub complete: bool,
    /// The map names what changed in versions above this one; 0 = there is no map.
    #[prost(uint64, tag = "2")]
    pub since: u64,
    /// A bit for each region of 64 KiB, from the lowest of the first byte on; whole 8 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub changed: Vec<u8>,
    /// Writes that the member lists as not stable, of all epochs: the joiner takes them over.
    #[prost(message, repeated, tag = "4")]
    pub listed: Vec<ListedWrite>,
    /// Boot id of the member's host, 16 bytes.
    #[prost(bytes = "vec", tag = "5")]
    pub boot_id: Vec<u8>,
}

/// COPY_FLUSH request: make durable what was read from here (C4).
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct CopyFlush {
    /// Chunk id.
    #[prost(uint64, tag = "1")]
    pub chunk_id: u64,
    /// Version that both have installed.
    #[prost(uint64, tag = "2")]
    pub version: u64,
}

/// COPY_FLUSH reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CopyFlushReply {
    /// Boot id of the member's host, 16 bytes: another one than at the beginning means that what was read may be lost there.
    #[prost(bytes = "vec", tag = "1")]
    pub boot_id: Vec<u8>,
}

/// COPY_DIGEST request: what a member has on record for a range, in short. A unit is left out when some of it cannot be compared.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct CopyDigest {
    /// File id.
    #[prost(uint64, tag = "1")]
    pub file_id: u64,
    /// Chunk id.
    #[prost(uint64, tag = "2")]
    pub chunk_id: u64,
    /// Version that both have.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// First block.
    #[prost(uint32, tag = "4")]
    pub first_block: u32,
    /// Blocks.
    #[prost(uint32, tag = "5")]
    pub blocks: u32,
    /// Blocks of one unit; the last one may be shorter. At most [`DIGESTS_MAX`] units.
    #[prost(uint32, tag = "6")]
    pub unit_blocks: u32,
    /// The blocks are read, and those that do not match what is on record are left out. Else nothing but tables is read.
    #[prost(bool, tag = "7")]
    pub examine: bool,
}

/// COPY_DIGEST reply.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CopyDigestReply {
    /// The server keeps no checksums (`make-cs -S`): there are no digests.
    #[prost(bool, tag = "1")]
    pub none_kept: bool,
    /// For each unit the CRC32C over the stored checksums of its blocks, 4 bytes each, least significant byte first; a hole counts
    /// as a block of zeroes. 0 for those left out.
    #[prost(fixed32, repeated, tag = "2")]
    pub digests: Vec<u32>,
    /// Units that cannot be compared, ascending: a block is damaged, lost or in doubt, or a write of it may not be stable on all
    /// members (C5).
    #[prost(uint32, repeated, tag = "3")]
    pub left_out: Vec<u32>,
}
