//! Reading the state: what commands of operators and requests of clients ask without changing anything.
//!
//! A reader that must see the latest state (C12) first makes sure, through the log, that this server has applied
//! everything that was committed before it asked; that is the business of the server around this module.

use super::attrs::{AttrSet, Attrs};
use super::chunk::{ChunkEntry, Deletion, Member, MemberState};
use super::clients::Client;
use super::command::{LeaseMode, NodeKind, Target};
use super::config::{Parameter, ParameterSpec};
use super::event::EventLog;
use super::health::{ChunkCounts, ChunkHealth, ClusterStatus, CsCounts};
use super::ids::{ChunkId, ClientId, CsId, Epoch, FileId, Secret, Version};
use super::inode::{Body, File, ms_of_ns};
use super::lease::Phase;
use super::name;
use super::namespace::parse_path;
use super::refusal::Refusal;
use super::servers::{ChunkServer, Standing};
use super::space::{Disk, Space, space};
use super::view::InodeView;
use super::{Cluster, Effect, Namespace, State};
use std::collections::{BTreeMap, BTreeSet};

/// What `stat` and `get-attr` show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its id.
    pub id: FileId,
    /// Its path; for unlinked files a text in brackets.
    pub path: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When its entries, size or attributes last changed.
    pub changed_ms: u64,
    /// Permission bits as in POSIX.
    pub mode: u32,
    /// What is in force: for a file its own, for a directory what a file created now would get.
    pub attrs: Attrs,
    /// What more there is to say.
    pub kind: StatKind,
}

/// The part of [`Stat`] that depends on the kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatKind {
    /// A directory.
    Dir {
        /// What was set on it.
        explicit: AttrSet,
        /// How many entries it has.
        entries: usize,
    },
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
        /// Chunks allocated.
        chunks: usize,
        /// Chunks to be reconciled (C5).
        unreconciled: usize,
        /// Where its lease stands.
        lease: Phase,
        /// The epoch of its lease.
        epoch: Epoch,
        /// It has no name any more and lives until its last lease ends.
        unlinked: bool,
    },
    /// Something that has no chunks: a symbolic link, or what kernels do the rest of.
    Other {
        /// What it is.
        inode: InodeView,
    },
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: FileId,
    /// What it is.
    pub kind: NodeKind,
    /// Its size in bytes; 0 for directories.
    pub size: u64,
    /// When it last changed, in milliseconds since 1970.
    pub changed_ms: u64,
}

/// A page of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Entries in the order of their names.
    pub entries: Vec<DirEntry>,
    /// There are more: ask again after the last name.
    pub more: bool,
}

/// A part of a file's map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMap {
    /// The file.
    pub id: FileId,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes per chunk.
    pub chunk_size: u64,
    /// The epoch of its lease.
    pub epoch: Epoch,
    /// Chunks by index. An index without a chunk reads as zeros.
    pub chunks: Vec<ChunkView>,
    /// There are more: ask again after the last index.
    pub more: bool,
}

/// A chunk in a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkView {
    /// Which chunk of the file.
    pub index: u32,
    /// Its id.
    pub chunk: ChunkId,
    /// Its version.
    pub version: Version,
    /// Its replicas.
    pub members: Vec<Member>,
    /// It is created everywhere and may be written.
    pub usable: bool,
    /// It must be reconciled before anything uses it (C5).
    pub unreconciled: bool,
    /// Its state, as the operator sees it.
    pub health: ChunkHealth,
}

/// A replica that a chunk server should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplicaView {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its version; of a deleted one the highest to delete.
    pub version: Version,
    /// The file it belongs, or belonged, to.
    pub file: FileId,
    /// What the replica is; `None` if it is in the delete list.
    pub state: Option<MemberState>,
}

/// A chunk and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkInState {
    /// The file it belongs to.
    pub file: FileId,
    /// The chunk.
    pub chunk: ChunkView,
}

/// The cluster at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its overall state.
    pub status: ClusterStatus,
    /// Chunk servers by state.
    pub servers: CsCounts,
    /// Space with the attributes of the top directory.
    pub space: Space,
    /// Space of each tier that has chunk servers.
    pub tiers: Vec<(u8, Space)>,
    /// The attributes of the top directory.
    pub attrs: Attrs,
    /// Chunks by state.
    pub chunks: ChunkCounts,
    /// Chunks in the delete list.
    pub deleting: usize,
    /// Replicas in all maps.
    pub replicas: u64,
    /// Directories.
    pub dirs: usize,
    /// Files, unlinked ones in use too.
    pub files: usize,
    /// Bytes of all files, holes included.
    pub file_bytes: u64,
}

