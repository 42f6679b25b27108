//! Links and connections.

use std::time::Duration;

use super::controller;
use crate::sim::calling;
use crate::sim::disk::nanos;
use crate::sim::host::HostId;

/// Lets nothing through from one host to the other; the way back stays open.
pub fn cut(from: HostId, to: HostId) {
    controller().net.borrow_mut().cut(from, to);
}

/// Lets nothing through between two hosts, either way.
pub fn partition(a: HostId, b: HostId) {
    cut(a, b);
    cut(b, a);
}

/// Ends a cut between two hosts, both ways.
pub fn heal(a: HostId, b: HostId) {
    let world = controller();
    let mut net = world.net.borrow_mut();
    net.heal(a, b);
    net.heal(b, a);
}

/// Ends all cuts and delays. Half-open connections stay so.
pub fn heal_all() {
    controller().net.borrow_mut().heal_all();
}

/// Makes each packet between two hosts take up to `extra` longer, either way, for a while.
pub fn delay(a: HostId, b: HostId, extra: Duration, lasting: Duration) {
    let world = controller();
    let until = world.now_nanos().saturating_add(nanos(lasting));
    for (from, to) in [(a, b), (b, a)] {
        world.net.borrow_mut().delay(from, to, nanos(extra), until);
    }
}

/// Resets every connection between two hosts, at both ends. Gives how many there were.
pub fn reset_connections(a: HostId, b: HostId) -> usize {
    controller().net.borrow_mut().reset_between(a, b, true)
}

/// Resets a random connection between two hosts, at both ends; false if there is none.
pub fn reset_one_connection(a: HostId, b: HostId) -> bool {
    controller().net.borrow_mut().reset_between(a, b, false) > 0
}

/// Makes every connection between two hosts half-open: from now on nothing arrives on it and nobody is told. New
/// connections are not affected. Gives how many there were.
pub fn half_open(a: HostId, b: HostId) -> usize {
    controller().net.borrow_mut().silence_between(a, b)
}

/// Connections of the whole world that at least one end still has.
#[must_use]
pub fn connections() -> usize {
    calling().0.net.borrow().connections()
}
