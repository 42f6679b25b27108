//! What the leader's rebuild makes of a state: who is busy, who cannot be filled, and what has no place keep nobody else waiting.

use super::*;
use crate::server::rebuild::{ARRIVING_MAX, Look, Rebuild, Round, Steps, plan_round};
use crate::server::returns::{Returns, joining_now};
use crate::state::chunk::MemberState;
use crate::state::health::ChunkHealth;
use crate::state::replication::ReplicaStep;
use rt::time::Instant;
use std::collections::BTreeSet;
use std::time::Duration;

const START: (FileId, u32) = (FileId::from_raw(0), 0);

fn now() -> Instant {
    Instant::from_nanos(1_000_000_000_000)
}

fn plan(world: &World, rebuild: &Rebuild, steps: Vec<ReplicaStep>) -> Round {
    plan_round(&world.state, rebuild, steps, now(), || 7)
}

impl World {
    fn arrive_on(&self, round: &Round, n: u8) -> usize {
        round.add.iter().filter(|place| place.cs == self.cs(n).id.0).count()
    }

    /// All steps, with those in front that only one chunk server can take.
    fn steps_with_first(&self, n: u8) -> Vec<ReplicaStep> {
        let id = self.cs(n).id;
        let mut steps = self.steps();
        steps.sort_by_key(|step| !self.state.is_place_among(step, |_, _| false, |cs| cs == id));
        steps
    }

    fn add(&mut self, round: Round) {
        let added = round.add.len() as u64;
        assert_eq!(self.count(CommandOp::AddReplicas(AddReplicas { places: round.add })), added);
    }

    fn make_on(&mut self, n: u8) {
        let (cs, session) = self.cs_name(n);
        for effect in self.state.pending_for(CsId(cs)) {
            let Effect::MakeReplicas { chunks, .. } = effect else { continue };
            let chunks = chunks.iter().map(|new| new.chunk.raw()).collect();
            self.ok(CommandOp::ChunkCreated(ChunkCreated { cs, session, chunks }));
        }
    }
}

/// Four chunk servers and a file of three replicas; the third server is gone, so that each chunk has one place to go to.
fn one_lost() -> World {
    let (mut world, a) = World::with_servers(4);
    ["/f", "/g"].into_iter().for_each(|path| {
        world.written_file(a, path, 200, 3);
    });
    world.goes_offline(3);
    assert!(world.steps().len() > 200);
    world
}

#[test]
fn c13_who_is_busy_holds_up_nobody_else() {
    let mut world = one_lost();
    let rebuild = Rebuild::default();
    let round = plan(&world, &rebuild, world.steps_with_first(4));
    for n in [1, 2, 4] {
        assert_eq!(world.arrive_on(&round, n), ARRIVING_MAX);
    }
    assert!(!round.later.is_empty() && (round.short.chunks, round.remove.len()) == (0, 0));
    world.add(round);
    let round = plan(&world, &rebuild, world.steps_with_first(4));
    assert_eq!((round.add.len(), round.short.chunks), (0, 0), "all are busy");
    assert!(round.later.len() > 200);
    // The others go on while one takes its time, however many wait for that one.
    [1, 2].into_iter().for_each(|n| world.make_on(n));
    world.fill_all();
    let steps = world.steps_with_first(4);
    let id = world.cs(4).id;
    assert!(
        steps.iter().take_while(|step| world.state.is_place_among(step, |_, _| false, |cs| cs == id)).count()
            > 64
    );
    let round = plan(&world, &rebuild, steps);
    assert_eq!([1, 2, 4].map(|n| world.arrive_on(&round, n)), [ARRIVING_MAX, ARRIVING_MAX, 0]);
    // Whoever refuses holds up nobody, either.
    rebuild.refused(world.cs(1).id, now());
    let round = plan(&world, &rebuild, world.steps_with_first(1));
    assert_eq!([1, 2, 4].map(|n| world.arrive_on(&round, n)), [0, ARRIVING_MAX, 0]);
}

