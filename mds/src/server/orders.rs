//! Orders to one chunk server, over the connection that it made: create, fence, delete, install versions, fill joiners.
//!
//! Each kind has a lane of its own, so that a long list of deletions does not delay a fence. A lane sends one batch at a
//! time, and logs what the chunk server says it did. What is not answered is sent again; when the connection ends, its
//! lanes do, and the next registration begins with what the state says is still to be done.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use link::{AskError, CallError, Connection};
use rt::sync::Notify;
use rt::time::Instant;
use rt::{First, first};
use wire::Status;
use wire::cs::{
    CatchUp, CatchUpItem, CreateChunks, CreateItem, DeleteChunks, DeleteItem, Fence, FenceItem, InstallItem,
    InstallVersions, ItemResult, Role,
};

use super::reign::Reign;
use super::shown;
use crate::state::command::{
    ChunkCreated, ChunkVersion, ChunksPurged, CommandOp, DropMember, FenceRecord, FencesRecorded,
    RemoveReplicas, VersionsInstalled,
};
use crate::state::{
    ChunkId, CopyOrder, CsId, Effect, Epoch, FileId, InstallOrder, NewChunk, NewReplica, Version,
};

/// How long a chunk server has to answer a batch.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Pause before something is sent again that failed.
const PAUSE: Duration = Duration::from_secs(2);
/// Chunks in one batch of creations or deletions.
const CHUNKS_MAX: usize = 256;
/// Fences in one batch.
pub(super) const FENCES_MAX: usize = 1024;

/// Items of one kind that wait to be sent, by what they are about.
#[derive(Debug)]
struct Lane<K, V> {
    /// With the moment before which the item is not sent.
    todo: RefCell<BTreeMap<K, (V, Instant)>>,
    more: Notify,
}

impl<K, V> Default for Lane<K, V> {
    fn default() -> Self {
        Self { todo: RefCell::default(), more: Notify::new() }
    }
}

impl<K: Copy + Ord, V: Copy + PartialEq> Lane<K, V> {
    fn add(&self, key: K, value: V, now: Instant) {
        self.todo.borrow_mut().insert(key, (value, now));
        self.more.notify_one();
    }

    /// What can be sent now, at most `max`; else when to look again.
    fn ready(&self, max: usize, now: Instant) -> Result<Vec<(K, V)>, Option<Instant>> {
        let todo = self.todo.borrow();
        let ready = todo.iter().filter(|(_, (_, from))| *from <= now).map(|(key, (value, _))| (*key, *value));
        let batch: Vec<_> = ready.take(max).collect();
        if batch.is_empty() { Err(todo.values().map(|(_, from)| *from).min()) } else { Ok(batch) }
    }

    /// The next batch, waiting for it.
    async fn next(&self, max: usize) -> Vec<(K, V)> {
        loop {
            let more = self.more.notified();
            match self.ready(max, rt::time::now()) {
                Ok(batch) => return batch,
                Err(Some(at)) => {
                    let _more = rt::time::timeout_at(at, more).await;
                }
                Err(None) => more.await,
            }
        }
    }

    /// An item is done, unless it has become another one since.
    fn done(&self, key: K, value: V) {
        let mut todo = self.todo.borrow_mut();
        if todo.get(&key).is_some_and(|(now, _)| *now == value) {
            todo.remove(&key);
        }
    }

    fn put_off(&self, key: K, until: Instant) {
        if let Some((_, from)) = self.todo.borrow_mut().get_mut(&key) {
            *from = until;
        }
    }

    fn hurry(&self, now: Instant) {
        self.todo.borrow_mut().values_mut().for_each(|(_, from)| *from = (*from).min(now));
        self.more.notify_one();
    }
}

/// A registered chunk server that is connected.
#[derive(Debug)]
pub(crate) struct CsLink {
    cs: CsId,
    /// Its registration.
    pub(super) session: u64,
    pub(super) connection: Connection,
    /// It has shown that the registration is on its disk: it renewed it.
    adopted: Cell<bool>,
    adoption: Notify,
    creates: Lane<ChunkId, CreateItem>,
    fences: Lane<FileId, Epoch>,
    deletes: Lane<ChunkId, Version>,
    installs: Lane<ChunkId, InstallOrder>,
    copies: Lane<ChunkId, CopyOrder>,
}

