//! Frozen bytes: what the first version wrote to the log and to snapshots is read for ever, and means the same.
//!
//! `VSTORAGE_BLESS=1 cargo test -p mds state::tests::fixtures` writes the files that are missing, and only those; the
//! checksums are then added with sha256sum(1) to `mds/fixtures/SHA256SUMS`.
//!
//! - `v1/command-NN-NAME.bin`: one command of each kind, every field set.
//! - `v1/history.log`: a log (32-bit little-endian length, then the command, and so on).
//! - `v1/snapshot.bin`: the snapshot after that log.
//! - `v1/history-inodes.log`, `v1/snapshot-inodes.bin`: the same for what came later, inodes as POSIX has them.
//! - `v1/history-members.log`, `v1/snapshot-members.bin`: the same with replicas and chunk servers that come and go.
//! - `v1/history-memory.log`, `v1/snapshot-memory.bin`: the same with chunk servers that have lost their memory.
//! - `v1/access.log`, `v1/access-snapshot.bin`: the same with passwords and nodes.
//! - `v1/server`: the files of a server's directory, for `log::fixtures`.

use super::*;
use crate::state::servers::Standing;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The frozen bytes; written first if they are missing and a new fixture was asked for.
fn frozen(name: &str, fresh: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let path = folder().join("v1").join(name);
    let bless = std::env::var_os("VSTORAGE_BLESS").is_some_and(|value| value == "1");
    if bless && let Ok(mut file) = std::fs::File::create_new(&path) {
        file.write_all(&fresh()).expect("the fixtures are writable");
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn lease() -> Option<LeaseProof> {
    Some(LeaseProof { client: 2049, token: secret(5), epoch: Epoch::new(1, 9).raw() })
}

fn cluster_samples() -> Vec<(&'static str, CommandOp)> {
    vec![
        ("init-cluster", CommandOp::InitCluster(InitCluster { uuid: vec![7; 16], name: "stor1".into() })),
        ("raise-generation", CommandOp::RaiseGeneration(RaiseGeneration::default())),
        (
            "leader-elected",
            CommandOp::LeaderElected(LeaderElected { mds_id: 1, address: "10.0.0.1:2510".into() }),
        ),
        (
            "set-config",
            CommandOp::SetConfig(SetConfig {
                key: "gen.lease_term".into(),
                value: "30".into(),
                origin: "10.0.0.9".into(),
            }),
        ),
        ("skip-ids", CommandOp::SkipIds(SkipIds { chunk: ChunkId::new(1, 99).raw(), newer: false })),
        ("skip-ids-newer", CommandOp::SkipIds(SkipIds { chunk: ChunkId::new(1, 99).raw(), newer: true })),
        (
            "note-event",
            CommandOp::NoteEvent(NoteEvent {
                code: EventCode::ReplicationStarted.into(),
                args: vec!["64".into()],
            }),
        ),
    ]
}

fn name_samples() -> Vec<(&'static str, CommandOp)> {
    let attrs = || {
        Some(AttrChange {
            replicas: Some(ReplicaChange { normal: 3, minimum: Some(2) }),
            failure_domain: Some(FailureDomain::Disk as i32),
            tier: Some(1),
            chunk_size: Some(1 << 20),
            encoding: Some("5+2".into()),
        })
    };
    let path = || "/a/b".to_owned();
    vec![
        ("make-dir", CommandOp::MakeDir(MakeDir { path: path(), parents: true, mode: 0o750 })),
        (
            "create-file",
            CommandOp::CreateFile(CreateFile { path: path(), size: 7, attrs: attrs(), mode: 0o640 }),
        ),
        ("remove", CommandOp::Remove(Remove { path: path(), recursive: true })),
        ("rename", CommandOp::Rename(Rename { from: path(), to: "/c".into(), no_replace: true })),
        (
            "resize",
            CommandOp::Resize(Resize {
                target: Target::file(4),
                size: 8,
                lease: lease(),
                allow_shrink: true,
            }),
        ),
        ("set-attr", CommandOp::SetAttr(SetAttr { path: path(), change: attrs(), recursive: true })),
    ]
}

fn server_samples() -> Vec<(&'static str, CommandOp)> {
    let claim = RegisterCs {
        claimed_id: 1025,
        last_nonce: secret(8),
        tier: 2,
        journal_path: "/ssd/stor1/cs1".into(),
        ..World::claim(1)
    };
    let event = ReportedEvent {
        severity: ReportedSeverity::Error as i32,
        code: "cs.hard_error".into(),
        message: "read error".into(),
    };
    let fences = vec![FenceRecord { file: 4, epoch: 5 }];
    vec![
        ("register-cs", CommandOp::RegisterCs(claim)),
        ("fences-recorded", CommandOp::FencesRecorded(FencesRecorded { cs: 1025, session: 3, fences })),
        ("cs-lapsed", CommandOp::CsLapsed(CsLapsed { cs: 1025, session: 3 })),
        (
            "cs-state-changed",
            CommandOp::CsStateChanged(CsStateChanged {
                cs: 1025,
                session: 3,
                state: CsState::Offline as i32,
            }),
        ),
        (
            "cs-report",
            CommandOp::CsReport(CsReport {
                cs: 1025,
                session: 3,
                total_bytes: 9,
                free_bytes: 8,
                flags: 11,
                events: vec![event.clone()],
                events_only: false,
            }),
        ),
        (
            "cs-report-events",
            CommandOp::CsReport(CsReport {
                cs: 1025,
                session: 3,
                events: vec![event],
                events_only: true,
                ..Default::default()
            }),
        ),
    ]
}

fn client_samples() -> Vec<(&'static str, CommandOp)> {
    let session = OpenSession {
        client_uuid: vec![3; 16],
        host: "h".into(),
        stored_token: secret(4),
        new_token: secret(5),
        build: "0.1.0".into(),
        kind: 3,
    };
    let target = Target { target: Some(TargetRef::Path("/a".into())) };
    let mode = LeaseMode::Exclusive as i32;
    let (client, token, file) = (2049, secret(5), 4);
    let chunks = vec![ReconciledChunk { index: 1, chunk: 2, version: 3 }];
    vec![
        ("open-session", CommandOp::OpenSession(session)),
        ("close-session", CommandOp::CloseSession(CloseSession { client, token })),
        ("expire-session", CommandOp::ExpireSession(ExpireSession { client, session: 6 })),
        ("open", CommandOp::Open(Open { client, token, target: Some(target.clone()), mode })),
        ("resume", CommandOp::Resume(Resume { client, token, file, mode, epoch: 9 })),
        ("release", CommandOp::Release(Release { lease: lease(), file, clean: true, successor: 2050 })),
        ("revoke", CommandOp::Revoke(Revoke { what: Some(RevokeWhat::File(target.clone())), told: false })),
        ("revoke-told", CommandOp::Revoke(Revoke { what: Some(RevokeWhat::File(target)), told: true })),
        (
            "reconcile-done",
            CommandOp::ReconcileDone(ReconcileDone { lease: lease(), file, chunks, writes_lost: false }),
        ),
        ("end-reservation", CommandOp::EndReservation(EndReservation { file, client, session: 6 })),
    ]
}

fn chunk_samples() -> Vec<(&'static str, CommandOp)> {
    let chunks = || vec![1, 1 << 48];
    vec![
        (
            "allocate-chunks",
            CommandOp::AllocateChunks(AllocateChunks {
                lease: lease(),
                file: 4,
                indices: vec![0, 70_000],
                seed: 1 << 63,
                grow_to: 0,
            }),
        ),
        ("chunk-created", CommandOp::ChunkCreated(ChunkCreated { cs: 1025, session: 3, chunks: chunks() })),
        ("replace-creating", CommandOp::ReplaceCreating(ReplaceCreating { chunk: 6, cs: 1025, seed: 7 })),
        ("purge-chunks", CommandOp::PurgeChunks(PurgeChunks { chunks: chunks() })),
        ("chunks-purged", CommandOp::ChunksPurged(ChunksPurged { cs: 1025, session: 3, chunks: chunks() })),
    ]
}

fn member_samples() -> Vec<(&'static str, CommandOp)> {
    let (cs, session) = (1025, 3);
    let versions = || vec![ChunkVersion { chunk: 1 << 48, version: 9, copied_bytes: 65_536, lost_blocks: 0 }];
    let lossy = ChunkVersion { lost_blocks: 3, ..versions()[0] };
    let loss = LossAt { file: 4, index: 70_000, version: 9 };
    let drop = DropMember {
        lease: lease(),
        file: 4,
        cs,
        chunk: 1 << 48,
        version: 9,
        lost: true,
        why: "no answer".into(),
    };
    let chunks = vec![ChunkPosition { file: 4, index: 70_000 }];
    let place = ReplicaPlace { file: 4, index: 70_000, version: 9, cs };
    let unknown = UnknownReplica { chunk: 1 << 48, version: 9, file: 4, index: 70_000 };
    vec![
        ("drop-member", CommandOp::DropMember(drop)),
        ("join-members", CommandOp::JoinMembers(JoinMembers { cs, session, chunks })),
        ("promote-members", CommandOp::PromoteMembers(PromoteMembers { cs, session, chunks: versions() })),
        (
            "promote-members-lossy",
            CommandOp::PromoteMembers(PromoteMembers { cs, session, chunks: vec![lossy] }),
        ),
        (
            "versions-installed",
            CommandOp::VersionsInstalled(VersionsInstalled { cs, session, chunks: versions() }),
        ),
        ("add-replicas", CommandOp::AddReplicas(AddReplicas { places: vec![place] })),
        ("remove-replicas", CommandOp::RemoveReplicas(RemoveReplicas { places: vec![place] })),
        (
            "release-cs",
            CommandOp::ReleaseCs(ReleaseCs { cs, how: Leave::Lost.into(), origin: "node-a".into() }),
        ),
        ("drop-cs", CommandOp::DropCs(DropCs { cs })),
        (
            "quarantine-replicas",
            CommandOp::QuarantineReplicas(QuarantineReplicas { cs, session, replicas: vec![unknown] }),
        ),
        ("lose-replicas", CommandOp::LoseReplicas(LoseReplicas { cs, session, places: vec![place] })),
        ("settle-losses", CommandOp::SettleLosses(SettleLosses { chunks: vec![loss] })),
    ]
}

fn inode_samples() -> Vec<(&'static str, CommandOp)> {
    let (parent, name, now_ns) = (4, b"n\xff".to_vec(), 1_700_000_000_123_456_789);
    let make = MakeNode {
        parent,
        name: name.clone(),
        kind: NodeKind::BlockDevice.into(),
        mode: 0o6640,
        uid: 1000,
        gid: 1001,
        rdev: 0x0801,
        target: b"../to".to_vec(),
        exclusive: true,
        opener: Some(SessionProof { client: 2049, token: secret(5) }),
        now_ns,
    };
    let rename = RenameNode {
        parent,
        name: name.clone(),
        new_parent: 5,
        new_name: b"m".to_vec(),
        mode: RenameMode::Exchange.into(),
        now_ns,
    };
    let set = SetInode {
        id: 6,
        mode: Some(0o600),
        uid: Some(0),
        gid: Some(1),
        size: Some(SizeSet { size: 7, lease: lease(), grow_only: true }),
        atime_ns: Some(-1),
        mtime_ns: Some(2),
        ctime_ns: Some(3),
        now_ns,
    };
    let what = UnlinkWhat::Directory.into();
    let set_xattr = SetXattr {
        id: 6,
        name: b"user.a".to_vec(),
        value: vec![0, 0xff],
        mode: XattrMode::Replace.into(),
        now_ns,
    };
    let grow = AllocateChunks { lease: lease(), file: 4, indices: vec![0], seed: 1, grow_to: 77 };
    vec![
        ("allocate-chunks-grow", CommandOp::AllocateChunks(grow)),
        ("make-node", CommandOp::MakeNode(make)),
        ("link-node", CommandOp::LinkNode(LinkNode { id: 6, parent, name: name.clone(), now_ns })),
        ("unlink-node", CommandOp::UnlinkNode(UnlinkNode { parent, name, what, now_ns })),
        ("rename-node", CommandOp::RenameNode(rename)),
        ("set-inode", CommandOp::SetInode(set)),
        ("set-xattr", CommandOp::SetXattr(set_xattr)),
        ("remove-xattr", CommandOp::RemoveXattr(RemoveXattr { id: 6, name: b"user.a".to_vec(), now_ns })),
    ]
}

fn access_samples() -> Vec<(&'static str, CommandOp)> {
    let (name, host_id) = (|| "s1".to_owned(), "0123456789abcdef".to_owned());
    let address = || "10.0.0.7".to_owned();
    vec![
        (
            "set-password",
            CommandOp::SetPassword(SetPassword { verifier: vec![1, 2, 3], replaces: 0, origin: address() }),
        ),
        ("admit-node", CommandOp::AdmitNode(AdmitNode { name: name(), host_id, address: address() })),
        ("revoke-node", CommandOp::RevokeNode(RevokeNode { number: 1, origin: name() })),
        (
            "logins-failed",
            CommandOp::LoginsFailed(LoginsFailed { wrong: 3, ignored: 40, address: address() }),
        ),
        ("note-hour", CommandOp::NoteHour(NoteHour { hours: 1 })),
    ]
}

/// One command of each kind, under its name.
fn samples() -> Vec<(String, Command)> {
    let all = [
        cluster_samples(),
        name_samples(),
        server_samples(),
        client_samples(),
        chunk_samples(),
        member_samples(),
        inode_samples(),
        access_samples(),
    ];
    let named = |(name, op): (&str, CommandOp)| {
        let file = format!("command-{:02}-{name}.bin", op.kind());
        (file, Command::requested(1_700_000_000_123, 42, 7, op))
    };
    all.into_iter().flatten().map(named).collect()
}

/// A life of a cluster that touches most of what a snapshot holds.
fn history() -> Vec<Command> {
    let (mut world, a) = World::with_servers(4);
    world.ok(CommandOp::LeaderElected(LeaderElected { mds_id: 1, address: "10.0.0.1:2510".into() }));
    for (_, op) in cluster_samples().into_iter().filter(|(name, _)| *name == "set-config") {
        world.ok(op);
    }
    world.ok(CommandOp::MakeDir(MakeDir { path: "/d/e".into(), parents: true, mode: 0o755 }));
    let tier = Some(AttrChange { tier: Some(1), ..Default::default() });
    world.ok(CommandOp::SetAttr(SetAttr { path: "/d".into(), change: tier, recursive: true }));
    let b = world.session(2);
    let written = world.written_file(a, "/d/e/written", 5, 3);
    let reading = world.written_file(a, "/d/reading", 2, 2);
    world.release(a, reading, true);
    world.granted(World::open_op(a, reading, LeaseMode::Shared));
    world.granted(World::open_op(b, reading, LeaseMode::Shared));
    let creating = world.file("/creating", 9, 4);
    world.open(b, creating);
    world.allocate(b, creating, &[1, 8]);
    let unlinked = world.written_file(b, "/unlinked", 1, 1);
    world.ok(CommandOp::Remove(Remove { path: "/unlinked".into(), recursive: false }));
    let deleted = world.written_file(b, "/deleted", 3, 2);
    world.release(b, deleted, false);
    world.ok(CommandOp::Remove(Remove { path: "/deleted".into(), recursive: false }));
    let some = world.state.quarantined().take(2).map(|(chunk, _)| chunk.raw()).collect();
    world.ok(CommandOp::PurgeChunks(PurgeChunks { chunks: some }));
    // A rolled back chunk server, one that lapsed, one that owes a fence.
    let image = world.claim_again(1);
    world.register(image.clone());
    world.confirm(1, vec![]);
    world.lapse(1);
    world.register(RegisterCs { new_nonce: secret(4444), ..image });
    world.lapse(2);
    let a2 = world.session_with(1, a.token);
    world.fencing(World::open_op(a2, written, LeaseMode::Exclusive));
    let c = world.session(3);
    world.expire(c);
    let refused = CommandOp::CreateFile(CreateFile { path: "/d".into(), ..Default::default() });
    world.apply(Command::requested(5, 9, 1, refused)).outcome.unwrap_err();
    let kept = CommandOp::CreateFile(CreateFile { path: "/f".into(), ..Default::default() });
    world.apply(Command::requested(6, 9, 2, kept)).outcome.unwrap();
    assert!(world.state.tree().orphans().contains(&FileId::from_raw(unlinked)));
    world.log
}

/// A life of a cluster of mounts.
fn inode_history() -> Vec<Command> {
    let (mut world, a) = World::with_servers(2);
    let now = std::cell::Cell::new(1_700_000_000_000_000_001);
    let tick = || {
        now.set(now.get() + 1_000_001);
        now.get()
    };
    let make = |world: &mut World, parent: u64, name: &[u8], kind: NodeKind, open: bool| {
        let op = MakeNode {
            parent,
            name: name.to_vec(),
            kind: kind.into(),
            mode: 0o2755,
            uid: 1000,
            gid: 100,
            rdev: 0x0103,
            target: b"../to\xff".to_vec(),
            exclusive: true,
            opener: open.then_some(SessionProof { client: a.client, token: a.token }),
            now_ns: tick(),
        };
        match world.ok(CommandOp::MakeNode(op)) {
            Outcome::Made(made) => made.id,
            other => panic!("{other:?}"),
        }
    };
    let link = |id, parent, name: &[u8]| {
        CommandOp::LinkNode(LinkNode { id, parent, name: name.to_vec(), now_ns: tick() })
    };
    let unlink = |parent, name: &[u8]| {
        let what = UnlinkWhat::Any.into();
        CommandOp::UnlinkNode(UnlinkNode { parent, name: name.to_vec(), what, now_ns: tick() })
    };
    let xattr = |id, name: &[u8], value: &[u8]| {
        let (name, value, mode) = (name.to_vec(), value.to_vec(), XattrMode::Any.into());
        CommandOp::SetXattr(SetXattr { id, name, value, mode, now_ns: tick() })
    };
    let rename = |from: (u64, &[u8]), to: (u64, &[u8]), mode: RenameMode| {
        let (parent, name, new_parent, new_name) = (from.0, from.1.to_vec(), to.0, to.1.to_vec());
        let op = RenameNode { parent, name, new_parent, new_name, mode: mode.into(), now_ns: tick() };
        CommandOp::RenameNode(op)
    };
    world.ok(CommandOp::MakeDir(MakeDir { path: "/by path".into(), parents: false, mode: 0o755 }));
    let dir = make(&mut world, 0, b"d\xe9", NodeKind::Directory, false);
    let sub = make(&mut world, dir, b"sub", NodeKind::Directory, false);
    let file = make(&mut world, dir, b"f", NodeKind::File, true);
    for (name, kind) in [
        (&b"l"[..], NodeKind::Symlink),
        (b"p", NodeKind::Fifo),
        (b"s", NodeKind::Socket),
        (b"c", NodeKind::CharDevice),
        (b"b", NodeKind::BlockDevice),
    ] {
        make(&mut world, sub, name, kind, false);
    }
    let lease = world.proof(a, file);
    let grow = AllocateChunks { lease, file, indices: vec![0, 1], seed: 7, grow_to: (64 << 20) + 5 };
    world.ok(CommandOp::AllocateChunks(grow));
    world.create_all();
    for (parent, name) in [(0, &b"one"[..]), (dir, b"two"), (sub, b"three")] {
        world.ok(link(file, parent, name));
    }
    world.ok(unlink(dir, b"f"));
    world.ok(xattr(file, b"user.a", b"1"));
    world.ok(xattr(dir, b"user.b", &[0xff; 300]));
    world.ok(xattr(dir, b"user.c", b""));
    let drop = RemoveXattr { id: dir, name: b"user.c".to_vec(), now_ns: tick() };
    world.ok(CommandOp::RemoveXattr(drop));
    let size = Some(SizeSet { size: 9, lease, grow_only: false });
    let set =
        SetInode { id: file, size, atime_ns: Some(-5), uid: Some(7), now_ns: tick(), ..SetInode::default() };
    world.ok(CommandOp::SetInode(set));
    world.ok(rename((sub, b"l"), (0, b"moved"), RenameMode::NoReplace));
    world.ok(rename((0, b"moved"), (sub, b"p"), RenameMode::Exchange));
    make(&mut world, 0, b"old", NodeKind::File, true);
    world.ok(rename((sub, b"b"), (0, b"old"), RenameMode::Replace));
    let kept = |request, op| Command::requested(5, 9, request, op);
    world.apply(kept(1, unlink(0, b"moved"))).outcome.unwrap();
    world.apply(kept(2, unlink(0, b"moved"))).outcome.unwrap_err();
    world.apply(kept(3, rename((0, b"old"), (sub, b"c"), RenameMode::Replace))).outcome.unwrap();
    assert_eq!(world.state.tree().orphans().len(), 1);
    assert_eq!(world.state.tree().nlink(FileId::from_raw(file)), 3);
    world.log
}

/// Replicas leave, return, are made elsewhere, lack blocks, and go; so do chunk servers.
fn member_history() -> Vec<Command> {
    let (mut world, a) = World::with_servers(5);
    let file = world.written_file(a, "/m", 3, 2);
    // One returns by difference.
    let away = world.holder(file, 0, 0);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, away)));
    assert!(world.join(away) > 0 && world.fill_all() > 0);
    // Another is made instead of one that is offline, and lacks blocks, which that one may have.
    let lost = world.holder(file, 0, 1);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, lost)));
    world.goes_offline(lost);
    assert!(world.take_steps().0 > 0 && world.make_all() > 0);
    world.fill_lossy(2);
    world.returns(lost);
    assert!(world.join(lost) > 0 && world.fill_all() > 0);
    assert!(world.settle_all() > 0 && world.take_steps().1 > 0);
    // One is emptied and leaves, one is given up.
    let leaves = world.holder(file, 1, 0);
    world.ok(world.release_op(leaves, Leave::Leave));
    while world.take_steps() != (0, 0) {
        world.make_all();
        world.fill_all();
    }
    let id = 1024 + u32::from(leaves);
    world.ok(CommandOp::DropCs(DropCs { cs: id }));
    let given_up = world.holder(file, 2, 0);
    world.lapse(given_up);
    world.ok(world.release_op(given_up, Leave::Lost));
    assert!(world.take_steps().0 > 0 && world.make_all() > 0);
    // What is under way stays so: somebody is being filled, somebody has left, somebody has versions to install.
    let gone = world.holder(file, 0, 0);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, gone)));
    world.log
}

