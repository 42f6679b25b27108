//! The time during which this server is master: what it does besides answering, and what it keeps in memory.
//!
//! Everything here begins empty with the reign and ends with it. What must outlast it is in the state; so a new master
//! needs nothing from the one before but the log, restarts full terms (C1, C2), and works out from the state what is
//! still to be done.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rt::sync::Notify;
use rt::time::Instant;
use wire::Status;

use super::asked::Asked;
use super::chunk_servers::ChunkServers;
use super::compare::Comparisons;
use super::creations::Creations;
use super::failure::Failure;
use super::inventory::Inventories;
use super::losses::Losses;
use super::metadata::{Answer, Metadata, Todo};
use super::rebuild::Rebuild;
use super::repairs::Repairs;
use super::returns::Returns;
use super::sessions::Sessions;
use super::waiting::Waiting;
use super::{Served, ServerOptions};
use crate::raft::{Consensus, ProposeError};
use crate::state::command::{CommandOp, LeaderElected, NoteEvent, RequestId};
use crate::state::health::{ClusterStatus, CsCounts};
use crate::state::{ClientId, Command, Effect, EventCode, FileId, Outcome, Parameter, State};

/// Pause before a command of the leader's own is proposed again because the disk is full.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// This server as master.
pub(crate) struct Reign {
    pub(crate) consensus: Consensus<Metadata>,
    pub(crate) metadata: Metadata,
    pub(crate) options: Rc<ServerOptions>,
    pub(crate) served: Rc<Served>,
    pub(crate) since: Instant,
    pub(crate) sessions: RefCell<Sessions>,
    pub(crate) servers: RefCell<ChunkServers>,
    pub(crate) creations: Creations,
    pub(crate) returns: Returns,
    pub(crate) rebuild: Rebuild,
    pub(crate) repairs: Repairs,
    pub(crate) comparisons: Comparisons,
    pub(crate) losses: Losses,
    pub(crate) inventories: Inventories,
    pub(crate) waiting: Waiting,
    /// The last request of a client to open a file, of those that are under way.
    pub(crate) opening: RefCell<BTreeMap<(ClientId, FileId), u64>>,
    /// Counts these requests.
    pub(crate) attempts: Cell<u64>,
    /// A term began or ended: the timekeeper looks again.
    pub(super) terms_changed: Notify,
    /// There is something to delete.
    pub(super) purge_wanted: Notify,
    over: Cell<bool>,
    tasks: RefCell<Vec<rt::JoinHandle<()>>>,
}

impl std::fmt::Debug for Reign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reign").field("since", &self.since).field("over", &self.over).finish_non_exhaustive()
    }
}

impl Reign {
    /// Begins to rule: the first entry of the reign is in the log when this returns, full terms run, and pending work is
    /// under way.
    pub(super) async fn begin(
        consensus: Consensus<Metadata>,
        metadata: Metadata,
        served: Rc<Served>,
        options: Rc<ServerOptions>,
    ) -> Result<Rc<Self>, ProposeError> {
        // From the first entry on, so that nothing is missed; what is pending is listed below all the same.
        metadata.collect(true);
        let reign = Rc::new(Self {
            consensus,
            metadata,
            options,
            since: rt::time::now(),
            sessions: RefCell::default(),
            servers: RefCell::default(),
            creations: Creations::default(),
            returns: Returns::default(),
            rebuild: Rebuild::default(),
            repairs: Repairs::default(),
            comparisons: Comparisons::default(),
            losses: Losses::default(),
            inventories: Inventories::default(),
            waiting: Waiting::default(),
            opening: RefCell::default(),
            attempts: Cell::new(0),
            terms_changed: Notify::new(),
            purge_wanted: Notify::new(),
            over: Cell::new(false),
            tasks: RefCell::default(),
            served,
        });
        let mds_id = u32::try_from(reign.served.mds_id).unwrap_or(u32::MAX);
        let elected = LeaderElected { mds_id, address: reign.served.address.to_string() };
        let command = Command::internal(rt::time::wall_clock_ms(), CommandOp::LeaderElected(elected));
        reign.consensus.propose_vital(command.encode_log()).await?.ok();
        reign.restart_terms();
        reign.resume();
        let tasks = [
            rt::spawn(Rc::clone(&reign).carry_out_all()),
            rt::spawn(Rc::clone(&reign).keep_time()),
            rt::spawn(Rc::clone(&reign).mend_creations()),
            rt::spawn(Rc::clone(&reign).return_replicas()),
            rt::spawn(Rc::clone(&reign).replicate()),
            rt::spawn(Rc::clone(&reign).end_quarantines()),
            rt::spawn(Rc::clone(&reign).settle_losses()),
            rt::spawn(Rc::clone(&reign).count_hours()),
            rt::spawn(Rc::clone(&reign).note_status()),
        ];
        reign.tasks.borrow_mut().extend(tasks);
        Ok(reign)
    }

