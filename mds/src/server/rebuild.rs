//! Replicas are made where they are missing, and removed where they have no use: the most endangered chunks first.
//!
//! What is missing is found by looking through all chunks, some at a time, whenever something has changed that could make a
//! difference. Nothing is remembered but a bounded list of steps, each looked at again before it is taken; so a lost step is
//! found by the next look.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use rt::sync::Notify;
use rt::time::Instant;
use wire::Status;

use super::reign::Reign;
use crate::state::command::{
    AddReplicas, CommandOp, CsReport, CsState, DropCs, DropMember, Leave, RemoveReplicas, ReplicaPlace,
    ReportedEvent, ReportedSeverity,
};
use crate::state::replication::{PlannedStep, ReplicaStep, Urgency};
use crate::state::{
    ChunkId, CopyOrder, CsId, EventCode, FileId, MEMBERS_MAX, Outcome, Parameter, State, Version,
};

/// Where all chunks begin.
const START: (FileId, u32) = (FileId::from_raw(0), 0);
/// Chunks that are looked at between two looks at everything else.
const LOOK_MAX: usize = 16_384;
/// Steps that are kept, of each urgency.
const STEPS_MAX: usize = 8192;
/// Replicas that are on their way to a chunk server at once.
pub(crate) const ARRIVING_MAX: usize = 8;
/// The shortest time between two looks at all chunks.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Replicas that are moved at once, in the whole cluster.
const MOVES_MAX: usize = 4;
/// How often it is looked again while something cannot be done.
const PAUSE: Duration = Duration::from_secs(5);
/// How long chunks that cannot be written wait for a chunk server before they are replicated without it.
const BLOCKED_PATIENCE: Duration = Duration::from_secs(30);
/// How long a chunk server that refused to make a replica is not asked again.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// How long nothing comes to a chunk server that had no room for a joiner, at first...
const FULL_REST_MIN: Duration = Duration::from_secs(10);
/// ...and at most.
const FULL_REST_MAX: Duration = Duration::from_secs(320);
/// From which rest on its replicas are not waited for, but made elsewhere.
const FULL_REST_LONG: Duration = Duration::from_secs(80);
/// Pause before a joiner is filled again that could not be filled, at first...
const FILL_PAUSE_MIN: Duration = Duration::from_secs(2);
/// ...and at most.
const FILL_PAUSE_MAX: Duration = Duration::from_secs(30);
/// After how long an operator hears of a joiner that cannot be filled.
const FAILING_LONG: Duration = Duration::from_secs(300);
/// How long it is tried again of a joiner that was given up before.
const FAILING_AGAIN: Duration = Duration::from_secs(60);
/// After how long without a failure a new one is the first again.
const FAILING_FORGOTTEN: Duration = Duration::from_secs(3600);
/// The longest text of an event, in bytes.
const MESSAGE_MAX: usize = 1024;
/// Joiners that could not be filled of which it is remembered.
const FAILING_MAX: usize = 65_536;
/// How long a joiner rests that was given up, before it is given back: it may fare better then.
const GIVEN_UP_REST: Duration = Duration::from_secs(600);
/// How long nothing comes to a chunk server where so many joiners failed as may arrive at once, and none was filled; at first...
const FUTILE_REST_MIN: Duration = Duration::from_secs(60);
/// ...and at most.
const FUTILE_REST_MAX: Duration = Duration::from_secs(960);

/// A replica that could not be filled as a joiner, from its first failure on: other versions, and times when it is away, do not end it.
#[derive(Clone, Copy, Debug)]
struct Failing {
    /// The last one under which it failed.
    version: Version,
    last: Instant,
    pause: Duration,
    /// When it is given up, if it is not filled until then.
    deadline: Instant,
    given_up: bool,
    told: bool,
}

/// What becomes of a joiner that could not be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotFilled {
    /// When it is tried again.
    pub(crate) pause: Duration,
    /// Nobody waits for it any more.
    pub(crate) gives_up: bool,
    /// The operator is to hear of it.
    pub(crate) tell: bool,
}

/// A chunk server where joiners failed since one was filled.
#[derive(Clone, Copy, Debug)]
struct Futile {
    joiners: usize,
    until: Instant,
    rest: Duration,
}

/// A chunk server that had no room for a joiner.
#[derive(Clone, Copy, Debug)]
struct Full {
    until: Instant,
    rest: Duration,
}

