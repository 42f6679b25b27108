//! Replicas are made where they are missing and removed where they are too many (C7, C9).

use super::*;
use crate::state::chunk::MemberState;
use crate::state::health::ChunkHealth;
use crate::state::replication::{PlannedStep, ReplicaStep, Urgency};

const NOBODY: fn(CsId) -> bool = |_| false;
const NEVER: fn(CsId, ChunkId) -> bool = |_, _| false;

/// Four chunk servers, and a file with three chunks in use of two replicas each, minimum one.
fn world() -> (World, Session, u64) {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 3, 2);
    (world, a, file)
}

impl World {
    pub(super) fn steps(&self) -> Vec<ReplicaStep> {
        self.state.plan_replicas((FileId::from_raw(0), 0), usize::MAX, |_, _| false).0
    }

    /// The number of a chunk server that holds a chunk.
    pub(super) fn holder(&self, file: u64, index: u32, nth: usize) -> u8 {
        let cs = self.chunk(file, index).members[nth].cs;
        self.state.server(cs).expect("known").uuid.0[0]
    }

    pub(super) fn goes_offline(&mut self, n: u8) {
        let (cs, session) = self.cs_name(n);
        self.ok(CommandOp::CsLapsed(CsLapsed { cs, session }));
        let state = CsState::Offline.into();
        self.ok(CommandOp::CsStateChanged(CsStateChanged { cs, session, state }));
    }

    /// Carries out all steps that can be; how many replicas are to be made, and how many are removed.
    pub(super) fn take_steps(&mut self) -> (u64, u64) {
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        for step in self.steps() {
            match step.step {
                PlannedStep::Add { count, .. } => {
                    let places = self.state.places_for(&step, count, 1, NEVER, NOBODY).unwrap_or_default();
                    add.extend(places.into_iter().map(|cs| step.place(cs)));
                }
                PlannedStep::Remove { cs } => remove.push(step.place(cs)),
            }
        }
        let added = self.count(CommandOp::AddReplicas(AddReplicas { places: add }));
        (added, self.count(CommandOp::RemoveReplicas(RemoveReplicas { places: remove })))
    }

    /// Chunk servers make all replicas they were told to; how many.
    pub(super) fn make_all(&mut self) -> u64 {
        let mut made = 0;
        for effect in self.state.pending_work() {
            let Effect::MakeReplicas { cs, chunks } = effect else { continue };
            let session = self.state.server(cs).expect("known").session;
            let chunks = chunks.iter().map(|new| new.chunk.raw()).collect();
            made += self.count(CommandOp::ChunkCreated(ChunkCreated { cs: cs.0, session, chunks }));
        }
        made
    }

    /// All who are there install, fill and are promoted.
    pub(super) fn fill_all(&mut self) -> u64 {
        let servers: Vec<u8> =
            self.state.servers().filter(|server| server.serves()).map(|server| server.uuid.0[0]).collect();
        servers.iter().for_each(|n| {
            self.install(*n);
        });
        let mut promoted = 0;
        for n in &servers {
            let orders = self.copies(*n);
            promoted += self.count(self.promote_op(*n, &orders));
        }
        servers.iter().for_each(|n| {
            self.install(*n);
        });
        promoted
    }
}

