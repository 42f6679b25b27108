//! Replicas that leave, return and are promoted (C3, C6, C7).

use super::*;
use crate::state::chunk::{Member, MemberState};
use crate::state::health::ChunkHealth;

/// A file with chunks in use on three servers, minimum two; and its chunks' members by server number.
fn world() -> (World, Session, u64) {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 3, 3);
    (world, a, file)
}

impl World {
    pub(super) fn chunk(&self, file: u64, index: u32) -> query::ChunkView {
        let map = self.state.file_map(FileId::from_raw(file), index, 1).expect("a file");
        map.chunks.into_iter().next().expect("a chunk")
    }

    pub(super) fn state_on(&self, file: u64, index: u32, n: u8) -> MemberState {
        let id = self.cs(n).id;
        let is_on = |member: &&Member| member.cs == id;
        self.chunk(file, index).members.iter().find(is_on).expect("a member").state
    }

    pub(super) fn drop_op(&self, session: Session, file: u64, n: u8) -> DropMember {
        let chunk = self.chunk(file, 0);
        DropMember {
            lease: self.proof(session, file),
            file,
            cs: self.cs(n).id.0,
            chunk: chunk.chunk.raw(),
            version: chunk.version.raw(),
            lost: false,
            why: "no answer".into(),
        }
    }

    /// The only member of the first chunk.
    pub(super) fn source(&self, file: u64) -> CsId {
        let members = self.chunk(file, 0).members;
        members.iter().find(|member| member.state == MemberState::InSync).expect("a member").cs
    }

    #[track_caller]
    pub(super) fn count(&mut self, op: CommandOp) -> u64 {
        match self.ok(op) {
            Outcome::Acknowledged(count) => count,
            other => panic!("{other:?}"),
        }
    }

    /// The chunk server installs all it is told; how many that were.
    pub(super) fn install(&mut self, n: u8) -> u64 {
        let (cs, session) = self.cs_name(n);
        let mut count = 0;
        for effect in self.state.pending_for(CsId(cs)) {
            let Effect::InstallVersions { chunks, .. } = effect else { continue };
            let chunk = |order: &InstallOrder| ChunkVersion {
                chunk: order.chunk.raw(),
                version: order.to.raw(),
                copied_bytes: 0,
                lost_blocks: 0,
            };
            let chunks = chunks.iter().map(chunk).collect();
            count += self.count(CommandOp::VersionsInstalled(VersionsInstalled { cs, session, chunks }));
        }
        count
    }

    pub(super) fn join(&mut self, n: u8) -> u64 {
        let (cs, session) = self.cs_name(n);
        let chunks = self.state.returning(CsId(cs), 100).into_iter();
        let chunks = chunks.map(|(file, index)| ChunkPosition { file: file.raw(), index }).collect();
        self.count(CommandOp::JoinMembers(JoinMembers { cs, session, chunks }))
    }

    pub(super) fn copies(&self, n: u8) -> Vec<CopyOrder> {
        let copies = self.state.pending_for(self.cs(n).id).into_iter();
        let copies = copies.filter_map(|effect| match effect {
            Effect::CatchUp { chunks, .. } => Some(chunks),
            _ => None,
        });
        copies.flatten().collect()
    }

    pub(super) fn promote_op(&self, n: u8, orders: &[CopyOrder]) -> CommandOp {
        let (cs, session) = self.cs_name(n);
        let chunk = |order: &CopyOrder| ChunkVersion {
            chunk: order.chunk.raw(),
            version: order.version.raw(),
            copied_bytes: 1 << 16,
            lost_blocks: 0,
        };
        CommandOp::PromoteMembers(PromoteMembers { cs, session, chunks: orders.iter().map(chunk).collect() })
    }
}

#[test]
fn c3_one_report_drops_a_server_from_the_whole_file() {
    let (mut world, a, file) = world();
    let before = world.chunk(file, 1).version;
    let applied = world.run(CommandOp::DropMember(world.drop_op(a, file, 1)));
    assert_eq!(applied.outcome, Ok(Outcome::Acknowledged(3)));
    let told: Vec<_> =
        applied.effects.iter().filter(|e| matches!(e, Effect::InstallVersions { .. })).collect();
    assert_eq!(told.len(), 2, "one order to each that remains");
    for index in 0..3 {
        assert_eq!(world.state_on(file, index, 1), MemberState::Absent);
    }
    assert!(world.chunk(file, 1).version > before);
    assert_eq!(world.last_events(1), [EventCode::ReplicasLeft]);
    // Reported again by those who have not heard: nothing changes.
    let late = DropMember { version: before.raw(), ..world.drop_op(a, file, 2) };
    assert!(!world.state.may_drop(&late));
    assert_eq!(world.count(CommandOp::DropMember(late)), 0);
    // The second one: below the minimum.
    let second = world.drop_op(a, file, 2);
    assert_eq!(world.count(CommandOp::DropMember(second)), 0);
    assert_eq!(world.chunk(file, 0).health, ChunkHealth::Urgent);
    world.lapse(2);
    assert_eq!(world.chunk(file, 0).health, ChunkHealth::Blocked);
}

