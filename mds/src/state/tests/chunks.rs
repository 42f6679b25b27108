//! Allocating, creating and deleting chunks through the whole state (C9).

use super::*;
use crate::state::health::ChunkHealth;
use std::collections::BTreeSet;

#[test]
fn c9_chunks_are_allocated_once_and_usable_when_created_everywhere() {
    let (mut world, a) = World::with_servers(4);
    let file = world.file("/f", 8, 3);
    world.open(a, file);
    let applied = world.run(world.allocate_op(a, file, &[3, 5, 3]));
    let Ok(Outcome::Allocated(allocated)) = applied.outcome else { panic!("{applied:?}") };
    let indices: Vec<_> = allocated.chunks.iter().map(|chunk| chunk.index).collect();
    assert_eq!(indices, [3, 5, 3], "in the order asked");
    assert_eq!(allocated.chunks[0], allocated.chunks[2]);
    assert!(allocated.chunks.iter().all(|chunk| !chunk.usable && chunk.servers.len() == 3));
    let told: usize = applied.effects.iter().filter(|e| matches!(e, Effect::CreateChunks { .. })).count();
    assert!((3..=4).contains(&told), "one message for each chunk server");

    let again = world.allocate(a, file, &[3, 5, 3]);
    assert_eq!(again, allocated, "asked again: the same chunks");
    assert_eq!(world.state.summary().chunks.get(ChunkHealth::Void), 2);
    world.create_all();
    assert!(world.allocate(a, file, &[3, 5]).chunks.iter().all(|chunk| chunk.usable));
    assert_eq!(world.state.summary().chunks.get(ChunkHealth::Healthy), 2);
    assert_eq!(world.state.summary().replicas, 6);
}

#[test]
fn only_the_writer_allocates_and_only_within_the_file() {
    let (mut world, a) = World::with_servers(1);
    let file = world.file("/f", 2, 1);
    assert!(matches!(world.refused(world.allocate_op(a, file, &[0])), Refusal::NotHolder(_)));
    world.granted(World::open_op(a, file, LeaseMode::Shared));
    assert!(matches!(world.refused(world.allocate_op(a, file, &[0])), Refusal::NotHolder(_)), "a reader");
    world.release(a, file, true);
    world.open(a, file);
    assert!(
        matches!(world.refused(world.allocate_op(a, file, &[0, 2])), Refusal::BeyondEnd(b) if b.index == 2)
    );
    let many: Vec<u32> = vec![0; INDICES_MAX + 1];
    assert!(matches!(world.refused(world.allocate_op(a, file, &many)), Refusal::TooMany(_)));
}

#[test]
fn without_a_place_nothing_is_allocated_and_the_operator_hears_of_it() {
    let (mut world, a) = World::with_servers(2);
    let file = world.file("/f", 2, 3);
    world.open(a, file);
    let refusal = world.refused(world.allocate_op(a, file, &[0]));
    assert_eq!(refusal.kind(), RefusalKind::NoSpace);
    assert_eq!(
        refusal.to_string(),
        "cannot place 3 replicas at tier 0: 2 chunk servers can take them (too few chunk servers are active)"
    );
    world.refused(world.allocate_op(a, file, &[0]));
    let events: Vec<_> = world.state.events().iter().filter(|e| e.code == EventCode::AllocFailed).collect();
    assert_eq!(events.len(), 1, "and is not flooded");
    assert!(events[0].message().contains("'/f'") && events[0].repeats == 1);
    world.serve(3);
    world.allocate(a, file, &[0]);
}

#[test]
fn replicas_meet_on_no_host_unless_the_domain_is_the_disk() {
    let (mut world, a) = World::with_servers(0);
    for n in 1..=3 {
        let claim = RegisterCs { host: "one".into(), ..World::claim(n) };
        world.register(claim);
        world.confirm(n, vec![]);
    }
    let file = world.file("/f", 1, 3);
    world.open(a, file);
    assert!(world.refused(world.allocate_op(a, file, &[0])).to_string().contains("too few hosts"));
    let change = AttrChange { failure_domain: Some(FailureDomain::Disk as i32), ..Default::default() };
    world.ok(CommandOp::SetAttr(SetAttr { path: "/f".into(), change: Some(change), recursive: false }));
    let servers: BTreeSet<_> = world.allocate(a, file, &[0]).chunks[0].servers.iter().copied().collect();
    assert_eq!(servers.len(), 3);
}

