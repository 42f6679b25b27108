//! From the state to records, and back.

use super::access;
use super::records::{
    AdditionRecord, AnswerRecord, AttrsRecord, ChunkRecord, ChunksRecord, ClientRecord, ClusterRecord,
    CsList, DeletionRecord, DueRecord, EventRecord, FileRecord, FreshRecord, InodeKind, InodeRecord,
    LinkRecord, OwnedRecord, PhaseRecord, Readers, RecordKind, RequesterRecord, ServerRecord, SettingRecord,
    SpecialRecord, XattrRecord,
};
use crate::state::attrs::{AttrSet, Attrs, Replicas};
use crate::state::changes::{Addition, Due, Position};
use crate::state::chunk::{ChunkEntry, ChunkParts, Deletion, Member, MemberSet, MemberState};
use crate::state::clients::Client;
use crate::state::command::{CsState, FailureDomain, FenceRecord, Leave};
use crate::state::config::Parameter;
use crate::state::event::{EVENTS_MAX, Event, EventCode, EventLog};
use crate::state::health::ClusterStatus;
use crate::state::ids::{ChunkId, ClientId, CsId, Epoch, FileId, Uuid, Version};
use crate::state::inode::{Body, Dir, File, Inode, Place, Special, SpecialKind, Times, ms_of_ns, ns_of_ms};
use crate::state::lease::{Lease, Phase};
use crate::state::namespace::Namespace;
use crate::state::outcome::StoredAnswer;
use crate::state::refusal::StoredRefusal;
use crate::state::servers::{ChunkServer, Registration, Standing};
use crate::state::window::{Kept, Requester};
use crate::state::xattrs::Xattrs;
use crate::state::{Cluster, State};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Chunks in one record.
const CHUNKS_PER_RECORD: usize = 1024;

/// Writes all records but the last.
pub(super) fn write(state: &State, out: &mut impl FnMut(RecordKind)) {
    out(RecordKind::Cluster(cluster_record(state)));
    for (parameter, value) in state.config.explicit() {
        out(RecordKind::Setting(SettingRecord { name: parameter.spec().name.to_owned(), value }));
    }
    state.servers.iter().for_each(|server| out(RecordKind::Server(server_record(server))));
    state.clients.iter().for_each(|client| out(RecordKind::Client(client_record(client))));
    for (id, inode) in state.tree.iter() {
        out(RecordKind::Inode(inode_record(&state.tree, id, inode)));
        if let Body::File(file) = &inode.body {
            let mut entries = file.chunks.iter().map(chunk_record).peekable();
            while entries.peek().is_some() {
                let chunks = entries.by_ref().take(CHUNKS_PER_RECORD).collect();
                out(RecordKind::Chunks(ChunksRecord { file: id.raw(), chunks }));
            }
        }
    }
    for (cs, _, due) in state.changes.all_due() {
        let ((file, index), from) = (due.position, due.from);
        out(RecordKind::Due(DueRecord { cs: cs.0, file: file.raw(), index, from: from.raw() }));
    }
    for (cs, _, made) in state.changes.all_additions() {
        let (file, index) = made.position;
        out(RecordKind::Addition(AdditionRecord {
            cs: cs.0,
            file: file.raw(),
            index,
            version: made.version.raw(),
            epoch: made.epoch.raw(),
        }));
    }
    for (chunk, cs) in state.changes.all_fresh() {
        out(RecordKind::Fresh(FreshRecord { cs: cs.0, chunk: chunk.raw() }));
    }
    for (chunk, deletion) in state.deletions.iter() {
        out(RecordKind::Deletion(deletion_record(chunk, deletion)));
    }
    state.events.iter().for_each(|event| out(RecordKind::Event(event_record(event))));
    for (client, requester) in state.window.iter() {
        out(RecordKind::Requester(requester_record(client, requester)));
    }
    access::write(&state.nodes, out);
}

