//! The io_uring driver where it gets narrow: full queues, no buffers, peers that vanish, futures that are dropped.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use datapath_rt as rt;
use rt::buf::{Buf, View};
use rt::fs::{File, OpenOptions};
use rt::net::{self, Address, Listener, Reader, Writer};
use rt::{Executor, ExecutorOptions};

fn start(options: ExecutorOptions) -> Executor {
    Executor::start(&options).expect("io_uring works here")
}

fn run<F: Future + 'static>(main: F) -> F::Output {
    start(ExecutorOptions::default()).run(main)
}

fn pattern(len: usize, salt: u8) -> View {
    let mut buf = Buf::new(len);
    buf.iter_mut()
        .enumerate()
        .for_each(|(i, byte)| *byte = (i as u8).wrapping_mul(29) ^ (i >> 8) as u8 ^ salt);
    buf.freeze()
}

/// Polls a future once and drops it.
async fn give_up<F: Future>(future: F) {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _given_up = future.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}

/// A connection whose other end is a plain socket.
async fn with_plain() -> (Reader, Writer, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (reader, writer) = net::connect(&Address::Tcp(listener.local_addr().unwrap())).await.unwrap();
    let (plain, _) = listener.accept().unwrap();
    (reader, writer, plain)
}

/// Ends a connection by a reset.
fn reset(socket: TcpStream) {
    let linger = Some(Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(&socket, linger).unwrap();
    drop(socket);
}

#[test]
fn queues_of_four_entries_carry_hundreds_of_operations() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    // The submission queue is full after 4, the completion queue after 16; more than that completes at once.
    let options = ExecutorOptions { ring_entries: 4, ..ExecutorOptions::default() };
    start(options).run(async move {
        let options = OpenOptions { write: true, create_new: true, ..OpenOptions::default() };
        let file = Rc::new(File::open(&path, options).await.unwrap());
        let mut writes = Vec::new();
        for at in 0..300u64 {
            let file = Rc::clone(&file);
            writes.push(rt::spawn(async move {
                file.write_all_at(pattern(512, at as u8), at * 512).await.unwrap();
                rt::time::sleep(Duration::from_millis(at % 3)).await;
                let (result, back) = file.read_exact_at(Buf::new(512), at * 512).await;
                result.unwrap();
                assert_eq!(back[..], pattern(512, at as u8)[..], "{at}");
            }));
        }
        for write in writes {
            write.await.unwrap();
        }
    });
}

#[test]
fn operations_given_up_complete_alone_and_keep_their_buffers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let text = path.clone();
    let options = ExecutorOptions { ring_entries: 8, ..ExecutorOptions::default() };
    start(options).run(async move {
        let options = OpenOptions { write: true, create_new: true, ..OpenOptions::default() };
        let file = File::open(&path, options).await.unwrap();
        for at in 0..200u64 {
            give_up(file.write_all_at(pattern(4096, at as u8), at * 4096)).await;
            give_up(file.read_exact_at(Buf::new(4096), at * 4096)).await;
            // Would lie where the given-up buffer lies if that were free.
            Buf::new(4096).fill(0xee);
        }
        // The executor ends only after the last of them.
    });
    let written = std::fs::read(text).unwrap();
    for at in 0..200 {
        assert!(written[at * 4096..][..4096] == pattern(4096, at as u8)[..], "write {at}");
    }
}

#[test]
fn a_receive_given_up_after_a_large_payload_loses_nothing() {
    run(async {
        let (mut reader, _writer, mut plain) = with_plain().await;
        let data = pattern(100_000, 1);
        let copy = data.to_vec();
        let sender = std::thread::Builder::new().spawn(move || {
            plain.write_all(&copy).unwrap();
            plain
        });
        let (result, back) = reader.recv_exact(Buf::new(100_000), 0).await;
        result.unwrap();
        assert_eq!(back[..], data[..]);
        let mut plain = rt::blocking::run(move || sender.unwrap().join().unwrap()).await.unwrap();
        // It expects another payload, and arms a single receive. Given up with the data on its way.
        for round in 0..50u8 {
            give_up(reader.recv()).await;
            plain.write_all(&[round; 10]).unwrap();
            rt::yield_now().await;
            give_up(reader.recv()).await;
            let mut have = 0;
            while have < 10 {
                let part = reader.recv().await.unwrap().unwrap();
                assert!(part.iter().all(|&byte| byte == round));
                have += part.len();
            }
            if round % 10 == 0 {
                plain.write_all(&data).unwrap();
                let (result, back) = reader.recv_exact(Buf::new(100_000), 0).await;
                result.unwrap();
                assert_eq!(back[..], data[..]);
            }
        }
    });
}