#[test]
fn space_placed_counts_until_the_next_report() {
    let mut world = World::new();
    let chunk = 64 << 10;
    let claim = RegisterCs { total_bytes: chunk * 20, free_bytes: chunk * 3, ..World::claim(1) };
    world.register(claim);
    world.confirm(1, vec![]);
    let a = world.session(1);
    let file = world.file("/f", 5, 1);
    world.open(a, file);
    // 5 % of 20 chunks are kept free.
    assert_eq!(world.refused(world.allocate_op(a, file, &[0, 1, 2])).kind(), RefusalKind::NoSpace);
    world.allocate(a, file, &[0, 1]);
    assert_eq!(world.refused(world.allocate_op(a, file, &[2])).kind(), RefusalKind::NoSpace);
    let (cs, session) = world.cs_name(1);
    let report =
        CsReport { cs, session, total_bytes: chunk * 20, free_bytes: chunk * 3, ..Default::default() };
    world.ok(CommandOp::CsReport(report));
    world.allocate(a, file, &[2]);
}

#[test]
fn a_server_that_cannot_create_is_replaced() {
    let (mut world, a) = World::with_servers(4);
    let file = world.file("/f", 1, 3);
    world.open(a, file);
    let place = world.allocate(a, file, &[0]).chunks[0].clone();
    let spare = (1025..1029).find(|cs| !place.servers.contains(cs)).unwrap();
    let failed = place.servers[1];
    let replace = |cs| CommandOp::ReplaceCreating(ReplaceCreating { chunk: place.chunk, cs, seed: 1 });
    assert!(matches!(world.refused(replace(spare)), Refusal::NotCreating(_)), "not a member");
    let applied = world.run(replace(failed));
    assert_eq!(applied.outcome, Ok(Outcome::Replaced(spare)));
    assert!(matches!(&applied.effects[..], [Effect::CreateChunks { cs, chunks, .. }]
        if cs.0 == spare && chunks[0].slot == 1));
    assert_eq!(world.state.deletions().count(), 1, "it may have been created after all");
    let session = world.state.server(CsId(failed)).unwrap().session;
    let late = ChunkCreated { cs: failed, session, chunks: vec![place.chunk] };
    assert_eq!(world.ok(CommandOp::ChunkCreated(late)), Outcome::Acknowledged(0));
    let back = world.refused(replace(spare));
    assert_eq!(back.kind(), RefusalKind::NoSpace, "not back to where it is being deleted");
    world.create_all();
    assert!(world.allocate(a, file, &[0]).chunks[0].usable);
    assert!(matches!(world.refused(replace(spare)), Refusal::NotCreating(_)), "too late");
}

#[test]
fn c9_deleted_chunks_go_through_quarantine() {
    let (mut world, a) = World::with_servers(2);
    let file = world.written_file(a, "/f", 2, 2);
    world.release(a, file, true);
    world.ok(CommandOp::Remove(Remove { path: "/f".into(), recursive: false }));
    let since = world.log.last().unwrap().now_ms;
    let chunks: Vec<_> = world.state.quarantined().collect();
    assert!(chunks.len() == 2 && chunks.iter().all(|(_, stamp)| *stamp == since), "{chunks:?}");

    let raw: Vec<u64> = chunks.iter().map(|(chunk, _)| chunk.raw()).collect();
    let (cs, session) = world.cs_name(1);
    let purged = |cs, session| CommandOp::ChunksPurged(ChunksPurged { cs, session, chunks: raw.clone() });
    assert_eq!(world.ok(purged(cs, session)), Outcome::Acknowledged(0), "nobody asked for it yet");
    let purge = CommandOp::PurgeChunks(PurgeChunks { chunks: raw.clone() });
    let applied = world.run(purge.clone());
    assert_eq!(applied.effects.len(), 2);
    assert_eq!(world.state.quarantined().count(), 0, "being purged");
    assert_eq!(world.ok(purged(cs, session)), Outcome::Acknowledged(2));
    assert_eq!(world.state.pending_for(CsId(cs)), []);
    let (cs, session) = world.cs_name(2);
    assert_eq!(world.state.pending_for(CsId(cs)).len(), 1);
    assert_eq!(world.ok(purged(cs, session)), Outcome::Acknowledged(2));
    assert_eq!(world.state.deletions().count(), 0);
    assert_eq!(world.refused(purge), Refusal::NotDeleted(raw[0]));
}

