//! Strangers at the ports, clients that stop in the middle, and requests that make no sense: whoever sent them is
//! dropped, everybody else is served, and nothing is lost.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hw_tests::cluster::{Cluster, NAME, run_to_end};
use hw_tests::deadline::Stopwatch;
use hw_tests::nbd::{Client, NbdError, Request};
use hw_tests::seeded::Seeded;

use crate::scene::{PATIENCE, Scene, VOLUME, Works};

/// How long a server may keep a stranger that says nothing sensible.
const STRANGER_LIMIT: Duration = Duration::from_secs(40);
/// Resident memory of a daemon that was asked for gigabytes, in KiB.
const RESIDENT_KIB_MAX: u64 = 64 << 10;
/// Bytes with which the volume begins.
const DATA_BYTES: u32 = 1 << 20;

/// Every row of the table.
pub(crate) fn bad_requests(scene: &Scene) {
    let mut cluster = scene.small_cluster();
    cluster.export(VOLUME).works("export");
    let mut data = vec![0; DATA_BYTES as usize];
    Seeded::new(scene.settings.seed).fill(&mut data);
    let mut honest = Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    assert_eq!(honest.ask(Request::Write, 0, DATA_BYTES, &data).expect("answered").error, 0);
    assert_eq!(honest.ask(Request::Flush, 0, 0, &[]).expect("answered").error, 0);
    let pids = cluster.pids();
    let mut check = |case: &str, cluster: &Cluster| {
        let answer = honest.ask(Request::Read, 0, DATA_BYTES, &[]).expect("an honest client is served");
        assert!(answer.error == 0 && answer.data == data, "{case}: the data has changed");
        let stat = cluster.vstorage(&["stat"]).works(case);
        assert!(stat.contains("healthy"), "{case}:\n{stat}");
        assert_eq!(cluster.pids(), pids);
        for (name, pid) in &pids {
            let resident = crate::idle::resident_kib(*pid);
            assert!(resident < RESIDENT_KIB_MAX, "{case}: {name} has {resident} KiB");
        }
        scene.say(format!("{case}: dropped; the others are served, data unchanged"));
    };
    std::thread::scope(|scope| {
        for address in addresses(&cluster) {
            scope.spawn(move || strangers(&address));
        }
    });
    check("strangers at the metadata server and a chunk server", &cluster);
    huge_requests(&cluster);
    check("requests of 4 GiB and beyond the end", &cluster);
    half_a_frame(&cluster);
    check("clients that stop in the middle of a frame", &cluster);
    paths(scene, &cluster);
    check("paths with ..", &cluster);
    drop(honest);
    cluster.stop_all().works("orderly stop");
    cluster.check_all().works("check");
}

/// Where the metadata server and a chunk server listen.
fn addresses(cluster: &Cluster) -> [SocketAddr; 2] {
    ["mds", "cs1"].map(|name| {
        let log = cluster.log(name);
        let line = log
            .lines()
            .rfind(|line| line.starts_with("ready:"))
            .expect("it said that it is ready")
            .to_owned();
        let address = line.split(" at ").nth(1).and_then(|rest| rest.split_whitespace().next());
        address.expect("an address").parse().expect("an address")
    })
}

/// Garbage, a frame that claims to be long, half a handshake, nothing at all: each connection is closed by the server.
fn strangers(address: &SocketAddr) {
    let mut garbage = vec![0; 64 << 10];
    Seeded::new(3).fill(&mut garbage);
    // A TLS record of 64 KiB, more than TLS allows; and one of 512 bytes of which three come.
    let (long, half) = ([0x16, 3, 1, 0xff, 0xff, 1, 0], [0x16, 3, 1, 2, 0, 1, 0, 1]);
    let messages: [&[u8]; 5] = [&garbage, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &long, &half, &[]];
    let opened = messages.map(|message| {
        let mut stream = TcpStream::connect(address).expect("it listens");
        // The server may have closed before all was sent.
        let _cut = stream.write_all(message);
        stream
    });
    for (stream, message) in opened.into_iter().zip(messages) {
        stream.set_read_timeout(Some(STRANGER_LIMIT)).expect("a limit");
        let clock = Stopwatch::start();
        assert!(is_closed(stream), "{} bytes: still open after {:?}", message.len(), clock.elapsed());
    }
}

