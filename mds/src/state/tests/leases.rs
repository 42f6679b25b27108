//! Sessions and leases through the whole state (C1, C2, C5, C9).

use super::*;
use crate::state::lease::Phase;

const WRITE: LeaseMode = LeaseMode::Exclusive;
const READ: LeaseMode = LeaseMode::Shared;

fn held_by(outcome: Outcome) -> (Vec<u32>, bool) {
    match outcome {
        Outcome::Held(held) => (held.by, held.reserved),
        other => panic!("{other:?}"),
    }
}

#[test]
fn c1_exclusive_excludes_all_others() {
    let (mut world, a) = World::with_servers(1);
    let b = world.session(2);
    let file = world.file("/f", 1, 1);
    assert_eq!(world.open(a, file).epoch, Epoch::new(1, 1).raw());
    for mode in [READ, WRITE] {
        assert_eq!(held_by(world.ok(World::open_op(b, file, mode))), (vec![a.client], false));
    }
    world.release(a, file, true);
    let granted = world.granted(World::open_op(b, file, READ));
    assert_eq!((granted.epoch, granted.needs_reconcile), (Epoch::new(1, 2).raw(), false));
    assert_eq!(world.granted(World::open_op(a, file, READ)).epoch, granted.epoch, "readers join");
    assert_eq!(held_by(world.ok(World::open_op(a, file, WRITE))), (vec![a.client, b.client], false));
}

#[test]
fn c2_an_expired_writer_is_fenced_on_every_chunk_server_before_the_next_grant() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 4, 3);
    let epoch = world.open(a, file).epoch;
    world.expire(a);
    let b = world.session(2);
    let ask = World::open_op(b, file, WRITE);
    let applied = world.run(ask.clone());
    let Ok(Outcome::Fencing(fencing)) = applied.outcome else { panic!("{applied:?}") };
    assert_eq!((fencing.waiting.len(), fencing.epoch), (3, epoch + 1));
    let fences = applied.effects.iter().filter(|effect| matches!(effect, Effect::Fence { .. })).count();
    assert_eq!(fences, 3);

    world.record(1, file, fencing.epoch);
    world.record(2, file, epoch);
    assert_eq!(world.fencing(ask.clone()).waiting.len(), 2, "an old epoch is no fence");
    world.record(2, file, fencing.epoch);
    assert_eq!(world.fencing(ask.clone()).waiting, [world.cs(3).id.0]);
    world.record(3, file, fencing.epoch);
    let granted = world.granted(ask);
    assert_eq!((granted.epoch, granted.needs_reconcile), (fencing.epoch, true));
    assert_eq!(world.unreconciled(file), [0, 1, 2, 3]);
}

#[test]
fn c2_a_lapsed_chunk_server_counts_as_drained_and_owes_the_record() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 1, 3);
    world.lapse(1);
    world.expire(a);
    let b = world.session(2);
    let ask = World::open_op(b, file, WRITE);
    let fencing = world.fencing(ask.clone());
    assert_eq!(fencing.waiting, [world.cs(2).id.0, world.cs(3).id.0], "it lapsed before");
    world.record(2, file, fencing.epoch);
    world.lapse(3);
    assert_eq!(world.granted(ask).epoch, fencing.epoch, "it lapsed while waited for");

    for n in [1, 3] {
        let fence = FenceRecord { file, epoch: fencing.epoch };
        let registered = world.register(world.claim_again(n));
        assert_eq!(registered.fences, [fence], "recorded before it serves");
        world.confirm(n, Vec::new());
        world.confirm(n, vec![FenceRecord { epoch: fencing.epoch - 1, ..fence }]);
        assert!(!world.cs(n).is_usable(), "not before it has recorded them");
        let again = world.register(RegisterCs { boot_id: vec![9; 16], ..world.claim_again(n) });
        assert_eq!(again.fences, [fence], "also if it starts again in between");
        world.confirm(n, vec![fence]);
        assert!(world.cs(n).is_usable());
    }
}

