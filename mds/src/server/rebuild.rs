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

use super::reign::Reign;
use crate::state::command::{AddReplicas, CommandOp, CsState, DropCs, Leave, RemoveReplicas, ReplicaPlace};
use crate::state::replication::{PlannedStep, ReplicaStep, Urgency};
use crate::state::{CsId, EventCode, FileId, MEMBERS_MAX, Parameter, State};

/// Where all chunks begin.
const START: (FileId, u32) = (FileId::from_raw(0), 0);
/// Chunks that are looked at between two looks at everything else.
const LOOK_MAX: usize = 16_384;
/// Steps that are kept, of each urgency.
const STEPS_MAX: usize = 8192;
/// Replicas that are on their way to a chunk server at once.
const ARRIVING_MAX: usize = 8;
/// After how many chunks in a row that nobody can take now the others are not tried.
const IN_VAIN_MAX: usize = 64;
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
    pub(super) fn refused(&self, cs: CsId, now: Instant) {
        self.refused.borrow_mut().insert(cs, now + REFUSED_PAUSE);
        self.look();
    }

    fn is_refusing(&self, cs: CsId, now: Instant) -> bool {
        self.refused.borrow().get(&cs).is_some_and(|until| *until > now)
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

    fn is_overdue(&self, cs: CsId, now: Instant) -> bool {
        self.away.borrow().get(&cs).is_some_and(|since| now.since(*since) >= BLOCKED_PATIENCE)
    }

    fn is_somebody_away(&self) -> bool {
        !self.away.borrow().is_empty()
    }
}

/// Steps to take, by urgency.
#[derive(Debug, Default)]
struct Steps {
    queues: BTreeMap<Urgency, VecDeque<ReplicaStep>>,
    /// There are more than could be kept.
    more: bool,
}

impl Steps {
    fn add(&mut self, step: ReplicaStep) {
        let queue = self.queues.entry(step.urgency()).or_default();
        if queue.len() < STEPS_MAX {
            queue.push_back(step);
        } else {
            self.more = true;
        }
    }

    fn is_empty(&self) -> bool {
        self.queues.values().all(VecDeque::is_empty)
    }

    /// Takes all, in the order of their urgency.
    fn take(&mut self) -> Vec<ReplicaStep> {
        std::mem::take(&mut self.queues).into_values().flatten().collect()
    }
}

/// What a round of steps comes to.
#[derive(Debug, Default)]
struct Round {
    add: Vec<ReplicaPlace>,
    remove: Vec<ReplicaPlace>,
    /// What has to wait until others have arrived.
    later: Vec<ReplicaStep>,
    /// Chunks for which there is no place.
    short: usize,
    /// The first of them, as the operator is told of it.
    first_short: Option<[String; 4]>,
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

impl Reign {
    /// Runs for as long as the reign.
    pub(super) async fn replicate(self: Rc<Self>) {
        let mut steps = Steps::default();
        let mut looked = None;
        let mut moved_from = START;
        // Since the last look there are chunks for which there was no place.
        let mut short = false;
        // The first look is at everything.
        self.rebuild.changed.set(true);
        loop {
            let wanted = self.rebuild.wanted.notified();
            let now = rt::time::now();
            let rested = looked.is_none_or(|at| now.since(at) >= LOOK_PAUSE);
            let due = self.rebuild.changed.get() || steps.more || self.rebuild.is_somebody_away();
            let is_fresh = rested && due;
            if is_fresh {
                looked = Some(now);
                self.rebuild.changed.set(false);
                let Some(found) = self.look_at_all().await else { return };
                steps = found;
                short = false;
            }
            if !self.drop_empty().await {
                return;
            }
            let round = self.plan_round(steps.take());
            let waits = !round.later.is_empty() || short || round.short > 0;
            let idle = !waits && round.add.is_empty() && round.remove.is_empty() && !steps.more;
            let moves = if idle { self.plan_moves(&mut moved_from) } else { Vec::new() };
            // Not at the end: the others are looked at next time.
            let waits = waits || !moves.is_empty() || moved_from != START;
            short |= round.short > 0;
            self.tell_of(&round, is_fresh && !steps.more).await;
            (0..moves.len()).for_each(|_| rt::sim::hit("mds.replica-moved"));
            round.later.iter().for_each(|step| steps.add(*step));
            (0..round.add.len()).for_each(|_| rt::sim::hit("mds.replica-added"));
            (0..round.remove.len()).for_each(|_| rt::sim::hit("mds.replica-removed"));
            let add = |places| CommandOp::AddReplicas(AddReplicas { places });
            let remove = |places| CommandOp::RemoveReplicas(RemoveReplicas { places });
            if !self.take_steps(&round.add, add).await
                || !self.take_steps(&moves, add).await
                || !self.take_steps(&round.remove, remove).await
            {
                return;
            }
            if self.rebuild.changed.get() && steps.is_empty() {
                // Looked at everything a moment ago: what has changed since is not urgent.
                rt::time::sleep_until(looked.unwrap_or(now) + LOOK_PAUSE).await;
            } else if waits || steps.more || self.rebuild.is_somebody_away() {
                let woken = rt::time::timeout(PAUSE, wanted).await.is_ok();
                // There may be a place by now; nobody tells.
                if short && !woken {
                    self.rebuild.changed.set(true);
                }
            } else {
                wanted.await;
            }
        }
    }

