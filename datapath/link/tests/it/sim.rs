//! Connections on the simulated network, which delays, cuts, resets and half-opens them.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rt::buf::View;
use rt::net::{Address, Listener};
use rt::random::Rng;
use rt::sim::control::{self, Process};
use rt::sim::{HostId, HostOptions, SimOptions, Simulation};
use wire::Op;
use wire::hello::Role;

use crate::link::{
    Call, CallError, CertificateRefused, CloseReason, ClusterAuthority, ConnectCause, Credentials, Endpoint,
    Expect, HandshakeError, Keep, Limits, Options, Peer, Security,
};
use crate::world::{Echo, authority, endpoint_with, member, pattern, read_body};

const SECOND: Duration = Duration::from_secs(1);
const PORT: u16 = 2511;

fn world<F: Future + 'static>(seed: u64, controller: F) -> (Simulation, F::Output) {
    let mut simulation = Simulation::new(SimOptions::new(seed));
    let output = simulation.run(controller).unwrap_or_else(|failure| panic!("{failure}"));
    (simulation, output)
}

fn host(name: &str) -> HostId {
    control::add_host(HostOptions::new(name))
}

fn address(host: HostId, port: u16) -> Address {
    Address::Tcp(SocketAddr::new(control::host_ip(host), port))
}

fn options() -> Options {
    Options {
        security: Security::simulated(),
        limits: Limits { requests: 16, bytes: 4 << 20 },
        keepalive: SECOND / 2,
        silence_max: SECOND * 2,
        connect_timeout: SECOND,
        ..Options::default()
    }
}

fn simulated(credentials: Credentials, role: Role) -> Endpoint {
    endpoint_with(credentials, role, options())
}

/// An echoing chunk server on a host.
fn server(host: HostId, authority: &ClusterAuthority) -> (Process<()>, Rc<Echo>) {
    let (credentials, at, echo) =
        (member(authority, "server"), address(host, PORT), Rc::new(Echo::default()));
    let service = Rc::clone(&echo);
    let process = control::start_process(host, "server", async move {
        let listener = Listener::bind(&at).unwrap();
        simulated(credentials, Role::Cs).serve(listener, service).await;
    });
    (process, echo)
}

/// What a client has seen.
#[derive(Default)]
struct Tally {
    begun: Cell<u32>,
    answered: Cell<u32>,
    timed_out: Cell<u32>,
    cut_off: Cell<u32>,
    dropped: Cell<u32>,
}

fn count(cell: &Cell<u32>) {
    cell.set(cell.get() + 1);
}

impl Tally {
    fn ended(&self) -> u32 {
        self.answered.get() + self.timed_out.get() + self.cut_off.get() + self.dropped.get()
    }
}

/// One call of random size, duration and patience.
async fn one_call(peer: &Peer, tally: &Tally) {
    let mut rng = Rng::from_seed(rt::random::u64());
    // Small numbers are more likely than large ones.
    let mut skewed = |bits| {
        let most = 1 << rng.below(bits);
        rng.below(most)
    };
    let (len, patience) = (skewed(20) as usize, Duration::from_millis(1 + skewed(12)));
    let salt = rng.below(256) as u8;
    let deadline = rt::time::now() + patience;
    let reads = rng.one_in(2);
    let call = if reads {
        Call::new(Op::Read, read_body(len as u32, rng.below(30) as u32), deadline).expecting(len)
    } else {
        Call::new(Op::Write, vec![salt; 10], deadline).with_payload(pattern(len, salt)).expecting(len)
    };
    count(&tally.begun);
    let outcome = if rng.one_in(8) {
        // Some callers lose interest.
        match rt::time::timeout(patience / 2, peer.call(call)).await {
            Ok(outcome) => outcome,
            Err(_) => return count(&tally.dropped),
        }
    } else {
        peer.call(call).await
    };
    let late = rt::time::now().since(deadline);
    assert!(late < SECOND / 50, "a call ended {late:?} after its deadline");
    match outcome {
        Ok(reply) => {
            let expected = pattern(len, if reads { 7 } else { salt });
            assert!(reply.payload[..] == expected[..], "an answer that was not given");
            count(&tally.answered);
        }
        Err(CallError::Timeout | CallError::Unreachable(_)) => count(&tally.timed_out),
        Err(CallError::Disconnected(_)) => count(&tally.cut_off),
        Err(error @ CallError::TooLarge(_)) => panic!("{error}"),
    }
}

/// Hurts the network between two hosts for a while.
async fn trouble(a: HostId, b: HostId, times: u32) {
    for _ in 0..times {
        rt::time::sleep(Duration::from_millis(rt::random::below(400))).await;
        match rt::random::below(5) {
            0 => drop(control::reset_connections(a, b)),
            1 => drop(control::half_open(a, b)),
            2 => {
                control::cut(a, b);
                rt::time::sleep(Duration::from_millis(rt::random::below(3000))).await;
                control::heal(a, b);
            }
            3 => {
                control::partition(a, b);
                rt::time::sleep(Duration::from_millis(rt::random::below(3000))).await;
                control::heal(a, b);
            }
            _ => control::delay(a, b, Duration::from_millis(rt::random::below(100)), SECOND),
        }
    }
}

