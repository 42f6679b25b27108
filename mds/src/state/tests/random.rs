//! Random sequences of commands, against the invariants, a model of chunk servers, and replay.
//!
//! The model keeps what a chunk server has on its disk (nonces, fences) and what a client has in its hands, can lose
//! both, and sends what a real one would. Beside it stands the rule of C2 in its own words: while somebody holds a
//! file, no chunk server that serves accepts the epoch of a holder before that did not release it cleanly.

use super::*;
use crate::state::inode::Body;
use crate::state::lease::Phase;
use crate::state::replication::PlannedStep;
use crate::state::servers::Registration;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What one thing to do is made of; [`Model::step`] gives the numbers their meaning.
type Step = (u8, u8, u8, u8);

const SERVERS: u8 = 4;
const CLIENTS: u8 = 3;
const PATHS: [&str; 6] = ["/a", "/b", "/d/a", "/d/b", "/d", "/d/e"];

/// What a chunk server has on its disk.
#[derive(Clone, Debug, Default)]
struct DiskImage {
    claimed_id: u32,
    last_nonce: Secret,
    fences: BTreeMap<u64, u64>,
}

#[derive(Clone, Debug, Default)]
struct ServerModel {
    disk: DiskImage,
    /// An older state of the disk, to be rolled back to.
    image: DiskImage,
    boot: u8,
    /// The session of its process, and the fences it was given with it.
    session: u64,
    given: Vec<FenceRecord>,
}

struct Model {
    world: World,
    servers: Vec<ServerModel>,
    sessions: Vec<Option<Session>>,
    random: u64,
    /// Per file, the highest epoch whose holder did not release it cleanly.
    unclean: BTreeMap<FileId, Epoch>,
}

impl Model {
    fn new() -> Self {
        let servers = vec![ServerModel::default(); usize::from(SERVERS)];
        let sessions = vec![None; usize::from(CLIENTS)];
        Self { world: World::new(), servers, sessions, random: 1000, unclean: BTreeMap::new() }
    }

    fn fresh(&mut self) -> u64 {
        self.random += 1;
        self.random
    }

    fn fresh_secret(&mut self) -> Secret {
        secret(self.fresh())
    }

    fn run(&mut self, op: CommandOp) -> Result<Outcome, Refusal> {
        let held = |state: &State| -> BTreeMap<FileId, Epoch> {
            let files = state.tree.files().filter(|(_, file)| file.lease.phase().is_held());
            files.map(|(id, file)| (id, file.lease.epoch())).collect()
        };
        let clean = matches!(&op, CommandOp::Release(release) if release.clean);
        let restored = matches!(&op, CommandOp::RaiseGeneration(_));
        let before = held(&self.world.state);
        let answer = self.world.run(op).outcome;
        let after = held(&self.world.state);
        if restored && answer.is_ok() {
            // Whoever was granted what since the backup: nobody knows, so every epoch counts as left unclean.
            let all = self.world.state.tree.files().map(|(id, file)| (id, file.lease.epoch()));
            self.unclean.extend(all);
        }
        for (id, epoch) in before {
            let group_was_unclean =
                matches!(self.world.state.tree.file(id).map(|file| file.lease.phase()), Ok(Phase::Unclean));
            if after.get(&id) != Some(&epoch) && (!clean || group_was_unclean) {
                self.unclean.insert(id, epoch);
            }
        }
        answer
    }

    /// C2, and that what the model's chunk servers know of themselves fits what the state says.
    fn check(&self) {
        for (id, file) in self.world.state.tree.files() {
            let Some(unclean) = self.unclean.get(&id) else { continue };
            if !file.lease.phase().is_held() || file.lease.epoch() <= *unclean {
                continue;
            }
            for (n, model) in self.servers.iter().enumerate() {
                let Some(server) = self.world.state.servers.by_uuid(Uuid([n as u8 + 1; 16])) else {
                    continue;
                };
                let serves = server.registration == Registration::Serving && server.session == model.session;
                let holds = file.chunks.iter().any(|entry| {
                    entry.members().on(server.id).is_some_and(|m| m.state != chunk::MemberState::Creating)
                });
                let floor = model.disk.fences.get(&id.raw()).copied().unwrap_or(0);
                assert!(
                    !(serves && holds) || floor > unclean.raw(),
                    "C2: {id} is held at {}, {} serves it from {floor:#x} on, {unclean} was left unclean",
                    file.lease.epoch(),
                    server.id,
                );
            }
        }
    }

