//! Numbers of the NBD wire, named as in the protocol document ("Values"), and a bounds-checked reader.
//!
//! Every integer on the wire is big-endian.

/// First eight bytes of a server's greeting, `NBDMAGIC`.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes of a newstyle greeting and first of every option, `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First eight bytes of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First four bytes of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First four bytes of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First four bytes of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Bytes of the server's greeting: two magics and the handshake flags.
pub const GREETING_LEN: usize = 18;
/// Bytes of the client's answer to the greeting.
pub const CLIENT_FLAGS_LEN: usize = 4;
/// Bytes of an option header: magic, option, data length.
pub const OPTION_HEADER_LEN: usize = 16;
/// Bytes of an option reply header: magic, option, reply type, data length.
pub const OPTION_REPLY_HEADER_LEN: usize = 20;
/// Zero bytes that follow a successful `NBD_OPT_EXPORT_NAME` unless both sides waived them.
pub const EXPORT_NAME_PADDING: usize = 124;
/// Bytes of a request header.
pub const REQUEST_LEN: usize = 28;
/// Bytes of a simple reply without its payload.
pub const SIMPLE_REPLY_LEN: usize = 16;
/// Bytes of a structured reply chunk without its payload.
pub const CHUNK_LEN: usize = 20;

/// Handshake flag: the server speaks fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag: the server can leave out the padding after `NBD_OPT_EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;
/// Client flag: the client speaks fixed newstyle.
pub const FLAG_C_FIXED_NEWSTYLE: u32 = 1 << 0;
/// Client flag: the client wants no padding after `NBD_OPT_EXPORT_NAME`.
pub const FLAG_C_NO_ZEROES: u32 = 1 << 1;

/// Option: choose an export, no way to answer an error.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: end the session.
pub const OPT_ABORT: u32 = 2;
/// Option: name all exports.
pub const OPT_LIST: u32 = 3;
/// Option: switch to TLS.
pub const OPT_STARTTLS: u32 = 5;
/// Option: describe an export.
pub const OPT_INFO: u32 = 6;
/// Option: describe an export and enter transmission.
pub const OPT_GO: u32 = 7;
/// Option: use structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Option: name the metadata contexts of an export.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Option: select metadata contexts.
pub const OPT_SET_META_CONTEXT: u32 = 10;
/// Option: use the headers of the extension of that name (not spoken here).
pub const OPT_EXTENDED_HEADERS: u32 = 11;

/// Option reply: success, and the last reply.
pub const REP_ACK: u32 = 1;
/// Option reply: one export.
pub const REP_SERVER: u32 = 2;
/// Option reply: one piece of information.
pub const REP_INFO: u32 = 3;
/// Option reply: one metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// Set in every option reply that is an error.
pub const REP_ERR: u32 = 1 << 31;
/// Option refused: not known.
pub const REP_ERR_UNSUP: u32 = REP_ERR + 1;
/// Option refused: the server's policy forbids it.
pub const REP_ERR_POLICY: u32 = REP_ERR + 2;
/// Option refused: malformed or out of order.
pub const REP_ERR_INVALID: u32 = REP_ERR + 3;
/// Option refused: no such export.
pub const REP_ERR_UNKNOWN: u32 = REP_ERR + 6;
/// Option refused: the server is stopping.
pub const REP_ERR_SHUTDOWN: u32 = REP_ERR + 7;
/// Option refused: its data is too long.
pub const REP_ERR_TOO_BIG: u32 = REP_ERR + 9;

