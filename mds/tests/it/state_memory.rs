//! What a chunk and a file cost in memory, measured in processes of their own (DESIGN §5: at most 100 bytes per chunk).

use std::process::Command as Process;

use mds::state::command::{
    AllocateChunks, ChunkCreated, CommandOp, CreateFile, FencesRecorded, InitCluster, LeaseMode, LeaseProof,
    MakeNode, NodeKind, Open, OpenSession, RegisterCs, Target,
};
use mds::state::{Command, INDICES_MAX, Outcome, Secret, State};

const CHUNKS: u32 = 1_000_000;
/// Bytes per chunk that are allowed.
const BUDGET: u64 = 100;

const FILES: u64 = 100_000;
/// Bytes per file without chunks and extended attributes, with a name of 12 bytes, that are allowed.
const FILE_BUDGET: u64 = 512;

/// A state and the number of its last command.
struct World {
    state: State,
    number: u64,
}

impl World {
    fn run(&mut self, op: CommandOp) -> Outcome {
        self.number += 1;
        self.state.apply(self.number, &Command::internal(self.number, op)).outcome.expect("carried out")
    }

    /// Three chunk servers that serve; gives their ids and sessions.
    fn servers(&mut self) -> Vec<(u32, u64)> {
        let secret = |low| Secret { high: 1, low };
        let one = |n: u8| RegisterCs {
            cs_uuid: vec![n; 16],
            new_nonce: secret(n.into()),
            boot_id: vec![9; 16],
            host: format!("host{n}"),
            total_bytes: 1 << 50,
            free_bytes: 1 << 50,
            ..RegisterCs::default()
        };
        let mut servers = Vec::new();
        for n in 1..=3 {
            let Outcome::CsRegistered(registered) = self.run(CommandOp::RegisterCs(one(n))) else { panic!() };
            let (cs, session) = (registered.cs, registered.session);
            self.run(CommandOp::FencesRecorded(FencesRecorded { cs, session, fences: Vec::new() }));
            servers.push((cs, session));
        }
        servers
    }

    /// A file that somebody writes.
    fn file(&mut self) -> (u64, LeaseProof) {
        let path = "/volume".to_owned();
        let size = u64::from(CHUNKS) * (64 << 20);
        self.run(CommandOp::CreateFile(CreateFile { path, size, ..CreateFile::default() }));
        let token = Secret { high: 2, low: 2 };
        let open = OpenSession { client_uuid: vec![8; 16], new_token: token, ..OpenSession::default() };
        let Outcome::Session(session) = self.run(CommandOp::OpenSession(open)) else { panic!() };
        let client = session.client;
        let target = Some(Target { target: Some(mds::state::command::TargetRef::Path("/volume".into())) });
        let open = Open { client, token, target, mode: LeaseMode::Exclusive.into() };
        let Outcome::Granted(granted) = self.run(CommandOp::Open(open)) else { panic!() };
        (granted.file, LeaseProof { client, token, epoch: granted.epoch })
    }

    fn fill(&mut self, file: u64, lease: LeaseProof, servers: &[(u32, u64)]) {
        let mut first = 0;
        while first < CHUNKS {
            let indices: Vec<u32> = (first..CHUNKS.min(first + INDICES_MAX as u32)).collect();
            first += indices.len() as u32;
            let op = AllocateChunks { lease: Some(lease), file, indices, seed: first.into(), grow_to: 0 };
            let Outcome::Allocated(places) = self.run(CommandOp::AllocateChunks(op)) else { panic!() };
            let chunks: Vec<u64> = places.chunks.iter().map(|place| place.chunk).collect();
            for (cs, session) in servers {
                let created = ChunkCreated { cs: *cs, session: *session, chunks: chunks.clone() };
                self.run(CommandOp::ChunkCreated(created));
            }
        }
    }
}

/// Files in directories of 1000.
fn files(world: &mut World) {
    let node = |parent, name: String, kind: NodeKind| {
        let (name, kind) = (name.into_bytes(), kind.into());
        CommandOp::MakeNode(MakeNode { parent, name, kind, uid: 1000, now_ns: 1, ..MakeNode::default() })
    };
    let mut parent = 0;
    for number in 0..FILES {
        if number % 1000 == 0 {
            let Outcome::Made(dir) = world.run(node(0, format!("d{number}"), NodeKind::Directory)) else {
                panic!()
            };
            parent = dir.id;
        }
        world.run(node(parent, format!("file-{number:07}"), NodeKind::File));
    }
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Set in the process that measures.
const MEASURE: &str = "MDS_MEASURE";

/// Does nothing unless the test below runs it, in a process of its own.
#[test]
fn chunk_figures() {
    if std::env::var_os(MEASURE).is_none() {
        return;
    }
    let mut world = World { state: State::new(), number: 0 };
    world.run(CommandOp::InitCluster(InitCluster { uuid: vec![7; 16], name: "stor1".into() }));
    let servers = world.servers();
    let (file, lease) = world.file();
    let before = resident();
    world.fill(file, lease, &servers);
    report(&world.state, before, CHUNKS.into());
}

/// The same.
#[test]
fn file_figures() {
    if std::env::var_os(MEASURE).is_none() {
        return;
    }
    let mut world = World { state: State::new(), number: 0 };
    world.run(CommandOp::InitCluster(InitCluster { uuid: vec![7; 16], name: "stor1".into() }));
    let before = resident();
    files(&mut world);
    report(&world.state, before, FILES);
}

fn report(state: &State, before: u64, count: u64) {
    println!("bytes in memory: {}", (resident() - before) / count);
    let snapshot = state.encode_snapshot();
    println!("bytes in a snapshot: {}", snapshot.len() as u64 / count);
    assert!(State::decode_snapshot(&snapshot).expect("readable") == *state);
}

/// Bytes for each, as a process of its own says.
fn measured(figures: &str) -> u64 {
    let mut process = Process::new(std::env::current_exe().expect("this program"));
    let output = process.args(["--exact", figures, "--nocapture"]).env(MEASURE, "1").output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{figures}: {said}");
    let figure = said.lines().find_map(|line| line.strip_prefix("bytes in memory: "));
    assert!(output.status.success(), "{output:?}");
    figure.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("{output:?}"))
}

#[test]
fn a_million_chunks_fit_into_the_budget() {
    assert!(measured("state_memory::chunk_figures") <= BUDGET);
}

#[test]
fn files_fit_into_the_budget() {
    assert!(measured("state_memory::file_figures") <= FILE_BUDGET);
}
