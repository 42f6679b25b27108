//! Fuzz entry points: whatever bytes come in, nothing panics and the promises below hold.
//!
//! The crate's tests drive them with inputs grown from the fixtures; a coverage-guided fuzzer may do the same.

use super::export::{Export, ExportFlags};
use super::negotiation::{Negotiation, NegotiationError, Next};
use super::session::{MetaContext, Session};
use super::transmission::{Answer, Refused, Request, RequestHeader};
use super::wire;
use super::{MAX_DRAINED_PAYLOAD, MAX_OPTION, MAX_PAYLOAD};

/// How a fuzzed negotiation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NegotiationEnd {
    /// The bytes ran out.
    Starved,
    /// A session was agreed on.
    Ready(Session),
    /// The client ended it.
    Closed,
    /// The connection would have been dropped.
    Dropped(NegotiationError),
}

/// Exports that the fuzzed servers have: `vol`, the default, can do everything, `ro` is read-only.
///
/// # Panics
/// Never: the names are constants that fit.
#[must_use]
pub fn exports() -> [Export; 2] {
    let all = ExportFlags {
        read_only: false,
        flush: true,
        fua: true,
        trim: true,
        write_zeroes: true,
        fast_zero: true,
        multi_conn: true,
        rotational: false,
        cache: true,
        df: true,
    };
    let read_only = ExportFlags { read_only: true, rotational: true, ..ExportFlags::default() };
    let rows = [("vol", "a volume", 64 << 20, all), ("ro", "", (8 << 20) + 512, read_only)];
    rows.map(|(name, description, size, flags)| match Export::new(name, description, size, flags) {
        Ok(export) => export,
        Err(_) => unreachable!("constant strings that fit"),
    })
}

/// Plays `data` as what a client sends, and checks that each step asks for a bounded number of bytes and
/// answers with a bounded, well-formed sequence of option replies. Returns the server's bytes and the end.
///
/// # Panics
/// If a promise is broken.
#[must_use]
pub fn negotiation(data: &[u8]) -> (Vec<u8>, NegotiationEnd) {
    let exports = exports();
    let mut out = Vec::new();
    let mut server = Negotiation::new(&exports[..], &mut out);
    let mut rest = data;
    loop {
        let needed = server.needed();
        assert!((1..=MAX_OPTION).contains(&needed));
        let Some((input, tail)) = rest.split_at_checked(needed) else {
            return (out, NegotiationEnd::Starved);
        };
        rest = tail;
        let before = out.len();
        let result = server.step(input, &mut out);
        let ready_by_name = matches!(result, Ok(Next::Ready(_))) && !is_option_reply(&out[before..]);
        if !ready_by_name {
            check_option_replies(&out[before..]);
        }
        let end = match result {
            Ok(Next::More) => continue,
            Ok(Next::Ready(session)) => NegotiationEnd::Ready(session),
            Ok(Next::Closed) => NegotiationEnd::Closed,
            Err(error) => NegotiationEnd::Dropped(error),
        };
        assert_eq!(server.needed(), 0);
        return (out, end);
    }
}

fn is_option_reply(bytes: &[u8]) -> bool {
    bytes.starts_with(&wire::OPTION_REPLY_MAGIC.to_be_bytes())
}

/// One step answers one option: intermediate replies, then exactly one final one, and nothing behind it.
fn check_option_replies(bytes: &[u8]) {
    let mut fields = wire::Fields(bytes);
    let mut last = None;
    while !fields.is_empty() {
        assert_eq!(fields.u64(), Some(wire::OPTION_REPLY_MAGIC));
        let (_option, kind) = (fields.u32(), fields.u32());
        let data = fields.counted();
        assert!(data.is_some_and(|data| data.len() <= MAX_OPTION));
        let is_final = kind.is_some_and(|kind| kind == wire::REP_ACK || kind & wire::REP_ERR != 0);
        assert_ne!(last, Some(true), "a reply after the final one");
        last = Some(is_final);
    }
    assert_ne!(last, Some(false), "no final reply");
}

/// Plays the first 28 bytes of `data` as a request header against sessions of each kind, and checks that an
/// accepted request lies inside the export and the limits, and that a refused write's payload is accounted
/// for. Returns how many sessions accepted it, or `None` if it is no request.
///
/// # Panics
/// If a promise is broken.
#[must_use]
pub fn request_header(data: &[u8]) -> Option<usize> {
    let header = RequestHeader::parse(data.first_chunk()?).ok()?;
    let mut accepted = 0;
    for export in exports() {
        for structured in [false, true] {
            let meta_contexts = if structured { MetaContext::ALL.to_vec() } else { Vec::new() };
            let session = Session { export: export.clone(), structured, meta_contexts, no_zeroes: true };
            match session.check(&header) {
                Ok(request) => {
                    check_accepted(&session, &header, request);
                    accepted += 1;
                }
                Err(refused) => check_refused(&header, refused),
            }
        }
    }
    Some(accepted)
}

fn check_accepted(session: &Session, header: &RequestHeader, request: Request) {
    let read_only = session.export.flags().read_only;
    let (offset, length) = match request {
        Request::Disconnect | Request::Flush => return,
        Request::Read { offset, length, df } => {
            assert!(length <= MAX_PAYLOAD && (session.structured || !df));
            (offset, length)
        }
        Request::Write { offset, length, .. } => {
            assert!(length <= MAX_PAYLOAD && !read_only);
            (offset, length)
        }
        Request::Trim { offset, length, .. } | Request::WriteZeroes { offset, length, .. } => {
            assert!(!read_only);
            (offset, length)
        }
        Request::Cache { offset, length } => (offset, length),
        Request::BlockStatus { offset, length, .. } => {
            assert!(session.structured);
            (offset, length)
        }
    };
    assert_eq!((offset, length), (header.offset, header.length));
    assert!(length > 0 && session.export.size() - offset >= u64::from(length));
}

fn check_refused(header: &RequestHeader, refused: Refused) {
    let payload = if header.command == wire::CMD_WRITE { header.length } else { 0 };
    match refused.answer {
        Answer::Now => assert_eq!(payload, 0),
        Answer::AfterDrain(length) => assert!(length == payload && length <= MAX_DRAINED_PAYLOAD),
        Answer::Never => assert!(payload > MAX_DRAINED_PAYLOAD),
    }
    assert!(!refused.reason.to_string().is_empty());
}

/// A small generator of numbers that look random and are the same in every run (xorshift64*).
#[cfg(test)]
pub(super) struct XorShift(u64);

#[cfg(test)]
impl XorShift {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    /// A number below `bound`, which is small and not zero.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests;