/// Why a batch was not carried out as a whole.
enum Undone {
    /// The connection is of no use any more.
    Cut,
    /// No answer, or a refusal: try again.
    Again,
}

impl CsLink {
    pub(super) fn new(cs: CsId, session: u64, connection: Connection) -> Rc<Self> {
        Rc::new(Self {
            cs,
            session,
            connection,
            adopted: Cell::new(false),
            adoption: Notify::new(),
            creates: Lane::default(),
            fences: Lane::default(),
            deletes: Lane::default(),
            installs: Lane::default(),
            copies: Lane::default(),
        })
    }

    // What is to be done. None of these waits.

    pub(super) fn create(&self, reign: &Reign, file: FileId, chunks: &[NewChunk]) {
        let Some((epoch, size_bytes)) = reign.read(|state| {
            let file = state.tree().file(file).ok()?;
            Some((file.lease().epoch().raw(), file.attrs().chunk_size))
        }) else {
            return;
        };
        let now = rt::time::now();
        for chunk in chunks {
            let item = CreateItem {
                chunk_id: chunk.chunk.raw(),
                version: chunk.version.raw(),
                file_id: file.raw(),
                size_bytes,
                layout: chunk.layout.into(),
                // Replicas are numbered for the sake of their order only.
                slot: if chunk.layout == 0 { 0 } else { chunk.slot.into() },
                epoch,
                joining: false,
            };
            self.creates.add(chunk.chunk, item, now);
        }
    }

    /// Has replicas made that join when they are there.
    pub(super) fn make(&self, chunks: &[NewReplica]) {
        let now = rt::time::now();
        for new in chunks {
            let item = CreateItem {
                chunk_id: new.chunk.raw(),
                version: new.version.raw(),
                file_id: new.file.raw(),
                size_bytes: new.chunk_size,
                layout: new.layout.into(),
                slot: 0,
                epoch: new.epoch.raw(),
                joining: true,
            };
            self.creates.add(new.chunk, item, now);
        }
    }

    pub(super) fn fence(&self, file: FileId, epoch: Epoch) {
        self.fences.add(file, epoch, rt::time::now());
    }

    pub(super) fn delete(&self, chunks: &[(ChunkId, Version)]) {
        let now = rt::time::now();
        chunks.iter().for_each(|(chunk, version)| self.deletes.add(*chunk, *version, now));
    }

    pub(super) fn install(&self, chunks: &[InstallOrder]) {
        let now = rt::time::now();
        chunks.iter().for_each(|order| self.installs.add(order.chunk, *order, now));
    }

    pub(super) fn catch_up(&self, chunks: &[CopyOrder]) {
        let now = rt::time::now();
        chunks.iter().for_each(|order| self.copies.add(order.chunk, *order, now));
    }

    /// A joiner could not be filled: it is tried again later, perhaps from others.
    pub(super) fn catch_up_later(&self, order: CopyOrder, pause: Duration) {
        self.copies.add(order.chunk, order, rt::time::now() + pause);
    }

    /// Takes up what the state says is to be done on this chunk server, but for fences it has been told with its
    /// registration.
    pub(super) fn resume(&self, reign: &Reign, told: &[FenceRecord]) {
        for effect in reign.read(|state| state.pending_for(self.cs)) {
            match effect {
                Effect::CreateChunks { file, chunks, .. } => self.create(reign, file, &chunks),
                Effect::MakeReplicas { chunks, .. } => self.make(&chunks),
                Effect::Fence { file, epoch, .. } => {
                    let record = FenceRecord { file: file.raw(), epoch: epoch.raw() };
                    if !told.contains(&record) {
                        self.fence(file, epoch);
                    }
                }
                Effect::DeleteChunks { chunks, .. } => self.delete(&chunks),
                Effect::InstallVersions { chunks, .. } => self.install(&chunks),
                Effect::CatchUp { chunks, .. } => self.catch_up(&chunks),
                _ => {}
            }
        }
    }