/// Two files lose the memory of a member each; one is reconciled, the other waits for who is offline.
fn memory_history() -> Vec<Command> {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/reconciled", 2, 2);
    let reboot = |world: &mut World, number: u8, boot: u8| {
        let claim = RegisterCs { boot_id: vec![boot; 16], ..world.claim_again(number) };
        let fences = world.register(claim).fences;
        world.confirm(number, fences);
    };
    let rebooted = world.holder(file, 0, 0);
    reboot(&mut world, rebooted, 77);
    let waits = world.written_file(a, "/waits", 2, 2);
    let (away, rebooted) = (world.holder(waits, 0, 0), world.holder(waits, 0, 1));
    world.goes_offline(away);
    reboot(&mut world, rebooted, 78);
    let chunks = [0, 1].map(|index| {
        let chunk = world.chunk(file, index);
        ReconciledChunk { index, chunk: chunk.chunk.raw(), version: chunk.version.raw() }
    });
    let done =
        ReconcileDone { lease: world.proof(a, file), file, chunks: chunks.to_vec(), writes_lost: false };
    world.ok(CommandOp::ReconcileDone(done));
    world.log
}

fn write_log(commands: &[Command]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in commands {
        let entry = command.encode_log();
        bytes.extend(u32::try_from(entry.len()).expect("short").to_le_bytes());
        bytes.extend(entry);
    }
    bytes
}

