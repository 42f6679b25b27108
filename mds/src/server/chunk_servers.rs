//! Chunk servers: registering, renewing (C2, C10), and what they report.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use rt::time::Instant;
use wire::cluster::{CopyRate, Event, Severity};
use wire::cs::{
    CaughtUp, ChunkInDoubt, FLAG_FAILED_IO, FLAG_FAILED_JOURNAL, FLAG_FAILED_REPOSITORY, FLAGS_FAILED,
    FLAGS_OUT_OF_SERVICE, FenceItem, Heartbeat, HeartbeatReply, RegisterCs, RegisterCsReply, ReplicaReport,
    ReplicaState, SettledChunk, flag_letters,
};
use wire::hello::Empty;
use wire::session::IoStats;
use wire::{BodyError, Status};

use super::asked::Asked;
use super::failure::Failure;
use super::orders::CsLink;
use super::rates::{Rates, add};
use super::reign::{Reign, unexpected};
use super::sessions::{millis, shortened};
use super::watch::Watch;
use crate::state::command::{
    self, ChunkVersion, CommandOp, CsReport, CsState, PromoteMembers, ReportedEvent, ReportedSeverity,
};
use crate::state::outcome::CsRegistered;
use crate::state::servers::{ChunkServer, Standing};
use crate::state::settled::Settled;
use crate::state::{
    ChunkId, CsId, EventCode, FileId, MEMBERS_MAX, Outcome, Parameter, REPORTED_MAX, Refusal, Secret,
};

/// Fences that go with the answer to a registration; others follow.
const FENCES_TOLD_MAX: usize = 8192;
/// The term that the answer to a registration names. The first renewal confirms the registration and begins the full
/// term, so it should not be long in coming.
const FIRST_TERM: Duration = Duration::from_secs(2);
/// Chunks in doubt that are looked up for one heartbeat.
const IN_DOUBT_MAX: usize = 64;
/// Chunks of files that are looked through for it; a file is looked through as a whole.
const LOOKED_AT_MAX: usize = 64 << 10;
/// Reports of clients about replicas that are remembered, so that a repetition is not news.
const REPORTS_MAX: usize = 256;

/// So much more free space on a full disk is worth an entry in the log: a chunk.
const GAIN_WORTH: u64 = 64 << 20;

/// A report about a replica: where, which chunk, which status.
type Report = (CsId, u64, u16);

/// What is known of a chunk server besides the state.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) rates: Rates,
    /// What it gave to joiners and what joiners on it took.
    pub(super) copies: Rates,
    pub(super) renewed: Option<Instant>,
    /// What its last heartbeat said is free, and in which registration.
    free_bytes: Option<(u64, u64)>,
    link: Option<Rc<CsLink>>,
    /// A report is on its way into the log.
    reporting: bool,
    /// What has been heard since.
    unreported: Option<CsReport>,
}

impl Memory {
    /// Takes a report; gives it back if it can go into the log at once. Only one is on its way, however long the log takes:
    /// what comes meanwhile waits, with no more events than one report holds.
    fn take_report(&mut self, report: CsReport) -> Option<CsReport> {
        if !std::mem::replace(&mut self.reporting, true) {
            return Some(report);
        }
        let earlier = self.unreported.take().filter(|waits| waits.session == report.session);
        let mut events = earlier.map_or_else(Vec::new, |waits| waits.events);
        events.extend(report.events);
        if events.len() > REPORTED_MAX {
            tracing::warn!("events of CS#{} are lost: the metadata log does not take them", report.cs);
            events.truncate(REPORTED_MAX);
        }
        self.unreported = Some(CsReport { events, ..report });
        None
    }

    /// A report is in the log; gives the next.
    fn next_report(&mut self) -> Option<CsReport> {
        let next = self.unreported.take();
        self.reporting = next.is_some();
        next
    }
}