    /// Looks at all chunks, some at a time; `None` when the reign is over.
    async fn look_at_all(&self) -> Option<Steps> {
        let mut steps = Steps::default();
        let mut from = Some(START);
        while let Some(at) = from {
            if self.is_over() {
                return None;
            }
            let now = rt::time::now();
            let (found, next) = self.read(|state| {
                self.rebuild.note_away(state, now);
                state.plan_replicas(at, LOOK_MAX, |cs| self.rebuild.is_overdue(cs, now))
            });
            found.into_iter().for_each(|step| steps.add(step));
            from = next;
            rt::yield_now().await;
        }
        Some(steps)
    }

    /// Decides what of these steps can be taken now.
    fn plan_round(&self, steps: Vec<ReplicaStep>) -> Round {
        let now = rt::time::now();
        let mut round = Round::default();
        let mut arriving: BTreeMap<CsId, usize> = BTreeMap::new();
        let mut in_vain = 0;
        self.read(|state| {
            let stopped = disaster(state);
            for step in steps {
                let Some(step) = state.replan(&step, |cs| self.rebuild.is_overdue(cs, now)) else { continue };
                let place = |cs: CsId| ReplicaPlace {
                    file: step.file.raw(),
                    index: step.index,
                    version: step.version.raw(),
                    cs: cs.0,
                };
                match step.step {
                    PlannedStep::Remove { cs } => round.remove.push(place(cs)),
                    PlannedStep::Add { .. } if stopped.is_some() => round.held = stopped,
                    // Wherever the next one could go, somebody is busy most likely.
                    PlannedStep::Add { .. } if in_vain >= IN_VAIN_MAX => {
                        round.queued += 1;
                        round.later.push(step);
                    }
                    PlannedStep::Add { count, .. } => {
                        let is_busy = |cs: CsId| {
                            let more = arriving.get(&cs).copied().unwrap_or(0);
                            state.arriving_on(cs) + more >= ARRIVING_MAX || self.rebuild.is_refusing(cs, now)
                        };
                        match state.places_for(&step, count, rt::random::u64(), is_busy) {
                            Ok(places) => {
                                round.queued += 1;
                                in_vain = if places.is_empty() { in_vain + 1 } else { 0 };
                                if places.len() < usize::from(count) {
                                    round.later.push(step);
                                }
                                for cs in places {
                                    *arriving.entry(cs).or_default() += 1;
                                    round.add.push(place(cs));
                                }
                            }
                            Err(short) => {
                                tracing::debug!("file {:#x}, chunk {}: {short}", step.file.raw(), step.index);
                                round.short += 1;
                                round.first_short.get_or_insert_with(|| {
                                    let path = state.tree().path_of(step.file);
                                    let (needed, found) = (count.to_string(), short.found.to_string());
                                    [path, needed, found, short.why.to_string()]
                                });
                            }
                        }
                    }
                }
            }
        });
        round
    }

    /// Tells the operator what begins with this round and what is over, each once. `is_whole`: it comes from a look at everything.
    async fn tell_of(&self, round: &Round, is_whole: bool) {
        let told = &self.rebuild.told;
        if round.queued > 0 && !told.running.replace(true) {
            self.note_event(EventCode::ReplicationStarted, vec![round.queued.to_string()]).await;
        }
        match round.held {
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
        if let Some(first) = &round.first_short
            && !told.short.replace(true)
        {
            let args = std::iter::once(round.short.to_string()).chain(first.iter().cloned()).collect();
            self.note_event(EventCode::NoPlaceForReplicas, args).await;
        }
        if !is_whole || round.held.is_some() {
            return;
        }
        told.held.set(false);
        if round.short == 0 && round.later.is_empty() && told.short.replace(false) {
            self.note_event(EventCode::PlacesFound, Vec::new()).await;
        }
        let arriving: usize =
            self.read(|state| state.servers().map(|server| state.arriving_on(server.id)).sum());
        if round.queued == 0 && arriving == 0 && told.running.replace(false) {
            self.note_event(EventCode::ReplicationCompleted, Vec::new()).await;
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
            let arriving: usize = state.servers().map(|server| state.arriving_on(server.id)).sum();
            if disaster(state).is_some() || arriving >= MOVES_MAX {
                return Vec::new();
            }
            let is_busy = |cs: CsId| state.arriving_on(cs) > 0 || self.rebuild.is_refusing(cs, now);
            let (moves, next) = state.plan_moves(*from, LOOK_MAX, MOVES_MAX - arriving, is_busy);
            *from = next.unwrap_or(START);
            moves
        })
    }

    /// Has steps carried out; false when the reign is over.
    async fn take_steps(&self, places: &[ReplicaPlace], op: impl Fn(Vec<ReplicaPlace>) -> CommandOp) -> bool {
        for some in places.chunks(MEMBERS_MAX) {
            match self.insist(op(some.to_vec())).await {
                Some(Ok(_)) => {}
                Some(Err(refusal)) => tracing::warn!("replicas are not changed: {refusal}"),
                None => return false,
            }
        }
        true
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
