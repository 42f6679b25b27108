//! Calls that work, and calls that end without an answer.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rt::buf::View;
use wire::hello::{Goodbye, Role};
use wire::{Op, Status};

use crate::link::{
    Call, CallError, CloseReason, Connection, Expect, Limits, Options, Request, Response, Service,
};
use crate::world::{
    Echo, anywhere, authority, endpoint, pair, pair_with, pattern, read_body, run, serve, soon, within,
};

#[test]
fn every_size_comes_back_as_it_went() {
    run(async {
        let (_server, connection) = pair().await;
        let sizes = [
            0,
            1,
            100,
            4096,
            4097,
            16 << 10,
            16_361,
            16_362,
            16_363,
            100_000,
            1 << 20,
            (4 << 20) - 1,
            4 << 20,
        ];
        for (salt, len) in sizes.into_iter().enumerate() {
            for body in [0, 1, 130, 70_000, 1 << 20] {
                let (body, payload) = (vec![salt as u8; body], pattern(len, salt as u8));
                let call =
                    Call::new(Op::Write, body.clone(), soon()).with_payload(payload.clone()).expecting(len);
                let reply = connection.call(call).await.unwrap();
                assert_eq!(reply.status, Status::Ok);
                assert!(
                    reply.body[..] == body[..] && reply.payload[..] == payload[..],
                    "{} and {len}",
                    body.len()
                );
                assert!(len == 0 || reply.payload.is_aligned());
            }
        }
    });
}

#[test]
fn a_payload_of_many_parts_arrives_as_one() {
    run(async {
        let (_server, connection) = pair().await;
        let whole = pattern(50_000, 3);
        let parts: Vec<View> =
            [0..1, 1..1, 1..4096, 4096..20_000, 20_000..50_000].map(|part| whole.slice(part)).into();
        let reply = connection
            .call(Call::new(Op::Write, vec![1], soon()).with_payload(parts).expecting(50_000))
            .await
            .unwrap();
        assert!(reply.payload[..] == whole[..]);
    });
}

#[test]
fn too_much_for_a_frame_is_refused_here() {
    run(async {
        let (_server, connection) = pair().await;
        let long = connection.call(Call::new(Op::Write, vec![0; (1 << 20) + 1], soon())).await;
        assert!(matches!(long, Err(CallError::TooLarge(_))), "{long:?}");
        let long = Call::new(Op::Write, vec![], soon()).with_payload(pattern((4 << 20) + 1, 0));
        assert!(matches!(connection.call(long).await, Err(CallError::TooLarge(_))));
        assert!(connection.is_open());
    });
}

#[test]
fn an_answer_too_large_for_a_frame_is_an_internal_error() {
    run(async {
        let (_server, connection) = pair().await;
        let reply = connection
            .call(Call::new(Op::Read, read_body((4 << 20) + 1, 0), soon()).expecting((4 << 20) + 1))
            .await
            .unwrap();
        assert_eq!(reply.status, Status::Internal);
    });
}