#[test]
fn what_a_lost_server_held_is_made_elsewhere() {
    let (mut world, _, file) = world();
    assert_eq!(world.steps(), []);
    let lost = world.holder(file, 0, 0);
    let held = world.cs(lost).replicas;
    world.lapse(lost);
    assert_eq!(world.steps(), [], "it may be back soon");
    let (cs, session) = world.cs_name(lost);
    let state = CsState::Offline.into();
    world.ok(CommandOp::CsStateChanged(CsStateChanged { cs, session, state }));
    let steps = world.steps();
    assert_eq!(steps.len() as u64, held);
    assert!(steps.iter().all(|step| step.urgency() == Urgency::Endangered), "one copy is left of each");

    assert_eq!(world.take_steps(), (held, 0));
    assert_eq!(world.steps(), [], "all are on their way");
    let restored = State::decode_snapshot(&world.state.encode_snapshot());
    assert!(restored.as_ref() == Ok(&world.state), "{restored:?}");
    let before = world.chunk(file, 0).version;
    assert_eq!(world.make_all(), held);
    assert!(world.chunk(file, 0).version > before, "C7: a version with the joiner");
    assert_eq!(world.chunk(file, 0).health, ChunkHealth::Replicating);
    assert_eq!(world.chunk(file, 0).members.len(), 3);
    assert_eq!(world.fill_all(), held);
    // Only now what was lost is given up.
    assert_eq!(world.take_steps(), (0, held));
    assert_eq!(world.chunk(file, 0).health, ChunkHealth::Healthy);
    assert_eq!(world.chunk(file, 0).members.len(), 2);
    assert_eq!((world.steps(), world.cs(lost).replicas), (vec![], 0));
    assert!(world.state.deletions().all(|(_, deletion)| deletion.waiting == [world.cs(lost).id]), "C9");
}

#[test]
fn c9_a_server_that_returns_in_the_middle_keeps_what_is_needed() {
    let (mut world, _, file) = world();
    let lost = world.holder(file, 0, 0);
    world.goes_offline(lost);
    let (added, _) = world.take_steps();
    let again = world.claim_again(lost);
    let fences = world.register(again).fences;
    world.confirm(lost, fences);
    // It is a member still: nobody wrote while it was away. What was on its way becomes one too many, and one goes.
    assert_eq!(world.make_all(), added);
    world.fill_all();
    let steps = world.steps();
    assert_eq!(steps.len() as u64, added);
    assert_eq!(world.take_steps(), (0, added));
    for index in 0..3 {
        let chunk = world.chunk(file, index);
        let in_sync = chunk.members.iter().filter(|member| member.state == MemberState::InSync).count();
        assert_eq!((in_sync, chunk.members.len()), (2, 2));
    }
    assert_eq!(world.steps(), []);
}

#[test]
fn c2_a_replica_joins_at_the_epoch_of_the_file() {
    let (mut world, a, file) = world();
    let lost = world.holder(file, 0, 0);
    world.goes_offline(lost);
    let (added, _) = world.take_steps();
    let told = |world: &World| -> Vec<u64> {
        let work = world.state.pending_work().into_iter().filter_map(|effect| match effect {
            Effect::MakeReplicas { chunks, .. } => Some(chunks),
            _ => None,
        });
        work.flatten().map(|new| new.epoch.raw()).collect()
    };
    let before = told(&world);
    assert_eq!(before.len() as u64, added);
    world.release(a, file, true);
    world.open(a, file);
    assert_eq!(world.make_all(), 0, "made at an epoch that is over: not yet");
    let after = told(&world);
    assert!(after.len() == before.len() && after.iter().zip(&before).all(|(new, old)| new > old));
    assert_eq!(world.make_all(), added);
}

#[test]
fn more_and_fewer_replicas_are_wanted() {
    let (mut world, _, file) = world();
    let set = |normal| {
        let attrs =
            AttrChange { replicas: Some(ReplicaChange { normal, minimum: None }), ..Default::default() };
        CommandOp::SetAttr(SetAttr { path: "/f".into(), change: Some(attrs), ..Default::default() })
    };
    let applied = world.run(set(3));
    assert!(applied.outcome.is_ok() && applied.effects.contains(&Effect::Replicate), "{applied:?}");
    assert_eq!(world.take_steps(), (3, 0));
    assert_eq!((world.make_all(), world.fill_all()), (3, 3));
    assert_eq!(world.chunk(file, 0).health, ChunkHealth::Healthy);
    world.ok(set(1));
    assert_eq!(world.chunk(file, 0).health, ChunkHealth::Overcommitted);
    assert_eq!((world.take_steps(), world.take_steps(), world.take_steps()), ((0, 3), (0, 3), (0, 0)));
    assert_eq!(world.chunk(file, 0).members.len(), 1);
    assert_eq!(world.chunk(file, 0).health, ChunkHealth::Healthy);
    // Its places are taken by what is to be deleted: nothing is placed on them until that is gone (C9).
    world.ok(set(4));
    assert_eq!(world.take_steps(), (3, 0), "one of four has never had it");
}