    /// Sends at once what was put off.
    pub(super) fn hurry(&self) {
        let now = rt::time::now();
        self.creates.hurry(now);
        self.fences.hurry(now);
        self.deletes.hurry(now);
        self.installs.hurry(now);
        self.copies.hurry(now);
    }

    /// The chunk server renewed its registration for the first time.
    pub(super) fn adopt(&self) {
        if !self.adopted.replace(true) {
            self.adoption.notify_all();
        }
    }

    async fn adopted(&self) {
        loop {
            let adoption = self.adoption.notified();
            if self.adopted.get() {
                return;
            }
            adoption.await;
        }
    }

    // Doing it.

    /// Carries out orders until the connection or the reign ends.
    pub(super) async fn work(self: Rc<Self>, reign: Rc<Reign>, told: Vec<FenceRecord>, untold: usize) {
        let closed = self.connection.closed();
        let lanes = [
            rt::spawn(Rc::clone(&self).complete(Rc::clone(&reign), told, untold)),
            rt::spawn(Rc::clone(&self).create_all(Rc::clone(&reign))),
            rt::spawn(Rc::clone(&self).fence_all(Rc::clone(&reign))),
            rt::spawn(Rc::clone(&self).delete_all(Rc::clone(&reign))),
            rt::spawn(Rc::clone(&self).install_all(Rc::clone(&reign))),
            rt::spawn(Rc::clone(&self).copy_all(Rc::clone(&reign))),
        ];
        let reason = closed.await;
        tracing::debug!("{} is not connected any more: {reason}", self.cs);
        lanes.iter().for_each(rt::JoinHandle::abort);
        reign.servers.borrow_mut().unlink(self.cs, self.session);
    }

    /// Confirms the registration once the chunk server has recorded all fences (C2). The first of them went with the
    /// answer to the registration, the last `untold` follow here.
    async fn complete(self: Rc<Self>, reign: Rc<Reign>, fences: Vec<FenceRecord>, untold: usize) {
        // The first renewal shows that the new nonce is on its disk, and that what the answer told is recorded. Confirmed
        // earlier, a crash would leave it with a nonce that counts as an old one (C10).
        self.adopted().await;
        let told = fences.len() - untold;
        let mut rest = fences[told..].chunks(FENCES_MAX).peekable();
        while let Some(batch) = rest.next() {
            let items: Vec<_> = batch
                .iter()
                .map(|fence| (FileId::from_raw(fence.file), Epoch::from_raw(fence.epoch)))
                .collect();
            loop {
                match self.send_fences(&items, rest.peek().is_none()).await {
                    // As many as were sent: `send` has seen to it.
                    Ok(results) if results.iter().all(is_ok) => break,
                    Err(Undone::Cut) => return,
                    Ok(_) | Err(Undone::Again) => rt::time::sleep(PAUSE).await,
                }
            }
        }
        let batches: Vec<&[FenceRecord]> =
            if fences.is_empty() { vec![&[]] } else { fences.chunks(FENCES_MAX).collect() };
        for batch in batches {
            if !self.note_fences(&reign, batch.to_vec()).await {
                return;
            }
        }
    }

