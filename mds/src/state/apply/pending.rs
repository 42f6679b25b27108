//! What the leader still has to do, worked out from the state alone.

use super::chunks::new_chunk;
use crate::state::State;
use crate::state::changes::Position;
use crate::state::chunk::MemberState;
use crate::state::effect::{CopyOrder, Effect, InstallOrder, NewChunk, NewReplica};
use crate::state::ids::{ChunkId, CsId, FileId, Version};
use crate::state::lease::Phase;
use std::collections::{BTreeMap, BTreeSet};

impl State {
    /// All lasting effects that are not done yet. A new leader starts with these.
    ///
    /// Costs time in proportion to the work, the delete list, clients, chunk servers and kept files, not to files and chunks.
    pub fn pending_work(&self) -> Vec<Effect> {
        let mut work = Vec::new();
        self.pending_creations(&mut work);
        self.pending_fences(&mut work);
        self.pending_deletions(&mut work);
        self.pending_changes(&mut work);
        self.pending_additions(&mut work);
        let live = self.clients.iter().filter(|client| client.is_live());
        work.extend(live.map(|client| Effect::WatchClient { client: client.id, session: client.session }));
        let registered = self.servers.iter().filter(|server| !server.is_lapsed());
        work.extend(registered.map(|server| Effect::WatchCs { cs: server.id, session: server.session }));
        work.extend(self.kept.iter().filter_map(|id| {
            let client = self.tree.file(*id).ok()?.lease().reserved_for()?;
            Some(Effect::LeaseKept { client, file: *id })
        }));
        work
    }

    fn pending_creations(&self, work: &mut Vec<Effect>) {
        let mut by_place: BTreeMap<(CsId, FileId), Vec<NewChunk>> = BTreeMap::new();
        for (id, index) in self.creating.values() {
            let Ok(file) = self.tree.file(*id) else { continue };
            let Some(entry) = file.chunks.get(*index) else { continue };
            for member in entry.members().iter().filter(|member| member.state == MemberState::Creating) {
                by_place.entry((member.cs, *id)).or_default().push(new_chunk(entry, member.slot));
            }
        }
        for ((cs, id), mut chunks) in by_place {
            let Ok(file) = self.tree.file(id) else { continue };
            chunks.sort_unstable();
            let (epoch, chunk_size) = (file.lease.epoch(), file.attrs.chunk_size);
            work.push(Effect::CreateChunks { cs, file: id, epoch, chunk_size, chunks });
        }
    }

    fn pending_fences(&self, work: &mut Vec<Effect>) {
        for id in &self.fencing {
            let Ok(file) = self.tree.file(*id) else { continue };
            let epoch = file.lease.epoch();
            if let Phase::Fencing { waiting } = file.lease.phase() {
                work.extend(waiting.iter().map(|cs| Effect::Fence { cs: *cs, file: *id, epoch }));
            }
        }
    }

    fn pending_changes(&self, work: &mut Vec<Effect>) {
        let mut installs: BTreeMap<CsId, Vec<InstallOrder>> = BTreeMap::new();
        for (cs, _, due) in self.changes.all_due() {
            let Ok(file) = self.tree.file(due.position.0) else { continue };
            let Some(entry) = file.chunks.get(due.position.1) else { continue };
            installs.entry(cs).or_default().extend(self.install_order(entry, cs));
        }
        work.extend(installs.into_iter().map(|(cs, chunks)| Effect::InstallVersions { cs, chunks }));
        let mut copies: BTreeMap<CsId, Vec<CopyOrder>> = BTreeMap::new();
        let joining: BTreeSet<Position> = self.changes.joining().map(|(.., position)| position).collect();
        joining.into_iter().for_each(|position| self.copy_orders(position, &mut copies));
        work.extend(copies.into_iter().map(|(cs, chunks)| Effect::CatchUp { cs, chunks }));
    }

    fn pending_additions(&self, work: &mut Vec<Effect>) {
        let mut made: BTreeMap<CsId, Vec<NewReplica>> = BTreeMap::new();
        for (cs, chunk, _) in self.changes.all_additions() {
            made.entry(cs).or_default().extend(self.new_replica(cs, chunk));
        }
        work.extend(made.into_iter().map(|(cs, chunks)| Effect::MakeReplicas { cs, chunks }));
    }

    fn pending_deletions(&self, work: &mut Vec<Effect>) {
        let mut by_server: BTreeMap<CsId, Vec<(ChunkId, Version)>> = BTreeMap::new();
        for (chunk, deletion) in self.deletions.iter().filter(|(_, deletion)| deletion.purging) {
            for cs in &deletion.waiting {
                by_server.entry(*cs).or_default().push((chunk, deletion.version));
            }
        }
        work.extend(by_server.into_iter().map(|(cs, chunks)| Effect::DeleteChunks { cs, chunks }));
    }
}