#[test]
fn nothing_is_decided_for_another_version() {
    let (mut world, a, file) = world();
    let lost = world.holder(file, 0, 0);
    world.goes_offline(lost);
    let steps = world.steps();
    let step = steps.iter().find(|step| step.index == 0).expect("a step");
    let target = world.state.places_for(step, 1, 1, NEVER, NOBODY).expect("a place")[0];
    let place = ReplicaPlace { file, index: 0, version: step.version.raw(), cs: target.0 };
    world.ok(CommandOp::DropMember(world.drop_op(a, file, lost)));
    assert_eq!(world.count(CommandOp::AddReplicas(AddReplicas { places: vec![place] })), 0);
    let present = ReplicaPlace { version: world.chunk(file, 0).version.raw(), ..place };
    let twice = vec![present, present];
    assert_eq!(world.count(CommandOp::AddReplicas(AddReplicas { places: twice })), 1);
    // Nobody is removed who is needed, whoever says so.
    for member in world.chunk(file, 0).members {
        let place = ReplicaPlace { cs: member.cs.0, ..present };
        assert_eq!(world.count(CommandOp::RemoveReplicas(RemoveReplicas { places: vec![place] })), 0);
    }
    // What is only to be made can be given up at any time, and is deleted where it may have been made.
    assert_eq!(world.count(CommandOp::RemoveReplicas(RemoveReplicas { places: vec![present] })), 1);
    assert_eq!(
        world.state.deletions().map(|(_, deletion)| deletion.waiting.clone()).collect::<Vec<_>>(),
        [[target]]
    );
    assert_ne!(world.state.places_for(step, 1, 1, NEVER, NOBODY).unwrap_or_default(), [target]);
}

#[test]
fn a_file_that_goes_takes_along_what_is_to_be_made() {
    let (mut world, a, file) = world();
    let lost = world.holder(file, 0, 0);
    world.goes_offline(lost);
    let (added, _) = world.take_steps();
    assert!(added > 0);
    world.release(a, file, true);
    world.ok(CommandOp::Remove(Remove { path: "/f".into(), recursive: false }));
    assert!(!world.state.pending_work().iter().any(|effect| matches!(effect, Effect::MakeReplicas { .. })));
    let waiting: usize = world.state.deletions().map(|(_, deletion)| deletion.waiting.len()).sum();
    assert_eq!(waiting as u64, 3 * 2 + added, "C9: it may have been made");
}

#[test]
fn a_server_that_lost_its_past_makes_nothing() {
    let (mut world, _, file) = world();
    let lost = world.holder(file, 0, 0);
    world.goes_offline(lost);
    let (added, _) = world.take_steps();
    assert!(added > 0);
    let targets: Vec<CsId> = world
        .state
        .pending_work()
        .into_iter()
        .filter_map(|effect| if let Effect::MakeReplicas { cs, .. } = effect { Some(cs) } else { None })
        .collect();
    for cs in targets {
        let n = world.state.server(cs).expect("known").uuid.0[0];
        world.lapse(n);
        let claim = RegisterCs { last_nonce: secret(1), ..world.claim_again(n) };
        assert!(world.register(claim).stale);
        assert!(
            !world.state.pending_for(cs).iter().any(|effect| matches!(effect, Effect::MakeReplicas { .. }))
        );
    }
}