/// What is known of replication besides the state.
#[derive(Debug, Default)]
pub(crate) struct Rebuild {
    wanted: Notify,
    /// Something has changed since the last look.
    changed: Cell<bool>,
    /// Since when chunk servers are away.
    away: RefCell<BTreeMap<CsId, Instant>>,
    /// Until when chunk servers are not asked.
    refused: RefCell<BTreeMap<CsId, Instant>>,
    /// Joiners that could not be filled when it was tried last: they keep nobody else out.
    failing: RefCell<BTreeMap<(CsId, ChunkId), Failing>>,
    /// Joiners that were given up, and until when nobody waits for them.
    given_up: RefCell<BTreeMap<(CsId, ChunkId), Instant>>,
    /// Chunk servers where joiners fail.
    futile: RefCell<BTreeMap<CsId, Futile>>,
    /// Chunk servers that had no room for joiners.
    full: RefCell<BTreeMap<CsId, Full>>,
    told: Told,
}

/// What the operator has been told, and has not been told that it is over.
#[derive(Debug, Default)]
struct Told {
    /// Replicas are being made.
    running: Cell<bool>,
    /// They are not, because too many hosts are dark.
    held: Cell<bool>,
    /// There is no place for some.
    short: Cell<bool>,
}

impl Rebuild {
    /// Something has changed.
    pub(super) fn look(&self) {
        self.changed.set(true);
        self.wanted.notify_one();
    }

    /// A chunk server refused to make a replica.
    pub(crate) fn refused(&self, cs: CsId, now: Instant) {
        self.refused.borrow_mut().insert(cs, now + REFUSED_PAUSE);
        self.look();
    }

    fn is_refusing(&self, cs: CsId, now: Instant) -> bool {
        self.refused.borrow().get(&cs).is_some_and(|until| *until > now)
    }

    /// A chunk server has no room for a joiner. Whether that is news.
    pub(crate) fn full(&self, cs: CsId, now: Instant) -> bool {
        let mut full = self.full.borrow_mut();
        match full.get_mut(&cs).filter(|known| known.until + FULL_REST_MAX > now) {
            // All that joined at once are refused at once.
            Some(known) if known.until > now => false,
            Some(known) => {
                known.rest = (known.rest * 2).min(FULL_REST_MAX);
                known.until = now + known.rest;
                false
            }
            None => {
                full.insert(cs, Full { until: now + FULL_REST_MIN, rest: FULL_REST_MIN });
                true
            }
        }
    }

    /// Whether a chunk server had no room for a joiner a moment ago: nothing comes to it now.
    pub(crate) fn is_full(&self, cs: CsId, now: Instant) -> bool {
        self.full.borrow().get(&cs).is_some_and(|full| full.until > now)
    }

    fn is_full_for_long(&self, cs: CsId, now: Instant) -> bool {
        let full = self.full.borrow();
        full.get(&cs).is_some_and(|full| full.rest >= FULL_REST_LONG && full.until + FULL_REST_MAX > now)
    }

    /// A joiner could not be filled. One that cannot be for long is given up: another replica is made elsewhere.
    pub(crate) fn not_filled(&self, cs: CsId, chunk: ChunkId, version: Version, now: Instant) -> NotFilled {
        let mut failing = self.failing.borrow_mut();
        if failing.len() >= FAILING_MAX && !failing.contains_key(&(cs, chunk)) {
            return NotFilled { pause: FILL_PAUSE_MAX, gives_up: false, tell: false };
        }
        let first = Failing {
            version,
            last: now,
            pause: FILL_PAUSE_MIN / 2,
            deadline: now + FAILING_LONG,
            given_up: false,
            told: false,
        };
        if failing.get(&(cs, chunk)).is_none_or(|known| now.since(known.last) >= FAILING_FORGOTTEN) {
            failing.insert((cs, chunk), first);
            self.failed_on(cs, now);
        }
        let known = failing.entry((cs, chunk)).or_insert(first);
        if known.version != version {
            (known.version, known.pause) = (version, first.pause);
            if std::mem::take(&mut known.given_up) {
                known.deadline = now + FAILING_AGAIN;
            }
        }
        known.last = now;
        known.pause = (known.pause * 2).min(FILL_PAUSE_MAX);
        let gives_up = !known.given_up && now >= known.deadline;
        known.given_up |= gives_up;
        let tell = gives_up && !known.told;
        known.told |= tell;
        NotFilled { pause: known.pause, gives_up, tell }
    }

    /// That a joiner could not be filled is neither its nor its chunk server's fault.
    fn is_no_failure(&self, cs: CsId, chunk: ChunkId, now: Instant) {
        if let Some(known) = self.failing.borrow_mut().get_mut(&(cs, chunk)) {
            known.given_up = false;
            known.deadline = now + FAILING_LONG;
        }
        self.futile.borrow_mut().remove(&cs);
    }

