//! Bodies: what all of them have in common, and why one is refused.

use prost::Message;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::{MAX_BODY, MAX_FIELDS, MAX_PAYLOAD};
use crate::status::Status;

/// Why a body is refused. The frame around it was intact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Fewer bytes than the fixed part of the operation has.
    #[error("body of {found} bytes is shorter than its fixed part of {needed}")]
    TooShort {
        /// Bytes the fixed part has.
        needed: usize,
        /// Bytes in the body.
        found: usize,
    },
    /// The list behind the fixed part is not as long as its count says.
    #[error("body has {found} bytes, its counts say {expected}")]
    Length {
        /// Bytes by the counts.
        expected: usize,
        /// Bytes in the body.
        found: usize,
    },
    /// Longer than any body may be.
    #[error("body of {len} bytes exceeds the limit of {MAX_BODY}")]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// The range is empty or goes beyond what an offset can express.
    #[error("range of {len} at {offset} is empty or ends beyond the largest chunk")]
    Range {
        /// Start, in bytes or blocks as the operation defines.
        offset: u32,
        /// Length, in the same unit.
        len: u32,
    },
    /// The range does not begin and end at block boundaries, and must.
    #[error("range of {len} bytes at {offset} is not aligned to blocks of 4096 bytes")]
    Unaligned {
        /// Start in bytes.
        offset: u32,
        /// Length in bytes.
        len: u32,
    },
    /// More data than one frame carries.
    #[error("{len} bytes in one request exceed the limit of {MAX_PAYLOAD}; split the request")]
    DataTooLong {
        /// Length in bytes.
        len: u32,
    },
    /// More list entries than one frame carries.
    #[error("{count} entries in one message exceed the limit of {max}; split the request")]
    TooMany {
        /// Entries asked for or announced.
        count: u64,
        /// Most entries allowed.
        max: u64,
    },
    /// The count of checksums does not fit the range.
    #[error("range needs {expected} checksums, the body announces {found}")]
    Parts {
        /// Checksums the range needs.
        expected: u32,
        /// Checksums announced.
        found: u32,
    },
    /// The payload is not as long as the range.
    #[error("range needs a payload of {expected} bytes, the frame has {found}")]
    Payload {
        /// Bytes the range needs.
        expected: u32,
        /// Bytes the frame has.
        found: u32,
    },
    /// A field holds a value this code does not know.
    #[error("{field} has the unknown value {found}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// The value received.
        found: u8,
    },
    /// The sender demands a feature this code does not know.
    #[error("request demands unknown features (flags {unknown:#010x})")]
    Flags {
        /// The flags that must be understood and are not.
        unknown: u32,
    },
    /// Fields contradict each other.
    #[error("fields contradict each other: {rule} does not hold")]
    Contradiction {
        /// The rule that must hold.
        rule: &'static str,
    },
    /// An identifier that must have 16 bytes has not.
    #[error("identifier {field} has {found} bytes instead of 16")]
    Id {
        /// Name of the field.
        field: &'static str,
        /// Bytes it has.
        found: usize,
    },
    /// A message that must be there is missing.
    #[error("field {field} is missing")]
    Missing {
        /// Name of the field.
        field: &'static str,
    },
    /// Not a message of the expected kind.
    #[error("malformed control message: {0}")]
    Protobuf(#[from] prost::DecodeError),
}

impl BodyError {
    /// The status to answer with.
    pub const fn status(&self) -> Status {
        match self {
            Self::TooLong { .. } | Self::DataTooLong { .. } | Self::TooMany { .. } => Status::TooLarge,
            Self::Flags { .. } => Status::Unsupported,
            _ => Status::Invalid,
        }
    }
}

/// Bytes of a control message.
///
/// # Errors
/// [`BodyError::TooLong`] or [`BodyError::TooMany`], when the peer would refuse it.
pub fn encode_body<M: Message>(message: &M) -> Result<Vec<u8>, BodyError> {
    let body = message.encode_to_vec();
    check_size(&body)?;
    Ok(body)
}

/// Reads a control message. Fields this code does not know are skipped, missing ones have their
/// default, so that both sides of a rolling upgrade understand each other.
///
/// # Errors
/// [`BodyError::Protobuf`] when it is malformed; [`BodyError::TooLong`] or [`BodyError::TooMany`]
/// when it is beyond a limit.
pub fn decode_body<M: Message + Default>(body: &[u8]) -> Result<M, BodyError> {
    check_size(body)?;
    Ok(M::decode(body)?)
}

/// An identifier of 16 bytes (UUID, boot id, nonce) out of a control message.
///
/// # Errors
/// [`BodyError::Id`] when it has another length.
pub fn id16(field: &'static str, bytes: &[u8]) -> Result<[u8; 16], BodyError> {
    bytes.try_into().map_err(|_| BodyError::Id { field, found: bytes.len() })
}

fn check_size(body: &[u8]) -> Result<(), BodyError> {
    if body.len() > MAX_BODY as usize {
        return Err(BodyError::TooLong { len: body.len() });
    }
    let count = top_level_fields(body);
    if count > MAX_FIELDS {
        return Err(BodyError::TooMany { count: count as u64, max: MAX_FIELDS as u64 });
    }
    Ok(())
}

