//! The state as a whole: scenarios by subject, random sequences, replay, frozen bytes.

mod access;
mod broken;
mod chunks;
mod cluster;
mod fixtures;
mod inodes;
mod leases;
mod losses;
mod members;
mod names;
mod random;
mod rebuild;
mod removal;
mod replication;
mod reports;
mod servers;

use super::command::*;
use super::outcome::{Allocated, CsRegistered, Fencing, Granted, SessionOpened};
use super::*;

/// A state with everything that is checked after each command, and short words for the usual commands.
pub(super) struct World {
    pub(super) state: State,
    pub(super) index: u64,
    pub(super) log: Vec<Command>,
}

/// A nonce or token for tests.
pub(super) fn secret(n: u64) -> Secret {
    Secret { high: n, low: !n }
}

/// A client's side of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) client: u32,
    pub(super) token: Secret,
    pub(super) number: u64,
}

impl World {
    /// A cluster without anything in it.
    pub(super) fn new() -> Self {
        let mut world = Self { state: State::new(), index: 0, log: Vec::new() };
        world.ok(CommandOp::InitCluster(InitCluster { uuid: vec![1; 16], name: "stor1".into() }));
        world
    }

    /// A cluster with this many chunk servers that serve, each on its own host, and one client.
    pub(super) fn with_servers(count: u8) -> (Self, Session) {
        let mut world = Self::new();
        (1..=count).for_each(|n| world.serve(n));
        let session = world.session(1);
        (world, session)
    }

    /// Applies a command and checks what must hold after every command.
    pub(super) fn apply(&mut self, command: Command) -> Applied {
        let before = self.state.clone();
        self.index += 1;
        let applied = self.state.apply(self.index, &command);
        assert_eq!(self.state.self_check(), Ok(()), "after {command:?}");
        assert_eq!(self.state.check_progress(&before), Ok(()), "after {command:?}");
        if let Err(refusal) = &applied.outcome {
            let mut rest = self.state.clone();
            rest.applied = before.applied;
            rest.events = before.events.clone();
            rest.window = before.window.clone();
            assert!(rest == before, "refused with {refusal}, but changed by {command:?}");
            assert_eq!(applied.effects, [], "refused with {refusal}");
        }
        let pending = self.state.pending_work();
        for effect in applied.effects.iter().filter(|effect| effect.is_lasting()) {
            assert!(covers(&pending, effect), "{effect:?} of {command:?} would be lost with its leader");
        }
        self.log.push(command);
        applied
    }

    pub(super) fn run(&mut self, op: CommandOp) -> Applied {
        self.apply(Command::internal(1_000_000 + self.index * 1000, op))
    }

    /// Applies a command that must be carried out.
    #[track_caller]
    pub(super) fn ok(&mut self, op: CommandOp) -> Outcome {
        let kind = format!("{op:?}");
        self.run(op).outcome.unwrap_or_else(|refusal| panic!("{kind}: {refusal}"))
    }

    /// Applies a command that must be refused.
    #[track_caller]
    pub(super) fn refused(&mut self, op: CommandOp) -> Refusal {
        let kind = format!("{op:?}");
        match self.run(op).outcome {
            Err(refusal) => refusal,
            Ok(outcome) => panic!("{kind}: {outcome:?}"),
        }
    }

    /// What chunk server `n` (1 …) says when it registers for the first time.
    pub(super) fn claim(n: u8) -> RegisterCs {
        RegisterCs {
            cs_uuid: vec![n; 16],
            claimed_id: 0,
            last_nonce: Secret::NONE,
            new_nonce: secret(u64::from(n) * 1000),
            host: format!("host{n}"),
            boot_id: vec![100 + n; 16],
            addresses: vec![format!("10.0.0.{n}:2511")],
            tier: 0,
            total_bytes: 1 << 40,
            free_bytes: 1 << 40,
            flags: 11,
            term_ms: 10_000,
            build: "0.1.0".into(),
            host_name: format!("host{n}.example"),
            path: format!("/vstorage/stor1-cs{n}"),
            journal_path: String::new(),
            journal_bytes: 1 << 30,
        }
    }

