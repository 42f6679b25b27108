//! Blocks that no member had: whoever may have them is kept (C8).

use super::*;
use crate::state::chunk::{Member, MemberState};
use crate::state::replication::PlannedStep;

/// A chunk of two replicas; one of them was away, and lost for good as it seemed. The one that was made instead lacks blocks.
fn world() -> (World, Session, u64, u8) {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 1, 2);
    let away = world.holder(file, 0, 0);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, away)));
    world.goes_offline(away);
    assert_eq!((world.take_steps(), world.make_all()), ((1, 0), 1));
    world.fill_lossy(2);
    assert_eq!(world.last_events(2), [EventCode::BlocksLost, EventCode::ReplicasReturned]);
    (world, a, file, away)
}

impl World {
    /// Whoever is being filled becomes a member, but without so many blocks.
    pub(super) fn fill_lossy(&mut self, lost_blocks: u32) {
        let servers: Vec<u8> =
            self.state.servers().filter(|server| server.serves()).map(|server| server.uuid.0[0]).collect();
        servers.iter().for_each(|n| {
            self.install(*n);
        });
        for n in &servers {
            let orders = self.copies(*n);
            let CommandOp::PromoteMembers(mut op) = self.promote_op(*n, &orders) else { continue };
            op.chunks.iter_mut().for_each(|done| done.lost_blocks = lost_blocks);
            self.ok(CommandOp::PromoteMembers(op));
        }
        servers.iter().for_each(|n| {
            self.install(*n);
        });
    }

    pub(super) fn settle_all(&mut self) -> u64 {
        let chunks = self.state.losses_to_settle().into_iter().map(|(_, loss)| loss).collect();
        self.count(CommandOp::SettleLosses(SettleLosses { chunks }))
    }

    fn in_sync(&self, file: u64) -> usize {
        self.chunk(file, 0).members.iter().filter(|member| member.state == MemberState::InSync).count()
    }
}

#[test]
fn c8_who_may_have_lost_blocks_stays_until_it_was_asked() {
    let (mut world, _, file, away) = world();
    assert_eq!((world.in_sync(file), world.steps()), (2, vec![]), "as many as wanted, and nobody goes");
    let restored = State::decode_snapshot(&world.state.encode_snapshot());
    assert!(restored.as_ref() == Ok(&world.state), "{restored:?}");
    assert_eq!((world.state.losses_to_settle(), world.settle_all()), (vec![], 0), "it is offline");
    world.returns(away);
    assert_eq!((world.steps(), world.join(away)), (vec![], 1), "it is let back");
    assert_eq!((world.steps(), world.settle_all()), (vec![], 0), "it is not a member yet");
    assert_eq!(world.fill_all(), 1);
    assert_eq!((world.in_sync(file), world.steps()), (3, vec![]), "now the others are repaired from it");
    let (_, loss) = world.state.losses_to_settle()[0];
    world.lapse(away);
    assert_eq!(world.count(CommandOp::SettleLosses(SettleLosses { chunks: vec![loss] })), 0);
    world.returns(away);
    let other = LossAt { version: loss.version + 1, ..loss };
    assert_eq!(world.count(CommandOp::SettleLosses(SettleLosses { chunks: vec![other] })), 0);
    let settled = world.run(CommandOp::SettleLosses(SettleLosses { chunks: vec![loss] }));
    assert_eq!(settled.outcome, Ok(Outcome::Acknowledged(1)));
    assert!(settled.effects.contains(&Effect::Replicate));
    assert!(!world.state.is_somebody_lacking());
    assert_eq!((world.take_steps(), world.in_sync(file), world.steps()), ((0, 1), 2, vec![]));
}