#[test]
fn c9_where_all_is_well_deleted_chunks_need_no_quarantine() {
    let remove = |world: &mut World, path: &str| {
        let applied = world.run(CommandOp::Remove(Remove { path: path.into(), recursive: false }));
        assert!(applied.outcome.is_ok() && applied.effects.contains(&Effect::Purge), "{applied:?}");
    };
    let back = |world: &mut World, n: u8| {
        let claim = world.claim_again(n);
        let fences = world.register(claim).fences;
        world.confirm(n, fences);
    };
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 2, 3);
    assert_eq!(world.state.purgeable(|_| true), [], "it lives");
    world.release(a, file, true);
    remove(&mut world, "/f");
    let chunks: Vec<_> = world.state.quarantined().map(|(chunk, _)| chunk).collect();
    assert_eq!((chunks.len(), world.state.purgeable(|_| true)), (2, chunks.clone()));
    assert_eq!(world.state.purgeable(|cs| cs != CsId(1026)), [], "one is not connected");
    world.lapse(2);
    assert_eq!(world.state.purgeable(|_| true), [], "one is away");
    back(&mut world, 2);
    assert_eq!(world.state.purgeable(|_| true), chunks);
    world.ok(CommandOp::PurgeChunks(PurgeChunks { chunks: vec![chunks[0].raw()] }));
    assert_eq!(world.state.purgeable(|_| true), chunks[1..]);
    // What the state from a backup does not know of is not deleted as if it were well known (C12).
    world.ok(CommandOp::RaiseGeneration(RaiseGeneration::default()));
    (1..=3).for_each(|n| back(&mut world, n));
    (1..=3).for_each(|n| back(&mut world, n));
    assert_eq!(world.state.purgeable(|_| true), [], "however often they register");
}

#[test]
fn c9_a_replica_of_a_chunk_that_lives_stays_in_quarantine() {
    let (mut world, a) = World::with_servers(4);
    let file = world.file("/f", 1, 3);
    world.open(a, file);
    let place = world.allocate(a, file, &[0]).chunks[0].clone();
    let replace = ReplaceCreating { chunk: place.chunk, cs: place.servers[1], seed: 1 };
    world.ok(CommandOp::ReplaceCreating(replace));
    assert_eq!((world.state.quarantined().count(), world.state.purgeable(|_| true).len()), (1, 0));
}

#[test]
fn what_a_server_should_hold_can_be_compared() {
    use crate::state::chunk::MemberState;
    let (mut world, a) = World::with_servers(2);
    world.written_file(a, "/f", 2, 2);
    let gone = world.written_file(a, "/g", 1, 2);
    world.release(a, gone, true);
    world.ok(CommandOp::Remove(Remove { path: "/g".into(), recursive: false }));
    let held = world.state.replicas_on(CsId(1025));
    let states: Vec<_> = held.iter().map(|replica| replica.state).collect();
    assert_eq!(states, [Some(MemberState::InSync), Some(MemberState::InSync), None]);
    assert!(held.is_sorted());
    assert_eq!(world.state.replicas_on(CsId(9)), []);
}

#[test]
fn work_that_was_lost_with_a_server_is_given_again_when_it_serves() {
    let (mut world, a) = World::with_servers(1);
    let file = world.file("/f", 1, 1);
    world.open(a, file);
    world.allocate(a, file, &[0]);
    world.register(world.claim_again(1));
    let (cs, session) = world.cs_name(1);
    let applied = world.run(CommandOp::FencesRecorded(FencesRecorded { cs, session, fences: vec![] }));
    let lasting: Vec<_> = applied.effects.iter().filter(|effect| effect.is_lasting()).collect();
    assert!(matches!(lasting[..], [Effect::CreateChunks { .. }]));
}