/// Information: size and transmission flags.
pub const INFO_EXPORT: u16 = 0;
/// Information: canonical name.
pub const INFO_NAME: u16 = 1;
/// Information: text for a human.
pub const INFO_DESCRIPTION: u16 = 2;
/// Information: size constraints.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flag: always set.
pub const FLAG_HAS_FLAGS: u16 = 1 << 0;
/// Transmission flag: writes are refused.
pub const FLAG_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: [`CMD_FLUSH`] is understood.
pub const FLAG_SEND_FLUSH: u16 = 1 << 2;
/// Transmission flag: [`CMD_FLAG_FUA`] is understood.
pub const FLAG_SEND_FUA: u16 = 1 << 3;
/// Transmission flag: the medium rotates.
pub const FLAG_ROTATIONAL: u16 = 1 << 4;
/// Transmission flag: [`CMD_TRIM`] is understood.
pub const FLAG_SEND_TRIM: u16 = 1 << 5;
/// Transmission flag: [`CMD_WRITE_ZEROES`] is understood.
pub const FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: [`CMD_FLAG_DF`] is understood.
pub const FLAG_SEND_DF: u16 = 1 << 7;
/// Transmission flag: several connections see one cache.
pub const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag: [`CMD_CACHE`] is understood.
pub const FLAG_SEND_CACHE: u16 = 1 << 10;
/// Transmission flag: [`CMD_FLAG_FAST_ZERO`] is understood.
pub const FLAG_SEND_FAST_ZERO: u16 = 1 << 11;

/// Command: read.
pub const CMD_READ: u16 = 0;
/// Command: write; the only one whose request has a payload.
pub const CMD_WRITE: u16 = 1;
/// Command: disconnect; the only one without a reply.
pub const CMD_DISC: u16 = 2;
/// Command: make acknowledged writes durable.
pub const CMD_FLUSH: u16 = 3;
/// Command: discard.
pub const CMD_TRIM: u16 = 4;
/// Command: fetch ahead of use.
pub const CMD_CACHE: u16 = 5;
/// Command: zero a range.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// Command: report the extents of a range.
pub const CMD_BLOCK_STATUS: u16 = 7;

/// Command flag: durable before the reply.
pub const CMD_FLAG_FUA: u16 = 1 << 0;
/// Command flag of write-zeroes: keep the range allocated.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Command flag of read: at most one content chunk.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// Command flag of block status: one extent.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Command flag of write-zeroes: fail rather than be as slow as a write.
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;

/// Chunk flag: the last chunk of a reply.
pub const REPLY_FLAG_DONE: u16 = 1 << 0;
/// Chunk: nothing but the end of a reply.
pub const REPLY_TYPE_NONE: u16 = 0;
/// Chunk: offset and data.
pub const REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Chunk: offset and length of zeroes.
pub const REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Chunk: extents of one metadata context.
pub const REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// Chunk: error of the whole request.
pub const REPLY_TYPE_ERROR: u16 = (1 << 15) + 1;
/// Chunk: error at an offset.
pub const REPLY_TYPE_ERROR_OFFSET: u16 = (1 << 15) + 2;

/// Extent flag of `base:allocation`: not allocated.
pub const STATE_HOLE: u32 = 1 << 0;
/// Extent flag of `base:allocation`: reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;

/// Reads fields off the front of received bytes; `None` where the bytes end too early.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `length` bytes.
    pub(super) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    /// The next 16 bits.
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next 32 bits.
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next 64 bits.
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next string that is preceded by its length in 32 bits.
    pub(super) fn counted(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.bytes(usize::try_from(length).ok()?)
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_end_where_the_bytes_end() {
        let mut fields = Fields(&[0, 1, 0, 0, 0, 2, b'a', b'b', 9]);
        assert_eq!(fields.u16(), Some(1));
        assert_eq!(fields.counted(), Some(&b"ab"[..]));
        assert!(!fields.is_empty());
        assert_eq!(fields.u16(), None);
        assert_eq!(fields.bytes(1), Some(&[9][..]));
        assert!(fields.is_empty());
        assert_eq!(Fields(&[0xff; 4]).counted(), None);
    }

    #[test]
    fn magics_spell_what_they_should() {
        assert_eq!(&INIT_MAGIC.to_be_bytes(), b"NBDMAGIC");
        assert_eq!(&OPTION_MAGIC.to_be_bytes(), b"IHAVEOPT");
    }
}