/// A parameter and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its line in the table.
    pub spec: &'static ParameterSpec,
    /// The value in force.
    pub value: u64,
}

impl State {
    /// The cluster's identity; `None` before it is created.
    pub fn cluster(&self) -> Option<&Cluster> {
        (self.cluster.generation != 0).then_some(&self.cluster)
    }

    /// The tree of files.
    pub fn tree(&self) -> &Namespace {
        &self.tree
    }

    /// Describes a file or directory.
    ///
    /// # Errors
    /// [`Refusal`] if the path is none or leads nowhere.
    pub fn stat(&self, path: &str) -> Result<Stat, Refusal> {
        self.stat_id(self.tree.lookup(parse_path(path)?)?)
    }

    /// Describes a file or directory by its id.
    ///
    /// # Errors
    /// [`Refusal::UnknownFile`].
    pub fn stat_id(&self, id: FileId) -> Result<Stat, Refusal> {
        let inode = self.tree.inode(id).ok_or(Refusal::UnknownFile(id.raw()))?;
        let (attrs, kind) = match &inode.body {
            Body::Dir(dir) => {
                let kind = StatKind::Dir { explicit: dir.attrs, entries: dir.children.len() };
                (self.tree.attrs_in(id), kind)
            }
            Body::File(file) => (file.attrs, self.stat_file(id, file)),
            Body::Symlink(_) | Body::Special(_) => (
                self.tree.attrs_in(self.tree.parent_of(id)),
                StatKind::Other { inode: self.inode_view(id.raw())? },
            ),
        };
        Ok(Stat {
            id,
            path: self.tree.path_of(id),
            created_ms: ms_of_ns(inode.times.birth),
            changed_ms: ms_of_ns(inode.times.inode),
            mode: inode.mode,
            attrs,
            kind,
        })
    }

    fn stat_file(&self, id: FileId, file: &File) -> StatKind {
        StatKind::File {
            size: file.size,
            chunks: file.chunks.len(),
            unreconciled: file.chunks.unreconciled(),
            lease: file.lease.phase().clone(),
            epoch: file.lease.epoch(),
            unlinked: self.tree.orphans().contains(&id),
        }
    }

    /// Lists a directory, or names a file. At most `limit` entries after the name `after`.
    ///
    /// # Errors
    /// [`Refusal`] if the path is none or leads nowhere.
    pub fn list(&self, path: &str, after: Option<&str>, limit: usize) -> Result<Listing, Refusal> {
        use std::ops::Bound::{Excluded, Unbounded};
        let parsed = parse_path(path)?;
        let id = self.tree.lookup(parsed)?;
        let Some(dir) = self.tree.dir(id) else {
            let name = parsed.split_last().map_or("", |(_, name)| name);
            let named = self.dir_entry(name.as_bytes(), id);
            return Ok(Listing { entries: named.into_iter().collect(), more: false });
        };
        let after = after.map(|text| match name::from_shown(text) {
            Some(name) if !dir.children.contains_key(text.as_bytes()) => name,
            _ => text.as_bytes().to_vec(),
        });
        let rest = dir.children.range::<[u8], _>((after.as_deref().map_or(Unbounded, Excluded), Unbounded));
        let mut rest = rest.filter_map(|(name, id)| self.dir_entry(name, *id));
        let entries = rest.by_ref().take(limit).collect();
        Ok(Listing { entries, more: rest.next().is_some() })
    }

    fn dir_entry(&self, name: &[u8], id: FileId) -> Option<DirEntry> {
        let node = self.inode_view(id.raw()).ok()?;
        let size = if node.kind == NodeKind::Directory { 0 } else { node.size };
        let name = name::shown(name).into_owned();
        Some(DirEntry { name, id, kind: node.kind, size, changed_ms: ms_of_ns(node.times.inode) })
    }