    /// Tells the operator how the cluster is, as every new master does (guide 5.6.1).
    async fn note_status(self: Rc<Self>) {
        let (counts, limit) =
            self.read(|state| (state.summary_of_servers(), state.config(Parameter::MaxOfflineCs)));
        let CsCounts { active, inactive, offline } = counts;
        let args = [active.to_string(), inactive.to_string(), offline.to_string(), limit.to_string()];
        let (code, count) = match ClusterStatus::of(counts, limit) {
            ClusterStatus::Unknown => return,
            ClusterStatus::Healthy => (EventCode::ClusterHealthy, 1),
            ClusterStatus::Degraded => (EventCode::ClusterDegraded, 3),
            ClusterStatus::Failed => (EventCode::ClusterFailed, 4),
        };
        self.note_event(code, args[..count].to_vec()).await;
    }

    /// Ends: nothing is renewed, proposed or delivered any more.
    pub(super) fn end(&self) {
        self.over.set(true);
        for task in self.tasks.borrow_mut().drain(..) {
            task.abort();
        }
        self.metadata.collect(false);
        self.servers.borrow_mut().cut_links();
        self.waiting.wake_all();
        self.metadata.wake();
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    // Changing and looking.

    /// Proposes a command and waits until it is carried out, or refused.
    pub(crate) async fn propose(
        &self,
        request: Option<RequestId>,
        op: CommandOp,
    ) -> Result<Answer, ProposeError> {
        let command = Command { now_ms: rt::time::wall_clock_ms(), request, op: Some(op) };
        self.consensus.propose(command.encode_log()).await
    }

    /// Proposes a command on behalf of a request, for as long as that has time.
    pub(crate) async fn change(
        &self,
        asked: &Asked,
        request: Option<RequestId>,
        op: CommandOp,
    ) -> Result<Answer, Failure> {
        match rt::time::timeout_at(asked.answer_by(), self.propose(request, op)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Failure::timeout()),
        }
    }

    /// Proposes a command of the leader's own until it is carried out or refused; `None` when the reign is over.
    pub(crate) async fn insist(&self, op: CommandOp) -> Option<Answer> {
        loop {
            if self.is_over() {
                return None;
            }
            match self.propose(None, op.clone()).await {
                Ok(answer) => return Some(answer),
                Err(error @ ProposeError::Full { .. }) => {
                    tracing::error!("{error}");
                    rt::time::sleep(FULL_PAUSE).await;
                }
                Err(error) => {
                    tracing::debug!("a command of the master was not taken: {error}");
                    return None;
                }
            }
        }
    }

    /// Has an event noted of which nothing else in the log tells.
    pub(crate) async fn note_event(&self, code: EventCode, mut args: Vec<String>) {
        for arg in &mut args {
            // The longest text in a command; what is too long for it is a path.
            if let Some(cut) = arg.char_indices().map(|(at, _)| at).find(|at| *at > 200) {
                arg.truncate(cut);
            }
        }
        let op = CommandOp::NoteEvent(NoteEvent { code: code.into(), args });
        if let Some(Err(refusal)) = self.insist(op).await {
            tracing::warn!("an event is not noted: {refusal}");
        }
    }

    /// Makes sure, after the request arrived, that this server is the master: what it reads from now on is no older than
    /// the request (C12), and what it renews nobody else counts as lapsed (C1).
    pub(crate) async fn confirm(&self, asked: &Asked) -> Result<(), Failure> {
        match rt::time::timeout_at(asked.answer_by(), self.consensus.read_barrier()).await {
            Ok(confirmed) => confirmed?,
            Err(_) => {
                return Err(Failure::busy("the metadata servers do not agree in time on who is the master"));
            }
        }
        if self.is_over() { Err(Self::not_master()) } else { Ok(()) }
    }

    /// What a request gets when the reign ended while it was served.
    pub(crate) fn not_master() -> Failure {
        Failure::new(Status::NotMaster, "this metadata server is not the master any more")
    }

