//! Passwords and nodes.

use super::*;
use crate::state::nodes::{FOUNDER, NODES_MAX};

fn admit(name: &str) -> CommandOp {
    CommandOp::AdmitNode(AdmitNode { name: name.into(), host_id: "00ff".into(), address: "10.0.0.7".into() })
}

fn revoke(number: u64) -> CommandOp {
    CommandOp::RevokeNode(RevokeNode { number, origin: "s1".into() })
}

fn password(verifier: u8, replaces: u64) -> CommandOp {
    CommandOp::SetPassword(SetPassword { verifier: vec![verifier], replaces, origin: String::new() })
}

impl World {
    fn last_event(&self) -> String {
        let event = self.state.events().iter().next_back().unwrap();
        format!("{}: {}", event.name(), event.message())
    }
}

#[test]
fn a_node_is_revoked_once_and_its_number_never_given_again() {
    let mut world = World::new();
    assert_eq!(world.ok(admit("s1")), Outcome::Created(FOUNDER));
    assert_eq!(world.ok(admit("s2")), Outcome::Created(2));
    assert_eq!(
        world.last_event(),
        "mds.node_admitted: Node 2 (s2) was admitted to the cluster from 10.0.0.7"
    );
    assert_eq!(world.refused(revoke(3)), Refusal::UnknownNode(3));
    let before = world.state.nodes().version();
    world.ok(revoke(2));
    assert_eq!(world.last_event(), "mds.node_revoked: Node 2 (s2) was revoked by s1");
    let version = world.state.nodes().version();
    assert!(version > before);
    world.ok(revoke(2));
    assert_eq!(world.state.nodes().version(), version, "nothing has changed");
    assert_eq!(world.ok(admit("s2")), Outcome::Created(3));
    assert_eq!(world.state.nodes().revoked().collect::<Vec<_>>(), [2]);
    world.ok(CommandOp::RaiseGeneration(RaiseGeneration::default()));
    assert!(world.state.nodes().version() > version, "also to those who know a list of before");
    world.ok(revoke(1));
    assert_eq!(world.state.nodes().revoked().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn the_list_has_an_end() {
    let mut state = World::new().state;
    for n in 0..NODES_MAX as u64 {
        state.apply(10 + n, &Command::internal(5, admit("s"))).outcome.unwrap();
    }
    let refused = state.apply(1 << 20, &Command::internal(5, admit("s"))).outcome.unwrap_err();
    assert!(matches!(refused, Refusal::TooMany(_)), "{refused}");
    for (name, host_id) in [("", "1"), ("s", ""), (&*"x".repeat(65), "1")] {
        let op = AdmitNode { name: name.into(), host_id: host_id.into(), address: String::new() };
        let command = Command::internal(5, CommandOp::AdmitNode(op));
        assert!(World::new().apply(command).outcome.is_err());
    }
}

#[test]
fn of_two_who_change_the_password_one_is_told() {
    let mut world = World::new();
    world.ok(password(1, 0));
    assert_eq!(world.last_event(), "mds.password_set: The password of the cluster was set");
    world.ok(password(2, 1));
    assert!(world.last_event().starts_with("mds.password_changed"));
    assert_eq!(world.refused(password(3, 1)), Refusal::PasswordChanged(()));
    assert_eq!(world.state.nodes().password().verifier, [2]);
    assert!(world.state.apply(99, &Command::internal(5, password(4, 2))).outcome.is_ok());
    let shown = format!("{:?}", world.state.nodes());
    assert!(!shown.contains("verifier"), "{shown}");
}

#[test]
fn hours_are_counted_one_by_one() {
    let mut world = World::new();
    for (hours, counted) in [(1, 1), (1, 1), (3, 1), (2, 2), (0, 2), (u64::MAX, 2)] {
        world.ok(CommandOp::NoteHour(NoteHour { hours }));
        assert_eq!(world.state.nodes().hours(), counted, "{hours}");
    }
}
