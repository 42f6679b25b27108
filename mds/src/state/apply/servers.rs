//! Chunk servers: registering, fencing, lapsing (C2, C10).

use super::leases::holders_of;
use super::{Answer, Step, check_count, check_text};
use crate::state::State;
use crate::state::attrs::TIER_MAX;
use crate::state::chunk::MemberState;
use crate::state::command::{
    CsLapsed, CsReport, CsState, CsStateChanged, FenceRecord, FencesRecorded, LeaseMode, RegisterCs,
    ReportedEvent, ReportedSeverity,
};
use crate::state::config::Parameter;
use crate::state::effect::Effect;
use crate::state::event::EventCode;
use crate::state::ids::{ChunkId, CsId, Epoch, FileId, Uuid};
use crate::state::lease::Phase;
use crate::state::outcome::{CsRegistered, FencesNoted, Outcome};
use crate::state::path::PATH_MAX;
use crate::state::refusal::{BadCsStep, Refusal};
use crate::state::servers::{ChunkServer, Claim, Registration, Standing, judge};
use std::collections::{BTreeMap, BTreeSet};

/// The most events in one report.
pub const REPORTED_MAX: usize = 64;
/// The longest text of a reported event, in bytes.
const MESSAGE_MAX: usize = 1024;
/// The most addresses of a chunk server.
const ADDRESSES_MAX: usize = 16;

impl State {
    pub(super) fn register_cs(&mut self, step: &mut Step, op: &RegisterCs) -> Answer {
        let claim = parse_claim(op)?;
        let known = self.servers.by_uuid(claim.uuid);
        let standing = judge(known, claim)?;
        let id = match known.map(|server| server.id) {
            Some(id) => id,
            None => self.add_server(op, claim.uuid),
        };
        self.note_registration(step, id, op, claim, standing);

        let session = self.session_number(step);
        let mut stale_replicas = 0;
        match standing {
            Standing::New | Standing::Resumed => {}
            Standing::Rebooted => {
                step.event(EventCode::CsRebooted, &[&id.0]);
                self.suspect_open_files(step, id);
            }
            Standing::Unverified => {
                step.event(EventCode::CsUnverified, &[&id.0]);
                self.suspect_open_files(step, id);
            }
            Standing::Stale => {
                stale_replicas = self.make_stale(id);
                // What it is to make, it may have made, and have forgotten.
                self.end_additions(step, |cs| cs == id);
                step.event(EventCode::CsStale, &[&id.0, &stale_replicas]);
                self.tell_last_memories(step, id);
                self.tell_open_files(step, id);
            }
        }
        if matches!(standing, Standing::Rebooted | Standing::Unverified | Standing::Stale) {
            // What it had in memory is lost: of its own copies, and of what others have copied from it.
            self.dismiss_joiners(step, |cs, _, entry| {
                let member = entry.members().on(id).map(|member| member.state);
                cs == id || member == Some(MemberState::InSync) || entry.is_unreconciled()
            });
        }
        step.effect(Effect::WatchCs { cs: id, session });
        self.report_status(step);
        Ok(Outcome::CsRegistered(CsRegistered {
            cs: id.0,
            session,
            resumed: matches!(standing, Standing::New | Standing::Resumed),
            rebooted: matches!(standing, Standing::Rebooted | Standing::Unverified),
            stale: standing == Standing::Stale,
            stale_replicas,
            fences: self.fences_for(id),
        }))
    }

    fn add_server(&mut self, op: &RegisterCs, uuid: Uuid) -> CsId {
        let id = self.servers.mint();
        self.servers.insert(ChunkServer { host: op.host.clone(), ..ChunkServer::new(id, uuid) });
        id
    }