    /// Everybody installs and fills what they are told to: then nobody joins any more who could be filled.
    fn check_joiners(&self) {
        let mut world = World { state: self.world.state.clone(), index: self.world.index, log: Vec::new() };
        let servers: Vec<(u32, u64)> =
            world.state.servers().map(|server| (server.id.0, server.session)).collect();
        for rounds in 0.. {
            assert!(rounds < 100, "it never ends");
            let mut orders = 0;
            for (cs, session) in servers.clone() {
                for effect in world.state.pending_for(CsId(cs)) {
                    let versions = |of: &dyn Fn(&CopyOrder) -> bool| -> Vec<(ChunkId, Version)> {
                        match &effect {
                            Effect::InstallVersions { chunks, .. } => {
                                chunks.iter().map(|order| (order.chunk, order.to)).collect()
                            }
                            Effect::CatchUp { chunks, .. } => {
                                let filled = chunks.iter().filter(|order| of(order));
                                filled.map(|order| (order.chunk, order.version)).collect()
                            }
                            _ => Vec::new(),
                        }
                    };
                    let given = |order: &CopyOrder| !world.state.copy_sources(CsId(cs), order).is_empty();
                    let chunks: Vec<ChunkVersion> = versions(&given)
                        .into_iter()
                        .map(|(chunk, version)| ChunkVersion {
                            chunk: chunk.raw(),
                            version: version.raw(),
                            copied_bytes: 0,
                            lost_blocks: 0,
                        })
                        .collect();
                    if chunks.is_empty() {
                        continue;
                    }
                    orders += 1;
                    world.ok(match effect {
                        Effect::CatchUp { .. } => {
                            CommandOp::PromoteMembers(PromoteMembers { cs, session, chunks })
                        }
                        _ => CommandOp::VersionsInstalled(VersionsInstalled { cs, session, chunks }),
                    });
                }
            }
            if orders == 0 {
                break;
            }
        }
        for (cs, _) in servers {
            let left = world.state.joiners_on(CsId(cs), |_| false);
            assert_eq!(left, 0, "CS#{cs}: joiners that nobody asks about any more");
        }
    }

    fn file_id(&self, pick: u8) -> u64 {
        let files: Vec<_> = self.world.state.tree.files().map(|(id, _)| id.raw()).collect();
        // A few, so that they meet.
        if files.is_empty() { 99 } else { files[usize::from(pick) % files.len().min(4)] }
    }

    fn session_of(&self, pick: u8) -> Session {
        let nobody = Session { client: 7, token: secret(7), number: 7 };
        self.sessions[usize::from(pick % CLIENTS)].unwrap_or(nobody)
    }

    fn step(&mut self, (kind, a, b, c): Step) {
        match kind % 49 {
            0 | 1 => self.open_session(a, b),
            2 => self.end_session(a, b),
            3..=8 => self.ask(a, b, c),
            9..=11 => self.release(a, b, c),
            12 => self.revoke(a, b),
            13 => self.reconcile(a, b, c),
            14..=16 => self.allocate(a, b, c),
            17 | 18 => self.create_chunks(a, b),
            19 => self.delete_chunks(a, b),
            20 | 21 => self.register(a, b),
            22..=25 => self.record_fences(a, b),
            26 => self.lapse(a, b),
            27 => self.name_files(a, b),
            28 => self.change_files(a, b, c),
            29 => self.create_file(a, b),
            30 => self.settings(a, b),
            31 => self.nonsense(a, b, c),
            32 | 33 => self.make_node(a, b, c),
            34 | 35 => self.rename_node(a, b, c),
            36 | 37 => self.unlink_or_link(a, b, c),
            38 => self.set_inode(a, b, c),
            39 => self.change_xattrs(a, b),
            40 => self.drop_member(a, b, c),
            41 => self.join_members(a, b),
            42 => self.install_versions(a, b),
            43 => self.promote_members(a, b),
            44 | 45 => self.plan_replicas(a, b),
            46 => self.offline(a, b),
            _ => self.make_replicas(a, b),
        }
        self.check();
    }

    fn open_session(&mut self, a: u8, b: u8) {
        let n = a % CLIENTS;
        let known = self.sessions[usize::from(n)];
        let stored_token = if b.is_multiple_of(4) {
            Secret::NONE
        } else {
            known.map_or(Secret::NONE, |session| session.token)
        };
        let new_token = self.fresh_secret();
        let op = OpenSession { client_uuid: vec![n + 1; 16], stored_token, new_token, ..Default::default() };
        if let Ok(Outcome::Session(opened)) = self.run(CommandOp::OpenSession(op)) {
            // Now and then the answer is lost.
            if b % 8 != 7 {
                let session = Session { client: opened.client, token: opened.token, number: opened.session };
                self.sessions[usize::from(n)] = Some(session);
            }
        }
    }