fn cluster_record(state: &State) -> ClusterRecord {
    ClusterRecord {
        uuid: state.cluster.uuid.0.to_vec(),
        name: state.cluster.name.clone(),
        generation: state.cluster.generation.into(),
        created_ms: state.cluster.created_ms,
        next_file: state.cluster.next_file,
        next_chunk: state.cluster.next_chunk,
        applied: state.applied,
        root: state.tree.root().raw(),
        next_client: state.clients.next_id(),
        next_cs: state.servers.next_id(),
        status: match state.status {
            ClusterStatus::Unknown => 0,
            ClusterStatus::Healthy => 1,
            ClusterStatus::Degraded => 2,
            ClusterStatus::Failed => 3,
        },
        filled: state.filled,
        last_event: state.events.last_id(),
        ahead_from: state.cluster.ahead.map_or(0, |(from, _)| from),
        ahead_to: state.cluster.ahead.map_or(0, |(_, to)| to),
    }
}

fn server_record(server: &ChunkServer) -> ServerRecord {
    ServerRecord {
        id: server.id.0,
        uuid: server.uuid.0.to_vec(),
        host: server.host.clone(),
        boot_id: server.boot_id.0.to_vec(),
        addresses: server.addresses.clone(),
        tier: server.tier.into(),
        total_bytes: server.total_bytes,
        free_bytes: server.free_bytes,
        flags: server.flags,
        build: server.build.clone(),
        nonce: server.nonce,
        prior_nonce: server.prior_nonce,
        session: server.session,
        host_name: server.host_name.clone(),
        path: server.path.clone(),
        journal_path: server.journal_path.clone(),
        journal_bytes: server.journal_bytes,
        returned: server.returned,
        returned_bytes: server.returned_bytes,
        leave: server.leave.into(),
        trust_next: server.trust_next,
        standing: server.standing as u32,
        registration: server.registration as u32,
        state: server.state as i32,
        term_ms: server.term_ms,
        registered_ms: server.registered_ms,
        changed_ms: server.changed_ms,
        debts: server
            .debts()
            .map(|(file, epoch)| FenceRecord { file: file.raw(), epoch: epoch.raw() })
            .collect(),
    }
}

fn client_record(client: &Client) -> ClientRecord {
    ClientRecord {
        id: client.id.0,
        uuid: client.uuid.0.to_vec(),
        host: client.host.clone(),
        build: client.build.clone(),
        kind: client.kind,
        token: client.token,
        prior_token: client.prior_token,
        session: client.session,
        opened_ms: client.opened_ms,
        expired_index: client.expired_index,
        lost: client
            .lost()
            .map(|(file, epoch)| FenceRecord { file: file.raw(), epoch: epoch.raw() })
            .collect(),
    }
}

fn inode_record(tree: &Namespace, id: FileId, inode: &Inode) -> InodeRecord {
    let (parent, name) = match &inode.place {
        Some(place) => (place.parent.raw(), place.name.to_vec()),
        None => (0, Vec::new()),
    };
    let kind = match &inode.body {
        Body::Dir(dir) => InodeKind::Dir(attrs_record(dir.attrs)),
        Body::File(file) => InodeKind::File(file_record(file)),
        Body::Symlink(target) => InodeKind::Symlink(target.to_vec()),
        Body::Special(Special { kind, rdev }) => {
            InodeKind::Special(SpecialRecord { kind: *kind as u32, rdev: *rdev })
        }
    };
    let link = |place: &Place| LinkRecord { parent: place.parent.raw(), name: place.name.to_vec() };
    let xattr = |(name, value): (&[u8], &[u8])| XattrRecord { name: name.to_vec(), value: value.to_vec() };
    let (created_ms, changed_ms) = (ms_of_ns(inode.times.birth), ms_of_ns(inode.times.inode));
    let plain = (inode.uid, inode.gid, inode.times) == (0, 0, plain_times(created_ms, changed_ms));
    let (created_ms, changed_ms) = if plain { (created_ms, changed_ms) } else { (0, 0) };
    let owned = (!plain).then_some(OwnedRecord {
        uid: inode.uid,
        gid: inode.gid,
        access_ns: inode.times.access,
        data_ns: inode.times.data,
        inode_ns: inode.times.inode,
        birth_ns: inode.times.birth,
    });
    InodeRecord {
        id: id.raw(),
        parent,
        name,
        created_ms,
        changed_ms,
        mode: inode.mode,
        owned,
        links: tree.other_names_of(id).map(link).collect(),
        xattrs: tree.xattrs(id).into_iter().flat_map(Xattrs::iter).map(xattr).collect(),
        kind: Some(kind),
    }
}