    /// Writes down what a chunk server says about itself.
    fn note_registration(
        &mut self,
        step: &mut Step,
        id: CsId,
        op: &RegisterCs,
        claim: Claim,
        standing: Standing,
    ) {
        let session = self.session_number(step);
        let Some(server) = self.servers.get_mut(id) else { return };
        let old_host = std::mem::replace(&mut server.host, op.host.clone());
        server.boot_id = claim.boot_id;
        server.addresses.clone_from(&op.addresses);
        // parse_claim has checked the tier.
        server.tier = op.tier as u8;
        server.total_bytes = op.total_bytes;
        server.free_bytes = op.free_bytes;
        server.flags = op.flags;
        server.build.clone_from(&op.build);
        server.host_name.clone_from(&op.host_name);
        server.path.clone_from(&op.path);
        server.journal_path.clone_from(&op.journal_path);
        server.journal_bytes = op.journal_bytes;
        // The answer may be lost: until it is confirmed the chunk server may repeat this very registration.
        server.prior_nonce = Some(op.last_nonce);
        server.nonce = op.new_nonce;
        server.session = session;
        server.trust_next = false;
        server.standing = standing;
        server.registration = Registration::Recording;
        server.state = CsState::Active;
        server.term_ms = op.term_ms;
        (server.registered_ms, server.changed_ms) = (step.now_ms, step.now_ms);

        let address = op.addresses.first().map_or("", String::as_str);
        if standing == Standing::New {
            step.event(EventCode::CsAdded, &[&id.0, &op.host, &address]);
        } else {
            step.event(EventCode::CsRegistered, &[&id.0, &address]);
        }
        if old_host != op.host {
            let together = self.recheck_hosts(id);
            step.event(EventCode::CsMoved, &[&id.0, &old_host, &op.host, &together]);
        }
        self.report_space(step);
    }

    /// What a chunk server must record before it serves: what it missed, and what is waited for (C2).
    fn fences_for(&self, id: CsId) -> Vec<FenceRecord> {
        let mut fences: BTreeMap<FileId, Epoch> =
            self.servers.get(id).map(|server| server.debts.clone()).unwrap_or_default();
        for file in &self.fencing {
            let Ok(lease) = self.tree.file(*file).map(|file| file.lease()) else { continue };
            if matches!(lease.phase(), Phase::Fencing { waiting } if waiting.contains(&id)) {
                fences.insert(*file, lease.epoch());
            }
        }
        fences.into_iter().map(|(file, epoch)| FenceRecord { file: file.raw(), epoch: epoch.raw() }).collect()
    }

    /// C10: none of the replicas of a chunk server that was rolled back may be used, and all it ever recorded about
    /// epochs is in doubt. Returns how many replicas are stale now.
    fn make_stale(&mut self, id: CsId) -> u64 {
        let mut debts = Vec::new();
        let changes = &mut self.changes;
        for (file_id, file) in self.tree.files_mut() {
            let mut holds = false;
            file.chunks.update_all(|entry| {
                let Some(member) = entry.members().on(id) else { return };
                holds = true;
                // What it never held cannot be old.
                if member.state != MemberState::Creating {
                    let before = entry.clone();
                    entry.members_mut().set_state(id, MemberState::Stale);
                    changes.note(file_id, Some(&before), Some(entry));
                }
            });
            if holds && file.lease.epoch() != Epoch::ZERO {
                debts.push((file_id, file.lease.epoch()));
            }
        }
        let stale = self.count_stale(id);
        if let Some(server) = self.servers.get_mut(id) {
            server.debts.extend(debts);
            server.stale_replicas = stale;
        }
        stale
    }

    fn count_stale(&self, id: CsId) -> u64 {
        let entries = self.tree.files().flat_map(|(_, file)| file.chunks.iter());
        entries.filter(|e| e.members().on(id).is_some_and(|m| m.state == MemberState::Stale)).count() as u64
    }

    /// C10: a writer may have unflushed data on a chunk server that lost its memory. Whatever it says when it
    /// releases, these chunks are reconciled before the next holder uses them.
    fn suspect_open_files(&mut self, step: &mut Step, id: CsId) {
        for file_id in self.files_open_for_writing() {
            let Ok(file) = self.tree.file_mut(file_id) else { continue };
            file.chunks.update_all(|entry| {
                let held = entry.members().on(id).is_some_and(|m| m.state == MemberState::InSync);
                entry.set_unreconciled(entry.is_unreconciled() || (held && entry.is_usable()));
            });
        }
        // Also in files that their writers left before.
        self.note_forgotten(step, id);
        self.tell_open_files(step, id);
    }

