//! The simulated network and its faults.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use datapath_rt as rt;
use rt::buf::{Buf, View};
use rt::net::{self, Address, Listener, Reader, Writer};
use rt::sim::control::{self, PeerView, Process};
use rt::sim::{HostId, NetOptions, SimOptions, Simulation};

use crate::sim_world::{forever, host, on, world};

const SECOND: Duration = Duration::from_secs(1);
const PORT: u16 = 2511;

fn address(host: HostId) -> Address {
    Address::Tcp(SocketAddr::new(control::host_ip(host), PORT))
}

fn everywhere() -> Address {
    Address::Tcp(SocketAddr::from(([0, 0, 0, 0], PORT)))
}

/// Answers each byte with a byte.
fn server(host: HostId) -> Process<()> {
    forever(host, async {
        let mut listener = Listener::bind(&everywhere()).unwrap();
        while let Ok((mut reader, mut writer, _)) = listener.accept().await {
            rt::spawn(async move {
                while let Ok(Some(received)) = reader.recv().await {
                    if writer.send_all(View::copy_of(&received)).await.is_err() {
                        break;
                    }
                }
            });
        }
    })
}

async fn ping(reader: &mut Reader, writer: &mut Writer) -> std::io::Result<()> {
    writer.send_all(View::copy_of(b"ping")).await?;
    reader.recv_exact(Buf::new(4), 0).await.0
}

/// What a client notes: when each ping came back, or how the connection ended.
type Log = Rc<RefCell<Vec<(Duration, Result<(), ErrorKind>)>>>;

/// Pings every 100 ms until the connection fails.
fn client(host: HostId, to: Address) -> (Process<()>, Log) {
    let log = Log::default();
    let theirs = Rc::clone(&log);
    let process = forever(host, async move {
        let (mut reader, mut writer) = net::connect(&to).await.unwrap();
        loop {
            let result = ping(&mut reader, &mut writer).await.map_err(|error| error.kind());
            theirs.borrow_mut().push((control::now(), result));
            if result.is_err() {
                return;
            }
            rt::time::sleep(SECOND / 10).await;
        }
    });
    (process, log)
}

fn last(log: &Log) -> (Duration, Result<(), ErrorKind>) {
    *log.borrow().last().expect("some pings came back")
}

/// Runs `test` with a server on one host and a client on another, over some seeds.
fn pinging<F>(test: fn(HostId, HostId, Process<()>, Log) -> F)
where
    F: Future<Output = ()> + 'static,
{
    for seed in 0..30 {
        world(seed, async move {
            let (a, b) = (host(), host());
            let server = server(a);
            control::advance(SECOND).await;
            let (_client, log) = client(b, address(a));
            control::advance(SECOND).await;
            assert_eq!(last(&log).1, Ok(()));
            test(a, b, server, log).await;
        });
    }
}

#[test]
fn a_cut_in_either_direction_holds_data_until_it_heals() {
    for way in 0..3 {
        for seed in 0..10 {
            world(seed, async move {
                let (a, b) = (host(), host());
                let _server = server(a);
                control::advance(SECOND).await;
                let (_client, log) = client(b, address(a));
                control::advance(SECOND).await;
                match way {
                    0 => control::cut(a, b),
                    1 => control::cut(b, a),
                    _ => control::partition(a, b),
                }
                let from = control::now();
                control::advance(SECOND * 60).await;
                assert!(last(&log).0 <= from + SECOND / 10, "nothing comes through");
                assert_eq!(last(&log).1, Ok(()), "and nobody is told");
                control::heal(a, b);
                control::advance(SECOND * 15).await;
                assert!(last(&log).0 > from + SECOND * 60 && last(&log).1.is_ok());
            });
        }
    }
}

#[test]
fn a_cut_that_lasts_ends_the_connection() {
    pinging(|a, b, _server, log| async move {
        control::partition(a, b);
        control::advance(SECOND * 1000).await;
        assert_eq!(last(&log).1, Err(ErrorKind::TimedOut));
        assert!(last(&log).0 > SECOND * 900);
    });
}

