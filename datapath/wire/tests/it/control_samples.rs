//! Samples of the control operations. Each field has a value of its own, so that a swapped or lost tag
//! shows.

use wire::cluster::*;
use wire::copy::*;
use wire::cs::{self, *};
use wire::hello::{Empty, Goodbye, Hello, Ping, Role};
use wire::inode;
use wire::lease::*;
use wire::namespace::*;
use wire::session::*;
use wire::{ErrorBody, Header, Op, Status, decode_body, encode_body};

use crate::sample::{Sample, call, failure};

fn id(seed: u8) -> Vec<u8> {
    (0..16).map(|at| seed.wrapping_add(at)).collect()
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn key() -> SessionKey {
    SessionKey { client_id: 2051, token: id(0xa0) }
}

fn io(seed: u64) -> IoStats {
    IoStats {
        read_bytes: seed + 1,
        write_bytes: seed + 2,
        read_ops: seed + 3,
        write_ops: seed + 4,
        flushes: seed + 5,
        latency_us_avg: seed + 6,
        latency_us_max: seed + 7,
        queue_depth_milli: seed + 8,
        io_wait_permille: 9,
    }
}

fn attrs() -> Attrs {
    Attrs {
        replicas: Some(3),
        replicas_min: Some(2),
        failure_domain: Some(FailureDomain::Host.into()),
        tier: Some(0),
        encoding: Some(text("5+2")),
        chunk_size: Some(64 << 20),
    }
}

fn connection() -> Vec<Sample> {
    let client = Hello {
        version_min: 1,
        version_max: 1,
        cluster_uuid: id(1),
        role: Role::Cs.into(),
        node_name: text("node-a"),
        cs_id: 1025,
        boot_id: id(2),
        nonce_generation: 12,
        session_id: 34,
        features: 0b11,
        features_required: 0b01,
        max_inflight: 256,
        max_inflight_bytes: 64 << 20,
        mds_id: 0,
        software: text("0.1.0"),
    };
    let server = Hello { role: Role::Mds.into(), cs_id: 0, nonce_generation: 0, mds_id: 1, ..client.clone() };
    let goodbye = Goodbye { reason: text("stopping on SIGTERM") };
    let body = encode_body(&goodbye).expect("within limits");
    let header = Header::notice(Op::Goodbye, &body, 0).expect("within limits");
    let mut samples = Vec::from(call(client, server));
    samples.extend(call(Ping {}, Empty {}));
    samples.push(Sample::new("goodbye.notice", header, &body, &[], move |found, body| {
        assert_eq!(found, &header);
        assert_eq!(decode_body::<Goodbye>(body).as_ref(), Ok(&goodbye));
    }));
    samples
}

fn failures() -> Vec<Sample> {
    let not_master =
        ErrorBody { message: text("ask the master"), hint: text("10.0.0.2:2511"), ..Default::default() };
    let busy = ErrorBody { retry_after_ms: 250, ..Default::default() };
    let stale = ErrorBody { detail: 0x0001_0000_0000_0008, ..Default::default() };
    vec![
        failure("error_not_master.response", Op::Open, Status::NotMaster, not_master),
        failure("error_retry.response", Op::Write, Status::Retry, busy),
        failure("error_stale_epoch.response", Op::Write, Status::StaleEpoch, stale),
    ]
}

fn client_info() -> ClientInfo {
    ClientInfo {
        client_id: 2051,
        host_name: text("host-c"),
        address: text("10.0.0.9:40112"),
        kind: ClientKind::Nbd.into(),
        leases_read: 4,
        leases_write: 5,
        io: io(100),
        io_rate: io(200),
        age_ms: 3_600_000,
        software: text("0.1.0"),
    }
}

fn sessions() -> Vec<Sample> {
    let open = OpenSession {
        client_uuid: id(3),
        host_name: text("host-c"),
        resume: Some(key()),
        kind: ClientKind::Nbd.into(),
        software: text("0.1.0"),
    };
    let renew = RenewSession { session: key(), io: io(300), answered_below: 70 };
    let revoked = vec![RevokedFile { file_id: 7, epoch: 8 }, RevokedFile { file_id: 9, epoch: 10 }];
    let mut samples = Vec::from(call(open, OpenSessionReply { session: key(), term_ms: 60_000 }));
    samples.extend(call(renew, RenewSessionReply { term_ms: 60_000, revoked }));
    samples.extend(call(CloseSession { session: key() }, Empty {}));
    samples.extend(call(
        ListClients { after: 2050 },
        ListClientsReply { clients: vec![client_info()], more: true },
    ));
    samples
}

fn file_info() -> FileInfo {
    FileInfo {
        file_id: 4097,
        kind: FileKind::File.into(),
        size: 2 << 30,
        chunk_size: 64 << 20,
        attrs: attrs(),
        created_ms: 1_700_000_000_000,
        modified_ms: 1_700_000_000_001,
        allocated_bytes: 1 << 30,
        readers: 2,
        writer: Some(Holder { client_id: 2051, host_name: text("host-c") }),
        epoch: 0x0001_0000_0000_0007,
        path: text("/vols/a"),
        mode: 0o640,
        chunks: 16,
    }
}

fn names() -> Vec<Sample> {
    let create = Create {
        path: text("/vols/a"),
        kind: FileKind::File.into(),
        size: 2 << 30,
        attrs: attrs(),
        mode: 0o640,
    };
    let entry =
        Entry { name: text("a"), kind: FileKind::File.into(), size: 2 << 30, file_id: 4097, modified_ms: 17 };
    let list = List { path: text("/vols"), after: text("Z"), limit: 100 };
    let resize = Resize { file: Some(FileRef::Path(text("/vols/a"))), size: 3 << 30, allow_shrink: true };
    let own = Attrs { tier: Some(1), ..Default::default() };
    let set = SetAttr { path: text("/vols"), recursive: true, attrs: own.clone() };
    let file = || FileReply { info: file_info() };
    let mut samples = Vec::from(call(create, file()));
    samples.extend(call(list, ListReply { entries: vec![entry], more: true }));
    samples.extend(call(Stat { file: Some(FileRef::Id(4097)) }, file()));
    samples.extend(call(Remove { path: text("/vols/a"), recursive: true }, Empty {}));
    samples.extend(call(Rename { from: text("/vols/a"), to: text("/vols/b") }, Empty {}));
    samples.extend(call(resize, file()));
    samples.extend(call(GetAttr { path: text("/vols") }, GetAttrReply { explicit: own, effective: attrs() }));
    samples.extend(call(set, SetAttrReply { changed: 12 }));
    samples
}

fn map() -> MapReply {
    let members = vec![
        Member { cs_id: 1025, state: MemberState::Member.into(), slot: 0 },
        Member { cs_id: 1026, state: MemberState::Joining.into(), slot: 1 },
        Member { cs_id: 1027, state: MemberState::Absent.into(), slot: 2 },
    ];
    let chunk =
        ChunkMap { index: 5, chunk_id: 0x2002, version: 0x11, members, needs_reconcile: true, blocked: true };
    let server = CsAddress {
        cs_id: 1025,
        addresses: vec![text("10.0.0.5:2600"), text("[fd00::5]:2600")],
        boot_id: id(2),
    };
    MapReply { chunks: vec![chunk], servers: vec![server], next_index: 6 }
}

fn leases() -> Vec<Sample> {
    let (file_id, epoch, chunk_id, version) = (4097, 7, 0x2002, 0x11);
    let open = Open {
        file: Some(FileRef::Path(text("/vols/a"))),
        session: key(),
        mode: OpenMode::Write.into(),
        map_count: 64,
        resume_epoch: 0,
    };
    let opened = OpenReply {
        file_id,
        epoch,
        size: 2 << 30,
        chunk_size: 64 << 20,
        attrs: attrs(),
        needs_reconcile: true,
        map: map(),
    };
    let report = ReportMember {
        session: key(),
        file_id,
        epoch,
        chunk_id,
        version,
        cs_id: 1027,
        status: Status::DeviceFailed.code().into(),
    };
    let mut samples = Vec::from(call(open, opened));
    samples.extend(call(Release { session: key(), file_id, epoch, clean: true }, Empty {}));
    samples.extend(call(GetMap { file_id, epoch, first_index: 5, count: 9 }, map()));
    samples.extend(call(
        AllocateChunks { session: key(), file_id, epoch, indices: vec![5, 6, 300], grow_to: 0 },
        map(),
    ));
    let writes_lost = false;
    let done = ReconcileDone { session: key(), file_id, epoch, chunk_id, version, writes_lost };
    samples.extend(call(done, Empty {}));
    samples.extend(call(report, map()));
    samples.extend(call(Revoke { target: Some(RevokeTarget::Client(2051)) }, RevokeReply { revoked: 3 }));
    samples
}

fn inode() -> inode::Inode {
    inode::Inode {
        id: 0x0001_0000_0000_1001,
        generation: 1,
        kind: FileKind::BlockDevice.into(),
        mode: 0o4755,
        uid: 1000,
        gid: 1001,
        nlink: 3,
        rdev: 0x0801,
        size: 2 << 40,
        allocated_bytes: 1 << 30,
        atime_ns: -1,
        mtime_ns: 1_700_000_000_000_000_001,
        ctime_ns: 1_700_000_000_000_000_002,
        btime_ns: 1_700_000_000_000_000_003,
        epoch: 0x0001_0000_0000_0007,
        writer: 2051,
        readers: 4,
        chunk_size: 64 << 20,
    }
}

/// A name that is not UTF-8.
fn name(last: u8) -> Vec<u8> {
    vec![b'n', 0xff, last]
}

fn inodes() -> Vec<Sample> {
    use inode::*;
    let (id, parent, now_ns) = (0x0001_0000_0000_1001, 0x0001_0000_0000_0002, 1_700_000_000_000_000_004);
    let time = |ns, now| Some(TimeChange { ns, now });
    let set = SetInode {
        session: key(),
        id,
        now_ns,
        mode: Some(0o600),
        uid: Some(0),
        gid: Some(5),
        size: Some(SizeChange { size: 3 << 40, epoch: 7, grow_only: true }),
        atime: time(0, true),
        mtime: time(-5, false),
        ctime: time(6, false),
    };
    let make = MakeNode {
        session: key(),
        parent,
        name: name(1),
        now_ns,
        kind: FileKind::Symlink.into(),
        mode: 0o777,
        uid: 1000,
        gid: 1001,
        rdev: 0x0802,
        target: b"../to\xfe".to_vec(),
        exclusive: true,
        open: true,
    };
    let opened =
        OpenReply { file_id: id, epoch: 7, chunk_size: 64 << 20, attrs: attrs(), ..OpenReply::default() };
    let made = MakeNodeReply { inode: inode(), created: true, opened: Some(opened) };
    let reply = || InodeReply { inode: inode() };
    let gone = UnlinkReply { id, nlink: 2, gone: true };
    let unlink = Unlink { session: key(), parent, name: name(2), what: UnlinkWhat::Directory.into(), now_ns };
    let rename = RenameEntry {
        session: key(),
        parent,
        name: name(3),
        new_parent: parent + 1,
        new_name: name(4),
        mode: RenameMode::Exchange.into(),
        now_ns,
    };
    let listed =
        ReadDirReply { entries: vec![DirEntry { name: name(5), inode: inode() }], more: true, parent };
    let set_xattr = SetXattr {
        session: key(),
        id,
        name: b"user.n".to_vec(),
        value: vec![0, 0xff],
        mode: XattrMode::Replace.into(),
        now_ns,
    };
    let space = StatFsReply {
        total_bytes: 1 << 42,
        free_bytes: 1 << 41,
        allocatable_total_bytes: 1 << 40,
        allocatable_bytes: 1 << 39,
        inodes: 52,
    };
    let mut samples = Vec::from(call(Lookup { parent, name: name(6) }, reply()));
    samples.extend(call(GetInode { id }, reply()));
    samples.extend(call(set, reply()));
    samples.extend(call(make, made));
    samples.extend(call(Link { session: key(), id, parent, name: name(7), now_ns }, reply()));
    samples.extend(call(unlink, gone));
    samples.extend(call(rename, RenameEntryReply { id: id + 1, other: Some(gone) }));
    samples.extend(call(ReadDir { id: parent, after: name(8), limit: 100 }, listed));
    samples.extend(call(ReadLink { id }, ReadLinkReply { target: b"../to\xfe".to_vec() }));
    samples.extend(call(GetXattr { id, name: b"user.n".to_vec() }, GetXattrReply { value: vec![0, 0xff] }));
    samples.extend(call(set_xattr, Empty {}));
    let names = vec![b"security.selinux".to_vec(), b"user.\xff".to_vec()];
    samples.extend(call(ListXattrs { id }, ListXattrsReply { names }));
    samples.extend(call(RemoveXattr { session: key(), id, name: b"user.n".to_vec(), now_ns }, Empty {}));
    samples.extend(call(StatFs {}, space));
    samples.push(grown());
    samples
}

/// ALLOCATE_CHUNKS as a mount sends it.
fn grown() -> Sample {
    let request =
        AllocateChunks { session: key(), file_id: 4097, epoch: 7, indices: vec![5], grow_to: (5 << 26) + 17 };
    let body = encode_body(&request).expect("within limits");
    Sample::request("allocate_chunks_grow.request", Op::AllocateChunks, body, &[], move |_, body| {
        assert_eq!(decode_body::<AllocateChunks>(body).as_ref(), Ok(&request));
    })
}

fn event() -> Event {
    Event {
        id: 42,
        time_ms: 1_700_000_000_002,
        sys: text("CS"),
        severity: Severity::Warning.into(),
        code: text("cs.hard_error"),
        message: text("CS#1025 cannot read its disk"),
    }
}

fn journal() -> JournalInfo {
    JournalInfo {
        path: text("/ssd/cs1-journal"),
        size_bytes: 2 << 30,
        dirty_bytes: 1 << 20,
        uuid: id(4),
        generation: 3,
    }
}

fn register() -> RegisterCs {
    RegisterCs {
        cs_id: 1025,
        cs_uuid: id(5),
        nonce: id(6),
        new_nonce: id(7),
        host_id: text("d0a5b1c2e3f40516"),
        host_name: text("host-a"),
        boot_id: id(2),
        addresses: vec![text("10.0.0.5:2600")],
        tier: 1,
        total_bytes: 1 << 40,
        free_bytes: 1 << 39,
        flags: FLAG_JOURNAL | FLAG_CHECKSUMS,
        journal: Some(journal()),
        software: text("0.1.0"),
        path: text("/vstorage/stor1-cs1"),
        chunk_count: 7142,
        nonce_generation: 12,
    }
}

fn chunk_servers() -> Vec<Sample> {
    let fence = FenceItem { file_id: 4097, epoch: 8 };
    let replica = ReplicaReport {
        chunk_id: 0x2002,
        version: 0x11,
        state: ReplicaState::Corrupt.into(),
        used_bytes: 1 << 20,
    };
    let registered = RegisterCsReply {
        cs_id: 1025,
        term_ms: 60_000,
        fences: vec![fence],
        stale: true,
        session: 34,
        report_all: true,
        more_fences: true,
    };
    let heartbeat = Heartbeat {
        cs_id: 1025,
        session: 34,
        free_bytes: 1 << 39,
        chunk_count: 7143,
        io: io(400),
        events: vec![event()],
        differences: vec![replica],
        total_bytes: 1 << 40,
        flags: FLAG_CLEAN,
        journal_dirty_bytes: 4096,
        scrub: None,
        copied_out_bytes: 0,
        copied_in_bytes: 0,
        verified: Vec::new(),
        in_doubt: Vec::new(),
    };
    let scrub = ScrubStats {
        chunks: 31,
        bad_blocks: 32,
        repaired_blocks: 33,
        damaged_blocks: 34,
        ..ScrubStats::default()
    };
    let compared = ScrubStats { compared_chunks: 35, differing_blocks: 36, ..scrub };
    let verified = Heartbeat {
        scrub: Some(compared),
        verified: vec![VerifiedChunk { chunk_id: 0x2002, file_id: 4097 }],
        ..heartbeat.clone()
    };
    let doubtful =
        Heartbeat { in_doubt: vec![ChunkInDoubt { chunk_id: 0x2002, file_id: 4097 }], ..heartbeat.clone() };
    let settled = SettledChunk { chunk_id: 0x2002, version: 0x11, below_epoch: 8, newest_epoch: 7 };
    let scrubbed = Heartbeat { scrub: Some(scrub), ..heartbeat.clone() };
    let copying = Heartbeat { copied_out_bytes: 65_536, copied_in_bytes: 1 << 20, ..heartbeat.clone() };
    let page = ReportChunks { cs_id: 1025, session: 34, first_id: 1, replicas: vec![replica], last: true };
    let create = CreateItem {
        chunk_id: 0x2002,
        version: 0x11,
        file_id: 4097,
        size_bytes: 64 << 20,
        layout: 1,
        slot: 2,
        epoch: 7,
        joining: false,
    };
    let joiner = CreateItem { layout: 0, slot: 0, joining: true, ..create };
    let delete = DeleteItem { chunk_id: 0x2002, version: 0x11 };
    let results = |id| ResultsReply {
        results: vec![
            ItemResult { id, status: Status::Ok.code().into() },
            ItemResult { id: id + 1, status: Status::NoSpace.code().into() },
        ],
    };
    let mut samples = Vec::from(call(register(), registered));
    samples.extend(call(heartbeat, HeartbeatReply { term_ms: 60_000, ..HeartbeatReply::default() }));
    let reply = HeartbeatReply { term_ms: 60_000, verify_chunks: Some(3), ..HeartbeatReply::default() };
    for mut sample in call(scrubbed, reply) {
        sample.name = sample.name.replace("heartbeat", "heartbeat_scrub");
        samples.push(sample);
    }
    let reply = HeartbeatReply {
        term_ms: 60_000,
        verify_chunks: Some(3),
        io_tout_ms: None,
        report_all: true,
        copy_bytes_per_second: Some(64 << 20),
        move_bytes_per_second: Some(0),
        ..HeartbeatReply::default()
    };
    let [mut copying, mut reporting] = call(copying, reply);
    copying.name = text("heartbeat_copying.request");
    reporting.name = text("heartbeat_report.response");
    let [mut verified, _] = call(verified, HeartbeatReply::default());
    verified.name = text("heartbeat_verified.request");
    samples.extend([copying, reporting, verified]);
    let reply = HeartbeatReply { term_ms: 60_000, settled: vec![settled], ..HeartbeatReply::default() };
    for mut sample in call(doubtful, reply) {
        sample.name = sample.name.replace("heartbeat", "heartbeat_settled");
        samples.push(sample);
    }
    samples.extend(call(page, Empty {}));
    samples.extend(call(CreateChunks { items: vec![create] }, results(0x2002)));
    samples.extend(call(DeleteChunks { items: vec![delete] }, results(0x2002)));
    samples.extend(call(Fence { items: vec![fence], last: true }, results(4097)));
    let [mut create_joiner, _] = call(CreateChunks { items: vec![joiner] }, results(0x2002));
    create_joiner.name = text("create_chunks_joining.request");
    samples.push(create_joiner);
    samples
}

fn versions() -> Vec<Sample> {
    let (file_id, chunk_id, version) = (4097, 0x2002, 0x11);
    let results = ResultsReply {
        results: vec![ItemResult { id: chunk_id, status: Status::StaleVersion.code().into() }],
    };
    let install = InstallItem {
        chunk_id,
        from_version: 0x10,
        to_version: version,
        role: cs::Role::Joiner.into(),
        keep: true,
    };
    let catch_up = CatchUpItem {
        file_id,
        chunk_id,
        version,
        sources: vec![1025, 1026],
        last_sources: false,
        unreconciled: false,
        spare: false,
    };
    let servers = vec![CsAddress { cs_id: 1025, addresses: vec![text("10.0.0.5:2600")], boot_id: id(2) }];
    let caught_up = CaughtUpItem { chunk_id, version, status: 0x0105, copied_bytes: 1 << 26, lost_blocks: 0 };
    let listed = ListedWrite { epoch: 6, seq: 99, first_block: 5, blocks: 3 };
    let changed = ChangedRegionsReply {
        complete: true,
        since: 0x0f,
        changed: vec![0b101, 0, 0, 0, 0, 0, 0, 0x80],
        listed: vec![listed],
        boot_id: id(2),
    };
    let mut samples = Vec::from(call(InstallVersions { items: vec![install] }, results.clone()));
    let (sources, repaired) = (servers.clone(), results.clone());
    let spare = CatchUpItem { spare: true, ..catch_up.clone() };
    let [mut spare, _] = call(CatchUp { items: vec![spare], servers: servers.clone() }, results.clone());
    spare.name = text("catch_up_spare.request");
    samples.push(spare);
    samples.extend(call(CatchUp { items: vec![catch_up], servers }, results));
    samples.extend(call(CaughtUp { cs_id: 1027, session: 35, items: vec![caught_up] }, Empty {}));
    let lossy = CaughtUpItem { status: 0, lost_blocks: 3, ..caught_up };
    let [mut lossy, _] = call(CaughtUp { cs_id: 1027, session: 35, items: vec![lossy] }, Empty {});
    lossy.name = text("caught_up_lossy.request");
    samples.push(lossy);
    samples.extend(call(ChangedRegions { file_id, chunk_id, version, held: 0x0f }, changed));
    samples.extend(call(CopyFlush { chunk_id, version }, CopyFlushReply { boot_id: id(2) }));
    let (first_block, blocks, unit_blocks) = (512, 600, 256);
    let digest = CopyDigest { file_id, chunk_id, version, first_block, blocks, unit_blocks, examine: true };
    let digests = vec![0x0403_0201, 0, 0x0807_0605];
    let [digest, digested] = call(digest, CopyDigestReply { none_kept: false, digests, left_out: vec![1] });
    let none_kept = CopyDigestReply { none_kept: true, ..CopyDigestReply::default() };
    let [_, mut none] = call(CopyDigest::default(), none_kept);
    none.name = text("copy_digest_none.response");
    samples.extend([digest, digested, none]);
    let compare = CompareItem { file_id, chunk_id, version, members: vec![1025, 1026] };
    let groups = [vec![1025, 1027], vec![1026]].map(|cs_ids| AgreeingMembers { cs_ids });
    let range = BlockRange { first: 43, count: 2 };
    let compared = CompareResult {
        chunk_id,
        status: Status::Ok.code().into(),
        differences: vec![ReplicaDifference { range, groups: groups.into() }],
        differing_blocks: 44,
        left_out_blocks: 45,
    };
    samples.extend(call(
        CompareChunks { items: vec![compare], servers: sources.clone() },
        CompareChunksReply { results: vec![compared] },
    ));
    let ranges = vec![BlockRange { first: 41, count: 42 }, BlockRange { first: 91, count: 1 }];
    let kind = DamageKind::Unreadable.into();
    let damage = DamageItem { chunk_id, version, kind, ranges: ranges.clone(), file_id };
    let repair = RepairItem { file_id, chunk_id, version, ranges, sources: vec![1025, 1026] };
    samples.extend(call(ReportDamage { cs_id: 1027, session: 35, items: vec![damage] }, Empty {}));
    samples.extend(call(RepairBlocks { items: vec![repair], servers: sources }, repaired));
    samples
}

fn mds_info() -> MdsInfo {
    MdsInfo {
        mds_id: 1,
        address: text("10.0.0.2:2510"),
        host_name: text("host-a"),
        path: text("/vstorage/stor1-mds1"),
        status: ServiceStatus::Active.into(),
        master: true,
        commit_time_permille: 20,
        commits_per_s: 150,
        cpu_permille: 30,
        memory_bytes: 10 << 20,
        uptime_ms: 1_980_000,
        software: text("0.1.0"),
    }
}

fn cs_info() -> CsInfo {
    CsInfo {
        cs_id: 1025,
        addresses: vec![text("10.0.0.5:2600")],
        host_name: text("host-a"),
        host_id: text("d0a5b1c2e3f40516"),
        path: text("/vstorage/stor1-cs1"),
        status: ServiceStatus::Inactive.into(),
        flags: FLAG_FAILED_IO,
        tier: 1,
        total_bytes: 1 << 40,
        free_bytes: 1 << 39,
        replicas: 7142,
        unique: 1,
        io_rate: io(500),
        software: text("0.1.0"),
        renewed_ms_ago: 1500,
        journal_path: text("/ssd/cs1-journal"),
        journal_bytes: 2 << 30,
    }
}

fn cluster_stat() -> ClusterStatReply {
    let space = Space {
        total_bytes: 1 << 42,
        free_bytes: 1 << 41,
        allocatable_bytes: 1 << 40,
        allocatable_total_bytes: 1 << 39,
        tier: 0,
    };
    let chunks = ChunkCounts {
        healthy: 1,
        standby: 2,
        degraded: 3,
        urgent: 4,
        blocked: 5,
        pending: 6,
        offline: 7,
        replicating: 8,
        overcommitted: 9,
        deleting: 10,
        void: 11,
    };
    ClusterStatReply {
        name: text("stor1"),
        health: ClusterHealth::Degraded.into(),
        space,
        tiers: vec![Space { tier: 1, ..space }],
        master_id: 1,
        master_uptime_ms: 1_980_001,
        mds_up: 1,
        mds_total: 3,
        cs_active: 2,
        cs_inactive: 4,
        cs_offline: 5,
        cs_total: 11,
        replicas: 3,
        replicas_min: 2,
        chunks,
        fs_bytes: 1 << 30,
        fs_files: 51,
        fs_inodes: 52,
        fs_chunks: 38,
        fs_replicas: 76,
        io: io(600),
        io_rate: io(700),
        mds: vec![mds_info()],
        cs: vec![cs_info()],
        clients: vec![client_info()],
        cluster_uuid: id(1),
        copy_rate: None,
    }
}

fn clusters() -> Vec<Sample> {
    let entry = ConfigEntry {
        key: text("mds.wd.max_offline_cs"),
        value: text("3"),
        default: text("2"),
        description: text("CS that may be offline before the cluster counts as failed"),
    };
    let set = SetConfig { key: text("mds.wd.max_offline_cs"), value: Some(text("3")) };
    let events = GetEvents { after: 41, limit: 10, follow: true, newest: true };
    let mut samples =
        Vec::from(call(GetConfig { prefix: text("mds.") }, GetConfigReply { entries: vec![entry] }));
    samples.extend(call(set, Empty {}));
    samples.extend(call(ListServices {}, ListServicesReply { mds: vec![mds_info()], cs: vec![cs_info()] }));
    samples.extend(call(ClusterStat {}, cluster_stat()));
    let remove = RemoveCs { cs_id: 1028, action: RemoveAction::Release.into() };
    let removing = RemoveCsReply { status: ServiceStatus::Releasing.into(), replicas: 40, bytes: 5 << 30 };
    samples.extend(call(remove, removing));
    let copy_rate = Some(CopyRate { read_bytes: 801, write_bytes: 802 });
    let [_, mut copying] = call(ClusterStat {}, ClusterStatReply { copy_rate, ..cluster_stat() });
    copying.name = text("cluster_stat_copying.response");
    samples.push(copying);
    samples.extend(call(events, GetEventsReply { events: vec![event()], last_id: 43 }));
    samples
}

/// All samples of control operations, and of failures.
pub(crate) fn all() -> Vec<Sample> {
    [
        connection(),
        failures(),
        sessions(),
        names(),
        inodes(),
        leases(),
        chunk_servers(),
        versions(),
        clusters(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