#[test]
fn c13_joiners_that_cannot_be_filled_keep_nobody_out() {
    let mut world = one_lost();
    let rebuild = Rebuild::default();
    let round = plan(&world, &rebuild, world.steps());
    world.add(round);
    world.make_all();
    [1, 2, 4].into_iter().for_each(|n| {
        world.install(n);
    });
    let round = plan(&world, &rebuild, world.steps());
    assert_eq!(round.add.len(), 0, "they are being filled");
    let (id, orders) = (world.cs(4).id, world.copies(4));
    assert_eq!(orders.len(), ARRIVING_MAX);
    for order in &orders {
        let version = order.version;
        assert_eq!(rebuild.not_filled(id, order.chunk, version, now()).pause, Duration::from_secs(2));
    }
    let round = plan(&world, &rebuild, world.steps());
    assert_eq!([1, 2, 4].map(|n| world.arrive_on(&round, n)), [0, 0, 0], "it rests");
    let later = now() + Duration::from_secs(60);
    let round = plan_round(&world.state, &rebuild, world.steps(), later, || 7);
    assert_eq!([1, 2, 4].map(|n| world.arrive_on(&round, n)), [0, 0, ARRIVING_MAX]);
}

#[test]
fn c13_where_nothing_can_be_filled_nothing_more_comes() {
    let mut world = one_lost();
    let (rebuild, id) = (Rebuild::default(), world.cs(4).id);
    let fail_all = |world: &World, rebuild: &Rebuild, seconds: u64| {
        for order in world.copies(4) {
            rebuild.not_filled(id, order.chunk, order.version, now() + Duration::from_secs(seconds));
        }
    };
    let mut came = Vec::new();
    // Every minute as many as may come; all of them fail.
    for minute in 0..10 {
        let at = now() + Duration::from_secs(60 * minute);
        let round = plan_round(&world.state, &rebuild, world.steps_with_first(4), at, || 7);
        came.push(world.arrive_on(&round, 4));
        world.add(round);
        world.make_all();
        (1..=4).filter(|n| *n != 3).for_each(|n| {
            world.install(n);
        });
        fail_all(&world, &rebuild, 60 * minute + 1);
    }
    assert_eq!(came, [8, 0, 8, 0, 0, 8, 0, 0, 0, 0], "it rests longer each time");
    // One that is filled shows that it was not the server's fault.
    let order = world.copies(4)[0];
    let at = now() + Duration::from_secs(540);
    assert!(rebuild.is_futile(id, at));
    rebuild.filled(id, order.chunk);
    assert!(!rebuild.is_futile(id, at));
}

#[test]
fn c13_what_cannot_be_filled_for_long_is_made_elsewhere() {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 1, 2);
    let back = world.holder(file, 0, 0);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, back)));
    assert_eq!(world.join(back), 1);
    let (rebuild, id) = (Rebuild::default(), world.cs(back).id);
    let chunk = world.chunk(file, 0).chunk;
    rebuild.give_up(id, chunk, now());
    assert_eq!(plan(&world, &rebuild, look(&world, &rebuild).take()).add.len(), 0, "it is a joiner still");
    let leaves = DropMember { lease: None, ..world.drop_op(a, file, back) };
    assert_eq!(world.count(CommandOp::DropMember(leaves)), 1);
    let round = plan(&world, &rebuild, look(&world, &rebuild).take());
    assert_eq!((round.add.len(), world.arrive_on(&round, back)), (1, 0));
    assert!(!rebuild.is_given_up(id, chunk, now() + Duration::from_secs(600)), "it may fare better then");
    assert_eq!(look(&world, &Rebuild::default()).take(), [], "otherwise it is waited for");
}

#[test]
fn somebody_hears_once_of_a_joiner_that_cannot_be_filled() {
    let rebuild = Rebuild::default();
    let (cs, chunk, version) = (CsId(1025), ChunkId::from_raw(7), Version::first(1));
    let fails = |version, after| rebuild.not_filled(cs, chunk, version, now() + Duration::from_secs(after));
    let ends = |version, after| {
        let failed = fails(version, after);
        (failed.gives_up, failed.tell)
    };
    let pauses: Vec<u64> = (0..6).map(|n| fails(version, n).pause.as_secs()).collect();
    assert_eq!(pauses, [2, 4, 8, 16, 30, 30]);
    assert_eq!([299, 300, 301].map(|at| ends(version, at)), [(false, false), (true, true), (false, false)]);
    // It joins anew after its rest: not for so long this time, and nobody has to hear of it again.
    let later = version.next(1);
    assert_eq!(fails(later, 900).pause, Duration::from_secs(2));
    assert_eq!([959, 960, 961].map(|at| ends(later, at)), [(false, false), (true, false), (false, false)]);
    let last = later.next(1);
    assert_eq!(
        (ends(last, 4562), ends(last, 4861)),
        ((false, false), (false, false)),
        "long ago is forgotten"
    );
    assert_eq!(ends(last, 4862), (true, true));
}