    /// A part of a file's map: at most `limit` chunks from `first` on.
    ///
    /// # Errors
    /// [`Refusal::UnknownFile`].
    pub fn file_map(&self, id: FileId, first: u32, limit: usize) -> Result<FileMap, Refusal> {
        let file = self.tree.file(id)?;
        let mut rest = file.chunks.iter_from(first);
        let chunks = rest.by_ref().take(limit).map(|entry| self.view(file, entry)).collect();
        let more = rest.next().is_some();
        Ok(FileMap {
            id,
            size: file.size,
            chunk_size: file.attrs.chunk_size,
            epoch: file.lease.epoch(),
            chunks,
            more,
        })
    }

    /// Chunks of a file still to be reconciled, by index: at most `limit` from `first` on (C5).
    ///
    /// # Errors
    /// [`Refusal::UnknownFile`].
    pub fn unreconciled(&self, id: FileId, first: u32, limit: usize) -> Result<Vec<u32>, Refusal> {
        let suspect = self.tree.file(id)?.chunks.iter_from(first).filter(|entry| entry.is_unreconciled());
        Ok(suspect.map(ChunkEntry::index).take(limit).collect())
    }

    /// Whether an `Open` would be answered otherwise than `Held` or `Fencing`, so that it is worth an entry in the log.
    ///
    /// # Errors
    /// [`Refusal`] if there is no such file.
    pub fn may_grant(&self, client: ClientId, target: &Target, mode: LeaseMode) -> Result<bool, Refusal> {
        let file = self.tree.file(self.resolve(Some(target))?)?;
        let lease = file.lease();
        if lease.reserved_for().is_some_and(|owner| owner != client && self.clients.is_live(owner)) {
            return Ok(false);
        }
        Ok(match lease.phase() {
            // An unclean lease starts to be fenced by being asked for.
            Phase::Idle | Phase::Unclean | Phase::Fenced => true,
            Phase::Fencing { .. } => false,
            Phase::Exclusive { .. } => lease.mode_of(client) == Some(mode),
            Phase::Shared { .. } => {
                mode == LeaseMode::Shared
                    && (file.chunks.unreconciled() == 0 || lease.mode_of(client).is_some())
            }
        })
    }

    /// A chunk of a file by its id.
    ///
    /// # Errors
    /// [`Refusal::UnknownFile`] if the file is gone.
    pub fn find_chunk(&self, file: FileId, chunk: ChunkId) -> Result<Option<ChunkView>, Refusal> {
        let file = self.tree.file(file)?;
        Ok(file.chunks.iter().find(|entry| entry.id() == chunk).map(|e| self.view(file, e)))
    }

    /// The chunk servers by id.
    pub fn servers(&self) -> impl Iterator<Item = &ChunkServer> {
        self.servers.iter()
    }

    /// A chunk server.
    pub fn server(&self, id: CsId) -> Option<&ChunkServer> {
        self.servers.get(id)
    }