    /// Tells holders of files on this chunk server that their sessions with it are over.
    fn tell_open_files(&self, step: &mut Step, id: CsId) {
        for client in self.clients.iter() {
            for file in client.leases.keys() {
                let touched = self.tree.file(*file).is_ok_and(|file| holders_of(&file.chunks).contains(&id));
                if touched {
                    step.effect(Effect::Reopen { client: client.id, file: *file });
                }
            }
        }
    }

    fn files_open_for_writing(&self) -> BTreeSet<FileId> {
        let leases = self.clients.iter().flat_map(|client| client.leases());
        leases.filter(|(_, mode)| *mode == LeaseMode::Exclusive).map(|(file, _)| file).collect()
    }

    /// A chunk server changed its host: notes which chunks now have two replicas on one. Returns how many.
    fn recheck_hosts(&mut self, moved: CsId) -> u64 {
        let hosts: BTreeMap<CsId, &str> =
            self.servers.iter().map(|server| (server.id, &*server.host)).collect();
        let mut together = 0;
        for (_, file) in self.tree.files_mut() {
            file.chunks.update_all(|entry| {
                if entry.members().on(moved).is_none() {
                    return;
                }
                let mut seen = BTreeSet::new();
                let distinct = entry.members().iter().all(|member| seen.insert(hosts.get(&member.cs)));
                together += u64::from(!distinct);
                entry.set_on_distinct_hosts(distinct);
            });
        }
        together
    }

    pub(super) fn fences_recorded(&mut self, step: &mut Step, op: &FencesRecorded) -> Answer {
        let server = self.servers.registered(op.cs, op.session)?;
        if server.is_lapsed() {
            return Err(Refusal::WrongRegistration(op.cs));
        }
        let id = server.id;
        server.prior_nonce = None;
        for fence in &op.fences {
            let (file, epoch) = (FileId::from_raw(fence.file), Epoch::from_raw(fence.epoch));
            if server.debts.get(&file).is_some_and(|owed| *owed <= epoch) {
                server.debts.remove(&file);
            }
        }
        let remaining = server.debts.len() as u64;
        let starts = remaining == 0 && server.registration == Registration::Recording;
        if starts {
            server.registration = Registration::Serving;
        }
        let serving = server.registration == Registration::Serving;
        for fence in &op.fences {
            self.note_drained(step, FileId::from_raw(fence.file), id, Epoch::from_raw(fence.epoch));
        }
        if starts {
            let mine = |effect: &Effect| matches!(effect, Effect::CreateChunks { cs, .. } | Effect::MakeReplicas { cs, .. } | Effect::DeleteChunks { cs, .. } if *cs == id);
            step.effects.extend(self.pending_work().into_iter().filter(mine));
            if self.changes.absent_on(id).next().is_some() {
                step.effect(Effect::Returns);
            }
            step.effect(Effect::Replicate);
            // It may be the one without which there was nothing to wait for.
            let waiting: BTreeSet<ChunkId> = self.joiners_to_wait().collect();
            self.dismiss_joiners(step, |_, _, entry| waiting.contains(&entry.id()));
        }
        Ok(Outcome::FencesNoted(FencesNoted { remaining, serving }))
    }

    pub(super) fn cs_lapsed(&mut self, step: &mut Step, op: &CsLapsed) -> Answer {
        let server = self.servers.registered(op.cs, op.session)?;
        let id = server.id;
        if server.is_lapsed() {
            return Ok(Outcome::Acknowledged(0));
        }
        server.registration = Registration::Lapsed;
        if server.state == CsState::Active {
            server.state = CsState::Inactive;
            server.changed_ms = step.now_ms;
            step.event(EventCode::CsInactive, &[&id.0]);
        }
        step.effect(Effect::Replicate);
        // Writes would wait for it; members that lapse wait for somebody who writes.
        self.dismiss_joiners(step, |cs, _, _| cs == id);
        // C2: it serves nothing until it has registered again, so it counts as drained; but it owes the record.
        for file in self.fencing.clone() {
            let Ok(lease) = self.tree.file(file).map(|file| file.lease()) else { continue };
            let epoch = lease.epoch();
            if !matches!(lease.phase(), Phase::Fencing { waiting } if waiting.contains(&id)) {
                continue;
            }
            if let Some(server) = self.servers.get_mut(id) {
                server.debts.insert(file, epoch);
            }
            self.note_drained(step, file, id, epoch);
        }
        self.report_status(step);
        Ok(Outcome::Acknowledged(1))
    }