#[test]
fn a_reset_reaches_both_ends() {
    pinging(|a, b, _server, log| async move {
        assert!(control::reset_one_connection(b, a));
        control::advance(SECOND).await;
        assert_eq!(last(&log).1, Err(ErrorKind::ConnectionReset));
        assert_eq!(control::reset_connections(a, b), 0, "the server has closed its end, too");
        assert_eq!(control::connections(), 0);
    });
}

#[test]
fn half_open_is_silent_and_new_connections_work() {
    pinging(|a, b, _server, log| async move {
        assert_eq!(control::half_open(a, b), 1);
        let from = control::now();
        control::advance(SECOND * 100).await;
        assert!(last(&log).0 <= from + SECOND / 10 && last(&log).1.is_ok());
        let (_client, fresh) = client(b, address(a));
        control::advance(SECOND).await;
        assert_eq!(last(&fresh).1, Ok(()));
        control::advance(SECOND * 1000).await;
        assert_eq!(last(&log).1, Err(ErrorKind::TimedOut));
    });
}

#[test]
fn a_killed_process_leaves_resets_or_ends_and_a_closed_port() {
    let seen = Rc::new(RefCell::new(BTreeSet::new()));
    for seed in 0..30 {
        let seen = Rc::clone(&seen);
        world(seed, async move {
            let (a, b) = (host(), host());
            let process = server(a);
            control::advance(SECOND).await;
            let (_client, log) = client(b, address(a));
            control::advance(SECOND).await;
            control::kill(process.id());
            let refused = on(b, async move { net::connect(&address(a)).await.map(drop) }).await;
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            control::advance(SECOND).await;
            seen.borrow_mut().insert(format!("{:?}", last(&log).1.unwrap_err()));
            let _again = server(a);
            control::advance(SECOND).await;
            let (_client, log) = client(b, address(a));
            control::advance(SECOND).await;
            assert_eq!(last(&log).1, Ok(()));
        });
    }
    let expected = ["ConnectionReset", "UnexpectedEof"].map(str::to_owned).into();
    assert_eq!(*seen.borrow(), expected);
}

#[test]
fn a_paused_server_answers_late() {
    pinging(|_, _, server, log| async move {
        control::pause(server.id());
        let from = control::now();
        control::advance(SECOND * 100).await;
        assert!(last(&log).0 <= from + SECOND / 10);
        control::resume(server.id());
        control::advance(SECOND).await;
        assert!(last(&log).0 > from + SECOND * 100 && last(&log).1.is_ok());
    });
}