/// The chunk servers of this reign.
#[derive(Debug, Default)]
pub(crate) struct ChunkServers {
    pub(super) watch: Watch<CsId>,
    /// Those that lapsed: when they count as offline.
    pub(super) offline: Watch<CsId>,
    memory: BTreeMap<CsId, Memory>,
    reports: VecDeque<Report>,
    /// Chunk servers of which it was told that they run on other machines with the same host id.
    copied_hosts: BTreeSet<(CsId, CsId)>,
}

impl ChunkServers {
    /// What is known of one.
    pub(super) fn memory(&self, cs: CsId) -> Option<&Memory> {
        self.memory.get(&cs)
    }

    /// What a chunk server said last is free on its disk. The state has it only when it has changed by much.
    pub(super) fn free_bytes(&self, server: &ChunkServer) -> Option<u64> {
        let (session, free_bytes) = self.memory.get(&server.id)?.free_bytes?;
        (session == server.session && !server.is_lapsed()).then_some(free_bytes)
    }

    /// What all of them copy among themselves.
    pub(super) fn copy_rate(&self, now: Instant) -> CopyRate {
        let mut sum = IoStats::default();
        self.memory.values().for_each(|memory| add(&mut sum, &memory.copies.per_second(now)));
        CopyRate { read_bytes: sum.read_bytes, write_bytes: sum.write_bytes }
    }

    /// Gives an order to a chunk server, if it is connected; else it gets it when it registers.
    pub(super) fn order(&self, cs: CsId, order: impl FnOnce(&CsLink)) {
        if let Some(link) = self.memory.get(&cs).and_then(|memory| memory.link.as_ref()) {
            order(link);
        }
    }

    /// Whether a chunk server is connected.
    pub(super) fn is_linked(&self, cs: CsId) -> bool {
        self.memory.get(&cs).is_some_and(|memory| memory.link.is_some())
    }

    fn link(&mut self, cs: CsId, link: Rc<CsLink>) {
        if let Some(old) = self.memory.entry(cs).or_default().link.replace(link) {
            old.give_up();
        }
    }

    /// The connection of a registration is gone.
    pub(super) fn unlink(&mut self, cs: CsId, session: u64) {
        if let Some(memory) = self.memory.get_mut(&cs) {
            memory.link.take_if(|link| link.session == session);
        }
    }

    /// Lets go of all connections.
    pub(super) fn cut_links(&mut self) {
        self.memory.values_mut().filter_map(|memory| memory.link.take()).for_each(|link| link.give_up());
    }

    /// Whether a report has not been made lately.
    pub(super) fn is_news(&mut self, report: Report) -> bool {
        if self.reports.contains(&report) {
            return false;
        }
        if self.reports.len() == REPORTS_MAX {
            self.reports.pop_front();
        }
        self.reports.push_back(report);
        true
    }
}

/// A nonce as it travels: 16 bytes, or none at all.
fn nonce(field: &'static str, bytes: &[u8]) -> Result<Secret, BodyError> {
    Secret::from_bytes(bytes).ok_or(BodyError::Id { field, found: bytes.len() })
}

const _: () = assert!(crate::state::servers::FLAG_DAMAGED == wire::cs::FLAG_FAILED_CHECKSUM);
const _: () =
    assert!(crate::state::servers::FLAGS_FAILED == wire::cs::FLAG_FAILED_IO | wire::cs::FLAG_FAILED_JOURNAL);

fn failed(flags: u32) -> Failure {
    let text = format!(
        "this chunk server is out of service (flags {}): its registration is not renewed; look at its disks, or replace them and \
         make a new chunk server",
        flag_letters(flags & FLAGS_OUT_OF_SERVICE)
    );
    Failure::new(Status::DeviceFailed, text).after_ms(1000)
}

/// What a chunk server gets that showed a wrong nonce (C10).
fn stale() -> Failure {
    let text = "the directory of this chunk server is not what it was when it last registered (rolled back, copied or \
                restored): its replicas are not used any more; remove it and make a new chunk server";
    Failure::new(Status::Forbidden, text)
}