#[test]
fn c1_an_expired_client_resumes_if_nobody_was_granted_since() {
    let (mut world, a) = World::with_servers(1);
    let file = world.written_file(a, "/f", 1, 1);
    let other = world.written_file(a, "/g", 1, 1);
    world.expire(a);
    let b = world.session(2);
    let ask = World::open_op(b, other, WRITE);
    let fencing = world.fencing(ask.clone());
    world.record(1, other, fencing.epoch);
    world.open(b, other);
    world.release(b, other, true);

    assert_eq!(world.refused(World::open_op(a, file, WRITE)), Refusal::NoSession(a.client));
    let a2 = world.session_with(1, a.token);
    assert_eq!(a2.client, a.client, "known by its token");
    let epoch = Epoch::new(1, 1).raw();
    let resume = |file| {
        CommandOp::Resume(Resume { client: a2.client, token: a2.token, file, mode: WRITE as i32, epoch })
    };
    let fencing = world.fencing(resume(file));
    world.record(1, file, fencing.epoch);
    let granted = world.granted(resume(file));
    assert!(granted.needs_reconcile && granted.epoch == fencing.epoch);
    assert_eq!(world.granted(resume(file)).epoch, fencing.epoch, "asked again");
    assert_eq!(world.refused(resume(other)), Refusal::ResumeLost(other));
    assert_eq!(world.refused(resume(77)), Refusal::ResumeLost(77), "a file that is gone");
}

#[test]
fn c1_a_restarted_daemon_takes_its_own_lease_over_at_once() {
    let (mut world, a) = World::with_servers(1);
    let file = world.written_file(a, "/f", 1, 1);
    let epoch = world.open(a, file).epoch;
    let b = world.session(2);
    // Without the token it has to wait.
    let foreign = OpenSession { client_uuid: vec![1; 16], new_token: secret(5), ..Default::default() };
    assert!(matches!(world.refused(CommandOp::OpenSession(foreign)), Refusal::SessionTaken(_)));

    let a2 = world.session_with(1, a.token);
    assert_eq!(world.last_events(2), [EventCode::ReconcileNeeded, EventCode::SessionTakenOver]);
    assert_eq!(
        world.refused(World::open_op(a, file, WRITE)),
        Refusal::WrongToken(a.client),
        "the process before"
    );
    assert_eq!(held_by(world.ok(World::open_op(b, file, WRITE))), (vec![a.client], true), "kept for it");
    let fencing = world.fencing(World::open_op(a2, file, WRITE));
    world.record(1, file, fencing.epoch);
    assert_eq!(held_by(world.ok(World::open_op(b, file, READ))), (vec![a.client], true));
    assert!(world.open(a2, file).epoch > epoch);
}

#[test]
fn c10_a_holder_reopens_its_file_at_a_higher_epoch() {
    let (mut world, a) = World::with_servers(1);
    let b = world.session(2);
    let file = world.written_file(a, "/f", 1, 1);
    let epoch = world.open(a, file).epoch;
    let reopen =
        CommandOp::Resume(Resume { client: a.client, token: a.token, file, mode: WRITE as i32, epoch });
    let fencing = world.fencing(reopen.clone());
    assert_eq!(
        held_by(world.ok(World::open_op(b, file, WRITE))),
        (vec![a.client], true),
        "nobody gets in between"
    );
    world.ok(CommandOp::Remove(Remove { path: "/f".into(), recursive: false }));
    world.record(1, file, fencing.epoch);
    let granted = world.granted(reopen.clone());
    assert!(granted.epoch > epoch && granted.needs_reconcile, "also if it is unlinked meanwhile (C9)");
    assert_eq!(world.granted(reopen).epoch, granted.epoch, "asked again: the answer was lost");
    world.release(a, file, true);
    assert!(world.state.stat_id(FileId::from_raw(file)).is_err());
}

#[test]
fn c9_an_unlinked_file_kept_for_a_restarted_client_goes_with_its_session() {
    let (mut world, a) = World::with_servers(1);
    let file = world.written_file(a, "/f", 1, 1);
    world.ok(CommandOp::Remove(Remove { path: "/f".into(), recursive: false }));
    let a2 = world.session_with(1, a.token);
    assert!(world.state.stat_id(FileId::from_raw(file)).is_ok());
    world.expire(a2);
    assert!(world.state.stat_id(FileId::from_raw(file)).is_err());
    assert_eq!(world.state.deletions().count(), 1);
}

#[test]
fn c1_a_lost_answer_does_not_lock_a_client_out() {
    let (mut world, a) = World::with_servers(1);
    let lost = world.session_with(1, a.token);
    let a3 = world.session_with(1, a.token);
    assert_eq!((lost.client, a3.client), (a.client, a.client));
    let file = world.file("/f", 1, 1);
    world.open(a3, file);
    let with_old = OpenSession {
        client_uuid: vec![1; 16],
        stored_token: a.token,
        new_token: secret(5),
        ..Default::default()
    };
    assert!(
        matches!(world.refused(CommandOp::OpenSession(with_old)), Refusal::SessionTaken(_)),
        "once it is used"
    );
}