    /// The clients by id; those whose session expired too.
    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter()
    }

    /// A client.
    pub fn client(&self, id: ClientId) -> Option<&Client> {
        self.clients.get(id)
    }

    /// Checks the token of a client's session, as for a renewal.
    ///
    /// # Errors
    /// [`Refusal::NoSession`] or [`Refusal::WrongToken`].
    pub fn authenticate(&self, client: u32, token: Secret) -> Result<ClientId, Refusal> {
        self.clients.authenticate(client, token)
    }

    /// The value of a parameter.
    pub fn config(&self, parameter: Parameter) -> u64 {
        self.config.get(parameter)
    }

    /// All parameters with their values.
    pub fn settings(&self) -> impl Iterator<Item = Setting> {
        Parameter::ALL
            .iter()
            .map(|parameter| Setting { spec: parameter.spec(), value: self.config.get(*parameter) })
    }

    /// The events kept.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// The delete list.
    pub fn deletions(&self) -> impl Iterator<Item = (ChunkId, &Deletion)> {
        self.deletions.iter()
    }

    /// The deleted chunks that are in quarantine, with the stamp of their deletion: the leader times it, and then proposes
    /// `PurgeChunks`.
    pub fn quarantined(&self) -> impl Iterator<Item = (ChunkId, u64)> {
        let waiting = self.deletions.iter().filter(|(_, deletion)| !deletion.purging);
        waiting.map(|(chunk, deletion)| (chunk, deletion.since_ms))
    }

    /// Deleted chunks that need no quarantine: they are in no map, everybody who may have one serves, can be reached and is what it was,
    /// and nothing was restored since they were made. (What a backup could bring back is deleted late, C12; so is a replica of a chunk
    /// that lives.)
    pub fn purgeable(&self, is_reached: impl Fn(CsId) -> bool) -> Vec<ChunkId> {
        let is_well = |cs: &CsId| {
            let server = self.servers.get(*cs).filter(|server| server.serves() && is_reached(*cs));
            server.is_some_and(|server| !matches!(server.standing, Standing::Stale | Standing::Unverified))
        };
        let mut lives: BTreeMap<FileId, BTreeSet<ChunkId>> = BTreeMap::new();
        let mut is_live = |file: FileId, chunk: ChunkId| {
            let Ok(found) = self.tree.file(file) else { return false };
            let chunks =
                lives.entry(file).or_insert_with(|| found.chunks.iter().map(ChunkEntry::id).collect());
            chunks.contains(&chunk)
        };
        let waiting = self.deletions.iter().filter(|(chunk, deletion)| {
            !deletion.purging
                && deletion.file != FileId::ZERO
                && chunk.generation() == self.cluster.generation
                && deletion.waiting.iter().all(is_well)
                && !is_live(deletion.file, *chunk)
        });
        waiting.map(|(chunk, _)| chunk).collect()
    }

    /// Whether a chunk server is to create a chunk and has not said that it did.
    pub fn is_creating(&self, chunk: ChunkId, cs: CsId) -> bool {
        let place = self.creating.get(&chunk).and_then(|(file, index)| {
            self.tree.file(*file).ok()?.chunks.get(*index)?.members().on(cs).map(|member| member.state)
        });
        place == Some(MemberState::Creating)
    }

    /// The pending work of one chunk server.
    pub fn pending_for(&self, id: CsId) -> Vec<Effect> {
        let mut work = self.pending_work();
        work.retain(|effect| match effect {
            Effect::CreateChunks { cs, .. }
            | Effect::Fence { cs, .. }
            | Effect::DeleteChunks { cs, .. }
            | Effect::InstallVersions { cs, .. }
            | Effect::MakeReplicas { cs, .. }
            | Effect::CatchUp { cs, .. } => *cs == id,
            _ => false,
        });
        work
    }

    /// At most `limit` chunks in this state, with the file they belong to. Walks all chunks.
    pub fn chunks_in_state(&self, health: ChunkHealth, limit: usize) -> Vec<ChunkInState> {
        self.judged_chunks()
            .filter(|(_, _, judged)| *judged == health)
            .map(|(file, entry, health)| ChunkInState { file, chunk: view(entry, health) })
            .take(limit)
            .collect()
    }

    /// At most `limit` chunks with a stale replica on this chunk server (C10). Walks all chunks.
    pub fn stale_replicas(&self, id: CsId, limit: usize) -> Vec<ChunkInState> {
        self.judged_chunks()
            .filter(|(_, entry, _)| {
                entry.members().on(id).is_some_and(|member| member.state == MemberState::Stale)
            })
            .map(|(file, entry, health)| ChunkInState { file, chunk: view(entry, health) })
            .take(limit)
            .collect()
    }

    /// What a chunk server should hold, by chunk: to compare with what it says it holds (C9, C12). Walks all chunks.
    pub fn replicas_on(&self, id: CsId) -> Vec<ReplicaView> {
        let used = self.tree.files().flat_map(|(file, inode)| {
            inode.chunks.iter().filter_map(move |entry| {
                let state = Some(entry.members().on(id)?.state);
                Some(ReplicaView { chunk: entry.id(), version: entry.version(), file, state })
            })
        });
        let deleted = self.deletions.iter().filter(|(_, deletion)| deletion.waiting.contains(&id));
        let deleted = deleted.map(|(chunk, deletion)| ReplicaView {
            chunk,
            version: deletion.version,
            file: deletion.file,
            state: None,
        });
        let mut all: Vec<ReplicaView> = used.chain(deleted).collect();
        all.sort_unstable();
        all
    }

    /// Bytes that the chunks with a replica on a chunk server can have at most. Walks all chunks.
    pub fn bytes_on(&self, id: CsId) -> u64 {
        let bytes = |file: &File| {
            let chunks = file.chunks.iter().filter(|entry| entry.members().on(id).is_some()).count() as u64;
            chunks.saturating_mul(file.attrs.chunk_size)
        };
        self.tree.files().fold(0u64, |sum, (_, file)| sum.saturating_add(bytes(file)))
    }

    fn view(&self, file: &File, entry: &ChunkEntry) -> ChunkView {
        view(entry, self.health_of(file, entry))
    }

    fn health_of(&self, file: &File, entry: &ChunkEntry) -> ChunkHealth {
        let reach = |cs| self.servers.get(cs).map(|server| server.state);
        ChunkHealth::of(entry, file.attrs.replicas, reach, |cs| !self.can_do_without(entry, cs))
    }

    fn judged_chunks(&self) -> impl Iterator<Item = (FileId, &ChunkEntry, ChunkHealth)> {
        self.tree.files().flat_map(move |(id, file)| {
            let judged = move |entry| (id, entry, self.health_of(file, entry));
            file.chunks.iter().map(judged)
        })
    }

    /// Space with the attributes of the top directory. `free` says of a disk how many bytes are free, if somebody knows that better.
    pub fn space(&self, free: impl Fn(&ChunkServer) -> Option<u64>) -> Space {
        let disks: Vec<Disk<'_>> = self.servers.iter().map(|server| disk(server, &free)).collect();
        self.space_on(&disks, self.tree.attrs_in(self.tree.root()))
    }

    fn space_on(&self, disks: &[Disk<'_>], attrs: Attrs) -> Space {
        space(disks, attrs.replicas.normal, attrs.domain, self.config.get(Parameter::FillMargin))
    }

    /// How many chunk servers are in which state.
    pub fn summary_of_servers(&self) -> CsCounts {
        self.cs_counts()
    }

    /// The cluster at a glance. Walks all chunks.
    pub fn summary(&self) -> Summary {
        self.summary_with(|_| None)
    }

    /// As [`State::summary`], with `free` as in [`State::space`].
    pub fn summary_with(&self, free: impl Fn(&ChunkServer) -> Option<u64>) -> Summary {
        let attrs = self.tree.attrs_in(self.tree.root());
        let disks: Vec<Disk<'_>> = self.servers.iter().map(|server| disk(server, &free)).collect();
        let of = |disks: &[Disk<'_>]| self.space_on(disks, attrs);
        let mut tiers: Vec<u8> = disks.iter().map(|disk| disk.tier).collect();
        tiers.sort_unstable();
        tiers.dedup();
        let tier_space = |tier: u8| {
            let in_tier: Vec<_> = disks.iter().filter(|disk| disk.tier == tier).copied().collect();
            (tier, of(&in_tier))
        };
        let mut chunks = ChunkCounts::default();
        self.judged_chunks().for_each(|(_, _, health)| chunks.add(health));
        let files = self.tree.files().count();
        Summary {
            status: ClusterStatus::of(self.cs_counts(), self.config.get(Parameter::MaxOfflineCs)),
            servers: self.cs_counts(),
            space: of(&disks),
            tiers: tiers.into_iter().map(tier_space).collect(),
            attrs,
            chunks,
            deleting: self.deletions.len(),
            replicas: self.servers.iter().map(|server| server.replicas).sum(),
            dirs: self.tree.iter().filter(|(_, inode)| matches!(inode.body, Body::Dir(_))).count(),
            files,
            file_bytes: self.tree.files().fold(0, |sum, (_, file)| sum.saturating_add(file.size)),
        }
    }
}

fn view(entry: &ChunkEntry, health: ChunkHealth) -> ChunkView {
    ChunkView {
        index: entry.index(),
        chunk: entry.id(),
        version: entry.version(),
        members: entry.members().iter().collect(),
        usable: entry.is_usable(),
        unreconciled: entry.is_unreconciled(),
        health,
    }
}

fn disk(server: &ChunkServer, free: impl Fn(&ChunkServer) -> Option<u64>) -> Disk<'_> {
    Disk {
        cs: server.id,
        host: &server.host,
        tier: server.tier,
        total_bytes: server.total_bytes,
        free_bytes: free(server).unwrap_or(server.free_bytes),
    }
}
