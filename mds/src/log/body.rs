//! The body of an entry's record: a tag, then what the entry says.

use std::collections::BTreeSet;

use super::entry::{Batch, Membership, Payload};

const BLANK: u8 = 0;
const COMMANDS: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Bytes with a good CRC that are no body all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A kind of entry that this version does not know.
    #[error("it has the unknown entry kind {0}")]
    UnknownKind(u8),
    /// The parts do not fill it exactly.
    #[error("its parts do not fill it exactly")]
    Length,
    /// An address that is not UTF-8.
    #[error("an address in it is not UTF-8")]
    Address,
}

/// The stored form of a payload.
pub(super) fn encode(payload: &Payload) -> Vec<u8> {
    match payload {
        Payload::Blank => vec![BLANK],
        Payload::Commands(batch) => {
            let mut bytes = Vec::with_capacity(1 + batch.as_bytes().len());
            bytes.push(COMMANDS);
            bytes.extend_from_slice(batch.as_bytes());
            bytes
        }
        Payload::Membership(membership) => {
            let mut bytes = vec![MEMBERSHIP];
            encode_membership(membership, &mut bytes);
            bytes
        }
    }
}

/// The payload of a body.
///
/// # Errors
/// [`BodyError`]; the CRC was good, so a wrong body is a bug or a newer version's.
pub(super) fn decode(bytes: &[u8]) -> Result<Payload, BodyError> {
    let (&tag, rest) = bytes.split_first().ok_or(BodyError::Length)?;
    match tag {
        BLANK if rest.is_empty() => Ok(Payload::Blank),
        BLANK => Err(BodyError::Length),
        COMMANDS => Batch::from_bytes(rest).map(Payload::Commands).map_err(|_| BodyError::Length),
        MEMBERSHIP => decode_membership(rest).map(Payload::Membership),
        tag => Err(BodyError::UnknownKind(tag)),
    }
}

fn small(count: usize) -> [u8; 2] {
    u16::try_from(count)
        .expect("a consensus group has a handful of members with short addresses")
        .to_le_bytes()
}

/// Appends the stored form of a membership, which is also part of a snapshot's header.
pub(super) fn encode_membership(membership: &Membership, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&small(membership.voters.len()));
    for voters in &membership.voters {
        bytes.extend_from_slice(&small(voters.len()));
        voters.iter().for_each(|node| bytes.extend_from_slice(&node.to_le_bytes()));
    }
    bytes.extend_from_slice(&small(membership.addresses.len()));
    for (node, address) in &membership.addresses {
        bytes.extend_from_slice(&node.to_le_bytes());
        bytes.extend_from_slice(&small(address.len()));
        bytes.extend_from_slice(address.as_bytes());
    }
}

/// Reads the stored form of a membership, which must fill `bytes`.
///
/// # Errors
/// [`BodyError`].
pub(super) fn decode_membership(bytes: &[u8]) -> Result<Membership, BodyError> {
    let mut rest = bytes;
    let mut membership = Membership::default();
    for _ in 0..take_u16(&mut rest)? {
        let count = take_u16(&mut rest)?;
        let voters: Result<BTreeSet<u64>, _> = (0..count).map(|_| take_u64(&mut rest)).collect();
        membership.voters.push(voters?);
    }
    for _ in 0..take_u16(&mut rest)? {
        let node = take_u64(&mut rest)?;
        let len = usize::from(take_u16(&mut rest)?);
        let (address, after) = rest.split_at_checked(len).ok_or(BodyError::Length)?;
        rest = after;
        let address = std::str::from_utf8(address).map_err(|_| BodyError::Address)?;
        membership.addresses.insert(node, address.to_owned());
    }
    if rest.is_empty() { Ok(membership) } else { Err(BodyError::Length) }
}

fn take_u16(bytes: &mut &[u8]) -> Result<u16, BodyError> {
    let (value, rest) = bytes.split_first_chunk::<2>().ok_or(BodyError::Length)?;
    *bytes = rest;
    Ok(u16::from_le_bytes(*value))
}

fn take_u64(bytes: &mut &[u8]) -> Result<u64, BodyError> {
    let (value, rest) = bytes.split_first_chunk::<8>().ok_or(BodyError::Length)?;
    *bytes = rest;
    Ok(u64::from_le_bytes(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Payload> {
        let mut joint = Membership::founder(1, "10.0.0.1:2510");
        joint.voters.push(BTreeSet::from([1, 2, 7]));
        joint.addresses.insert(2, "[fd00::2]:2510".to_owned());
        joint.addresses.insert(7, String::new());
        vec![
            Payload::Blank,
            Payload::Commands(Batch::of([&b"create"[..], b"remove"])),
            Payload::Membership(Membership::founder(u64::MAX, "host:1")),
            Payload::Membership(joint),
        ]
    }

    #[test]
    fn bodies_come_back() {
        for payload in samples() {
            assert_eq!(decode(&encode(&payload)), Ok(payload));
        }
    }

    #[test]
    fn bodies_that_are_cut_longer_or_unknown_are_refused() {
        for payload in samples() {
            let bytes = encode(&payload);
            for len in 0..bytes.len() {
                assert!(decode(&bytes[..len]).is_err(), "{payload:?} cut to {len}");
            }
            let mut longer = bytes;
            longer.push(0);
            assert_eq!(decode(&longer), Err(BodyError::Length), "{payload:?}");
        }
        assert_eq!(decode(&[9]), Err(BodyError::UnknownKind(9)));
        let mut garbled = encode(&Payload::Membership(Membership::founder(1, "abc")));
        *garbled.last_mut().unwrap() = 0xff;
        assert_eq!(decode(&garbled), Err(BodyError::Address));
    }
}