#[test]
fn a_reservation_ends_with_the_session_it_is_for() {
    let (mut world, a) = World::with_servers(1);
    let (b, c) = (world.session(2), world.session(3));
    let file = world.file("/f", 1, 1);
    world.open(a, file);
    let lease = world.proof(a, file);
    let hand_over = |successor| CommandOp::Release(Release { lease, file, clean: true, successor });
    assert_eq!(world.refused(hand_over(4711)), Refusal::NoSession(4711));
    world.ok(hand_over(b.client));
    assert_eq!(held_by(world.ok(World::open_op(c, file, WRITE))), (vec![b.client], true));
    let resize = Resize { target: Target::file(file), size: 0, lease: None, allow_shrink: true };
    assert!(matches!(world.refused(CommandOp::Resize(resize)), Refusal::InUse(_)));
    world.expire(b);
    world.open(c, file);
}

#[test]
fn c1_a_hand_over_goes_to_the_named_successor_only() {
    let (mut world, a) = World::with_servers(2);
    let b = world.session(2);
    let file = world.written_file(a, "/f", 2, 2);
    let lease = world.proof(a, file);
    world.ok(CommandOp::Release(Release { lease, file, clean: true, successor: b.client }));
    assert_eq!(held_by(world.ok(World::open_op(a, file, WRITE))), (vec![b.client], true));
    let granted = world.open(b, file);
    assert!(!granted.needs_reconcile, "released after a flush: neither fence nor reconciliation (C2, C5)");
    world.ok(CommandOp::Remove(Remove { path: "/f".into(), recursive: false }));
    let lease = world.proof(b, file);
    world.ok(CommandOp::Release(Release { lease, file, clean: true, successor: a.client }));
    assert_eq!(
        world.refused(World::open_op(b, file, WRITE)),
        Refusal::UnknownFile(file),
        "handed over without a name"
    );
    world.open(a, file);
}

#[test]
fn c5_what_was_not_reconciled_survives_the_next_end() {
    let (mut world, a) = World::with_servers(1);
    let file = world.written_file(a, "/f", 3, 1);
    world.release(a, file, false);
    let fencing = world.fencing(World::open_op(a, file, WRITE));
    world.record(1, file, fencing.epoch);
    assert!(world.open(a, file).needs_reconcile);

    let map = world.state.file_map(FileId::from_raw(file), 0, 10).unwrap().chunks;
    let done = |world: &World, indices: &[usize]| {
        let chunk = |index: &usize| ReconciledChunk {
            index: *index as u32,
            chunk: map[*index].chunk.raw(),
            version: map[*index].version.raw(),
        };
        let chunks = indices.iter().map(chunk).collect();
        CommandOp::ReconcileDone(ReconcileDone {
            lease: world.proof(a, file),
            file,
            chunks,
            writes_lost: true,
        })
    };
    let other_version =
        ReconciledChunk { index: 1, chunk: map[1].chunk.raw(), version: map[1].version.raw() + 1 };
    let lease = world.proof(a, file);
    let wrong = ReconcileDone { lease, file, chunks: vec![other_version], writes_lost: false };
    assert_eq!(world.ok(CommandOp::ReconcileDone(wrong)), Outcome::Unreconciled(3), "another version (C7)");
    assert_eq!(world.ok(done(&world, &[0])), Outcome::Unreconciled(2));
    world.release(a, file, true);
    let granted = world.open(a, file);
    assert!(granted.needs_reconcile, "also after an orderly release");
    assert_eq!(world.unreconciled(file), [1, 2]);
    world.release(a, file, false);
    assert_eq!(world.unreconciled(file), [0, 1, 2], "a writer was there again");

    let fencing = world.fencing(World::open_op(a, file, READ));
    world.record(1, file, fencing.epoch);
    assert!(world.granted(World::open_op(a, file, READ)).needs_reconcile);
    let b = world.session(2);
    assert_eq!(held_by(world.ok(World::open_op(b, file, READ))), (vec![a.client], false), "one reconciles");
    assert_eq!(world.ok(done(&world, &[2, 0, 1])), Outcome::Unreconciled(0));
    assert_eq!(world.last_events(2), [EventCode::WritesLost, EventCode::Reconciled], "C4");
    assert!(!world.granted(World::open_op(b, file, READ)).needs_reconcile);
}