    async fn create_all(self: Rc<Self>, reign: Rc<Reign>) {
        loop {
            let mut batch = self.creates.next(CHUNKS_MAX).await;
            // Refused, and created elsewhere or deleted since: made now, it would be a replica that nobody knows (C9).
            for (chunk, item) in batch.extract_if(.., |(chunk, _)| !self.is_wanted(&reign, *chunk)) {
                self.creates.done(chunk, item);
            }
            if batch.is_empty() {
                continue;
            }
            let items = batch.iter().map(|(_, item)| *item).collect();
            let ids = batch.iter().map(|(chunk, _)| chunk.raw());
            let results = match self.send(&CreateChunks { items }, ids).await {
                Ok(results) => results,
                Err(undone) => match self.later(undone, &self.creates, &batch).await {
                    true => continue,
                    false => return,
                },
            };
            let now = rt::time::now();
            let mut created = Vec::new();
            for ((chunk, item), result) in batch.iter().zip(&results) {
                if is_ok(result) {
                    created.push(*chunk);
                    self.creates.done(*chunk, *item);
                } else {
                    tracing::warn!(
                        "{} refuses to create chunk {:#x}: {}",
                        self.cs,
                        chunk.raw(),
                        status_of(result)
                    );
                    self.creates.put_off(*chunk, now + PAUSE);
                    if item.joining {
                        self.creates.done(*chunk, *item);
                        rt::spawn(Rc::clone(&reign).replica_is_refused(self.cs, *chunk));
                    } else {
                        reign.creations.refused(*chunk, self.cs, now);
                    }
                }
            }
            if created.is_empty() {
                continue;
            }
            let chunks = created.iter().map(|chunk| chunk.raw()).collect();
            let op = CommandOp::ChunkCreated(ChunkCreated { cs: self.cs.0, session: self.session, chunks });
            let Some(answer) = reign.insist(op).await else { return };
            if let Err(refusal) = answer {
                tracing::warn!("{}: {refusal}", self.cs);
                return self.give_up();
            }
            created.into_iter().for_each(|chunk| reign.creations.done(chunk, self.cs));
        }
    }

    fn is_wanted(&self, reign: &Reign, chunk: ChunkId) -> bool {
        reign.read(|state| state.is_creating(chunk, self.cs) || state.is_adding(chunk, self.cs))
    }

    async fn fence_all(self: Rc<Self>, reign: Rc<Reign>) {
        loop {
            let batch = self.fences.next(FENCES_MAX).await;
            let results = match self.send_fences(&batch, false).await {
                Ok(results) => results,
                Err(undone) => match self.later(undone, &self.fences, &batch).await {
                    true => continue,
                    false => return,
                },
            };
            let mut recorded = Vec::new();
            for ((file, epoch), result) in batch.iter().zip(&results) {
                if is_ok(result) {
                    recorded.push(FenceRecord { file: file.raw(), epoch: epoch.raw() });
                    self.fences.done(*file, *epoch);
                } else {
                    tracing::warn!(
                        "{} does not fence file {:#x}: {}",
                        self.cs,
                        file.raw(),
                        status_of(result)
                    );
                    self.fences.put_off(*file, rt::time::now() + PAUSE);
                }
            }
            // Not before the registration itself is known to be on its disk: this would confirm it.
            self.adopted().await;
            if !recorded.is_empty() && !self.note_fences(&reign, recorded).await {
                return;
            }
        }
    }

    async fn delete_all(self: Rc<Self>, reign: Rc<Reign>) {
        loop {
            let batch = self.deletes.next(CHUNKS_MAX).await;
            let item = |(chunk, version): &(ChunkId, Version)| DeleteItem {
                chunk_id: chunk.raw(),
                version: version.raw(),
            };
            let items = batch.iter().map(item).collect();
            let ids = batch.iter().map(|(chunk, _)| chunk.raw());
            let results = match self.send(&DeleteChunks { items }, ids).await {
                Ok(results) => results,
                Err(undone) => match self.later(undone, &self.deletes, &batch).await {
                    true => continue,
                    false => return,
                },
            };
            let mut chunks = Vec::new();
            for ((chunk, version), result) in batch.iter().zip(&results) {
                if is_ok(result) {
                    chunks.push(chunk.raw());
                    self.deletes.done(*chunk, *version);
                } else {
                    tracing::warn!(
                        "{} does not delete chunk {:#x}: {}",
                        self.cs,
                        chunk.raw(),
                        status_of(result)
                    );
                    self.deletes.put_off(*chunk, rt::time::now() + PAUSE);
                }
            }
            if chunks.is_empty() {
                continue;
            }
            let op = CommandOp::ChunksPurged(ChunksPurged { cs: self.cs.0, session: self.session, chunks });
            match reign.insist(op).await {
                Some(Ok(_)) => {}
                Some(Err(refusal)) => {
                    tracing::warn!("{}: {refusal}", self.cs);
                    return self.give_up();
                }
                None => return,
            }
        }
    }