fn is_stale(server: &ChunkServer) -> bool {
    server.standing == Standing::Stale
}

impl Reign {
    pub(super) async fn register_cs(
        self: &Rc<Self>,
        call: RegisterCs,
        asked: &Asked,
    ) -> Result<RegisterCsReply, Failure> {
        if call.flags & FLAGS_OUT_OF_SERVICE != 0 {
            self.note_failure(&call, asked).await?;
            return Err(failed(call.flags));
        }
        if self.read(|state| state.servers().any(|known| known.uuid.0[..] == call.cs_uuid && is_stale(known)))
        {
            return Err(stale());
        }
        let term = self.cs_term();
        let op = registration(&call, millis(term))?;
        let registered = match self.change(asked, None, CommandOp::RegisterCs(op)).await?? {
            Outcome::CsRegistered(registered) => registered,
            other => return Err(unexpected(&other)),
        };
        let cs = CsId(registered.cs);
        // Nothing is awaited from here on, so orders that come now find the link.
        if !self.read(|state| state.server(cs).is_some_and(|server| server.session == registered.session)) {
            return Err(Failure::not_registered());
        }
        self.remember(cs, term, registered.session);
        tracing::info!("{cs} at {} registered: {registered:?}", asked.connection.peer().address);
        let reply = RegisterCsReply {
            cs_id: registered.cs.into(),
            term_ms: millis(term.min(FIRST_TERM)),
            fences: Vec::new(),
            stale: registered.stale,
            session: registered.session,
            report_all: false,
            // A stale chunk server waits for them in vain: it must not serve what it holds (C10). Nor is it renewed, so that
            // it lapses and nobody waits for it to record an epoch (C2).
            more_fences: registered.stale || registered.fences.len() > FENCES_TOLD_MAX,
        };
        if registered.stale {
            return Ok(reply);
        }
        self.rebuild.registered(cs, rt::time::now());
        self.returns.registered(cs, rt::time::now());
        rt::spawn(Rc::clone(self).look_for_copied_host(cs));
        let fences = self.connect(cs, asked, registered);
        Ok(RegisterCsReply { fences, ..reply })
    }

    /// A chunk server says that it cannot serve: the operator sees its flags from now on, until it registers.
    async fn note_failure(&self, call: &RegisterCs, asked: &Asked) -> Result<(), Failure> {
        let nobody = call.cs_uuid.iter().all(|&byte| byte == 0);
        let known = self.read(|state| {
            // Without its directory it does not know who it is; who registered from there last tells. If that is another host
            // with a copied id, the next heartbeat of the one that serves puts it right.
            let is_it = |server: &&ChunkServer| {
                let is_there = if nobody {
                    server.host == call.host_id && server.path == call.path
                } else {
                    server.uuid.0[..] == call.cs_uuid
                };
                is_there && server.state != CsState::Dropped
            };
            let server = state.servers().filter(is_it).max_by_key(|server| server.registered_ms)?;
            let told = (server.flags ^ call.flags) & FLAGS_OUT_OF_SERVICE == 0;
            (!told).then(|| CsReport {
                cs: server.id.0,
                session: server.session,
                total_bytes: server.total_bytes,
                free_bytes: server.free_bytes,
                flags: (server.flags & !FLAGS_FAILED) | (call.flags & FLAGS_FAILED),
                events: vec![failure(call.flags, &call.path)],
                events_only: false,
            })
        });
        let Some(report) = known else { return Ok(()) };
        // Its last heartbeat may have said the same.
        if self.servers.borrow().memory(CsId(report.cs)).is_some_and(|memory| memory.reporting) {
            let text = "what this chunk server reported before is being noted";
            return Err(Failure::new(Status::Retry, text).after_ms(200));
        }
        self.change(asked, None, CommandOp::CsReport(report)).await??;
        Ok(())
    }

