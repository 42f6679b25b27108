//! How fast it is here: printed, never asserted. Run with `--nocapture`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::link::{Call, Connection};
use rt::buf::View;
use wire::Op;
use crate::world::{pair, pattern, run, soon};

fn cpu() -> Duration {
    let used = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = used.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn measure(connection: &Connection, depth: u32, total: u32, payload: View) -> (Duration, Duration) {
    let left = Rc::new(Cell::new(total));
    let (start, cpu_before) = (rt::time::now(), cpu());
    let callers: Vec<_> = (0..depth)
        .map(|_| {
            let (connection, left, payload) = (connection.clone(), Rc::clone(&left), payload.clone());
            rt::spawn(async move {
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    // The service answers an unknown operation with a status alone, as a write is answered.
                    let call = Call::new(Op::SetAttr, vec![0; 96], soon()).with_payload(payload.clone());
                    connection.call(call).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    (start.elapsed(), cpu() - cpu_before)
}

#[test]
fn calls_per_second() {
    run(async {
        let (_server, connection) = pair().await;
        for (len, depth, total) in [(4096, 1, 20_000), (4096, 32, 60_000), (1 << 20, 4, 600)] {
            let payload = pattern(len, 1);
            measure(&connection, depth, total / 10, payload.clone()).await;
            let enters = rt::launch::enters();
            let (time, cpu) = measure(&connection, depth, total, payload).await;
            let enters = rt::launch::enters() - enters;
            println!(
                "{len} bytes at depth {depth}: {:.0} calls/s, {:.1} us each, {:.1} us CPU (both ends on one executor), \
                 {:.2} enters per call",
                f64::from(total) / time.as_secs_f64(),
                time.as_secs_f64() * 1e6 / f64::from(total),
                cpu.as_secs_f64() * 1e6 / f64::from(total),
                enters as f64 / f64::from(total),
            );
        }
    });
}
