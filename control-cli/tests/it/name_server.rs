//! A name server on the loopback that says what it is told to say.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use simple_dns::rdata::{RData, SOA, SRV, TXT};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord};

use crate::host::Host;

/// The domain it answers for.
pub(crate) const DOMAIN: &str = "stor.test";

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It answers, and gives its zone out.
    Open,
    /// It answers, and keeps its zone.
    Closed,
    /// Its answers fit into no datagram.
    Long,
    /// It says nothing.
    Silent,
    /// What it says makes no sense.
    Garbage,
    /// It begins to give its zone out, and stops.
    Broken,
}

/// A record by name (within the domain) and content.
type Entry = (&'static str, RData<'static>);

struct Zone {
    manner: Manner,
    entries: Vec<Entry>,
    stopping: AtomicBool,
    datagrams: AtomicU32,
    connections: AtomicU32,
}

/// The server; it ends when this is dropped.
pub(crate) struct NameServer {
    address: SocketAddr,
    zone: Arc<Zone>,
    threads: Vec<JoinHandle<()>>,
}

/// A TXT record.
pub(crate) fn text(name: &'static str, strings: &[&'static str]) -> Entry {
    let text = strings.iter().fold(TXT::new(), |text, one| text.with_string(one).expect("short"));
    (name, RData::TXT(text))
}

/// An SRV record of a cluster's metadata server.
pub(crate) fn service(name: &'static str, priority: u16, target: &'static str, port: u16) -> Entry {
    (name, RData::SRV(SRV { priority, weight: 1, port, target: Name::new_unchecked(target) }))
}

impl NameServer {
    pub(crate) fn start(manner: Manner, entries: Vec<Entry>) -> Self {
        let zone = Arc::new(Zone {
            manner,
            entries,
            stopping: false.into(),
            datagrams: 0.into(),
            connections: 0.into(),
        });
        let (udp, tcp) = sockets();
        let address = udp.local_addr().expect("bound");
        let (datagrams, streams) = (Arc::clone(&zone), Arc::clone(&zone));
        let start = |work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name("name server".into()).spawn(work).expect("a thread")
        };
        let threads = vec![
            start(Box::new(move || datagrams.serve_datagrams(&udp))),
            start(Box::new(move || streams.serve_streams(&tcp))),
        ];
        Self { address, zone, threads }
    }

    /// Makes it the one that a host asks.
    pub(crate) fn serve(&self, host: &Host) {
        let text = format!(
            "nameserver [{}]:{}\nsearch {DOMAIN}\noptions timeout:1 attempts:2\n",
            self.address.ip(),
            self.address.port()
        );
        std::fs::write(host.path("resolv.conf"), text).expect("written");
    }

    pub(crate) fn datagrams(&self) -> u32 {
        self.zone.datagrams.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> u32 {
        self.zone.connections.load(Ordering::SeqCst)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.zone.stopping.store(true, Ordering::SeqCst);
        // Each wakes up and sees it.
        let _woken = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"", self.address));
        let _woken = TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the name server failed");
        }
    }
}

/// A socket of each kind at the same port.
fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        // Somebody else may have the other one.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("bound")) {
            return (udp, tcp);
        }
    }
}

impl Zone {
    fn serve_datagrams(&self, socket: &UdpSocket) {
        let mut question = [0; 1024];
        loop {
            let (length, from) = socket.recv_from(&mut question).expect("a datagram");
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            self.datagrams.fetch_add(1, Ordering::SeqCst);
            for answer in self.answer(&question[..length], false) {
                socket.send_to(&answer, from).expect("sent");
            }
        }
    }

    fn serve_streams(&self, listener: &TcpListener) {
        loop {
            let (stream, _) = listener.accept().expect("a connection");
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            self.connections.fetch_add(1, Ordering::SeqCst);
            // Who asked may have given up.
            let _ended = self.serve_stream(stream);
        }
    }

    fn serve_stream(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut question)?;
        let answers = self.answer(&question, true);
        if answers.is_empty() {
            // Silence lasts until the other side has had enough.
            return stream.read(&mut length).map(drop);
        }
        for answer in answers {
            stream.write_all(&u16::try_from(answer.len()).expect("short").to_be_bytes())?;
            stream.write_all(&answer)?;
        }
        Ok(())
    }

    /// The messages that answer a question.
    fn answer(&self, question: &[u8], has_room: bool) -> Vec<Vec<u8>> {
        match self.manner {
            Manner::Silent => return Vec::new(),
            Manner::Garbage => {
                // The header of an answer, and a name that points at itself.
                let mut answer = question.to_vec();
                answer[2] |= 0x80;
                answer[7] = 1;
                answer.extend([0xC0, u8::try_from(question.len()).expect("short"), 0xFF]);
                return vec![answer];
            }
            Manner::Open | Manner::Closed | Manner::Long | Manner::Broken => {}
        }
        let asked = Packet::parse(question).expect("a question");
        let mut answer = asked.clone().into_reply();
        let [one] = &asked.questions[..] else { panic!("one question at a time: {asked:?}") };
        let name = one.qname.to_string();
        if one.qtype == QTYPE::AXFR {
            return self.transfer(answer, &name);
        }
        let entries = self.entries.iter().filter(|(entry, _)| name == format!("{entry}.{DOMAIN}"));
        let named: Vec<ResourceRecord<'static>> = entries.map(record).collect();
        if named.is_empty() {
            *answer.rcode_mut() = RCODE::NameError;
        }
        let wanted = named.into_iter().filter(|record| one.qtype == QTYPE::TYPE(record.rdata.type_code()));
        answer.answers.extend(wanted);
        if self.manner == Manner::Long && !has_room {
            answer.answers.clear();
            answer.set_flags(PacketFlag::TRUNCATION);
        }
        vec![answer.build_bytes_vec().expect("a message")]
    }

    /// The zone: one message for each record.
    fn transfer(&self, mut answer: Packet<'_>, name: &str) -> Vec<Vec<u8>> {
        if self.manner == Manner::Closed || name != DOMAIN {
            *answer.rcode_mut() = RCODE::Refused;
            return vec![answer.build_bytes_vec().expect("a message")];
        }
        let end = || {
            let soa = SOA {
                mname: Name::new_unchecked("ns.stor.test"),
                rname: Name::new_unchecked("rname.invalid"),
                serial: 1_995_032_001,
                refresh: 18_000,
                retry: 600,
                expire: 86_400,
                minimum: 10_800,
            };
            ResourceRecord::new(Name::new_unchecked(DOMAIN), CLASS::IN, 3600, RData::SOA(soa))
        };
        let mut records = vec![end()];
        records.extend(self.entries.iter().map(record));
        if self.manner != Manner::Broken {
            records.push(end());
        }
        let message = |record| {
            let mut message = answer.clone();
            message.answers.push(record);
            message.build_bytes_vec().expect("a message")
        };
        records.into_iter().map(message).collect()
    }
}

fn record((name, data): &Entry) -> ResourceRecord<'static> {
    let name = Name::new(&format!("{name}.{DOMAIN}")).expect("a name").into_owned();
    ResourceRecord::new(name, CLASS::IN, 300, data.clone())
}
