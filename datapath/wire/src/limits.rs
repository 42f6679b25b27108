//! Limits of the protocol, and the proofs that they fit each other.

/// Length of a frame header in bytes.
pub const HEADER_LEN: usize = 64;

/// Longest body in bytes (1 MiB).
pub const MAX_BODY: u32 = 1 << 20;

/// Longest payload in bytes (4 MiB). Longer reads and writes are split by the client.
pub const MAX_PAYLOAD: u32 = 4 << 20;

/// The block in bytes: unit of checksums, block maps and alignment (4 KiB).
pub const BLOCK: u32 = 4096;

/// Payloads of at least this many bytes (16 KiB) are received straight into an aligned buffer;
/// shorter ones pass through the receive ring.
pub const LARGE_PAYLOAD: u32 = 16 << 10;

/// Most fields on the top level of a control body. Bounds the memory that a body of many empty
/// sub-messages can claim.
pub const MAX_FIELDS: usize = 1 << 16;

/// Most entries a `List`, `ReadDir`, `GetEvents` or `ListClients` answer holds, whatever the request allows. A
/// server that lists long texts stops earlier, before the body is full.
pub const MAX_LISTED: u32 = 2048;

/// Longest path in bytes.
pub const MAX_PATH: usize = 4096;

/// Longest name of one file or directory in bytes.
pub const MAX_NAME: usize = 255;

/// Longest target of a symbolic link in bytes.
pub const MAX_SYMLINK: usize = 4095;

/// Most names of one inode that is not a directory.
pub const MAX_LINKS: u32 = 65_000;

/// Longest name of an extended attribute in bytes.
pub const MAX_XATTR_NAME: usize = 255;

/// Longest value of an extended attribute in bytes (64 KiB).
pub const MAX_XATTR_VALUE: usize = 64 << 10;

/// Most bytes all extended attributes of an inode take, names and values (128 KiB).
pub const MAX_XATTRS: usize = 128 << 10;

/// Most bytes the names of all extended attributes of an inode take, with a NUL after each (64 KiB).
pub const MAX_XATTR_NAMES: usize = 64 << 10;

/// Oldest protocol version this code speaks.
pub const PROTOCOL_MIN: u32 = 1;

/// Newest protocol version this code speaks.
pub const PROTOCOL_MAX: u32 = 1;

/// Most checksums one WRITE, SETTLE or READ carries: an unaligned payload of full length touches
/// one block more than an aligned one.
pub const MAX_PARTS: u32 = MAX_PAYLOAD / BLOCK + 1;

/// Most blocks one SURVEY_BLOCKS may ask for: a chunk of 64 MiB.
pub const MAX_SURVEY_BLOCKS: u32 = 16_384;

/// Most entries in one SURVEY answer.
pub const MAX_SURVEY_ENTRIES: u32 = 16_384;

/// Most runs in one BLOCK_STATUS answer.
pub const MAX_RUNS: u32 = 65_536;

/// Most chunks one FLUSH may name.
pub const MAX_FLUSH_CHUNKS: u32 = 4096;

const _: () = {
    assert!(BLOCK.is_power_of_two());
    assert!(MAX_PAYLOAD.is_multiple_of(BLOCK), "a full payload can be aligned to blocks");
    assert!(LARGE_PAYLOAD.is_multiple_of(BLOCK) && LARGE_PAYLOAD <= MAX_PAYLOAD);
    assert!(MAX_PARTS <= u16::MAX as u32, "the count of parts is a u16");
    // The fixed part and the list behind it must fit a body. The sizes on the left are those that
    // `data` asserts for its layouts.
    assert!(96 + 4 * MAX_PARTS <= MAX_BODY, "WRITE");
    assert!(16 + 24 * MAX_SURVEY_BLOCKS <= MAX_BODY, "SURVEY_BLOCKS");
    assert!(32 + 32 * MAX_SURVEY_ENTRIES <= MAX_BODY, "SURVEY");
    assert!(16 + 8 * MAX_RUNS <= MAX_BODY, "BLOCK_STATUS");
    assert!(48 + 16 * MAX_FLUSH_CHUNKS <= MAX_BODY, "FLUSH");
    assert!((MAX_LISTED as usize) < MAX_FIELDS);
    // 64 bytes are more than the numbers and keys of an entry take.
    assert!(MAX_LISTED as usize * (MAX_NAME + 64) <= MAX_BODY as usize, "LIST of longest names");
    // An inode takes at most 176 bytes, with the keys and lengths around it.
    assert!(MAX_LISTED as usize * (MAX_NAME + 176) <= MAX_BODY as usize, "READ_DIR of longest names");
    assert!(MAX_XATTR_NAME + MAX_XATTR_VALUE <= MAX_XATTRS && MAX_XATTRS < MAX_BODY as usize);
    assert!(MAX_XATTR_NAMES / 2 <= MAX_FIELDS, "LIST_XATTRS of shortest names");
    assert!(MAX_NAME < MAX_PATH);
    assert!(PROTOCOL_MIN <= PROTOCOL_MAX);
};