    /// What chunk server `n` says when it starts once more.
    pub(super) fn claim_again(&self, n: u8) -> RegisterCs {
        let server = self.cs(n);
        RegisterCs {
            claimed_id: server.id.0,
            last_nonce: server.nonce,
            new_nonce: secret(server.nonce.high + 1),
            ..Self::claim(n)
        }
    }

    #[track_caller]
    pub(super) fn register(&mut self, claim: RegisterCs) -> CsRegistered {
        match self.ok(CommandOp::RegisterCs(claim)) {
            Outcome::CsRegistered(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// Registers chunk server `n` and lets it confirm.
    pub(super) fn serve(&mut self, n: u8) {
        let fences = self.register(Self::claim(n)).fences;
        self.confirm(n, fences);
        assert!(self.cs(n).is_usable());
    }

    pub(super) fn confirm(&mut self, n: u8, fences: Vec<FenceRecord>) {
        let (cs, session) = self.cs_name(n);
        self.ok(CommandOp::FencesRecorded(FencesRecorded { cs, session, fences }));
    }

    pub(super) fn lapse(&mut self, n: u8) {
        let (cs, session) = self.cs_name(n);
        self.ok(CommandOp::CsLapsed(CsLapsed { cs, session }));
    }

    #[track_caller]
    pub(super) fn cs(&self, n: u8) -> &super::servers::ChunkServer {
        self.state.servers.by_uuid(Uuid([n; 16])).expect("registered")
    }

    /// Id and session.
    pub(super) fn cs_name(&self, n: u8) -> (u32, u64) {
        (self.cs(n).id.0, self.cs(n).session)
    }

    /// Opens a session for client `n` (1 …), which has no token stored.
    #[track_caller]
    pub(super) fn session(&mut self, n: u8) -> Session {
        self.session_with(n, Secret::NONE)
    }

    #[track_caller]
    pub(super) fn session_with(&mut self, n: u8, stored_token: Secret) -> Session {
        let new_token = secret(70_000 + self.index);
        let op = OpenSession {
            client_uuid: vec![n; 16],
            host: format!("client{n}"),
            stored_token,
            new_token,
            build: "0.1.0".into(),
            kind: 3,
        };
        match self.ok(CommandOp::OpenSession(op)) {
            Outcome::Session(SessionOpened { client, token, session, .. }) => {
                Session { client, token, number: session }
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn expire(&mut self, session: Session) {
        self.ok(CommandOp::ExpireSession(ExpireSession { client: session.client, session: session.number }));
    }

    /// Makes a file of so many chunks of 64 KiB with so many replicas.
    #[track_caller]
    pub(super) fn file(&mut self, path: &str, chunks: u64, replicas: u32) -> u64 {
        let attrs = AttrChange {
            replicas: Some(ReplicaChange { normal: replicas, minimum: None }),
            chunk_size: Some(64 << 10),
            ..Default::default()
        };
        let op = CreateFile { path: path.into(), size: chunks * (64 << 10), attrs: Some(attrs), mode: 0o600 };
        match self.ok(CommandOp::CreateFile(op)) {
            Outcome::Created(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn open_op(session: Session, file: u64, mode: LeaseMode) -> CommandOp {
        let Session { client, token, .. } = session;
        CommandOp::Open(Open { client, token, target: Target::file(file), mode: mode as i32 })
    }

    #[track_caller]
    pub(super) fn granted(&mut self, op: CommandOp) -> Granted {
        match self.ok(op) {
            Outcome::Granted(granted) => granted,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn open(&mut self, session: Session, file: u64) -> Granted {
        self.granted(Self::open_op(session, file, LeaseMode::Exclusive))
    }

    #[track_caller]
    pub(super) fn fencing(&mut self, op: CommandOp) -> Fencing {
        match self.ok(op) {
            Outcome::Fencing(fencing) => fencing,
            other => panic!("{other:?}"),
        }
    }

    /// Lets the chunk server record a fence.
    pub(super) fn record(&mut self, n: u8, file: u64, epoch: u64) {
        self.confirm(n, vec![FenceRecord { file, epoch }]);
    }

    /// The lease on a file as its holder proves it.
    pub(super) fn proof(&self, session: Session, file: u64) -> Option<LeaseProof> {
        let epoch = self.state.tree.file(FileId::from_raw(file)).map_or(0, |file| file.lease.epoch().raw());
        Some(LeaseProof { client: session.client, token: session.token, epoch })
    }

    pub(super) fn release(&mut self, session: Session, file: u64, clean: bool) {
        let lease = self.proof(session, file);
        self.ok(CommandOp::Release(Release { lease, file, clean, successor: 0 }));
    }

    pub(super) fn allocate_op(&self, session: Session, file: u64, indices: &[u32]) -> CommandOp {
        let lease = self.proof(session, file);
        CommandOp::AllocateChunks(AllocateChunks {
            lease,
            file,
            indices: indices.into(),
            seed: self.index,
            grow_to: 0,
        })
    }

    #[track_caller]
    pub(super) fn allocate(&mut self, session: Session, file: u64, indices: &[u32]) -> Allocated {
        match self.ok(self.allocate_op(session, file, indices)) {
            Outcome::Allocated(allocated) => allocated,
            other => panic!("{other:?}"),
        }
    }

    /// Lets the chunk servers create all they were told to.
    pub(super) fn create_all(&mut self) {
        for effect in self.state.pending_work() {
            let Effect::CreateChunks { cs, chunks, .. } = effect else { continue };
            let session = self.state.server(cs).expect("known").session;
            let chunks = chunks.iter().map(|chunk| chunk.chunk.raw()).collect();
            self.ok(CommandOp::ChunkCreated(ChunkCreated { cs: cs.0, session, chunks }));
        }
    }

    /// A file with chunks that are in use: opened for writing, allocated, created.
    pub(super) fn written_file(&mut self, session: Session, path: &str, chunks: u32, replicas: u32) -> u64 {
        let file = self.file(path, chunks.into(), replicas);
        self.open(session, file);
        self.allocate(session, file, &(0..chunks).collect::<Vec<_>>());
        self.create_all();
        file
    }

    pub(super) fn unreconciled(&self, file: u64) -> Vec<u32> {
        self.state.unreconciled(FileId::from_raw(file), 0, usize::MAX).expect("a file")
    }

    pub(super) fn phase(&self, file: u64) -> &lease::Phase {
        self.state.tree.file(FileId::from_raw(file)).expect("a file").lease.phase()
    }

    /// The codes of the last `count` events.
    pub(super) fn last_events(&self, count: usize) -> Vec<EventCode> {
        let mut codes: Vec<_> = self.state.events.iter().rev().take(count).map(|event| event.code).collect();
        codes.reverse();
        codes
    }
}

/// Whether the pending work contains an effect, perhaps together with more of its kind.
fn covers(pending: &[Effect], effect: &Effect) -> bool {
    pending.iter().any(|other| match (other, effect) {
        (
            Effect::CreateChunks { cs, file, epoch, chunk_size, chunks },
            Effect::CreateChunks { cs: cs2, file: file2, epoch: epoch2, chunk_size: size2, chunks: some },
        ) => {
            (cs, file, epoch, chunk_size) == (cs2, file2, epoch2, size2)
                && some.iter().all(|chunk| chunks.contains(chunk))
        }
        (Effect::DeleteChunks { cs, chunks }, Effect::DeleteChunks { cs: cs2, chunks: some }) => {
            cs == cs2 && some.iter().all(|chunk| chunks.contains(chunk))
        }
        (Effect::InstallVersions { cs, chunks }, Effect::InstallVersions { cs: cs2, chunks: some }) => {
            cs == cs2 && some.iter().all(|chunk| chunks.contains(chunk))
        }
        (Effect::MakeReplicas { cs, chunks }, Effect::MakeReplicas { cs: cs2, chunks: some }) => {
            cs == cs2 && some.iter().all(|chunk| chunks.contains(chunk))
        }
        (Effect::CatchUp { cs, chunks }, Effect::CatchUp { cs: cs2, chunks: some }) => {
            cs == cs2 && some.iter().all(|chunk| chunks.contains(chunk))
        }
        (other, effect) => other == effect,
    })
}
