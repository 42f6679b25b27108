//! Files and maps as clients see them.

use std::collections::BTreeSet;

use wire::inode::Inode;
use wire::lease::{ChunkMap, CsAddress, MapReply, Member, MemberState as WireState};
use wire::namespace::{FileInfo, FileKind, Holder};

use super::attributes;
use crate::state::chunk::{ChunkEntry, MemberState};
use crate::state::command::NodeKind;
use crate::state::lease::Phase;
use crate::state::query::{Stat, StatKind};
use crate::state::view::InodeView;
use crate::state::{ClientId, CsId, FileId, Refusal, State};

/// Positions of a file in one map, at most.
pub(crate) const POSITIONS_MAX: u64 = 1000;

/// A lease holder by name.
pub(crate) fn holder(state: &State, client: ClientId) -> Holder {
    let host_name = state.client(client).map(|client| client.host.clone()).unwrap_or_default();
    Holder { client_id: client.0.into(), host_name }
}

/// A file or directory.
pub(crate) fn file_info(state: &State, stat: Stat) -> FileInfo {
    let info = FileInfo {
        file_id: stat.id.raw(),
        chunk_size: stat.attrs.chunk_size,
        attrs: attributes::in_force(stat.attrs),
        created_ms: stat.created_ms,
        modified_ms: stat.changed_ms,
        path: stat.path,
        mode: stat.mode,
        ..FileInfo::default()
    };
    match stat.kind {
        StatKind::Other { inode } => {
            FileInfo { kind: kind(inode.kind).into(), size: inode.size, chunk_size: 0, ..info }
        }
        StatKind::Dir { .. } => FileInfo { kind: FileKind::Directory.into(), ..info },
        StatKind::File { size, chunks, lease, epoch, unlinked, .. } => {
            let (readers, writer) = match lease {
                Phase::Exclusive { holder: client } => (0, Some(holder(state, client))),
                Phase::Shared { readers, .. } => (readers.len() as u32, None),
                Phase::Idle | Phase::Unclean | Phase::Fencing { .. } | Phase::Fenced => (0, None),
            };
            FileInfo {
                kind: FileKind::File.into(),
                size,
                chunks: chunks as u64,
                allocated_bytes: (chunks as u64).saturating_mul(info.chunk_size),
                readers,
                writer,
                epoch: epoch.raw(),
                path: if unlinked { String::new() } else { info.path },
                ..info
            }
        }
    }
}

/// What an inode is.
pub(crate) fn kind(kind: NodeKind) -> FileKind {
    match kind {
        NodeKind::File => FileKind::File,
        NodeKind::Directory => FileKind::Directory,
        NodeKind::Symlink => FileKind::Symlink,
        NodeKind::Fifo => FileKind::Fifo,
        NodeKind::Socket => FileKind::Socket,
        NodeKind::CharDevice => FileKind::CharDevice,
        NodeKind::BlockDevice => FileKind::BlockDevice,
    }
}

/// An inode.
pub(crate) fn inode(node: &InodeView) -> Inode {
    Inode {
        id: node.id.raw(),
        generation: 0,
        kind: kind(node.kind).into(),
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        nlink: node.nlink,
        rdev: node.rdev,
        size: node.size,
        allocated_bytes: node.allocated_bytes,
        atime_ns: node.times.access,
        mtime_ns: node.times.data,
        ctime_ns: node.times.inode,
        btime_ns: node.times.birth,
        epoch: node.epoch.raw(),
        writer: node.writer.map_or(0, |client| client.0.into()),
        readers: u32::try_from(node.readers).unwrap_or(u32::MAX),
        chunk_size: node.chunk_size,
    }
}

/// Some positions of a file, at most [`POSITIONS_MAX`].
///
/// A position whose chunk is still being created counts as a hole: nothing was ever written there, and nobody may use the
/// chunk before all members hold it (C9).
pub(crate) fn map(state: &State, id: FileId, first: u64, count: u64) -> Result<MapReply, Refusal> {
    let file = state.tree().file(id)?;
    let end = first.saturating_add(count.min(POSITIONS_MAX)).min(file.chunk_span());
    let minimum = usize::from(file.attrs().replicas.minimum);
    let mut chunks = Vec::new();
    // A file has at most 2^32 chunks.
    if let Ok(from) = u32::try_from(first) {
        let entries = file.chunks().iter_from(from).take_while(|entry| u64::from(entry.index()) < end);
        chunks.extend(entries.filter(|entry| entry.is_usable()).map(|entry| chunk(state, entry, minimum)));
    }
    let asked_end = first.saturating_add(count).min(file.chunk_span());
    let next_index = if end < asked_end { end } else { 0 };
    Ok(MapReply { servers: servers_of(state, &chunks), chunks, next_index })
}

/// These positions of a file, whose chunks are there and usable; `None` if one is not.
pub(crate) fn usable(state: &State, id: FileId, indices: &[u32]) -> Result<Option<MapReply>, Refusal> {
    let file = state.tree().file(id)?;
    let minimum = usize::from(file.attrs().replicas.minimum);
    let mut chunks = Vec::with_capacity(indices.len());
    for index in indices {
        match file.chunks().get(*index).filter(|entry| entry.is_usable()) {
            Some(entry) => chunks.push(chunk(state, entry, minimum)),
            None => return Ok(None),
        }
    }
    Ok(Some(MapReply { servers: servers_of(state, &chunks), chunks, next_index: 0 }))
}

fn chunk(state: &State, entry: &ChunkEntry, minimum: usize) -> ChunkMap {
    rt::sim::rises("C7: the version in maps of chunk", entry.id().raw(), entry.version().raw());
    let heard_of = |cs: &CsId| state.server(*cs).is_some_and(|server| !server.is_lapsed());
    let member = |member: crate::state::chunk::Member| Member {
        cs_id: member.cs.0.into(),
        state: match member.state {
            MemberState::InSync => WireState::Member,
            MemberState::Joining => WireState::Joining,
            MemberState::Absent => WireState::Absent,
            MemberState::Stale | MemberState::Failed => WireState::Failed,
            MemberState::Creating => WireState::Unspecified,
        }
        .into(),
        // Replicas are numbered for the sake of their order only.
        slot: if entry.layout() == 0 { 0 } else { member.slot.into() },
    };
    ChunkMap {
        index: entry.index().into(),
        chunk_id: entry.id().raw(),
        version: entry.version().raw(),
        members: entry.members().iter().map(member).collect(),
        needs_reconcile: entry.is_unreconciled(),
        blocked: entry.in_sync().filter(heard_of).count() < minimum,
    }
}

/// Where the chunk servers of these chunks are.
fn servers_of(state: &State, chunks: &[ChunkMap]) -> Vec<CsAddress> {
    let members = chunks.iter().flat_map(|chunk| &chunk.members);
    addresses_of(state, members.filter_map(|member| u32::try_from(member.cs_id).ok()).map(CsId))
}

/// Where chunk servers are.
pub(crate) fn addresses_of(state: &State, servers: impl IntoIterator<Item = CsId>) -> Vec<CsAddress> {
    let ids: BTreeSet<CsId> = servers.into_iter().collect();
    let found = ids.into_iter().filter_map(|id| state.server(id));
    let shown = found.map(|server| CsAddress {
        cs_id: server.id.0.into(),
        addresses: server.addresses.clone(),
        boot_id: server.boot_id.0.to_vec(),
    });
    shown.collect()
}
