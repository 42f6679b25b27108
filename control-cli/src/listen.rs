//! An address of this host at which a server of ours is to be reached, as an argument.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::str::FromStr;

/// An address with or without a port: `10.30.100.103`, `10.30.100.103:3000`, `[fd00::3]:3000`, `s3.stor.test:3000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenAddress {
    host: String,
    /// 0 is any.
    port: u16,
}

/// Why a text is no address to listen at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListenError {
    /// It is none.
    #[error(
        "neither an IP address nor a host name, with or without a port: 10.30.100.103, 10.30.100.103:3000, [fd00::3]:3000, \
         s3.stor.test:3000"
    )]
    Form,
    /// It is no place others can go to.
    #[error("give the one address at which clients reach this host")]
    Unspecified,
}

/// Why nobody can listen at an address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOursError {
    /// The name has no address.
    #[error("-a {host}: the name cannot be found: {error}; give an IP address of this host")]
    Unknown {
        /// The name.
        host: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// It is another host's.
    #[error("-a {0}: this host has no such address; give one of its own, as `ip address` shows them")]
    Foreign(String),
    /// Somebody listens there.
    #[error("-a {0}: another program listens there; choose another port, or none and any free one is taken")]
    InUse(SocketAddr),
    /// Something else.
    #[error("-a {address}: cannot listen there: {error}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl FromStr for ListenAddress {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let bare = bare.filter(|inner| inner.contains(':'));
        let by_number = match text.parse::<SocketAddr>() {
            Ok(address) => Some(address),
            Err(_) => bare.unwrap_or(text).parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0)),
        };
        if let Some(address) = by_number {
            return match address.ip().is_unspecified() || address.ip().is_multicast() {
                true => Err(ListenError::Unspecified),
                false => Ok(Self { host: address.ip().to_string(), port: address.port() }),
            };
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                let port = Some(port).filter(|_| digits).and_then(|port| port.parse().ok());
                (host, port.filter(|port| *port != 0).ok_or(ListenError::Form)?)
            }
            None => (text, 0),
        };
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        // What ends in a number is a mistyped IP address.
        let numeric =
            host.rsplit('.').next().is_none_or(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if host.is_empty() || host.len() > 253 || numeric || !host.bytes().all(known) {
            return Err(ListenError::Form);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl ListenAddress {
    /// The address that is meant: one of this host's at which somebody can listen now.
    ///
    /// # Errors
    /// [`NotOursError`].
    pub(crate) async fn own(&self) -> Result<SocketAddr, NotOursError> {
        let (host, port) = (self.host.clone(), self.port);
        let looked = rt::blocking::run(move || (host.as_str(), port).to_socket_addrs().map(Vec::from_iter));
        let unknown = |error| NotOursError::Unknown { host: self.host.clone(), error };
        let mut last = NotOursError::Foreign(self.host.clone());
        for address in looked.await.and_then(|found| found).map_err(unknown)? {
            match TcpListener::bind(address) {
                Ok(_free) => return Ok(address),
                Err(error) => match error.kind() {
                    io::ErrorKind::AddrNotAvailable => {}
                    io::ErrorKind::AddrInUse => last = NotOursError::InUse(address),
                    _ => last = NotOursError::Refused { address, error },
                },
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_port_or_not() {
        let table = [
            ("10.30.100.103", Ok(("10.30.100.103", 0))),
            ("10.30.100.103:3000", Ok(("10.30.100.103", 3000))),
            ("fd00::3", Ok(("fd00::3", 0))),
            ("[fd00::3]", Ok(("fd00::3", 0))),
            ("[fd00::3]:3000", Ok(("fd00::3", 3000))),
            ("s3.stor.test", Ok(("s3.stor.test", 0))),
            ("s3:3000", Ok(("s3", 3000))),
            ("[10.0.0.1]", Err(ListenError::Form)),
            ("10.0.0.1:", Err(ListenError::Form)),
            ("10.0.0.1:65536", Err(ListenError::Form)),
            ("10.0.0.256", Err(ListenError::Form)),
            ("10.0.1", Err(ListenError::Form)),
            ("s3:0", Err(ListenError::Form)),
            ("s3:+1", Err(ListenError::Form)),
            ("s 3", Err(ListenError::Form)),
            (":3000", Err(ListenError::Form)),
            ("", Err(ListenError::Form)),
            ("0.0.0.0", Err(ListenError::Unspecified)),
            ("[::]:3000", Err(ListenError::Unspecified)),
            ("224.0.0.1", Err(ListenError::Unspecified)),
        ];
        for (text, expected) in table {
            let address = text.parse::<ListenAddress>();
            let expected =
                expected.map(|(host, port): (&str, u16)| ListenAddress { host: host.into(), port });
            assert_eq!(address, expected, "{text}");
        }
    }

    #[test]
    fn an_address_is_one_of_this_host() {
        rt::Executor::start(&rt::ExecutorOptions::default()).unwrap().run(async {
            let own = async |text: &str| {
                text.parse::<ListenAddress>().unwrap().own().await.map_err(|error| error.to_string())
            };
            assert_eq!(own("127.0.0.1").await, Ok("127.0.0.1:0".parse().unwrap()));
            assert!(own("localhost").await.unwrap().ip().is_loopback());
            // Addresses for documentation only (RFC 5737).
            let foreign = own("192.0.2.1:3000").await.unwrap_err();
            assert!(foreign.contains("this host has no such address"), "{foreign}");
            let listening = TcpListener::bind("127.0.0.1:0").unwrap();
            let in_use = own(&listening.local_addr().unwrap().to_string()).await.unwrap_err();
            assert!(in_use.contains("another program listens there"), "{in_use}");
            let unknown = own("s1.invalid").await.unwrap_err();
            assert!(unknown.contains("-a s1.invalid: the name cannot be found"), "{unknown}");
        });
    }
}
