//! The framed protocol between clients, chunk servers and metadata servers.
//!
//! A frame is a 64-byte [`Header`], a body and a payload. Data operations ([`data`]) have fixed
//! little-endian bodies; control operations are `prost` messages, grouped by who serves them:
//! [`hello`], [`session`], [`namespace`], [`inode`], [`lease`], [`cs`], [`cluster`], [`auth`]. [`Op`] is the one table of
//! operation codes, [`Status`] the one table of answers. `docs/formats/wire.md` describes the bytes;
//! the files under `fixtures/` freeze them.
//!
//! **Invariant:** this crate does no I/O, reads no clock and knows nothing of the disk format.
//! **Invariant:** nothing received is trusted before a `decode` has checked it; no input makes a
//! decoder panic or reserve more memory than a small multiple of the frame's length.

pub mod auth;
pub mod body;
pub mod call;
pub mod cluster;
pub mod copy;
pub mod crc;
pub mod cs;
pub mod data;
#[doc(hidden)]
pub mod fuzz;
pub mod header;
pub mod hello;
pub mod inode;
pub mod lease;
pub mod limits;
pub mod namespace;
pub mod op;
pub mod session;
pub mod status;

pub use body::{BodyError, decode_body, encode_body};
pub use call::{Call, Notice};
pub use header::{FrameError, Header, Kind};
pub use limits::{BLOCK, HEADER_LEN, LARGE_PAYLOAD, MAX_BODY, MAX_PAYLOAD};
pub use op::{Group, Op};
pub use status::{Action, Blame, ErrorBody, Status};