/// The times of an inode that was made and changed by path.
fn plain_times(created_ms: u64, changed_ms: u64) -> Times {
    let (created, changed) = (ns_of_ms(created_ms), ns_of_ms(changed_ms));
    Times { access: created, data: changed, inode: changed, birth: created }
}

fn attrs_record(set: AttrSet) -> AttrsRecord {
    AttrsRecord {
        normal: set.replicas.map(|replicas| replicas.normal.into()),
        minimum: set.replicas.map(|replicas| replicas.minimum.into()),
        domain: set.domain.map(|domain| domain as i32),
        tier: set.tier.map(u32::from),
        chunk_size: set.chunk_size,
    }
}

fn file_record(file: &File) -> FileRecord {
    let Attrs { replicas, domain, tier, chunk_size } = file.attrs;
    let attrs = AttrSet {
        replicas: Some(replicas),
        domain: Some(domain),
        tier: Some(tier),
        chunk_size: Some(chunk_size),
    };
    let clients = |clients: &[ClientId]| clients.iter().map(|client| client.0).collect();
    let phase = match file.lease.phase() {
        Phase::Idle => PhaseRecord::Idle(()),
        Phase::Unclean => PhaseRecord::Unclean(()),
        Phase::Fencing { waiting } => {
            PhaseRecord::Fencing(CsList { servers: waiting.iter().map(|cs| cs.0).collect() })
        }
        Phase::Fenced => PhaseRecord::Fenced(()),
        Phase::Exclusive { holder } => PhaseRecord::Exclusive(holder.0),
        Phase::Shared { readers, unclean } => {
            PhaseRecord::Shared(Readers { clients: clients(readers), unclean: *unclean })
        }
    };
    FileRecord {
        size: file.size,
        attrs: Some(attrs_record(attrs)),
        epoch: file.lease.epoch().raw(),
        reserved_for: file.lease.reserved_for().map(|client| client.0),
        resumable: clients(file.lease.resumable()),
        phase: Some(phase),
    }
}

fn chunk_record(entry: &ChunkEntry) -> ChunkRecord {
    let ChunkParts { index, id, version, members, parent, layout, flags } = entry.to_parts();
    ChunkRecord {
        index,
        id: id.raw(),
        version: version.raw(),
        flags: flags.into(),
        parent: parent.raw(),
        layout: layout.into(),
        servers: members.iter().map(|member| member.cs.0).collect(),
        places: members.iter().map(Member::pack).collect(),
    }
}

fn deletion_record(chunk: ChunkId, deletion: &Deletion) -> DeletionRecord {
    DeletionRecord {
        chunk: chunk.raw(),
        file: deletion.file.raw(),
        version: deletion.version.raw(),
        since_ms: deletion.since_ms,
        purging: deletion.purging,
        waiting: deletion.waiting.iter().map(|cs| cs.0).collect(),
    }
}

fn event_record(event: &Event) -> EventRecord {
    EventRecord {
        id: event.id,
        time_ms: event.time_ms,
        code: event.code as i32,
        args: event.args.clone(),
        repeats: event.repeats,
    }
}

fn requester_record(client: u64, requester: &Requester) -> RequesterRecord {
    let answer = |(request, kept): (&u64, &Kept)| AnswerRecord {
        request: *request,
        kind: kept.kind,
        answer: Some(match kept.answer.clone() {
            Ok(outcome) => StoredAnswer { outcome: Some(outcome), refusal: None },
            Err(refusal) => {
                StoredAnswer { outcome: None, refusal: Some(StoredRefusal { refusal: Some(refusal) }) }
            }
        }),
    };
    RequesterRecord {
        client,
        last_index: requester.last_index,
        floor: requester.floor,
        answers: requester.answers.iter().map(answer).collect(),
    }
}

