//! Requests of the transmission phase: from 28 bytes to a checked [`Request`]
//! ("Request message", "Request types", "Command flags", "Error values").
//!
//! A [`Request`] lies inside the export, has only flags that were offered, and is no larger than the limits.

use super::export::ExportFlags;
use super::session::Session;
use super::wire::{self, Fields};
use super::{MAX_DRAINED_PAYLOAD, MAX_PAYLOAD};

/// The header does not begin with the request magic: what follows cannot be told apart, so the connection
/// must be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client sent {0:#x} where a request begins; drop the connection")]
pub struct BadMagic(pub u32);

/// Errors as they stand on the wire ("Error values"). The numbers are the protocol's, not this host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Errno {
    /// Writing to a read-only export.
    Perm = 1,
    /// The volume failed.
    Io = 5,
    /// No memory; the protocol asks not to use it if at all possible.
    NoMem = 12,
    /// The request breaks a rule.
    Inval = 22,
    /// No space, or writing beyond the end.
    NoSpc = 28,
    /// Too long a read.
    Overflow = 75,
    /// A fast zero that would not be fast; nothing else.
    NotSup = 95,
    /// The server is stopping.
    Shutdown = 108,
}

/// One request as it stands on the wire, not judged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Command flags.
    pub flags: u16,
    /// Command.
    pub command: u16,
    /// Chosen by the client, returned in the reply.
    pub cookie: u64,
    /// First byte in the export.
    pub offset: u64,
    /// Bytes of the range; for a write, bytes of payload that follow.
    pub length: u32,
}

/// A request that the session allows. Ranges are in bytes, not empty, and inside the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read at most [`MAX_PAYLOAD`] bytes.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Answer with at most one content chunk.
        df: bool,
    },
    /// Write at most [`MAX_PAYLOAD`] bytes, which follow the header.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// Finish what is in flight and close the connection. There is no reply.
    Disconnect,
    /// Make durable every write that has been acknowledged.
    Flush,
    /// Discard. Longer than a payload may be.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// A hint that the range will be used. Longer than a payload may be.
    Cache {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Make the range read as zeroes. Longer than a payload may be.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Durable before the reply.
        fua: bool,
        /// Keep the range allocated.
        no_hole: bool,
        /// Answer [`Errno::NotSup`] at once, and change nothing, if it takes as long as a write.
        fast_zero: bool,
    },
    /// Report extents, one [`BlockStatus`](super::BlockStatus) per context of the session.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Report one extent only.
        req_one: bool,
    },
}

/// Why a request is answered with an error. The text goes to the client where the reply has room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such command.
    #[error("command {0} is not known")]
    UnknownCommand(u16),
    /// Flags that are unknown, do not belong to the command, or were not offered.
    #[error("flags {0:#x} are not valid here")]
    Flags(u16),
    /// A command that the export did not offer.
    #[error("the export does not offer this command")]
    NotOffered,
    /// A write of any kind to a read-only export.
    #[error("the export is read-only")]
    ReadOnly,
    /// A range of no bytes.
    #[error("the length must not be zero")]
    Empty,
    /// A flush with an offset or a length.
    #[error("a flush has neither offset nor length")]
    FlushRange,
    /// A read larger than [`MAX_PAYLOAD`].
    #[error("a read of {length} bytes is too long (at most {MAX_PAYLOAD})")]
    ReadTooLong {
        /// Bytes asked for.
        length: u32,
        /// The client may set DF, so it expects `EOVERFLOW`.
        df_offered: bool,
    },
    /// A write larger than [`MAX_PAYLOAD`].
    #[error("a write of {length} bytes is too long (at most {MAX_PAYLOAD})")]
    WriteTooLong {
        /// Bytes announced.
        length: u32,
    },
    /// A range that ends beyond the export.
    #[error("offset {offset} and length {length} reach beyond the end of the export")]
    BeyondEnd {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// A write or write-zeroes, which expects `ENOSPC`.
        space: bool,
    },
    /// Block status without a selected metadata context.
    #[error("no metadata context was negotiated")]
    NoMetaContext,
    /// The server is stopping.
    #[error("the server is stopping")]
    ShuttingDown,
}

impl Refusal {
    /// The error that the protocol asks for.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::ReadOnly => Errno::Perm,
            Self::ReadTooLong { df_offered: true, .. } => Errno::Overflow,
            Self::BeyondEnd { space: true, .. } => Errno::NoSpc,
            Self::ShuttingDown => Errno::Shutdown,
            Self::UnknownCommand(_)
            | Self::Flags(_)
            | Self::NotOffered
            | Self::Empty
            | Self::FlushRange
            | Self::ReadTooLong { df_offered: false, .. }
            | Self::WriteTooLong { .. }
            | Self::BeyondEnd { space: false, .. }
            | Self::NoMetaContext => Errno::Inval,
        }
    }
}

/// When a refused request is answered.
///
/// Never before its payload has been read to the end: clients match replies with requests they have sent
/// completely, and libnbd gives up the connection at a reply to a write that it is still sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// At once; the next bytes are a request header.
    Now,
    /// After reading so many bytes of payload and throwing them away; then comes a request header.
    AfterDrain(u32),
    /// Not at all: the payload is too large to be read only to be thrown away. Drop the connection.
    Never,
}

/// A request that is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why; [`Refusal::errno`] and the text make the reply.
    pub reason: Refusal,
    /// When.
    pub answer: Answer,
}