    fn end_session(&mut self, a: u8, b: u8) {
        let Session { client, token, number } = self.session_of(a);
        let op = match b % 4 {
            0 => CommandOp::CloseSession(CloseSession { client, token }),
            1 => {
                let file = self.file_id(b / 4);
                CommandOp::EndReservation(EndReservation { file, client, session: number })
            }
            _ => CommandOp::ExpireSession(ExpireSession { client, session: number }),
        };
        let _ = self.run(op);
    }

    fn ask(&mut self, a: u8, b: u8, c: u8) {
        let session = self.session_of(a);
        let file = self.file_id(b);
        let mode = if c.is_multiple_of(3) { LeaseMode::Shared } else { LeaseMode::Exclusive };
        let Session { client, token, .. } = session;
        let op = match c % 5 {
            0 | 1 => {
                let epoch = self.world.proof(session, file).map_or(0, |proof| proof.epoch);
                CommandOp::Resume(Resume { client, token, file, mode: mode as i32, epoch })
            }
            _ => World::open_op(session, file, mode),
        };
        let _ = self.run(op);
    }

    /// A lease the client holds, if there is one; picked so that commands under a lease are not all refused.
    fn held(&self, a: u8, b: u8) -> (Session, u64) {
        let session = self.session_of(a);
        let files: Vec<_> = self
            .world
            .state
            .client(ClientId(session.client))
            .map(|client| client.leases().map(|(file, _)| file.raw()).collect())
            .unwrap_or_default();
        let file = if files.is_empty() { self.file_id(b) } else { files[usize::from(b) % files.len()] };
        (session, file)
    }

    fn release(&mut self, a: u8, b: u8, c: u8) {
        let (session, file) = self.held(a, b);
        let lease = self.world.proof(session, file);
        let successor = if c.is_multiple_of(4) { self.session_of(c / 4).client } else { 0 };
        let _ = self.run(CommandOp::Release(Release { lease, file, clean: !c.is_multiple_of(3), successor }));
    }

    fn revoke(&mut self, a: u8, b: u8) {
        let what = match b % 2 {
            0 => RevokeWhat::Client(self.session_of(a).client),
            _ => RevokeWhat::File(Target::file(self.file_id(a)).unwrap()),
        };
        let _ = self.run(CommandOp::Revoke(Revoke { what: Some(what), told: true }));
    }

    fn reconcile(&mut self, a: u8, b: u8, c: u8) {
        let (session, file) = self.held(a, b);
        let lease = self.world.proof(session, file);
        let map = self.world.state.file_map(FileId::from_raw(file), 0, 10).map(|map| map.chunks);
        let some = map.unwrap_or_default().into_iter().filter(|chunk| c >> (chunk.index % 6) & 1 == 0);
        let chunk = |chunk: query::ChunkView| ReconciledChunk {
            index: chunk.index,
            chunk: chunk.chunk.raw(),
            version: chunk.version.raw(),
        };
        let chunks = some.map(chunk).collect();
        let _ = self.run(CommandOp::ReconcileDone(ReconcileDone { lease, file, chunks, writes_lost: false }));
    }

    fn allocate(&mut self, a: u8, b: u8, c: u8) {
        let (session, file) = self.held(a, b);
        let indices: Vec<u32> = (0..u32::from(c % 4)).map(|n| n + u32::from(c / 4 % 6)).collect();
        let mut op = self.world.allocate_op(session, file, &indices);
        if let CommandOp::AllocateChunks(op) = &mut op
            && c.is_multiple_of(5)
        {
            op.grow_to = u64::from(c) * (8 << 10);
        }
        let _ = self.run(op);
    }

    fn create_chunks(&mut self, a: u8, b: u8) {
        let creations = self.world.state.pending_work().into_iter().filter_map(|effect| match effect {
            Effect::CreateChunks { cs, file, epoch, chunks, .. } => Some((cs, file, epoch, chunks)),
            _ => None,
        });
        let creations: Vec<_> = creations.collect();
        let Some((cs, file, epoch, chunks)) = creations.get(usize::from(a) % creations.len().max(1)).cloned()
        else {
            return;
        };
        if b.is_multiple_of(4) {
            let seed = self.fresh();
            let op = ReplaceCreating { chunk: chunks[0].chunk.raw(), cs: cs.0, seed };
            let _ = self.run(CommandOp::ReplaceCreating(op));
            return;
        }
        // With the chunk it records the epoch.
        let uuid = self.world.state.server(cs).unwrap().uuid;
        let model = &mut self.servers[usize::from(uuid.0[0]) - 1];
        let floor = model.disk.fences.entry(file.raw()).or_default();
        *floor = (*floor).max(epoch.raw());
        let session = model.session;
        let chunks = chunks.iter().map(|chunk| chunk.chunk.raw()).collect();
        let _ = self.run(CommandOp::ChunkCreated(ChunkCreated { cs: cs.0, session, chunks }));
    }