#[test]
fn every_call_ends_once_and_in_time_whatever_the_network_does() {
    let (mut answered, mut cut_off, mut timed_out) = (0, 0, 0);
    for seed in 0..30 {
        let (_, tally) = world(seed, async {
            let authority = authority();
            let (s, c) = (host("server"), host("client"));
            let (_server, echo) = server(s, &authority);
            let (credentials, tally) = (member(&authority, "client"), Rc::new(Tally::default()));
            let (to, theirs) = (address(s, PORT), Rc::clone(&tally));
            let healed = Rc::new(Cell::new(false));
            let calm = Rc::clone(&healed);
            let client = control::start_process(c, "client", async move {
                let keep = Keep::new(Expect::role(Role::Cs));
                let peer = Peer::start(&simulated(credentials, Role::Client), vec![to], keep);
                let callers: Vec<_> = (0..24)
                    .map(|_| {
                        let (peer, tally) = (peer.clone(), Rc::clone(&theirs));
                        rt::spawn(async move {
                            for _ in 0..20 {
                                one_call(&peer, &tally).await;
                            }
                        })
                    })
                    .collect();
                for caller in callers {
                    caller.await.unwrap();
                }
                // When all is well again, so are we.
                while !calm.get() {
                    rt::time::sleep(SECOND).await;
                }
                rt::time::sleep(SECOND * 10).await;
                let call = Call::new(Op::Write, vec![1], rt::time::now() + SECOND);
                peer.call(call).await.unwrap();
            });
            trouble(s, c, 12).await;
            control::heal_all();
            healed.set(true);
            client.wait().await.returned();
            assert_eq!((tally.begun.get(), tally.ended()), (24 * 20, 24 * 20));
            rt::time::sleep(SECOND * 10).await;
            assert_eq!(control::connections(), 0, "connections that nobody has any more");
            assert_eq!(echo.served.get(), echo.finished.get(), "what was begun was finished");
            tally
        });
        answered += tally.answered.get();
        cut_off += tally.cut_off.get();
        timed_out += tally.timed_out.get();
    }
    assert!(answered > 1000 && cut_off > 100 && timed_out > 100, "{answered}, {cut_off}, {timed_out}");
}

/// Everything one side of a connection has sent, as it went over the network.
type Tape = Rc<RefCell<Vec<u8>>>;

/// Hands bytes on and records them.
async fn recorder(listen: Address, to: Address, tapes: [Tape; 2]) {
    let mut listener = Listener::bind(&listen).unwrap();
    let (from_client, to_client, _) = listener.accept().await.unwrap();
    let (from_server, to_server) = rt::net::connect(&to).await.unwrap();
    let ways = [(from_client, to_server), (from_server, to_client)];
    for ((mut reader, mut writer), tape) in ways.into_iter().zip(tapes) {
        rt::spawn(async move {
            while let Ok(Some(received)) = reader.recv().await {
                let copy = View::copy_of(&received);
                drop(received);
                tape.borrow_mut().extend_from_slice(&copy);
                if writer.send_all(copy).await.is_err() {
                    break;
                }
            }
            writer.shutdown();
        });
    }
    std::future::pending().await
}

fn recorded(seed: u64) -> (u64, Vec<u8>, Vec<u8>) {
    let tapes = [Tape::default(), Tape::default()];
    let theirs = tapes.clone();
    let (simulation, ()) = world(seed, async move {
        let authority = authority();
        let (s, c) = (host("server"), host("client"));
        let _server = server(s, &authority);
        let middle = (address(s, 1), address(s, PORT));
        control::start_process(s, "recorder", recorder(middle.0.clone(), middle.1, theirs));
        let credentials = member(&authority, "client");
        let client = control::start_process(c, "client", async move {
            rt::time::sleep(SECOND).await;
            let client = simulated(credentials, Role::Client);
            let connection = client.connect(&middle.0, Expect::default()).await.unwrap();
            for len in [0, 100, 4096, 100_000] {
                let call = Call::new(Op::Write, vec![9; 50], rt::time::now() + SECOND);
                connection.call(call.with_payload(pattern(len, 1)).expecting(len)).await.unwrap();
            }
            connection.close().await;
        });
        client.wait().await.returned();
    });
    let [there, back] = tapes.map(|tape| tape.take());
    (simulation.trace_hash(), there, back)
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let (first, again, other) = (recorded(5), recorded(5), recorded(6));
    assert!(first.1.len() > 104_000 && first.2.len() > 104_000);
    assert!(first == again, "two runs of one seed differ");
    assert!(first.1 != other.1 && first.2 != other.2, "the seed has no influence");
    // The stand-in is no cipher, but records are sealed: no plaintext travels.
    let plain = [9; 50];
    assert!(!first.1.windows(plain.len()).any(|window| window == plain));
}