    /// Takes the connection of a chunk server that registered into use; gives the fences to tell it at once.
    fn connect(self: &Rc<Self>, cs: CsId, asked: &Asked, registered: CsRegistered) -> Vec<FenceItem> {
        let link = CsLink::new(cs, registered.session, asked.connection.clone());
        let fences = registered.fences;
        link.resume(self, &fences);
        self.servers.borrow_mut().link(cs, Rc::clone(&link));
        let untold = fences.len().saturating_sub(FENCES_TOLD_MAX);
        let told = &fences[..fences.len() - untold];
        let items = told.iter().map(|fence| FenceItem { file_id: fence.file, epoch: fence.epoch }).collect();
        rt::spawn(link.work(Rc::clone(self), fences, untold));
        items
    }

    /// Begins a term.
    fn remember(&self, cs: CsId, term: Duration, session: u64) {
        let now = rt::time::now();
        let mut servers = self.servers.borrow_mut();
        servers.watch.succeed(cs, session, now + term);
        servers.offline.end(cs);
        servers.memory.entry(cs).or_default().renewed = Some(now);
        self.terms_changed.notify_all();
    }

    /// Tells the operator if another machine has the same host id (guide 8.1.7), once for as long as that is so.
    async fn look_for_copied_host(self: Rc<Self>, cs: CsId) {
        let found = self.read(|state| {
            let own = state.server(cs)?;
            let other = state.servers().find(|other| has_copied_host_id(own, other));
            let address = |server: &ChunkServer| server.addresses.first().cloned().unwrap_or_default();
            let args = |other: &ChunkServer| {
                vec![cs.0.to_string(), own.host.clone(), address(own), other.id.0.to_string(), address(other)]
            };
            Some((other.map(|other| other.id), other.map(args).unwrap_or_default()))
        });
        let Some((other, args)) = found else { return };
        {
            let told = &mut self.servers.borrow_mut().copied_hosts;
            let Some(other) = other else {
                return told.retain(|(one, other)| ![*one, *other].contains(&cs));
            };
            if !told.insert((cs.min(other), cs.max(other))) {
                return;
            }
        }
        self.note_event(EventCode::HostIdCopied, args).await;
    }

    /// Renews a registration (C2).
    pub(super) async fn heartbeat(
        self: &Rc<Self>,
        call: Heartbeat,
        asked: &Asked,
    ) -> Result<HeartbeatReply, Failure> {
        let cs = CsId(u32::try_from(call.cs_id).map_err(|_| Failure::not_registered())?);
        self.confirm(asked).await?;
        // Nothing is awaited until the term is longer.
        let known = self.read(|state| {
            let server =
                state.server(cs).filter(|server| server.session == call.session && !server.is_lapsed())?;
            let margin = state.config(Parameter::FillMargin);
            Some((is_worth_an_entry(server, &call, margin), is_stale(server)))
        });
        let (worth, is_stale) = known.ok_or_else(Failure::not_registered)?;
        if is_stale {
            return Err(stale());
        }
        let (now, term) = (rt::time::now(), self.cs_term());
        if call.flags & FLAGS_OUT_OF_SERVICE != 0 {
            // It can record no fence any more, so it must lapse for its files to be granted anew (C2).
            self.report(cs, &call, worth);
            return Err(failed(call.flags));
        }
        {
            let mut servers = self.servers.borrow_mut();
            if !servers.watch.renew(cs, call.session, now + term) {
                return Err(Failure::not_registered());
            }
            let memory = servers.memory.entry(cs).or_default();
            memory.renewed = Some(now);
            memory.free_bytes = Some((call.session, call.free_bytes));
            memory.rates.note(now, call.io);
            let (read_bytes, write_bytes) = (call.copied_out_bytes, call.copied_in_bytes);
            memory.copies.note(now, IoStats { read_bytes, write_bytes, ..IoStats::default() });
            servers.order(cs, |link| {
                if link.session == call.session {
                    link.adopt();
                }
            });
        }
        self.report(cs, &call, worth);
        self.compare_verified(cs, call.session, &call.verified);
        let settled = self.settled_of(cs, &call.in_doubt);
        let report_all = self.wants_inventory(cs, call.session, now);
        let of = |parameter| self.read(|state| state.config(parameter));
        let small = |parameter| u32::try_from(of(parameter)).ok();
        let bytes = |parameter| Some(of(parameter) * 1_000_000);
        Ok(HeartbeatReply {
            term_ms: millis(term),
            verify_chunks: small(Parameter::VerifyChunks),
            io_tout_ms: small(Parameter::IoTout),
            report_all,
            copy_bytes_per_second: bytes(Parameter::CopyLimit),
            move_bytes_per_second: bytes(Parameter::MoveLimit),
            settled,
        })
    }

