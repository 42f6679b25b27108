//! The io_uring driver against the real kernel.

use std::rc::Rc;
use std::time::Duration;

use datapath_rt as rt;
use rt::buf::{Buf, View};
use rt::fs::{Allocation, File, OpenOptions};
use rt::net::{self, Address, Listener};
use rt::{Executor, ExecutorOptions};

fn run<F: Future + 'static>(main: F) -> F::Output {
    Executor::start(&ExecutorOptions::default()).expect("io_uring works here").run(main)
}

#[test]
fn files_are_written_synced_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/file");
    run(async move {
        rt::fs::create_dir_all(path.parent().unwrap()).await.unwrap();
        let file = File::open(&path, OpenOptions::direct().create_new()).await.unwrap();
        file.allocate(Allocation::Extend, 0, 1 << 20).await.unwrap();
        let mut buf = Buf::new(8192);
        buf.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
        let data = buf.freeze();
        file.write_all_at(data.clone(), 4096).await.unwrap();
        file.sync_data().await.unwrap();
        let (result, back) = file.read_exact_at(Buf::new(8192), 4096).await;
        result.unwrap();
        assert_eq!(&back[..], &data[..]);
        file.allocate(Allocation::Punch, 4096, 4096).await.unwrap();
        let (result, back) = file.read_exact_at(Buf::new(4096), 4096).await;
        result.unwrap();
        assert!(back.iter().all(|&byte| byte == 0));
        let (result, _) = file.read_exact_at(Buf::new(8192), (1 << 20) - 4096).await;
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
        assert_eq!(file.len().await.unwrap(), 1 << 20);
        assert!(file.try_lock().await.unwrap());
        let second = File::open(&path, OpenOptions::direct()).await.unwrap();
        assert!(!second.try_lock().await.unwrap(), "the lock is exclusive");
        let names = rt::fs::read_dir(path.parent().unwrap()).await.unwrap();
        assert_eq!(names.len(), 1);
        assert_eq!(names[0].name, "file");
    });
}

#[test]
fn replacing_a_small_file_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    run(async move {
        rt::fs::write_atomic(&path, b"one").await.unwrap();
        rt::fs::write_atomic(&path, b"two").await.unwrap();
        assert_eq!(rt::fs::read(&path).await.unwrap(), b"two");
        rt::fs::write_atomic(&path, b"").await.unwrap();
        assert_eq!(rt::fs::read(&path).await.unwrap(), b"");
    });
}

