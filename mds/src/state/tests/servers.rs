//! Registrations of chunk servers through the whole state (C2, C10, C12).

use super::*;
use crate::state::chunk::MemberState;

fn states(world: &World, file: u64) -> Vec<Vec<MemberState>> {
    let map = world.state.file_map(FileId::from_raw(file), 0, 100).unwrap();
    map.chunks.iter().map(|chunk| chunk.members.iter().map(|member| member.state).collect()).collect()
}

#[test]
fn ids_begin_where_operators_expect_them() {
    let (world, session) = World::with_servers(2);
    assert_eq!((world.cs(1).id.0, world.cs(2).id.0, session.client), (1025, 1026, 2049));
}

#[test]
fn c10_a_restart_within_one_boot_resumes() {
    let (mut world, a) = World::with_servers(1);
    let file = world.written_file(a, "/f", 2, 1);
    let registered = world.register(world.claim_again(1));
    assert!(registered.resumed && !registered.rebooted && !registered.stale);
    assert!(registered.fences.is_empty() && !world.cs(1).is_usable(), "it confirms first");
    world.confirm(1, Vec::new());
    assert!(world.cs(1).is_usable());
    assert_eq!(world.unreconciled(file), []);
}

#[test]
fn c10_registering_again_without_a_restart_resumes() {
    let (mut world, _) = World::with_servers(1);
    let again = |world: &World| RegisterCs { new_nonce: world.cs(1).nonce, ..world.claim_again(1) };
    let (_, before) = world.cs_name(1);
    assert!(world.register(again(&world)).resumed);
    assert!(world.cs(1).session > before, "a session of its own");
    world.confirm(1, vec![]);
    world.lapse(1);
    assert!(world.register(again(&world)).resumed);
    let reboot = RegisterCs { boot_id: vec![77; 16], ..world.claim_again(1) };
    assert!(world.register(reboot.clone()).rebooted);
    let again = RegisterCs { last_nonce: reboot.new_nonce, ..reboot };
    assert!(world.register(again).rebooted, "as long as that is not confirmed");
}

#[test]
fn c10_a_changed_boot_makes_files_in_use_suspect_whatever_their_writer_says() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 2, 3);
    let idle = world.written_file(a, "/g", 1, 3);
    world.release(a, idle, true);
    let claim = RegisterCs { boot_id: vec![77; 16], ..world.claim_again(2) };
    let applied = world.run(CommandOp::RegisterCs(claim));
    assert!(matches!(&applied.outcome, Ok(Outcome::CsRegistered(r)) if r.rebooted && !r.resumed));
    let reopen = Effect::Reopen { client: ClientId(a.client), file: FileId::from_raw(file) };
    assert!(applied.effects.contains(&reopen));
    assert_eq!(world.state.server(CsId(1026)).unwrap().boot_id, Uuid([77; 16]), "clients are told");
    assert_eq!((world.unreconciled(file), world.unreconciled(idle)), (vec![0, 1], vec![]));
    world.release(a, file, true);
    assert!(world.open(a, file).needs_reconcile);
}

#[test]
fn c10_a_rolled_back_server_is_stale_for_ever() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 2, 3);
    let image = world.claim_again(1);
    // It goes on and registers once more; then its directory is put back to the image.
    world.register(image.clone());
    world.confirm(1, Vec::new());
    let copy = RegisterCs { new_nonce: secret(9999), ..image };
    assert_eq!(
        world.refused(CommandOp::RegisterCs(copy.clone())),
        Refusal::CsTwice(1025),
        "the original serves"
    );
    world.lapse(1);
    let registered = world.register(copy);
    assert!(registered.stale && !registered.resumed);
    assert_eq!(registered.stale_replicas, 2);
    let epoch = world.proof(a, file).unwrap().epoch;
    assert_eq!(registered.fences, [FenceRecord { file, epoch }], "what it recorded may be rolled back too");
    assert!(world.last_events(2).contains(&EventCode::CsStale));
    assert_eq!(world.cs(1).stale_replicas, 2);
    assert_eq!(world.state.stale_replicas(CsId(1025), 10).len(), 2);
    let stale = |members: &Vec<MemberState>| members.iter().filter(|s| **s == MemberState::Stale).count();
    assert!(states(&world, file).iter().all(|members| stale(members) == 1));
    world.confirm(1, registered.fences);
    world.register(world.claim_again(1));
    world.confirm(1, Vec::new());
    assert!(
        states(&world, file).iter().all(|members| stale(members) == 1),
        "an orderly restart heals nothing"
    );
}