    /// One more joiner failed on a chunk server. When too many do and none is filled it is most likely the server's fault: more of them
    /// would only fail there as well, instead of being filled elsewhere.
    fn failed_on(&self, cs: CsId, now: Instant) {
        let mut futile = self.futile.borrow_mut();
        let first = Futile { joiners: 0, until: now, rest: FUTILE_REST_MIN / 2 };
        let known = futile.entry(cs).or_insert(first);
        if known.until + FUTILE_REST_MAX < now {
            *known = first;
        }
        if known.until > now {
            // Those that were there before, or the one that is tried: the next rest is not for these.
            return;
        }
        known.joiners += 1;
        if known.joiners >= ARRIVING_MAX {
            known.rest = (known.rest * 2).min(FUTILE_REST_MAX);
            (known.joiners, known.until) = (0, now + known.rest);
        }
    }

    /// Whether joiners only failed on a chunk server a moment ago: nothing comes to it now.
    pub(crate) fn is_futile(&self, cs: CsId, now: Instant) -> bool {
        self.futile.borrow().get(&cs).is_some_and(|futile| futile.until > now)
    }

    /// A joiner is filled.
    pub(crate) fn filled(&self, cs: CsId, chunk: ChunkId) {
        self.failing.borrow_mut().remove(&(cs, chunk));
        self.futile.borrow_mut().remove(&cs);
    }

    /// A joiner could not be filled for so long that nobody waits for it any more.
    pub(crate) fn give_up(&self, cs: CsId, chunk: ChunkId, now: Instant) {
        let mut given_up = self.given_up.borrow_mut();
        if given_up.len() >= FAILING_MAX {
            given_up.retain(|_, until| *until > now);
        }
        if given_up.len() < FAILING_MAX {
            given_up.insert((cs, chunk), now + GIVEN_UP_REST);
        }
    }

    /// Whether a replica is not given back now, because it could not be filled for long.
    pub(crate) fn is_given_up(&self, cs: CsId, chunk: ChunkId, now: Instant) -> bool {
        self.given_up.borrow().get(&(cs, chunk)).is_some_and(|until| *until > now)
    }

    /// Whether a joiner could not be filled when it was tried last under its present version.
    pub(crate) fn is_failing(&self, state: &State, cs: CsId, chunk: ChunkId) -> bool {
        let failed = self.failing.borrow().get(&(cs, chunk)).map(|failing| failing.version);
        failed.is_some_and(|version| state.joiner(cs, chunk).is_some_and(|order| order.version == version))
    }

    /// Whether a replica that is away, on a chunk server that serves, does not return: it could not be filled for long, or has no room.
    pub(crate) fn is_unreturnable(&self, cs: CsId, chunk: ChunkId, now: Instant) -> bool {
        self.is_given_up(cs, chunk, now) || self.is_full_for_long(cs, now)
    }

    /// A chunk server has registered anew: what failed there before may be over, and while it was away nothing was tried.
    pub(crate) fn registered(&self, cs: CsId, now: Instant) {
        self.refused.borrow_mut().remove(&cs);
        self.futile.borrow_mut().remove(&cs);
        self.full.borrow_mut().remove(&cs);
        self.given_up.borrow_mut().retain(|(of, _), _| *of != cs);
        let mut failing = self.failing.borrow_mut();
        let first = (cs, ChunkId::from_raw(0));
        for (_, failing) in failing.range_mut(first..).take_while(|((of, _), _)| *of == cs) {
            failing.deadline = failing.deadline.max(now + FAILING_AGAIN);
        }
    }

    /// Forgets replicas that are not to be filled any more, or have not failed for long. Those that were given up are remembered as long as
    /// there is room: what is made there again is the same to whoever has heard of it.
    pub(crate) fn forget_joiners(&self, state: &State, now: Instant) {
        let mut failing = self.failing.borrow_mut();
        let has_room = failing.len() < FAILING_MAX / 2;
        failing.retain(|(cs, chunk), failing| {
            let is_known = state.is_to_be_filled(*cs, *chunk) || (failing.told && has_room);
            is_known && now.since(failing.last) < FAILING_FORGOTTEN
        });
    }

    /// How many more replicas chunk servers can take now; those that can take none are left out.
    fn room(&self, state: &State, now: Instant) -> BTreeMap<CsId, usize> {
        let usable = state.servers().map(|server| server.id).filter(|cs| state.is_firm(*cs));
        let asked = usable
            .filter(|cs| !self.is_refusing(*cs, now) && !self.is_full(*cs, now) && !self.is_futile(*cs, now));
        let room = asked.map(|cs| {
            let arriving = state.arriving_on(cs, |chunk| self.is_failing(state, cs, chunk));
            (cs, ARRIVING_MAX.saturating_sub(arriving))
        });
        room.filter(|(_, room)| *room > 0).collect()
    }

    fn note_away(&self, state: &State, now: Instant) {
        let away = state.servers().map(|server| server.id).filter(|cs| state.is_away(*cs));
        let away: BTreeSet<CsId> = away.collect();
        let mut known = self.away.borrow_mut();
        known.retain(|cs, _| away.contains(cs));
        away.into_iter().for_each(|cs| {
            known.entry(cs).or_insert(now);
        });
    }