    fn drop_member(&mut self, a: u8, b: u8, c: u8) {
        let (session, file) = self.held(a, b);
        let lease = if c.is_multiple_of(3) { None } else { self.world.proof(session, file) };
        let map = self.world.state.file_map(FileId::from_raw(file), 0, 10).map(|map| map.chunks);
        let chunks = map.unwrap_or_default();
        let Some(chunk) = chunks.get(usize::from(c) % chunks.len().max(1)) else { return };
        let Some(member) = chunk.members.get(usize::from(b) % chunk.members.len()) else { return };
        let version = if c.is_multiple_of(7) { 1 } else { chunk.version.raw() };
        let lost = c.is_multiple_of(5);
        let (chunk, why) = (chunk.chunk.raw(), "gone".to_owned());
        let op = DropMember { lease, file, cs: member.cs.0, chunk, version, lost, why };
        let _ = self.run(CommandOp::DropMember(op));
    }

    fn join_members(&mut self, a: u8, b: u8) {
        let n = usize::from(a % SERVERS);
        let (cs, session) = (self.servers[n].disk.claimed_id, self.servers[n].session);
        let returning = self.world.state.returning(CsId(cs), 1 + usize::from(b % 4));
        let chunks =
            returning.iter().map(|(file, index)| ChunkPosition { file: file.raw(), index: *index }).collect();
        let _ = self.run(CommandOp::JoinMembers(JoinMembers { cs, session, chunks }));
    }

    fn install_versions(&mut self, a: u8, b: u8) {
        let n = usize::from(a % SERVERS);
        let (cs, session) = (self.servers[n].disk.claimed_id, self.servers[n].session);
        for effect in self.world.state.pending_for(CsId(cs)) {
            let Effect::InstallVersions { chunks, .. } = effect else { continue };
            let some =
                chunks.iter().filter(|order| b == 1 || !(order.chunk.raw() as u8 ^ b).is_multiple_of(3));
            let chunk = |order: &InstallOrder| ChunkVersion {
                chunk: order.chunk.raw(),
                // Now and then the answer to an earlier order.
                version: if b.is_multiple_of(8) { order.from.raw() } else { order.to.raw() },
                copied_bytes: 0,
                lost_blocks: 0,
            };
            let chunks = some.map(chunk).collect();
            let _ = self.run(CommandOp::VersionsInstalled(VersionsInstalled { cs, session, chunks }));
        }
    }

    fn promote_members(&mut self, a: u8, b: u8) {
        if b.is_multiple_of(2) {
            // Nothing comes between.
            self.join_members(a, b);
            (0..SERVERS).for_each(|n| self.install_versions(n, 1));
        }
        let n = usize::from(a % SERVERS);
        let (cs, session) = (self.servers[n].disk.claimed_id, self.servers[n].session);
        for effect in self.world.state.pending_for(CsId(cs)) {
            let Effect::CatchUp { chunks, .. } = effect else { continue };
            let filled = |order: &&CopyOrder| !self.world.state.copy_sources(CsId(cs), order).is_empty();
            let chunks: Vec<CopyOrder> = chunks.iter().filter(filled).copied().collect();
            let chunk = |order: &CopyOrder| ChunkVersion {
                chunk: order.chunk.raw(),
                version: order.version.raw(),
                copied_bytes: u64::from(b),
                lost_blocks: u32::from(b) & 1,
            };
            let chunks = chunks.iter().map(chunk).collect();
            let _ = self.run(CommandOp::PromoteMembers(PromoteMembers { cs, session, chunks }));
        }
    }

    /// What a leader would plan, or something that nobody planned.
    fn plan_replicas(&mut self, a: u8, b: u8) {
        let (steps, _) =
            self.world.state.plan_replicas((FileId::from_raw(0), 0), 50, |_, _| b.is_multiple_of(2));
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        for step in steps {
            match step.step {
                PlannedStep::Add { count, .. } => {
                    let is_busy = |cs: CsId| b.is_multiple_of(3) && cs.0.is_multiple_of(2);
                    let places =
                        self.world.state.places_for(&step, count, u64::from(a), |_, _| false, is_busy);
                    add.extend(places.unwrap_or_default().into_iter().map(|cs| step.place(cs)));
                }
                PlannedStep::Remove { cs } => remove.push(step.place(cs)),
            }
        }
        if b.is_multiple_of(5) {
            let any = CsId(1025 + u32::from(a % (SERVERS + 1)));
            add.iter_mut().chain(&mut remove).for_each(|place| place.cs = any.0);
        }
        let _ = self.run(CommandOp::AddReplicas(AddReplicas { places: add }));
        let _ = self.run(CommandOp::RemoveReplicas(RemoveReplicas { places: remove }));
        if b.is_multiple_of(7) {
            let chunks = self.world.state.losses_to_settle().into_iter().map(|(_, loss)| loss).collect();
            let _ = self.run(CommandOp::SettleLosses(SettleLosses { chunks }));
        }
    }

