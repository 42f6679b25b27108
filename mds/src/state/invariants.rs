//! What must hold after every command, and a check of it.
//!
//! The check walks the whole state. Tests run it after every step; a server may run it after it loaded a snapshot.
//! Each rule names the clause of the consistency contract it stands for.

use super::State;
use super::chunk::MemberState;
use super::command::CsState;
use super::command::LeaseMode;
use super::ids::{ChunkId, ClientId, CsId, Epoch, FileId, Version};
use super::inode::{Body, File, Place};
use super::lease::Phase;
use std::collections::{BTreeMap, BTreeSet};

/// A rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvariantViolation {
    /// A lease contradicts itself.
    #[error("C1: the lease of file {file} is inconsistent: {what}")]
    Lease {
        /// The file.
        file: FileId,
        /// How.
        what: &'static str,
    },
    /// A lease and its client's session say different things.
    #[error("C1: file {file} and the session of {client} disagree about the lease")]
    Holding {
        /// The file.
        file: FileId,
        /// The client.
        client: ClientId,
    },
    /// An epoch went back.
    #[error("C1: the epoch of file {file} went from {before} to {after}")]
    EpochBack {
        /// The file.
        file: FileId,
        /// Before.
        before: Epoch,
        /// After.
        after: Epoch,
    },
    /// The list of files being fenced is wrong.
    #[error("C2: file {file} is wrongly in, or missing from, the list of files being fenced")]
    FencingList {
        /// The file.
        file: FileId,
    },
    /// A fence waits for a chunk server that lapsed, or that is not known.
    #[error("C2: the fence of file {file} waits for {cs}, which lapsed")]
    FenceOnLapsed {
        /// The file.
        file: FileId,
        /// The chunk server.
        cs: CsId,
    },
    /// A chunk server owes a fence above the file's epoch, or for a file that is gone.
    #[error("C2: {cs} owes a fence that file {file} does not have")]
    WrongDebt {
        /// The chunk server.
        cs: CsId,
        /// The file.
        file: FileId,
    },
    /// A version went back.
    #[error("C7: the version of chunk {chunk} went from {before} to {after}")]
    VersionBack {
        /// The chunk.
        chunk: ChunkId,
        /// Before.
        before: Version,
        /// After.
        after: Version,
    },
    /// A chunk is in two places.
    #[error("C9: chunk {chunk} is in more than one place of the maps")]
    ChunkTwice {
        /// The chunk.
        chunk: ChunkId,
    },
    /// A replica is both in use and to be deleted.
    #[error("C9: the replica of chunk {chunk} on {cs} is in use and in the delete list")]
    DeletedInUse {
        /// The chunk.
        chunk: ChunkId,
        /// The chunk server.
        cs: CsId,
    },
    /// The list of chunks being created is wrong.
    #[error("C9: chunk {chunk} is wrongly in, or missing from, the list of chunks being created")]
    CreatingList {
        /// The chunk.
        chunk: ChunkId,
    },
    /// A chunk lies beyond the end of its file.
    #[error("file {file} has chunk {index} beyond its end")]
    BeyondEnd {
        /// The file.
        file: FileId,
        /// The chunk's index.
        index: u32,
    },
    /// A chunk has no members, or two on one host where there must not be.
    #[error("chunk {chunk} is placed wrongly: {what}")]
    Placement {
        /// The chunk.
        chunk: ChunkId,
        /// How.
        what: &'static str,
    },
    /// A count of chunks or replicas is wrong.
    #[error("{what} is {noted}, counted {counted}")]
    Count {
        /// Of what.
        what: String,
        /// As noted.
        noted: u64,
        /// As counted.
        counted: u64,
    },
    /// An id is above those handed out.
    #[error("C12: the id {id:#x} was never handed out")]
    IdNotMinted {
        /// The id.
        id: u64,
    },
    /// A directory and its entries disagree.
    #[error("the tree is broken at inode {id}: {what}")]
    Tree {
        /// The inode.
        id: FileId,
        /// How.
        what: &'static str,
    },
    /// What is noted of changes of member sets does not follow from the maps.
    #[error("C7: {0}")]
    Changes(&'static str),
    /// The table of clients or of chunk servers contradicts itself.
    #[error("C1/C10: {0}")]
    Table(&'static str),
}

use InvariantViolation as V;

impl State {
    /// Checks the whole state.
    ///
    /// # Errors
    /// The first rule that does not hold. It is a bug of this crate, or a snapshot that was damaged below its checksum.
    pub fn self_check(&self) -> Result<(), InvariantViolation> {
        self.clients.check().map_err(V::Table)?;
        self.servers.check().map_err(V::Table)?;
        self.check_tree()?;
        self.check_leases()?;
        self.check_fences()?;
        self.check_chunks()?;
        let entries =
            self.tree.files().flat_map(|(id, file)| file.chunks.iter().map(move |entry| (id, entry)));
        self.changes.agrees(entries).map_err(V::Changes)?;
        self.check_counts()
    }

    /// Checks that nothing went back since an earlier state of the same log.
    ///
    /// # Errors
    /// [`InvariantViolation::EpochBack`] or [`InvariantViolation::VersionBack`].
    pub fn check_progress(&self, earlier: &State) -> Result<(), InvariantViolation> {
        for (id, before) in earlier.tree.files() {
            let Ok(after) = self.tree.file(id) else { continue };
            let (from, to) = (before.lease.epoch(), after.lease.epoch());
            if to < from {
                return Err(V::EpochBack { file: id, before: from, after: to });
            }
            for old in before.chunks.iter() {
                let new = after.chunks.get(old.index()).filter(|new| new.id() == old.id());
                if let Some(new) = new.filter(|new| new.version() < old.version()) {
                    return Err(V::VersionBack {
                        chunk: old.id(),
                        before: old.version(),
                        after: new.version(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Names and entries agree, and everything hangs below the top directory.
    fn check_tree(&self) -> Result<(), InvariantViolation> {
        let (mut named, mut listed) = (0, 0);
        for (id, inode) in self.tree.iter() {
            let fail = |what| Err(V::Tree { id, what });
            if id.raw() >= FileId::new(self.cluster.generation, self.cluster.next_file).raw() {
                return Err(V::IdNotMinted { id: id.raw() });
            }
            let mut names = 0;
            for Place { parent, name } in self.tree.names_of(id) {
                names += 1;
                if self.tree.child(*parent, name) != Some(id) {
                    return fail("its directory does not list it");
                }
            }
            match &inode.body {
                Body::Dir(dir) => {
                    if names > 1 || names == 1 && id == self.tree.root() {
                        return fail("a directory has a name too many");
                    }
                    listed += dir.children.len();
                    let subdirs = dir.children.values().filter(|child| self.tree.dir(**child).is_some());
                    check_count("directories in a directory", dir.subdirs as usize, subdirs.count())?;
                }
                _ if self.tree.nlink(id) != names => return fail("its number of names is wrong"),
                _ => {}
            }
            named += names as usize;
            let needs_name = id != self.tree.root() && !self.tree.orphans().contains(&id);
            if needs_name != (names > 0) {
                return fail("it hangs nowhere, or is unlinked and has a name");
            }
        }
        // Each name is listed; so if there are as many, each entry leads to an inode that has that name. No directory has
        // two; so if all entries are below the top, there are no cycles beside it.
        check_count("entries of directories", listed, named)?;
        check_count("entries below the top directory", listed, self.tree.below(self.tree.root()).len())?;
        match self.tree.orphans().iter().find(|id| !self.is_in_hands(**id)) {
            Some(id) => Err(V::Tree { id: *id, what: "C9: unlinked, in nobody's hands, and still there" }),
            None => Ok(()),
        }
    }

    /// C1: one writer, and sessions that agree with the leases.
    fn check_leases(&self) -> Result<(), InvariantViolation> {
        let mut held: BTreeMap<(FileId, ClientId), LeaseMode> = BTreeMap::new();
        for (id, file) in self.tree.files() {
            file.lease.check().map_err(|what| V::Lease { file: id, what })?;
            if file.lease.epoch().generation() > self.cluster.generation {
                return Err(V::Lease { file: id, what: "an epoch of a later generation" });
            }
            for client in file.lease.holders() {
                let mode = file.lease.mode_of(*client).unwrap_or(LeaseMode::Shared);
                held.insert((id, *client), mode);
            }
        }
        for client in self.clients.iter() {
            for (file, mode) in client.leases() {
                if held.remove(&(file, client.id)) != Some(mode) {
                    return Err(V::Holding { file, client: client.id });
                }
            }
        }
        match held.into_keys().next() {
            Some((file, client)) => Err(V::Holding { file, client }),
            None => Ok(()),
        }
    }

    /// C2: fences wait for those, and only those, who can answer; the others owe the record.
    fn check_fences(&self) -> Result<(), InvariantViolation> {
        for (id, file) in self.tree.files() {
            let waiting = match file.lease.phase() {
                Phase::Fencing { waiting } => &**waiting,
                _ => &[],
            };
            if self.fencing.contains(&id) == waiting.is_empty() {
                return Err(V::FencingList { file: id });
            }
            let lapsed = |cs: &&CsId| self.servers.get(**cs).is_none_or(|server| server.is_lapsed());
            if let Some(cs) = waiting.iter().find(lapsed) {
                return Err(V::FenceOnLapsed { file: id, cs: *cs });
            }
        }
        let kept = self.tree.files().filter(|(_, file)| file.lease.reserved_for().is_some());
        if let Some(id) =
            kept.map(|(id, _)| id).collect::<BTreeSet<_>>().symmetric_difference(&self.kept).next()
        {
            return Err(V::Lease { file: *id, what: "kept for somebody and not listed, or the reverse" });
        }
        if let Some(gone) = self.fencing.iter().find(|id| self.tree.file(**id).is_err()) {
            return Err(V::FencingList { file: *gone });
        }
        for server in self.servers.iter() {
            for (file, epoch) in server.debts() {
                if self.tree.file(file).map_or(Epoch::ZERO, |file| file.lease.epoch()) < epoch {
                    return Err(V::WrongDebt { cs: server.id, file });
                }
            }
        }
        Ok(())
    }

    /// C9: every chunk belongs to one place, and what is being created is known.
    fn check_chunks(&self) -> Result<(), InvariantViolation> {
        let mut seen: BTreeSet<ChunkId> = BTreeSet::new();
        let mut creating = self.creating.clone();
        for (id, file) in self.tree.files() {
            for entry in file.chunks.iter() {
                let chunk = entry.id();
                if !seen.insert(chunk) {
                    return Err(V::ChunkTwice { chunk });
                }
                if chunk.raw() >= ChunkId::new(self.cluster.generation, self.cluster.next_chunk).raw() {
                    return Err(V::IdNotMinted { id: chunk.raw() });
                }
                if u64::from(entry.index()) >= file.chunk_span() {
                    return Err(V::BeyondEnd { file: id, index: entry.index() });
                }
                let noted = creating.remove(&chunk);
                if noted != (!entry.is_usable()).then_some((id, entry.index())) {
                    return Err(V::CreatingList { chunk });
                }
                self.check_members(entry)?;
            }
            let unreconciled = file.chunks.iter().filter(|entry| entry.is_unreconciled()).count();
            check_count("unreconciled chunks of a file", file.chunks.unreconciled(), unreconciled)?;
            check_count("chunks of a file", file.chunks.len(), file.chunks.iter().count())?;
        }
        match creating.into_keys().next() {
            Some(chunk) => Err(V::CreatingList { chunk }),
            None => Ok(()),
        }
    }

    fn check_members(&self, entry: &super::chunk::ChunkEntry) -> Result<(), InvariantViolation> {
        let chunk = entry.id();
        let fail = |what| Err(V::Placement { chunk, what });
        if entry.members().is_empty() {
            return fail("it has no members");
        }
        let mut servers = BTreeSet::new();
        let mut hosts = BTreeSet::new();
        if entry.members().is_any_forgetful() && !entry.is_unreconciled() {
            return fail("a member may lack what was acknowledged, and everything is reconciled");
        }
        let remembers = |member: &super::chunk::Member| {
            member.state == super::chunk::MemberState::Joining && !member.forgetful
        };
        if entry.members().iter().any(|member| remembers(&member))
            && entry.members().iter().any(|m| m.state == super::chunk::MemberState::InSync && m.forgetful)
        {
            return fail("a joiner counts for more than a member beside it");
        }
        for member in entry.members().iter() {
            if self.servers.get(member.cs).is_some_and(|server| server.state == CsState::Dropped) {
                return fail("a member is on a chunk server that was removed");
            }
            let Some(server) = self.servers.get(member.cs) else {
                return fail("a member is on an unknown server");
            };
            if !servers.insert(member.cs) {
                return fail("two members are on one chunk server");
            }
            if !hosts.insert(&server.host) && entry.is_on_distinct_hosts() {
                return fail("two members are on one host");
            }
            if self.deletions.get(chunk).is_some_and(|deletion| deletion.waiting.contains(&member.cs)) {
                return Err(V::DeletedInUse { chunk, cs: member.cs });
            }
        }
        if self.changes.adding(chunk).any(|cs| self.servers.get(cs).is_none()) {
            return fail("a replica is to be made on an unknown server");
        }
        let deleted =
            |cs: &CsId| self.deletions.get(chunk).is_some_and(|deletion| deletion.waiting.contains(cs));
        match self.changes.adding(chunk).find(deleted) {
            Some(cs) => Err(V::DeletedInUse { chunk, cs }),
            None => Ok(()),
        }
    }

    fn check_counts(&self) -> Result<(), InvariantViolation> {
        let mut replicas: BTreeMap<CsId, (usize, usize)> = BTreeMap::new();
        for entry in self.tree.files().flat_map(|(_, file): (_, &File)| file.chunks.iter()) {
            for member in entry.members().iter() {
                let counts = replicas.entry(member.cs).or_default();
                counts.0 += 1;
                counts.1 += usize::from(member.state == MemberState::Stale);
            }
        }
        for server in self.servers.iter() {
            let (all, stale) = replicas.remove(&server.id).unwrap_or_default();
            check_count("replicas of a chunk server", server.replicas as usize, all)?;
            check_count("stale replicas of a chunk server", server.stale_replicas as usize, stale)?;
        }
        Ok(())
    }
}

fn check_count(what: &str, noted: usize, counted: usize) -> Result<(), InvariantViolation> {
    if noted == counted {
        return Ok(());
    }
    Err(V::Count { what: what.to_owned(), noted: noted as u64, counted: counted as u64 })
}
