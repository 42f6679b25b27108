//! The list of metadata servers, as `bs.list` and the options of commands have it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use rt::net::Address;

/// The port of a metadata server where none is given: others of its kind connect to it there, chunk servers and
/// clients to the next one.
pub const PORT: u16 = 2510;

/// How long a name server may take to tell the addresses of a name. With a name server that never answers, the others of
/// a list must still be tried before whoever asks loses patience.
const LOOK_LIMIT: Duration = Duration::from_secs(3);

/// Where a metadata server is: `host`, `host:port`, `[IPv6]` or `[IPv6]:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddress {
    /// A name, or an IP address (without brackets).
    pub host: String,
    /// The port for metadata servers; chunk servers and clients use the next one.
    pub port: u16,
}

/// What is wrong with the address of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no host.
    #[error("no host name or IP address")]
    NoHost,
    /// The host is neither a name nor an address.
    #[error("{0:?} is neither a host name nor an IP address")]
    Host(String),
    /// An IPv6 address without brackets.
    #[error("an IPv6 address needs brackets: [{0}]")]
    Brackets(String),
    /// The port is not one.
    #[error("{0:?} is not a port between 1 and 65534")]
    Port(String),
}

/// A line of a list that is not the address of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {error}")]
pub struct ListError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    #[source]
    pub error: AddressError,
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| AddressError::Host(text.to_owned()))?;
                if host.parse::<Ipv6Addr>().is_err() {
                    return Err(AddressError::Host(host.to_owned()));
                }
                match port {
                    "" => (host, None),
                    port => (
                        host,
                        Some(port.strip_prefix(':').ok_or_else(|| AddressError::Port(port.to_owned()))?),
                    ),
                }
            }
            None if text.parse::<Ipv6Addr>().is_ok() => return Err(AddressError::Brackets(text.to_owned())),
            None => {
                let (host, port) =
                    text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
                check_host(host)?;
                (host, port)
            }
        };
        let port = port.map_or(Ok(PORT), |text| {
            // The next port is needed, too.
            let port = text.parse().ok().filter(|&port| (1..u16::MAX).contains(&port));
            port.ok_or_else(|| AddressError::Port(text.to_owned()))
        })?;
        Ok(Self { host: host.to_owned(), port })
    }
}

fn check_host(host: &str) -> Result<(), AddressError> {
    if host.is_empty() {
        return Err(AddressError::NoHost);
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.len() <= 253 && host.bytes().all(known) {
        Ok(())
    } else {
        Err(AddressError::Host(host.to_owned()))
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl ServerAddress {
    /// The port for chunk servers and clients.
    #[must_use]
    pub fn client_port(&self) -> u16 {
        self.port.saturating_add(1)
    }

    /// Where chunk servers and clients connect; a name may have several addresses.
    ///
    /// # Errors
    /// Those of name resolution; `TimedOut` after three seconds without an answer.
    pub async fn for_clients(&self) -> io::Result<Vec<Address>> {
        self.resolve(self.client_port()).await
    }

    /// Where other metadata servers connect.
    ///
    /// # Errors
    /// Those of name resolution.
    pub async fn for_servers(&self) -> io::Result<Vec<Address>> {
        self.resolve(self.port).await
    }

    async fn resolve(&self, port: u16) -> io::Result<Vec<Address>> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![Address::Tcp(SocketAddr::new(ip, port))]);
        }
        let host = self.host.clone();
        let look = rt::blocking::run(move || (host.as_str(), port).to_socket_addrs().map(Vec::from_iter));
        let found = rt::time::timeout(LOOK_LIMIT, look).await.map_err(|_| {
            let text = format!("no name server has told its address within {} s", LOOK_LIMIT.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        })???;
        Ok(found.into_iter().map(Address::Tcp).collect())
    }
}

/// Reads a list of servers, one per line. Blank lines and what follows a `#` do not count, nor do repeated ones.
///
/// # Errors
/// The first line that is not the address of a server.
pub fn parse_list(text: &str) -> Result<Vec<ServerAddress>, ListError> {
    let mut servers = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let server = line.parse().map_err(|error| ListError { line: index + 1, error })?;
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run;

    fn server(host: &str, port: u16) -> ServerAddress {
        ServerAddress { host: host.into(), port }
    }

    #[test]
    fn lists_may_have_comments_and_gaps() {
        let text = "# masters\n10.30.100.101:2510\n\n  s2.stor.test   # without a port\r\n[fd00::3]\n[fd00::4]:4110\n10.30.100.101\n";
        let servers = [
            server("10.30.100.101", 2510),
            server("s2.stor.test", 2510),
            server("fd00::3", 2510),
            server("fd00::4", 4110),
        ];
        assert_eq!(parse_list(text).as_deref(), Ok(&servers[..]));
        assert_eq!(parse_list("").as_deref(), Ok(&[][..]));
        for server in servers {
            assert_eq!(server.to_string().parse(), Ok(server));
        }
    }

    #[test]
    fn bad_lines_are_named() {
        let table = [
            ("a\nb\n:2510\n", 3, AddressError::NoHost),
            ("fd00::3", 1, AddressError::Brackets("fd00::3".into())),
            ("[fd00::3", 1, AddressError::Host("[fd00::3".into())),
            ("[s1]:1", 1, AddressError::Host("s1".into())),
            ("[fd00::3]2510", 1, AddressError::Port("2510".into())),
            ("\ns1:0", 2, AddressError::Port("0".into())),
            ("s1:65535", 1, AddressError::Port("65535".into())),
            ("s1:", 1, AddressError::Port(String::new())),
            ("s1:25:10", 1, AddressError::Port("25:10".into())),
            ("s1 s2", 1, AddressError::Host("s1 s2".into())),
            ("../s1", 1, AddressError::Host("../s1".into())),
        ];
        for (text, line, error) in table {
            assert_eq!(parse_list(text), Err(ListError { line, error }), "{text:?}");
        }
        assert_eq!(
            parse_list("s1:x").unwrap_err().to_string(),
            "line 1: \"x\" is not a port between 1 and 65534"
        );
    }

    #[test]
    fn clients_use_the_next_port() {
        run(async {
            let six = server("fd00::3", 2510).for_clients().await.unwrap();
            assert_eq!(six, [Address::Tcp("[fd00::3]:2511".parse().unwrap())]);
            let four = server("10.0.0.1", 4110).for_servers().await.unwrap();
            assert_eq!(four, [Address::Tcp("10.0.0.1:4110".parse().unwrap())]);
            let named = server("localhost", 2510).for_clients().await.unwrap();
            assert!(named.iter().any(|address| address.to_string().ends_with(":2511")), "{named:?}");
        });
    }
}