    async fn install_all(self: Rc<Self>, reign: Rc<Reign>) {
        loop {
            let mut batch = self.installs.next(CHUNKS_MAX).await;
            // Its replica has left meanwhile, the file is deleted, or a later version has taken the place.
            for (chunk, order) in
                batch.extract_if(.., |(_, order)| !reign.read(|state| state.is_install_due(self.cs, order)))
            {
                self.installs.done(chunk, order);
            }
            if batch.is_empty() {
                continue;
            }
            let item = |(chunk, order): &(ChunkId, InstallOrder)| InstallItem {
                chunk_id: chunk.raw(),
                from_version: order.from.raw(),
                to_version: order.to.raw(),
                role: if order.joins { Role::Joiner } else { Role::Member }.into(),
                keep: order.keep,
            };
            let items = batch.iter().map(item).collect();
            let ids = batch.iter().map(|(chunk, _)| chunk.raw());
            let results = match self.send(&InstallVersions { items }, ids).await {
                Ok(results) => results,
                Err(undone) => match self.later(undone, &self.installs, &batch).await {
                    true => continue,
                    false => return,
                },
            };
            let mut chunks = Vec::new();
            for ((chunk, order), result) in batch.iter().zip(&results) {
                if is_ok(result) {
                    chunks.push(ChunkVersion {
                        chunk: chunk.raw(),
                        version: order.to.raw(),
                        copied_bytes: 0,
                        lost_blocks: 0,
                    });
                    self.installs.done(*chunk, *order);
                    continue;
                }
                let status = status_of(result);
                tracing::warn!("{} does not install {:?}: {status}", self.cs, order);
                self.installs.put_off(*chunk, rt::time::now() + PAUSE);
                if status == Status::UnknownChunk {
                    rt::spawn(Rc::clone(&reign).replica_is_lost(self.cs, *chunk, *order));
                } else if order.joins && status == Status::NoSpace {
                    let reign = Rc::clone(&reign);
                    rt::spawn(reign.joiner_has_no_room(self.cs, self.session, *chunk, order.to));
                } else if let Some(joiner) =
                    reign.read(|state| state.joiner(self.cs, *chunk)).filter(|copy| copy.version == order.to)
                {
                    reign.joiner_failed(self.cs, self.session, joiner, status);
                }
            }
            // Not before the registration itself is known to be on its disk.
            self.adopted().await;
            if chunks.is_empty() {
                continue;
            }
            let installed: Vec<u64> = chunks.iter().map(|done| done.chunk).collect();
            let op = CommandOp::VersionsInstalled(VersionsInstalled {
                cs: self.cs.0,
                session: self.session,
                chunks,
            });
            match reign.insist(op).await {
                Some(Ok(_)) => {
                    installed.into_iter().map(ChunkId::from_raw).for_each(|chunk| reign.repair_again(chunk))
                }
                Some(Err(refusal)) => {
                    tracing::warn!("{}: {refusal}", self.cs);
                    return self.give_up();
                }
                None => return,
            }
        }
    }