    fn make_replicas(&mut self, a: u8, b: u8) {
        let n = usize::from(a % SERVERS);
        let (cs, session) = (self.servers[n].disk.claimed_id, self.servers[n].session);
        for effect in self.world.state.pending_for(CsId(cs)) {
            let Effect::MakeReplicas { chunks, .. } = effect else { continue };
            for chunk in &chunks {
                let floor = self.servers[n].disk.fences.entry(chunk.file.raw()).or_default();
                *floor = (*floor).max(chunk.epoch.raw());
            }
            // The answer may come after something else.
            if b.is_multiple_of(4) {
                self.ask(b, a, b);
            }
            let chunks = chunks.iter().map(|new| new.chunk.raw()).collect();
            let _ = self.run(CommandOp::ChunkCreated(ChunkCreated { cs, session, chunks }));
        }
    }

    fn offline(&mut self, a: u8, b: u8) {
        let n = usize::from(a % SERVERS);
        let (cs, session) = (self.servers[n].disk.claimed_id, self.servers[n].session);
        if b.is_multiple_of(2) {
            let _ = self.run(CommandOp::CsLapsed(CsLapsed { cs, session }));
        }
        let state = CsState::Offline.into();
        let _ = self.run(CommandOp::CsStateChanged(CsStateChanged { cs, session, state }));
    }

    fn delete_chunks(&mut self, a: u8, b: u8) {
        let over: Vec<u64> = self.world.state.quarantined().take(3).map(|(chunk, _)| chunk.raw()).collect();
        if b.is_multiple_of(2) {
            let _ = self.run(CommandOp::PurgeChunks(PurgeChunks { chunks: over }));
            return;
        }
        let n = usize::from(a % SERVERS);
        let (cs, session) = (self.servers[n].disk.claimed_id, self.servers[n].session);
        for effect in self.world.state.pending_for(CsId(cs)) {
            if let Effect::DeleteChunks { chunks, .. } = effect {
                let chunks = chunks.iter().map(|(chunk, _)| chunk.raw()).collect();
                let _ = self.run(CommandOp::ChunksPurged(ChunksPurged { cs, session, chunks }));
            }
        }
    }

    fn register(&mut self, a: u8, b: u8) {
        let n = a % SERVERS;
        let fresh = self.fresh_secret();
        let model = &mut self.servers[usize::from(n)];
        match b % 12 {
            0 => model.boot += 1,
            1 => model.image = model.disk.clone(),
            // An image of the present run shows the present nonce: that no nonce can tell.
            2 if model.image.last_nonce != model.disk.last_nonce => model.disk = model.image.clone(),
            _ => {}
        }
        // A start draws a nonce; a process that registers again keeps the one it has.
        let again = b % 12 >= 8 && !model.disk.last_nonce.is_none();
        if !again {
            model.session = 0;
        }
        let new_nonce = if again { model.disk.last_nonce } else { fresh };
        let claim = RegisterCs {
            claimed_id: model.disk.claimed_id,
            last_nonce: model.disk.last_nonce,
            new_nonce,
            boot_id: vec![model.boot; 16],
            host: format!("h{}", if b % 12 == 3 { 0 } else { n }),
            ..World::claim(n + 1)
        };
        let answer = self.run(CommandOp::RegisterCs(claim));
        if let Ok(Outcome::CsRegistered(registered)) = answer {
            let model = &mut self.servers[usize::from(n)];
            model.disk.claimed_id = registered.cs;
            // It stored the nonce before it asked, so a lost answer changes nothing but what it does next.
            model.disk.last_nonce = new_nonce;
            model.session = registered.session;
            model.given = registered.fences;
        }
    }

