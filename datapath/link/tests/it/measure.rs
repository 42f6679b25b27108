//! How fast it is here: printed, never asserted. Run with `--nocapture`, alone.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rt::buf::View;
use wire::Op;
use wire::hello::Role;

use crate::link::{Call, ClusterAuthority, Connection, Expect};
use crate::world::{authority, endpoint, pair, pattern, read_body, run, serve, soon};

/// Processor time of this process so far, all threads.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|&at| fields[at].parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

#[derive(Clone, Copy)]
enum Kind {
    /// A payload there, a status back.
    Write,
    /// A small request there, a payload back.
    Read,
}

fn call(kind: Kind, payload: &View) -> Call {
    match kind {
        // The service answers an unknown operation with a status alone, as a write is answered.
        Kind::Write => Call::new(Op::SetAttr, vec![0; 96], soon()).with_payload(payload.clone()),
        Kind::Read => {
            Call::new(Op::Read, read_body(payload.len() as u32, 0), soon()).expecting(payload.len())
        }
    }
}

async fn repeat(connection: &Connection, kind: Kind, depth: u32, total: u32, payload: &View) {
    let left = Rc::new(Cell::new(total));
    let callers: Vec<_> = (0..depth)
        .map(|_| {
            let (connection, left, payload) = (connection.clone(), Rc::clone(&left), payload.clone());
            rt::spawn(async move {
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    connection.call(call(kind, &payload)).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

async fn measure(name: &str, connection: &Connection) {
    let table = [
        ("write", Kind::Write, 4096, 1, 5_000),
        ("write", Kind::Write, 4096, 32, 20_000),
        ("read", Kind::Read, 4096, 1, 5_000),
        ("read", Kind::Read, 4096, 32, 20_000),
        ("write", Kind::Write, 1 << 20, 4, 150),
    ];
    for (what, kind, len, depth, total) in table {
        let payload = pattern(len, 1);
        repeat(connection, kind, depth, total / 10, &payload).await;
        let (start, cpu_before) = (rt::time::now(), cpu());
        repeat(connection, kind, depth, total, &payload).await;
        let (time, cpu) = (start.elapsed().as_secs_f64(), (cpu() - cpu_before).as_secs_f64());
        let total = f64::from(total);
        println!(
            "{name}: {what} {len} at depth {depth}: {:.0} calls/s, {:.1} us each, {:.1} us CPU per call of both ends",
            total / time,
            time * 1e6 / total,
            cpu * 1e6 / total,
        );
    }
}

#[test]
fn calls_per_second() {
    run(async {
        let (_server, connection) = pair().await;
        measure("one thread", &connection).await;
    });
    let authority = run(async { authority() });
    let pem = authority.to_pem();
    let (to_us, mut from_server) = rt::mailbox::channel(1);
    let (to_server, mut stop) = rt::mailbox::channel::<()>(1);
    let server = std::thread::Builder::new().spawn(move || {
        run(async move {
            let authority = ClusterAuthority::from_pem(pem.as_bytes()).unwrap();
            let server = serve(endpoint(&authority, Role::Cs));
            to_us.send(server.address.clone()).await.unwrap();
            stop.recv().await;
        });
    });
    run(async move {
        let address = from_server.recv().await.unwrap();
        let connection =
            endpoint(&authority, Role::Client).connect(&address, Expect::default()).await.unwrap();
        measure("two threads", &connection).await;
        to_server.send(()).await.unwrap();
    });
    server.unwrap().join().unwrap();
}