#[test]
fn a_host_without_power_is_silent_until_it_is_back() {
    pinging(|a, _, _server, log| async move {
        control::power_cut(&[a], PeerView::Silence);
        let from = control::now();
        control::advance(SECOND * 100).await;
        assert!(last(&log).0 <= from + SECOND / 10 && last(&log).1.is_ok());
        control::power_on(a);
        control::advance(SECOND * 30).await;
        assert_eq!(
            last(&log).1,
            Err(ErrorKind::ConnectionReset),
            "the new boot knows nothing of the connection"
        );
    });
    pinging(|a, _, _server, log| async move {
        control::power_cut(&[a], PeerView::Reset);
        control::advance(SECOND).await;
        assert_eq!(last(&log).1, Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn connecting_needs_a_listener_a_host_and_a_way() {
    world(1, async {
        let (a, b) = (host(), host());
        let dial = |to: Address| async move { net::connect(&to).await.err().map(|error| error.kind()) };
        assert_eq!(on(b, dial(address(a))).await, Some(ErrorKind::ConnectionRefused));
        let _loopback = forever(a, async {
            let listener = Listener::bind(&Address::Tcp(SocketAddr::from(([127, 0, 0, 1], PORT)))).unwrap();
            let _other = Listener::bind(&Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
            std::future::pending::<()>().await;
            drop(listener);
        });
        control::advance(SECOND).await;
        assert_eq!(
            on(b, dial(address(a))).await,
            Some(ErrorKind::ConnectionRefused),
            "it listens on its loopback only"
        );
        let nobody = Address::Tcp("10.0.9.9:1".parse().unwrap());
        assert_eq!(on(b, dial(nobody)).await, Some(ErrorKind::HostUnreachable));
        control::cut(a, b);
        let start = control::now();
        assert_eq!(on(b, dial(address(a))).await, Some(ErrorKind::TimedOut));
        assert!(control::now() - start >= SECOND * 127);
        // A request is repeated, so that it succeeds once the way is free.
        let _server = server(b);
        control::advance(SECOND).await;
        let (_client, log) = client(a, address(b));
        control::advance(SECOND * 10).await;
        assert!(log.borrow().is_empty());
        control::heal_all();
        control::advance(SECOND * 20).await;
        assert_eq!(last(&log).1, Ok(()));
    });
}

#[test]
fn a_slow_link_is_slow_for_a_while() {
    pinging(|a, b, _server, log| async move {
        let quick = log.borrow().len();
        assert!(quick > 5);
        control::delay(a, b, SECOND * 2, SECOND * 60);
        control::advance(SECOND * 60).await;
        let slow = log.borrow().len() - quick;
        assert!(slow < 60, "{slow} pings in a minute");
        control::advance(SECOND * 10).await;
        assert!(log.borrow().len() - quick - slow > 50);
    });
}

#[test]
fn a_sender_waits_for_its_receiver() {
    for seed in 0..10 {
        let options = SimOptions {
            net: NetOptions { window: 10_000, ..NetOptions::default() },
            ..SimOptions::new(seed)
        };
        let run = Simulation::new(options).run(async {
            let (a, b) = (host(), host());
            let go = Rc::new(rt::sync::Notify::new());
            let (sent, theirs) = (Rc::new(Cell::new(false)), Rc::clone(&go));
            let receiver = control::start_process(a, "receiver", async move {
                let (mut reader, _writer, _) = Listener::bind(&everywhere()).unwrap().accept().await.unwrap();
                theirs.notified().await;
                let (result, buf) = reader.recv_exact(Buf::new(1 << 20), 0).await;
                result.unwrap();
                assert!(buf.chunks(4).zip(0u32..).all(|(bytes, number)| bytes == number.to_le_bytes()));
            });
            control::advance(SECOND).await;
            let done = Rc::clone(&sent);
            let _sender = forever(b, async move {
                let (_reader, mut writer) = net::connect(&address(a)).await.unwrap();
                let mut buf = Buf::new(1 << 20);
                buf.chunks_mut(4)
                    .zip(0u32..)
                    .for_each(|(bytes, number)| bytes.copy_from_slice(&number.to_le_bytes()));
                writer.send_all(buf.freeze()).await.unwrap();
                done.set(true);
                std::future::pending::<()>().await;
            });
            control::advance(SECOND).await;
            assert!(!sent.get());
            go.notify_one();
            receiver.wait().await.returned();
            assert!(sent.get());
            assert!(control::coverage()["net.window-full"] > 10);
        });
        run.unwrap();
    }
}

#[test]
fn unread_data_turns_a_close_into_a_reset() {
    for seed in 0..20 {
        world(seed, async {
            let (a, b) = (host(), host());
            let process = forever(a, async {
                let mut listener = Listener::bind(&everywhere()).unwrap();
                let (reader, writer, peer) = listener.accept().await.unwrap();
                assert!(matches!(peer, Address::Tcp(peer) if peer.ip().to_string() == "10.0.0.2"));
                rt::time::sleep(SECOND).await;
                drop((reader, writer));
            });
            let error = on(b, async move {
                let (mut reader, mut writer) = net::connect(&address(a)).await.unwrap();
                writer.send_all(View::copy_of(b"unread")).await.unwrap();
                reader.recv().await.err().map(|error| error.kind())
            })
            .await;
            assert_eq!(error, Some(ErrorKind::ConnectionReset));
            control::kill(process.id());
            assert_eq!(control::connections(), 0);
        });
    }
}

#[test]
fn an_abandoned_connection_request_leaves_nothing() {
    for seed in 0..20 {
        world(seed, async {
            let (a, b) = (host(), host());
            let _server = server(a);
            control::advance(SECOND).await;
            let _alive = forever(b, async move {
                for micros in (0..400).step_by(10) {
                    let to = address(a);
                    let _dropped = rt::time::timeout(Duration::from_micros(micros), net::connect(&to)).await;
                }
            });
            control::advance(SECOND).await;
            assert_eq!(control::connections(), 0);
        });
    }
}