    /// Records what it was given and what is asked of it, all or some; then says so.
    fn record_fences(&mut self, a: u8, b: u8) {
        let n = usize::from(a % SERVERS);
        let cs = self.servers[n].disk.claimed_id;
        let asked = self.world.state.pending_for(CsId(cs)).into_iter().filter_map(|effect| match effect {
            Effect::Fence { file, epoch, .. } => Some(FenceRecord { file: file.raw(), epoch: epoch.raw() }),
            _ => None,
        });
        let mut fences: Vec<_> = asked.collect();
        let model = &mut self.servers[n];
        let session = model.session;
        fences.extend(model.given.iter().copied());
        if b.is_multiple_of(4) {
            fences.truncate(1);
        }
        for fence in &fences {
            let floor = model.disk.fences.entry(fence.file).or_default();
            *floor = (*floor).max(fence.epoch);
        }
        let _ = self.run(CommandOp::FencesRecorded(FencesRecorded { cs, session, fences }));
    }

    fn lapse(&mut self, a: u8, b: u8) {
        let n = usize::from(a % SERVERS);
        let (cs, session) = (self.servers[n].disk.claimed_id, self.servers[n].session);
        let op = match b % 3 {
            0 => CommandOp::CsStateChanged(CsStateChanged { cs, session, state: i32::from(b / 3 % 5) }),
            1 => {
                let (total_bytes, free_bytes) = (1 << 40, 1 << (33 + b % 8));
                let report = CsReport { cs, session, total_bytes, free_bytes, ..Default::default() };
                CommandOp::CsReport(report)
            }
            _ => CommandOp::CsLapsed(CsLapsed { cs, session }),
        };
        let _ = self.run(op);
    }

    fn create_file(&mut self, a: u8, b: u8) {
        let path = PATHS[usize::from(a) % PATHS.len()].into();
        let attrs = AttrChange {
            replicas: Some(ReplicaChange { normal: u32::from(b % 4) + 1, minimum: None }),
            chunk_size: Some(64 << 10),
            failure_domain: Some(i32::from(b / 4 % 2) + 1),
            ..Default::default()
        };
        let size = u64::from(b % 7) * (64 << 10);
        let _ = self.run(CommandOp::CreateFile(CreateFile { path, size, attrs: Some(attrs), mode: 0 }));
    }

    fn name_files(&mut self, a: u8, b: u8) {
        let path = |n: u8| PATHS[usize::from(n) % PATHS.len()].to_owned();
        let op = match b % 4 {
            0 => CommandOp::MakeDir(MakeDir { path: path(a), parents: b.is_multiple_of(8), mode: 0 }),
            1 => CommandOp::Remove(Remove { path: path(a), recursive: b % 8 == 1 }),
            _ => CommandOp::Rename(Rename { from: path(a), to: path(b / 4), no_replace: false }),
        };
        let _ = self.run(op);
    }

    fn change_files(&mut self, a: u8, b: u8, c: u8) {
        if c.is_multiple_of(4) {
            let change = Some(AttrChange { tier: Some(u32::from(b % 5)), ..Default::default() });
            let path = PATHS[usize::from(a) % PATHS.len()].into();
            let _ = self.run(CommandOp::SetAttr(SetAttr { path, change, recursive: c.is_multiple_of(8) }));
            return;
        }
        let (session, file) = self.held(a, b);
        let lease = if c % 4 == 1 { None } else { self.world.proof(session, file) };
        let size = u64::from(b % 8) * (32 << 10);
        let _ = self.run(CommandOp::Resize(Resize {
            target: Target::file(file),
            size,
            lease,
            allow_shrink: !b.is_multiple_of(3),
        }));
    }

    /// The id of a directory that is there, or was.
    fn dir_id(&self, pick: u8) -> u64 {
        let dirs = self.world.state.tree.iter().filter(|(id, _)| self.world.state.tree.dir(*id).is_some());
        let dirs: Vec<_> = dirs.map(|(id, _)| id.raw()).chain([0, 77]).collect();
        dirs[usize::from(pick) % dirs.len()]
    }

    fn node_id(&self, pick: u8) -> u64 {
        let nodes: Vec<_> = self.world.state.tree.iter().map(|(id, _)| id.raw()).collect();
        nodes[usize::from(pick) % nodes.len()]
    }

    fn node_name(pick: u8) -> Vec<u8> {
        [&b"a"[..], b"b", b"d", b"\xff", b"."][usize::from(pick) % 5].to_vec()
    }

    fn make_node(&mut self, a: u8, b: u8, c: u8) {
        let Session { client, token, .. } = self.session_of(a);
        let op = MakeNode {
            parent: self.dir_id(b),
            name: Self::node_name(c),
            // Mostly files and directories.
            kind: if c.is_multiple_of(4) { i32::from(a % 9) } else { 1 + i32::from(a % 2) },
            mode: u32::from(a) << 4,
            uid: u32::from(b % 3),
            gid: u32::from(c % 3),
            rdev: u32::from(c),
            target: b"to".to_vec(),
            exclusive: b.is_multiple_of(2),
            opener: a.is_multiple_of(3).then_some(SessionProof { client, token }),
            now_ns: i64::from(c) - 7,
        };
        let _ = self.run(CommandOp::MakeNode(op));
    }