#[test]
fn a_limit_that_is_raised_is_looked_at() {
    let (mut world, ..) = world();
    let set = |value: &str| {
        CommandOp::SetConfig(SetConfig {
            key: "mds.wd.max_offline_cs".into(),
            value: value.into(),
            ..Default::default()
        })
    };
    assert!(world.run(set("9")).effects.contains(&Effect::Replicate));
    assert_eq!(world.run(set("9")).effects, [], "nothing has changed");
}

#[test]
fn a_look_goes_on_where_it_stopped() {
    let (mut world, a, file) = world();
    let other = world.written_file(a, "/g", 4, 2);
    let lost = world.holder(file, 0, 0);
    world.goes_offline(lost);
    let all = world.steps();
    assert!(all.iter().any(|step| step.file.raw() == other) || world.cs(lost).replicas <= 3);
    for limit in 1..6 {
        let (mut steps, mut from, mut looks) = (Vec::new(), Some((FileId::from_raw(0), 0)), 0);
        while let Some(at) = from {
            let (found, next) = world.state.plan_replicas(at, limit, |_, _| false);
            steps.extend(found);
            from = next;
            looks += 1;
        }
        assert_eq!(steps, all, "{limit} at once");
        assert!(looks >= 7 / limit, "{limit} at once");
    }
}

#[test]
fn c5_what_nobody_has_reconciled_is_made_anew_all_the_same() {
    let (mut world, a, file) = world();
    world.expire(a);
    assert!(!world.unreconciled(file).is_empty());
    let lost = world.holder(file, 0, 0);
    world.lapse(lost);
    let late = world.state.plan_replicas((FileId::from_raw(0), 0), 100, |_, _| true).0;
    assert_eq!(late, [], "C4: it may come back with what the others have lost");
    let (cs, session) = world.cs_name(lost);
    let state = CsState::Offline.into();
    world.ok(CommandOp::CsStateChanged(CsStateChanged { cs, session, state }));
    let (added, _) = world.take_steps();
    assert!(added > 0);
    assert_eq!((world.make_all(), world.fill_all()), (added, added));
    // The lost one has left with that, and is of no use any more; nobody else goes before somebody has reconciled.
    assert_eq!((world.take_steps(), world.take_steps()), ((0, added), (0, 0)));
    assert!(world.chunk(file, 0).members.iter().all(|member| member.state == MemberState::InSync));
    let attrs =
        AttrChange { replicas: Some(ReplicaChange { normal: 1, minimum: None }), ..Default::default() };
    world.ok(CommandOp::SetAttr(SetAttr { path: "/f".into(), change: Some(attrs), recursive: false }));
    assert_eq!(world.take_steps(), (0, 0), "each may have what is chosen");
}

/// Four chunk servers, a file with two replicas that nobody has reconciled, and one of its servers gone; the replicas made elsewhere
/// have joined.
fn joined_unreconciled() -> (World, u64, u8) {
    let (mut world, a, file) = world();
    world.expire(a);
    let lost = world.holder(file, 0, 0);
    world.goes_offline(lost);
    assert!(world.take_steps().0 > 0 && world.make_all() > 0);
    assert!(world.is_joining(file));
    (world, file, lost)
}

impl World {
    fn is_joining(&self, file: u64) -> bool {
        (0..3).any(|index| {
            self.chunk(file, index).members.iter().any(|member| member.state == MemberState::Joining)
        })
    }

    pub(super) fn returns(&mut self, n: u8) {
        let again = self.claim_again(n);
        let fences = self.register(again).fences;
        self.confirm(n, fences);
    }
}