fn read_log(mut bytes: &[u8]) -> Vec<Command> {
    let mut commands = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (entry, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        commands.push(Command::decode_log(entry).expect("a command of the first version"));
        bytes = rest;
    }
    commands
}

#[test]
fn every_kind_of_command_is_read_as_it_was_written_first() {
    let samples = samples();
    assert_eq!(samples.len(), 59, "one for each kind, and five with a field that came later");
    for (name, command) in samples {
        let bytes = frozen(&name, || command.encode_log());
        assert_eq!(Command::decode_log(&bytes), Ok(command.clone()), "{name}");
        assert_eq!(command.encode_log(), bytes, "{name}");
    }
}

#[test]
fn the_first_log_still_gives_the_first_state() {
    // If this fails, a server of this version would differ from one of an earlier version that applied the same
    // log: give the new behaviour to a new kind of command.
    let commands = read_log(&frozen("history.log", || write_log(&history())));
    let mut state = State::new();
    for (n, command) in commands.iter().enumerate() {
        state.apply(n as u64 + 1, command);
    }
    let bytes = frozen("snapshot.bin", || state.encode_snapshot());
    assert!(State::decode_snapshot(&bytes) == Ok(state.clone()));
    assert!(state.encode_snapshot() == bytes);
}

#[test]
fn the_log_of_inodes_still_gives_its_state() {
    let commands = read_log(&frozen("history-inodes.log", || write_log(&inode_history())));
    let mut state = State::new();
    for (n, command) in commands.iter().enumerate() {
        state.apply(n as u64 + 1, command);
    }
    let bytes = frozen("snapshot-inodes.bin", || state.encode_snapshot());
    assert!(State::decode_snapshot(&bytes) == Ok(state.clone()));
    assert!(state.encode_snapshot() == bytes);
    let file = state.stat("/one").unwrap();
    let node = state.inode_view(file.id.raw()).unwrap();
    assert_eq!((node.nlink, node.uid, node.size, node.times.access), (3, 7, 9, -5));
    assert_eq!(state.stat("/d\u{fffd}e9/two").unwrap().id, file.id);
    assert_eq!(state.xattr(file.id.raw(), b"user.a"), Ok(&b"1"[..]));
    let page = state.read_dir(state.stat("/d\u{fffd}e9/sub").unwrap().id.raw(), b"", 9).unwrap();
    let kinds: Vec<_> = page.entries.iter().map(|(_, node)| node.kind).collect();
    use NodeKind::*;
    assert_eq!(kinds, [BlockDevice, Symlink, Socket, File], "of c, p, s and three");
}