#[test]
fn c10_a_registration_may_be_repeated_until_it_is_confirmed() {
    let (mut world, _) = World::with_servers(1);
    let reboot = RegisterCs { boot_id: vec![77; 16], ..world.claim_again(1) };
    assert!(world.register(reboot.clone()).rebooted);
    assert!(world.register(reboot.clone()).rebooted, "the answer was lost: the same answer");
    world.confirm(1, vec![]);
    world.lapse(1);
    // An image of the directory from before the confirmation lacks what was written since.
    assert_eq!(world.refused(CommandOp::RegisterCs(reboot.clone())), Refusal::WrongRegistration(1025));
    let image = RegisterCs { new_nonce: secret(5555), ..reboot.clone() };
    let mut copy = World { state: world.state.clone(), index: world.index, log: Vec::new() };
    assert!(copy.register(image).stale);
    let restart = RegisterCs { boot_id: reboot.boot_id, ..world.claim_again(1) };
    assert!(world.register(restart).resumed, "what was confirmed is over");
}

#[test]
fn c10_messages_of_an_earlier_registration_are_not_heard() {
    let (mut world, _) = World::with_servers(1);
    let (cs, old) = world.cs_name(1);
    world.register(world.claim_again(1));
    let refusal = Refusal::WrongRegistration(cs);
    let fences = vec![];
    assert_eq!(
        world.refused(CommandOp::FencesRecorded(FencesRecorded { cs, session: old, fences })),
        refusal
    );
    assert_eq!(world.refused(CommandOp::CsLapsed(CsLapsed { cs, session: old })), refusal);
    assert_eq!(
        world.refused(CommandOp::ChunkCreated(ChunkCreated { cs, session: old, chunks: vec![] })),
        refusal
    );
    assert_eq!(
        world.refused(CommandOp::ChunksPurged(ChunksPurged { cs: 7, session: old, chunks: vec![] })),
        Refusal::UnknownCs(7)
    );
    let (_, session) = world.cs_name(1);
    world.lapse(1);
    let fences = vec![];
    assert_eq!(
        world.refused(CommandOp::FencesRecorded(FencesRecorded { cs, session, fences })),
        refusal,
        "lapsed"
    );
}

#[test]
fn the_states_of_a_chunk_server_follow_the_table() {
    use CsState::{Active, Inactive, Offline};
    let (mut world, _) = World::with_servers(1);
    let step = |world: &mut World, state: CsState| {
        let (cs, session) = world.cs_name(1);
        world.run(CommandOp::CsStateChanged(CsStateChanged { cs, session, state: state as i32 })).outcome
    };
    let bad = |outcome| matches!(outcome, Err(Refusal::BadCsStep(_)));
    assert!(bad(step(&mut world, Offline)), "first inactive");
    assert_eq!(step(&mut world, Inactive), Ok(Outcome::Acknowledged(1)));
    assert_eq!(step(&mut world, Inactive), Ok(Outcome::Acknowledged(0)));
    assert!(bad(step(&mut world, Offline)), "still registered");
    assert_eq!(step(&mut world, Active), Ok(Outcome::Acknowledged(1)), "heard from again");
    world.lapse(1);
    assert_eq!(world.cs(1).state, Inactive);
    assert!(bad(step(&mut world, Active)), "it has to register");
    assert_eq!(step(&mut world, Offline), Ok(Outcome::Acknowledged(1)));
    assert!(bad(step(&mut world, Active)));
    world.register(world.claim_again(1));
    assert_eq!(world.cs(1).state, Active);
}

#[test]
fn the_cluster_says_how_it_is() {
    let (mut world, _) = World::with_servers(4);
    assert_eq!(world.state.summary().status, health::ClusterStatus::Healthy);
    for n in 1..=3 {
        world.lapse(n);
        let (cs, session) = world.cs_name(n);
        world.ok(CommandOp::CsStateChanged(CsStateChanged { cs, session, state: CsState::Offline as i32 }));
    }
    assert_eq!(world.last_events(1), [EventCode::ClusterFailed]);
    let set = |value: &str| SetConfig {
        key: "mds.wd.max_offline_cs".into(),
        value: value.into(),
        origin: "op".into(),
    };
    world.ok(CommandOp::SetConfig(set("0")));
    assert_eq!(world.last_events(2), [EventCode::ConfigChanged, EventCode::ClusterDegraded]);
    for n in 1..=3 {
        world.register(world.claim_again(n));
    }
    assert_eq!(world.last_events(1), [EventCode::ClusterHealthy]);
}

#[test]
fn a_server_that_moves_to_a_host_of_its_peer_is_noticed() {
    let (mut world, a) = World::with_servers(2);
    world.written_file(a, "/f", 3, 2);
    let claim = RegisterCs { host: "host2".into(), ..world.claim_again(1) };
    let applied = world.run(CommandOp::RegisterCs(claim));
    let moved = applied.events.iter().find(|event| event.code == EventCode::CsMoved).unwrap();
    assert!(moved.message().contains("3 chunks"), "{}", moved.message());
}