#[test]
fn c4_a_joiner_leaves_when_the_one_that_was_lost_is_back() {
    let (mut world, file, lost) = joined_unreconciled();
    world.returns(lost);
    assert!(!world.is_joining(file), "it would keep its place until somebody opens the file");
    assert_eq!((world.make_all(), world.fill_all()), (0, 0));
    assert_eq!(world.take_steps(), (0, 0), "it is waited for");

    // Filled before the one that is back can serve.
    let (mut world, file, lost) = joined_unreconciled();
    (1..=4).filter(|n| *n != lost).for_each(|n| {
        world.install(n);
    });
    let filled: Vec<_> = (1..=4).filter(|n| *n != lost).map(|n| (n, world.copies(n))).collect();
    assert!(filled.iter().any(|(_, orders)| !orders.is_empty()));
    let again = world.claim_again(lost);
    world.register(again);
    for (n, orders) in filled {
        assert_eq!(world.count(world.promote_op(n, &orders)), 0);
    }
    assert!(!world.is_joining(file));
}

#[test]
fn c4_what_nobody_has_reconciled_is_filled_until_there_are_enough() {
    let (mut world, a) = World::with_servers(5);
    let attrs = ReplicaChange { normal: 3, minimum: Some(2) };
    let file = world.written_file(a, "/f", 1, 3);
    let change = AttrChange { replicas: Some(attrs), ..Default::default() };
    world.ok(CommandOp::SetAttr(SetAttr { path: "/f".into(), change: Some(change), recursive: false }));
    world.expire(a);
    let (first, second) = (world.holder(file, 0, 0), world.holder(file, 0, 1));
    [first, second].into_iter().for_each(|n| world.goes_offline(n));
    let in_sync = |world: &World| {
        world.chunk(file, 0).members.iter().filter(|member| member.state == MemberState::InSync).count()
    };
    assert_eq!((world.take_steps(), world.make_all()), ((2, 0), 2));
    for _ in 0..4 {
        // One at a time: the first makes those that are gone leave.
        let targets: Vec<u8> = (1..=5).filter(|n| *n != first && *n != second).collect();
        for n in targets {
            (1..=5).filter(|n| *n != first && *n != second).for_each(|n| {
                world.install(n);
            });
            world.join(n);
            let orders = world.copies(n);
            world.count(world.promote_op(n, &orders));
        }
    }
    assert_eq!(in_sync(&world), 3, "{:?}", world.chunk(file, 0));
}

/// How full the disks are, in percent, from the first server on.
fn fill_disks(world: &mut World, percent: &[u64]) {
    for (n, used) in (1..).zip(percent) {
        let (cs, session) = world.cs_name(n);
        let total = 1u64 << 40;
        let free = total / 100 * (100 - used);
        let report =
            CsReport { cs, session, total_bytes: total, free_bytes: free, flags: 11, ..Default::default() };
        let applied = world.run(CommandOp::CsReport(report));
        assert!(applied.outcome.is_ok() && applied.effects.contains(&Effect::Replicate), "{applied:?}");
    }
}

#[test]
fn replicas_move_to_disks_that_are_much_emptier() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 6, 2);
    world.serve(4);
    let start = (FileId::from_raw(0), 0);
    fill_disks(&mut world, &[30, 30, 30, 25]);
    assert_eq!(world.state.plan_moves(start, 100, 10, NEVER).0, [], "not worth it");
    fill_disks(&mut world, &[30, 30, 40, 1]);
    let (moves, next) = world.state.plan_moves(start, 100, 10, NEVER);
    assert_eq!((moves.len(), next), (1, None), "one at a time to each");
    assert_eq!(moves[0].cs, world.cs(4).id.0);
    assert_eq!(world.state.plan_moves(start, 100, 10, |cs, _| cs == CsId(moves[0].cs)).0, []);
    let at = moves[0].index;
    let before: Vec<CsId> = world.chunk(file, at).members.iter().map(|member| member.cs).collect();
    assert_eq!(world.count(CommandOp::AddReplicas(AddReplicas { places: moves.clone() })), 1);
    let again = world.state.plan_moves(start, 100, 10, NEVER).0;
    assert!(again.iter().all(|place| place.index != at), "it is on its way");
    assert_eq!((world.make_all(), world.fill_all()), (1, 1));
    assert_eq!(world.take_steps(), (0, 1), "and now somebody is one too many");
    let after: Vec<CsId> = world.chunk(file, at).members.iter().map(|member| member.cs).collect();
    assert!(after.contains(&world.cs(4).id) && after.len() == 2, "{before:?} {after:?}");
    let fuller = world.cs(3).id;
    assert!(
        !before.contains(&fuller) || !after.contains(&fuller),
        "the fullest is left: {before:?} {after:?}"
    );
    assert!(moves.iter().all(|place| place.version < world.chunk(file, at).version.raw()));
}