    /// Which of a chunk server's chunks are not in doubt (C5).
    fn settled_of(&self, cs: CsId, doubts: &[ChunkInDoubt]) -> Vec<SettledChunk> {
        let mut by_file: BTreeMap<FileId, BTreeSet<ChunkId>> = BTreeMap::new();
        for doubt in doubts.iter().take(IN_DOUBT_MAX) {
            let chunks = by_file.entry(FileId::from_raw(doubt.file_id)).or_default();
            chunks.insert(ChunkId::from_raw(doubt.chunk_id));
        }
        // Whoever is left out this time comes first another time.
        let first = rt::random::below(by_file.len().max(1) as u64) as usize;
        let mut settled = Vec::new();
        let mut looked_at = 0;
        for (file, chunks) in by_file.iter().cycle().skip(first).take(by_file.len()) {
            if looked_at > LOOKED_AT_MAX {
                break;
            }
            self.read(|state| {
                looked_at += state.tree().file(*file).map_or(0, |file| file.chunks().len());
                settled.extend(state.settled(*file, chunks, cs));
            });
        }
        let told = |settled: Settled| SettledChunk {
            chunk_id: settled.chunk.raw(),
            version: settled.version.raw(),
            below_epoch: settled.below,
            newest_epoch: settled.newest.raw(),
        };
        settled.into_iter().map(told).collect()
    }

    /// Logs what a heartbeat says, as far as it is worth an entry.
    fn report(self: &Rc<Self>, cs: CsId, call: &Heartbeat, worth: bool) {
        let events: Vec<_> = call
            .events
            .iter()
            .map(told)
            .chain(call.differences.iter().filter_map(found))
            .take(REPORTED_MAX)
            .collect();
        if events.is_empty() && !worth {
            return;
        }
        let report = CsReport {
            cs: cs.0,
            session: call.session,
            total_bytes: call.total_bytes,
            free_bytes: call.free_bytes,
            flags: call.flags,
            events,
            events_only: false,
        };
        let Some(report) = self.servers.borrow_mut().memory.entry(cs).or_default().take_report(report) else {
            return;
        };
        rt::spawn(Rc::clone(self).log_reports(cs, report));
    }

    async fn log_reports(self: Rc<Self>, cs: CsId, first: CsReport) {
        let mut next = Some(first);
        while let Some(report) = next {
            if let Some(Err(refusal)) = self.insist(CommandOp::CsReport(report)).await {
                tracing::warn!("a report of {cs} was not taken: {refusal}");
            }
            next = self.servers.borrow_mut().memory.entry(cs).or_default().next_report();
        }
    }

