//! Chunk servers leave the cluster (guide 3.2.3): first their replicas go elsewhere.

use super::{Answer, Step, check_text};
use crate::state::State;
use crate::state::chunk::ChunkEntry;
use crate::state::command::{CsState, DropCs, Leave, ReleaseCs};
use crate::state::effect::Effect;
use crate::state::event::EventCode;
use crate::state::ids::CsId;
use crate::state::inode::File;
use crate::state::outcome::Outcome;
use crate::state::placement::{Policy, Shortage, place};
use crate::state::refusal::{CsStays, Refusal};
use crate::state::servers::Registration;
use std::collections::BTreeMap;

/// Files that are named in a refusal.
const NAMED: usize = 3;

/// What keeps a chunk server from leaving.
#[derive(Default)]
struct Obstacles {
    chunks: u64,
    /// Some of the files.
    files: Vec<String>,
}

impl Obstacles {
    fn add(&mut self, path: impl FnOnce() -> String) {
        self.chunks += 1;
        if self.files.len() < NAMED {
            let path = path();
            if !self.files.contains(&path) {
                self.files.push(path);
            }
        }
    }
}

impl State {
    pub(super) fn release_cs(&mut self, step: &mut Step, op: &ReleaseCs) -> Answer {
        check_text("an origin", &op.origin)?;
        let how = Leave::try_from(op.how)
            .map_err(|_| Refusal::malformed("a chunk server stays (0), leaves (1) or is lost (2)"))?;
        let id = CsId(op.cs);
        let server = self.servers.get(id).ok_or(Refusal::UnknownCs(op.cs))?;
        let stays = |why: String| Refusal::CsStays(CsStays { cs: op.cs, why });
        if server.state == CsState::Dropped {
            return Err(Refusal::CsDropped(op.cs));
        }
        let (before, replicas) = (server.leave, server.replicas);
        match how {
            Leave::Stay if before == Leave::Stay => return Err(stays("it is not being removed".into())),
            Leave::Stay => {}
            Leave::Leave => self.check_places(id).map_err(stays)?,
            Leave::Lost if server.serves() => {
                return Err(stays(
                    "it is active: only a chunk server that is lost for ever is removed by force; \
                     stop it first, or remove it without -f"
                        .into(),
                ));
            }
            Leave::Lost => self.check_copies(id).map_err(stays)?,
        }
        if let Some(server) = self.servers.get_mut(id) {
            server.leave = how;
        }
        if how != before {
            let origin = if op.origin.is_empty() { String::new() } else { format!(" (by {})", op.origin) };
            match how {
                Leave::Stay => step.event(EventCode::CsKept, &[&op.cs, &origin]),
                Leave::Leave => step.event(EventCode::CsReleased, &[&op.cs, &replicas, &origin]),
                Leave::Lost => step.event(EventCode::CsLost, &[&op.cs, &replicas, &origin]),
            }
        }
        if how != before && (how == Leave::Lost || before == Leave::Lost) {
            // Who was waited for with it, or is again.
            self.tell_last_memories(step, id);
        }
        if how != Leave::Stay {
            // Nothing new goes there; what is half made is not worth to be moved.
            self.end_additions(step, |cs| cs == id);
            self.dismiss_joiners(step, |cs, _, _| cs == id);
        }
        step.effect(Effect::Replicate);
        Ok(Outcome::Acknowledged(replicas))
    }

    /// The chunks with a replica there.
    fn chunks_on(&self, cs: CsId) -> impl Iterator<Item = (String, &File, &ChunkEntry)> {
        let on = move |entry: &&ChunkEntry| entry.members().on(cs).is_some();
        self.tree
            .files()
            .flat_map(move |(id, file)| file.chunks.iter().filter(on).map(move |entry| (id, file, entry)))
            .map(|(id, file, entry)| (self.tree.path_of(id), file, entry))
    }

    /// How many chunks on a chunk server stay there until somebody has reconciled them (C5), and some of their files.
    pub fn waiting_on(&self, cs: CsId) -> (u64, Vec<String>) {
        let mut waiting = Obstacles::default();
        for (id, file) in self.tree.files() {
            let stays = |entry: &&ChunkEntry| entry.members().on(cs).is_some() && !self.may_fill(entry);
            file.chunks.iter().filter(stays).for_each(|_| waiting.add(|| self.tree.path_of(id)));
        }
        (waiting.chunks, waiting.files)
    }