#[test]
fn only_the_holder_reports() {
    let (mut world, a, file) = world();
    let b = world.session(2);
    let mut op = world.drop_op(a, file, 1);
    op.lease = world.proof(b, file);
    assert!(matches!(world.refused(CommandOp::DropMember(op.clone())), Refusal::NotHolder(_)));
    op.lease = world.proof(a, file).map(|lease| LeaseProof { epoch: lease.epoch - 1, ..lease });
    assert!(matches!(world.refused(CommandOp::DropMember(op)), Refusal::WrongEpoch(_)));
    let all_lost = DropMember { chunk: 0, lost: true, ..world.drop_op(a, file, 1) };
    assert_eq!(world.refused(CommandOp::DropMember(all_lost)).kind(), RefusalKind::Invalid);
}

#[test]
fn c6_c7_an_absent_replica_joins_is_filled_and_promoted() {
    let (mut world, a, file) = world();
    world.ok(CommandOp::DropMember(world.drop_op(a, file, 1)));
    assert_eq!(world.join(1), 3);
    assert_eq!(world.state_on(file, 2, 1), MemberState::Joining);
    assert_eq!(world.chunk(file, 0).health, ChunkHealth::Replicating);
    let (chunk, version) = (world.chunk(file, 0).chunk, world.chunk(file, 0).version);
    let version_on = |n: u8| world.state.version_on(FileId::from_raw(file), chunk, world.cs(n).id);
    assert_eq!([1, 2].map(version_on), [None, Some(version)], "only members are repaired");
    // The versions of leaving and joining are installed with one order.
    let due = world.state.pending_for(world.cs(2).id);
    let [Effect::InstallVersions { chunks, .. }] = &due[..] else { panic!("{due:?}") };
    assert!(chunks.iter().all(|order| order.from.counter() + 2 == order.to.counter() && order.keep));
    assert_eq!(world.copies(1), [], "nobody has installed");
    assert_eq!(world.install(1), 3);
    let waiting = world.copies(1);
    assert!(
        waiting.len() == 3 && world.state.copy_sources(world.cs(1).id, &waiting[0]).is_empty(),
        "no member has installed"
    );
    assert_eq!(world.install(2), 3);
    let orders = world.copies(1);
    assert_eq!(orders.len(), 3, "one member is enough");
    let source = world.cs(2).id;
    assert_eq!(world.state.copy_sources(world.cs(1).id, &orders[0]), [source]);
    // Some are done; another version's report is not taken.
    let old = CopyOrder { version: Version::first(1), ..orders[2] };
    assert_eq!(world.count(world.promote_op(1, &[orders[0], old])), 1);
    assert_ne!(world.last_events(1), [EventCode::ReplicasReturned], "two are left");
    assert_eq!(world.count(world.promote_op(1, &orders)), 2);
    let event = world.state.events().iter().next_back().unwrap().clone();
    assert_eq!(event.code, EventCode::ReplicasReturned);
    assert!(event.message().contains("3 were filled, 196608 bytes"), "{}", event.message());
    (1..=3).for_each(|n| assert!(world.install(n) > 0));
    assert_eq!(world.chunk(file, 0).health, ChunkHealth::Healthy);
    assert!(!world.state.pending_work().iter().any(|e| matches!(e, Effect::InstallVersions { .. })));
}

#[test]
fn c3_a_chunk_without_enough_members_is_mended_by_the_one_that_returns() {
    let (mut world, a, file) = world();
    world.ok(CommandOp::DropMember(world.drop_op(a, file, 1)));
    world.lapse(2);
    assert_eq!(world.count(CommandOp::DropMember(world.drop_op(a, file, 2))), 0, "only one would remain");
    assert_eq!(world.chunk(file, 0).health, ChunkHealth::Blocked);
    assert_eq!(world.join(1), 3);
    world.install(1);
    world.install(3);
    let orders = world.copies(1);
    assert_eq!(world.count(world.promote_op(1, &orders)), 3);
    assert_eq!(world.state_on(file, 0, 1), MemberState::InSync);
    assert_eq!(world.state_on(file, 0, 2), MemberState::Absent, "left with the same command");
    assert_eq!(world.chunk(file, 0).health, ChunkHealth::Standby);
}

