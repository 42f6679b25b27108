//! What a send costs with and without a copy, by size: processor time per MiB, over loopback.
//!
//! `cargo run --profile ci -p datapath-rt --example send_cost`
//!
//! Over loopback the kernel copies a "zero-copy" send after all, when it hands it to the receiver. So the difference of
//! the two is what zero-copy adds; what it would save on a network card is the copy, measured beside it. Rounds of all
//! kinds are interleaved, and the median of each is taken.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use datapath_rt as rt;
use rt::buf::{Buf, View};
use rt::net::{self, Address, Reader, Writer};
use rt::{Executor, ExecutorOptions};
use rustix::time::{ClockId, clock_gettime};

/// Sizes of the sends, in bytes.
const SIZES: [usize; 9] =
    [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20];
/// Bytes sent in one round.
const ROUND: usize = 64 << 20;
/// Rounds of each kind.
const ROUNDS: usize = 9;
/// Memory the sends rotate through, in bytes: more than the caches next to a core hold.
const WORKING_SET: usize = 16 << 20;

/// Microseconds of processor time.
fn micros(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Takes everything, and tells after each round.
fn receive(mut socket: TcpStream) {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let mut left = ROUND;
        while left > 0 {
            let most = buffer.len().min(left);
            match socket.read(&mut buffer[..most]) {
                Ok(count @ 1..) => left -= count,
                _ => return,
            }
        }
        if socket.write_all(b"!").is_err() {
            return;
        }
    }
}

/// Processor time of one round, in microseconds per MiB: of the whole process, and of the sending thread.
async fn round(reader: &mut Reader, writer: &mut Writer, views: &[View], zero_copy_min: usize) -> [f64; 2] {
    writer.set_zero_copy_min(zero_copy_min);
    let before = [micros(ClockId::ProcessCPUTime), micros(ClockId::ThreadCPUTime)];
    let mut left = ROUND;
    for view in views.iter().cycle() {
        writer.send_all(view.clone()).await.expect("sent");
        left -= view.len();
        if left == 0 {
            break;
        }
    }
    reader.recv().await.expect("received").expect("the end of the round");
    let after = [micros(ClockId::ProcessCPUTime), micros(ClockId::ThreadCPUTime)];
    let mib = (ROUND >> 20) as f64;
    [(after[0] - before[0]) / mib, (after[1] - before[1]) / mib]
}

/// Processor time of copying memory, in microseconds per MiB.
fn copy(views: &[View], target: &mut [u8]) -> f64 {
    let before = micros(ClockId::ThreadCPUTime);
    let mut left = ROUND;
    for (at, view) in views.iter().cycle().enumerate() {
        let at = at * view.len() % target.len();
        target[at..at + view.len()].copy_from_slice(view);
        left -= view.len();
        if left == 0 {
            break;
        }
    }
    std::hint::black_box(target);
    (micros(ClockId::ThreadCPUTime) - before) / (ROUND >> 20) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn measure() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = Address::Tcp(listener.local_addr().expect("bound"));
    let (mut reader, mut writer) = net::connect(&address).await.expect("a connection");
    let socket = listener.accept().expect("a connection").0;
    let receiver = std::thread::Builder::new().spawn(move || receive(socket)).expect("a thread");
    println!(
        "CPU-us per MiB, median of {ROUNDS} rounds of {} MiB; in brackets the sending thread",
        ROUND >> 20
    );
    println!("{:>9} {:>17} {:>17} {:>8} {:>20}", "size", "SEND", "SEND_ZC", "memcpy", "ZC adds, us per send");
    let mut target = vec![1; WORKING_SET];
    for size in SIZES {
        let views: Vec<View> = (0..WORKING_SET / size)
            .map(|_| {
                let mut buf = Buf::new(size);
                buf.fill(7);
                buf.freeze()
            })
            .collect();
        let (mut plain, mut zero, mut copied) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            plain.push(round(&mut reader, &mut writer, &views, usize::MAX).await);
            zero.push(round(&mut reader, &mut writer, &views, 1).await);
            copied.push(copy(&views, &mut target));
        }
        let of =
            |rounds: &[[f64; 2]], which: usize| median(rounds.iter().map(|round| round[which]).collect());
        let [plain, zero] = [plain, zero].map(|rounds| [of(&rounds, 0), of(&rounds, 1)]);
        let adds = (zero[0] - plain[0]) * size as f64 / (1 << 20) as f64;
        println!(
            "{:>5} KiB {:>8.0} ({:>6.0}) {:>8.0} ({:>6.0}) {:>8.0} {adds:>20.2}",
            size >> 10,
            plain[0],
            plain[1],
            zero[0],
            zero[1],
            median(copied)
        );
    }
    writer.shutdown();
    rt::blocking::run(move || receiver.join().expect("it ends")).await.expect("a thread");
}

fn main() {
    let options = ExecutorOptions::default();
    Executor::start(&options).expect("io_uring works here").run(measure());
}
