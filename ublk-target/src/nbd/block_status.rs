//! The reply to block status: extents of one metadata context, merged, clipped and limited
//! ("Structured reply types", `NBD_REPLY_TYPE_BLOCK_STATUS`).

use super::MAX_EXTENTS;
use super::reply::ReplyHeader;
use super::session::MetaContext;
use super::wire;

/// Bytes of one extent on the wire: length and flags.
const DESCRIPTOR_LEN: usize = 8;

/// What `base:allocation` says of an extent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtentState {
    /// Not allocated; a write to it may find no space.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

impl ExtentState {
    /// Allocated, contents unknown: always a safe answer.
    pub const DATA: Self = Self { hole: false, zero: false };
    /// Not allocated, so zero.
    pub const HOLE: Self = Self { hole: true, zero: true };
    /// Allocated, but known to be zero.
    pub const ZERO: Self = Self { hole: false, zero: true };

    fn to_wire(self) -> u32 {
        let hole = if self.hole { wire::STATE_HOLE } else { 0 };
        let zero = if self.zero { wire::STATE_ZERO } else { 0 };
        hole | zero
    }
}

/// Whether further extents would change the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Push the next extent.
    More,
    /// The range is covered, or as many extents as allowed are there: stop looking them up.
    Full,
}

/// Collects the extents that answer one block status request.
///
/// Extents never reach beyond the request, though the protocol would allow it for the last one: the caller
/// then needs to know nothing outside the range.
#[derive(Clone, Debug)]
pub struct BlockStatus {
    length: u32,
    covered: u32,
    max_extents: usize,
    extents: Vec<(u32, ExtentState)>,
    closed: bool,
}

impl BlockStatus {
    /// For a request of `length` bytes. `req_one` allows one extent, else up to [`MAX_EXTENTS`].
    #[must_use]
    pub fn new(length: u32, req_one: bool) -> Self {
        let max_extents = if req_one { 1 } else { MAX_EXTENTS };
        Self { length, covered: 0, max_extents, extents: Vec::new(), closed: false }
    }

    /// Adds the extent that follows the last, `length` bytes of `state`. Neighbours of one state become one
    /// extent; what lies beyond the request is cut off; what comes after [`Room::Full`] is ignored.
    pub fn push(&mut self, length: u64, state: ExtentState) -> Room {
        let left = self.length - self.covered;
        let taken = u32::try_from(length).unwrap_or(u32::MAX).min(left);
        if taken > 0 && !self.closed {
            let count = self.extents.len();
            match self.extents.last_mut() {
                Some((last, same)) if *same == state => *last += taken,
                _ if count == self.max_extents => {
                    self.closed = true;
                    return Room::Full;
                }
                _ => self.extents.push((taken, state)),
            }
            self.covered += taken;
        }
        if self.closed || self.covered == self.length { Room::Full } else { Room::More }
    }

    /// The chunk for `context`; `done` if it is the last of the reply. If nothing was pushed, the whole
    /// request counts as data, since a chunk must not be empty and that answer is always safe.
    #[must_use]
    pub fn encode(&self, cookie: u64, context: MetaContext, done: bool) -> Vec<u8> {
        let unknown = [(self.length, ExtentState::DATA)];
        let extents = if self.extents.is_empty() { &unknown[..] } else { &self.extents[..] };
        let length = 4 + extents.len() * DESCRIPTOR_LEN;
        let mut out = Vec::with_capacity(wire::CHUNK_LEN + length);
        let header = ReplyHeader::chunk(cookie, wire::REPLY_TYPE_BLOCK_STATUS, done, length as u32);
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&context.id().to_be_bytes());
        for (length, state) in extents {
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&state.to_wire().to_be_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: ExtentState = ExtentState::DATA;
    const HOLE: ExtentState = ExtentState::HOLE;
    const ZERO: ExtentState = ExtentState::ZERO;

    fn status(length: u32, req_one: bool, extents: &[(u64, ExtentState)]) -> (BlockStatus, Room) {
        let mut status = BlockStatus::new(length, req_one);
        let mut room = Room::More;
        for &(length, state) in extents {
            room = status.push(length, state);
        }
        (status, room)
    }

    #[test]
    fn extents_are_merged_clipped_and_limited() {
        type Row<'a> = (u32, bool, &'a [(u64, ExtentState)], &'a [(u32, ExtentState)], Room);
        let rows: [Row<'_>; 10] = [
            (8, false, &[(8, DATA)], &[(8, DATA)], Room::Full),
            (8, false, &[(4, DATA)], &[(4, DATA)], Room::More),
            (8, false, &[(2, DATA), (2, DATA), (4, HOLE)], &[(4, DATA), (4, HOLE)], Room::Full),
            (8, false, &[(4, HOLE), (4, ZERO)], &[(4, HOLE), (4, ZERO)], Room::Full),
            (8, false, &[(4, HOLE), (100, HOLE)], &[(8, HOLE)], Room::Full),
            (8, false, &[(4, HOLE), (0, DATA), (1, HOLE)], &[(5, HOLE)], Room::More),
            (8, false, &[(u64::MAX, ZERO), (4, DATA)], &[(8, ZERO)], Room::Full),
            (8, true, &[(3, HOLE), (2, HOLE), (3, DATA)], &[(5, HOLE)], Room::Full),
            (8, true, &[(3, HOLE), (2, DATA), (3, HOLE)], &[(3, HOLE)], Room::Full),
            (8, true, &[(100, DATA)], &[(8, DATA)], Room::Full),
        ];
        for (length, req_one, pushed, expected, room) in rows {
            let (status, last) = status(length, req_one, pushed);
            assert_eq!((&status.extents[..], last), (expected, room), "{length} {req_one} {pushed:?}");
        }
    }

    #[test]
    fn the_count_is_limited() {
        let mut status = BlockStatus::new(u32::MAX, false);
        for at in 0..MAX_EXTENTS {
            assert_eq!(status.push(1, if at % 2 == 0 { DATA } else { HOLE }), Room::More);
        }
        assert_eq!(status.push(1, HOLE), Room::More); // merged into the last
        assert_eq!(status.push(1, DATA), Room::Full);
        assert_eq!(status.push(1, HOLE), Room::Full); // would merge, but is not its neighbour
        assert_eq!(status.covered as usize, MAX_EXTENTS + 1);
        let bytes = status.encode(0, MetaContext::BaseAllocation, true);
        assert_eq!(bytes.len(), wire::CHUNK_LEN + 4 + MAX_EXTENTS * DESCRIPTOR_LEN);
    }

    #[test]
    fn encoding() {
        let (status, _) = status(0x300, false, &[(0x100, DATA), (0x100, HOLE), (0x100, ZERO)]);
        let mut expected = Vec::new();
        expected.extend([0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 5]);
        expected.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        expected.extend([0, 0, 0, 28, 0, 0, 0, 1]);
        expected.extend([0, 0, 1, 0, 0, 0, 0, 0]);
        expected.extend([0, 0, 1, 0, 0, 0, 0, 3]);
        expected.extend([0, 0, 1, 0, 0, 0, 0, 2]);
        let context = MetaContext::BaseAllocation;
        assert_eq!(status.encode(0x0102_0304_0506_0708, context, true), expected);
        expected[5] = 0;
        assert_eq!(status.encode(0x0102_0304_0506_0708, context, false), expected);
    }

    #[test]
    fn nothing_known_is_reported_as_data() {
        let bytes = BlockStatus::new(0x200, true).encode(0, MetaContext::BaseAllocation, true);
        assert_eq!(bytes[24..], [0, 0, 2, 0, 0, 0, 0, 0]);
    }
}