#[test]
fn an_operator_gives_up_who_may_have_lost_blocks() {
    let (mut world, _, _, away) = world();
    let release = |how: Leave| {
        CommandOp::ReleaseCs(ReleaseCs { cs: 1024 + u32::from(away), how: how.into(), origin: String::new() })
    };
    let id = world.cs(away).id;
    assert_eq!(id.0, 1024 + u32::from(away));
    world.ok(release(Leave::Lost));
    assert!(matches!(world.steps()[..], [step] if step.step == PlannedStep::Remove { cs: id }));
    assert_eq!((world.settle_all(), world.take_steps()), (1, (0, 1)));

    // One that serves is emptied as soon as it has been asked.
    let (mut world, _, file, away) = self::world();
    world.returns(away);
    world.ok(release(Leave::Leave));
    assert_eq!((world.steps(), world.join(away), world.fill_all()), (vec![], 1, 1));
    assert_eq!((world.steps(), world.settle_all()), (vec![], 1));
    assert_eq!((world.take_steps(), world.in_sync(file)), ((0, 1), 2));
    assert!(world.state.is_empty_of_replicas(id));
}

#[test]
fn who_empties_a_server_gives_up_nothing_of_it_when_it_is_offline() {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 1, 2);
    let away = world.holder(file, 0, 0);
    let release = |how: Leave| {
        CommandOp::ReleaseCs(ReleaseCs { cs: 1024 + u32::from(away), how: how.into(), origin: String::new() })
    };
    world.ok(release(Leave::Leave));
    world.ok(CommandOp::DropMember(world.drop_op(a, file, away)));
    world.goes_offline(away);
    assert_eq!((world.take_steps(), world.make_all()), ((1, 0), 1));
    world.fill_lossy(1);
    assert_eq!((world.in_sync(file), world.steps(), world.settle_all()), (2, vec![], 0), "it stays");
    world.returns(away);
    assert_eq!((world.join(away), world.fill_all(), world.settle_all()), (1, 1, 1));
    assert_eq!((world.take_steps(), world.in_sync(file)), ((0, 1), 2), "it has been asked");

    // By force it is given up, which is possible as long as it is offline.
    let (mut world, _, _, away) = self::world();
    let (cs, id) = (1024 + u32::from(away), world.cs(away).id);
    for (how, steps) in [(Leave::Leave, 0), (Leave::Lost, 1)] {
        world.ok(CommandOp::ReleaseCs(ReleaseCs { cs, how: how.into(), origin: String::new() }));
        assert_eq!(world.steps().len(), steps, "{how:?}");
    }
    assert_eq!(world.take_steps(), (0, 1));
    assert!(world.state.is_empty_of_replicas(id));
}

#[test]
fn c8_nobody_waits_for_who_is_to_be_emptied_and_may_not_return() {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 1, 2);
    let leaves = world.holder(file, 0, 0);
    let id = world.cs(leaves).id;
    world.ok(CommandOp::DropMember(world.drop_op(a, file, leaves)));
    assert_eq!(world.join(leaves), 1);
    let release = ReleaseCs { cs: id.0, how: Leave::Leave.into(), origin: String::new() };
    world.ok(CommandOp::ReleaseCs(release));
    assert_eq!((world.state_on(file, 0, leaves), world.join(leaves)), (MemberState::Absent, 0));
    assert_eq!((world.take_steps(), world.make_all()), ((1, 0), 1));
    let is_last = |world: &mut World| {
        (1..=4).for_each(|n| {
            world.install(n);
        });
        let chunk = world.chunk(file, 0);
        let joins = |member: &&Member| member.state == MemberState::Joining && member.cs != id;
        let made = chunk.members.iter().find(joins).expect("it joins").cs;
        let order = world.state.joiner(made, chunk.chunk).expect("it joins");
        let sources = world.state.copy_sources(made, &order);
        world.state.are_last_sources(made, &order, &sources, |_| false, |_| false)
    };
    assert!(is_last(&mut world), "otherwise the made one would wait for ever");
    world.fill_lossy(1);
    assert_eq!((world.in_sync(file), world.steps()), (2, vec![]), "it is kept");
    // From now on it may return, and who comes next waits for it.
    let other = world.holder(file, 0, 1);
    world.goes_offline(other);
    assert_eq!((world.take_steps(), world.make_all()), ((1, 0), 1));
    assert!(!is_last(&mut world));
    world.lapse(leaves);
    assert!(!is_last(&mut world), "also while it is silent");
    world.returns(leaves);
    assert_eq!(world.join(leaves), 1);
    assert_eq!((world.fill_all(), world.fill_all()), (1, 1), "one version after the other");
    world.returns(other);
    world.join(other);
    world.fill_all();
    assert_eq!(world.settle_all(), 1);
    while world.take_steps() != (0, 0) {}
    assert!(world.state.is_empty_of_replicas(id) && world.in_sync(file) == 2);
}

