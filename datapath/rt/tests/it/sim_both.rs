//! The same programs on both drivers give the same results.

use std::cell::RefCell;
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use datapath_rt as rt;
use rt::buf::{Buf, View};
use rt::fs::{Allocation, File, OpenOptions};
use rt::net::{self, Address, Listener};
use rt::{Executor, ExecutorOptions};

use crate::sim_world::{blocks, host, on, world};

/// How a connection fails once its listener, whose close takes a moment on the ring, is gone.
async fn refusal(address: &Address) -> Option<ErrorKind> {
    for _ in 0..1000 {
        // Until then it is accepted, and perhaps reset.
        match net::connect(address).await {
            Err(error) if error.kind() != ErrorKind::NotConnected => return Some(error.kind()),
            _ => {}
        }
        rt::time::sleep(Duration::from_millis(1)).await;
    }
    None
}

/// Runs `program` in a directory of its own on the ring and on some simulated worlds; what it gives must be the same.
fn both<F, T>(program: impl Fn(PathBuf) -> F + Clone + 'static)
where
    F: Future<Output = T> + 'static,
    T: PartialEq + std::fmt::Debug + 'static,
{
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let real = Executor::start(&ExecutorOptions::default()).unwrap().run(program(dir.path().to_owned()));
    for seed in 0..20 {
        let program = program.clone();
        let simulated = world(seed, async move {
            let run = async move {
                rt::fs::create_dir_all(Path::new("/somewhere/dir")).await.unwrap();
                program(PathBuf::from("/somewhere/dir")).await
            };
            on(host(), run).await
        });
        assert!(simulated == real, "seed {seed}:\n{simulated:.200?}\n{real:.200?}");
    }
}

fn kind<T>(result: std::io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn files() {
    both(|dir| async move {
        let path = dir.join("a/b/file");
        rt::fs::create_dir_all(path.parent().unwrap()).await.unwrap();
        rt::fs::create_dir_all(path.parent().unwrap()).await.unwrap();
        let file = File::open(&path, OpenOptions::direct().create_new()).await.unwrap();
        let mut sizes = vec![file.len().await.unwrap()];
        file.allocate(Allocation::Reserve, 0, 64 << 10).await.unwrap();
        sizes.push(file.len().await.unwrap());
        file.allocate(Allocation::Extend, 0, 32 << 10).await.unwrap();
        sizes.push(file.len().await.unwrap());
        file.write_all_at(blocks(7, 4), 8192).await.unwrap();
        file.write_all_at(blocks(8, 1), 48 << 10).await.unwrap();
        file.sync_data().await.unwrap();
        sizes.push(file.len().await.unwrap());
        file.allocate(Allocation::Punch, 12 << 10, 4096).await.unwrap();
        file.allocate(Allocation::Zero, 16 << 10, 4096).await.unwrap();
        file.set_len(50 << 10).await.unwrap();
        file.set_len(60 << 10).await.unwrap();
        sizes.push(file.len().await.unwrap());
        let (result, all) = file.read_at(Buf::new(64 << 10), 0).await;
        let errors = [
            kind(file.read_exact_at(Buf::new(8192), 56 << 10).await.0),
            kind(File::open(&path, OpenOptions::direct().create_new()).await),
            kind(File::open(&dir.join("none"), OpenOptions::read()).await),
            kind(File::open(&path.join("below"), OpenOptions::read()).await),
            kind(rt::fs::remove_file(&dir.join("a")).await),
            kind(rt::fs::remove_file(&dir.join("none")).await),
            kind(rt::fs::rename(&dir.join("none"), &dir.join("x")).await),
            kind(File::open(&path, OpenOptions::read()).await.unwrap().write_all_at(blocks(1, 1), 0).await),
        ];
        (sizes, result.unwrap(), all[..60 << 10].to_vec(), errors)
    });
}

#[test]
fn names() {
    both(|dir| async move {
        rt::fs::write_atomic(&dir.join("one"), b"1").await.unwrap();
        rt::fs::write_atomic(&dir.join("one"), b"one").await.unwrap();
        rt::fs::write_atomic(&dir.join("empty"), b"").await.unwrap();
        rt::fs::create_dir_all(&dir.join("sub/below")).await.unwrap();
        rt::fs::rename(&dir.join("one"), &dir.join("sub/moved")).await.unwrap();
        rt::fs::write_atomic(&dir.join("two"), b"two").await.unwrap();
        rt::fs::rename(&dir.join("two"), &dir.join("empty")).await.unwrap();
        rt::fs::rename(&dir.join("sub/below"), &dir.join("sub/other")).await.unwrap();
        let open = File::open(&dir.join("empty"), OpenOptions::read()).await.unwrap();
        let listing =
            (rt::fs::read_dir(&dir).await.unwrap(), rt::fs::read_dir(&dir.join("sub")).await.unwrap());
        rt::fs::remove_file(&dir.join("empty")).await.unwrap();
        let (result, unlinked) = open.read_exact_at(Buf::new(3), 0).await;
        result.unwrap();
        let contents = (rt::fs::read(&dir.join("sub/moved")).await.unwrap(), unlinked.to_vec());
        let there = [
            rt::fs::exists(&dir.join("sub/moved")).await.unwrap(),
            rt::fs::exists(&dir.join("sub/below")).await.unwrap(),
            rt::fs::exists(&dir.join("empty")).await.unwrap(),
        ];
        rt::fs::sync_dir(&dir).await.unwrap();
        (listing, contents, there)
    });
}

#[test]
fn locks() {
    both(|dir| async move {
        let path = dir.join("lock");
        let first = File::open(&path, OpenOptions::read().create()).await.unwrap();
        let second = File::open(&path, OpenOptions::read()).await.unwrap();
        let mut got = vec![first.try_lock().await.unwrap(), second.try_lock().await.unwrap()];
        got.push(first.try_lock().await.unwrap());
        drop(first);
        // A close on the ring may take a moment.
        let mut tries = 0;
        while !second.try_lock().await.unwrap() {
            tries += 1;
            assert!(tries < 1000, "the lock is never free");
            rt::time::sleep(Duration::from_millis(1)).await;
        }
        got
    });
}

fn pattern(len: usize, salt: u8) -> View {
    let mut buf = Buf::new(len);
    buf.iter_mut()
        .enumerate()
        .for_each(|(i, byte)| *byte = (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ salt);
    buf.freeze()
}

async fn echo(mut listener: Listener) {
    while let Ok((mut reader, mut writer, _)) = listener.accept().await {
        rt::spawn(async move {
            while let Ok(Some(received)) = reader.recv().await {
                if writer.send_all(View::copy_of(&received)).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn round_trips(address: Address) -> Vec<bool> {
    let (mut reader, mut writer) = net::connect(&address).await.unwrap();
    let mut same = Vec::new();
    for (round, len) in [1, 64, 4096, 100_000, 1 << 20, 3, 3 << 20].into_iter().enumerate() {
        let data = pattern(len, round as u8);
        let send = data.clone();
        let sender = rt::spawn(async move {
            let half = send.len() / 2;
            writer.send_all_vectored(vec![send.slice(..half), send.slice(half..)]).await.unwrap();
            writer
        });
        let (result, back) = reader.recv_exact(Buf::new(len), 0).await;
        result.unwrap();
        same.push(back[..] == data[..]);
        writer = sender.await.unwrap();
    }
    writer.shutdown();
    same.push(reader.recv().await.unwrap().is_none());
    same
}

#[test]
fn sockets() {
    both(|dir| async move {
        let mut same = Vec::new();
        let tcp = |text: &str| Address::Tcp(text.parse::<SocketAddr>().unwrap());
        let unix = Address::Unix(dir.join("socket"));
        for address in [tcp("127.0.0.1:0"), tcp("[::1]:0"), unix.clone()] {
            let listener = Listener::bind(&address).unwrap();
            let address = listener.local_address().unwrap();
            let taken = kind(Listener::bind(&address));
            let server = rt::spawn(echo(listener));
            let clients: Vec<_> = (0..3).map(|_| rt::spawn(round_trips(address.clone()))).collect();
            for client in clients {
                same.push(client.await.unwrap());
            }
            server.abort();
            let _aborted = server.await;
            same.push(vec![taken == Some(ErrorKind::AddrInUse)]);
        }
        // The name of a socket outlives it, and must be removed before it can be used again.
        let stale = (refusal(&unix).await, kind(Listener::bind(&unix)));
        rt::fs::remove_file(&dir.join("socket")).await.unwrap();
        let gone = (kind(net::connect(&unix).await), kind(Listener::bind(&unix)));
        let elsewhere = kind(Listener::bind(&tcp("203.0.113.7:0")));
        (same, stale, gone, elsewhere)
    });
}

#[test]
fn ends_of_streams() {
    both(|_| async move {
        let mut listener = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.local_address().unwrap();
        let (mut reader, mut writer) = net::connect(&address).await.unwrap();
        let (mut their_reader, mut their_writer, peer) = listener.accept().await.unwrap();
        assert!(matches!(peer, Address::Tcp(peer) if peer.ip().is_loopback() && peer.port() != 0));
        // Dropping one half changes nothing.
        their_writer.send_all(View::copy_of(b"last words")).await.unwrap();
        drop(their_writer);
        let (result, words) = reader.recv_exact(Buf::new(10), 0).await;
        result.unwrap();
        writer.send_all(View::copy_of(b"x")).await.unwrap();
        let heard = their_reader.recv().await.unwrap().map(|bytes| bytes.to_vec());
        drop(their_reader);
        let end = reader.recv().await.unwrap().is_none();
        let (short, _) = reader.recv_exact(Buf::new(1), 0).await;
        // The other side is gone: sooner or later sending fails.
        let mut failed = false;
        for _ in 0..200 {
            failed |= writer.send_all(View::copy_of(&[0; 1000])).await.is_err();
            rt::time::sleep(Duration::from_micros(100)).await;
        }
        drop(listener);
        (words.to_vec(), heard, end, kind(short), failed, refusal(&address).await)
    });
}

#[test]
fn timers_tasks_and_channels() {
    both(|_| async move {
        let order = Rc::new(RefCell::new(Vec::new()));
        let (sender, mut receiver) = rt::sync::channel::<u64>(2);
        for ms in [30u64, 10, 20] {
            let (order, sender) = (Rc::clone(&order), sender.clone());
            rt::spawn(async move {
                rt::time::sleep(Duration::from_millis(ms)).await;
                order.borrow_mut().push(ms);
                sender.send(ms).await.unwrap();
            });
        }
        drop(sender);
        let mut sum = 0;
        while let Some(ms) = receiver.recv().await {
            sum += ms;
        }
        let late = rt::time::timeout(Duration::from_millis(2), std::future::pending::<()>()).await;
        let blocking = rt::blocking::run(|| 6 * 7).await.unwrap();
        let (to_us, mut from_them) = rt::mailbox::channel(1);
        rt::spawn(async move {
            for number in 0..10 {
                to_us.send(number).await.unwrap();
            }
        });
        let mut numbers = Vec::new();
        while let Some(number) = from_them.recv().await {
            numbers.push(number);
        }
        let task = rt::spawn(std::future::pending::<()>());
        rt::yield_now().await;
        task.abort();
        let aborted = task.await;
        let order = order.borrow().clone();
        (order, sum, late, blocking, numbers, aborted)
    });
}

#[test]
fn every_ready_task_runs_before_one_runs_twice() {
    both(|_| async move {
        let ran = Rc::new(RefCell::new(vec![0u32; 50]));
        for task in 0..50 {
            let ran = Rc::clone(&ran);
            rt::spawn(async move {
                loop {
                    ran.borrow_mut()[task] += 1;
                    rt::yield_now().await;
                }
            });
        }
        let mut fair = true;
        for _ in 0..20 {
            rt::yield_now().await;
            let ran = ran.borrow();
            fair &= ran.iter().max().unwrap() - ran.iter().min().unwrap() <= 1;
        }
        fair
    });
}
