//! Replicas that nobody knows, replicas that are not there, and events of the leader's, through the whole state (C9, C12).

use super::*;
use crate::state::Stranger;
use crate::state::chunk::MemberState;

fn unknown(chunk: ChunkId, file: u64, index: u32) -> UnknownReplica {
    UnknownReplica { chunk: chunk.raw(), version: Version::first(1).raw(), file, index }
}

fn quarantine(world: &World, n: u8, replica: UnknownReplica) -> CommandOp {
    let (cs, session) = world.cs_name(n);
    CommandOp::QuarantineReplicas(QuarantineReplicas { cs, session, replicas: vec![replica] })
}

fn waiting(world: &World, chunk: ChunkId) -> Vec<CsId> {
    world
        .state
        .deletions()
        .find(|(id, _)| *id == chunk)
        .map_or_else(Vec::new, |(_, found)| found.waiting.clone())
}

/// A deleted chunk that all chunk servers have said to have deleted.
fn deleted(world: &mut World, a: Session, servers: u8) -> ChunkId {
    let file = world.written_file(a, "/gone", 1, servers.into());
    world.release(a, file, true);
    world.ok(CommandOp::Remove(Remove { path: "/gone".into(), recursive: false }));
    let (chunk, _) = world.state.quarantined().next().unwrap();
    world.ok(CommandOp::PurgeChunks(PurgeChunks { chunks: vec![chunk.raw()] }));
    for n in 1..=servers {
        let (cs, session) = world.cs_name(n);
        world.ok(CommandOp::ChunksPurged(ChunksPurged { cs, session, chunks: vec![chunk.raw()] }));
    }
    assert_eq!(world.state.deletions().count(), 0);
    chunk
}

#[test]
fn c9_a_replica_that_was_made_after_its_chunk_was_deleted_is_deleted_after_a_quarantine() {
    let (mut world, a) = World::with_servers(2);
    let chunk = deleted(&mut world, a, 2);
    let late = unknown(chunk, 0, 0);
    assert_eq!(world.ok(quarantine(&world, 1, late)), Outcome::Acknowledged(1));
    assert_eq!(waiting(&world, chunk), [world.cs(1).id]);
    assert_eq!(world.last_events(1), [EventCode::ReplicasUnknown]);
    assert_eq!(world.state.purgeable(|_| true), [], "never at once");
    assert_eq!(world.ok(quarantine(&world, 1, late)), Outcome::Acknowledged(0), "it is known now");
    // Of a registration that is over nothing is believed.
    let before = quarantine(&world, 2, late);
    world.register(world.claim_again(2));
    assert!(matches!(world.refused(before), Refusal::WrongRegistration(_)));
}

#[test]
fn c12_what_metadata_from_a_backup_does_not_know_is_kept() {
    let (mut world, a) = World::with_servers(1);
    let chunk = deleted(&mut world, a, 1);
    assert_eq!(world.state.judge_stranger(chunk), Stranger::Deleted);
    world.ok(CommandOp::RaiseGeneration(RaiseGeneration::default()));
    let fences = world.register(world.claim_again(1)).fences;
    world.confirm(1, fences);
    assert_eq!(world.state.judge_stranger(chunk), Stranger::Former);
    assert_eq!(world.ok(quarantine(&world, 1, unknown(chunk, 0, 0))), Outcome::Acknowledged(0));
    let unborn = [ChunkId::new(2, 1 << 30), ChunkId::new(3, 1)];
    for unborn in unborn {
        assert_eq!(world.state.judge_stranger(unborn), Stranger::Unborn);
        assert_eq!(world.ok(quarantine(&world, 1, unknown(unborn, 0, 0))), Outcome::Acknowledged(0));
    }
    let (key, value) = ("mds.wd.delete_unknown".to_owned(), "1".to_owned());
    world.ok(CommandOp::SetConfig(SetConfig { key, value, origin: String::new() }));
    assert_eq!(world.ok(quarantine(&world, 1, unknown(chunk, 0, 0))), Outcome::Acknowledged(1));
    assert_eq!(world.ok(quarantine(&world, 1, unknown(unborn[0], 0, 0))), Outcome::Acknowledged(0));
}

