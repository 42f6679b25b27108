//! Snapshots: the state machine written down, so that the log before can go.
//!
//! A snapshot is written under a draft name, flushed, then renamed; so there is never a half one under its name.
//! The one before the newest is kept, and so is the log from there on: a snapshot that turns out to be damaged costs
//! nothing but time.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rt::buf::Buf;
use rt::fs::{self, File, OpenOptions};
use rt::sync::Notify;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::body;
use super::directory::Directory;
use super::entry::{LogId, Membership};
use super::failure::{OpenError, Strangeness, is_full};
use super::record::{BLOCK, crc};
use super::segment::{STEP, read};

const MAGIC: [u8; 8] = *b"vstorMDS";
const VERSION: u32 = 1;
const HEADER: usize = 128;
const PIECE_HEADER: usize = 16;
/// Bytes of the state in one piece.
const PIECE: usize = STEP - PIECE_HEADER;
/// How many snapshots are kept.
const KEPT: usize = 2;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    members_len: U32,
    uuid: [u8; 16],
    term: U64,
    node: U64,
    index: U64,
    commands: U64,
    state_len: U64,
    members_term: U64,
    members_node: U64,
    members_index: U64,
    has_members: U32,
    members_crc: U32,
    reserved: [u8; 20],
    crc: U32,
}

const _: () = assert!(size_of::<Raw>() == HEADER);

/// What a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry in it.
    pub last: LogId,
    /// How many commands have been applied, from the first one ever.
    pub commands: u64,
    /// The last entry that said who the members are, if one did.
    pub membership_id: Option<LogId>,
    /// What it said.
    pub membership: Membership,
    /// Bytes of the state.
    pub state_len: u64,
}

/// Why a snapshot could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk is full; nothing is lost, it may be tried again.
    #[error("no room for a snapshot of {bytes} bytes in {}; free some space", .dir.display())]
    Full {
        /// Where.
        dir: PathBuf,
        /// How much was wanted.
        bytes: u64,
    },
    /// The list of members does not fit into a snapshot's header.
    #[error("the addresses of the members are too long for a snapshot")]
    Members,
    /// The system said no.
    #[error("cannot write the snapshot {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// The snapshots of a directory. Clones share it.
#[derive(Clone, Debug)]
pub struct Snapshots(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    dir: Rc<Directory>,
    /// Oldest first.
    list: RefCell<Vec<SnapshotMeta>>,
    /// Damaged ones, to be removed when there is a new one.
    bad: RefCell<Vec<u64>>,
    /// No more will come.
    ended: Cell<bool>,
    changed: Notify,
}

/// The file of the snapshot whose last entry has this index.
fn path_of(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("snapshot-{index:020}"))
}