    /// Whether nobody waits any longer for a chunk server, or for the replica of a chunk there.
    pub(crate) fn is_in_vain(&self, cs: CsId, chunk: ChunkId, now: Instant) -> bool {
        self.is_overdue(cs, now) || self.is_given_up(cs, chunk, now)
    }

    /// Whether nobody waits for a chunk server any longer: it is away, or full.
    pub(crate) fn is_overdue(&self, cs: CsId, now: Instant) -> bool {
        let away = self.away.borrow().get(&cs).is_some_and(|since| now.since(*since) >= BLOCKED_PATIENCE);
        away || self.is_full_for_long(cs, now)
    }

    fn is_somebody_away(&self) -> bool {
        !self.away.borrow().is_empty()
    }
}

/// Steps to take, by urgency.
#[derive(Debug)]
pub(crate) struct Steps {
    queues: BTreeMap<Urgency, VecDeque<ReplicaStep>>,
    /// How many are kept of each urgency.
    max: usize,
    /// Where the first ones are that could not be kept.
    left_out: BTreeMap<Urgency, (FileId, u32)>,
    /// Chunks for which there is no place.
    pub(crate) short: Short,
}

impl Default for Steps {
    fn default() -> Self {
        Self::with_room(STEPS_MAX)
    }
}

impl Steps {
    pub(crate) fn with_room(max: usize) -> Self {
        Self { queues: BTreeMap::new(), max, left_out: BTreeMap::new(), short: Short::default() }
    }

    fn add(&mut self, step: ReplicaStep) {
        let queue = self.queues.entry(step.urgency()).or_default();
        if queue.len() < self.max {
            queue.push_back(step);
        } else {
            self.left_out.entry(step.urgency()).or_insert((step.file, step.index));
        }
    }

    /// There are more than could be kept.
    fn has_more(&self) -> bool {
        !self.left_out.is_empty()
    }

    /// Where the next look begins: what had no room among the most urgent ones comes first then.
    pub(crate) fn next_look(&self) -> (FileId, u32) {
        self.left_out.values().next().copied().unwrap_or(START)
    }

    fn is_empty(&self) -> bool {
        self.queues.values().all(VecDeque::is_empty)
    }

    /// Takes all, in the order of their urgency.
    pub(crate) fn take(&mut self) -> Vec<ReplicaStep> {
        std::mem::take(&mut self.queues).into_values().flatten().collect()
    }
}

/// A look at all chunks, some at a time: once around, from anywhere on.
#[derive(Debug)]
pub(crate) struct Look {
    begin: (FileId, u32),
    at: Option<(FileId, u32)>,
    /// It has been at the end, and looks at what is before its beginning.
    is_back: bool,
}

impl Look {
    pub(crate) fn new(begin: (FileId, u32)) -> Self {
        Self { begin, at: Some(begin), is_back: false }
    }

    /// Looks at some more chunks, if there are more: what it finds is added.
    pub(crate) fn advance(
        &mut self,
        state: &State,
        rebuild: &Rebuild,
        now: Instant,
        steps: &mut Steps,
    ) -> bool {
        let Some(at) = self.at else { return false };
        let (found, next) = state.plan_replicas(at, LOOK_MAX, |cs, chunk| rebuild.is_in_vain(cs, chunk, now));
        let end = self.is_back.then_some(self.begin);
        let is_before_end = |position| end.is_none_or(|end| position < end);
        for step in found.into_iter().filter(|step| is_before_end((step.file, step.index))) {
            // What has no place takes none from what has one.
            let is_add = matches!(step.step, PlannedStep::Add { .. });
            let in_vain = |cs, chunk| rebuild.is_in_vain(cs, chunk, now);
            if is_add && !state.is_place_among(&step, in_vain, |_| true) {
                steps.short.note(state, &step, in_vain);
            } else {
                steps.add(step);
            }
        }
        self.at = next.filter(|next| is_before_end(*next));
        if self.at.is_none() && !self.is_back && self.begin != START {
            (self.at, self.is_back) = (Some(START), true);
        }
        true
    }
}

/// Chunks for which there is no place.
#[derive(Debug, Default)]
pub(crate) struct Short {
    pub(crate) chunks: usize,
    /// The first of them, as the operator is told of it.
    first: Option<[String; 4]>,
}

impl Short {
    fn note(&mut self, state: &State, step: &ReplicaStep, in_vain: impl Fn(CsId, ChunkId) -> bool) {
        self.chunks += 1;
        if let PlannedStep::Add { count, .. } = step.step
            && self.first.is_none()
            && let Err(short) = state.places_for(step, count, 0, in_vain, |_| false)
        {
            tracing::debug!("file {:#x}, chunk {}: {short}", step.file.raw(), step.index);
            let (needed, found) = (count.to_string(), short.found.to_string());
            self.first = Some([state.tree().path_of(step.file), needed, found, short.why.to_string()]);
        }
    }