#[test]
fn the_log_of_members_still_gives_its_state() {
    let commands = read_log(&frozen("history-members.log", || write_log(&member_history())));
    let mut state = State::new();
    for (n, command) in commands.iter().enumerate() {
        state.apply(n as u64 + 1, command);
    }
    let bytes = frozen("snapshot-members.bin", || state.encode_snapshot());
    let read = State::decode_snapshot(&bytes).unwrap();
    assert!(read == state && state.encode_snapshot() == bytes);
    let states: Vec<CsState> = read.servers().map(|server| server.state).collect();
    assert_eq!(states.iter().filter(|state| **state == CsState::Dropped).count(), 1);
    assert!(!read.is_somebody_lacking(), "everybody was asked");
    assert!(!read.pending_work().is_empty(), "versions to be installed, a replica to be filled");
    let told = |code| read.events().iter().any(|event| event.code == code);
    assert!(told(EventCode::BlocksLost) && told(EventCode::ReplicasReturned));
}

#[test]
fn the_log_of_memories_still_gives_its_state() {
    let commands = read_log(&frozen("history-memory.log", || write_log(&memory_history())));
    let mut state = State::new();
    for (n, command) in commands.iter().enumerate() {
        state.apply(n as u64 + 1, command);
    }
    let bytes = frozen("snapshot-memory.bin", || state.encode_snapshot());
    let read = State::decode_snapshot(&bytes).unwrap();
    assert!(read == state && state.encode_snapshot() == bytes);
    let told = |code| read.events().iter().filter(|event| event.code == code).count();
    assert_eq!((told(EventCode::CsRebooted), told(EventCode::LastMemoryAway)), (2, 2));
    let of_waits = read.stat("/waits").expect("a file").id;
    let forgetful = |file| {
        let map = read.file_map(file, 0, 1).expect("a file");
        map.chunks[0].members.iter().filter(|member| member.forgetful).count()
    };
    assert_eq!((forgetful(of_waits), forgetful(read.stat("/reconciled").expect("a file").id)), (1, 0));
}