#[test]
fn shrinking_drops_what_lies_beyond_the_end() {
    let (mut world, a) = World::with_servers(1);
    let file = world.written_file(a, "/f", 4, 1);
    let chunk = 64 << 10;
    let resize = |world: &World, size, under_lease: bool| {
        let lease = if under_lease { world.proof(a, file) } else { None };
        CommandOp::Resize(Resize { target: Target::file(file), size, lease, allow_shrink: true })
    };
    assert!(matches!(world.refused(resize(&world, chunk, false)), Refusal::InUse(_)));
    let Outcome::Resized(resized) = world.ok(resize(&world, chunk * 2 + 1, true)) else { panic!() };
    assert_eq!((resized.size, resized.dropped), (chunk * 2 + 1, 1));
    world.release(a, file, true);
    assert_eq!(world.refused(resize(&world, chunk + 1, false)), Refusal::ShrinkNeedsLease(chunk));
    world.ok(resize(&world, chunk * 9 + 1, false));
    let Outcome::Resized(resized) = world.ok(resize(&world, chunk, false)) else { panic!() };
    assert_eq!(resized.dropped, 2);
    let careful = Resize { target: Target::file(file), size: 0, lease: None, allow_shrink: false };
    assert_eq!(world.refused(CommandOp::Resize(careful)), Refusal::ShrinkNotAllowed(chunk));
    world.ok(resize(&world, 0, false));
    assert_eq!(world.state.deletions().count(), 4);
    let limit = chunk << 32;
    world.ok(resize(&world, limit, false));
    assert!(
        matches!(world.refused(resize(&world, limit + 1, false)), Refusal::FileTooLarge(f) if f.limit == limit)
    );
}

#[test]
fn c1_who_was_away_while_a_file_was_cut_does_not_come_back_to_it() {
    let (mut world, a) = World::with_servers(1);
    let file = world.written_file(a, "/f", 4, 1);
    world.expire(a);
    let resize = |size| {
        CommandOp::Resize(Resize { target: Target::file(file), size, lease: None, allow_shrink: true })
    };
    let a2 = world.session_with(1, a.token);
    let resume =
        Resume { client: a2.client, token: a2.token, file, mode: LeaseMode::Exclusive as i32, epoch: 1 };
    world.ok(resize(64 << 12));
    world.fencing(CommandOp::Resume(resume));
    world.ok(resize(64 << 10));
    assert_eq!(world.refused(CommandOp::Resume(resume)), Refusal::ResumeLost(file));
}

#[test]
fn c5_a_file_does_not_grow_over_what_a_dead_writer_left_behind_its_end() {
    let (mut world, a) = World::with_servers(1);
    let chunk = 64 << 10;
    let file = world.written_file(a, "/f", 2, 1);
    let resize = |world: &World, client, size| {
        let lease = world.proof(client, file);
        CommandOp::Resize(Resize { target: Target::file(file), size, lease, allow_shrink: true })
    };
    world.ok(resize(&world, a, chunk + 100));
    world.expire(a);
    let grow = |size| {
        CommandOp::Resize(Resize { target: Target::file(file), size, lease: None, allow_shrink: true })
    };
    assert_eq!(world.refused(grow(chunk + 101)), Refusal::EndUnsettled(file), "nobody has it");
    let b = world.session(2);
    let ask = World::open_op(b, file, LeaseMode::Exclusive);
    let fencing = world.fencing(ask.clone());
    world.record(1, file, fencing.epoch);
    assert!(world.granted(ask).needs_reconcile);
    assert_eq!(world.refused(resize(&world, b, chunk + 101)), Refusal::EndUnsettled(file), "the next writer");
    let allocate = |world: &World| {
        let op = world.allocate_op(b, file, &[2]);
        let CommandOp::AllocateChunks(op) = op else { panic!() };
        CommandOp::AllocateChunks(AllocateChunks { grow_to: chunk * 3, ..op })
    };
    assert_eq!(world.refused(allocate(&world)), Refusal::EndUnsettled(file), "nor by writing farther out");
    world.ok(resize(&world, b, chunk + 100));
    let last = world.state.tree().file(FileId::from_raw(file)).unwrap().chunks().get(1).unwrap().clone();
    let done = ReconciledChunk { index: 1, chunk: last.id().raw(), version: last.version().raw() };
    world.ok(CommandOp::ReconcileDone(ReconcileDone {
        file,
        lease: world.proof(b, file),
        chunks: vec![done],
        writes_lost: false,
    }));
    assert_eq!(world.unreconciled(file), [0], "only the chunk at the end counts");
    world.ok(resize(&world, b, chunk + 101));
    world.ok(allocate(&world));
}