#[test]
fn c5_joiners_leave_what_is_to_be_reconciled() {
    for cause in 0..3 {
        let (mut world, a, file) = world();
        world.ok(CommandOp::DropMember(world.drop_op(a, file, 1)));
        world.join(1);
        (1..=3).for_each(|n| {
            world.install(n);
        });
        let orders = world.copies(1);
        match cause {
            0 => world.expire(a),
            1 => {
                let claim = RegisterCs { boot_id: vec![77; 16], ..world.claim_again(2) };
                world.register(claim);
            }
            _ => world.lapse(1),
        }
        assert_eq!(world.state_on(file, 0, 1), MemberState::Absent, "cause {cause}");
        let late = world.promote_op(1, &orders);
        assert_eq!(world.count(late), 0, "cause {cause}: a report that comes late");
        if cause < 2 {
            assert_eq!(world.join(1), 0, "not before it is reconciled");
        }
    }
}

/// A reboot is a failure, until the chunk is reconciled.
#[test]
fn c10_who_has_lost_its_memory_does_not_outlive_who_has_not() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 2, 2);
    let on = |world: &World| {
        [1, 2, 3]
            .into_iter()
            .filter(|n| {
                let id = world.cs(*n).id;
                world.chunk(file, 0).members.iter().any(|member| member.cs == id)
            })
            .collect::<Vec<u8>>()
    };
    let [silent, rebooted] = on(&world)[..] else { panic!("two members") };
    let second = world.drop_op(a, file, rebooted);
    let claim = RegisterCs { boot_id: vec![77; 16], ..world.claim_again(rebooted) };
    let fences = world.register(claim).fences;
    world.confirm(rebooted, fences);
    assert_eq!(world.unreconciled(file)[0], 0);
    assert!(world.state.may_drop(&second), "it counts as failed");
    let first = world.drop_op(a, file, silent);
    assert!(!world.state.may_drop(&first), "nobody else has what was acknowledged");
    assert_eq!(world.count(CommandOp::DropMember(first.clone())), 0);
    // However long it is silent.
    world.lapse(silent);
    let (cs, session) = world.cs_name(silent);
    for state in [CsState::Inactive, CsState::Offline] {
        world.ok(CommandOp::CsStateChanged(CsStateChanged { cs, session, state: state.into() }));
    }
    assert!(world.last_events(3).contains(&EventCode::LastMemoryAway), "{:?}", world.last_events(3));
    assert!(!world.state.may_drop(&first));
    assert_eq!(world.state.summary().chunks.get(ChunkHealth::Blocked), 2, "both chunks wait");
    let restored = State::decode_snapshot(&world.state.encode_snapshot());
    assert!(restored.as_ref() == Ok(&world.state), "{restored:?}");
    // An operator gives it up.
    let lost = ReleaseCs { cs, how: Leave::Lost.into(), origin: String::new() };
    let mut given_up = World { state: world.state.clone(), index: world.index, log: world.log.clone() };
    given_up.ok(CommandOp::ReleaseCs(lost));
    assert!(given_up.state.may_drop(&first));
    // It is back, and with it the chunk is reconciled: from then on both are worth the same.
    let fences = world.register(world.claim_again(silent)).fences;
    world.confirm(silent, fences);
    let chunks = [0, 1].map(|index| {
        let chunk = world.chunk(file, index);
        ReconciledChunk { index, chunk: chunk.chunk.raw(), version: chunk.version.raw() }
    });
    let lease = world.proof(a, file);
    let done = ReconcileDone { lease, file, chunks: chunks.to_vec(), writes_lost: false };
    world.ok(CommandOp::ReconcileDone(done));
    assert!(world.state.may_drop(&world.drop_op(a, file, silent)));
}

/// Who is only hoped to return counts for nobody: it may have lost its power, too.
#[test]
fn c10_the_last_memory_that_is_there_counts() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 2, 3);
    let reboot = |world: &mut World, n: u8| {
        let claim = RegisterCs { boot_id: vec![70 + n; 16], ..world.claim_again(n) };
        let fences = world.register(claim).fences;
        world.confirm(n, fences);
    };
    reboot(&mut world, 1);
    world.goes_offline(2);
    let drops = world.drop_op(a, file, 2);
    assert!(world.state.may_drop(&drops));
    world.lapse(3);
    assert!(!world.state.may_drop(&drops));
    // It had lost its power: now the second one alone remembers.
    reboot(&mut world, 3);
    assert!(!world.state.may_drop(&drops));
    assert_eq!(world.last_events(99).iter().filter(|code| **code == EventCode::LastMemoryAway).count(), 1);
    let blocked = |world: &World| world.state.summary().chunks.get(ChunkHealth::Blocked);
    assert_eq!(blocked(&world), 2, "of both chunks");
    let fences = world.register(world.claim_again(2)).fences;
    world.confirm(2, fences);
    assert!(world.state.may_drop(&world.drop_op(a, file, 1)) && blocked(&world) == 0);
}