#[test]
fn the_first_snapshot_holds_what_it_should() {
    let state = State::decode_snapshot(&frozen("snapshot.bin", Vec::new)).unwrap();
    assert_eq!(state.cluster().map(|cluster| cluster.name.as_str()), Some("stor1"));
    assert_eq!(state.config(Parameter::LeaseTerm), 30);
    assert_eq!(state.server(CsId(1025)).map(|server| server.standing), Some(Standing::Stale));
    assert!(state.server(CsId(1026)).is_some_and(|server| server.is_lapsed() && server.debts().count() > 0));
    assert_eq!(state.stat("/d/e/written").unwrap().attrs.tier, 1);
    assert!(!state.pending_work().is_empty());
}

/// Password and nodes came after the first log: they have one of their own.
#[test]
fn the_first_log_with_nodes_still_gives_its_state() {
    let fresh = || {
        let mut world = World::new();
        let admit = || access_samples().swap_remove(1).1;
        world.ok(admit());
        access_samples().into_iter().for_each(|(_, op)| drop(world.ok(op)));
        world.ok(admit());
        world.ok(CommandOp::NoteHour(NoteHour { hours: 2 }));
        let verifier = vec![4, 5, 6];
        world.ok(CommandOp::SetPassword(SetPassword { verifier, replaces: 1, origin: String::new() }));
        world.ok(CommandOp::RaiseGeneration(RaiseGeneration::default()));
        world.ok(admit());
        write_log(&world.log)
    };
    let mut state = State::new();
    for (n, command) in read_log(&frozen("access.log", fresh)).iter().enumerate() {
        state.apply(n as u64 + 1, command);
    }
    let bytes = frozen("access-snapshot.bin", || state.encode_snapshot());
    let read = State::decode_snapshot(&bytes).unwrap();
    assert!(read == state && state.encode_snapshot() == bytes);
    let nodes = read.nodes();
    assert_eq!((nodes.password().version, nodes.password().verifier.as_slice()), (2, &[4, 5, 6][..]));
    assert_eq!((nodes.hours(), nodes.revoked().collect::<Vec<_>>()), (2, vec![1]));
    let numbers: Vec<u64> = nodes.after(0).map(|node| node.number).collect();
    assert_eq!(numbers[..3], [1, 2, 3]);
    assert!(numbers[3] > 1 << 20, "a restored backup may not know of those before");
}

