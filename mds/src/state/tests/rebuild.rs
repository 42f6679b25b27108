//! What the leader's rebuild makes of a state: who is busy, who cannot be filled, and what has no place keep nobody else waiting.

use super::*;
use crate::server::rebuild::{ARRIVING_MAX, Look, Rebuild, Round, Steps, plan_round};
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
        steps.sort_by_key(|step| !self.state.is_place_among(step, |cs| cs == id));
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
    assert!(steps.iter().take_while(|step| world.state.is_place_among(step, |cs| cs == id)).count() > 64);
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
        assert_eq!(rebuild.not_filled(id, order.chunk, version, now()), (Duration::from_secs(2), false));
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
    let pauses: Vec<u64> = (0..6).map(|n| fails(version, n).0.as_secs()).collect();
    assert_eq!(pauses, [2, 4, 8, 16, 30, 30]);
    assert!(!fails(version, 299).1 && fails(version, 300).1 && !fails(version, 301).1);
    let later = version.next(1);
    assert_eq!(fails(later, 302), (Duration::from_secs(2), false), "it joins anew");
    assert!(rebuild.is_failing(cs, chunk) && !rebuild.is_failing(CsId(1026), chunk));
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
    let (mut steps, mut look) = (Steps::default(), Look::new(START));
    while look.advance(&world.state, rebuild, now(), &mut steps) {}
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
