//! The load against a server in memory, honest or not.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use super::*;

const BYTES: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// A volume in memory behind a socket of its own.
struct Memory {
    socket: PathBuf,
    content: Arc<Mutex<Vec<u8>>>,
}

impl Memory {
    /// `reads_zeroes_at` makes reads that begin there find zeroes.
    fn serve(name: &str, reads_zeroes_at: Option<u64>) -> Self {
        let socket = std::env::temp_dir().join(format!("vstorage-load-{name}-{}", std::process::id()));
        let _old = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket");
        let content = Arc::new(Mutex::new(vec![0; BYTES as usize]));
        let shared = Arc::clone(&content);
        let serve = move || {
            for mut stream in listener.incoming().flatten() {
                // It ends with its client.
                let _gone = speak(&mut stream, &shared, reads_zeroes_at);
            }
        };
        std::thread::Builder::new().spawn(serve).expect("a thread");
        Self { socket, content }
    }

    fn connect(&self) -> Client {
        let client = Client::connect(&self.socket, PATIENCE).expect("it greets");
        assert_eq!(client.size(), BYTES);
        client
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn speak(
    stream: &mut UnixStream,
    content: &Mutex<Vec<u8>>,
    reads_zeroes_at: Option<u64>,
) -> std::io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    stream.read_exact(&mut [0; 4 + 22])?;
    for (kind, data) in [(3_u32, [&[0, 0][..], &BYTES.to_be_bytes(), &[0, 0x6d]].concat()), (1, Vec::new())] {
        let mut reply = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
        reply.extend([0, 0, 0, 7]);
        reply.extend(kind.to_be_bytes());
        reply.extend((data.len() as u32).to_be_bytes());
        reply.extend(data);
        stream.write_all(&reply)?;
    }
    loop {
        let mut header = [0; 28];
        stream.read_exact(&mut header)?;
        let number =
            |range: Range<usize>| header[range].iter().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
        let (kind, offset, len) = (number(6..8), number(16..24), number(24..28) as usize);
        let mut payload = vec![0; if kind == 1 { len } else { 0 }];
        stream.read_exact(&mut payload)?;
        let mut reply = 0x6744_6698_u32.to_be_bytes().to_vec();
        reply.extend([0; 4]);
        reply.extend(&header[8..16]);
        let mut content = content.lock().expect("no panic");
        match kind {
            0 if reads_zeroes_at == Some(offset) => reply.extend(vec![0; len]),
            0 => reply.extend(&content[offset as usize..][..len]),
            1 => content[offset as usize..][..len].copy_from_slice(&payload),
            4 | 6 => content[offset as usize..][..len].fill(0),
            _ => {}
        }
        drop(content);
        stream.write_all(&reply)?;
    }
}

/// Runs a load for so many answers.
fn run_for(load: &mut Load, client: &mut Client, answers: u64) -> Result<(), LoadError> {
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| load.run(client, &progress));
        progress.advances(answers, PATIENCE);
        progress.stop();
        running.join().expect("no panic")
    })
}

#[test]
fn an_honest_volume_passes_and_one_that_forgets_does_not() {
    let memory = Memory::serve("honest", None);
    let mut load = Load::new(1, 0..BYTES, 4096);
    let mut client = memory.connect();
    run_for(&mut load, &mut client, 1500).expect("no error");
    let counts = load.counts();
    assert!(counts.writes > 0 && counts.flushes > 0 && counts.zeroings > 0 && counts.reads > 0, "{counts:?}");
    assert_eq!(load.judge_acknowledged(&mut client).expect("readable"), []);
    assert_eq!(load.judge(&mut client).expect("readable"), []);
    // What was judged must stay.
    memory.content.lock().expect("no panic").fill(0);
    let violations = load.judge(&mut client).expect("readable");
    assert!(violations.len() > 50, "{}", violations.len());
    assert!(violations.iter().all(|violation| matches!(violation, Violation::Lost { .. })));
}

#[test]
fn a_stale_read_is_noticed_at_once() {
    let memory = Memory::serve("stale", Some(0));
    let mut load = Load::new(2, 0..(128 << 10), 512);
    let outcome = run_for(&mut load, &mut memory.connect(), 20_000);
    assert!(matches!(outcome, Err(LoadError::Violation(Violation::Lost { block: 0.., .. }))), "{outcome:?}");
}

#[test]
fn a_stop_before_the_start_holds() {
    let memory = Memory::serve("stopped", None);
    let mut load = Load::new(1, 0..BYTES, 4096);
    let progress = Progress::default();
    progress.stop();
    load.run(&mut memory.connect(), &progress).expect("an honest volume");
    assert_eq!(load.counts(), Counts::default());
    assert!(!progress.advances(1, Duration::from_secs(100)), "it has ended: nobody waits for it");
}

#[test]
fn a_broken_connection_ends_the_load() {
    let memory = Memory::serve("broken", None);
    let mut load = Load::new(3, 0..BYTES, 4096);
    let mut client = memory.connect();
    client.stream().shutdown(std::net::Shutdown::Both).expect("open");
    let outcome = run_for(&mut load, &mut client, 10);
    assert!(matches!(outcome, Err(LoadError::Nbd(_))), "{outcome:?}");
    assert_eq!(load.judge(&mut memory.connect()).expect("readable"), [], "unanswered writes may be missing");
}