#[test]
fn c5_members_hear_up_to_which_epoch_nothing_is_in_doubt() {
    let (mut world, a) = World::with_servers(2);
    let file = world.written_file(a, "/f", 2, 2);
    let map = world.state.file_map(FileId::from_raw(file), 0, 10).unwrap().chunks;
    let chunks: BTreeSet<ChunkId> = map.iter().map(|chunk| chunk.chunk).collect();
    let servers = [1, 2].map(|n| world.cs(n).id);
    let settled = |world: &World, cs: CsId| -> Vec<(u64, u64)> {
        let settled = world.state.settled(FileId::from_raw(file), &chunks, cs);
        settled.iter().map(|settled| (settled.below, settled.newest.raw())).collect()
    };
    let first = world.state.tree().file(FileId::from_raw(file)).unwrap().lease().epoch().raw();
    assert_eq!(settled(&world, servers[0]), [(first, first); 2], "its writer is there");
    assert_eq!(world.state.settled(FileId::from_raw(file), &BTreeSet::new(), servers[0]), []);
    assert_eq!(settled(&world, CsId(99)), [], "no member");
    world.release(a, file, true);
    assert_eq!(settled(&world, servers[1]), [(first + 1, first); 2], "released in order");
    let reader = world.granted(World::open_op(a, file, READ)).epoch;
    assert_eq!(settled(&world, servers[0]), [(reader + 1, reader); 2], "readers write nothing");
    world.release(a, file, true);
    world.open(a, file);
    world.release(a, file, false);
    assert_eq!(settled(&world, servers[0]), []);
    let fencing = world.fencing(World::open_op(a, file, WRITE));
    world.record(1, file, fencing.epoch);
    world.record(2, file, fencing.epoch);
    assert_eq!(settled(&world, servers[0]), [], "before it is granted");
    let epoch = world.open(a, file).epoch;
    assert_eq!(settled(&world, servers[0]), [], "not reconciled");
    let lease = world.proof(a, file);
    let done = ReconciledChunk { index: 1, chunk: map[1].chunk.raw(), version: map[1].version.raw() };
    world.ok(CommandOp::ReconcileDone(ReconcileDone { lease, file, chunks: vec![done], writes_lost: false }));
    assert_eq!(settled(&world, servers[0]), [(epoch, epoch)]);
    world.release(a, file, true);
    assert_eq!(settled(&world, servers[0]), [(epoch + 1, epoch)]);
    world.ok(CommandOp::RaiseGeneration(RaiseGeneration::default()));
    assert_eq!(settled(&world, servers[0]), []);
    world.state.tree.file_mut(FileId::from_raw(file)).unwrap().lease = crate::state::lease::Lease::default();
    world
        .state
        .tree
        .file_mut(FileId::from_raw(file))
        .unwrap()
        .chunks
        .update_all(|entry| entry.set_unreconciled(false));
    assert_eq!(settled(&world, servers[0]), [], "nothing that a backup knew (C12)");
}

#[test]
fn c5_what_nobody_could_write_is_not_suspect() {
    let (mut world, a) = World::with_servers(1);
    let file = world.file("/f", 3, 1);
    world.open(a, file);
    world.allocate(a, file, &[0, 1]);
    world.create_all();
    world.allocate(a, file, &[2]);
    world.release(a, file, false);
    assert_eq!(world.unreconciled(file), [0, 1], "chunk 2 was still being created");
    let empty = world.file("/empty", 3, 1);
    world.open(a, empty);
    world.release(a, empty, false);
    assert!(
        !world.open(a, empty).needs_reconcile,
        "without chunks there is neither fence nor reconciliation"
    );
}

#[test]
fn revoking_takes_a_lease_for_good() {
    let (mut world, a) = World::with_servers(1);
    let file = world.written_file(a, "/f", 1, 1);
    let what = Some(RevokeWhat::File(Target { target: Some(TargetRef::Path("/f".into())) }));
    let applied = world.run(CommandOp::Revoke(Revoke { what, told: false }));
    assert_eq!(applied.outcome, Ok(Outcome::Acknowledged(1)));
    assert!(applied.effects.iter().any(|effect| matches!(effect, Effect::LeaseLost { .. })));
    assert!(applied.events.iter().any(|event| event.message().contains("of CL#2049 on '/f' was revoked")));
    let resume = Resume { client: a.client, token: a.token, file, mode: WRITE as i32, epoch: 1 };
    assert_eq!(world.refused(CommandOp::Resume(resume)), Refusal::ResumeLost(file));

    let what = Some(RevokeWhat::Client(a.client));
    world.ok(CommandOp::Revoke(Revoke { what: what.clone(), told: false }));
    assert_eq!(world.refused(World::open_op(a, file, WRITE)), Refusal::NoSession(a.client));
    assert_eq!(world.refused(CommandOp::Revoke(Revoke { what, told: false })), Refusal::NoSession(a.client));
    assert_ne!(world.session_with(1, a.token).client, a.client, "a new session is a new client");
}

