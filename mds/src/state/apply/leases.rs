//! Leases: granting, fencing, releasing, reconciling (C1, C2, C5).

use super::{Answer, Step, check_count};
use crate::state::State;
use crate::state::chunk::ChunkMap;
use crate::state::clients::Client;
use crate::state::command::{
    EndReservation, LeaseMode, LeaseProof, Open, ReconcileDone, Release, Resume, Revoke, RevokeWhat,
};
use crate::state::effect::Effect;
use crate::state::event::EventCode;
use crate::state::ids::{ClientId, CsId, Epoch, FileId};
use crate::state::lease::{Circumstances, End, Lease, Phase, Verdict};
use crate::state::outcome::{Fencing, Granted, Held, Outcome};
use crate::state::refusal::{NotHolder, Refusal};
use std::collections::BTreeSet;

/// The most chunks in one `ReconcileDone`.
pub const RECONCILED_MAX: usize = 4096;

impl State {
    pub(super) fn open(&mut self, step: &mut Step, op: &Open) -> Answer {
        let client = self.clients.authenticate(op.client, op.token)?;
        let mode = parse_mode(op.mode)?;
        let id = self.resolve(op.target.as_ref())?;
        if self.tree.orphans().contains(&id) {
            // Without a name, it is there only for those who have it, or to whom it is handed over.
            let lease = self.tree.file(id)?.lease();
            if lease.reserved_for() != Some(client) && lease.mode_of(client).is_none() {
                return Err(Refusal::UnknownFile(id.raw()));
            }
        }
        self.ask(step, id, client, mode, Lease::open)
    }

    pub(super) fn resume(&mut self, step: &mut Step, op: &Resume) -> Answer {
        let client = self.clients.authenticate(op.client, op.token)?;
        let mode = parse_mode(op.mode)?;
        let id = FileId::from_raw(op.file);
        // A file that is gone is as lost as one that another was granted.
        let lease = self.tree.file(id).map_err(|_| Refusal::ResumeLost(op.file))?.lease();
        if lease.mode_of(client).is_some() && lease.epoch().raw() == op.epoch {
            // It gives up what it holds, and is the next to get it.
            self.end_lease(step, id, client, End::Reopened);
        }
        self.ask(step, id, client, mode, Lease::resume)
    }