    fn add(&mut self, more: Self) {
        self.chunks += more.chunks;
        self.first = self.first.take().or(more.first);
    }
}

/// What a round of steps comes to.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) add: Vec<ReplicaPlace>,
    pub(crate) remove: Vec<ReplicaPlace>,
    /// What has to wait until others have arrived.
    pub(crate) later: Vec<ReplicaStep>,
    /// Chunks for which there is no place.
    pub(crate) short: Short,
    /// Chunks that get replicas, now or later.
    queued: usize,
    /// Replicas are missing, and not made because of this.
    held: Option<Disaster>,
}

/// So much has failed that repairing it beats copying everything (guide 3.5.4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disaster {
    /// More chunk servers are offline than may be: the event of the failed cluster tells of it.
    Servers,
    /// More hosts are dark than may be.
    Hosts { dark: usize, limit: u64 },
}

/// Decides what of these steps can be taken now. Whoever is busy keeps nobody waiting but those who have no other place.
pub(crate) fn plan_round(
    state: &State,
    rebuild: &Rebuild,
    steps: Vec<ReplicaStep>,
    now: Instant,
    seed: impl Fn() -> u64,
) -> Round {
    let mut round = Round::default();
    let mut room = rebuild.room(state, now);
    let stopped = disaster(state);
    let in_vain = |cs, chunk| rebuild.is_in_vain(cs, chunk, now);
    for step in steps {
        let Some(step) = state.replan(&step, in_vain) else { continue };
        let chunk = state.chunk_at((step.file, step.index));
        // Where it could not be filled for long it would only be made once more, to fail again.
        let is_open = |room: &BTreeMap<CsId, usize>, cs: CsId| {
            room.contains_key(&cs) && chunk.is_none_or(|chunk| !rebuild.is_given_up(cs, chunk, now))
        };
        match step.step {
            PlannedStep::Remove { cs } => round.remove.push(step.place(cs)),
            PlannedStep::Add { .. } if stopped.is_some() => round.held = stopped,
            PlannedStep::Add { count, .. }
                if state.is_place_among(&step, in_vain, |cs| is_open(&room, cs)) =>
            {
                let places = state.places_for(&step, count, seed(), in_vain, |cs| !is_open(&room, cs));
                let places = places.unwrap_or_default();
                round.queued += 1;
                if places.len() < usize::from(count) {
                    round.later.push(step);
                }
                for cs in places {
                    if let Some(left) = room.get_mut(&cs) {
                        *left -= 1;
                    }
                    room.retain(|_, left| *left > 0);
                    round.add.push(step.place(cs));
                }
            }
            PlannedStep::Add { .. } if state.is_place_among(&step, in_vain, |_| true) => {
                round.queued += 1;
                round.later.push(step);
            }
            PlannedStep::Add { .. } => round.short.note(state, &step, in_vain),
        }
    }
    round
}

impl Reign {
    /// Runs for as long as the reign.
    pub(super) async fn replicate(self: Rc<Self>) {
        let mut steps = Steps::default();
        let mut looked = None;
        let mut moved_from = START;
        let mut begin = START;
        // Since the last look there are chunks for which there was no place.
        let mut short = Short::default();
        // The first look is at everything.
        self.rebuild.changed.set(true);
        loop {
            let wanted = self.rebuild.wanted.notified();
            let now = rt::time::now();
            let rested = looked.is_none_or(|at| now.since(at) >= LOOK_PAUSE);
            let due = self.rebuild.changed.get() || steps.has_more() || self.rebuild.is_somebody_away();
            let is_fresh = rested && due;
            if is_fresh {
                looked = Some(now);
                self.rebuild.changed.set(false);
                let Some(found) = self.look_at_all(begin).await else { return };
                steps = found;
                begin = steps.next_look();
                short = std::mem::take(&mut steps.short);
            }
            if !self.drop_empty().await {
                return;
            }
            let taken = steps.take();
            let mut round =
                self.read(|state| plan_round(state, &self.rebuild, taken, rt::time::now(), rt::random::u64));
            short.add(std::mem::take(&mut round.short));
            let waits = !round.later.is_empty() || short.chunks > 0;
            let idle = !waits && round.add.is_empty() && round.remove.is_empty() && !steps.has_more();
            let moves = if idle { self.plan_moves(&mut moved_from) } else { Vec::new() };
            // Not at the end: the others are looked at next time.
            let waits = waits || !moves.is_empty() || moved_from != START;
            self.tell_of(&round, &short, is_fresh && !steps.has_more()).await;
            (0..moves.len()).for_each(|_| rt::sim::hit("mds.replica-moved"));
            round.later.iter().for_each(|step| steps.add(*step));
            (0..round.add.len()).for_each(|_| rt::sim::hit("mds.replica-added"));
            (0..round.remove.len()).for_each(|_| rt::sim::hit("mds.replica-removed"));
            let add = |places| CommandOp::AddReplicas(AddReplicas { places });
            let remove = |places| CommandOp::RemoveReplicas(RemoveReplicas { places });
            let Some(added) = self.take_steps(&round.add, add).await else { return };
            if self.take_steps(&moves, add).await.is_none()
                || self.take_steps(&round.remove, remove).await.is_none()
            {
                return;
            }
            // What was not made after all is looked for again, but not at once.
            let refused = added < round.add.len() as u64;
            let waits = waits || refused;
            if self.rebuild.changed.get() && steps.is_empty() {
                // Looked at everything a moment ago: what has changed since is not urgent.
                rt::time::sleep_until(looked.unwrap_or(now) + LOOK_PAUSE).await;
            } else if waits || steps.has_more() || self.rebuild.is_somebody_away() {
                let woken = rt::time::timeout(PAUSE, wanted).await.is_ok();
                // There may be a place by now; nobody tells.
                if (short.chunks > 0 || refused) && !woken {
                    self.rebuild.changed.set(true);
                }
            } else {
                wanted.await;
            }
        }
    }

