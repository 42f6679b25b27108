//! Questions to a name server and their answers (RFC 1035, RFC 5936, RFC 7766). The messages are those of `simple-dns`;
//! here is how they travel.
//!
//! Blocking: to be run beside the executor.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE};

/// Largest answer in a datagram: who asks without saying more gets at most 512 bytes (RFC 1035, section 4.2.1).
const DATAGRAM_MAX: usize = 4096;
/// How many datagrams that are no answer may come before one.
const STRAYS_MAX: u32 = 3;
/// Most bytes of a zone that are read.
const ZONE_MAX: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// Nobody to ask.
    #[error("no name server is known by {path:?}")]
    NoServer {
        /// The file that lists them.
        path: PathBuf,
    },
    /// The name cannot be asked for.
    #[error("{0:?} is no domain name")]
    Name(String),
    /// There is no such record.
    #[error("there is no DNS record of {name}{}", in_domains(domains))]
    NoRecord {
        /// What was asked for.
        name: String,
        /// Where.
        domains: Vec<String>,
    },
    /// The network, or a server that does not answer.
    #[error("name server {server}: {}", if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) { "no answer".to_owned() } else { error.to_string() })]
    Io {
        /// Whom.
        server: SocketAddr,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The server does not want to, or cannot.
    #[error("name server {server} answers {code:?}")]
    Refused {
        /// Who.
        server: SocketAddr,
        /// Its code.
        code: RCODE,
    },
    /// What the server says makes no sense.
    #[error("name server {server}: its answer is malformed")]
    Malformed {
        /// Who.
        server: SocketAddr,
    },
    /// The zone is too large.
    #[error("name server {server}: the zone has more than {} MiB", ZONE_MAX >> 20)]
    TooLarge {
        /// Who.
        server: SocketAddr,
    },
    /// All together took too long.
    #[error("name servers did not come to an end within {} s", .0.as_secs())]
    Slow(Duration),
    /// There is no thread to ask on.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

fn in_domains(domains: &[String]) -> String {
    match domains {
        [] => String::new(),
        [root] if root.is_empty() => String::new(),
        domains => format!(" in {}", domains.join(", ")),
    }
}

/// Somebody who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    /// The number of his questions. Nobody else can know it, nor the port he asks from, which is another one each time.
    pub(super) id: u16,
    /// How long he waits for one answer.
    pub(super) wait: Duration,
}

/// How long and how often somebody is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// How long one answer is waited for.
    pub(super) answer: Duration,
    /// How often a question is put before a server counts as silent: datagrams get lost.
    pub(super) attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: Duration::from_secs(2), attempts: 2 }
    }
}

impl Patience {
    /// As an option of resolv.conf(5) says.
    pub(super) fn set(&mut self, option: &str) {
        let value = |text: &str, most: u32| text.parse().ok().filter(|value| (1..=most).contains(value));
        match option.split_once(':') {
            Some(("timeout", text)) => {
                self.answer = value(text, 30).map_or(self.answer, |value| Duration::from_secs(value.into()));
            }
            Some(("attempts", text)) => self.attempts = value(text, 5).unwrap_or(self.attempts),
            _ => {}
        }
    }
}