/// Changes bytes in one of many ways.
fn mutate(rng: &mut rt::random::Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.below(bytes.len() as u64) as usize;
        match rng.below(5) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
            2 => bytes.truncate(at),
            3 => bytes.extend_from_within(at..),
            _ => {
                let end = bytes.len().min(at + 9);
                bytes[at..end].fill(0xff);
            }
        }
    }
}

/// A command that can be read can be applied: a member of another version, or a client with strange wishes, never ends
/// this one.
#[test]
fn a_hundred_thousand_strange_commands_never_panic() {
    let seeds: Vec<Vec<u8>> = samples().iter().map(|(_, command)| command.encode_log()).collect();
    let before = State::decode_snapshot(&frozen("snapshot.bin", Vec::new)).unwrap();
    let mut rng = rt::random::Rng::from_seed(8);
    let (mut state, mut index) = (before.clone(), 1 << 20);
    let (mut applied, mut refused) = (0, 0);
    for n in 0..100_000 {
        let mut bytes = seeds[n % seeds.len()].clone();
        mutate(&mut rng, &mut bytes);
        match Command::decode_log(&bytes) {
            Ok(command) => {
                index += 1;
                state.apply(index, &command);
                applied += 1;
            }
            Err(_) => refused += 1,
        }
        if n % 200 == 199 {
            state = before.clone();
        }
    }
    assert!(applied > 5_000 && refused > 10_000, "both ways are gone: {applied} applied, {refused} refused");
}