#[test]
fn an_operator_hears_once_of_lost_blocks_and_who_may_have_them() {
    let told = |world: &World| {
        let events = world.state.events.iter().filter(|event| event.code == EventCode::BlocksLost);
        events.map(|event| event.message()).collect::<Vec<_>>()
    };
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 3, 2);
    let away = world.holder(file, 0, 0);
    let held = (0..3).filter(|n| (0..2).any(|nth| world.holder(file, *n, nth) == away)).count();
    world.ok(CommandOp::DropMember(DropMember { chunk: 0, ..world.drop_op(a, file, away) }));
    world.goes_offline(away);
    while world.take_steps() != (0, 0) {
        world.make_all();
    }
    world.fill_lossy(2);
    // One event for all chunks that are filled on a server at once; it says who is to come back.
    let name = world.cs(away).id.to_string();
    let messages = told(&world);
    let made: BTreeSet<&str> = messages.iter().filter_map(|text| text.split(' ').next()).collect();
    assert!(made.len() == messages.len() && !made.is_empty(), "{messages:?}");
    assert!(messages.iter().all(|text| text.contains(&format!("bring {name} back"))), "{messages:?}");
    let count = |text: &String| {
        let (_, rest) = text.split_once(" blocks of ").expect("chunks are counted");
        rest.split(' ').next().and_then(|count| count.parse::<usize>().ok()).expect("a number")
    };
    assert_eq!(messages.iter().map(count).sum::<usize>(), held);

    // Who returns without them, when all have been asked, is no news: nobody is away.
    world.returns(away);
    while world.join(away) > 0 {
        world.fill_all();
    }
    assert_eq!(world.settle_all() as usize, held);
    while world.take_steps() != (0, 0) {}
    let again = world.holder(file, 0, 0);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, again)));
    assert!(world.join(again) > 0);
    world.fill_lossy(2);
    assert!(world.state.is_somebody_lacking());
    assert_eq!(told(&world), messages);
    // Nor is it while somebody is waited for already.
    let (mut world, _, file, away) = self::world();
    let other = world.holder(file, 0, 1);
    assert!(told(&world).len() == 1 && other != away);
    world.goes_offline(other);
    assert_eq!((world.take_steps(), world.make_all()), ((1, 0), 1));
    world.fill_lossy(2);
    assert_eq!((world.in_sync(file), told(&world).len()), (2, 1));
}

#[test]
fn c13_of_a_server_that_is_emptied_only_what_others_lack_is_looked_at() {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 12, 3);
    world.ok(CommandOp::DropMember(DropMember { chunk: 0, ..world.drop_op(a, file, 1) }));
    let id = world.cs(1).id;
    let looked_at = |world: &World| world.state.away_to_return(id).count();
    let away = looked_at(&world);
    assert!(away > 3 && world.state.returning(id, 100).len() == away);
    world.ok(CommandOp::ReleaseCs(ReleaseCs { cs: id.0, how: Leave::Leave.into(), origin: String::new() }));
    assert_eq!((looked_at(&world), world.state.returning(id, 100)), (0, vec![]));
    // One of what is made instead is filled without some blocks.
    assert_eq!((world.take_steps(), world.make_all()), ((away as u64, 0), away as u64));
    (2..=4).for_each(|n| {
        world.install(n);
    });
    let mut lost_blocks = 1;
    for n in 2..=4 {
        let orders = world.copies(n);
        let CommandOp::PromoteMembers(mut op) = world.promote_op(n, &orders) else { continue };
        if let Some(first) = op.chunks.first_mut() {
            first.lost_blocks = std::mem::take(&mut lost_blocks);
        }
        world.ok(CommandOp::PromoteMembers(op));
    }
    assert_eq!((looked_at(&world), world.state.returning(id, 100).len(), world.join(1)), (1, 1, 1));
}

