//! What real clients sent to a server with [`fuzz::exports`](super::fuzz::exports), and what it answered.
//!
//! Recorded with qemu 10.0 (`qemu-img`, `qemu-io`, `qemu-nbd`), libnbd 1.14 (`nbdinfo`, `nbdcopy`, `nbdfuse`
//! and its Python binding, with strict mode off), fio 3.33 and nbd-client 3.24. Never edited; a change of
//! the protocol's meaning gets a new directory.

/// One handshake: all bytes the client sent, all bytes the server sent.
pub(super) struct Transcript {
    pub(super) name: &'static str,
    pub(super) client: &'static [u8],
    pub(super) server: &'static [u8],
}

macro_rules! transcripts {
    ($($name:literal),* $(,)?) => {
        [$(Transcript {
            name: $name,
            client: include_bytes!(concat!("../../fixtures/v1/", $name, ".client.bin")),
            server: include_bytes!(concat!("../../fixtures/v1/", $name, ".server.bin")),
        }),*]
    };
}

/// All handshakes.
pub(super) const TRANSCRIPTS: [Transcript; 21] = transcripts![
    "fio",
    "libnbd-abort",
    "libnbd-export-name",
    "libnbd-export-name-missing",
    "libnbd-export-name-no-zeroes",
    "libnbd-missing",
    "libnbd-options",
    "libnbd-simple",
    "libnbd-tls-allowed",
    "libnbd-tls-required",
    "nbd-client",
    "nbd-client-list",
    "nbdcopy",
    "nbdfuse",
    "nbdinfo",
    "nbdinfo-list",
    "nbdinfo-map",
    "qemu-img-info",
    "qemu-io",
    "qemu-io-read-only",
    "qemu-nbd-list",
];

/// Request headers without their payloads, one after the other: each command with valid flags, then
/// requests that break a rule.
pub(super) const REQUESTS_LIBNBD: &[u8] = include_bytes!("../../fixtures/v1/libnbd-options.requests.bin");

/// Request headers of a `qemu-io` session that used each of its commands.
pub(super) const REQUESTS_QEMU_IO: &[u8] = include_bytes!("../../fixtures/v1/qemu-io.requests.bin");

/// Request headers of an `nbdcopy` from an empty export.
pub(super) const REQUESTS_NBDCOPY: &[u8] = include_bytes!("../../fixtures/v1/nbdcopy.requests.bin");
