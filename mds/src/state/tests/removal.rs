//! Chunk servers leave the cluster (guide 3.2.3).

use super::*;
use crate::state::chunk::MemberState;

impl World {
    pub(super) fn release_op(&self, n: u8, how: Leave) -> CommandOp {
        CommandOp::ReleaseCs(ReleaseCs { cs: self.cs(n).id.0, how: how.into(), origin: "node".into() })
    }

    #[track_caller]
    fn stays(&mut self, n: u8, how: Leave, why: &str) {
        let refusal = self.refused(self.release_op(n, how)).to_string();
        assert!(refusal.contains(why), "{refusal}");
    }

    /// Everything is made, filled and removed until nothing is left to do.
    fn settle(&mut self) {
        while self.take_steps() != (0, 0) {
            self.make_all();
            self.fill_all();
        }
    }

    #[track_caller]
    fn drop_server(&mut self, n: u8) -> u64 {
        let cs = self.cs(n).id.0;
        self.count(CommandOp::DropCs(DropCs { cs }))
    }
}

#[test]
fn a_server_is_emptied_and_dropped() {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 5, 3);
    let held = world.cs(2).replicas;
    assert!(held > 0);
    assert_eq!(world.count(world.release_op(2, Leave::Leave)), held);
    assert_eq!(world.last_events(1), [EventCode::CsReleased]);
    let restored = State::decode_snapshot(&world.state.encode_snapshot());
    assert!(restored.as_ref() == Ok(&world.state), "{restored:?}");
    assert_eq!(world.drop_server(2), 0, "C9: it holds members");
    world.settle();
    assert_eq!(world.cs(2).replicas, 0);
    for index in 0..5 {
        assert!(world.chunk(file, index).members.iter().all(|member| member.state == MemberState::InSync));
        assert_eq!(world.chunk(file, index).members.len(), 3);
    }
    assert_eq!(world.drop_server(2), 1);
    assert_eq!(world.last_events(1), [EventCode::CsDropped]);
    assert!(world.state.deletions().all(|(_, deletion)| !deletion.waiting.contains(&world.cs(2).id)));
    assert_eq!(world.drop_server(2), 0, "once");
    // It is told so when it asks, and nobody lets it in again.
    let again = world.claim_again(2);
    assert_eq!(world.refused(CommandOp::RegisterCs(again)), Refusal::CsDropped(world.cs(2).id.0));
    assert_eq!(world.refused(world.release_op(2, Leave::Stay)), Refusal::CsDropped(world.cs(2).id.0));
    assert_eq!(world.cs_counts_of_test(), (3, 0, 0));
}

impl World {
    fn cs_counts_of_test(&self) -> (u64, u64, u64) {
        let counts = self.state.cs_counts();
        (counts.active, counts.inactive, counts.offline)
    }
}

#[test]
fn a_server_that_is_needed_stays() {
    let (mut world, a) = World::with_servers(3);
    world.written_file(a, "/f", 2, 3);
    world.stays(1, Leave::Leave, "2 chunks on it (of /f) want 3 replicas");
    world.stays(1, Leave::Lost, "it is active");
    world.stays(1, Leave::Stay, "it is not being removed");
    assert_eq!(
        world.refused(CommandOp::ReleaseCs(ReleaseCs { cs: 7, ..Default::default() })),
        Refusal::UnknownCs(7)
    );
    // One copy, on a server that is gone.
    let single = world.written_file(a, "/single", 1, 1);
    let n = world.holder(single, 0, 0);
    world.goes_offline(n);
    world.stays(n, Leave::Lost, "the only copy of 1 chunks (of /single)");
    world.release(a, single, true);
    world.ok(CommandOp::Remove(Remove { path: "/single".into(), recursive: false }));
    world.ok(world.release_op(n, Leave::Lost));
    assert_eq!(world.last_events(1), [EventCode::CsLost]);
}

#[test]
fn a_removal_that_is_cancelled_leaves_everything_in_order() {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 5, 3);
    world.ok(world.release_op(2, Leave::Leave));
    world.take_steps();
    world.make_all();
    world.ok(world.release_op(2, Leave::Stay));
    assert_eq!(world.last_events(1), [EventCode::CsKept]);
    assert_eq!(world.drop_server(2), 0);
    // What has begun is finished, and then somebody is one too many.
    world.fill_all();
    world.settle();
    for index in 0..5 {
        assert_eq!(world.chunk(file, index).members.len(), 3);
    }
    assert_eq!(world.steps(), []);
}

#[test]
fn a_lost_server_is_not_waited_for() {
    let (mut world, a) = World::with_servers(4);
    world.written_file(a, "/f", 5, 3);
    world.lapse(2);
    assert_eq!(world.steps(), [], "it may be back soon");
    world.ok(world.release_op(2, Leave::Lost));
    assert!(!world.steps().is_empty());
    world.settle();
    assert_eq!((world.cs(2).replicas, world.drop_server(2)), (0, 1));
}

#[test]
fn c2_nobody_waits_for_a_server_that_was_dropped() {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 1, 3);
    let empty = (1..=4).find(|n| world.cs(*n).replicas == 0).expect("one of four");
    world.ok(world.release_op(empty, Leave::Leave));
    world.expire(a);
    let b = world.session(2);
    world.fencing(World::open_op(b, file, LeaseMode::Exclusive));
    assert_eq!(world.drop_server(empty), 1);
    assert_eq!(world.state.pending_for(world.cs(empty).id), []);
}

#[test]
fn what_keeps_a_server_from_being_emptied_is_known() {
    let (mut world, a) = World::with_servers(4);
    let file = world.written_file(a, "/f", 5, 3);
    let other = world.written_file(a, "/other", 2, 3);
    world.release(a, other, true);
    let id = world.cs(2).id;
    assert_eq!(world.state.waiting_on(id), (0, vec![]));
    world.expire(a);
    let on = |chunk: &query::ChunkView| chunk.members.iter().any(|member| member.cs == id);
    let held = (0..5).filter(|index| on(&world.chunk(file, *index))).count() as u64;
    assert_eq!(world.state.waiting_on(id), (held, vec!["/f".to_owned()]));
    world.ok(world.release_op(2, Leave::Leave));
    world.settle();
    assert_eq!(world.cs(2).replicas, held, "C4: the rest is gone");
    // With one that is lost there is nothing to wait for.
    world.goes_offline(2);
    assert_eq!(world.state.waiting_on(id), (0, vec![]));
    world.settle();
    assert_eq!(world.cs(2).replicas, 0);
}
