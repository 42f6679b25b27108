//! Founding, configuring, repeating requests, and what belongs to no other subject.

use super::*;

#[test]
fn nothing_works_before_the_cluster_is_created() {
    let mut state = State::new();
    let list = CommandOp::MakeDir(MakeDir { path: "/a".into(), parents: false, mode: 0 });
    let applied = state.apply(1, &Command::internal(0, list));
    assert_eq!(applied.outcome, Err(Refusal::NotInitialized(())));
    assert!(state.cluster().is_none() && state.stat("/").is_err());
    let init = |name: &str, uuid: usize| {
        Command::internal(0, CommandOp::InitCluster(InitCluster { uuid: vec![1; uuid], name: name.into() }))
    };
    assert!(matches!(state.apply(2, &init("a/b", 16)).outcome, Err(Refusal::Malformed(_))));
    assert!(matches!(state.apply(3, &init("stor1", 15)).outcome, Err(Refusal::Malformed(_))));
    assert_eq!(state.apply(4, &init("stor1", 16)).outcome, Ok(Outcome::Done(())));
    assert_eq!(state.apply(5, &init("stor2", 16)).outcome, Err(Refusal::AlreadyInitialized("stor1".into())));
    assert_eq!(state.cluster().map(|cluster| cluster.generation), Some(1));
}

#[test]
fn a_new_cluster_has_the_attributes_of_the_guide() {
    let world = World::new();
    let attrs = world.state.stat("/").unwrap().attrs;
    assert_eq!((attrs.replicas.normal, attrs.replicas.minimum, attrs.tier), (1, 1, 0));
    assert_eq!((attrs.domain, attrs.chunk_size), (FailureDomain::Host, 64 << 20));
}

#[test]
#[should_panic(expected = "log index 1 after 1")]
fn c12_a_command_is_never_applied_twice() {
    let mut world = World::new();
    world.state.apply(1, &Command::default());
}

#[test]
fn a_command_without_a_kind_is_refused() {
    let mut world = World::new();
    assert!(matches!(world.apply(Command::default()).outcome, Err(Refusal::Malformed(_))));
}

#[test]
fn c11_a_repeated_request_gets_the_same_answer_and_changes_nothing() {
    let mut world = World::new();
    let create = |request, path: &str| {
        let op = CommandOp::CreateFile(CreateFile { path: path.into(), ..Default::default() });
        Command::requested(5, 7, request, op)
    };
    let first = world.apply(create(1, "/f")).outcome;
    assert!(matches!(first, Ok(Outcome::Created(_))));
    let before = world.state.clone();
    let again = world.apply(create(1, "/f"));
    assert_eq!((&again.outcome, again.events, again.effects), (&first, vec![], vec![]));
    assert_eq!(world.state.tree(), before.tree());
    assert_eq!(world.apply(create(2, "/f")).outcome, Err(Refusal::Exists("/f".into())));
    world.ok(CommandOp::Remove(Remove { path: "/f".into(), recursive: false }));
    assert_eq!(
        world.apply(create(2, "/f")).outcome,
        Err(Refusal::Exists("/f".into())),
        "refusals are kept too"
    );
    let other = Command::requested(
        5,
        7,
        1,
        CommandOp::MakeDir(MakeDir { path: "/f".into(), parents: false, mode: 0 }),
    );
    assert!(matches!(world.apply(other).outcome, Err(Refusal::RequestReused(_))));
    let copy = State::decode_snapshot(&world.state.encode_snapshot()).unwrap();
    assert_eq!(copy, world.state, "the answers are in the snapshot");
}

#[test]
fn settings_are_checked_and_announced() {
    let mut world = World::new();
    let set = |key: &str, value: &str| {
        CommandOp::SetConfig(SetConfig { key: key.into(), value: value.into(), origin: "10.0.0.9".into() })
    };
    let applied = world.run(set("gen.lease_term", "30"));
    assert_eq!(applied.events[0].message(), "gen.lease_term changed from 60 to 30 by 10.0.0.9");
    assert!(world.run(set("gen.lease_term", "30")).events.is_empty(), "nothing changed");
    assert_eq!(world.state.config(Parameter::LeaseTerm), 30);
    assert!(matches!(world.refused(set("gen.lease_term", "5")), Refusal::BadValue(_)));
    assert!(matches!(world.refused(set("gen.lease", "5")), Refusal::UnknownParameter(_)));
    let shown: Vec<_> = world.state.settings().map(|setting| (setting.spec.name, setting.value)).collect();
    assert!(shown.contains(&("gen.lease_term", 30)) && shown.contains(&("mds.alloc.fill_margin", 5)));
}

#[test]
fn a_new_master_is_announced() {
    let mut world = World::new();
    let op = CommandOp::LeaderElected(LeaderElected { mds_id: 1, address: "10.0.0.1:2510".into() });
    let applied = world.run(op);
    assert_eq!(applied.events[0].message(), "MDS#1 at 10.0.0.1:2510 is now the master");
    assert_eq!(applied.events[0].code.spec().name, "mds.became_master");
    assert_eq!(world.state.events().after(world.state.events().last_id() - 1, 10).count(), 1);
}

#[test]
fn the_summary_adds_up() {
    let (mut world, a) = World::with_servers(3);
    let change =
        AttrChange { replicas: Some(ReplicaChange { normal: 3, minimum: None }), ..Default::default() };
    world.ok(CommandOp::SetAttr(SetAttr { path: "/".into(), change: Some(change), recursive: false }));
    world.ok(CommandOp::MakeDir(MakeDir { path: "/d".into(), parents: false, mode: 0 }));
    world.written_file(a, "/d/f", 2, 3);
    let summary = world.state.summary();
    assert_eq!((summary.dirs, summary.files, summary.file_bytes, summary.replicas), (2, 1, 128 << 10, 6));
    assert_eq!((summary.space.total, summary.space.allocatable_total), (3 << 40, 1 << 40));
    assert_eq!(summary.space.free, (3 << 40) - 6 * (64 << 10));
    // The same disk in three copies, less 5 %, less the two chunks.
    assert_eq!(summary.space.allocatable, (1 << 40) - (1 << 40) / 20 - 2 * (64 << 10));
    assert_eq!(summary.tiers, [(0, summary.space)]);
}

#[test]
fn the_operator_finds_chunks_by_their_state() {
    use health::ChunkHealth::{Blocked, Degraded, Healthy, Standby};
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 2, 3);
    let found = |world: &World, health| world.state.chunks_in_state(health, 10).len();
    assert_eq!(found(&world, Healthy), 2);
    world.lapse(1);
    assert_eq!((found(&world, Healthy), found(&world, Standby)), (0, 2));
    world.lapse(2);
    assert_eq!(found(&world, Blocked), 2);
    assert_eq!(found(&world, Degraded), 0);
    assert_eq!(world.state.chunks_in_state(Blocked, 1).len(), 1);
    let map = world.state.file_map(FileId::from_raw(file), 1, 10).unwrap();
    assert_eq!((map.chunks.len(), map.more), (1, false));
    assert!(world.state.file_map(FileId::from_raw(file), 0, 1).unwrap().more);
    let chunk = map.chunks[0].chunk;
    assert_eq!(world.state.find_chunk(map.id, chunk).unwrap().map(|view| view.index), Some(1));
}