    /// Looks at the state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.metadata.read(look)
    }

    // Terms.

    /// How long a session lasts from its renewal.
    pub(crate) fn lease_term(&self) -> Duration {
        self.options.lease_term.unwrap_or_else(|| self.read(|state| seconds(state, Parameter::LeaseTerm)))
    }

    /// How long the registration of a chunk server lasts from its renewal.
    pub(crate) fn cs_term(&self) -> Duration {
        self.options.cs_term.unwrap_or_else(|| self.read(|state| seconds(state, Parameter::CsTerm)))
    }

    /// How long after its lapse a chunk server counts as offline.
    pub(crate) fn offline_after(&self) -> Duration {
        self.read(|state| seconds(state, Parameter::OfflineTout))
    }

    /// A file is kept for a client, from now on for a whole term.
    pub(super) fn keep_for(&self, client: ClientId, file: FileId) {
        let session = self.read(|state| state.client(client).map_or(0, |client| client.session));
        let until = rt::time::now() + self.lease_term();
        self.sessions.borrow_mut().kept.restart(file, session, until);
        self.terms_changed.notify_all();
    }

    /// A file was granted: nothing is left of the time for which it was kept, unless it is kept again already.
    pub(super) fn keep_ended(&self, file: FileId) {
        if self.kept_for(file).is_none() {
            self.sessions.borrow_mut().kept.end(file);
        }
    }

    /// For whom a file is kept.
    pub(super) fn kept_for(&self, file: FileId) -> Option<ClientId> {
        self.read(|state| state.tree().file(file).ok()?.lease().reserved_for())
    }

    /// Full terms for everybody, from now on (C1).
    fn restart_terms(&self) {
        let now = rt::time::now();
        let lease = self.options.lease_term.unwrap_or_else(|| self.longest(Parameter::LeaseTerm));
        let cs = self.options.cs_term.unwrap_or_else(|| self.longest(Parameter::CsTerm));
        let offline = now + self.offline_after();
        let (mut sessions, mut servers) = (self.sessions.borrow_mut(), self.servers.borrow_mut());
        self.read(|state| {
            for client in state.clients().filter(|client| client.is_live()) {
                sessions.watch.begin(client.id, client.session, now + lease);
            }
            for server in state.servers() {
                if server.is_lapsed() {
                    servers.offline.begin(server.id, server.session, offline);
                } else {
                    servers.watch.begin(server.id, server.session, now + cs);
                }
            }
        });
    }

    /// The longest term that the master before may have granted: it may have been shortened since.
    fn longest(&self, parameter: Parameter) -> Duration {
        self.read(|state| {
            let name = parameter.spec().name;
            let changes = state.events().iter().filter(|event| event.code == EventCode::ConfigChanged);
            let before = changes.filter_map(|event| match &event.args[..] {
                [key, old, ..] if key == name => old.parse().ok(),
                _ => None,
            });
            Duration::from_secs(before.max().unwrap_or(0)).max(seconds(state, parameter))
        })
    }

    // Effects.

    async fn carry_out_all(self: Rc<Self>) {
        loop {
            match self.metadata.todo().await {
                Todo::Effects(effects) => effects.into_iter().for_each(|effect| self.carry_out(effect)),
                Todo::Everything => self.resume(),
            }
        }
    }

    /// Takes up everything that is not done.
    fn resume(&self) {
        let pending = self.read(State::pending_work);
        pending.into_iter().for_each(|effect| self.carry_out(effect));
        // Those whose end is among the effects that were dropped.
        self.read(|state| {
            let is_live = |client| state.client(client).is_some_and(|client| client.is_live());
            self.sessions.borrow_mut().retain(is_live);
        });
        self.waiting.wake_all();
        self.returns.look();
        self.rebuild.look();
        self.purge_wanted.notify_one();
    }

    /// Does what a command asks for, or sees to it that it is done. Never waits.
    fn carry_out(&self, effect: Effect) {
        let now = rt::time::now();
        match effect {
            Effect::CreateChunks { cs, file, chunks, .. } => {
                for chunk in &chunks {
                    self.creations.begin(chunk.chunk, cs, file, chunk.index, now);
                }
                self.servers.borrow().order(cs, |link| link.create(self, file, &chunks));
            }
            Effect::Fence { cs, file, epoch } => {
                self.servers.borrow().order(cs, |link| link.fence(file, epoch))
            }
            Effect::DeleteChunks { cs, chunks } => {
                self.servers.borrow().order(cs, |link| link.delete(&chunks))
            }
            Effect::InstallVersions { cs, chunks } => {
                self.servers.borrow().order(cs, |link| link.install(&chunks))
            }
            Effect::CatchUp { cs, chunks } => self.servers.borrow().order(cs, |link| link.catch_up(&chunks)),
            Effect::MakeReplicas { cs, chunks } => self.servers.borrow().order(cs, |link| link.make(&chunks)),
            Effect::Purge => self.purge_wanted.notify_one(),
            Effect::Replicate => self.rebuild.look(),
            Effect::Returns => self.returns.look(),
            Effect::WatchClient { client, session } => {
                self.sessions.borrow_mut().watch.begin(client, session, now + self.lease_term());
                self.terms_changed.notify_all();
            }
            Effect::WatchCs { cs, session } => {
                let mut servers = self.servers.borrow_mut();
                servers.watch.succeed(cs, session, now + self.cs_term());
                servers.offline.end(cs);
                self.terms_changed.notify_all();
            }
            Effect::UnwatchClient { client } => self.sessions.borrow_mut().forget(client),
            Effect::LeaseKept { client, file } => self.keep_for(client, file),
            // Its renewals tell it, from the state.
            Effect::LeaseLost { client, file, epoch } => {
                tracing::debug!("{client} has lost file {:#x} at epoch {:#x}", file.raw(), epoch.raw());
            }
            Effect::LeaseFree { file } | Effect::ChunkUsable { file, .. } => self.waiting.wake(file),
            // Its connection to that chunk server has told it.
            Effect::Reopen { client, file } => {
                tracing::debug!("{client} has to open file {:#x} again", file.raw());
            }
        }
    }
}

/// A parameter that is a time.
fn seconds(state: &State, parameter: Parameter) -> Duration {
    Duration::from_secs(state.config(parameter))
}

/// What a command answers that is not what it should.
pub(crate) fn unexpected(outcome: &Outcome) -> Failure {
    tracing::error!("a command answered {outcome:?}");
    Failure::new(Status::Internal, "")
}