/// What is wrong with a record.
type Wrong = &'static str;

/// Puts a state together from records.
#[derive(Default)]
pub(super) struct Builder {
    state: State,
    root: FileId,
    last_event: u64,
    begun: bool,
    inodes: BTreeMap<FileId, Inode>,
    links: BTreeMap<FileId, BTreeSet<Place>>,
    xattrs: BTreeMap<FileId, Xattrs>,
    events: VecDeque<Event>,
}

impl Builder {
    /// Takes the next record.
    pub(super) fn add(&mut self, kind: RecordKind) -> Result<(), Wrong> {
        if self.begun == matches!(kind, RecordKind::Cluster(_)) {
            return Err("the record of the cluster is not the first, or there are two");
        }
        match kind {
            RecordKind::Cluster(record) => self.add_cluster(record),
            RecordKind::Setting(record) => {
                let parameter = Parameter::parse(&record.name).map_err(|_| "an unknown parameter")?;
                self.state.config.set(parameter, record.value);
                Ok(())
            }
            RecordKind::Server(record) => {
                self.state.servers.insert(server(record)?);
                Ok(())
            }
            RecordKind::Client(record) => {
                self.state.clients.insert(client(record)?);
                Ok(())
            }
            RecordKind::Inode(record) => self.add_inode(record),
            RecordKind::Chunks(record) => self.add_chunks(record),
            RecordKind::Due(record) => self.add_due(record),
            RecordKind::Addition(record) => self.add_addition(record),
            RecordKind::Fresh(record) => {
                self.state.changes.is_made(CsId(record.cs), ChunkId::from_raw(record.chunk));
                Ok(())
            }
            RecordKind::Deletion(record) => self.add_deletion(record),
            RecordKind::Event(record) => self.add_event(record),
            RecordKind::Requester(record) => self.add_requester(record),
            RecordKind::Access(record) => {
                access::read(&mut self.state.nodes, record);
                Ok(())
            }
            RecordKind::Node(record) => access::read_node(&mut self.state.nodes, record),
            RecordKind::End(_) => Err("the end comes too early"),
        }
    }

    fn add_cluster(&mut self, record: ClusterRecord) -> Result<(), Wrong> {
        self.begun = true;
        self.state.applied = record.applied;
        self.state.cluster = Cluster {
            uuid: uuid(&record.uuid)?,
            name: record.name,
            generation: u16::try_from(record.generation).map_err(|_| "a generation over 16 bits")?,
            created_ms: record.created_ms,
            next_file: record.next_file,
            next_chunk: record.next_chunk,
            ahead: (record.ahead_to != 0).then_some((record.ahead_from, record.ahead_to)),
        };
        self.root = FileId::from_raw(record.root);
        self.state.clients.skip_ids(record.next_client);
        self.state.servers.skip_ids(record.next_cs);
        let statuses =
            [ClusterStatus::Unknown, ClusterStatus::Healthy, ClusterStatus::Degraded, ClusterStatus::Failed];
        self.state.status = *statuses.get(record.status as usize).ok_or("an unknown cluster status")?;
        self.state.filled = record.filled;
        self.last_event = record.last_event;
        Ok(())
    }