    /// Joiners are whole: they become members (C7). Those that could not be filled are tried again.
    pub(super) async fn caught_up(self: &Rc<Self>, call: CaughtUp, asked: &Asked) -> Result<Empty, Failure> {
        let cs = CsId(u32::try_from(call.cs_id).map_err(|_| Failure::not_registered())?);
        self.confirm(asked).await?;
        let mut chunks = Vec::new();
        for item in &call.items {
            let status = Status::from_code(u16::try_from(item.status).unwrap_or(u16::MAX));
            let (chunk, version, copied_bytes) = (item.chunk_id, item.version, item.copied_bytes);
            let lost_blocks = item.lost_blocks;
            if status.is_ok() {
                self.rebuild.filled(cs, ChunkId::from_raw(chunk));
                chunks.push(ChunkVersion { chunk, version, copied_bytes, lost_blocks });
                continue;
            }
            tracing::warn!("{cs} cannot fill its replica of chunk {chunk:#x}: {status}");
            let order = self.read(|state| state.joiner(cs, ChunkId::from_raw(chunk)));
            if let Some(order) = order.filter(|order| order.version.raw() == version) {
                self.fill_failed(cs, call.session, order, status);
            }
        }
        for some in chunks.chunks(MEMBERS_MAX) {
            let op = PromoteMembers { cs: cs.0, session: call.session, chunks: some.to_vec() };
            self.change(asked, None, CommandOp::PromoteMembers(op)).await??;
            if some.iter().any(|done| done.lost_blocks > 0) {
                self.losses.look();
            }
        }
        Ok(Empty {})
    }
}

/// Whether two chunk servers that run name the same host and are on different machines: these have booted at different times, and
/// have no address in common.
fn has_copied_host_id(one: &ChunkServer, other: &ChunkServer) -> bool {
    let hosts = |server: &ChunkServer| -> BTreeSet<String> {
        let host = |address: &String| address.rsplit_once(':').map_or("", |(host, _)| host).to_owned();
        server.addresses.iter().map(host).collect()
    };
    let runs = |server: &ChunkServer| !server.is_lapsed() && server.state != CsState::Dropped;
    one.id != other.id
        && !one.host.is_empty()
        && one.host == other.host
        && one.boot_id != other.boot_id
        && runs(one)
        && runs(other)
        && hosts(one).is_disjoint(&hosts(other))
}

/// The command of a registration.
fn registration(call: &RegisterCs, term_ms: u32) -> Result<command::RegisterCs, Failure> {
    wire::body::id16("cs_uuid", &call.cs_uuid)?;
    wire::body::id16("boot_id", &call.boot_id)?;
    let claimed_id = u32::try_from(call.cs_id).map_err(|_| Refusal::UnknownCs(u32::MAX))?;
    let (journal_path, journal_bytes) = call
        .journal
        .as_ref()
        .map_or((String::new(), 0), |journal| (journal.path.clone(), journal.size_bytes));
    Ok(command::RegisterCs {
        cs_uuid: call.cs_uuid.clone(),
        claimed_id,
        last_nonce: nonce("nonce", &call.nonce)?,
        new_nonce: nonce("new_nonce", &call.new_nonce)?,
        host: call.host_id.clone(),
        boot_id: call.boot_id.clone(),
        addresses: call.addresses.clone(),
        tier: call.tier,
        total_bytes: call.total_bytes,
        free_bytes: call.free_bytes,
        flags: call.flags,
        term_ms: term_ms.into(),
        build: shortened(call.software.clone()),
        host_name: shortened(call.host_name.clone()),
        path: call.path.clone(),
        journal_path,
        journal_bytes,
    })
}

/// An event of a chunk server.
fn told(event: &Event) -> ReportedEvent {
    let severity = match event.severity() {
        Severity::Info | Severity::Unspecified => ReportedSeverity::Info,
        Severity::Warning => ReportedSeverity::Warning,
        Severity::Error => ReportedSeverity::Error,
    };
    ReportedEvent {
        severity: severity.into(),
        code: shortened(event.code.clone()),
        message: shortened(event.message.clone()),
    }
}