    /// Whether the others can take what a chunk server holds.
    fn check_places(&self, leaves: CsId) -> Result<(), String> {
        let others: Vec<_> = self.candidates().filter(|candidate| candidate.cs != leaves).collect();
        // Chunks of files with the same wishes share their fate.
        let mut needed = 0u128;
        let mut lacking: BTreeMap<(u8, i32, u8), Option<Shortage>> = BTreeMap::new();
        let mut obstacles = Obstacles::default();
        let mut why = None;
        for (path, file, _) in self.chunks_on(leaves) {
            needed += u128::from(file.attrs.chunk_size);
            let attrs = &file.attrs;
            let wish = (attrs.replicas.normal, attrs.domain as i32, attrs.tier);
            let short = *lacking.entry(wish).or_insert_with(|| {
                let policy = Policy { fill_margin: 0, ..self.policy(file) };
                place(&others, &[], &policy, 0).err().map(|short| short.why)
            });
            if let Some(short) = short {
                why.get_or_insert((short, attrs.replicas.normal));
                obstacles.add(|| path);
            }
        }
        if let Some((short, normal)) = why {
            return Err(format!(
                "{} chunks on it (of {}) want {normal} replicas, and without it {short}; add a chunk server, or lower \
                 replicas= of these files",
                obstacles.chunks,
                obstacles.files.join(", "),
            ));
        }
        let free: u128 =
            others.iter().filter(|other| other.usable).map(|other| u128::from(other.free_bytes)).sum();
        let used =
            self.servers.get(leaves).map_or(0, |server| server.total_bytes.saturating_sub(server.free_bytes));
        // Chunks are sparse: neither what they may grow to nor what the disk says alone is the truth.
        let needed = needed.min(u128::from(used));
        if needed > free {
            return Err(format!(
                "its replicas take up to {needed} bytes, and the other active chunk servers have {free} free; add a chunk \
                 server or remove data"
            ));
        }
        Ok(())
    }

    /// Whether everything a lost chunk server held is somewhere else, too.
    fn check_copies(&self, lost: CsId) -> Result<(), String> {
        let mut obstacles = Obstacles::default();
        for (path, _, entry) in self.chunks_on(lost) {
            let others = entry
                .in_sync()
                .filter(|cs| *cs != lost && self.servers.get(*cs).is_some_and(|s| s.leave != Leave::Lost));
            if entry.is_usable() && entry.in_sync().any(|cs| cs == lost) && others.count() == 0 {
                obstacles.add(|| path);
            }
        }
        if obstacles.chunks == 0 {
            return Ok(());
        }
        Err(format!(
            "it has the only copy of {} chunks (of {}): bring it back, or remove these files first; their data is lost then",
            obstacles.chunks,
            obstacles.files.join(", "),
        ))
    }

    /// Whether a chunk server that is to leave holds nothing any more.
    pub fn is_empty_of_replicas(&self, cs: CsId) -> bool {
        self.servers.get(cs).is_some_and(|server| {
            server.leave != Leave::Stay
                && server.state != CsState::Dropped
                && server.replicas == 0
                && self.changes.arriving_on(cs) == 0
        })
    }

    pub(super) fn drop_cs(&mut self, step: &mut Step, op: &DropCs) -> Answer {
        let id = CsId(op.cs);
        if self.servers.get(id).is_none() {
            return Err(Refusal::UnknownCs(op.cs));
        }
        if !self.is_empty_of_replicas(id) {
            return Ok(Outcome::Acknowledged(0));
        }
        // Whoever waits for it to record an epoch waits no longer: it holds nothing of any file.
        for file in self.fencing.clone() {
            let Ok(epoch) = self.tree.file(file).map(|file| file.lease.epoch()) else { continue };
            self.note_drained(step, file, id, epoch);
        }
        self.deletions.forget(id);
        if let Some(server) = self.servers.get_mut(id) {
            server.state = CsState::Dropped;
            server.registration = Registration::Lapsed;
            server.changed_ms = step.now_ms;
            server.debts.clear();
        }
        step.event(EventCode::CsDropped, &[&op.cs]);
        self.report_status(step);
        Ok(Outcome::Acknowledged(1))
    }
}