#[test]
fn c13_a_joiner_that_fails_in_a_file_that_is_written_is_given_up_as_well() {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 1, 2);
    let back = world.holder(file, 0, 0);
    let (rebuild, id) = (Rebuild::default(), world.cs(back).id);
    let chunk = world.chunk(file, 0).chunk;
    let at = |seconds: u64| now() + Duration::from_secs(seconds);
    let leaves = |world: &mut World, lease: bool| {
        let op = world.drop_op(a, file, back);
        let op = if lease { op } else { DropMember { lease: None, ..op } };
        assert_eq!(world.count(CommandOp::DropMember(op)), 1);
    };
    let (mut told, mut given_up) = (Vec::new(), Vec::new());
    // It fails every half minute, and its chunk has other versions every minute.
    for seconds in (0..=420).step_by(30) {
        if seconds % 60 == 0 {
            leaves(&mut world, true);
            if rebuild.is_given_up(id, chunk, at(seconds)) {
                break;
            }
            assert_eq!(world.join(back), 1);
            world.ok(CommandOp::DropMember(DropMember { lost: false, ..world.drop_op(a, file, back) }));
            // All of it looked at meanwhile: it is away just now.
            let mut look = Look::new(START);
            rebuild.forget_joiners(&world.state, at(seconds));
            while look.advance(&world.state, &rebuild, at(seconds), &mut Steps::default()) {}
            assert_eq!(world.join(back), 1);
        }
        let version = world.state.joiner(id, chunk).expect("it joins").version;
        let failed = rebuild.not_filled(id, chunk, version, at(seconds));
        if failed.gives_up {
            given_up.push(seconds);
            rebuild.give_up(id, chunk, at(seconds));
        }
        told.extend(failed.tell.then_some(seconds));
    }
    assert_eq!((given_up, told), (vec![300], vec![300]));
    assert_eq!(world.state_on(file, 0, back), MemberState::Absent);
    let later = at(360);
    let round = plan_round(&world.state, &rebuild, look_at(&world, &rebuild, later).take(), later, || 7);
    assert_eq!((round.add.len(), world.arrive_on(&round, back)), (1, 0), "made elsewhere");
    assert!(!rebuild.is_futile(id, later), "one replica is no eight of them");
    world.add(round);
    assert_eq!((world.make_all(), world.fill_all()), (1, 1));
    assert_eq!(world.take_steps(), (0, 1));
    assert_eq!(world.chunk(file, 0).health, ChunkHealth::Healthy);
}

#[test]
fn c13_what_was_made_and_could_not_be_filled_rests_before_it_is_made_there_again() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 1, 2);
    let away = world.holder(file, 0, 0);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, away)));
    world.goes_offline(away);
    let rebuild = Rebuild::default();
    let chunk = world.chunk(file, 0).chunk;
    let at = |seconds: u64| now() + Duration::from_secs(seconds);
    let round = |world: &World, seconds: u64| {
        rebuild.forget_joiners(&world.state, at(seconds));
        plan_round(&world.state, &rebuild, look_at(world, &rebuild, at(seconds)).take(), at(seconds), || 7)
    };
    // It is made, fails until it is given up, and is deleted.
    let fails = |world: &mut World, from: u64| {
        let added = round(world, from);
        assert_eq!(added.add.len(), 1);
        let cs = CsId(added.add[0].cs);
        world.add(added);
        assert_eq!(world.make_all(), 1);
        (1..=3).for_each(|n| {
            world.install(n);
        });
        let version = world.state.joiner(cs, chunk).expect("it joins").version;
        let (seconds, failed) = (from..)
            .step_by(30)
            .map(|seconds| (seconds, rebuild.not_filled(cs, chunk, version, at(seconds))))
            .find(|(_, failed)| failed.gives_up)
            .expect("it is given up");
        rebuild.give_up(cs, chunk, at(seconds));
        let n = world.state.server(cs).expect("known").uuid.0[0];
        world.ok(CommandOp::DropMember(DropMember { lease: None, ..world.drop_op(a, file, n) }));
        assert_eq!(world.state_on(file, 0, n), MemberState::Failed);
        assert_eq!(world.take_steps(), (0, 1), "it leaves its place");
        let chunks = vec![chunk.raw()];
        world.ok(CommandOp::PurgeChunks(PurgeChunks { chunks: chunks.clone() }));
        let session = world.cs(n).session;
        assert_eq!(world.count(CommandOp::ChunksPurged(ChunksPurged { cs: cs.0, session, chunks })), 1);
        (seconds, failed.tell)
    };
    assert_eq!(fails(&mut world, 0), (300, true));
    for seconds in [301, 600, 899] {
        let resting = round(&world, seconds);
        assert_eq!((resting.add.len(), resting.later.len(), resting.short.chunks), (0, 1, 0), "{seconds}");
    }
    // Then it is tried for a minute, and nobody hears of it again.
    assert_eq!(fails(&mut world, 900), (960, false));
    assert_eq!((round(&world, 1559).add.len(), round(&world, 1560).add.len()), (0, 1));
    // Elsewhere it is made at once.
    world.serve(4);
    let elsewhere = round(&world, 961);
    assert_eq!((world.arrive_on(&elsewhere, 4), elsewhere.add.len()), (1, 1));
}

