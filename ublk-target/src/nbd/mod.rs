//! NBD: the protocol without its I/O (bytes in, bytes and decisions out), and the server on top of it.
//!
//! [`serve`] offers a [`Device`](crate::device::Device) to any number of connections. Below it a connection goes
//! through two machines, both free of sockets, clocks and `async`:
//!
//! 1. [`Negotiation`] speaks the fixed newstyle handshake. The socket reads exactly
//!    [`needed`](Negotiation::needed) bytes, passes them to [`step`](Negotiation::step) and sends whatever
//!    that appended to the output, until a [`Session`] comes out.
//! 2. The transmission phase has no state of its own: [`RequestHeader::parse`] reads a header,
//!    [`Session::check`] turns it into a [`Request`] or a [`Refused`], and [`ReplyForm`] encodes the answer.
//!
//! What of the protocol is spoken, the error mapping and the limits are described in `docs/formats/nbd.md`.
//! Section names in these modules are those of the protocol document (`doc/proto.md` of the NBD project).

mod block_status;
mod budget;
mod connection;
mod execute;
mod export;
pub mod fuzz;
mod gather;
mod incoming;
mod negotiation;
mod options;
mod outbox;
mod patience;
mod reply;
mod server;
mod session;
mod transmission;
pub mod wire;
mod workers;

#[cfg(test)]
mod fixtures;

pub use block_status::{BlockStatus, ExtentState, Room};
pub use export::{Export, ExportError, ExportFlags, Exports};
pub use negotiation::{Negotiation, NegotiationError, Next};
pub use reply::{ReadPart, ReadParts, ReadReply, ReplyForm, ReplyHeader};
pub use server::{ServeOptions, Served, serve};
pub use session::{MetaContext, Session};
pub use transmission::{Answer, BadMagic, Errno, Refusal, Refused, Request, RequestHeader};

/// Smallest addressable length and alignment in bytes; the protocol's default ("Size constraints").
pub const MIN_BLOCK: u32 = 1;

/// Request size and alignment in bytes from which no read-modify-write happens; the protocol's default.
pub const PREFERRED_BLOCK: u32 = 4096;

/// Largest payload of one read or write in bytes; the protocol's default.
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// Largest refused write in bytes whose payload is read and thrown away. A larger one costs the connection.
pub const MAX_DRAINED_PAYLOAD: u32 = 64 << 20;

/// Longest string in bytes: export names, descriptions, queries, error messages ("Conventions").
pub const MAX_STRING: usize = 4096;

/// Longest option data in bytes that is looked at; longer data is skipped and the option refused.
/// Also the most that [`Negotiation::needed`] ever asks for.
pub const MAX_OPTION: usize = 64 << 10;

/// Longest option data in bytes that is skipped. Longer data costs the connection.
pub const MAX_SKIPPED_OPTION: u32 = MAX_PAYLOAD;

/// Most extents in one block status chunk (128 KiB of descriptors; the protocol allows 2^20).
pub const MAX_EXTENTS: usize = 16 << 10;

/// Shortest run of zeroes in bytes that a structured read sends as a hole. Below it the extra chunk and the
/// extra segments of the send cost more than the zeroes.
pub const MIN_HOLE: u32 = 4096;

// A client that asks for no constraints may assume these.
const _: () = assert!(MIN_BLOCK == 1 && PREFERRED_BLOCK == 4096 && MAX_PAYLOAD == 1 << 25);
// A payload that no client may take for hostile is never answered with a disconnect.
const _: () = assert!(MAX_DRAINED_PAYLOAD >= MAX_PAYLOAD && MAX_SKIPPED_OPTION as usize >= MAX_OPTION);
// A name and a full list of information requests fit into one option.
const _: () = assert!(MAX_OPTION >= 4 + MAX_STRING + 2 + 2 * 0x1000);
const _: () = assert!(MAX_EXTENTS <= 1 << 20);