#[test]
fn what_lacks_blocks_does_not_pile_up() {
    let (mut world, a, file, away) = world();
    world.returns(away);
    assert_eq!((world.join(away), world.fill_all()), (1, 1));
    // Nothing is moved, and no more replicas are made than wanted.
    let start = (FileId::from_raw(0), 0);
    assert_eq!((world.state.plan_moves(start, 100, 9, |_, _| false).0, world.take_steps()), (vec![], (0, 0)));
    assert_eq!(world.chunk(file, 0).members.len(), 3);
    // With the file goes what is noted of it.
    assert!(world.state.is_somebody_lacking());
    world.release(a, file, true);
    world.ok(CommandOp::Remove(Remove { path: "/f".into(), recursive: false }));
    assert!(!world.state.is_somebody_lacking());
}

#[test]
fn c13_what_was_made_and_cannot_be_filled_leaves_its_place() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 1, 2);
    let away = world.holder(file, 0, 0);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, away)));
    world.goes_offline(away);
    assert_eq!((world.take_steps(), world.make_all()), ((1, 0), 1));
    let made = (1..=3).find(|n| *n != away && world.cs(*n).id != world.source(file)).expect("a third one");
    let gives_up = |world: &World, n| DropMember { lease: None, ..world.drop_op(a, file, n) };
    assert_eq!(world.count(CommandOp::DropMember(gives_up(&world, made))), 1);
    assert_eq!(world.state_on(file, 0, made), MemberState::Failed, "it never had anything");
    assert_eq!(world.take_steps(), (0, 1), "its place is free");

    // One that was a member is away, and no other joiner waits for it when it is given up.
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 1, 2);
    let back = world.holder(file, 0, 0);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, back)));
    assert_eq!(world.join(back), 1);
    assert_eq!(
        world.count(CommandOp::DropMember(DropMember { lease: None, ..world.drop_op(a, file, back) })),
        1
    );
    assert_eq!(world.state_on(file, 0, back), MemberState::Absent);
    let (id, start) = (world.cs(back).id, (FileId::from_raw(0), 0));
    let steps = world.state.plan_replicas(start, 9, |cs, _| cs == id).0;
    let places = world.state.places_for(&steps[0], 1, 1, |cs, _| cs == id, |_| false).expect("a place");
    let add = CommandOp::AddReplicas(AddReplicas { places: vec![steps[0].place(places[0])] });
    assert_eq!((world.count(add), world.make_all()), (1, 1));
    (1..=3).for_each(|n| {
        world.install(n);
    });
    let order = world.state.joiner(places[0], world.chunk(file, 0).chunk).expect("it joins");
    let sources = world.state.copy_sources(places[0], &order);
    let is_last = |given_up: bool| {
        world.state.are_last_sources(places[0], &order, &sources, |_| false, |cs| given_up && cs == id)
    };
    assert!(!is_last(false) && is_last(true));
    // It is filled without what the one that was given up may have: that one is kept.
    world.fill_lossy(1);
    let late = world.state.plan_replicas(start, 9, |cs, _| cs == id).0;
    assert_eq!((world.in_sync(file), late), (2, vec![]));
}

#[test]
fn c13_another_disk_of_the_same_host_takes_what_was_given_up() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 1, 3);
    let claim = RegisterCs { host: "host1".into(), ..World::claim(4) };
    let fences = world.register(claim).fences;
    world.confirm(4, fences);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, 1)));
    let (id, other) = (world.cs(1).id, world.cs(4).id);
    let given_up = |cs: CsId, _: ChunkId| cs == id;
    let steps = world.state.plan_replicas((FileId::from_raw(0), 0), 9, given_up).0;
    assert_eq!(steps.len(), 1);
    assert!(!world.state.is_place_among(&steps[0], |_, _| false, |_| true), "it is waited for there");
    assert!(world.state.is_place_among(&steps[0], given_up, |cs| cs == other));
    assert_eq!(world.state.places_for(&steps[0], 1, 1, given_up, |_| false), Ok(vec![other]));
}