impl RequestHeader {
    /// Reads the fields of a header.
    ///
    /// # Errors
    /// If the bytes are no request. The connection must be dropped.
    pub fn parse(bytes: &[u8; wire::REQUEST_LEN]) -> Result<Self, BadMagic> {
        let mut fields = Fields(bytes);
        let magic = fields.u32().unwrap_or(0);
        if magic != wire::REQUEST_MAGIC {
            return Err(BadMagic(magic));
        }
        // The array is as long as its fields, so no default is ever taken.
        Ok(Self {
            flags: fields.u16().unwrap_or(0),
            command: fields.u16().unwrap_or(0),
            cookie: fields.u64().unwrap_or(0),
            offset: fields.u64().unwrap_or(0),
            length: fields.u32().unwrap_or(0),
        })
    }

    /// Refuses this request for `reason`, whatever a session would say of it.
    #[must_use]
    pub fn refuse(&self, reason: Refusal) -> Refused {
        let answer = match (self.command, self.length) {
            (wire::CMD_WRITE, 1..=MAX_DRAINED_PAYLOAD) => Answer::AfterDrain(self.length),
            (wire::CMD_WRITE, 1..) => Answer::Never,
            _ => Answer::Now,
        };
        Refused { reason, answer }
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

impl Session {
    /// Judges a request by what was negotiated.
    ///
    /// # Errors
    /// If the request breaks a rule; the refusal says what to answer and when.
    pub fn check(&self, header: &RequestHeader) -> Result<Request, Refused> {
        self.judge(header).map_err(|reason| header.refuse(reason))
    }

    fn judge(&self, header: &RequestHeader) -> Result<Request, Refusal> {
        let offered = self.export.flags().offered(self.structured);
        let &RequestHeader { command, offset, length, .. } = header;
        let fua = header.has(wire::CMD_FLAG_FUA);
        match command {
            wire::CMD_DISC => return Ok(Request::Disconnect), // must be honoured whatever else it says
            wire::CMD_WRITE | wire::CMD_TRIM | wire::CMD_WRITE_ZEROES if offered.read_only => {
                return Err(Refusal::ReadOnly);
            }
            _ => {}
        }
        check_flags(header, offered)?;
        match command {
            wire::CMD_READ => {
                if length > MAX_PAYLOAD {
                    return Err(Refusal::ReadTooLong { length, df_offered: offered.df });
                }
                self.check_range(header)?;
                Ok(Request::Read { offset, length, df: header.has(wire::CMD_FLAG_DF) })
            }
            wire::CMD_WRITE => {
                if length > MAX_PAYLOAD {
                    return Err(Refusal::WriteTooLong { length });
                }
                self.check_range(header)?;
                Ok(Request::Write { offset, length, fua })
            }
            wire::CMD_FLUSH if !offered.flush => Err(Refusal::NotOffered),
            wire::CMD_FLUSH if offset != 0 || length != 0 => Err(Refusal::FlushRange),
            wire::CMD_FLUSH => Ok(Request::Flush),
            wire::CMD_TRIM if !offered.trim => Err(Refusal::NotOffered),
            wire::CMD_TRIM => {
                self.check_range(header)?;
                Ok(Request::Trim { offset, length, fua })
            }
            wire::CMD_CACHE if !offered.cache => Err(Refusal::NotOffered),
            wire::CMD_CACHE => {
                self.check_range(header)?;
                Ok(Request::Cache { offset, length })
            }
            wire::CMD_WRITE_ZEROES if !offered.write_zeroes => Err(Refusal::NotOffered),
            wire::CMD_WRITE_ZEROES => {
                self.check_range(header)?;
                let no_hole = header.has(wire::CMD_FLAG_NO_HOLE);
                let fast_zero = header.has(wire::CMD_FLAG_FAST_ZERO);
                Ok(Request::WriteZeroes { offset, length, fua, no_hole, fast_zero })
            }
            wire::CMD_BLOCK_STATUS if self.meta_contexts.is_empty() => Err(Refusal::NoMetaContext),
            wire::CMD_BLOCK_STATUS => {
                self.check_range(header)?;
                Ok(Request::BlockStatus { offset, length, req_one: header.has(wire::CMD_FLAG_REQ_ONE) })
            }
            other => Err(Refusal::UnknownCommand(other)),
        }
    }

    fn check_range(&self, header: &RequestHeader) -> Result<(), Refusal> {
        let &RequestHeader { command, offset, length, .. } = header;
        if length == 0 {
            return Err(Refusal::Empty);
        }
        match offset.checked_add(u64::from(length)) {
            Some(end) if end <= self.export.size() => Ok(()),
            _ => {
                let space = matches!(command, wire::CMD_WRITE | wire::CMD_WRITE_ZEROES);
                Err(Refusal::BeyondEnd { offset, length, space })
            }
        }
    }
}

/// Refuses flags that the command does not know or the export did not offer. FUA, once offered, is valid on
/// every command, even on those that write nothing.
fn check_flags(header: &RequestHeader, offered: ExportFlags) -> Result<(), Refusal> {
    let own = match header.command {
        wire::CMD_READ if offered.df => wire::CMD_FLAG_DF,
        wire::CMD_WRITE_ZEROES if offered.fast_zero => wire::CMD_FLAG_NO_HOLE | wire::CMD_FLAG_FAST_ZERO,
        wire::CMD_WRITE_ZEROES => wire::CMD_FLAG_NO_HOLE,
        wire::CMD_BLOCK_STATUS => wire::CMD_FLAG_REQ_ONE,
        _ => 0,
    };
    let fua = if offered.fua { wire::CMD_FLAG_FUA } else { 0 };
    match header.flags & !(own | fua) {
        0 => Ok(()),
        wrong => Err(Refusal::Flags(wrong)),
    }
}

#[cfg(test)]
mod tests;