    /// Looks at all chunks, some at a time; `None` when the reign is over.
    async fn look_at_all(&self, begin: (FileId, u32)) -> Option<Steps> {
        let mut steps = Steps::default();
        let mut look = Look::new(begin);
        self.read(|state| self.rebuild.forget_joiners(state, rt::time::now()));
        loop {
            if self.is_over() {
                return None;
            }
            let now = rt::time::now();
            let more = self.read(|state| {
                self.rebuild.note_away(state, now);
                look.advance(state, &self.rebuild, now, &mut steps)
            });
            if !more {
                return Some(steps);
            }
            rt::yield_now().await;
        }
    }

    /// Tells the operator what begins with this round and what is over, each once. `is_whole`: it comes from a look at everything.
    async fn tell_of(&self, round: &Round, short: &Short, is_whole: bool) {
        let told = &self.rebuild.told;
        if round.queued > 0 && !told.running.replace(true) {
            self.note_event(EventCode::ReplicationStarted, vec![round.queued.to_string()]).await;
        }
        // With too many gone there is no place for much, and that is not what the operator is to see to.
        let held = round.held.or_else(|| self.read(disaster).filter(|_| short.chunks > 0));
        match held {
            Some(Disaster::Hosts { dark, limit }) => {
                told.running.set(false);
                if !told.held.replace(true) {
                    let args = vec![dark.to_string(), limit.to_string()];
                    self.note_event(EventCode::ReplicationHeld, args).await;
                }
            }
            Some(Disaster::Servers) => told.running.set(false),
            None => {}
        }
        if held.is_some() {
            return;
        }
        if let Some(first) = &short.first
            && !told.short.replace(true)
        {
            let args = std::iter::once(short.chunks.to_string()).chain(first.iter().cloned()).collect();
            self.note_event(EventCode::NoPlaceForReplicas, args).await;
        }
        if !is_whole {
            return;
        }
        told.held.set(false);
        if short.chunks == 0 && round.later.is_empty() && told.short.replace(false) {
            self.note_event(EventCode::PlacesFound, Vec::new()).await;
        }
        // Those that cannot be filled now are on their way all the same.
        let arriving_on = |state: &State, cs: CsId| state.arriving_on(cs, |_| false);
        let arriving: usize =
            self.read(|state| state.servers().map(|server| arriving_on(state, server.id)).sum());
        if round.queued == 0 && arriving == 0 && told.running.replace(false) {
            self.note_event(EventCode::ReplicationCompleted, Vec::new()).await;
        }
    }

    /// A joiner could not be filled: it is tried again later, and an operator hears of it if that goes on for long.
    pub(super) fn fill_failed(self: &Rc<Self>, cs: CsId, session: u64, order: CopyOrder, status: Status) {
        if status == Status::NoSpace {
            rt::spawn(Rc::clone(self).joiner_has_no_room(cs, session, order.chunk, order.version));
            return;
        }
        let pause = self.joiner_failed(cs, session, order, status);
        self.servers.borrow().order(cs, |link| link.catch_up_later(order, pause));
    }