    fn add_inode(&mut self, record: InodeRecord) -> Result<(), Wrong> {
        let id = FileId::from_raw(record.id);
        let body = match record.kind.ok_or("an inode of an unknown kind")? {
            InodeKind::Dir(attrs) => Body::Dir(Box::new(Dir::new(attr_set(attrs)?))),
            InodeKind::File(file) => Body::File(Box::new(self::file(file)?)),
            InodeKind::Symlink(target) => Body::Symlink(target.into()),
            InodeKind::Special(SpecialRecord { kind, rdev }) => {
                let kind = SpecialKind::from_raw(kind).ok_or("a special file of an unknown kind")?;
                Body::Special(Special { kind, rdev })
            }
        };
        let place =
            |parent: u64, name: Vec<u8>| Place { parent: FileId::from_raw(parent), name: name.into() };
        let first = (record.parent != 0).then(|| place(record.parent, record.name));
        let others: BTreeSet<Place> =
            record.links.into_iter().map(|link| place(link.parent, link.name)).collect();
        if first.as_ref().is_none_or(|first| others.contains(first)) && !others.is_empty() {
            return Err("an inode whose names contradict each other");
        }
        if !others.is_empty() {
            self.links.insert(id, others);
        }
        if !record.xattrs.is_empty() {
            let xattrs = self.xattrs.entry(id).or_default();
            for XattrRecord { name, value } in record.xattrs {
                xattrs.check(&name, &value).map_err(|_| "extended attributes beyond their limits")?;
                xattrs.set(&name, &value);
            }
        }
        let (uid, gid, times) = match record.owned {
            None => (0, 0, plain_times(record.created_ms, record.changed_ms)),
            Some(owned) => {
                let OwnedRecord { access_ns, data_ns, inode_ns, birth_ns, .. } = owned;
                let times = Times { access: access_ns, data: data_ns, inode: inode_ns, birth: birth_ns };
                (owned.uid, owned.gid, times)
            }
        };
        let inode = Inode { place: first, times, mode: record.mode, uid, gid, body };
        match self.inodes.insert(id, inode) {
            Some(_) => Err("an inode that is there twice"),
            None => Ok(()),
        }
    }

    fn add_chunks(&mut self, record: ChunksRecord) -> Result<(), Wrong> {
        let file = match self.inodes.get_mut(&FileId::from_raw(record.file)).map(|inode| &mut inode.body) {
            Some(Body::File(file)) => file,
            _ => return Err("chunks of a file that is not there"),
        };
        for chunk in record.chunks {
            let entry = chunk_entry(chunk)?;
            if file.chunks.get(entry.index()).is_some() {
                return Err("two chunks at one index");
            }
            file.chunks.insert(entry);
        }
        Ok(())
    }

    fn add_due(&mut self, record: DueRecord) -> Result<(), Wrong> {
        let position = (FileId::from_raw(record.file), record.index);
        let chunk = self.chunk_at(position).ok_or("a version of a chunk that is not there")?;
        let due = Due { position, from: Version::from_raw(record.from) };
        self.state.changes.install(CsId(record.cs), chunk, due);
        Ok(())
    }

    fn add_addition(&mut self, record: AdditionRecord) -> Result<(), Wrong> {
        let position = (FileId::from_raw(record.file), record.index);
        let chunk = self.chunk_at(position).ok_or("a replica of a chunk that is not there")?;
        let (version, epoch) = (Version::from_raw(record.version), Epoch::from_raw(record.epoch));
        self.state.changes.add(CsId(record.cs), chunk, Addition { position, version, epoch });
        Ok(())
    }

    fn chunk_at(&self, (id, index): Position) -> Option<ChunkId> {
        match self.inodes.get(&id).map(|inode| &inode.body) {
            Some(Body::File(file)) => Some(file.chunks.get(index)?.id()),
            _ => None,
        }
    }

    fn add_deletion(&mut self, record: DeletionRecord) -> Result<(), Wrong> {
        let deletion = Deletion {
            file: FileId::from_raw(record.file),
            version: Version::from_raw(record.version),
            since_ms: record.since_ms,
            purging: record.purging,
            waiting: record.waiting.into_iter().map(CsId).collect(),
        };
        self.state.deletions.restore(ChunkId::from_raw(record.chunk), deletion);
        Ok(())
    }

    fn add_event(&mut self, record: EventRecord) -> Result<(), Wrong> {
        if self.events.len() == EVENTS_MAX || self.events.back().is_some_and(|last| last.id + 1 != record.id)
        {
            return Err("too many events, or a gap between them");
        }
        let code = EventCode::try_from(record.code).map_err(|_| "an unknown event")?;
        let EventRecord { id, time_ms, args, repeats, .. } = record;
        self.events.push_back(Event { id, time_ms, code, args, repeats });
        Ok(())
    }