/// Why a chunk server does not serve.
fn failure(flags: u32, path: &str) -> ReportedEvent {
    let what = [
        (FLAG_FAILED_REPOSITORY, "its directory is not there: see that its disk is mounted"),
        (FLAG_FAILED_JOURNAL, "its journal cannot be used: look at the disk that it is on"),
        (FLAG_FAILED_IO, "its disk has failed: look at it, or replace it"),
    ];
    let what = what.iter().find(|(flag, _)| flags & flag != 0).map_or("it does not serve", |(_, what)| what);
    ReportedEvent {
        severity: ReportedSeverity::Error.into(),
        code: "cs.failed".into(),
        message: shortened(format!("{what} ({path})")),
    }
}

/// What an operator should know about a replica.
fn found(replica: &ReplicaReport) -> Option<ReportedEvent> {
    let (code, what) = match replica.state() {
        ReplicaState::Corrupt => ("cs.replica_corrupt", "does not match its checksums"),
        ReplicaState::Missing => ("cs.replica_missing", "is missing"),
        ReplicaState::Unspecified | ReplicaState::Good | ReplicaState::Unsettled | ReplicaState::Deleted => {
            return None;
        }
    };
    Some(ReportedEvent {
        severity: ReportedSeverity::Warning.into(),
        code: code.into(),
        message: format!("chunk {:#x} {what}", replica.chunk_id),
    })
}

/// Whether a heartbeat tells of other flags, or of space that changed by more than a hundredth; by less where that decides
/// whether the disk takes chunks: what was deleted on a full one is to be of use at once.
fn is_worth_an_entry(server: &ChunkServer, call: &Heartbeat, margin: u64) -> bool {
    let much = call.total_bytes / 100;
    let changed = |before: u64, now: u64| before.abs_diff(now) > much;
    let is_full = server.free_bytes / (margin + 2).max(1) < much;
    let gains = call.free_bytes.saturating_sub(server.free_bytes);
    server.flags != call.flags
        || changed(server.free_bytes, call.free_bytes)
        || changed(server.total_bytes, call.total_bytes)
        || (is_full && gains >= GAIN_WORTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_has_sixteen_bytes() {
        assert_eq!(nonce("n", &[1; 16]).map(Secret::to_bytes), Ok([1; 16]));
        assert_eq!(nonce("n", &[]), Ok(Secret::NONE));
        assert_eq!(nonce("n", &[0; 16]), Ok(Secret::NONE));
        assert!(nonce("n", &[1; 8]).is_err());
    }

    #[test]
    fn c13_reports_that_the_log_does_not_take_do_not_pile_up() {
        let mut memory = Memory::default();
        let report = |session, free_bytes, events| CsReport {
            session,
            free_bytes,
            events: vec![ReportedEvent::default(); events],
            ..CsReport::default()
        };
        assert_eq!(memory.take_report(report(7, 9, 1)), Some(report(7, 9, 1)));
        assert_eq!(memory.take_report(report(7, 8, 1)), None);
        assert_eq!(memory.take_report(report(7, 6, 2)), None);
        assert_eq!(memory.next_report(), Some(report(7, 6, 3)), "the latest numbers, all events");
        for _ in 0..1000 {
            assert_eq!(memory.take_report(report(7, 5, 1)), None);
        }
        assert_eq!(memory.take_report(report(7, 5, REPORTED_MAX)), None);
        assert_eq!(memory.next_report(), Some(report(7, 5, REPORTED_MAX)));
        memory.take_report(report(7, 4, 3));
        memory.take_report(report(8, 3, 1));
        assert_eq!(
            memory.next_report(),
            Some(report(8, 3, 1)),
            "of the registration before nothing is taken"
        );
        assert_eq!(memory.next_report(), None);
        assert!(memory.take_report(report(8, 1, 0)).is_some());
    }

    #[test]
    fn a_report_is_news_once() {
        let mut servers = ChunkServers::default();
        let report = (CsId(1025), 7, 5);
        assert!(servers.is_news(report) && !servers.is_news(report));
        for chunk in 100..100 + REPORTS_MAX as u64 {
            assert!(servers.is_news((CsId(1025), chunk, 5)));
        }
        assert!(servers.is_news(report), "long ago");
    }
}