/// Counts the fields on the top level of a protobuf message. An empty sub-message takes two bytes on
/// the wire and hundreds in memory; this bounds the ratio before anything is allocated. Stops at
/// what is malformed: the real decoder says what is wrong there.
fn top_level_fields(body: &[u8]) -> usize {
    let mut rest = body;
    let mut count = 0;
    while !rest.is_empty() {
        let Some(key) = varint(&mut rest) else { break };
        let skip = match key & 7 {
            0 => varint(&mut rest).map(|_| 0),
            1 => Some(8),
            2 => varint(&mut rest),
            3 | 4 => Some(0),
            5 => Some(4),
            _ => None,
        };
        match skip.and_then(|skip| rest.get(usize::try_from(skip).ok()?..)) {
            Some(next) => rest = next,
            None => break,
        }
        count += 1;
    }
    count
}

/// Takes a protobuf base-128 varint off the front of `bytes`.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            *bytes = &bytes[index + 1..];
            return Some(value);
        }
    }
    None
}

/// Splits a body into its fixed part and what follows.
pub(crate) fn fixed<T>(body: &[u8]) -> Result<(&T, &[u8]), BodyError>
where
    T: FromBytes + Immutable + KnownLayout + Unaligned,
{
    T::ref_from_prefix(body).map_err(|_| BodyError::TooShort { needed: size_of::<T>(), found: body.len() })
}

/// Reads a body that is nothing but its fixed part.
pub(crate) fn exact<T>(body: &[u8]) -> Result<&T, BodyError>
where
    T: FromBytes + Immutable + KnownLayout + Unaligned,
{
    let (fixed, rest) = fixed::<T>(body)?;
    if !rest.is_empty() {
        return Err(BodyError::Length { expected: size_of::<T>(), found: body.len() });
    }
    Ok(fixed)
}

/// Reads the list of `count` entries which must be all of `rest`.
pub(crate) fn list<T>(rest: &[u8], count: usize) -> Result<&[T], BodyError>
where
    T: FromBytes + Immutable + KnownLayout + Unaligned,
{
    let expected = count.saturating_mul(size_of::<T>());
    let wrong = BodyError::Length { expected, found: rest.len() };
    if rest.len() != expected {
        return Err(wrong);
    }
    <[T]>::ref_from_bytes(rest).map_err(|_| wrong)
}

/// Appends the bytes of a fixed part or list entry.
pub(crate) fn put<T: IntoBytes + Immutable>(value: &T, out: &mut Vec<u8>) {
    out.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::ListReply;
    use crate::session::RenewSession;
    use crate::status::ErrorBody;

    #[test]
    fn unknown_fields_are_skipped_and_missing_ones_default() {
        let old = ErrorBody { message: "m".into(), retry_after_ms: 5, ..Default::default() };
        let mut body = encode_body(&old).unwrap();
        // Field 99, length-delimited, two bytes: something a newer sender added.
        body.extend_from_slice(&[0x9a, 0x06, 2, 1, 2]);
        assert_eq!(decode_body::<ErrorBody>(&body), Ok(old));
        assert_eq!(decode_body::<ErrorBody>(&[]), Ok(ErrorBody::default()));
        assert!(decode_body::<RenewSession>(&[]).is_ok(), "a missing sub-message has its default");
    }

    #[test]
    fn garbage_and_excess_are_told_apart() {
        let garbage = decode_body::<ErrorBody>(&[0x0a, 0x05, b'x']).expect_err("cut string");
        assert!(matches!(garbage, BodyError::Protobuf(_)));
        assert_eq!(garbage.status(), Status::Invalid);
        let long = decode_body::<ErrorBody>(&vec![0; MAX_BODY as usize + 1]).expect_err("long");
        assert_eq!(long.status(), Status::TooLarge);
    }

    #[test]
    fn many_empty_messages_are_refused_before_they_claim_memory() {
        // Each two bytes are an empty directory entry.
        let bomb: Vec<u8> = [0x0a, 0].into_iter().cycle().take(2 * (MAX_FIELDS + 1)).collect();
        assert!(bomb.len() < MAX_BODY as usize);
        let error = decode_body::<ListReply>(&bomb).expect_err("bomb");
        assert_eq!(error, BodyError::TooMany { count: MAX_FIELDS as u64 + 1, max: MAX_FIELDS as u64 });
        let most = decode_body::<ListReply>(&bomb[2..]).expect("as many as allowed");
        assert_eq!(most.entries.len(), MAX_FIELDS);
    }

    #[test]
    fn fields_of_each_wire_type_are_counted() {
        let body = [
            0x08, 0x80, 0x01, // varint
            0x11, 1, 2, 3, 4, 5, 6, 7, 8, // 64 bits
            0x1a, 2, 0xff, 0xff, // bytes
            0x25, 1, 2, 3, 4, // 32 bits
        ];
        assert_eq!(top_level_fields(&body), 4);
        assert_eq!(top_level_fields(&body[..body.len() - 1]), 3, "stops at the cut field");
        assert_eq!(top_level_fields(&[0xff; 20]), 0);
    }

    #[test]
    fn identifiers_have_sixteen_bytes() {
        assert_eq!(id16("boot_id", &[7; 16]), Ok([7; 16]));
        let error = id16("boot_id", &[7; 15]).expect_err("short");
        assert_eq!(error.to_string(), "identifier boot_id has 15 bytes instead of 16");
    }
}