/// Reads to the end, whatever comes before.
fn is_closed(mut stream: impl Read) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

/// The longest requests NBD can express, and ranges beyond the end: an error or the end of the connection, never data.
fn huge_requests(cluster: &Cluster) {
    let connect = || Client::connect(&cluster.socket(), STRANGER_LIMIT).expect("the export greets");
    for (request, offset, len) in [
        (Request::Read, 0, u32::MAX),
        (Request::Write, 0, u32::MAX),
        (Request::Trim, 0, u32::MAX),
        (Request::WriteZeroes, 0, u32::MAX),
        (Request::Read, 10 << 30, 4096),
        (Request::Trim, u64::MAX - 4095, 4096),
        (Request::WriteZeroes, 10 << 30, 10 << 20),
    ] {
        let mut client = connect();
        match client.ask(request, offset, len, &[]) {
            Ok(answer) => assert_ne!(answer.error, 0, "{request:?} at {offset} (+{len}) is refused"),
            Err(NbdError::Io { ref source, .. }) if source.kind() != ErrorKind::WouldBlock => {}
            // A write so long is refused at once, or its payload is waited for: then the client is the one that stops.
            Err(error) => assert!(request == Request::Write && error.is_timeout(), "{request:?}: {error}"),
        }
    }
    // An option of 4 GiB.
    let mut stream = UnixStream::connect(cluster.socket()).expect("it listens");
    stream.set_read_timeout(Some(STRANGER_LIMIT)).expect("a limit");
    let mut option = Vec::from(3_u32.to_be_bytes());
    option.extend(b"IHAVEOPT");
    option.extend(7_u32.to_be_bytes());
    option.extend(u32::MAX.to_be_bytes());
    option.extend([0x55; 4096]);
    // The server may have closed before all was sent.
    let _cut = stream.write_all(&option);
    assert!(is_closed(stream), "an option of 4 GiB is not waited for");
    let uri = cluster.uri();
    let mut qemu = std::process::Command::new("qemu-io");
    qemu.args(["-f", "raw", &uri, "-c", "read 0 10G"]);
    let ended = run_to_end(&qemu, "").works("qemu-io");
    assert!(!ended.succeeded() || format!("{}{}", ended.stdout, ended.stderr).contains("failed"), "{ended}");
}

/// A write that never arrives whole changes nothing, whether its client goes away or only stops.
fn half_a_frame(cluster: &Cluster) {
    let connect = || Client::connect(&cluster.socket(), PATIENCE).expect("the export greets");
    let payload = [0xee; 8192];
    let mut gone = connect();
    gone.send(Request::Write, 0, 0, 64 << 10, &payload).expect("sent");
    drop(gone);
    let mut stopped = connect();
    stopped.send(Request::Write, 0, 4096, 64 << 10, &payload).expect("sent");
    let mut header = connect();
    header.send_raw(&[0x25, 0x60, 0x95, 0x13, 0, 0]).expect("sent");
    // Both stay open while another works.
    let mut other = connect();
    let answer = other.ask(Request::Read, 0, 4096, &[]).expect("served beside clients that stopped");
    assert!(answer.error == 0 && answer.data[0] != 0xee, "half a write is no write");
    drop((stopped, header));
}

/// Paths that climb are refused before anything is asked.
fn paths(scene: &Scene, cluster: &Cluster) {
    let socket = scene.dir.join("never.sock").display().to_string();
    let rows: [&[&str]; 7] = [
        &["create", "/a/../b", "--size", "1G"],
        &["create", "--dir", "/.."],
        &["ls", "/.."],
        &["rm", "/../v"],
        &["mv", "/v", "/../w"],
        &["export", "--nbd", &socket, "/../v"],
        &["make-cs", "-r", "/tmp/../x"],
    ];
    for row in rows {
        let ended = cluster.try_vstorage(row).works("a command");
        assert!(ended.code == Some(2) && ended.stderr.contains("..") && ended.stdout.is_empty(), "{ended}");
    }
    let args = ["nbd", "-c", NAME, "--socket", &socket, "/a/../v"];
    let ended = run_to_end(&cluster.command("vstorage-ublkd", &args), "").works("vstorage-ublkd");
    assert!(ended.code == Some(2) && ended.stderr.contains("neither . nor .. in it"), "{ended}");
}
