//! Peers that are broken, hostile, or not ours. Each is dropped, with a reason, and nobody else notices.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rt::net::Address;
use wire::hello::Role;
use wire::{HEADER_LEN, Header, Op, Status};

use crate::link::{
    Call, CallError, CertificateRefused, CloseReason, ClusterAuthority, ConfigError, ConnectCause,
    Connection, Credentials, Endpoint, Expect, GreetError, HandshakeError, Limits, LocalHello, Options,
    RecordError, Roles, Security,
};
use crate::raw::{Raw, blocking, is_closed, plain};
use crate::world::{
    Server, anywhere, authority, endpoint, endpoint_with, member, read_body, run, serve, soon,
};

/// A server with a well-behaved client, and a short patience.
async fn server() -> (ClusterAuthority, Server, Connection) {
    let options = Options {
        handshake_timeout: Duration::from_secs(1),
        limits: Limits { requests: 8, bytes: 1 << 20 },
        ..Options::default()
    };
    let authority = authority();
    let server = serve(endpoint_with(member(&authority, "server"), Role::Cs, options));
    let good = endpoint(&authority, Role::Client).connect(&server.address, Expect::default()).await.unwrap();
    (authority, server, good)
}

async fn works(connection: &Connection) {
    let reply = connection.call(Call::new(Op::Write, vec![1, 2, 3], soon())).await.unwrap();
    assert_eq!(&reply.body[..], [1, 2, 3]);
}

#[test]
fn garbage_on_the_port_is_dropped_at_once() {
    run(async {
        let (_, server, good) = server().await;
        let inputs: [&[u8]; 5] = [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            &[0; 100],
            &[0xff; 70_000],
            b"VSF1",
            &[22, 3, 1, 0xff, 0xff, 1, 2],
        ];
        for input in inputs {
            let address = server.address.clone();
            let closed = blocking(move || {
                let mut socket = plain(&address);
                // The server may close before it has everything.
                let _ = socket.write_all(input);
                is_closed(&mut socket)
            });
            assert!(closed.await);
            works(&good).await;
        }
    });
}

#[test]
fn who_stops_in_the_middle_of_the_handshake_is_dropped_in_time() {
    run(async {
        let (_, server, good) = server().await;
        for sent in [&b""[..], &[22], &[22, 3, 1, 2, 0], &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]] {
            let address = server.address.clone();
            let start = rt::time::now();
            let closed = blocking(move || {
                let mut socket = plain(&address);
                socket.write_all(sent).unwrap();
                is_closed(&mut socket)
            });
            assert!(closed.await);
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(990) && took < Duration::from_secs(8), "{took:?}");
        }
        works(&good).await;
    });
}