#[test]
fn a_lost_replica_does_not_return() {
    let (mut world, a, file) = world();
    let lost = DropMember { lost: true, ..world.drop_op(a, file, 1) };
    assert_eq!(world.count(CommandOp::DropMember(lost)), 1, "of one chunk");
    assert_eq!(world.state_on(file, 0, 1), MemberState::Failed);
    assert_eq!(world.state_on(file, 1, 1), MemberState::InSync);
    assert_eq!(world.join(1), 0);
    assert_eq!(world.last_events(1), [EventCode::ReplicaLost]);
}

#[test]
fn what_is_not_installed_survives_a_snapshot_and_a_file_that_goes() {
    let (mut world, a, file) = world();
    world.ok(CommandOp::DropMember(world.drop_op(a, file, 1)));
    world.install(2);
    let restored = State::decode_snapshot(&world.state.encode_snapshot());
    assert!(restored.as_ref() == Ok(&world.state), "{restored:?}");
    world.release(a, file, true);
    world.ok(CommandOp::Remove(Remove { path: "/f".into(), recursive: false }));
    assert!(!world.state.pending_work().iter().any(|e| matches!(e, Effect::InstallVersions { .. })));
}

#[test]
fn c8_who_may_have_held_a_block_is_waited_for_before_it_is_given_up() {
    for nth in [0, 1] {
        let (mut world, a) = World::with_servers(3);
        let file = world.written_file(a, "/f", 1, 2);
        let back = world.holder(file, 0, nth);
        world.ok(CommandOp::DropMember(world.drop_op(a, file, back)));
        world.goes_offline(back);
        assert_eq!((world.take_steps(), world.make_all()), ((1, 0), 1));
        let new = (1..=3).find(|n| *n != back && world.cs(*n).id != world.source(file)).expect("a third one");
        world.returns(back);
        assert_eq!(world.join(back), 1);
        (1..=3).for_each(|n| {
            world.install(n);
        });
        let ids = [new, back].map(|n| world.cs(n).id);
        let last = |of: CsId, failing: &[CsId]| {
            let order = world.state.joiner(of, world.chunk(file, 0).chunk).expect("it joins");
            let sources = world.state.copy_sources(of, &order);
            assert_eq!(sources, [world.source(file)]);
            world.state.are_last_sources(of, &order, &sources, |cs| failing.contains(&cs), |_| false)
        };
        let [new, back] = ids;
        assert!(!last(new, &[]) && !last(back, &[]), "either may have what the other lacks");
        assert!(!last(new, &[new]) && !last(back, &[back]), "the other may be filled yet");
        assert!(
            last(back, &ids) && !last(new, &ids),
            "who held the chunk before goes first, whatever the ids"
        );
    }
}

#[test]
fn c8_a_member_that_is_to_be_emptied_and_only_silent_is_waited_for_before_a_block_is_given_up() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 1, 2);
    let leaves = world.holder(file, 0, 0);
    let id = world.cs(leaves).id;
    let release =
        |how: Leave| CommandOp::ReleaseCs(ReleaseCs { cs: id.0, how: how.into(), origin: String::new() });
    world.ok(release(Leave::Leave));
    assert_eq!((world.take_steps(), world.make_all()), ((1, 0), 1));
    let is_last = |world: &mut World| {
        for n in 1..=3 {
            if world.cs(n).serves() {
                world.install(n);
            }
        }
        let chunk = world.chunk(file, 0);
        let made =
            chunk.members.iter().find(|member| member.state == MemberState::Joining).expect("it joins");
        let order = world.state.joiner(made.cs, chunk.chunk).expect("it joins");
        let sources = world.state.copy_sources(made.cs, &order);
        (sources.len(), world.state.are_last_sources(made.cs, &order, &sources, |_| false, |_| false))
    };
    assert_eq!(is_last(&mut world), (2, true), "both may be asked");
    world.lapse(leaves);
    assert_eq!(
        is_last(&mut world),
        (1, false),
        "it may be back any moment, and have what the other one lacks"
    );
    let session = world.cs_name(leaves).1;
    let offline = CsStateChanged { cs: id.0, session, state: CsState::Offline.into() };
    world.ok(CommandOp::CsStateChanged(offline));
    assert_eq!(is_last(&mut world), (1, true), "it is away for long");
    world.returns(leaves);
    world.lapse(leaves);
    assert_eq!(is_last(&mut world), (1, false));
    world.ok(release(Leave::Lost));
    assert_eq!(is_last(&mut world), (1, true), "given up by force");
}