    fn add_requester(&mut self, record: RequesterRecord) -> Result<(), Wrong> {
        let mut answers = BTreeMap::new();
        for AnswerRecord { request, kind, answer } in record.answers {
            let answer = match answer.unwrap_or_default() {
                StoredAnswer { outcome: Some(outcome), refusal: None } => Ok(outcome),
                StoredAnswer { outcome: None, refusal: Some(StoredRefusal { refusal: Some(refusal) }) } => {
                    Err(refusal)
                }
                _ => return Err("an answer that is neither an outcome nor a refusal"),
            };
            answers.insert(request, Kept { kind, answer });
        }
        let requester = Requester { last_index: record.last_index, floor: record.floor, answers };
        self.state.window.restore(record.client, requester);
        Ok(())
    }

    /// Works out what is not written down.
    pub(super) fn finish(mut self) -> Result<State, Wrong> {
        if !self.begun {
            return Err("the record of the cluster is missing");
        }
        let mut state = self.state;
        self.events.make_contiguous();
        state.events = EventLog::restore(self.last_event, self.events);
        let tree = Namespace::restore(self.root, self.inodes, self.links, self.xattrs);
        state.tree = tree.map_err(|_| "an inode that hangs nowhere")?;
        for (id, file) in state.tree.files() {
            if matches!(file.lease.phase(), Phase::Fencing { .. }) {
                state.fencing.insert(id);
            }
            if file.lease.reserved_for().is_some() {
                state.kept.insert(id);
            }
            for holder in file.lease.holders() {
                let client = state.clients.get_mut(*holder).ok_or("a lease of a client that is not there")?;
                client.leases.extend(file.lease.mode_of(*holder).map(|mode| (id, mode)));
            }
            for entry in file.chunks.iter() {
                state.changes.note(id, None, Some(entry));
                if !entry.is_usable() {
                    state.creating.insert(entry.id(), (id, entry.index()));
                }
                for member in entry.members().iter() {
                    let server =
                        state.servers.get_mut(member.cs).ok_or("a replica on a server that is not there")?;
                    server.replicas += 1;
                    server.stale_replicas += u64::from(member.state == MemberState::Stale);
                }
            }
        }
        Ok(state)
    }
}

fn uuid(bytes: &[u8]) -> Result<Uuid, Wrong> {
    Uuid::from_bytes(bytes).ok_or("a UUID without 16 bytes")
}

fn server(record: ServerRecord) -> Result<ChunkServer, Wrong> {
    Ok(ChunkServer {
        id: CsId(record.id),
        uuid: uuid(&record.uuid)?,
        host: record.host,
        boot_id: uuid(&record.boot_id)?,
        addresses: record.addresses,
        tier: u8::try_from(record.tier).map_err(|_| "a tier over 8 bits")?,
        total_bytes: record.total_bytes,
        free_bytes: record.free_bytes,
        flags: record.flags,
        build: record.build,
        nonce: record.nonce,
        prior_nonce: record.prior_nonce,
        session: record.session,
        host_name: record.host_name,
        path: record.path,
        journal_path: record.journal_path,
        returned: record.returned,
        returned_bytes: record.returned_bytes,
        leave: Leave::try_from(record.leave).map_err(|_| "an unknown way for a chunk server to leave")?,
        journal_bytes: record.journal_bytes,
        trust_next: record.trust_next,
        standing: Standing::from_raw(record.standing).ok_or("an unknown standing")?,
        registration: Registration::from_raw(record.registration)
            .ok_or("an unknown stage of registration")?,
        state: CsState::try_from(record.state).map_err(|_| "an unknown state of a chunk server")?,
        term_ms: record.term_ms,
        registered_ms: record.registered_ms,
        changed_ms: record.changed_ms,
        replicas: 0,
        stale_replicas: 0,
        debts: record.debts.iter().map(|f| (FileId::from_raw(f.file), Epoch::from_raw(f.epoch))).collect(),
    })
}