#[test]
fn many_hanging_strangers_cost_little_and_do_not_harm_those_inside() {
    run(async {
        let authority = authority();
        let options =
            Options { handshake_timeout: Duration::from_secs(30), handshakes_max: 4, ..Options::default() };
        let server = serve(endpoint_with(member(&authority, "server"), Role::Cs, options));
        let client = endpoint(&authority, Role::Client);
        let good = client.connect(&server.address, Expect::default()).await.unwrap();
        let address = server.address.clone();
        let hanging: Vec<TcpStream> = blocking(move || (0..50).map(|_| plain(&address)).collect()).await;
        rt::time::sleep(Duration::from_millis(50)).await;
        works(&good).await;
        // Members come in at once all the same, and those who hang longest go first.
        let start = rt::time::now();
        for _ in 0..3 {
            let again = client.connect(&server.address, Expect::default()).await.unwrap();
            works(&again).await;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        let gone = blocking(move || hanging.iter().take(46).all(|mut socket| is_closed(&mut socket)));
        assert!(gone.await);
    });
}

#[test]
fn no_certificate_no_entry() {
    run(async {
        let (_, server, good) = server().await;
        let address = server.address.clone();
        let refused = blocking(move || {
            let mut raw = Raw::connect(&address, None);
            let mut byte = [0];
            raw.0.read(&mut byte).map(|_| ()).unwrap_err().to_string()
        });
        assert!(refused.await.contains("CertificateRequired"));
        works(&good).await;
    });
}

/// Connects with `client` to a server that has `server`'s credentials, and gives what the client is told.
async fn refused(server: Credentials, client: Credentials) -> ConnectCause {
    let server = serve(endpoint_with(server, Role::Cs, Options::default()));
    let client = endpoint_with(client, Role::Client, Options::default());
    let error = client.connect(&server.address, Expect::default()).await.unwrap_err();
    assert_eq!(error.address, server.address);
    assert!(error.to_string().starts_with(&server.address.to_string()));
    error.cause
}

#[test]
fn members_of_other_clusters_are_told_apart_from_forgers() {
    run(async {
        let (ours, theirs) = (authority(), authority());
        let cause = refused(member(&theirs, "s"), member(&ours, "c")).await;
        let wrong = CertificateRefused::WrongCluster { theirs: theirs.cluster(), ours: ours.cluster() };
        assert!(
            matches!(&cause, ConnectCause::Handshake(HandshakeError::Refused(refused)) if *refused == wrong),
            "{cause}"
        );
        // The same cluster by name and id, but another key.
        let forger = ClusterAuthority::create("test", ours.cluster()).unwrap();
        let cause = refused(member(&forger, "s"), member(&ours, "c")).await;
        let forged = HandshakeError::Refused(CertificateRefused::Untrusted);
        assert_eq!(cause.to_string(), forged.to_string());
    });
}

#[test]
fn the_server_refuses_forgers_and_says_so() {
    run(async {
        let ours = authority();
        let forger = ClusterAuthority::create("test", ours.cluster()).unwrap();
        let server = serve(endpoint(&ours, Role::Cs));
        let (address, forged) = (server.address.clone(), member(&forger, "c"));
        let told = blocking(move || {
            let mut raw = Raw::connect(&address, Some(&forged));
            raw.0.read(&mut [0]).unwrap_err().to_string()
        });
        let told = told.await;
        assert!(told.contains("UnknownCA") || told.contains("DecryptError"), "{told}");
    });
}

#[test]
fn expired_certificates_are_refused_on_both_sides_with_advice() {
    run(async {
        let authority = authority();
        let old = authority.issue_until("old", "1", Roles::ALL, 2001).unwrap();
        let cause = refused(old.clone(), member(&authority, "c")).await;
        let ConnectCause::Handshake(HandshakeError::Refused(CertificateRefused::Expired {
            not_after_s, ..
        })) = cause
        else {
            panic!("{cause}")
        };
        assert_eq!(not_after_s, 978_307_200, "1 January 2001");
        // The server refuses the client; the client hears of it when it waits for the greeting.
        let cause = refused(member(&authority, "s"), old).await;
        assert!(matches!(cause, ConnectCause::Greeting(CloseReason::Alert(45))), "{cause}");
        assert!(cause.to_string().contains("check the clocks"), "{cause}");
    });
}

#[test]
fn a_role_needs_its_certificate() {
    run(async {
        let authority = authority();
        let server = serve(endpoint(&authority, Role::Mds));
        let client = authority.issue("c", "1", Roles::of(&[Role::Client])).unwrap();
        let liar = endpoint_with(client, Role::Cs, Options::default());
        let cause = liar.connect(&server.address, Expect::default()).await.unwrap_err().cause;
        let ConnectCause::Greeting(CloseReason::Greeting(GreetError::Refused { status, message })) = cause
        else {
            panic!("{cause}")
        };
        assert_eq!(
            (status, message.as_str()),
            (Status::Forbidden, "the peer's certificate does not allow the role cs")
        );
    });
}

#[test]
fn who_is_not_expected_is_not_talked_to() {
    run(async {
        let authority = authority();
        let server = endpoint(&authority, Role::Cs);
        server.update_hello(|hello| hello.cs_id = 7);
        let server = serve(server);
        let client = endpoint(&authority, Role::Client);
        let cause = client.connect(&server.address, Expect::role(Role::Mds)).await.unwrap_err().cause;
        let role = GreetError::Role { expected: Role::Mds, found: Role::Cs };
        assert!(
            matches!(&cause, ConnectCause::Greeting(CloseReason::Greeting(error)) if *error == role),
            "{cause}"
        );
        let cause = client.connect(&server.address, Expect::chunk_server(8)).await.unwrap_err().cause;
        let other = GreetError::ChunkServer { expected: 8, found: 7 };
        assert!(
            matches!(&cause, ConnectCause::Greeting(CloseReason::Greeting(error)) if *error == other),
            "{cause}"
        );
        assert_eq!(client.connect(&server.address, Expect::chunk_server(7)).await.unwrap().peer().cs_id, 7);
    });
}

#[test]
fn features_that_are_missing_are_named_to_both() {
    run(async {
        let authority = authority();
        let server = serve(endpoint(&authority, Role::Cs));
        let hello = LocalHello {
            features: 0b100,
            features_required: 0b100,
            ..LocalHello::new(Role::Client, [3; 16])
        };
        let client = Endpoint::new(member(&authority, "c"), hello, Options::default()).unwrap();
        let error = client.connect(&server.address, Expect::default()).await.unwrap_err();
        let ConnectCause::Greeting(CloseReason::Greeting(GreetError::Refused { status, .. })) = error.cause
        else {
            panic!("{error}")
        };
        assert_eq!(status, Status::Unsupported);
    });
}

#[test]
fn the_simulators_stand_in_is_refused_in_earnest() {
    run(async {
        let toy = Options { security: Security::simulated(), ..Options::default() };
        let credentials = member(&authority(), "c");
        let refused = Endpoint::new(credentials, LocalHello::new(Role::Client, [1; 16]), toy);
        assert!(matches!(refused, Err(ConfigError::SimulatedInEarnest)), "{refused:?}");
    });
}

#[test]
fn servers_that_are_not_ours_are_named_as_such() {
    run(async {
        let options = Options { connect_timeout: Duration::from_millis(200), ..Options::default() };
        let client = endpoint_with(member(&authority(), "c"), Role::Client, options);
        for (banner, expected) in
            [(&b"SSH-2.0-x\r\n"[..], "does not speak TLS"), (b"", "no answer within 200 ms")]
        {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = Address::Tcp(listener.local_addr().unwrap());
            let server = std::thread::Builder::new().spawn(move || {
                let (mut socket, _) = listener.accept().unwrap();
                socket.write_all(banner).unwrap();
                is_closed(&mut socket)
            });
            let error = client.connect(&address, Expect::default()).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(blocking(move || server.unwrap().join().unwrap()).await);
        }
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = client.connect(&Address::Tcp(nobody), Expect::default()).await.unwrap_err();
        assert!(matches!(error.cause, ConnectCause::Io(_)), "{error}");
    });
}

/// Lets an authenticated peer misbehave; it must be dropped.
async fn misbehave(attack: impl FnOnce(&mut Raw) + Send + 'static) {
    let (authority, server, good) = server().await;
    let (address, credentials) = (server.address.clone(), member(&authority, "bad"));
    let closed = blocking(move || {
        let mut raw = Raw::greeted(&address, &credentials);
        attack(&mut raw);
        is_closed(&mut raw.0)
    });
    assert!(closed.await);
    works(&good).await;
}

#[test]
fn garbage_after_the_handshake_is_dropped() {
    run(async {
        // A frame of another protocol, and one that announces 10 GiB as well as its fields can.
        misbehave(|raw| raw.0.write_all(&[b'x'; 64]).unwrap()).await;
        misbehave(|raw| {
            let mut header = Header::request(Op::Write, 2, 0, &[], 0).unwrap().encode();
            header[28..36].copy_from_slice(&[0xff; 8]);
            let crc = wire::crc::crc32c(&header[..HEADER_LEN - 4]);
            header[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
            raw.0.write_all(&header).unwrap();
        })
        .await;
    });
}

#[test]
fn messages_out_of_order_are_dropped() {
    run(async {
        misbehave(|raw| raw.request(Op::Hello, 2, &[], &[]).unwrap()).await;
        misbehave(|raw| {
            let request = Header::request(Op::Write, 77, 0, &[], 0).unwrap();
            let answer = Header::response(&request, Status::Ok, &[], 0).unwrap();
            raw.0.write_all(&answer.encode()).unwrap();
        })
        .await;
        let (authority, server, good) = server().await;
        let (address, credentials) = (server.address.clone(), member(&authority, "bad"));
        let closed = blocking(move || {
            let mut raw = Raw::connect(&address, Some(&credentials));
            raw.request(Op::Write, 1, b"before hello", &[]).unwrap();
            is_closed(&mut raw.0)
        });
        assert!(closed.await);
        works(&good).await;
    });
}

#[test]
fn floods_beyond_the_window_are_dropped() {
    run(async {
        misbehave(|raw| {
            for id in 1..=9 {
                // The ninth is one too many; later ones may find the connection closed.
                let _ = raw.request(Op::Flush, id, &[], &[]);
            }
        })
        .await;
        misbehave(|raw| {
            for id in 1..=3 {
                let _ = raw.request(Op::Flush, id, &[], &[0; 600_000]);
            }
        })
        .await;
    });
}

#[test]
fn a_flood_of_pings_is_dropped_once_it_is_not_read() {
    run(async {
        misbehave(|raw| {
            let pings = Header::request(Op::Ping, 5, 0, &[], 0).unwrap().encode().repeat(1000);
            while raw.0.write_all(&pings).is_ok() {}
        })
        .await;
    });
}

#[test]
fn who_stops_in_the_middle_of_a_frame_harms_nobody_and_is_given_up() {
    run(async {
        let authority = authority();
        let options = Options {
            keepalive: Duration::from_millis(50),
            silence_max: Duration::from_millis(150),
            ..Options::default()
        };
        let server = serve(endpoint_with(member(&authority, "server"), Role::Cs, options));
        let good =
            endpoint(&authority, Role::Client).connect(&server.address, Expect::default()).await.unwrap();
        let (address, credentials) = (server.address.clone(), member(&authority, "bad"));
        let closed = blocking(move || {
            let mut raw = Raw::greeted(&address, &credentials);
            let header = Header::request(Op::Write, 2, 0, &[], 1 << 20).unwrap();
            raw.0.write_all(&header.encode()).unwrap();
            raw.0.write_all(&[0; 1000]).unwrap();
            is_closed(&mut raw.0)
        });
        assert!(closed.await);
        works(&good).await;
    });
}

#[test]
fn a_peer_that_does_not_read_stops_being_served_and_takes_no_memory() {
    run(async {
        let authority = authority();
        let options = Options { queue_bytes: 2 << 20, ..Options::default() };
        let server = serve(endpoint_with(member(&authority, "server"), Role::Cs, options));
        let (address, credentials) = (server.address.clone(), member(&authority, "slow"));
        let mut raw = blocking(move || {
            let mut raw = Raw::greeted(&address, &credentials);
            for id in 1..=200 {
                raw.request(Op::Read, id, &read_body(1 << 20, 0), &[]).unwrap();
            }
            raw
        })
        .await;
        rt::time::sleep(Duration::from_millis(300)).await;
        let served = server.echo.served.get();
        assert!((2..20).contains(&served), "{served} answers of 1 MiB were made for a peer that reads none");
        // As it reads, it is served again.
        let answered = blocking(move || (0..200).filter(|_| raw.frame().unwrap().0.status.is_ok()).count());
        assert_eq!(answered.await, 200);
    });
}

#[test]
fn stock_tls_is_understood_with_its_key_updates() {
    run(async {
        let (authority, server, _good) = server().await;
        let (address, credentials) = (server.address.clone(), member(&authority, "stock"));
        let done = blocking(move || {
            let mut raw = Raw::greeted(&address, &credentials);
            for id in 1..=20 {
                // Asks the server for a new key of its own, too.
                raw.0.conn.refresh_traffic_keys().unwrap();
                let payload = vec![id as u8; 1000 * id as usize];
                raw.request(Op::Write, id, b"body", &payload).unwrap();
                let (header, rest) = raw.frame().unwrap();
                assert_eq!(header.request_id, id);
                assert!(rest[..4] == *b"body" && rest[4..] == payload[..]);
            }
            raw.0.conn.send_close_notify();
            raw.0.flush().unwrap();
            is_closed(&mut raw.0)
        });
        assert!(done.await);
    });
}

#[test]
fn a_stock_server_is_understood_with_its_key_updates() {
    run(async {
        let authority = authority();
        let client = endpoint(&authority, Role::Client);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let credentials = member(&authority, "stock");
        let server = rt::spawn(blocking(move || {
            let mut raw = Raw::accept(&listener, &credentials, 0);
            raw.greet(&credentials).unwrap();
            for _ in 0..20 {
                let (header, rest) = raw.frame().unwrap();
                raw.0.conn.refresh_traffic_keys().unwrap();
                let (body, payload) = rest.split_at(header.body_len as usize);
                raw.answer(&header, body, payload).unwrap();
            }
            raw.0.conn.send_close_notify();
            raw.0.flush().unwrap();
            is_closed(&mut raw.0)
        }));
        let connection = client.connect(&address, Expect::role(Role::Cs)).await.unwrap();
        for len in (0..20).map(|round| 1 + round * round * 500) {
            let payload = crate::world::pattern(len, 3);
            let call =
                Call::new(Op::Write, b"body".to_vec(), soon()).with_payload(payload.clone()).expecting(len);
            let reply = connection.call(call).await.unwrap();
            assert!(reply.body[..] == *b"body" && reply.payload[..] == payload[..]);
        }
        let reason = connection.closed().await;
        assert!(matches!(reason, CloseReason::PeerClosed), "{reason}");
        assert!(server.await.unwrap());
    });
}

#[test]
fn an_answer_that_brings_more_than_was_asked_for_is_not_taken() {
    run(async {
        let authority = authority();
        let client = endpoint(&authority, Role::Client);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let credentials = member(&authority, "generous");
        let server = rt::spawn(blocking(move || {
            let mut raw = Raw::accept(&listener, &credentials, 0);
            raw.greet(&credentials).unwrap();
            for surplus in [0, 1] {
                let (header, _) = raw.frame().unwrap();
                raw.answer(&header, b"", &vec![7; 4096 + surplus]).unwrap();
            }
            is_closed(&mut raw.0)
        }));
        let connection = client.connect(&address, Expect::role(Role::Cs)).await.unwrap();
        let call = || Call::new(Op::Read, vec![], soon()).expecting(4096);
        assert_eq!(connection.call(call()).await.unwrap().payload.len(), 4096);
        let refused = connection.call(call()).await;
        assert!(matches!(refused, Err(CallError::Disconnected(_))), "{refused:?}");
        let reason = connection.closed().await;
        assert!(reason.to_string().contains("more than was asked for"), "{reason}");
        assert!(server.await.unwrap());
    });
}

#[test]
fn tickets_for_later_sessions_are_not_taken() {
    run(async {
        let authority = authority();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let credentials = member(&authority, "stock");
        let server = rt::spawn(blocking(move || {
            let mut raw = Raw::accept(&listener, &credentials, 1);
            raw.greet(&credentials).and_then(|()| raw.frame()).unwrap_err().to_string()
        }));
        let client = endpoint(&authority, Role::Client);
        let error = client.connect(&address, Expect::role(Role::Cs)).await.unwrap_err();
        assert!(
            matches!(
                error.cause,
                ConnectCause::Greeting(CloseReason::Record(RecordError::Unexpected { found: 4 }))
            ),
            "{error}"
        );
        let told = server.await.unwrap();
        assert!(told.contains("UnexpectedMessage"), "{told}");
    });
}

#[test]
fn who_sends_a_forged_record_is_told_so() {
    run(async {
        let (authority, server, good) = server().await;
        let (address, credentials) = (server.address.clone(), member(&authority, "bad"));
        let told = blocking(move || {
            let mut raw = Raw::greeted(&address, &credentials);
            raw.0.sock.write_all(&[&[23, 3, 3, 0, 40][..], &[7; 40]].concat()).unwrap();
            raw.frame().unwrap_err().to_string()
        });
        assert!(told.await.contains("BadRecordMac"));
        works(&good).await;
    });
}

/// Hands bytes between a client and a server, and changes one of those going to the server after `position` bytes.
fn meddler(server: Address, position: usize) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let spawn = |work: Box<dyn FnOnce() + Send>| drop(std::thread::Builder::new().spawn(work).unwrap());
    spawn(Box::new(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = plain(&server);
        let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        spawn(Box::new(move || {
            let _ = std::io::copy(&mut back_from, &mut back_to);
            let _ = back_to.shutdown(std::net::Shutdown::Both);
        }));
        let (mut buffer, mut seen) = (vec![0; 4096], 0);
        while let Ok(count @ 1..) = client.read(&mut buffer) {
            if (seen..seen + count).contains(&position) {
                buffer[position - seen] ^= 1;
            }
            seen += count;
            if server.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = server.shutdown(std::net::Shutdown::Both);
    }));
    address
}

#[test]
fn a_changed_bit_ends_the_connection() {
    run(async {
        let authority = authority();
        let server = serve(endpoint(&authority, Role::Cs));
        let client = endpoint(&authority, Role::Client);
        let connection =
            client.connect(&meddler(server.address.clone(), 50_000), Expect::default()).await.unwrap();
        connection.call(Call::new(Op::GetMap, vec![], soon())).await.unwrap();
        let theirs = server.echo.held.borrow_mut().pop().unwrap();
        let call = Call::new(Op::Write, vec![], soon()).with_payload(crate::world::pattern(100_000, 0));
        assert!(matches!(connection.call(call).await, Err(CallError::Disconnected(_))));
        let reason = theirs.closed().await;
        assert!(matches!(reason, CloseReason::Record(RecordError::Authentication)), "{reason}");
    });
}

/// Collects log lines.
struct Log(std::sync::Mutex<std::sync::mpsc::Sender<String>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                use std::fmt::Write;
                let _ = write!(self.0, "{field}={value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        let _ = self.0.lock().unwrap().send(text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn the_log_says_who_was_dropped_and_why_but_not_for_ever() {
    let (sender, lines) = std::sync::mpsc::channel();
    let _guard = tracing::subscriber::set_default(Log(std::sync::Mutex::new(sender)));
    run(async move {
        let (_, server, good) = server().await;
        let address = server.address.clone();
        let own = blocking(move || {
            let mut own = Vec::new();
            for _ in 0..60 {
                let mut socket = plain(&address);
                own.push(socket.local_addr().unwrap().to_string());
                let _ = socket.write_all(b"GET / HTTP/1.1\r\n\r\n");
                is_closed(&mut socket);
            }
            own
        })
        .await;
        works(&good).await;
        let lines: Vec<String> = lines.try_iter().collect();
        assert!(lines[0].contains(&own[0]), "{} in {}", own[0], lines[0]);
        assert!(lines[0].contains("does not speak TLS"), "{}", lines[0]);
        assert!(lines.len() < 30, "{} lines for 60 strangers", lines.len());
    });
}

#[test]
fn a_port_in_use_is_an_error() {
    run(async {
        let server = serve(endpoint(&authority(), Role::Cs));
        let again = rt::net::Listener::bind(&server.address).unwrap_err();
        assert_eq!(again.kind(), std::io::ErrorKind::AddrInUse);
        assert!(rt::net::Listener::bind(&anywhere()).is_ok());
    });
}