#[test]
fn c12_ids_that_are_ahead_never_count_as_deleted_and_are_not_given_out() {
    let (mut world, a) = World::with_servers(1);
    let skip = |chunk: ChunkId| CommandOp::SkipIds(SkipIds { chunk: chunk.raw(), newer: false });
    let before = deleted(&mut world, a, 1);
    let first = world.state.next_chunk();
    let (between, ahead) = (ChunkId::new(1, first.counter() + 7), ChunkId::new(1, first.counter() + 20));
    let far = ChunkId::new(1, first.counter() + (1 << 33));
    for nothing in [ChunkId::new(2, 5), far] {
        world.ok(skip(nothing));
        assert_eq!(world.state.next_chunk(), first);
    }
    world.ok(skip(ahead));
    let file = world.written_file(a, "/f", 1, 1);
    let made = ChunkId::from_raw(world.allocate(a, file, &[0]).chunks[0].chunk);
    assert_eq!(made.counter(), ahead.counter() + 1);
    for stranger in [first, between, ahead] {
        assert_eq!(world.state.judge_stranger(stranger), Stranger::Unborn);
        assert_eq!(world.ok(quarantine(&world, 1, unknown(stranger, 0, 0))), Outcome::Acknowledged(0));
    }
    // What it knows may be wrong as well: the id may have been given out a second time.
    assert_eq!(world.state.judge_stranger(before), Stranger::Deleted);
    assert_eq!(world.ok(quarantine(&world, 1, unknown(before, 0, 0))), Outcome::Acknowledged(0));
    // More of them, later; the state survives its snapshot.
    let more = ChunkId::new(1, made.counter() + 9);
    world.ok(skip(more));
    assert_eq!(world.state.judge_stranger(ahead), Stranger::Unborn);
    assert_eq!(world.state.next_chunk().counter(), more.counter() + 1);
    world.ok(CommandOp::RaiseGeneration(RaiseGeneration { above: 6 }));
    assert_eq!(world.state.next_chunk().generation(), 7, "above what was there after the backup");
    assert_eq!(world.state.judge_stranger(ahead), Stranger::Former);
}

#[test]
fn c12_a_replica_that_is_newer_than_the_map_is_kept() {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 1, 3);
    let place = world.allocate(a, file, &[0]).chunks[0].clone();
    let chunk = ChunkId::from_raw(place.chunk);
    let spare = (1025..1029).find(|cs| !place.servers.contains(cs)).unwrap();
    let spare = (spare - 1024) as u8;
    let version = |version: Version| UnknownReplica { version: version.raw(), ..unknown(chunk, file, 0) };
    let now = {
        let found = world.state.tree().file(FileId::from_raw(file)).unwrap();
        found.chunks().get(0).unwrap().version()
    };
    let newer = Version::from_raw(now.raw() + 1);
    assert_eq!(world.ok(quarantine(&world, spare, version(newer))), Outcome::Acknowledged(0));
    world.ok(CommandOp::SkipIds(SkipIds { chunk: chunk.raw(), newer: true }));
    assert_eq!(
        world.ok(quarantine(&world, spare, version(now))),
        Outcome::Acknowledged(0),
        "until `restored`"
    );
    // After a restore the maps know neither what came later nor whether anything did.
    world.ok(CommandOp::RaiseGeneration(RaiseGeneration::default()));
    for n in 1..=4 {
        let fences = world.register(world.claim_again(n)).fences;
        world.confirm(n, fences);
    }
    for stranger in [now, newer] {
        assert_eq!(world.ok(quarantine(&world, spare, version(stranger))), Outcome::Acknowledged(0));
    }
    let judged = |world: &World, of: Version| {
        let found = world.state.tree().file(FileId::from_raw(file)).unwrap();
        world.state.judge_replica(found.chunks().get(0).unwrap(), of)
    };
    assert_eq!([now, newer].map(|of| judged(&world, of)), [Stranger::Former, Stranger::Newer]);
    let (key, value) = ("mds.wd.delete_unknown".to_owned(), "1".to_owned());
    world.ok(CommandOp::SetConfig(SetConfig { key, value, origin: String::new() }));
    assert_eq!(
        world.ok(quarantine(&world, spare, version(now))),
        Outcome::Acknowledged(0),
        "not reconciled yet"
    );
}