    /// A joiner could not be made ready or filled. Gives the pause before it is tried again; who fails for long leaves.
    pub(super) fn joiner_failed(
        self: &Rc<Self>,
        cs: CsId,
        session: u64,
        order: CopyOrder,
        status: Status,
    ) -> Duration {
        let failed = self.rebuild.not_filled(cs, order.chunk, order.version, rt::time::now());
        if self.read(|state| state.joins_beside_last_memory(cs, order.chunk)) {
            // It has the rest already, and elsewhere nobody could have more before somebody is back or given up (decision 0018).
            self.rebuild.is_no_failure(cs, order.chunk, rt::time::now());
            return failed.pause;
        }
        if failed.tell {
            let path = self.read(|state| state.tree().path_of(order.file));
            let message = format!(
                "its replica of chunk {:#x} of {path} cannot be filled from the others for minutes ({status}): open the file, or \
                 see to the chunk servers that hold it",
                order.chunk.raw(),
            );
            rt::spawn(Rc::clone(self).warn(cs, session, "cs.replica_not_filled", message));
        }
        if failed.gives_up {
            rt::sim::hit("mds.joiner-given-up");
            self.rebuild.give_up(cs, order.chunk, rt::time::now());
            let why = "it could not be filled for minutes";
            rt::spawn(Rc::clone(self).joiner_leaves(cs, order.chunk, order.version, why));
        }
        failed.pause
    }

    /// A joiner has no room. It leaves, so that nobody waits for it who writes (C13), and rests.
    pub(super) async fn joiner_has_no_room(
        self: Rc<Self>,
        cs: CsId,
        session: u64,
        chunk: ChunkId,
        version: Version,
    ) {
        if self.rebuild.full(cs, rt::time::now()) {
            rt::spawn(Rc::clone(&self).warn_of_no_room(cs, session));
        }
        self.joiner_leaves(cs, chunk, version, "its chunk server has no room for it").await;
    }

    /// A joiner leaves, if it is one still under this version.
    async fn joiner_leaves(self: Rc<Self>, cs: CsId, chunk: ChunkId, version: Version, why: &'static str) {
        let Some(order) = self.read(|state| state.joiner(cs, chunk)) else { return };
        let op = DropMember {
            lease: None,
            file: order.file.raw(),
            cs: cs.0,
            chunk: chunk.raw(),
            version: version.raw(),
            lost: false,
            why: why.into(),
        };
        if order.version == version
            && self.read(|state| state.may_drop(&op))
            && let Some(Err(refusal)) = self.insist(CommandOp::DropMember(op)).await
        {
            tracing::warn!("a joiner on {cs} stays, though {why}: {refusal}");
        }
    }

    pub(super) async fn warn_of_no_room(self: Rc<Self>, cs: CsId, session: u64) {
        let message = "it has no room for replicas that were to return or come: they wait, or go elsewhere";
        self.warn(cs, session, "cs.no_room", message.into()).await;
    }

    /// Makes an event of something that an operator should know of a chunk server.
    pub(super) async fn warn(self: Rc<Self>, cs: CsId, session: u64, code: &'static str, message: String) {
        let message = message[..message.floor_char_boundary(MESSAGE_MAX)].to_owned();
        let severity = ReportedSeverity::Warning.into();
        let event = ReportedEvent { severity, code: code.into(), message };
        let op =
            CsReport { cs: cs.0, session, events_only: true, events: vec![event], ..CsReport::default() };
        if let Some(Err(refusal)) = self.insist(CommandOp::CsReport(op)).await {
            tracing::warn!("an event of {cs} was not taken: {refusal}");
        }
    }

    /// Chunk servers that were to be emptied, and are, leave; false when the reign is over.
    async fn drop_empty(&self) -> bool {
        let empty: Vec<CsId> = self.read(|state| {
            state.servers().map(|server| server.id).filter(|cs| state.is_empty_of_replicas(*cs)).collect()
        });
        for cs in empty {
            rt::sim::hit("mds.cs-dropped");
            if self.insist(CommandOp::DropCs(DropCs { cs: cs.0 })).await.is_none() {
                return false;
            }
            self.servers.borrow().order(cs, super::orders::CsLink::give_up);
        }
        true
    }

    /// Replicas that would be much better elsewhere, a few at a time, when nothing else is to be done.
    fn plan_moves(&self, from: &mut (FileId, u32)) -> Vec<ReplicaPlace> {
        let now = rt::time::now();
        self.read(|state| {
            let arriving_on =
                |cs: CsId| state.arriving_on(cs, |chunk| self.rebuild.is_failing(state, cs, chunk));
            let arriving: usize = state.servers().map(|server| arriving_on(server.id)).sum();
            if disaster(state).is_some() || arriving >= MOVES_MAX {
                return Vec::new();
            }
            let is_busy = |cs: CsId, chunk: ChunkId| {
                let rebuild = &self.rebuild;
                arriving_on(cs) > 0
                    || rebuild.is_refusing(cs, now)
                    || rebuild.is_futile(cs, now)
                    || rebuild.is_full(cs, now)
                    || rebuild.is_given_up(cs, chunk, now)
            };
            let (moves, next) = state.plan_moves(*from, LOOK_MAX, MOVES_MAX - arriving, is_busy);
            *from = next.unwrap_or(START);
            moves
        })
    }

