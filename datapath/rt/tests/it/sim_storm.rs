//! A small cluster under every fault there is: the same seed gives the same trace, and every fault is reached.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use datapath_rt as rt;
use rt::buf::{Buf, View};
use rt::fs::{Allocation, File, OpenOptions};
use rt::net::{self, Address, Listener};
use rt::random::below;
use rt::sim::control::{self, PeerView, Process};
use rt::sim::{
    DiskFault, DiskFaultKind, DiskOptions, FAULTS, HostId, HostOptions, Latency, NetOptions, SimOptions,
    Simulation, TraceLines,
};

use crate::sim_world::blocks;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

fn address(host: HostId) -> Address {
    Address::Tcp(SocketAddr::new(control::host_ip(host), 2511))
}

/// Stores a block for each request, and now and then does everything else a disk can do.
async fn server() -> std::io::Result<()> {
    rt::fs::create_dir_all(Path::new("/cs")).await?;
    let data = Rc::new(File::open(Path::new("/cs/data"), OpenOptions::direct().create()).await?);
    if !data.try_lock().await? {
        return Ok(());
    }
    let mut listener = Listener::bind(&Address::Tcp(SocketAddr::from(([0, 0, 0, 0], 2511))))?;
    loop {
        let (mut reader, mut writer, _) = listener.accept().await?;
        let data = Rc::clone(&data);
        rt::spawn(async move {
            loop {
                let (result, request) = reader.recv_exact(Buf::new(64), 0).await;
                if result.is_err() || serve(&data, request[0]).await.is_err() {
                    return;
                }
                if writer.send_all(request.freeze()).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn serve(data: &File, byte: u8) -> std::io::Result<()> {
    let (block, count) = (below(64), 1 + below(4));
    match below(16) {
        0 => data.sync_data().await,
        1 => data.allocate(Allocation::Punch, block * 4096, count * 4096).await,
        2 => data.set_len((64 + block) * 4096).await,
        3 => rt::fs::write_atomic(Path::new("/cs/state"), &[byte]).await,
        4 | 5 => data.read_exact_at(Buf::new(count as usize * 4096), block * 4096).await.0,
        _ => data.write_all_at(blocks(byte, count as usize), block * 4096).await,
    }
}

/// Asks servers until it has been answered often enough.
async fn client(servers: Vec<HostId>, answers: Rc<Cell<u32>>) {
    loop {
        let to = address(servers[below(servers.len() as u64) as usize]);
        let Ok(Ok((mut reader, mut writer))) = rt::time::timeout(SECOND * 30, net::connect(&to)).await else {
            continue;
        };
        for _ in 0..below(200) {
            let round = async {
                writer.send_all(View::copy_of(&[below(256) as u8; 64])).await?;
                reader.recv_exact(Buf::new(64), 0).await.0
            };
            match rt::time::timeout(SECOND * 30, round).await {
                Ok(Ok(())) => {
                    answers.set(answers.get() + 1);
                    rt::time::sleep(MILLI * below(100) as u32).await;
                }
                _ => break,
            }
        }
        if below(8) == 0 {
            // Floods somebody who does not listen.
            let _full = rt::time::timeout(MILLI, writer.send_all(View::copy_of(&vec![0; 200_000]))).await;
        }
    }
}

struct Storm {
    servers: Vec<HostId>,
    clients: Vec<HostId>,
    running: BTreeMap<HostId, Process<std::io::Result<()>>>,
}

impl Storm {
    fn any(hosts: &[HostId]) -> HostId {
        hosts[below(hosts.len() as u64) as usize]
    }

    fn disk_fault(&self, host: HostId) {
        let kind = match below(10) {
            0 => DiskFaultKind::ReadError,
            1 => DiskFaultKind::WriteError,
            2 => DiskFaultKind::FlushError,
            3 => DiskFaultKind::LostWrite,
            4 => DiskFaultKind::MisdirectedWrite,
            5 => DiskFaultKind::BitRot,
            6 => DiskFaultKind::CorruptRead,
            7 => DiskFaultKind::ShortRead,
            8 => DiskFaultKind::ShortWrite,
            _ => DiskFaultKind::Stall(SECOND * 3),
        };
        control::disk_fault(host, "/", DiskFault::new(kind).on("/cs").after(below(10)).times(1 + below(3)));
    }

    async fn fault(&self) {
        let (server, client) = (Self::any(&self.servers), Self::any(&self.clients));
        match below(13) {
            0 => assert!(control::processes(server).into_iter().all(control::kill)),
            1 => {
                let paused = control::processes(server);
                assert!(paused.iter().all(|process| control::pause(*process)));
                control::advance(SECOND * below(50) as u32).await;
                assert!(
                    paused.iter().all(|process| !control::is_alive(*process) || control::resume(*process))
                );
            }
            2 => control::power_cut(&[server], PeerView::Silence),
            3 => control::power_cut(&self.servers, PeerView::Reset),
            4 => control::cut(server, client),
            5 => control::partition(server, client),
            6 => control::delay(server, client, SECOND, SECOND * 10),
            7 => assert!(control::reset_connections(server, client) <= control::connections()),
            8 => assert!(control::half_open(server, client) <= control::connections()),
            9 => control::shift_wall_clock(server, -1000),
            10 => control::occupy(server, "/", (4 << 20) - below(40) * 4096),
            _ => self.disk_fault(server),
        }
    }

    fn restart(&mut self) {
        for host in &self.servers {
            if !control::is_powered(*host) {
                control::power_on(*host);
            }
            if control::processes(*host).is_empty() {
                self.running.insert(*host, control::start_process(*host, "server", server()));
            }
        }
    }
}

async fn storm() -> u32 {
    // Slow disks, so that something is under way whenever a fault comes.
    let slow = Latency::micros(1000, 20_000);
    let disk = |unit| DiskOptions {
        capacity: 4 << 20,
        atomic_unit: unit,
        read: slow,
        write: slow,
        flush: slow,
        ..DiskOptions::default()
    };
    let host = |name: &str, unit| control::add_host(HostOptions::new(name).with_disk(disk(unit)));
    let servers = vec![host("s1", 512), host("s2", 4096), host("s3", 512)];
    let clients = vec![host("c1", 4096), host("c2", 4096)];
    let answers = Rc::new(Cell::new(0));
    for client_host in &clients {
        let main = client(servers.clone(), Rc::clone(&answers));
        let _for_ever = control::start_process(*client_host, "client", main);
    }
    let mut storm = Storm { servers, clients, running: BTreeMap::new() };
    for _ in 0..40 {
        storm.restart();
        control::advance(MILLI * (1 + below(100)) as u32).await;
        storm.fault().await;
        if below(3) == 0 {
            control::advance(SECOND * below(40) as u32).await;
            control::heal_all();
            storm.servers.iter().for_each(|host| {
                control::clear_disk_faults(*host);
                control::occupy(*host, "/", 0);
            });
        }
    }
    answers.get()
}

fn run(seed: u64, trace: TraceLines) -> (Simulation, u32) {
    let net = NetOptions {
        window: 20_000,
        give_up: SECOND * 20,
        connect_give_up: SECOND * 15,
        ..NetOptions::default()
    };
    let mut simulation = Simulation::new(SimOptions { net, trace, ..SimOptions::new(seed) });
    let answers = simulation.run(storm()).unwrap();
    (simulation, answers)
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_one_another() {
    let mut hashes = Vec::new();
    for seed in 0..3 {
        let (first, answers) = run(seed, TraceLines::Keep);
        let (second, again) = run(seed, TraceLines::Keep);
        let (silent, _) = run(seed, TraceLines::Off);
        assert!(first.trace_lines() == second.trace_lines(), "lines of seed {seed} differ");
        assert!(first.trace_lines().len() > 1000 && silent.trace_lines().is_empty());
        assert_eq!(first.trace_hash(), second.trace_hash());
        assert_eq!(first.trace_hash(), silent.trace_hash(), "keeping lines changes nothing");
        assert_eq!((first.elapsed(), first.steps(), answers), (second.elapsed(), second.steps(), again));
        assert_eq!(first.coverage(), second.coverage());
        hashes.push(first.trace_hash());
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 3);
}

#[test]
fn every_fault_is_reached_and_work_goes_on() {
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 100..160 {
        let (simulation, answers) = run(seed, TraceLines::Off);
        assert!(answers > 50, "seed {seed}: only {answers} answers");
        for (name, count) in simulation.coverage() {
            *reached.entry(name).or_default() += count;
        }
    }
    let missing: Vec<_> = FAULTS.iter().filter(|name| !reached.contains_key(**name)).collect();
    assert!(missing.is_empty(), "never reached: {missing:?}");
    let unlisted: Vec<_> = reached.keys().filter(|name| !FAULTS.contains(*name)).collect();
    assert!(unlisted.is_empty(), "not in the list: {unlisted:?}");
}