/// Runs a client against a server and lets the controller act while a call that is never answered is out. Gives why the
/// connection ended, and how long after the act.
fn fate<T>(
    seed: u64,
    act: impl FnOnce(HostId, HostId, &Process<()>) -> T + 'static,
) -> (CloseReason, Duration) {
    world(seed, async move {
        let authority = authority();
        let (s, c) = (host("server"), host("client"));
        let (server, _echo) = server(s, &authority);
        let (credentials, to) = (member(&authority, "client"), address(s, PORT));
        let client = control::start_process(c, "client", async move {
            rt::time::sleep(SECOND / 10).await;
            let connection =
                simulated(credentials, Role::Client).connect(&to, Expect::default()).await.unwrap();
            let call = Call::new(Op::Flush, vec![], rt::time::now() + SECOND * 100);
            let lost = connection.call(call).await.unwrap_err();
            assert!(matches!(lost, CallError::Disconnected(_)), "{lost}");
            (connection.closed().await, rt::time::now())
        });
        rt::time::sleep(SECOND * 3).await;
        let before = rt::time::now();
        act(s, c, &server);
        let (reason, at) = client.wait().await.returned();
        (reason, at.since(before))
    })
    .1
}

#[test]
fn the_stand_in_cannot_talk_to_the_real_thing() {
    for stand_in_serves in [false, true] {
        world(5, async move {
            let (a, b) = (host("a"), host("b"));
            let authority = Rc::new(authority());
            let at = address(b, PORT);
            let security = |stand_in| if stand_in { Security::simulated() } else { Security::real() };
            let theirs = Rc::clone(&authority);
            let server = control::start_process(b, "server", async move {
                let listener = Listener::bind(&at).unwrap();
                let options = Options { security: security(stand_in_serves), ..options() };
                let endpoint = endpoint_with(member(&theirs, "server"), Role::Cs, options);
                endpoint.serve(listener, Rc::new(Echo::default())).await;
            });
            let at = address(b, PORT);
            let client = control::start_process(a, "client", async move {
                let options = Options { security: security(!stand_in_serves), ..options() };
                let client = endpoint_with(member(&authority, "client"), Role::Client, options);
                client.connect(&at, Expect::default()).await.unwrap_err().cause
            });
            let cause = client.wait().await.returned();
            assert!(matches!(cause, ConnectCause::Handshake(HandshakeError::RefusedByPeer(40))), "{cause}");
            drop(server);
        });
    }
}

#[test]
fn a_half_open_connection_is_given_up() {
    for seed in 0..10 {
        let (reason, after) = fate(seed, |s, c, _| control::half_open(s, c));
        assert!(matches!(reason, CloseReason::Silent(_)), "{reason}");
        assert!(after >= SECOND && after <= SECOND * 3, "{after:?}");
    }
}

#[test]
fn a_paused_peer_is_given_up_and_a_killed_one_at_once() {
    for seed in 0..10 {
        let (reason, after) = fate(seed, |_, _, server| control::pause(server.id()));
        assert!(matches!(reason, CloseReason::Silent(_)), "{reason}");
        assert!(after <= SECOND * 3, "{after:?}");
        let (reason, after) = fate(seed, |_, _, server| control::kill(server.id()));
        assert!(matches!(reason, CloseReason::Cut | CloseReason::Io(_)), "{reason}");
        assert!(after <= SECOND, "{after:?}");
    }
}

/// Connects a client whose clock is so many years off.
fn connect_with_clock(years: i64) -> Result<(), ConnectCause> {
    world(1, async move {
        let authority = authority();
        let (s, c) = (host("server"), host("client"));
        let _server = server(s, &authority);
        let (credentials, to) = (member(&authority, "client"), address(s, PORT));
        control::shift_wall_clock(c, years * 31_556_952_000);
        let client = control::start_process(c, "client", async move {
            rt::time::sleep(SECOND).await;
            let connected = simulated(credentials, Role::Client).connect(&to, Expect::default()).await;
            connected.map(drop).map_err(|error| error.cause)
        });
        client.wait().await.returned()
    })
    .1
}

#[test]
fn a_wrong_clock_locks_nobody_out_unless_it_is_absurd() {
    for years in [-50, -30, -1, 0, 1, 29] {
        connect_with_clock(years).unwrap_or_else(|cause| panic!("{years} years off: {cause}"));
    }
    let cause = connect_with_clock(40).unwrap_err();
    let expired =
        matches!(cause, ConnectCause::Handshake(HandshakeError::Refused(CertificateRefused::Expired { .. })));
    assert!(expired && cause.to_string().contains("check the clock"), "{cause}");
}