    /// Has steps carried out, and says how many were; `None` when the reign is over.
    async fn take_steps(
        &self,
        places: &[ReplicaPlace],
        op: impl Fn(Vec<ReplicaPlace>) -> CommandOp,
    ) -> Option<u64> {
        let mut taken = 0;
        for some in places.chunks(MEMBERS_MAX) {
            match self.insist(op(some.to_vec())).await? {
                Ok(Outcome::Acknowledged(count)) => taken += count,
                Ok(other) => tracing::warn!("an unexpected answer to steps for replicas: {other:?}"),
                Err(refusal) => tracing::warn!("replicas are not changed: {refusal}"),
            }
        }
        Some(taken)
    }
}

/// Whether more has failed than may be.
fn disaster(state: &State) -> Option<Disaster> {
    let exceeds = |count: usize, limit: u64| limit > 0 && count as u64 > limit;
    let is_offline = |state: CsState| state == CsState::Offline;
    // Who is being removed is not waited for.
    let members =
        || state.servers().filter(|server| server.leave == Leave::Stay && server.state != CsState::Dropped);
    let offline = members().filter(|server| is_offline(server.state)).count();
    let mut hosts: BTreeMap<&str, bool> = BTreeMap::new();
    for server in members() {
        *hosts.entry(&server.host).or_insert(true) &= is_offline(server.state);
    }
    let dark = hosts.values().filter(|dark| **dark).count();
    let limit = state.config(Parameter::MaxOfflineCsHosts);
    if exceeds(offline, state.config(Parameter::MaxOfflineCs)) {
        Some(Disaster::Servers)
    } else if exceeds(dark, limit) {
        Some(Disaster::Hosts { dark, limit })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::command::{CsLapsed, CsStateChanged, InitCluster, RegisterCs, SetConfig};
    use crate::state::{Command, Secret};

    /// A cluster of chunk servers on these hosts, of which those in capitals are offline.
    fn cluster(hosts: &str, settings: &[(&str, &str)]) -> State {
        let mut state = State::new();
        let mut number = 0;
        let mut apply = |op| {
            number += 1;
            state.apply(number, &Command::internal(number, op)).outcome.expect("it is carried out");
            state.servers().last().map(|server| (server.id.0, server.session)).unwrap_or_default()
        };
        apply(CommandOp::InitCluster(InitCluster { uuid: vec![1; 16], name: "stor1".into() }));
        for (key, value) in settings {
            let (key, value) = ((*key).to_owned(), (*value).to_owned());
            apply(CommandOp::SetConfig(SetConfig { key, value, origin: String::new() }));
        }
        for (count, host) in hosts.bytes().enumerate() {
            let (cs, session) = apply(CommandOp::RegisterCs(RegisterCs {
                cs_uuid: vec![count as u8 + 1; 16],
                new_nonce: Secret { high: 1, low: 1 },
                boot_id: vec![3; 16],
                host: char::from(host.to_ascii_lowercase()).into(),
                ..RegisterCs::default()
            }));
            if host.is_ascii_uppercase() {
                apply(CommandOp::CsLapsed(CsLapsed { cs, session }));
                let state = CsState::Offline.into();
                apply(CommandOp::CsStateChanged(CsStateChanged { cs, session, state }));
            }
        }
        state
    }

    #[test]
    fn in_a_big_disaster_nothing_is_made_anew() {
        let hosts = |dark, limit| Some(Disaster::Hosts { dark, limit });
        let more_hosts = &[("mds.wd.max_offline_cs_hosts", "3")][..];
        let no_limits = &[("mds.wd.max_offline_cs", "0"), ("mds.wd.max_offline_cs_hosts", "0")][..];
        let cases = [
            ("abc", &[][..], None),
            ("Abc", &[], None),
            ("AAbc", &[], None),
            ("ABcd", &[], hosts(2, 1)),
            ("AaBbc", &[], None),
            ("ABcd", more_hosts, None),
            ("AAAbc", &[], Some(Disaster::Servers)),
            ("AaBbCcd", &[], Some(Disaster::Servers)),
            ("ABCDEf", no_limits, None),
        ];
        for (servers, settings, wanted) in cases {
            assert_eq!(disaster(&cluster(servers, settings)), wanted, "{servers} {settings:?}");
        }
    }

    #[test]
    fn the_event_of_the_failed_cluster_names_the_limit() {
        let state = cluster("bcAAA", &[]);
        let told = state.events().iter().last().expect("an event").message();
        assert!(
            told.contains("2 active, 0 inactive, 3 offline") && told.contains("mds.wd.max_offline_cs=2"),
            "{told}"
        );
    }
}