fn client(record: ClientRecord) -> Result<Client, Wrong> {
    Ok(Client {
        id: ClientId(record.id),
        uuid: uuid(&record.uuid)?,
        host: record.host,
        build: record.build,
        kind: record.kind,
        token: record.token,
        prior_token: record.prior_token,
        session: record.session,
        opened_ms: record.opened_ms,
        expired_index: record.expired_index,
        leases: BTreeMap::new(),
        lost: record.lost.iter().map(|f| (FileId::from_raw(f.file), Epoch::from_raw(f.epoch))).collect(),
    })
}

fn attr_set(record: AttrsRecord) -> Result<AttrSet, Wrong> {
    let small = |number: u32| u8::try_from(number).map_err(|_| "an attribute over 8 bits");
    let replicas = match (record.normal, record.minimum) {
        (Some(normal), Some(minimum)) => Some(Replicas { normal: small(normal)?, minimum: small(minimum)? }),
        (None, None) => None,
        _ => return Err("a replica count without the other"),
    };
    let domain =
        record.domain.map(FailureDomain::try_from).transpose().map_err(|_| "an unknown failure domain")?;
    Ok(AttrSet { replicas, domain, tier: record.tier.map(small).transpose()?, chunk_size: record.chunk_size })
}

fn file(record: FileRecord) -> Result<File, Wrong> {
    let clients = |list: Vec<u32>| list.into_iter().map(ClientId).collect();
    let phase = match record.phase.ok_or("a lease in an unknown phase")? {
        PhaseRecord::Idle(()) => Phase::Idle,
        PhaseRecord::Unclean(()) => Phase::Unclean,
        PhaseRecord::Fencing(list) => {
            Phase::Fencing { waiting: list.servers.into_iter().map(CsId).collect() }
        }
        PhaseRecord::Fenced(()) => Phase::Fenced,
        PhaseRecord::Exclusive(holder) => Phase::Exclusive { holder: ClientId(holder) },
        PhaseRecord::Shared(readers) => {
            Phase::Shared { readers: clients(readers.clients), unclean: readers.unclean }
        }
    };
    let attrs = match attr_set(record.attrs.unwrap_or_default())? {
        AttrSet {
            replicas: Some(replicas),
            domain: Some(domain),
            tier: Some(tier),
            chunk_size: Some(chunk_size),
        } if chunk_size > 0 => Attrs { replicas, domain, tier, chunk_size },
        _ => return Err("a file without all attributes"),
    };
    let reserved_for = record.reserved_for.map(ClientId);
    let lease = Lease::restore(Epoch::from_raw(record.epoch), phase, reserved_for, clients(record.resumable));
    Ok(File { lease, ..File::new(record.size, attrs) })
}

fn chunk_entry(record: ChunkRecord) -> Result<ChunkEntry, Wrong> {
    if record.servers.len() != record.places.len() {
        return Err("a chunk with more servers than places");
    }
    let mut members = Vec::with_capacity(record.servers.len());
    for (cs, place) in record.servers.into_iter().map(CsId).zip(record.places) {
        let member = Member::unpack(cs, place);
        let member = member.ok_or("a replica in an unknown state")?;
        if members.iter().any(|other: &Member| other.cs == cs) {
            return Err("two replicas on one chunk server");
        }
        members.push(member);
    }
    let parts = ChunkParts {
        index: record.index,
        id: ChunkId::from_raw(record.id),
        version: Version::from_raw(record.version),
        members: MemberSet::new(members),
        parent: ChunkId::from_raw(record.parent),
        layout: u16::try_from(record.layout).map_err(|_| "a layout over 16 bits")?,
        flags: u8::try_from(record.flags).map_err(|_| "flags over 8 bits")?,
    };
    ChunkEntry::from_parts(parts)
        .ok_or("a chunk with unknown flags, or with flags that contradict its replicas")
}
