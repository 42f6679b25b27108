//! TLS 1.3 on `rt`.
//!
//! `rustls` does the handshake and derives every key. The records that follow are sealed and opened here, because
//! `rustls` 0.23 copies each one into memory of its own on both ways: [`record`] works in place, in the
//! buffers that are sent and received.

pub(crate) mod handshake;
pub(crate) mod record;