    fn rename_node(&mut self, a: u8, b: u8, c: u8) {
        let op = RenameNode {
            parent: self.dir_id(a),
            name: Self::node_name(b),
            new_parent: self.dir_id(b / 5),
            new_name: Self::node_name(c),
            mode: 1 + i32::from(c / 5 % 3),
            now_ns: 9,
        };
        let _ = self.run(CommandOp::RenameNode(op));
    }

    fn unlink_or_link(&mut self, a: u8, b: u8, c: u8) {
        let (parent, name) = (self.dir_id(a), Self::node_name(b));
        let op = if c.is_multiple_of(3) {
            CommandOp::UnlinkNode(UnlinkNode { parent, name, what: 1 + i32::from(c / 3 % 3), now_ns: 8 })
        } else {
            CommandOp::LinkNode(LinkNode { id: self.node_id(c), parent, name, now_ns: 7 })
        };
        let _ = self.run(op);
    }

    fn set_inode(&mut self, a: u8, b: u8, c: u8) {
        let (session, file) = self.held(a, b);
        let lease = if c % 4 == 1 { None } else { self.world.proof(session, file) };
        let size = SizeSet { size: u64::from(b % 8) * (32 << 10), lease, grow_only: b.is_multiple_of(3) };
        let op = SetInode {
            id: if c.is_multiple_of(5) { self.node_id(a) } else { file },
            mode: b.is_multiple_of(2).then_some(0o2777),
            uid: b.is_multiple_of(5).then_some(5),
            gid: None,
            size: (!c.is_multiple_of(3)).then_some(size),
            atime_ns: c.is_multiple_of(7).then_some(-1),
            mtime_ns: c.is_multiple_of(11).then_some(i64::MAX),
            ctime_ns: None,
            now_ns: i64::from(a) * 1_000_000,
        };
        let _ = self.run(CommandOp::SetInode(op));
    }

    fn change_xattrs(&mut self, a: u8, b: u8) {
        let (id, name) = (self.node_id(a), vec![b'n', b % 3]);
        let op = if b.is_multiple_of(5) {
            CommandOp::RemoveXattr(RemoveXattr { id, name, now_ns: 3 })
        } else {
            let mode = 1 + i32::from(a % 3);
            CommandOp::SetXattr(SetXattr { id, name, value: vec![a; usize::from(b)], mode, now_ns: 4 })
        };
        let _ = self.run(op);
    }

    fn settings(&mut self, a: u8, b: u8) {
        // A restore is rare.
        let op = if a.is_multiple_of(16) {
            CommandOp::RaiseGeneration(RaiseGeneration::default())
        } else {
            let spec = Parameter::ALL[usize::from(a) % Parameter::ALL.len()].spec();
            let value = (spec.min + u64::from(b) % (spec.max - spec.min + 1)).to_string();
            CommandOp::SetConfig(SetConfig { key: spec.name.into(), value, origin: String::new() })
        };
        let _ = self.run(op);
    }

    /// Numbers that fit nothing must do nothing.
    fn nonsense(&mut self, a: u8, b: u8, c: u8) {
        let lease = Some(LeaseProof {
            client: 2049 + u32::from(a % 3),
            token: secret(u64::from(b)),
            epoch: u64::from(c),
        });
        let (cs, number, file) = (1025 + u32::from(a % 4), u64::from(b), self.file_id(c));
        let op = match c % 8 {
            0 => CommandOp::Release(Release { lease, file, clean: true, successor: 0 }),
            1 => CommandOp::AllocateChunks(AllocateChunks {
                lease,
                file,
                indices: vec![0],
                seed: 0,
                grow_to: 0,
            }),
            2 => CommandOp::CsLapsed(CsLapsed { cs, session: number }),
            3 => CommandOp::FencesRecorded(FencesRecorded {
                cs,
                session: number,
                fences: vec![FenceRecord { file, epoch: u64::MAX }],
            }),
            4 => CommandOp::Open(Open {
                client: 2049,
                token: secret(number),
                target: Target::file(file),
                mode: 3,
            }),
            5 => CommandOp::ReplaceCreating(ReplaceCreating { chunk: number, cs, seed: 0 }),
            6 => CommandOp::PurgeChunks(PurgeChunks { chunks: vec![number] }),
            _ => CommandOp::ReconcileDone(ReconcileDone { lease, file, chunks: vec![], writes_lost: true }),
        };
        assert!(self.run(op).is_err());
    }
}