#[test]
fn answers_overtake_each_other() {
    run(async {
        let (_server, connection) = pair().await;
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let calls: Vec<_> = [120u32, 60, 0]
            .into_iter()
            .map(|delay| {
                let (connection, order) = (connection.clone(), Rc::clone(&order));
                rt::spawn(async move {
                    let reply = connection
                        .call(Call::new(Op::Read, read_body(10, delay), soon()).expecting(10))
                        .await
                        .unwrap();
                    assert_eq!(&reply.body[..], read_body(10, delay));
                    order.borrow_mut().push(delay);
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        assert_eq!(*order.borrow(), [0, 60, 120]);
    });
}

#[test]
fn both_sides_may_ask() {
    run(async {
        let authority = authority();
        let server = serve(endpoint(&authority, Role::Mds));
        let ours = Rc::new(Echo::default());
        let client = endpoint(&authority, Role::Cs);
        let connection =
            client.connect_serving(&server.address, Expect::role(Role::Mds), Rc::clone(&ours)).await.unwrap();
        let reply = connection.call(Call::new(Op::Stat, b"ask me".to_vec(), soon())).await.unwrap();
        assert_eq!((reply.status, &reply.body[..]), (Status::Ok, &b"ask me"[..]));
        assert_eq!(ours.served.get(), 1);
        // The server may keep the connection and ask on it later.
        connection.call(Call::new(Op::GetMap, vec![], soon())).await.unwrap();
        let held = server.echo.held.borrow()[0].clone();
        assert_eq!((held.peer().role, held.peer().boot_id), (Role::Cs, [1; 16]));
        let reply = held.call(Call::new(Op::Write, vec![7], soon())).await.unwrap();
        assert_eq!(&reply.body[..], [7]);
        // Who serves nothing says so.
        let deaf = client.connect(&server.address, Expect::default()).await.unwrap();
        let reply = deaf.call(Call::new(Op::Stat, vec![], soon())).await.unwrap();
        assert_eq!(reply.status, Status::Unsupported);
    });
}

#[test]
fn a_deadline_ends_a_call_and_nothing_else() {
    run(async {
        let (server, connection) = pair().await;
        let start = rt::time::now();
        let never = connection.call(Call::new(Op::Flush, vec![], within(50))).await;
        assert!(matches!(never, Err(CallError::Timeout)));
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(50) && took < Duration::from_secs(5), "{took:?}");
        let passed = connection.call(Call::new(Op::Write, vec![], rt::time::now())).await;
        assert!(matches!(passed, Err(CallError::Timeout)));
        assert_eq!(server.echo.served.get(), 1, "a call whose deadline has passed is not made");
        // Its answer comes late and is dropped, with its payload.
        let late =
            connection.call(Call::new(Op::Read, read_body(1 << 20, 60), within(20)).expecting(1 << 20)).await;
        assert!(matches!(late, Err(CallError::Timeout)));
        rt::time::sleep(Duration::from_millis(100)).await;
        let reply = connection.call(Call::new(Op::Read, read_body(5, 0), soon()).expecting(5)).await.unwrap();
        assert_eq!(reply.payload.len(), 5);
    });
}

#[test]
fn a_dropped_call_is_forgotten_and_its_place_is_free_again() {
    run(async {
        let limits = Limits { requests: 2, bytes: 1 << 20 };
        let (_server, connection) =
            pair_with(Options { limits, ..Options::default() }, Options::default()).await;
        for _ in 0..10 {
            let call = connection.call(Call::new(Op::Read, read_body(100, 10), soon()).expecting(100));
            assert!(rt::time::timeout(Duration::from_millis(2), call).await.is_err());
        }
        let reply = connection.call(Call::new(Op::Read, read_body(3, 0), soon()).expecting(3)).await.unwrap();
        assert_eq!(reply.payload.len(), 3);
    });
}

#[test]
fn a_request_made_again_waits_for_the_first_answer() {
    run(async {
        let (server, connection) = pair().await;
        let call = |deadline| Call::new(Op::Read, read_body(9, 80), deadline).expecting(9).with_id(42);
        assert!(matches!(connection.call(call(within(20))).await, Err(CallError::Timeout)));
        let reply = connection.call(call(soon())).await.unwrap();
        assert_eq!((reply.payload.len(), server.echo.served.get()), (9, 1));
        connection.call(call(soon())).await.unwrap();
        assert_eq!(server.echo.served.get(), 2, "once it is answered it is made again");
    });
}

#[test]
fn no_more_requests_are_made_than_the_peer_allows() {
    run(async {
        let limits = Limits { requests: 3, bytes: 1 << 20 };
        let (server, connection) =
            pair_with(Options { limits, ..Options::default() }, Options::default()).await;
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let connection = connection.clone();
                rt::spawn(async move {
                    connection.call(Call::new(Op::Read, read_body(1, 10), soon()).expecting(1)).await.unwrap()
                })
            })
            .collect();
        let mut most = 0;
        while server.echo.finished.get() < 20 {
            most = most.max(server.echo.served.get() - server.echo.finished.get());
            rt::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(most, 3);
        for call in calls {
            call.await.unwrap();
        }
        // Waiting for a place ends with the deadline.
        let busy: Vec<_> = (0..3)
            .map(|_| {
                let connection = connection.clone();
                rt::spawn(async move { connection.call(Call::new(Op::Flush, vec![], within(200))).await })
            })
            .collect();
        rt::yield_now().await;
        let waited = connection.call(Call::new(Op::Write, vec![], within(30))).await;
        assert!(matches!(waited, Err(CallError::Timeout)));
        for call in busy {
            assert!(matches!(call.await.unwrap(), Err(CallError::Timeout)));
        }
    });
}

#[test]
fn bytes_under_way_are_bounded_and_a_giant_goes_alone() {
    run(async {
        let limits = Limits { requests: 100, bytes: 64 << 10 };
        let (server, connection) =
            pair_with(Options { limits, ..Options::default() }, Options::default()).await;
        let giant =
            Call::new(Op::Write, vec![1], soon()).with_payload(pattern(1 << 20, 1)).expecting(1 << 20);
        let others = (0..10).map(|_| {
            Call::new(Op::Read, read_body(1, 5), soon()).with_payload(pattern(30_000, 2)).expecting(1)
        });
        let calls: Vec<_> = std::iter::once(giant)
            .chain(others)
            .map(|call| {
                let connection = connection.clone();
                rt::spawn(async move { connection.call(call).await.unwrap() })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap().status, Status::Ok);
        }
        assert_eq!(server.echo.served.get(), 11);
        // What the answers bring counts, too.
        let reads: Vec<_> = (0..6)
            .map(|_| {
                let connection = connection.clone();
                let call = Call::new(Op::Read, read_body(40_000, 20), soon()).expecting(40_000);
                rt::spawn(async move { connection.call(call).await.unwrap() })
            })
            .collect();
        let mut most = 0;
        while server.echo.finished.get() < 17 {
            most = most.max(server.echo.served.get() - server.echo.finished.get());
            rt::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(most, 1);
        for read in reads {
            assert_eq!(read.await.unwrap().payload.len(), 40_000);
        }
    });
}

#[test]
fn notices_are_handed_over_in_order() {
    run(async {
        let (server, connection) = pair().await;
        for _ in 0..100 {
            connection.notify(&Noise { noise: "x".repeat(100_000) }).await.unwrap();
        }
        connection.call(Call::new(Op::Write, vec![], soon())).await.unwrap();
        assert_eq!(server.echo.notices.borrow().len(), 100);
    });
}

/// A notice of no meaning to the connection itself.
#[derive(Clone, PartialEq, prost::Message)]
struct Noise {
    #[prost(string, tag = "1")]
    noise: String,
}

impl wire::Notice for Noise {
    const OP: Op = Op::Heartbeat;
}

#[test]
fn closing_finishes_what_was_begun() {
    run(async {
        let (server, connection) = pair().await;
        connection.call(Call::new(Op::GetMap, vec![], soon())).await.unwrap();
        let theirs = server.echo.held.borrow_mut().pop().unwrap();
        let read = {
            let connection = connection.clone();
            rt::spawn(async move {
                connection.call(Call::new(Op::Read, read_body(2 << 20, 400), soon()).expecting(2 << 20)).await
            })
        };
        rt::time::sleep(Duration::from_millis(20)).await;
        let closing = {
            let theirs = theirs.clone();
            rt::spawn(async move { theirs.close().await })
        };
        // Long enough for the goodbye to arrive, and short enough for the read still to run.
        rt::time::sleep(Duration::from_millis(150)).await;
        let refused = connection.call(Call::new(Op::Write, vec![], soon())).await;
        assert!(matches!(refused, Err(CallError::Disconnected(CloseReason::PeerStopping))), "{refused:?}");
        closing.await.unwrap();
        assert_eq!(read.await.unwrap().unwrap().payload.len(), 2 << 20, "it was running");
        assert!(matches!(theirs.closed().await, CloseReason::Local));
        assert!(matches!(connection.closed().await, CloseReason::PeerClosed));
        let after = connection.call(Call::new(Op::Write, vec![], soon())).await;
        assert!(matches!(after, Err(CallError::Disconnected(CloseReason::PeerClosed))), "{after:?}");
        assert!(!connection.is_open() && !theirs.is_open());
    });
}

#[test]
fn a_peer_that_says_goodbye_gets_no_more_requests_and_answers_the_old_ones() {
    run(async {
        let (server, connection) = pair().await;
        connection.call(Call::new(Op::GetMap, vec![], soon())).await.unwrap();
        let theirs = server.echo.held.borrow_mut().pop().unwrap();
        let read = {
            let connection = connection.clone();
            rt::spawn(async move {
                connection.call(Call::new(Op::Read, read_body(5, 300), soon()).expecting(5)).await
            })
        };
        rt::time::sleep(Duration::from_millis(10)).await;
        theirs.notify(&Goodbye::default()).await.unwrap();
        rt::time::sleep(Duration::from_millis(100)).await;
        let refused = connection.call(Call::new(Op::Write, vec![], soon())).await;
        assert!(matches!(refused, Err(CallError::Disconnected(CloseReason::PeerStopping))), "{refused:?}");
        assert_eq!(read.await.unwrap().unwrap().payload.len(), 5);
    });
}

#[test]
fn dropping_the_last_handle_closes() {
    run(async {
        let (server, connection) = pair().await;
        connection.call(Call::new(Op::GetMap, vec![], soon())).await.unwrap();
        let theirs = server.echo.held.borrow_mut().pop().unwrap();
        let waiting = {
            let connection = connection.clone();
            rt::spawn(async move {
                connection.call(Call::new(Op::Read, read_body(5, 30), soon()).expecting(5)).await
            })
        };
        drop(connection);
        assert!(waiting.await.unwrap().is_ok(), "a call holds its connection");
        assert!(matches!(theirs.closed().await, CloseReason::PeerClosed));
    });
}

#[test]
fn the_endpoint_closes_all_its_connections() {
    run(async {
        let (server, connection) = pair().await;
        server.endpoint.close().await;
        assert!(matches!(connection.closed().await, CloseReason::PeerClosed));
    });
}

#[test]
fn an_idle_connection_is_kept_alive_by_pings() {
    run(async {
        let options = Options {
            keepalive: Duration::from_millis(40),
            silence_max: Duration::from_millis(160),
            ..Options::default()
        };
        let (_server, connection) = pair_with(options.clone(), options).await;
        rt::time::sleep(Duration::from_millis(600)).await;
        assert!(connection.is_open());
        connection.call(Call::new(Op::Write, vec![], soon())).await.unwrap();
    });
}

#[test]
fn a_killed_peer_ends_every_call() {
    let authority = run(async { authority() });
    let pem = authority.to_pem();
    let (to_us, mut from_server) = rt::mailbox::channel(1);
    let (to_server, mut kill) = rt::mailbox::channel::<()>(1);
    let server = std::thread::Builder::new().spawn(move || {
        run(async move {
            let authority = crate::link::ClusterAuthority::from_pem(pem.as_bytes()).unwrap();
            let server = serve(endpoint(&authority, Role::Cs));
            to_us.send(server.address.clone()).await.unwrap();
            kill.recv().await;
        });
    });
    run(async move {
        let address = from_server.recv().await.unwrap();
        let connection =
            endpoint(&authority, Role::Client).connect(&address, Expect::role(Role::Cs)).await.unwrap();
        let calls: Vec<_> = (0..10)
            .map(|_| {
                let connection = connection.clone();
                rt::spawn(async move { connection.call(Call::new(Op::Flush, vec![], soon())).await })
            })
            .collect();
        connection.call(Call::new(Op::Write, vec![], soon())).await.unwrap();
        to_server.send(()).await.unwrap();
        let start = rt::time::now();
        for call in calls {
            let lost = call.await.unwrap();
            assert!(matches!(lost, Err(CallError::Disconnected(_))), "{lost:?}");
        }
        assert!(start.elapsed() < Duration::from_secs(2));
        assert!(!connection.is_open());
    });
    server.unwrap().join().unwrap();
}

#[test]
fn tasks_outlive_their_connection() {
    run(async {
        let (server, connection) = pair().await;
        let call = connection.call(Call::new(Op::Read, read_body(1, 80), soon()).expecting(1));
        assert!(rt::time::timeout(Duration::from_millis(20), call).await.is_err());
        assert_eq!((server.echo.served.get(), server.echo.finished.get()), (1, 0));
        drop(connection);
        rt::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(server.echo.finished.get(), 1);
    });
}

#[test]
fn typed_requests_are_answered_or_refused_in_type() {
    use wire::hello::Ping;
    run(async {
        let (_server, connection) = pair().await;
        connection.ask(&Ping {}, soon()).await.unwrap();
        let refused = connection.ask(&wire::namespace::Create::default(), soon()).await.unwrap_err();
        assert!(
            matches!(refused, crate::link::AskError::Status { status: Status::Unsupported, .. }),
            "{refused:?}"
        );
        let error = wire::ErrorBody { message: "no".into(), ..Default::default() };
        let response = Response::failure(Status::NotFound, &error);
        assert_eq!(wire::ErrorBody::lossy(&response.body), error);
    });
}

/// Counts how its work ends.
#[derive(Default)]
struct Patient {
    dropped: Cell<u32>,
    finished: Cell<u32>,
}

struct Work(Rc<Patient>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.dropped.set(self.0.dropped.get() + 1);
    }
}

impl Service for Patient {
    async fn serve(self: Rc<Self>, _connection: Connection, request: Request) -> Response {
        let work = Work(Rc::clone(&self));
        // A read waits for ever, a write for a while.
        if request.known_op() == Some(Op::Read) {
            std::future::pending::<()>().await;
        }
        rt::time::sleep(Duration::from_millis(100)).await;
        drop(work);
        self.finished.set(self.finished.get() + 1);
        Response::ok(Vec::new())
    }

    fn may_be_dropped(&self, request: &Request) -> bool {
        request.known_op() == Some(Op::Read)
    }
}

#[test]
fn work_for_a_dead_connection_is_dropped_where_that_is_allowed() {
    run(async {
        let authority = authority();
        let listener = rt::net::Listener::bind(&anywhere()).unwrap();
        let address = listener.local_address().unwrap();
        let (server, patient) = (endpoint(&authority, Role::Cs), Rc::new(Patient::default()));
        let service = Rc::clone(&patient);
        let _serving = rt::spawn(async move { server.serve(listener, service).await });
        let connection =
            endpoint(&authority, Role::Client).connect(&address, Expect::role(Role::Cs)).await.unwrap();
        let calls: Vec<_> = [Op::Read, Op::Read, Op::Write]
            .into_iter()
            .map(|op| {
                let connection = connection.clone();
                rt::spawn(async move { connection.call(Call::new(op, vec![], within(50))).await })
            })
            .collect();
        for call in calls {
            assert!(matches!(call.await.unwrap(), Err(CallError::Timeout)));
        }
        let (dropped, finished) = (patient.dropped.get(), patient.finished.get());
        assert_eq!(dropped, finished, "the connection lives: the answers may still be wanted");
        drop(connection);
        while patient.dropped.get() < 3 {
            rt::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(patient.finished.get(), 1, "what may not be dropped is finished");
    });
}