#[test]
fn replicas_move_to_their_tier_and_away_from_each_other() {
    let (mut world, a) = World::with_servers(2);
    let attrs = AttrChange {
        replicas: Some(ReplicaChange { normal: 2, minimum: None }),
        chunk_size: Some(64 << 10),
        tier: Some(2),
        ..Default::default()
    };
    let create = CreateFile { path: "/hot".into(), size: 64 << 10, attrs: Some(attrs), mode: 0o600 };
    let Outcome::Created(file) = world.ok(CommandOp::CreateFile(create)) else { panic!("a file") };
    world.open(a, file);
    world.allocate(a, file, &[0]);
    world.create_all();
    let start = (FileId::from_raw(0), 0);
    assert_eq!(world.state.plan_moves(start, 100, 10, NEVER).0, [], "there is no other place");
    // A disk of the tier, on a host that has a replica: that one may go, the other may not be joined.
    let claim = RegisterCs { tier: 2, host: "host1".into(), ..World::claim(3) };
    let fences = world.register(claim).fences;
    world.confirm(3, fences);
    let moves = world.state.plan_moves(start, 100, 10, NEVER).0;
    assert_eq!(moves.iter().map(|place| place.cs).collect::<Vec<_>>(), [world.cs(3).id.0]);
    world.ok(CommandOp::AddReplicas(AddReplicas { places: moves }));
    assert_eq!((world.make_all(), world.fill_all(), world.take_steps()), (1, 1, (0, 1)));
    assert_eq!(world.state.plan_moves(start, 100, 10, NEVER).0, [], "it is where it should be");
    let members: Vec<CsId> = world.chunk(file, 0).members.iter().map(|member| member.cs).collect();
    let hosts: Vec<&str> = members.iter().map(|cs| &*world.state.server(*cs).expect("known").host).collect();
    assert!(members.contains(&world.cs(3).id), "{members:?}");
    assert!(hosts.len() == 2 && hosts[0] != hosts[1], "{hosts:?}");
}

#[test]
fn c5_a_joiner_leaves_when_what_it_is_filled_with_is_settled() {
    let (mut world, a, file) = world();
    world.expire(a);
    let lost = world.holder(file, 0, 0);
    world.goes_offline(lost);
    world.take_steps();
    assert!(world.make_all() > 0);
    let joins = |world: &World| {
        world.chunk(file, 0).members.iter().any(|member| member.state == MemberState::Joining)
    };
    assert!(joins(&world));
    let b = world.session(2);
    let epoch = world.fencing(World::open_op(b, file, LeaseMode::Exclusive)).epoch;
    (1..=4).filter(|n| *n != lost).for_each(|n| world.record(n, file, epoch));
    world.open(b, file);
    let chunk = world.chunk(file, 0);
    let done = ReconciledChunk { index: 0, chunk: chunk.chunk.raw(), version: chunk.version.raw() };
    let lease = world.proof(b, file);
    world.ok(CommandOp::ReconcileDone(ReconcileDone { lease, file, chunks: vec![done], writes_lost: false }));
    assert!(!joins(&world), "it lacks what was settled");
}