#[test]
fn a_client_is_told_of_a_revoked_lease_until_it_knows() {
    let (mut world, a) = World::with_servers(1);
    // Without chunks there is nothing to fence.
    let file = world.file("/f", 1, 1);
    world.open(a, file);
    let revoke = || {
        let what = Some(RevokeWhat::File(Target { target: Some(TargetRef::Path("/f".into())) }));
        CommandOp::Revoke(Revoke { what, told: true })
    };
    let lost = |world: &World| {
        let state = State::decode_snapshot(&world.state.encode_snapshot()).expect("it is read back");
        let client = state.client(ClientId(a.client)).expect("known");
        client.lost().map(|(file, epoch)| (file.raw(), epoch.raw())).collect::<Vec<_>>()
    };
    let held = world.proof(a, file).unwrap();
    world.ok(revoke());
    assert_eq!(lost(&world), [(file, held.epoch)]);
    let release =
        |lease| CommandOp::Release(Release { lease: Some(lease), file, clean: false, successor: 0 });
    let later = LeaseProof { epoch: held.epoch + 1, ..held };
    assert!(matches!(world.refused(release(later)), Refusal::NotHolder(_)));
    assert_eq!(lost(&world), [(file, held.epoch)], "that was not of the lease it lost");
    world.ok(release(held));
    assert_eq!(lost(&world), []);
    assert!(matches!(world.refused(release(held)), Refusal::NotHolder(_)), "of nothing any more");

    world.open(a, file);
    world.ok(revoke());
    assert_eq!(lost(&world).len(), 1);
    world.open(a, file);
    assert_eq!(lost(&world), [], "it has the file anew");
    world.ok(revoke());
    let a2 = world.session_with(1, a.token);
    assert_eq!((a2.client, lost(&world)), (a.client, vec![]), "the next process never had it");
}

#[test]
fn revoking_takes_what_is_kept_for_a_writer_that_opens_anew() {
    let (mut world, a) = World::with_servers(1);
    let file = world.written_file(a, "/f", 1, 1);
    let epoch = world.proof(a, file).unwrap().epoch;
    let resume =
        || CommandOp::Resume(Resume { client: a.client, token: a.token, file, mode: WRITE as i32, epoch });
    assert!(matches!(world.ok(resume()), Outcome::Fencing(_)));
    let what = Some(RevokeWhat::File(Target { target: Some(TargetRef::Path("/f".into())) }));
    let applied = world.run(CommandOp::Revoke(Revoke { what: what.clone(), told: true }));
    assert_eq!(applied.outcome, Ok(Outcome::Acknowledged(1)));
    assert!(applied.events.iter().any(|event| event.message().contains("of CL#2049 on '/f' was revoked")));
    assert!(applied.effects.contains(&Effect::LeaseFree { file: FileId::from_raw(file) }));
    let lost: Vec<_> = world.state.client(ClientId(a.client)).unwrap().lost().collect();
    assert!(matches!(lost[..], [(id, at)] if id.raw() == file && at.raw() > epoch), "{lost:?}");
    assert_eq!(world.refused(resume()), Refusal::ResumeLost(file));
    let again = world.run(CommandOp::Revoke(Revoke { what, told: true }));
    assert_eq!((again.outcome, again.events.len()), (Ok(Outcome::Acknowledged(0)), 0), "nothing is left");
}

#[test]
fn timers_of_earlier_sessions_do_not_strike() {
    let (mut world, a) = World::with_servers(1);
    let a2 = world.session_with(1, a.token);
    let late = ExpireSession { client: a.client, session: a.number };
    assert_eq!(world.refused(CommandOp::ExpireSession(late)), Refusal::NoSession(a.client));
    world.expire(a2);
}