/// Puts right what a header says of its body, so that what lies behind is reached.
fn mend_header(bytes: &mut [u8]) {
    let Some((header, body)) = bytes.split_at_mut_checked(32) else { return };
    header[16..24].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[24..28].copy_from_slice(&crc_fast::crc32_iscsi(body).to_le_bytes());
    let sum = crc_fast::crc32_iscsi(&header[..28]).to_le_bytes();
    header[28..].copy_from_slice(&sum);
}

#[test]
fn damaged_snapshots_never_panic() {
    let goods =
        ["snapshot.bin", "access-snapshot.bin", "snapshot-inodes.bin"].map(|name| frozen(name, Vec::new));
    for good in &goods {
        let mut mended = good.clone();
        mend_header(&mut mended);
        assert!(mended == *good, "the header is mended as it was made");
    }
    let mut rng = rt::random::Rng::from_seed(9);
    let (mut taken, mut refused) = (0, 0);
    for n in 0..100_000 {
        let good = &goods[n / 8 % 3];
        let mut body = good[32..].to_vec();
        mutate(&mut rng, &mut body);
        let mut bytes = [&good[..32], &body[..]].concat();
        if n % 8 > 0 {
            mend_header(&mut bytes);
        }
        match State::decode_snapshot(&bytes) {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(taken > 100 && refused > 10_000, "both ways are gone: {taken} taken, {refused} refused");
}

#[test]
fn every_fixture_is_listed_with_its_checksum() {
    let list = std::fs::read_to_string(folder().join("SHA256SUMS")).expect("the list of checksums");
    let listed: BTreeSet<String> = list
        .lines()
        .map(|line| {
            let (sum, name) = line.split_once("  ").expect("checksum and name");
            assert!(sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
            name.to_owned()
        })
        .collect();
    let mut there = BTreeSet::new();
    let mut folders = vec!["v1".to_owned()];
    while let Some(below) = folders.pop() {
        for entry in std::fs::read_dir(folder().join(&below)).expect("the fixtures") {
            let entry = entry.expect("a fixture");
            let name = format!("{below}/{}", entry.file_name().display());
            if entry.file_type().expect("a file or folder").is_dir() {
                folders.push(name);
            } else {
                there.insert(name);
            }
        }
    }
    assert_eq!(listed, there);
}