#[test]
fn c9_a_replica_that_has_nothing_makes_place_for_one_that_will() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 1, 3);
    let lost = DropMember { lost: true, ..world.drop_op(a, file, 1) };
    assert_eq!(world.count(CommandOp::DropMember(lost)), 1);
    assert_eq!(world.state_on(file, 0, 1), MemberState::Failed);
    assert_eq!(world.take_steps(), (0, 1), "there is no other place");
    assert_eq!(world.take_steps(), (0, 0), "C9: what may be there is deleted first");
    let chunks: Vec<u64> = world.state.quarantined().map(|(chunk, _)| chunk.raw()).collect();
    world.ok(CommandOp::PurgeChunks(PurgeChunks { chunks: chunks.clone() }));
    let (cs, session) = world.cs_name(1);
    world.ok(CommandOp::ChunksPurged(ChunksPurged { cs, session, chunks }));
    assert_eq!((world.take_steps(), world.make_all(), world.fill_all()), ((1, 0), 1, 1));
    assert_eq!(world.chunk(file, 0).health, ChunkHealth::Healthy);
    assert_eq!(world.state_on(file, 0, 1), MemberState::InSync);
}

#[test]
fn what_is_to_be_made_survives_that_its_server_registers_again() {
    let (mut world, _, file) = world();
    let lost = world.holder(file, 0, 0);
    world.goes_offline(lost);
    let (added, _) = world.take_steps();
    assert!(added > 0);
    for n in (1..=4).filter(|n| *n != lost) {
        let again = world.claim_again(n);
        let fences = world.register(again).fences;
        assert_eq!(world.steps(), [], "it makes it in a moment");
        let late = world.state.plan_replicas((FileId::from_raw(0), 0), 100, |_, _| true).0;
        let given_up = |step: &ReplicaStep| step.step == PlannedStep::Remove { cs: world.cs(n).id };
        let its_own =
            |effect: &Effect| matches!(effect, Effect::MakeReplicas { cs, .. } if *cs == world.cs(n).id);
        assert_eq!(late.iter().any(given_up), world.state.pending_work().iter().any(its_own));
        world.confirm(n, fences);
    }
    assert_eq!((world.make_all(), world.fill_all()), (added, added));
}

#[test]
fn what_shows_damage_gets_nothing_new() {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 2, 2);
    let bad = (1..=4).find(|n| (0..2).all(|nth| world.holder(file, 0, nth) != *n)).expect("two are left");
    let (cs, session) = world.cs_name(bad);
    let (total_bytes, free_bytes) = (world.cs(bad).total_bytes, world.cs(bad).total_bytes);
    let flags = crate::state::servers::FLAG_DAMAGED;
    let report = CsReport { cs, session, total_bytes, free_bytes, flags, ..CsReport::default() };
    world.ok(CommandOp::CsReport(report));
    // New chunks and new replicas go to the others, although it is the emptiest.
    let other = world.file("/g", 16, 2);
    world.open(a, other);
    world.allocate(a, other, &(0..16).collect::<Vec<_>>());
    world.create_all();
    let holds = |world: &World, file: u64, chunks: u32| {
        let on = |index| world.chunk(file, index).members.iter().any(|member| member.cs.0 == cs);
        (0..chunks).filter(|index| on(*index)).count()
    };
    assert_eq!(holds(&world, other, 16), 0);
    let lost = world.holder(file, 0, 0);
    world.goes_offline(lost);
    let steps = world.steps();
    assert!(!steps.is_empty());
    for step in steps.iter().filter(|step| matches!(step.step, PlannedStep::Add { .. })) {
        assert!(!world.state.is_place_among(step, NEVER, |place| place.0 == cs));
        let places = world.state.places_for(step, 1, 1, NEVER, NOBODY).unwrap_or_default();
        assert!(places.iter().all(|place| place.0 != cs), "{places:?}");
    }
    let start = (FileId::from_raw(0), 0);
    assert!(world.state.plan_moves(start, 100, 10, NEVER).0.iter().all(|place| place.cs != cs));
}