#[test]
fn who_waits_for_a_buffer_sleeps() {
    let options = ExecutorOptions { recv_buffers: 2, ..ExecutorOptions::default() };
    start(options).run(async {
        let (mut hoarder, _w, mut plain) = with_plain().await;
        // It has asked for data once and does not come back for it: both buffers wait in its receive.
        give_up(hoarder.recv()).await;
        for part in [[1; 10], [2; 10]] {
            rt::time::sleep(Duration::from_millis(5)).await;
            plain.write_all(&part).unwrap();
        }
        rt::time::sleep(Duration::from_millis(20)).await;
        let (mut other, _w, mut to_other) = with_plain().await;
        to_other.write_all(b"hello").unwrap();
        let before = rt::launch::enters();
        assert!(rt::time::timeout(Duration::from_millis(100), other.recv()).await.is_err());
        let enters = rt::launch::enters() - before;
        assert!(enters < 20, "{enters} system calls while it waits for a buffer");
        assert_eq!(hoarder.recv().await.unwrap().unwrap()[..], [1; 10]);
        assert_eq!(other.recv().await.unwrap().unwrap()[..], *b"hello");
    });
}

#[test]
fn who_resets_at_once_is_an_ordinary_broken_connection() {
    run(async {
        // As the side that connects.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let resetter = std::thread::Builder::new().spawn(move || {
            for _ in 0..200 {
                reset(listener.accept().unwrap().0);
            }
        });
        for _ in 0..200 {
            let error = match net::connect(&address).await {
                Ok((mut reader, _writer)) => reader.recv().await.map(drop).unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        rt::blocking::run(move || resetter.unwrap().join().unwrap()).await.unwrap();
        // As the side that accepts: they are passed over, and the next one is served.
        let mut listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let Address::Tcp(to) = listener.local_address().unwrap() else { unreachable!("it is TCP") };
        for _ in 0..20 {
            reset(TcpStream::connect(to).unwrap());
        }
        let mut honest = TcpStream::connect(to).unwrap();
        let honest_at = Address::Tcp(honest.local_addr().unwrap());
        let (_reader, mut writer, from) = listener.accept().await.unwrap();
        assert_eq!(from, honest_at);
        writer.send_all(View::copy_of(b"you")).await.unwrap();
        let mut received = [0; 3];
        honest.read_exact(&mut received).unwrap();
    });
}

#[test]
fn zero_copy_sends_arrive_whole_though_their_buffers_are_dropped() {
    run(async {
        let (_reader, mut writer, mut plain) = with_plain().await;
        writer.set_zero_copy_min(1);
        for round in 0..20 {
            writer.send_all(pattern(1000, round)).await.unwrap();
            // Would lie where the sent data lies if that were free.
            Buf::new(1000).fill(0xee);
        }
        // Given up in the middle: what has left is whole.
        give_up(writer.send_all(pattern(1000, 20))).await;
        rt::time::sleep(Duration::from_millis(10)).await;
        let received = rt::blocking::run(move || {
            let mut received = vec![0; 21 * 1000];
            plain.read_exact(&mut received).unwrap();
            received
        });
        for (round, part) in received.await.unwrap().chunks(1000).enumerate() {
            assert!(part == &pattern(1000, round as u8)[..], "send {round}");
        }
    });
}

#[test]
fn an_executor_ends_though_work_that_blocks_goes_on() {
    let (tell, told) = std::sync::mpsc::channel();
    run(async move {
        let work = rt::blocking::run(move || {
            // Until the executor has ended and says so.
            told.recv_timeout(Duration::from_secs(20)).unwrap()
        });
        give_up(work).await;
        let (begun, begins) = std::sync::mpsc::channel();
        let waker = rt::spawn(rt::blocking::run(move || begun.send(()).unwrap()));
        rt::blocking::run(move || begins.recv().unwrap()).await.unwrap();
        waker.await.unwrap().unwrap();
    });
    // Its end wakes a task of an executor that is gone.
    tell.send(()).unwrap();
    assert_eq!(run(rt::blocking::run(|| 7)).unwrap(), 7);
}