#[test]
fn only_the_holder_at_the_present_epoch_is_heard() {
    let (mut world, a) = World::with_servers(1);
    let b = world.session(2);
    let file = world.written_file(a, "/f", 1, 1);
    let good = world.proof(a, file).unwrap();
    let release = |lease| CommandOp::Release(Release { lease, file, clean: true, successor: 0 });
    let stale = LeaseProof { epoch: good.epoch - 1, ..good };
    assert!(matches!(world.refused(release(Some(stale))), Refusal::WrongEpoch(_)));
    let foreign = LeaseProof { client: b.client, token: b.token, ..good };
    assert!(matches!(world.refused(release(Some(foreign))), Refusal::NotHolder(_)));
    let forged = LeaseProof { token: secret(1), ..good };
    assert_eq!(world.refused(release(Some(forged))), Refusal::WrongToken(a.client));
    assert!(matches!(world.refused(release(None)), Refusal::Malformed(_)));
    world.ok(release(Some(good)));
}

#[test]
fn c9_an_unlinked_file_lives_until_its_last_lease_ends() {
    let (mut world, a) = World::with_servers(1);
    let b = world.session(2);
    let file = world.written_file(a, "/f", 2, 1);
    world.release(a, file, true);
    world.granted(World::open_op(a, file, READ));
    world.granted(World::open_op(b, file, READ));
    let remove = Remove { path: "/f".into(), recursive: false };
    let Outcome::Removed(removed) = world.ok(CommandOp::Remove(remove)) else { panic!() };
    assert_eq!((removed.entries, removed.orphans), (1, 1));
    assert_eq!(world.state.deletions().count(), 0);
    let c = world.session(3);
    assert_eq!(world.refused(World::open_op(c, file, READ)), Refusal::UnknownFile(file));
    world.release(a, file, true);
    assert!(world.state.stat_id(FileId::from_raw(file)).is_ok());
    world.expire(b);
    assert_eq!(world.state.stat_id(FileId::from_raw(file)), Err(Refusal::UnknownFile(file)));
    assert_eq!(world.state.deletions().count(), 2);
}

#[test]
fn may_grant_tells_when_asking_is_worth_it() {
    let (mut world, a) = World::with_servers(1);
    let b = world.session(2);
    let file = world.written_file(a, "/f", 1, 1);
    let may = |world: &World, session: Session, mode| {
        let target = Target::file(file).unwrap();
        world.state.may_grant(ClientId(session.client), &target, mode).unwrap()
    };
    assert!(may(&world, a, WRITE) && !may(&world, b, WRITE) && !may(&world, b, READ));
    world.expire(a);
    assert!(may(&world, b, WRITE), "asking starts the fence");
    let fencing = world.fencing(World::open_op(b, file, WRITE));
    assert!(!may(&world, b, WRITE));
    world.record(1, file, fencing.epoch);
    assert_eq!(world.phase(file), &Phase::Fenced);
    assert!(may(&world, b, WRITE));
}

#[test]
fn c1_a_file_is_kept_until_the_time_of_that_very_session_is_over() {
    let (mut world, a) = World::with_servers(1);
    let b = world.session(2);
    let file = world.file("/f", 1, 1);
    world.open(a, file);
    let take_over = |world: &mut World, stored_token, n| {
        let op = OpenSession {
            client_uuid: vec![1; 16],
            stored_token,
            new_token: secret(n),
            ..OpenSession::default()
        };
        match world.ok(CommandOp::OpenSession(op)) {
            Outcome::Session(opened) => (opened.session, opened.token),
            other => panic!("{other:?}"),
        }
    };
    let (first, token) = take_over(&mut world, a.token, 71);
    let kept = Effect::LeaseKept { client: ClientId(a.client), file: FileId::from_raw(file) };
    assert!(world.state.pending_work().contains(&kept), "a new master times it too");
    let (second, _) = take_over(&mut world, token, 72);
    let end = |session| CommandOp::EndReservation(EndReservation { file, client: a.client, session });
    assert_eq!(
        world.refused(end(first)),
        Refusal::NoSession(a.client),
        "a later restart has a term of its own"
    );
    assert_eq!(held_by(world.ok(World::open_op(b, file, WRITE))), (vec![a.client], true));
    let other = EndReservation { file, client: b.client, session: b.number };
    world.ok(CommandOp::EndReservation(other));
    assert_eq!(held_by(world.ok(World::open_op(b, file, WRITE))), (vec![a.client], true), "not theirs");
    world.ok(end(second));
    assert!(!world.state.pending_work().contains(&kept));
    world.granted(World::open_op(b, file, WRITE));
    world.ok(end(second));
    world.proof(b, file);
}