/// Enough of everything that a short random sequence gets somewhere.
fn furnished() -> Model {
    let mut model = Model::new();
    (0..SERVERS).for_each(|n| {
        model.register(n, 4);
        model.record_fences(n, 1);
    });
    (0..CLIENTS).for_each(|n| model.open_session(n, 1));
    model.name_files(4, 0);
    for n in 0..3 {
        model.create_file(n, 6 + 7 * n);
    }
    for file in 0..2 {
        model.ask(file, file, 2);
        model.allocate(file, file, 3);
        (0..8).for_each(|_| model.create_chunks(0, 1));
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn no_sequence_breaks_an_invariant(steps in prop::collection::vec(any::<Step>(), 1..120)) {
        let mut model = furnished();
        steps.into_iter().for_each(|step| model.step(step));
        model.check_joiners();

        // C12: the same log gives the same state, also through the log's encoding and from a snapshot in the middle.
        let World { state, log, .. } = model.world;
        let middle = log.len() / 2;
        let mut replayed = State::new();
        let mut resumed = State::new();
        for (n, command) in log.iter().enumerate() {
            let decoded = Command::decode_log(&command.encode_log()).unwrap();
            let answer = replayed.apply(n as u64 + 1, &decoded);
            if n > middle {
                prop_assert_eq!(resumed.apply(n as u64 + 1, command), answer);
            } else if n == middle {
                let bytes = replayed.encode_snapshot();
                resumed = State::decode_snapshot(&bytes).unwrap();
                prop_assert!(resumed == replayed, "a snapshot reads back as another state");
                prop_assert_eq!(resumed.encode_snapshot(), bytes);
            }
        }
        prop_assert!(replayed == state, "the same log gives another state");
        prop_assert!(resumed == state, "a snapshot goes on differently");
        prop_assert_eq!(resumed.pending_work(), state.pending_work());
        prop_assert_eq!(resumed.summary(), state.summary());
    }
}

#[test]
fn the_random_sequences_reach_what_they_are_for() {
    // A generator that only collects refusals proves nothing.
    let mut random = 12345u64;
    let mut next = || {
        random = placement::derive_seed(random, 1);
        (random >> 24) as u8
    };
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..120 {
        let mut model = furnished();
        for _ in 0..120 {
            model.step((next(), next(), next(), next()));
            for (_, file) in model.world.state.tree.files() {
                let name = match file.lease.phase() {
                    Phase::Idle => "idle",
                    Phase::Unclean => "unclean",
                    Phase::Fencing { .. } => "fencing",
                    Phase::Fenced => "fenced",
                    Phase::Exclusive { .. } if file.chunks.unreconciled() > 0 => "reconciling",
                    Phase::Exclusive { .. } => "exclusive",
                    Phase::Shared { readers, .. } if readers.len() > 1 => "readers",
                    Phase::Shared { .. } => "reader",
                };
                *seen.entry(name).or_default() += 1;
            }
            let state = &model.world.state;
            for (name, there) in [
                ("orphans", !state.tree.orphans().is_empty()),
                ("debts", state.servers().any(|server| server.debts().count() > 0)),
                ("stale", state.servers().any(|server| server.stale_replicas > 0)),
                ("deletions", state.deletions().any(|(_, deletion)| deletion.purging)),
                ("expired", state.clients().any(|client| !client.is_live())),
                ("generation", state.cluster.generation > 1),
                ("links", state.tree.iter().any(|(id, _)| state.tree.other_names_of(id).count() > 0)),
                (
                    "orphans with attributes",
                    state.tree.orphans().iter().any(|id| state.tree.xattrs(*id).is_some()),
                ),
                ("specials", state.tree.iter().any(|(_, inode)| matches!(inode.body, Body::Special(_)))),
                ("absent", state.servers_with_absent().next().is_some()),
                ("joining", state.servers().any(|server| state.joiners_on(server.id, |_| false) > 0)),
                (
                    "promoted",
                    state.events().iter().any(|event| event.code == EventCode::ReplicasReturned)
                        || state.servers().any(|server| server.returned > 0),
                ),
                ("reserved", state.tree.files().any(|(_, file)| file.lease.reserved_for().is_some())),
            ] {
                *seen.entry(name).or_default() += u32::from(there);
            }
        }
    }
    let rare: Vec<_> = seen.iter().filter(|(_, count)| **count < 5).collect();
    assert!(seen.len() == 21 && rare.is_empty(), "{seen:?}");
}