#[test]
fn c13_what_shows_damage_gets_new_chunks_if_there_is_no_other_place() {
    let (mut world, a) = World::with_servers(4);
    let shows_damage = |world: &mut World, n: u8| {
        let (cs, session) = world.cs_name(n);
        let (total_bytes, free_bytes) = (world.cs(n).total_bytes, world.cs(n).total_bytes);
        let flags = crate::state::servers::FLAG_DAMAGED;
        let report = CsReport { cs, session, total_bytes, free_bytes, flags, ..CsReport::default() };
        world.ok(CommandOp::CsReport(report));
    };
    [2, 3].into_iter().for_each(|n| shows_damage(&mut world, n));
    let file = world.file("/f", 20, 3);
    world.open(a, file);
    world.allocate(a, file, &(0..20).collect::<Vec<_>>());
    world.create_all();
    let good = [1, 4].map(|n| world.cs(n).id);
    for index in 0..20 {
        let chunk = world.chunk(file, index);
        assert!(good.iter().all(|cs| chunk.members.iter().any(|member| member.cs == *cs)), "these first");
        assert_eq!(chunk.members.len(), 3, "and one that shows damage");
    }
    let steps = world.steps();
    assert!(steps.len() == 20 && steps.iter().all(|step| step.urgency() == Urgency::Degraded), "{steps:?}");
    assert_eq!(world.take_steps(), (0, 0), "there is no place for a better one");
    world.serve(5);
    assert_eq!(world.take_steps().0, 20);
}

#[test]
fn c13_a_replica_does_not_return_to_a_full_disk() {
    let (mut world, a, file) = world();
    let full = world.holder(file, 0, 0);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, full)));
    let held = world.cs(full).replicas;
    assert!(world.state.returning(world.cs(full).id, 10).len() as u64 == held && world.steps().is_empty());
    let mut percent = [50; 4];
    // One percent is more than it may need.
    percent[usize::from(full) - 1] = 99;
    fill_disks(&mut world, &percent);
    let id = world.cs(full).id;
    assert!(world.state.returning(id, 10).len() as u64 == held && !world.state.lacks_room_to_return(id, 0));
    percent[usize::from(full) - 1] = 100;
    fill_disks(&mut world, &percent);
    assert!(world.state.lacks_room_to_return(id, 0));
    assert_eq!(world.join(full), 0);
    assert_eq!(world.take_steps(), (held, 0), "made elsewhere");
    assert_eq!((world.make_all(), world.fill_all()), (held, held));
    assert_eq!(world.take_steps(), (0, held), "what was left there is not needed any more");
    assert_eq!(world.steps(), []);
}

#[test]
fn c13_a_joiner_without_room_leaves_alone() {
    let (mut world, a, file) = world();
    let full = world.holder(file, 0, 0);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, full)));
    let held = world.cs(full).replicas;
    assert_eq!(world.join(full), held);
    let no_room = DropMember { lease: None, ..world.drop_op(a, file, full) };
    let before = world.state.events().iter().count();
    assert_eq!(world.count(CommandOp::DropMember(no_room)), 1);
    assert_eq!(world.state.events().iter().count(), before, "one of many: its server tells once for all");
    assert_eq!(world.state_on(file, 0, full), MemberState::Absent);
    assert_eq!(world.state.joiners_on(world.cs(full).id, |_| false) as u64, held - 1);
    // It is waited for, until it has been refused for long.
    let here = |step: &ReplicaStep| step.index == 0;
    assert!(!world.steps().iter().any(here));
    let id = world.cs(full).id;
    let late = world.state.plan_replicas((FileId::from_raw(0), 0), 100, |cs, _| cs == id).0;
    assert!(late.iter().any(|step| here(step) && matches!(step.step, PlannedStep::Add { count: 1, .. })));
}