    async fn copy_all(self: Rc<Self>, reign: Rc<Reign>) {
        loop {
            let mut batch = self.copies.next(CHUNKS_MAX).await;
            let mut items = Vec::with_capacity(batch.len());
            let mut addresses = Vec::new();
            batch.retain(|(chunk, order)| {
                let sources = reign.read(|state| state.copy_sources(self.cs, order));
                if sources.is_empty() {
                    // A member that has lapsed comes back without a word about this chunk.
                    if reign.read(|state| state.joiner(self.cs, *chunk)) == Some(*order) {
                        self.copies.put_off(*chunk, rt::time::now() + PAUSE);
                    } else {
                        self.copies.done(*chunk, *order);
                    }
                    return false;
                }
                addresses.extend(sources.iter().copied());
                items.push(CatchUpItem {
                    file_id: order.file.raw(),
                    chunk_id: chunk.raw(),
                    version: order.version.raw(),
                    last_sources: reign.read(|state| {
                        let rebuild = &reign.rebuild;
                        let is_failing = |cs| rebuild.is_failing(state, cs, *chunk);
                        let is_given_up = |cs| rebuild.is_unreturnable(cs, *chunk, rt::time::now());
                        state.are_last_sources(self.cs, order, &sources, is_failing, is_given_up)
                    }),
                    unreconciled: reign.read(|state| state.is_unreconciled(order)),
                    sources: sources.iter().map(|cs| cs.0.into()).collect(),
                    spare: reign.read(|state| state.is_spare(order)),
                });
                true
            });
            if batch.is_empty() {
                continue;
            }
            let servers = reign.read(|state| shown::addresses_of(state, addresses));
            let ids = batch.iter().map(|(chunk, _)| chunk.raw());
            let results = match self.send(&CatchUp { items, servers }, ids).await {
                Ok(results) => results,
                Err(undone) => match self.later(undone, &self.copies, &batch).await {
                    true => continue,
                    false => return,
                },
            };
            for ((chunk, order), result) in batch.iter().zip(&results) {
                if is_ok(result) {
                    self.copies.done(*chunk, *order);
                } else {
                    tracing::warn!("{} does not fill {:?}: {}", self.cs, order, status_of(result));
                    self.copies.put_off(*chunk, rt::time::now() + PAUSE);
                }
            }
        }
    }

    /// Logs that fences are recorded; false if that is of no use any more.
    async fn note_fences(&self, reign: &Reign, fences: Vec<FenceRecord>) -> bool {
        let op = CommandOp::FencesRecorded(FencesRecorded { cs: self.cs.0, session: self.session, fences });
        match reign.insist(op).await {
            Some(Ok(_)) => true,
            Some(Err(refusal)) => {
                tracing::warn!("{}: {refusal}", self.cs);
                self.give_up();
                false
            }
            None => false,
        }
    }

    /// The registration is not the present one any more: whoever is at the other end registers again.
    pub(super) fn give_up(&self) {
        let connection = self.connection.clone();
        rt::spawn(async move { connection.close().await });
    }

    async fn send_fences(&self, fences: &[(FileId, Epoch)], last: bool) -> Result<Vec<ItemResult>, Undone> {
        let item = |(file, epoch): &(FileId, Epoch)| FenceItem { file_id: file.raw(), epoch: epoch.raw() };
        let items = fences.iter().map(item).collect();
        self.send(&Fence { items, last }, fences.iter().map(|(file, _)| file.raw())).await
    }

    /// Sends a batch about these items; gives what became of each, in their order.
    async fn send<R>(
        &self,
        request: &R,
        ids: impl ExactSizeIterator<Item = u64>,
    ) -> Result<Vec<ItemResult>, Undone>
    where
        R: wire::Call<Reply = wire::cs::ResultsReply>,
    {
        match self.connection.ask(request, rt::time::now() + ANSWER_TIME).await {
            Ok(reply) if answers(&reply.results, ids) => Ok(reply.results),
            Ok(_) => {
                tracing::warn!("{} answered {} for other items than it was given", self.cs, R::OP);
                Err(Undone::Again)
            }
            Err(AskError::Call(CallError::Disconnected(_))) => Err(Undone::Cut),
            Err(error) => {
                tracing::warn!("{} did not carry out {}: {error}", self.cs, R::OP);
                Err(Undone::Again)
            }
        }
    }

    /// Puts a batch off that was not carried out; false if it never will be.
    async fn later<K, V>(&self, undone: Undone, lane: &Lane<K, V>, batch: &[(K, V)]) -> bool
    where
        K: Copy + Ord,
        V: Copy + PartialEq,
    {
        if let Undone::Cut = undone {
            return false;
        }
        let until = rt::time::now() + PAUSE;
        batch.iter().for_each(|(key, _)| lane.put_off(*key, until));
        matches!(first(self.connection.closed(), rt::time::sleep(PAUSE)).await, First::Right(()))
    }
}