#[test]
fn timers_fire_in_order_and_dropping_them_is_free() {
    run(async {
        let start = rt::time::now();
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let tasks: Vec<_> = [30u64, 10, 20]
            .into_iter()
            .map(|ms| {
                let order = Rc::clone(&order);
                rt::spawn(async move {
                    rt::time::sleep(Duration::from_millis(ms)).await;
                    order.borrow_mut().push(ms);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.borrow(), [10, 20, 30]);
        assert!(start.elapsed() >= Duration::from_millis(30));
        let never = rt::time::timeout(Duration::from_millis(5), std::future::pending::<()>()).await;
        assert_eq!(never, Err(rt::time::Elapsed));
    });
}

async fn echo(mut listener: Listener) {
    while let Ok((mut reader, mut writer, _)) = listener.accept().await {
        rt::spawn(async move {
            while let Ok(Some(received)) = reader.recv().await {
                let copy = View::copy_of(&received);
                drop(received);
                if writer.send_all(copy).await.is_err() {
                    break;
                }
            }
        });
    }
}

fn pattern(len: usize, salt: u8) -> Buf {
    let mut buf = Buf::new(len);
    buf.iter_mut()
        .enumerate()
        .for_each(|(i, byte)| *byte = (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ salt);
    buf
}

async fn round_trips(address: Address) {
    let (mut reader, mut writer) = net::connect(&address).await.unwrap();
    for (round, len) in
        [1, 64, 4096, 16 << 10, 100_000, 1 << 20, 3, 40_000, 700_000, 64].into_iter().enumerate()
    {
        let data = pattern(len, round as u8).freeze();
        let send = data.clone();
        let sender = rt::spawn(async move {
            let half = send.len() / 2;
            writer.send_all_vectored(vec![send.slice(..half), send.slice(half..)]).await.unwrap();
            writer
        });
        let (result, back) = reader.recv_exact(Buf::new(len), 0).await;
        result.unwrap();
        assert_eq!(&back[..], &data[..], "round {round} of {len} bytes");
        writer = sender.await.unwrap();
    }
    writer.shutdown();
    assert!(reader.recv().await.unwrap().is_none());
}

#[test]
fn sockets_carry_every_size_over_tcp_and_unix() {
    let dir = tempfile::tempdir().unwrap();
    let unix = Address::Unix(dir.path().join("socket"));
    run(async move {
        for address in [
            "127.0.0.1:0".parse().map(Address::Tcp).unwrap(),
            "[::1]:0".parse().map(Address::Tcp).unwrap(),
            unix,
        ] {
            let listener = Listener::bind(&address).unwrap();
            let address = listener.local_address().unwrap();
            let server = rt::spawn(echo(listener));
            round_trips(address).await;
            server.abort();
        }
    });
}

#[test]
fn many_connections_share_few_receive_buffers() {
    let options = ExecutorOptions { recv_buffers: 2, ..ExecutorOptions::default() };
    Executor::start(&options).unwrap().run(async {
        let listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.local_address().unwrap();
        rt::spawn(echo(listener));
        let clients: Vec<_> = (0..20).map(|_| rt::spawn(round_trips(address.clone()))).collect();
        for client in clients {
            client.await.unwrap();
        }
    });
}

/// Both ends of a connection: what this side receives on, what the other sends on.
async fn pair() -> (net::Reader, net::Writer) {
    let mut listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let (reader, mut ours) = net::connect(&listener.local_address().unwrap()).await.unwrap();
    let (mut theirs, writer, _) = listener.accept().await.unwrap();
    // The halves not wanted stay open until the executor ends.
    rt::spawn(async move {
        std::future::pending::<()>().await;
        ours.shutdown();
        theirs.recv().await.unwrap();
    });
    (reader, writer)
}

/// Lets what has been sent arrive.
async fn settle() {
    rt::time::sleep(Duration::from_millis(20)).await;
}

#[test]
fn a_payload_may_have_arrived_almost_whole_before_it_is_asked_for() {
    run(async {
        let (mut reader, mut writer) = pair().await;
        writer.send_all(View::copy_of(b"a small message")).await.unwrap();
        assert_eq!(&reader.recv().await.unwrap().unwrap()[..], b"a small message");
        let data = pattern(20_000, 1).freeze();
        // Large when it is asked for, small once what is here has been taken.
        writer.send_all(data.slice(..10_000)).await.unwrap();
        settle().await;
        let rest = data.slice(10_000..);
        rt::spawn(async move {
            settle().await;
            writer.send_all(rest).await.unwrap();
        });
        let (result, back) = reader.recv_exact(Buf::new(20_000), 0).await;
        result.unwrap();
        assert_eq!(&back[..], &data[..]);
    });
}

#[test]
fn a_paused_reader_loses_nothing_and_keeps_no_shared_memory() {
    let options = ExecutorOptions { recv_buffers: 2, ..ExecutorOptions::default() };
    Executor::start(&options).unwrap().run(async {
        let data = pattern(50_000, 1).freeze();
        let mut paused = Vec::new();
        for _ in 0..4 {
            let (mut reader, mut writer) = pair().await;
            writer.send_all(data.slice(..10_000)).await.unwrap();
            let mut part = reader.recv().await.unwrap().unwrap();
            part.advance(1);
            settle().await;
            reader.pause(Some(part)).await.unwrap();
            reader.pause(None).await.unwrap();
            writer.send_all(data.slice(10_000..)).await.unwrap();
            writer.shutdown();
            paused.push(reader);
        }
        // All buffers are there for others.
        let (mut reader, mut writer) = pair().await;
        writer.send_all(data.clone()).await.unwrap();
        let mut received = Vec::new();
        while received.len() < data.len() {
            received.extend_from_slice(&reader.recv().await.unwrap().unwrap());
        }
        assert_eq!(received, data[..]);
        for mut reader in paused {
            let (result, back) = reader.recv_exact(Buf::new(data.len() - 1), 0).await;
            result.unwrap();
            assert_eq!(back[..], data[1..]);
            assert!(reader.recv().await.unwrap().is_none());
        }
    });
}

#[test]
fn a_dropped_receive_does_not_free_its_buffer_early() {
    run(async {
        let mut listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.local_address().unwrap();
        let (mut reader, _writer) = net::connect(&address).await.unwrap();
        let (_server_reader, mut server_writer, _) = listener.accept().await.unwrap();
        for _ in 0..50 {
            let direct = reader.recv_exact(Buf::new(1 << 16), 0);
            assert!(rt::time::timeout(Duration::from_micros(200), direct).await.is_err());
        }
        server_writer.send_all(View::copy_of(b"late")).await.unwrap();
    });
}

#[test]
fn connecting_to_nobody_is_refused() {
    run(async {
        let listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.local_address().unwrap();
        drop(listener);
        let error = net::connect(&address).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn blocking_work_and_mailboxes_cross_threads() {
    let (to_us, mut from_them) = rt::mailbox::channel::<u64>(4);
    let (to_them, mut from_us) = rt::mailbox::channel::<u64>(4);
    let other = std::thread::Builder::new().spawn(move || {
        Executor::start(&ExecutorOptions::default()).unwrap().run(async move {
            while let Some(number) = from_us.recv().await {
                to_us.send(number * 2).await.unwrap();
            }
        });
    });
    let sum = run(async move {
        let echo = rt::spawn(async move {
            let mut sum = 0;
            while let Some(number) = from_them.recv().await {
                sum += number;
            }
            sum
        });
        for number in 0..1000 {
            to_them.send(number).await.unwrap();
        }
        drop(to_them);
        let sum = echo.await.unwrap();
        assert_eq!(rt::blocking::run(move || sum).await.unwrap(), sum);
        sum
    });
    other.unwrap().join().unwrap();
    assert_eq!(sum, 999 * 1000);
}

#[test]
fn an_idle_executor_sleeps() {
    let enters = run(async {
        rt::time::sleep(Duration::from_millis(200)).await;
        rt::launch::enters()
    });
    assert!(enters < 10, "{enters} system calls while idle");
}

#[test]
fn aborting_a_task_frees_what_it_held() {
    run(async {
        let (sender, mut receiver) = rt::sync::channel::<u32>(1);
        let task = rt::spawn(async move {
            let _held = sender;
            std::future::pending::<()>().await;
        });
        rt::yield_now().await;
        task.abort();
        assert_eq!(receiver.recv().await, None);
        assert_eq!(task.await, Err(rt::JoinError::Aborted));
    });
}
