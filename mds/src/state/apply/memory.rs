//! Members that have lost their memory, and those that have not (C10, decision 0018).
//!
//! A chunk server that registers as rebooted may lack writes that were acknowledged and not flushed. In a chunk that nobody has reconciled it
//! is *forgetful* from then on, as is whoever is filled beside it or becomes a member then; the others *remember*, and the last of them is
//! waited for.

use super::Step;
use super::losses::names_of;
use crate::state::State;
use crate::state::changes::Position;
use crate::state::chunk::ChunkEntry;
use crate::state::command::{CsState, Leave};
use crate::state::event::EventCode;
use crate::state::ids::{ChunkId, CsId, FileId};
use crate::state::servers::ChunkServer;
use std::collections::BTreeSet;

/// Chunks that wait for chunk servers that are offline.
#[derive(Default)]
struct Waiting {
    chunks: u64,
    first: Option<FileId>,
    servers: BTreeSet<CsId>,
}

impl State {
    /// The members of a chunk that have all that was acknowledged, as far as anybody can have it, but for those that will never be back: an
    /// operator has said so. Flags `H` and `S` say less: a journal may be found again.
    fn remembering(&self, entry: &ChunkEntry) -> impl Iterator<Item = CsId> {
        let is_given_up = |cs: CsId| {
            let gone = |server: &ChunkServer| server.leave == Leave::Lost || server.state == CsState::Dropped;
            self.servers.get(cs).is_none_or(gone)
        };
        entry.remembering().filter(move |cs| !is_given_up(*cs))
    }

    /// Whether a chunk loses nothing that was acknowledged if a member leaves: another one that is there remembers it, too, or this one does
    /// not. Who is only hoped to return, or says that its disk or journal has failed, counts for nobody.
    pub(in crate::state) fn can_do_without(&self, entry: &ChunkEntry, cs: CsId) -> bool {
        !entry.is_unreconciled()
            || self.remembering(entry).all(|other| other != cs)
            || self
                .remembering(entry)
                .any(|other| other != cs && self.is_alive(other) && !self.has_failed(other))
    }

    fn has_failed(&self, cs: CsId) -> bool {
        self.servers.get(cs).is_some_and(ChunkServer::has_failed)
    }

    /// Whether a joiner is filled beside a member that is away and is waited for all the same: what its sources do not know it cannot have
    /// before.
    pub fn joins_beside_last_memory(&self, cs: CsId, chunk: ChunkId) -> bool {
        let entry = self.changes.joiner(cs, chunk).and_then(|at| self.entry_at(at));
        entry.is_some_and(|entry| {
            entry.in_sync().any(|member| self.is_gone(member) && !self.is_given_up(entry, member))
        })
    }

    /// Whether a member of a chunk is not waited for any more.
    pub(super) fn is_given_up(&self, entry: &ChunkEntry, cs: CsId) -> bool {
        self.is_gone(cs) && self.can_do_without(entry, cs)
    }

    /// A chunk server has lost its memory: what it holds of chunks that nobody has reconciled is worth less from now on.
    pub(super) fn note_forgotten(&mut self, step: &mut Step, id: CsId) {
        let mut news: Vec<Position> = Vec::new();
        for (file_id, file) in self.tree.files_mut().filter(|(_, file)| file.chunks.unreconciled() > 0) {
            file.chunks.update_all(|entry| {
                if entry.forget(id) {
                    news.push((file_id, entry.index()));
                }
            });
        }
        let mut waiting = Waiting::default();
        for (file, index) in news {
            if let Some(entry) = self.entry_at((file, index)) {
                self.add_waiting(&mut waiting, file, entry);
            }
        }
        self.tell_waiting(step, waiting);
    }

    /// A chunk server is no longer waited for, or for long already: are chunks left that nobody remembers who is there?
    pub(super) fn tell_last_memories(&self, step: &mut Step, of: CsId) {
        let mut waiting = Waiting::default();
        for (file_id, file) in self.tree.files().filter(|(_, file)| file.chunks.unreconciled() > 0) {
            let touched = |entry: &&ChunkEntry| entry.is_unreconciled() && entry.members().on(of).is_some();
            for entry in file.chunks.iter().filter(touched) {
                self.add_waiting(&mut waiting, file_id, entry);
            }
        }
        self.tell_waiting(step, waiting);
    }

    /// Counts a chunk if all who remember it are offline: before that somebody may be back by himself.
    fn add_waiting(&self, waiting: &mut Waiting, file: FileId, entry: &ChunkEntry) {
        let is_offline =
            |cs: CsId| self.servers.get(cs).is_some_and(|server| server.state == CsState::Offline);
        if self.remembering(entry).next().is_some() && self.remembering(entry).all(is_offline) {
            waiting.chunks += 1;
            waiting.first.get_or_insert(file);
            waiting.servers.extend(self.remembering(entry));
        }
    }

    fn tell_waiting(&self, step: &mut Step, waiting: Waiting) {
        let Some(first) = waiting.first else { return };
        let (names, path) = (names_of(&waiting.servers), self.tree.path_of(first));
        step.event(EventCode::LastMemoryAway, &[&names, &waiting.chunks, &path]);
    }
}