#[test]
fn c6_while_a_server_is_away_its_joiners_do_not_fail() {
    let rebuild = Rebuild::default();
    let (cs, chunk, version) = (CsId(1025), ChunkId::from_raw(7), Version::first(1));
    let gives_up = |cs, version, after| {
        rebuild.not_filled(cs, chunk, version, now() + Duration::from_secs(after)).gives_up
    };
    let other = CsId(1026);
    assert!(!gives_up(cs, version, 0) && !gives_up(other, version, 0));
    rebuild.registered(cs, now() + Duration::from_secs(600));
    let later = version.next(1);
    assert_eq!([601, 659, 660].map(|after| gives_up(cs, later, after)), [false, false, true]);
    assert!(gives_up(other, later, 601), "that one was there");
    // Nothing is put off by a registration in the beginning.
    let third = CsId(1027);
    gives_up(third, version, 0);
    rebuild.registered(third, now() + Duration::from_secs(10));
    assert_eq!([299, 300].map(|after| gives_up(third, later, after)), [false, true]);
}

#[test]
fn c6_a_server_that_registers_is_given_its_replicas_at_once() {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 20, 2);
    let back = world.holder(file, 0, 0);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, back)));
    let (rebuild, returns, id) = (Rebuild::default(), Returns::default(), world.cs(back).id);
    let returning = |world: &World, rebuild: &Rebuild| {
        joining_now(&world.state, rebuild, &returns, id, now() + Duration::from_secs(9)).len()
    };
    let all = returning(&world, &rebuild);
    assert!(all > 1);
    for number in 0..ARRIVING_MAX as u64 {
        rebuild.not_filled(id, ChunkId::from_raw(number), Version::first(1), now());
    }
    assert!(rebuild.is_futile(id, now() + Duration::from_secs(9)));
    assert_eq!(returning(&world, &rebuild), 1, "one is tried");
    rebuild.full(id, now());
    assert_eq!(returning(&world, &rebuild), 0);
    rebuild.give_up(id, world.chunk(file, 0).chunk, now());
    rebuild.registered(id, now());
    assert_eq!(returning(&world, &rebuild), all);
    let other = world.holder(file, 0, 1);
    world.lapse(other);
    assert!(returning(&world, &rebuild) < all, "nobody can fill some of them");
}

#[test]
fn c13_a_full_server_cannot_be_hurried() {
    let (mut world, a) = World::with_servers(3);
    let file = world.written_file(a, "/f", 3, 3);
    world.ok(CommandOp::DropMember(world.drop_op(a, file, 1)));
    let (rebuild, returns, id) = (Rebuild::default(), Returns::default(), world.cs(1).id);
    let returning = |world: &World, seconds: u64| {
        joining_now(&world.state, &rebuild, &returns, id, now() + Duration::from_secs(seconds)).len()
    };
    for index in 0..ARRIVING_MAX as u32 {
        let chunk = world.chunk(file, index % 3).chunk;
        rebuild.not_filled(id, ChunkId::from_raw(u64::from(index) + 1), Version::first(1), now());
        rebuild.give_up(id, chunk, now());
    }
    assert_eq!(returning(&world, 1), 0, "they could not be filled");
    world.lapse(2);
    assert!((0..3).all(|index| world.state.is_blocked((FileId::from_raw(file), index))));
    assert_eq!(returning(&world, 1), 3, "who writes waits for them: it is tried");
    rebuild.full(id, now());
    assert_eq!(returning(&world, 1), 0, "it would refuse at once, again and again");
    assert_eq!(returning(&world, 10), 3);
}