fn index_in(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("snapshot-")?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// What was found when the snapshots were opened.
#[derive(Debug)]
pub struct Loaded {
    /// The newest good snapshot, and its state.
    pub newest: Option<(SnapshotMeta, Vec<u8>)>,
    /// Newer ones that are not usable, and why.
    pub bad: Vec<OpenError>,
}

impl Snapshots {
    /// Opens the snapshots of a directory and loads the newest good one. Drafts and what is too old are removed.
    ///
    /// # Errors
    /// [`OpenError`], but not that a snapshot is damaged: then the one before is taken.
    pub async fn open(dir: Rc<Directory>) -> Result<(Self, Loaded), OpenError> {
        let names = fs::read_dir(dir.path()).await.map_err(OpenError::io("list", dir.path()))?;
        let mut indices = Vec::new();
        for entry in names.into_iter().filter(|entry| !entry.is_dir) {
            if let Some(index) = index_in(&entry.name) {
                indices.push(index);
            } else if entry.name.strip_suffix(".new").and_then(index_in).is_some() {
                let path = dir.path().join(entry.name);
                fs::remove_file(&path).await.map_err(OpenError::io("remove", &path))?;
            }
        }
        indices.sort_unstable();
        let mut loaded = Loaded { newest: None, bad: Vec::new() };
        let (mut list, mut bad) = (Vec::new(), Vec::new());
        for index in indices.into_iter().rev() {
            let path = path_of(dir.path(), index);
            if loaded.newest.is_some() {
                // Only its header is looked at: its state is wanted only when the newest turns out bad.
                match load_meta(&dir, &path, index).await {
                    Ok((_, meta)) => list.push(meta),
                    Err(_) => bad.push(index),
                }
                continue;
            }
            match load(&dir, &path, index).await {
                Ok((meta, state)) => {
                    list.push(meta.clone());
                    loaded.newest = Some((meta, state));
                }
                Err(error @ OpenError::Newer(_)) => return Err(error),
                Err(error) => {
                    loaded.bad.push(error);
                    bad.push(index);
                }
            }
        }
        list.reverse();
        // A kill may have come between a new snapshot and the removal of the oldest.
        let surplus = list.len().saturating_sub(KEPT);
        for meta in list.drain(..surplus) {
            let path = path_of(dir.path(), meta.last.index);
            fs::remove_file(&path).await.map_err(OpenError::io("remove", &path))?;
        }
        let (list, bad) = (RefCell::new(list), RefCell::new(bad));
        let shared = Shared { dir, list, bad, ended: Cell::new(false), changed: Notify::new() };
        Ok((Self(Rc::new(shared)), loaded))
    }

    /// The newest snapshot.
    #[must_use]
    pub fn newest(&self) -> Option<SnapshotMeta> {
        self.0.list.borrow().last().cloned()
    }

    /// The oldest snapshot that is kept: the log must reach back to it.
    #[must_use]
    pub fn oldest(&self) -> Option<SnapshotMeta> {
        self.0.list.borrow().first().cloned()
    }

    /// Waits until a snapshot holds the entry with this index; false if none will, because [`Snapshots::end`] was
    /// called.
    pub async fn wait_for(&self, index: u64) -> bool {
        loop {
            let changed = self.0.changed.notified();
            if self.newest().is_some_and(|meta| meta.last.index >= index) {
                return true;
            }
            if self.0.ended.get() {
                return false;
            }
            changed.await;
        }
    }

    /// Lets nobody wait for a snapshot any more.
    pub fn end(&self) {
        self.0.ended.set(true);
        self.0.changed.notify_all();
    }

    /// Reads the state of a snapshot.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn load(&self, index: u64) -> Result<(SnapshotMeta, Vec<u8>), OpenError> {
        let dir = &self.0.dir;
        load(dir, &path_of(dir.path(), index), index).await
    }

    /// Writes a snapshot; it is durable when this returns, and those before the one before are gone.
    ///
    /// # Errors
    /// [`SnapshotError`]; the snapshots there were stay.
    pub async fn write(&self, meta: SnapshotMeta, state: &[u8]) -> Result<(), SnapshotError> {
        let dir = &self.0.dir;
        let path = path_of(dir.path(), meta.last.index);
        let draft = path.with_extension("new");
        let meta = SnapshotMeta { state_len: state.len() as u64, ..meta };
        let header = encode_header(&meta, dir.identity().uuid)?;
        if let Err(source) = write_file(&draft, &header, state).await {
            let _gone = fs::remove_file(&draft).await;
            return Err(if is_full(&source) {
                SnapshotError::Full { dir: dir.path().to_owned(), bytes: meta.state_len }
            } else {
                SnapshotError::Io { path: draft, source }
            });
        }
        let named = async {
            fs::rename(&draft, &path).await?;
            fs::sync_dir(dir.path()).await
        };
        named.await.map_err(|source| SnapshotError::Io { path: path.clone(), source })?;
        rt::sim::hit("mds.snapshot-written");
        self.admit(meta).await
    }

    /// Takes a written snapshot into the list and removes what is too old.
    async fn admit(&self, meta: SnapshotMeta) -> Result<(), SnapshotError> {
        let old: Vec<u64> = {
            let mut list = self.0.list.borrow_mut();
            list.retain(|other| other.last.index < meta.last.index);
            let mut old = std::mem::take(&mut *self.0.bad.borrow_mut());
            old.retain(|index| *index != meta.last.index);
            list.push(meta);
            let surplus = list.len().saturating_sub(KEPT);
            old.extend(list.drain(..surplus).map(|meta| meta.last.index));
            old
        };
        self.0.changed.notify_all();
        for index in old {
            let path = path_of(self.0.dir.path(), index);
            match fs::remove_file(&path).await {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(SnapshotError::Io { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

pub(super) fn encode_header(meta: &SnapshotMeta, uuid: [u8; 16]) -> Result<Vec<u8>, SnapshotError> {
    let mut members = Vec::new();
    body::encode_membership(&meta.membership, &mut members);
    if HEADER + members.len() > BLOCK {
        return Err(SnapshotError::Members);
    }
    let said_by = meta.membership_id.unwrap_or_default();
    let mut raw = Raw {
        magic: MAGIC,
        version: VERSION.into(),
        members_len: (members.len() as u32).into(),
        uuid,
        term: meta.last.term.into(),
        node: meta.last.node.into(),
        index: meta.last.index.into(),
        commands: meta.commands.into(),
        state_len: meta.state_len.into(),
        members_term: said_by.term.into(),
        members_node: said_by.node.into(),
        members_index: said_by.index.into(),
        has_members: u32::from(meta.membership_id.is_some()).into(),
        members_crc: crc(&members).into(),
        reserved: [0; 20],
        crc: 0.into(),
    };
    raw.crc = crc(&raw.as_bytes()[..HEADER - 4]).into();
    let mut block = raw.as_bytes().to_vec();
    block.extend_from_slice(&members);
    block.resize(BLOCK, 0);
    Ok(block)
}

pub(super) fn decode_header(
    block: &[u8],
    path: &Path,
    uuid: [u8; 16],
    index: u64,
) -> Result<SnapshotMeta, OpenError> {
    let strange = |what| OpenError::strange(path, what);
    let (raw, rest) = Raw::read_from_prefix(block).map_err(|_| strange(Strangeness::Short))?;
    if raw.magic != MAGIC {
        return Err(strange(Strangeness::Magic));
    }
    if raw.crc.get() != crc(&raw.as_bytes()[..HEADER - 4]) {
        return Err(strange(Strangeness::Crc));
    }
    if raw.version.get() != VERSION {
        return Err(OpenError::Newer(path.to_owned()));
    }
    if raw.uuid != uuid {
        return Err(strange(Strangeness::Foreign));
    }
    if raw.index.get() != index {
        return Err(strange(Strangeness::Name));
    }
    let members = rest.get(..raw.members_len.get() as usize).ok_or(strange(Strangeness::Short))?;
    if raw.members_crc.get() != crc(members) {
        return Err(strange(Strangeness::Crc));
    }
    let membership = body::decode_membership(members).map_err(|_| OpenError::Newer(path.to_owned()))?;
    let said_by =
        LogId { term: raw.members_term.get(), node: raw.members_node.get(), index: raw.members_index.get() };
    Ok(SnapshotMeta {
        last: LogId { term: raw.term.get(), node: raw.node.get(), index },
        commands: raw.commands.get(),
        membership_id: (raw.has_members.get() != 0).then_some(said_by),
        membership,
        state_len: raw.state_len.get(),
    })
}

/// A piece of the state, as it is stored.
pub(super) fn encode_piece(number: u32, part: &[u8]) -> Buf {
    let mut piece = Buf::zeroed((PIECE_HEADER + part.len()).next_multiple_of(BLOCK));
    piece[4..8].copy_from_slice(&number.to_le_bytes());
    piece[8..12].copy_from_slice(&(part.len() as u32).to_le_bytes());
    piece[PIECE_HEADER..PIECE_HEADER + part.len()].copy_from_slice(part);
    let sum = crc(&piece[4..PIECE_HEADER + part.len()]);
    piece[..4].copy_from_slice(&sum.to_le_bytes());
    piece
}

async fn write_file(path: &Path, header: &[u8], state: &[u8]) -> io::Result<()> {
    match fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = File::open(path, OpenOptions::direct().create_new()).await?;
    file.write_all_at(Buf::copy_of(header).freeze(), 0).await?;
    let mut at = BLOCK as u64;
    for (number, part) in state.chunks(PIECE).enumerate() {
        let piece = encode_piece(number as u32, part);
        let len = piece.len() as u64;
        file.write_all_at(piece.freeze(), at).await?;
        at += len;
    }
    file.sync_all().await
}

async fn load_meta(dir: &Directory, path: &Path, index: u64) -> Result<(File, SnapshotMeta), OpenError> {
    let options = OpenOptions { direct: true, ..OpenOptions::read() };
    let file = File::open(path, options).await.map_err(OpenError::io("open", path))?;
    let len = file.len().await.map_err(OpenError::io("measure", path))?;
    if len < BLOCK as u64 {
        return Err(OpenError::strange(path, Strangeness::Short));
    }
    let block = read(&file, 0, BLOCK).await.map_err(OpenError::io("read", path))?;
    let meta = decode_header(&block, path, dir.identity().uuid, index)?;
    let pieces = meta.state_len.div_ceil(PIECE as u64);
    if len < BLOCK as u64 + meta.state_len + pieces * PIECE_HEADER as u64 {
        return Err(OpenError::strange(path, Strangeness::Short));
    }
    Ok((file, meta))
}

async fn load(dir: &Directory, path: &Path, index: u64) -> Result<(SnapshotMeta, Vec<u8>), OpenError> {
    let (file, meta) = load_meta(dir, path, index).await?;
    let total = usize::try_from(meta.state_len).map_err(|_| OpenError::strange(path, Strangeness::Crc))?;
    let (mut state, mut at) = (Vec::with_capacity(total), BLOCK as u64);
    for number in 0..total.div_ceil(PIECE) {
        let wanted = (total - state.len()).min(PIECE);
        let len = (PIECE_HEADER + wanted).next_multiple_of(BLOCK);
        let piece = read(&file, at, len).await.map_err(OpenError::io("read", path))?;
        let mut head = [0; 8];
        head[..4].copy_from_slice(&(number as u32).to_le_bytes());
        head[4..].copy_from_slice(&(wanted as u32).to_le_bytes());
        let sum = crc(&piece[4..PIECE_HEADER + wanted]).to_le_bytes();
        if piece[..4] != sum || piece[4..12] != head[..] {
            return Err(OpenError::strange(path, Strangeness::Crc));
        }
        state.extend_from_slice(&piece[PIECE_HEADER..PIECE_HEADER + wanted]);
        at += len as u64;
    }
    Ok((meta, state))
}