#[test]
fn c9_replicas_in_the_maps_or_on_their_way_are_not_deleted() {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 1, 3);
    let place = world.allocate(a, file, &[0]).chunks[0].clone();
    let chunk = ChunkId::from_raw(place.chunk);
    let number = |cs: u32| (cs - 1024) as u8;
    let spare = number((1025..1029).find(|cs| !place.servers.contains(cs)).unwrap());
    let member = number(place.servers[0]);
    let live = unknown(chunk, file, 0);
    assert_eq!(world.ok(quarantine(&world, member, live)), Outcome::Acknowledged(0));
    let elsewhere = unknown(chunk, file, 1);
    assert_eq!(world.ok(quarantine(&world, spare, elsewhere)), Outcome::Acknowledged(0), "not that chunk");
    assert_eq!(world.ok(quarantine(&world, spare, live)), Outcome::Acknowledged(1), "no member");
    assert_eq!(waiting(&world, chunk), [world.cs(spare).id]);
    assert_eq!(world.state.purgeable(|_| true), [], "the chunk lives");
}

#[test]
fn c9_replicas_that_are_not_there_are_given_up_if_enough_others_are() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 1, 3);
    let entry = |world: &World| {
        world.state.tree().file(FileId::from_raw(file)).unwrap().chunks().get(0).unwrap().clone()
    };
    let lose = |world: &World, n: u8, version: Version| {
        let (cs, session) = world.cs_name(n);
        let place = ReplicaPlace { file, index: 0, version: version.raw(), cs };
        CommandOp::LoseReplicas(LoseReplicas { cs, session, places: vec![place] })
    };
    let before = entry(&world).version();
    assert_eq!(world.ok(lose(&world, 1, before)), Outcome::Acknowledged(1));
    assert_eq!(world.last_events(1), [EventCode::ReplicasMissing]);
    assert_eq!(entry(&world).members().on(world.cs(1).id).unwrap().state, MemberState::Failed);
    assert_eq!(world.ok(lose(&world, 2, before)), Outcome::Acknowledged(0), "another version by now");
    let now = entry(&world).version();
    assert!(now > before);
    // Two are the minimum of three.
    assert_eq!(world.ok(lose(&world, 2, now)), Outcome::Acknowledged(0));
    assert_eq!(world.last_events(1), [EventCode::ReplicasGone]);
    assert_eq!(entry(&world).members().on(world.cs(2).id).unwrap().state, MemberState::InSync);
}

#[test]
fn only_events_that_nothing_else_tells_of_are_noted() {
    let (mut world, _) = World::with_servers(1);
    let note = |code: EventCode, args: &[&str]| {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        CommandOp::NoteEvent(NoteEvent { code: code.into(), args })
    };
    world.ok(note(EventCode::ReplicationStarted, &["7"]));
    let told = world.state.events().iter().last().unwrap().message();
    assert_eq!(told, "Replication started: 7 chunks are queued");
    let long = "x".repeat(256);
    for bad in [
        note(EventCode::CsDropped, &["1025"]),
        note(EventCode::ReplicationStarted, &[&long]),
        note(EventCode::ReplicationStarted, &["1"; 9]),
        CommandOp::NoteEvent(NoteEvent { code: 9999, args: Vec::new() }),
    ] {
        world.refused(bad);
    }
}
