//! NBD URIs (`doc/uri.md` of the NBD project), by which clients are told where the export is.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The export `name` on a Unix socket.
pub(super) fn unix(socket: &Path, name: &str) -> String {
    format!("nbd+unix:///{}?socket={}", escaped(name.as_bytes()), escaped(socket.as_os_str().as_bytes()))
}

/// The export `name` on a TCP port.
pub(super) fn tcp(address: SocketAddr, name: &str) -> String {
    format!("nbd://{address}/{}", escaped(name.as_bytes()))
}

/// RFC 3986 section 2.1; slashes may stay.
fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(byte as char)
            }
            // Writing to a string cannot fail.
            other => drop(write!(out, "%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_escaped() {
        assert_eq!(unix(Path::new("/run/a b.sock"), ""), "nbd+unix:///?socket=/run/a%20b.sock");
        assert_eq!(unix(Path::new("/x"), "vol&1"), "nbd+unix:///vol%261?socket=/x");
        assert_eq!(tcp("[::1]:10809".parse().unwrap(), "ü"), "nbd://[::1]:10809/%C3%BC");
    }
}