impl Asker {
    /// The records of a name; none if there is no such name.
    pub(super) fn records(
        self,
        server: SocketAddr,
        name: &str,
        kind: TYPE,
    ) -> Result<Vec<ResourceRecord<'static>>, DnsError> {
        let answer = self.exchange(server, &self.question(name, QTYPE::TYPE(kind))?)?;
        let packet = Packet::parse(&answer).map_err(|_| DnsError::Malformed { server })?;
        match packet.rcode() {
            RCODE::NoError => Ok(packet.answers.into_iter().map(ResourceRecord::into_owned).collect()),
            RCODE::NameError => Ok(Vec::new()),
            code => Err(DnsError::Refused { server, code }),
        }
    }

    /// All records of a zone: they come between two copies of its first one, in any number of messages.
    pub(super) fn zone(
        self,
        server: SocketAddr,
        domain: &str,
    ) -> Result<Vec<ResourceRecord<'static>>, DnsError> {
        let of = |error| DnsError::Io { server, error };
        let malformed = || DnsError::Malformed { server };
        let question = self.question(domain, QTYPE::AXFR)?;
        let mut stream = self.connect(server, &question).map_err(of)?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        loop {
            let message = read_message(&mut stream).map_err(of)?;
            bytes += message.len();
            if bytes > ZONE_MAX {
                return Err(DnsError::TooLarge { server });
            }
            let packet = Packet::parse(&message).map_err(|_| malformed())?;
            if !answers(&message, &question) {
                return Err(malformed());
            }
            if packet.rcode() != RCODE::NoError {
                return Err(DnsError::Refused { server, code: packet.rcode() });
            }
            if packet.answers.is_empty() {
                return Err(malformed());
            }
            for record in packet.answers {
                let is_end = matches!(record.rdata, RData::SOA(_));
                match (records.is_empty(), is_end) {
                    (true, false) => return Err(malformed()),
                    (false, true) => return Ok(records),
                    _ => records.push(record.into_owned()),
                }
            }
        }
    }

    fn question(self, name: &str, kind: QTYPE) -> Result<Vec<u8>, DnsError> {
        let bad = |_| DnsError::Name(name.to_owned());
        let mut packet = Packet::new_query(self.id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(Question::new(Name::new(name).map_err(bad)?, kind, CLASS::IN.into(), false));
        packet.build_bytes_vec().map_err(bad)
    }

    /// Puts a question to a server, in a datagram, and over a connection when the answer is too long for one.
    fn exchange(self, server: SocketAddr, question: &[u8]) -> Result<Vec<u8>, DnsError> {
        let of = |error| DnsError::Io { server, error };
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).map_err(of)?;
        // From then on it hears nobody else.
        socket.connect(server).map_err(of)?;
        socket.set_read_timeout(Some(self.wait)).map_err(of)?;
        socket.send(question).map_err(of)?;
        let mut answer = vec![0; DATAGRAM_MAX];
        let mut strays = 0;
        let length = loop {
            let length = socket.recv(&mut answer).map_err(of)?;
            if answers(&answer[..length], question) {
                break length;
            }
            strays += 1;
            if strays > STRAYS_MAX {
                return Err(DnsError::Malformed { server });
            }
        };
        answer.truncate(length);
        if !is_cut(&answer) {
            return Ok(answer);
        }
        let mut stream = self.connect(server, question).map_err(of)?;
        let answer = read_message(&mut stream).map_err(of)?;
        if answers(&answer, question) { Ok(answer) } else { Err(DnsError::Malformed { server }) }
    }

    /// A connection on which a question has been put.
    fn connect(self, server: SocketAddr, question: &[u8]) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&server, self.wait)?;
        stream.set_read_timeout(Some(self.wait))?;
        stream.set_write_timeout(Some(self.wait))?;
        let length = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        stream.write_all(&[&length.to_be_bytes(), question].concat())?;
        Ok(stream)
    }
}

/// Bytes of a header (RFC 1035, section 4.1.1).
const HEADER: usize = 12;

/// Whether this is an answer to that: the same number, an answer, and about the same if it says about what.
fn answers(answer: &[u8], question: &[u8]) -> bool {
    if answer.len() < HEADER || answer[..2] != question[..2] || answer[2] & 0x80 == 0 {
        return false;
    }
    // The question stands first, where no name before it could be pointed at.
    match u16::from_be_bytes([answer[4], answer[5]]) {
        0 => true,
        1 => answer[HEADER..]
            .get(..question.len() - HEADER)
            .is_some_and(|asked| asked.eq_ignore_ascii_case(&question[HEADER..])),
        _ => false,
    }
}

/// Whether the rest did not go into the datagram.
fn is_cut(answer: &[u8]) -> bool {
    answer[2] & 0x02 != 0
}

fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: Asker = Asker { id: 4711, wait: Duration::from_secs(1) };

    #[test]
    fn only_the_answer_to_a_question_is_one() {
        let question = ASKER.question("stor.test", QTYPE::AXFR).unwrap();
        assert!(!answers(&question, &question), "it is no answer");
        assert!(!answers(&[], &question) && !answers(&question[..HEADER], &question));
        let mut answer = question.clone();
        answer[2] |= 0x80;
        assert!(answers(&answer, &question));
        assert!(!answers(&answer[..answer.len() - 1], &question));
        let mut other = answer.clone();
        other[0] ^= 1;
        assert!(!answers(&other, &question), "another number");
        let mut other = answer.clone();
        other[HEADER + 1] = b'x';
        assert!(!answers(&other, &question), "another name");
        answer[HEADER + 1] = answer[HEADER + 1].to_ascii_uppercase();
        assert!(answers(&answer, &question));
        assert!(matches!(ASKER.question(&"x".repeat(64), QTYPE::AXFR), Err(DnsError::Name(_))));
    }

    #[test]
    fn no_bytes_make_a_message_that_panics() {
        let question = ASKER.question("_pstorage._tcp.stor1.stor.test", QTYPE::TYPE(TYPE::SRV)).unwrap();
        let mut seed = Packet::parse(&question).unwrap().into_reply();
        let name = Name::new_unchecked("_pstorage._tcp.stor1.stor.test");
        let srv = simple_dns::rdata::SRV {
            priority: 0,
            weight: 1,
            port: 2510,
            target: Name::new_unchecked("s1.stor.test"),
        };
        seed.answers.push(ResourceRecord::new(name, CLASS::IN, 300, RData::SRV(srv)));
        let good = seed.build_bytes_vec_compressed().unwrap();
        let mut understood = 0;
        for at in 0..good.len() {
            for byte in 0..=u8::MAX {
                let mut bad = good.clone();
                bad[at] = byte;
                understood += u32::from(Packet::parse(&bad).is_ok());
            }
            assert!(Packet::parse(&good[..at]).is_err());
        }
        assert!(understood as usize >= good.len(), "each byte as it was is among them");
    }
}