fn status_of(result: &ItemResult) -> Status {
    Status::from_code(u16::try_from(result.status).unwrap_or(u16::MAX))
}

/// Whether there is one result for each item, in their order.
fn answers(results: &[ItemResult], ids: impl ExactSizeIterator<Item = u64>) -> bool {
    results.len() == ids.len() && results.iter().zip(ids).all(|(result, id)| result.id == id)
}

fn is_ok(result: &ItemResult) -> bool {
    status_of(result).is_ok()
}

impl Reign {
    /// A chunk server does not make a replica: another one shall.
    async fn replica_is_refused(self: Rc<Self>, cs: CsId, chunk: ChunkId) {
        self.rebuild.refused(cs, rt::time::now());
        let Some(place) = self.read(|state| state.place_of_addition(cs, chunk)) else { return };
        let _refused = self.insist(CommandOp::RemoveReplicas(RemoveReplicas { places: vec![place] })).await;
    }

    /// A chunk server has a replica no more that it should have (C9): others take its place.
    async fn replica_is_lost(self: Rc<Self>, cs: CsId, chunk: ChunkId, order: InstallOrder) {
        let Some(file) = self.read(|state| state.file_of_due(cs, chunk)) else { return };
        let op = DropMember {
            lease: None,
            file: file.raw(),
            cs: cs.0,
            chunk: chunk.raw(),
            version: order.to.raw(),
            lost: true,
            why: "its chunk server does not have it any more".into(),
        };
        if self.read(|state| state.may_drop(&op)) {
            let _refused = self.insist(CommandOp::DropMember(op)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn what_failed_is_sent_again_later_and_does_not_hold_up_the_rest() {
        let lane: Lane<u32, char> = Lane::default();
        assert_eq!(lane.ready(10, at(5)), Err(None));
        for (key, value) in [(1, 'a'), (2, 'b'), (3, 'c')] {
            lane.add(key, value, at(5));
        }
        assert_eq!(lane.ready(2, at(5)), Ok(vec![(1, 'a'), (2, 'b')]));
        lane.put_off(1, at(100));
        lane.done(2, 'b');
        assert_eq!(lane.ready(2, at(5)), Ok(vec![(3, 'c')]));
        lane.done(3, 'c');
        assert_eq!(lane.ready(2, at(99)), Err(Some(at(100))));
        lane.hurry(at(50));
        assert_eq!(lane.ready(2, at(50)), Ok(vec![(1, 'a')]));
    }

    #[test]
    fn c2_a_fence_that_was_raised_meanwhile_is_not_done() {
        let lane: Lane<u32, u64> = Lane::default();
        lane.add(1, 7, at(5));
        let sent = lane.ready(10, at(5)).unwrap();
        lane.add(1, 8, at(6));
        sent.into_iter().for_each(|(key, value)| lane.done(key, value));
        assert_eq!(lane.ready(10, at(6)), Ok(vec![(1, 8)]));
    }

    #[test]
    fn c2_a_batch_is_answered_item_by_item_or_not_at_all() {
        let results =
            |ids: &[u64]| ids.iter().map(|id| ItemResult { id: *id, status: 0 }).collect::<Vec<_>>();
        let asked = || [7, 8].into_iter();
        assert!(answers(&results(&[7, 8]), asked()));
        for wrong in [&[][..], &[7], &[8, 7], &[7, 9], &[7, 8, 9]] {
            assert!(!answers(&results(wrong), asked()), "{wrong:?}");
        }
    }

    #[test]
    fn unknown_statuses_are_no_success() {
        let result = |status| ItemResult { id: 1, status };
        assert!(is_ok(&result(Status::Ok.code().into())));
        assert!(!is_ok(&result(Status::NoSpace.code().into())));
        assert!(!is_ok(&result(1 << 16)), "would be Ok if it were cut to 16 bits");
    }
}