/// All that a look from a position on finds.
fn look_from(world: &World, begin: (FileId, u32), mut steps: Steps) -> Steps {
    let rebuild = Rebuild::default();
    let mut look = Look::new(begin);
    while look.advance(&world.state, &rebuild, now(), &mut steps) {}
    steps
}

/// All that somebody finds who knows this.
fn look(world: &World, rebuild: &Rebuild) -> Steps {
    look_at(world, rebuild, now())
}

fn look_at(world: &World, rebuild: &Rebuild, at: Instant) -> Steps {
    let (mut steps, mut look) = (Steps::default(), Look::new(START));
    while look.advance(&world.state, rebuild, at, &mut steps) {}
    steps
}

#[test]
fn what_has_no_place_hides_nothing_that_has_one() {
    let (mut world, a) = World::with_servers(3);
    world.written_file(a, "/apart", 10, 3);
    let beside = world.file("/beside", 3, 3);
    let domain = AttrChange { failure_domain: Some(FailureDomain::Disk as i32), ..Default::default() };
    world.ok(CommandOp::SetAttr(SetAttr { path: "/beside".into(), change: Some(domain), recursive: false }));
    world.open(a, beside);
    world.allocate(a, beside, &[0, 1, 2]);
    world.create_all();
    // Another disk of the first host: no place for what is to be apart.
    let claim = RegisterCs { host: "host1".into(), ..World::claim(4) };
    let fences = world.register(claim).fences;
    world.confirm(4, fences);
    world.goes_offline(2);
    assert_eq!(world.steps().len(), 13);
    let mut steps = look_from(&world, START, Steps::with_room(4));
    assert!(steps.short.chunks > 0, "somebody has to look again");
    let found = steps.take();
    assert!(found.len() == 3 && found.iter().all(|step| step.file.raw() == beside), "{found:?}");
    let round = plan(&world, &Rebuild::default(), world.steps());
    assert_eq!((round.short.chunks, world.arrive_on(&round, 4), round.add.len()), (10, 3, 3));
}

#[test]
fn a_look_that_finds_more_than_fits_goes_on_there() {
    let mut world = one_lost();
    let all: BTreeSet<(u64, u32)> = world.steps().iter().map(|step| (step.file.raw(), step.index)).collect();
    let (room, mut begin, mut seen) = (50, START, BTreeSet::new());
    for looks in 1.. {
        let mut steps = look_from(&world, begin, Steps::with_room(room));
        begin = steps.next_look();
        let found: Vec<(u64, u32)> = steps.take().iter().map(|step| (step.file.raw(), step.index)).collect();
        assert_eq!(found.len(), room);
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), room, "each once");
        seen.extend(found);
        if seen == all {
            break;
        }
        assert!(looks < all.len().div_ceil(room) + 1, "{} of {} are seen", seen.len(), all.len());
    }
    // What one look has room for begins at the beginning again.
    world.returns(3);
    assert_eq!(look_from(&world, begin, Steps::with_room(room)).next_look(), START);
}

#[test]
fn c13_a_server_without_room_rests_longer_each_time() {
    let mut world = one_lost();
    let (rebuild, id) = (Rebuild::default(), world.cs(4).id);
    let at = |seconds: u64| now() + Duration::from_secs(seconds);
    assert!(rebuild.full(id, at(0)) && !rebuild.full(id, at(1)), "news once");
    assert!(rebuild.is_full(id, at(9)) && !rebuild.is_full(id, at(10)));
    let round = plan(&world, &rebuild, world.steps());
    assert_eq!([1, 2, 4].map(|n| world.arrive_on(&round, n)), [ARRIVING_MAX, ARRIVING_MAX, 0]);
    world.add(round);
    assert!(!rebuild.full(id, at(10)) && rebuild.is_full(id, at(29)) && !rebuild.is_full(id, at(30)));
    assert!(!rebuild.full(id, at(30)) && !rebuild.is_overdue(id, at(69)));
    assert!(!rebuild.full(id, at(70)) && rebuild.is_overdue(id, at(70)), "what is there is made elsewhere");
    assert!(rebuild.full(id, at(1000)) && !rebuild.is_overdue(id, at(1000)), "long ago is forgotten");
}