#[test]
fn a_report_of_events_alone_leaves_the_numbers_alone() {
    let (mut world, _) = World::with_servers(1);
    let (cs, session) = world.cs_name(1);
    let numbers = CsReport { cs, session, total_bytes: 100, free_bytes: 7, flags: 3, ..Default::default() };
    world.ok(CommandOp::CsReport(numbers));
    let before = world.state.server(CsId(cs)).unwrap().clone();
    let event = ReportedEvent {
        severity: ReportedSeverity::Warning as i32,
        code: "cs.replica_failed".into(),
        message: "a client could not use chunk 0x5".into(),
    };
    let alone = CsReport { cs, session, events: vec![event], events_only: true, ..Default::default() };
    let applied = world.run(CommandOp::CsReport(alone));
    assert_eq!(applied.events.len(), 1);
    let after = world.state.server(CsId(cs)).unwrap();
    assert_eq!((after.total_bytes, after.free_bytes, after.flags), (100, 7, 3));
    assert!(*after == before, "nothing else has changed either");
}

#[test]
fn full_disks_are_announced_by_steps() {
    let (mut world, _) = World::with_servers(1);
    let report = |world: &mut World, used: u64, message: &str| {
        let (cs, session) = world.cs_name(1);
        let event = ReportedEvent {
            severity: ReportedSeverity::Warning as i32,
            code: "cs.hard_error".into(),
            message: message.into(),
        };
        let events = if message.is_empty() { vec![] } else { vec![event] };
        let (total_bytes, free_bytes, events_only) = (100, 100 - used, false);
        let op = CsReport { cs, session, total_bytes, free_bytes, flags: 3, events, events_only };
        world.run(CommandOp::CsReport(op)).events
    };
    assert!(report(&mut world, 79, "").is_empty());
    assert!(report(&mut world, 82, "")[0].message().starts_with("80 %"));
    assert!(report(&mut world, 84, "").is_empty());
    assert!(State::decode_snapshot(&world.state.encode_snapshot()) == Ok(world.state.clone()));
    assert!(report(&mut world, 95, "")[0].message().starts_with("95 %"));
    assert!(report(&mut world, 50, "").is_empty());
    assert!(report(&mut world, 81, "")[0].message().starts_with("80 %"));
    let event = &report(&mut world, 81, "read error in chunk 5")[0];
    assert_eq!((event.name(), event.message().as_str()), ("cs.hard_error", "CS#1025: read error in chunk 5"));
    assert_eq!(event.code.spec().severity, Severity::Warning);
}

#[test]
fn malformed_registrations_are_refused() {
    let mut world = World::new();
    let bad = [
        RegisterCs { cs_uuid: vec![1; 15], ..World::claim(1) },
        RegisterCs { boot_id: vec![], ..World::claim(1) },
        RegisterCs { new_nonce: Secret::NONE, ..World::claim(1) },
        RegisterCs { tier: 4, ..World::claim(1) },
        RegisterCs { host: "h".repeat(256), ..World::claim(1) },
        RegisterCs { path: "p".repeat(4097), ..World::claim(1) },
    ];
    for claim in bad {
        assert!(matches!(world.refused(CommandOp::RegisterCs(claim)), Refusal::Malformed(_)));
    }
    let foreign = RegisterCs { claimed_id: 1030, last_nonce: secret(4), ..World::claim(1) };
    assert_eq!(world.refused(CommandOp::RegisterCs(foreign)), Refusal::UnknownCs(1030));
}

#[test]
fn c12_after_a_restore_the_first_nonce_is_taken_on_trust() {
    let (mut world, a) = World::with_servers(2);
    let file = world.written_file(a, "/f", 2, 2);
    assert_eq!(world.ok(CommandOp::RaiseGeneration(RaiseGeneration::default())), Outcome::Generation(2));
    assert_eq!(world.refused(World::open_op(a, file, LeaseMode::Exclusive)), Refusal::NoSession(a.client));
    assert_eq!(world.unreconciled(file), [0, 1]);
    // The chunk server has registered since the backup was taken: its nonce is unknown.
    let claim = RegisterCs { last_nonce: secret(4711), new_nonce: secret(4712), ..world.claim_again(1) };
    let registered = world.register(claim);
    assert!(!registered.stale && registered.rebooted);
    assert!(world.last_events(3).contains(&EventCode::CsUnverified));
    world.confirm(1, vec![]);
    world.lapse(1);
    let wrong = RegisterCs { last_nonce: secret(1), new_nonce: secret(2), ..world.claim_again(1) };
    assert!(world.register(wrong).stale, "trusted once");

    let b = world.session(2);
    assert!(b.client > a.client + 1000, "ids that the backup may have missed are skipped");
    let fencing = world.fencing(World::open_op(b, file, LeaseMode::Exclusive));
    assert_eq!(Epoch::from_raw(fencing.epoch), Epoch::new(2, 1));
}