    /// Puts the question to the lease and acts on its verdict.
    pub(super) fn ask(
        &mut self,
        step: &mut Step,
        id: FileId,
        client: ClientId,
        mode: LeaseMode,
        question: fn(&mut Lease, ClientId, LeaseMode, Circumstances<'_>) -> Verdict,
    ) -> Answer {
        let (servers, clients) = (&self.servers, &self.clients);
        let file = self.tree.file_mut(id)?;
        let lapsed = |cs: &CsId| servers.get(*cs).is_none_or(|server| server.is_lapsed());
        let chunks = &file.chunks;
        let to_fence = || holders_of(chunks).into_iter().filter(|cs| !lapsed(cs)).collect();
        let now = Circumstances {
            generation: self.cluster.generation,
            needs_reconcile: file.chunks.unreconciled() > 0,
            is_live: &|client| clients.is_live(client),
            to_fence: &to_fence,
        };
        let unclean = *file.lease.phase() == Phase::Unclean;
        let before = file.lease.epoch();
        let verdict = question(&mut file.lease, client, mode, now);
        let epoch = file.lease.epoch();
        self.note_kept(id);
        if unclean && epoch != before {
            self.start_fence(step, id)?;
        }
        let file = self.tree.file(id)?;
        Ok(match verdict {
            Verdict::Granted => {
                let granted = Granted {
                    file: id.raw(),
                    epoch: epoch.raw(),
                    needs_reconcile: file.chunks.unreconciled() > 0,
                    size: file.size,
                    chunk_size: file.attrs.chunk_size,
                };
                if let Some(client) = self.clients.get_mut(client) {
                    client.leases.insert(id, mode);
                    client.lost.remove(&id);
                }
                // Given up and had back in one command.
                step.effects
                    .retain(|effect| !matches!(effect, Effect::LeaseKept { file, .. } if *file == id));
                Outcome::Granted(granted)
            }
            Verdict::Held { by, reserved } => Outcome::Held(Held {
                file: id.raw(),
                by: by.iter().map(|client| client.0).collect(),
                reserved,
            }),
            Verdict::Fencing => {
                let waiting = match file.lease.phase() {
                    Phase::Fencing { waiting } => waiting.iter().map(|cs| cs.0).collect(),
                    _ => Vec::new(),
                };
                Outcome::Fencing(Fencing { file: id.raw(), epoch: epoch.raw(), waiting })
            }
            Verdict::Lost => return Err(Refusal::ResumeLost(id.raw())),
        })
    }

    /// Tells the chunk servers of a file about its new epoch; those that lapsed owe it (C2).
    fn start_fence(&mut self, step: &mut Step, id: FileId) -> Result<(), Refusal> {
        let file = self.tree.file(id)?;
        let epoch = file.lease.epoch();
        for cs in holders_of(&file.chunks) {
            match self.servers.get_mut(cs) {
                Some(server) if server.is_lapsed() => {
                    server.debts.insert(id, epoch);
                }
                Some(_) => step.effect(Effect::Fence { cs, file: id, epoch }),
                None => {}
            }
        }
        if matches!(file.lease.phase(), Phase::Fencing { .. }) {
            self.fencing.insert(id);
        }
        Ok(())
    }

    /// A chunk server has recorded the epoch of a file, or lapsed: grant to whoever waits, if it was the last.
    pub(super) fn note_drained(&mut self, step: &mut Step, id: FileId, cs: CsId, epoch: Epoch) {
        let Ok(file) = self.tree.file_mut(id) else { return };
        if file.lease.drained(cs, epoch) {
            self.fencing.remove(&id);
            step.effect(Effect::LeaseFree { file: id });
        }
    }

    pub(super) fn release(&mut self, step: &mut Step, op: &Release) -> Answer {
        let id = FileId::from_raw(op.file);
        let client = match self.holder(op.lease.as_ref(), id) {
            Ok((client, _)) => client,
            Err(refusal) => {
                let known = op.lease.as_ref().is_some_and(|lease| self.knows_of_loss(lease, id));
                return if known { Ok(Outcome::Done(())) } else { Err(refusal) };
            }
        };
        let successor = ClientId(op.successor);
        let hands_over = op.successor != 0;
        if hands_over {
            let others = self.tree.file(id)?.lease.holders().len() > 1;
            if others {
                return Err(Refusal::malformed("only the last holder of a lease can hand it over"));
            }
            if !self.clients.is_live(successor) {
                return Err(Refusal::NoSession(op.successor));
            }
        }
        let how = if op.clean { End::Clean } else { End::Dirty };
        self.end_lease_for(step, id, client, how, hands_over.then_some(successor));
        Ok(Outcome::Done(()))
    }

    /// Whether a client gives back what was revoked, and so knows of it.
    fn knows_of_loss(&mut self, lease: &LeaseProof, id: FileId) -> bool {
        let Ok(client) = self.clients.authenticate(lease.client, lease.token) else { return false };
        let Some(client) = self.clients.get_mut(client) else { return false };
        let known = client.lost.get(&id).is_some_and(|epoch| lease.epoch <= epoch.raw());
        if known {
            client.lost.remove(&id);
        }
        known
    }

    /// Ends a client's lease on a file, whatever it is.
    ///
    /// A writer that did not flush leaves replicas that may differ (C5). A file that was unlinked goes with its last
    /// lease (C9).
    pub(super) fn end_lease(&mut self, step: &mut Step, id: FileId, client: ClientId, how: End) {
        self.end_lease_for(step, id, client, how, None);
    }

    /// The same, and keeps the file for a named successor (C1).
    fn end_lease_for(
        &mut self,
        step: &mut Step,
        id: FileId,
        client: ClientId,
        how: End,
        successor: Option<ClientId>,
    ) {
        let Ok(file) = self.tree.file_mut(id) else { return };
        let epoch = file.lease.epoch();
        let Some(mode) = file.lease.end(client, how) else { return };
        if mode == LeaseMode::Exclusive && how != End::Clean {
            // What was still being created was never written.
            file.chunks
                .update_all(|entry| entry.set_unreconciled(entry.is_unreconciled() || entry.is_usable()));
        }
        let suspect = mode == LeaseMode::Exclusive && file.chunks.unreconciled() > 0;
        let dismisses = mode == LeaseMode::Exclusive && how != End::Clean;
        let free = !file.lease.phase().is_held();
        if free && let Some(successor) = successor {
            file.lease.reserve(successor);
        }
        let kept_for = file.lease.reserved_for();
        self.note_kept(id);
        if let Some(client) = kept_for {
            step.effect(Effect::LeaseKept { client, file: id });
        }
        if let Some(client) = self.clients.get_mut(client) {
            client.leases.remove(&id);
        }
        if suspect && how != End::Clean && !self.tree.orphans().contains(&id) {
            step.event(EventCode::ReconcileNeeded, &[&self.tree.path_of(id), &epoch]);
        }
        if matches!(how, End::Expired | End::TakenOver | End::Revoked) {
            step.effect(Effect::LeaseLost { client, file: id, epoch });
        }
        if free {
            step.effect(Effect::LeaseFree { file: id });
        }
        self.sweep_orphan(step, id);
        if dismisses {
            self.dismiss_joiners(step, |_, file, _| file == id);
        }
    }

    /// Whether somebody holds a file, or it is kept for a client about to open it again.
    pub(in crate::state) fn is_in_hands(&self, id: FileId) -> bool {
        self.tree.file(id).is_ok_and(|file| {
            let kept = file.lease.reserved_for().is_some_and(|client| self.clients.is_live(client));
            kept || file.lease.phase().is_held()
        })
    }

    /// Deletes a file if it is unlinked and in nobody's hands (C9).
    pub(super) fn sweep_orphan(&mut self, step: &mut Step, id: FileId) {
        if self.tree.orphans().contains(&id) && !self.is_in_hands(id) {
            self.delete_file(step, id);
        }
    }

    /// Deletes all such files: clients they may have been kept for are gone.
    pub(super) fn sweep_orphans(&mut self, step: &mut Step) {
        let orphans = self.tree.orphans().iter().copied();
        let gone: Vec<FileId> = orphans.filter(|id| !self.is_in_hands(*id)).collect();
        for id in gone {
            self.delete_file(step, id);
        }
    }

    pub(super) fn revoke(&mut self, step: &mut Step, op: &Revoke) -> Answer {
        match &op.what {
            None => Err(Refusal::malformed("neither a file nor a client is named")),
            Some(RevokeWhat::File(target)) => {
                let id = self.resolve(Some(target))?;
                let path = self.tree.path_of(id);
                let holders = self.tree.file(id)?.lease.holders().to_vec();
                let epoch = self.tree.file(id)?.lease.epoch();
                for client in &holders {
                    step.event(EventCode::LeaseRevoked, &[&path, &client.0]);
                    self.end_lease(step, id, *client, End::Revoked);
                    if let Some(client) = self.clients.get_mut(*client).filter(|_| op.told) {
                        client.lose(id, epoch);
                    }
                }
                // Kept for a client that opens it anew, a file is as good as held: that client loses it.
                let kept_for = self.tree.file(id).ok().and_then(|file| file.lease.reserved_for());
                let kept_for = kept_for.filter(|_| op.told);
                if let Some(owner) = kept_for {
                    step.event(EventCode::LeaseRevoked, &[&path, &owner.0]);
                    step.effect(Effect::LeaseFree { file: id });
                    if let Some(owner) = self.clients.get_mut(owner).filter(|owner| owner.is_live()) {
                        owner.lose(id, epoch);
                    }
                }
                if let Ok(file) = self.tree.file_mut(id) {
                    file.lease.clear_reservation();
                    file.lease.forget_resumable();
                }
                self.note_kept(id);
                self.sweep_orphans(step);
                Ok(Outcome::Acknowledged(holders.len() as u64 + u64::from(kept_for.is_some())))
            }
            Some(RevokeWhat::Client(raw)) => {
                let client = self.clients.get(ClientId(*raw)).ok_or(Refusal::NoSession(*raw))?;
                let (id, held): (_, Vec<FileId>) = (client.id, client.leases.keys().copied().collect());
                for file in &held {
                    step.event(EventCode::LeaseRevoked, &[&self.tree.path_of(*file), raw]);
                }
                self.end_session(step, id, End::Revoked);
                Ok(Outcome::Acknowledged(held.len() as u64))
            }
        }
    }

    /// Brings the list of kept files in line with a lease that has changed.
    fn note_kept(&mut self, id: FileId) {
        if self.tree.file(id).is_ok_and(|file| file.lease.reserved_for().is_some()) {
            self.kept.insert(id);
        } else {
            self.kept.remove(&id);
        }
    }

    pub(super) fn end_reservation(&mut self, step: &mut Step, op: &EndReservation) -> Answer {
        let (id, owner) = (FileId::from_raw(op.file), ClientId(op.client));
        let later = |client: &Client| client.is_live() && client.session != op.session;
        if self.clients.get(owner).is_some_and(later) {
            return Err(Refusal::NoSession(op.client));
        }
        let file = self.tree.file_mut(id)?;
        if file.lease.reserved_for() == Some(owner) {
            file.lease.clear_reservation();
            self.note_kept(id);
            step.effect(Effect::LeaseFree { file: id });
            self.sweep_orphans(step);
        }
        Ok(Outcome::Done(()))
    }

    pub(super) fn reconcile_done(&mut self, step: &mut Step, op: &ReconcileDone) -> Answer {
        let id = FileId::from_raw(op.file);
        let (client, mode) = self.holder(op.lease.as_ref(), id)?;
        check_count(op.chunks.len(), RECONCILED_MAX)?;
        let file = self.tree.file_mut(id)?;
        // With several readers nobody was appointed, and nothing is to be done.
        if mode == LeaseMode::Shared && file.lease.holders().len() > 1 {
            return Err(Refusal::NotHolder(NotHolder { file: id.raw(), client: client.0 }));
        }
        let before = file.chunks.unreconciled();
        let mut settled = BTreeSet::new();
        for done in &op.chunks {
            file.chunks.update(done.index, |entry| {
                if (entry.id().raw(), entry.version().raw()) == (done.chunk, done.version) {
                    entry.set_unreconciled(false);
                    settled.insert(entry.id());
                }
            });
        }
        let left = file.chunks.unreconciled();
        // What was settled did not go to joiners: they have what members had before, or a part of that.
        self.dismiss_joiners(step, |_, _, entry| settled.contains(&entry.id()));
        if op.writes_lost && left < before {
            step.event(EventCode::WritesLost, &[&self.tree.path_of(id), &client.0]);
        }
        if left < before {
            step.effect(Effect::Replicate);
            step.effect(Effect::Returns);
        }
        if before > 0 && left == 0 {
            step.event(EventCode::Reconciled, &[&self.tree.path_of(id)]);
            step.effect(Effect::LeaseFree { file: id });
        }
        Ok(Outcome::Unreconciled(left as u64))
    }
}

fn parse_mode(raw: i32) -> Result<LeaseMode, Refusal> {
    LeaseMode::try_from(raw).map_err(|_| Refusal::malformed("a lease is shared (1) or exclusive (2)"))
}

/// The chunk servers that hold chunks of a file, in whatever state.
pub(super) fn holders_of(chunks: &ChunkMap) -> BTreeSet<CsId> {
    chunks
        .iter()
        .flat_map(|entry| entry.members().iter().map(|member| member.cs).collect::<Vec<_>>())
        .collect()
}