    pub(super) fn cs_state_changed(&mut self, step: &mut Step, op: &CsStateChanged) -> Answer {
        let offline_s = self.config.get(Parameter::OfflineTout);
        let server = self.servers.registered(op.cs, op.session)?;
        let to = CsState::try_from(op.state)
            .map_err(|_| Refusal::malformed("a chunk server is active (1), inactive (2) or offline (3)"))?;
        let code = match (server.state, to) {
            (from, to) if from == to => return Ok(Outcome::Acknowledged(0)),
            (CsState::Active, CsState::Inactive) => EventCode::CsInactive,
            (CsState::Inactive, CsState::Offline) if server.is_lapsed() => EventCode::CsOffline,
            // Heard from again. Once lapsed, or offline, it has to register.
            (CsState::Inactive, CsState::Active) if !server.is_lapsed() => EventCode::CsActive,
            (from, to) => {
                let name = |state| format!("{state:?}").to_lowercase();
                return Err(Refusal::BadCsStep(BadCsStep { cs: op.cs, from: name(from), to: name(to) }));
            }
        };
        server.state = to;
        server.changed_ms = step.now_ms;
        step.event(code, &[&op.cs, &offline_s]);
        if code == EventCode::CsOffline {
            self.tell_last_memories(step, CsId(op.cs));
        }
        step.effect(Effect::Replicate);
        self.report_status(step);
        Ok(Outcome::Acknowledged(1))
    }

    pub(super) fn cs_report(&mut self, step: &mut Step, op: &CsReport) -> Answer {
        let events = op.events.iter().map(reported).collect::<Result<Vec<_>, _>>()?;
        check_count(op.events.len(), REPORTED_MAX)?;
        let server = self.servers.registered(op.cs, op.session)?;
        if !op.events_only {
            server.total_bytes = op.total_bytes;
            server.free_bytes = op.free_bytes;
            server.flags = op.flags;
            // There may be room now for what had none, or somewhere better.
            step.effect(Effect::Replicate);
        }
        for (kind, event) in events {
            step.event(kind, &[&op.cs, &event.code, &event.message]);
        }
        self.report_space(step);
        Ok(Outcome::Acknowledged(1))
    }
}

/// The kind of event that stands for a reported one.
fn reported(event: &ReportedEvent) -> Result<(EventCode, &ReportedEvent), Refusal> {
    check_text("the code of an event", &event.code)?;
    if event.message.len() > MESSAGE_MAX {
        return Err(Refusal::malformed("the text of an event has at most 1024 bytes"));
    }
    let kind = match ReportedSeverity::try_from(event.severity) {
        Ok(ReportedSeverity::Info) => EventCode::CsReportedInfo,
        Ok(ReportedSeverity::Warning) => EventCode::CsReportedWarning,
        Ok(ReportedSeverity::Error) => EventCode::CsReportedError,
        Err(_) => return Err(Refusal::malformed("an event is info (1), warning (2) or error (3)")),
    };
    Ok((kind, event))
}

fn parse_claim(op: &RegisterCs) -> Result<Claim, Refusal> {
    let sixteen = || Refusal::malformed("a UUID or boot id has 16 bytes");
    if op.new_nonce.is_none() {
        return Err(Refusal::malformed("a registration needs a nonce"));
    }
    if op.tier > u32::from(TIER_MAX) {
        return Err(Refusal::malformed("tiers are 0 to 3"));
    }
    check_count(op.addresses.len(), ADDRESSES_MAX)?;
    for text in [&op.host, &op.host_name, &op.build].into_iter().chain(&op.addresses) {
        check_text("a name or address of a chunk server", text)?;
    }
    for path in [&op.path, &op.journal_path] {
        if path.len() > PATH_MAX {
            return Err(Refusal::malformed("a path has at most 4096 bytes"));
        }
    }
    Ok(Claim {
        uuid: Uuid::from_bytes(&op.cs_uuid).ok_or_else(sixteen)?,
        claimed_id: op.claimed_id,
        last_nonce: op.last_nonce,
        new_nonce: op.new_nonce,
        boot_id: Uuid::from_bytes(&op.boot_id).ok_or_else(sixteen)?,
    })
}
