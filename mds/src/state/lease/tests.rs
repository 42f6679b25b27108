//! Every phase of a lease against every event, and the rules that no sequence may break.

use super::*;
use proptest::prelude::*;

const A: ClientId = ClientId(2049);
const B: ClientId = ClientId(2050);
const C: ClientId = ClientId(2051);
const CS1: CsId = CsId(1025);
const CS2: CsId = CsId(1026);

#[derive(Clone, Copy, Debug)]
enum Event {
    Open(ClientId, LeaseMode),
    Resume(ClientId, LeaseMode),
    End(ClientId, End),
    Drained(CsId, u64),
    Doubt,
}

/// One letter or two for each phase, so that the table below can be read.
fn short(lease: &Lease) -> String {
    let name = |client: &ClientId| ["A", "B", "C"][(client.0 - A.0) as usize];
    let names = |clients: &[ClientId]| clients.iter().map(name).collect::<String>();
    let mut text = match &lease.phase {
        Phase::Idle => "idle".to_owned(),
        Phase::Unclean => "unclean".to_owned(),
        Phase::Fencing { waiting } => format!("fencing{}", waiting.len()),
        Phase::Fenced => "fenced".to_owned(),
        Phase::Exclusive { holder } => format!("X{}", name(holder)),
        Phase::Shared { readers, unclean } => {
            format!("S{}{}", names(readers), if *unclean { "?" } else { "" })
        }
    };
    text += &format!("@{}", lease.epoch.counter());
    if let Some(owner) = &lease.reserved_for {
        text += &format!(" for {}", name(owner));
    }
    if !lease.resumable.is_empty() {
        text += &format!(" back {}", names(&lease.resumable));
    }
    text
}

fn apply(lease: &mut Lease, event: Event, needs_reconcile: bool) -> String {
    let to_fence = || vec![CS2, CS1];
    let now = Circumstances { generation: 1, needs_reconcile, is_live: &|_| true, to_fence: &to_fence };
    let verdict = |verdict| match verdict {
        Verdict::Granted => "granted",
        Verdict::Held { reserved: false, .. } => "held",
        Verdict::Held { reserved: true, .. } => "reserved",
        Verdict::Fencing => "wait",
        Verdict::Lost => "lost",
    };
    match event {
        Event::Open(client, mode) => verdict(lease.open(client, mode, now)).to_owned(),
        Event::Resume(client, mode) => verdict(lease.resume(client, mode, now)).to_owned(),
        Event::End(client, how) => match lease.end(client, how) {
            Some(LeaseMode::Exclusive) => "writer left".to_owned(),
            Some(LeaseMode::Shared) => "reader left".to_owned(),
            None => "not held".to_owned(),
        },
        Event::Drained(cs, epoch) => {
            if lease.drained(cs, Epoch::new(1, epoch)) {
                "last".to_owned()
            } else {
                "-".to_owned()
            }
        }
        Event::Doubt => {
            lease.doubt();
            "-".to_owned()
        }
    }
}

/// The phases, at epoch 5.
fn phases() -> Vec<Lease> {
    let lease = |phase| Lease { epoch: Epoch::new(1, 5), phase, reserved_for: None, resumable: Vec::new() };
    vec![
        lease(Phase::Idle),
        lease(Phase::Unclean),
        lease(Phase::Fencing { waiting: vec![CS1, CS2] }),
        lease(Phase::Fencing { waiting: vec![CS2] }),
        lease(Phase::Fenced),
        lease(Phase::Exclusive { holder: A }),
        lease(Phase::Shared { readers: vec![A], unclean: false }),
        lease(Phase::Shared { readers: vec![A, B], unclean: false }),
        lease(Phase::Shared { readers: vec![A], unclean: true }),
    ]
}

/// For each event, what becomes of each of [`phases`].
fn table() -> Vec<(Event, [&'static str; 9])> {
    use Event::{Doubt, Drained, Open, Resume};
    use LeaseMode::{Exclusive, Shared};
    let end = Event::End;
    let unheld = [
        "not held: idle@5",
        "not held: unclean@5",
        "not held: fencing2@5",
        "not held: fencing1@5",
        "not held: fenced@5",
    ];
    let with = |held: [&'static str; 4]| {
        [unheld[0], unheld[1], unheld[2], unheld[3], unheld[4], held[0], held[1], held[2], held[3]]
    };
    let lost = ["lost: idle@5", "lost: unclean@5", "lost: fencing2@5", "lost: fencing1@5", "lost: fenced@5"];
    let lost_or = |held: [&'static str; 4]| {
        [lost[0], lost[1], lost[2], lost[3], lost[4], held[0], held[1], held[2], held[3]]
    };
    vec![
        (
            Open(A, Exclusive),
            [
                "granted: XA@6",
                "wait: fencing2@6",
                "wait: fencing2@5",
                "wait: fencing1@5",
                "granted: XA@5",
                "granted: XA@5",
                "held: SA@5",
                "held: SAB@5",
                "held: SA?@5",
            ],
        ),
        (
            Open(C, Exclusive),
            [
                "granted: XC@6",
                "wait: fencing2@6",
                "wait: fencing2@5",
                "wait: fencing1@5",
                "granted: XC@5",
                "held: XA@5",
                "held: SA@5",
                "held: SAB@5",
                "held: SA?@5",
            ],
        ),
        (
            Open(A, Shared),
            [
                "granted: SA@6",
                "wait: fencing2@6",
                "wait: fencing2@5",
                "wait: fencing1@5",
                "granted: SA@5",
                "held: XA@5",
                "granted: SA@5",
                "granted: SAB@5",
                "granted: SA?@5",
            ],
        ),
        (
            Open(C, Shared),
            [
                "granted: SC@6",
                "wait: fencing2@6",
                "wait: fencing2@5",
                "wait: fencing1@5",
                "granted: SC@5",
                "held: XA@5",
                "granted: SAC@5",
                "granted: SABC@5",
                "granted: SAC?@5",
            ],
        ),
        (
            end(A, End::Clean),
            with([
                "writer left: idle@5",
                "reader left: idle@5",
                "reader left: SB@5",
                "reader left: unclean@5",
            ]),
        ),
        (
            end(A, End::Dirty),
            with([
                "writer left: unclean@5",
                "reader left: unclean@5",
                "reader left: SB?@5",
                "reader left: unclean@5",
            ]),
        ),
        (
            end(A, End::Revoked),
            with([
                "writer left: unclean@5",
                "reader left: unclean@5",
                "reader left: SB?@5",
                "reader left: unclean@5",
            ]),
        ),
        (
            end(A, End::Expired),
            with([
                "writer left: unclean@5 back A",
                "reader left: unclean@5 back A",
                "reader left: SB?@5 back A",
                "reader left: unclean@5 back A",
            ]),
        ),
        (
            end(A, End::TakenOver),
            with([
                "writer left: unclean@5 for A back A",
                "reader left: unclean@5 for A back A",
                "reader left: SB?@5 back A",
                "reader left: unclean@5 for A back A",
            ]),
        ),
        (
            end(C, End::Clean),
            with(["not held: XA@5", "not held: SA@5", "not held: SAB@5", "not held: SA?@5"]),
        ),
        (Resume(A, Exclusive), lost_or(["granted: XA@5", "lost: SA@5", "lost: SAB@5", "lost: SA?@5"])),
        (Resume(C, Shared), lost_or(["lost: XA@5", "lost: SA@5", "lost: SAB@5", "lost: SA?@5"])),
        (
            Drained(CS2, 5),
            [
                "-: idle@5",
                "-: unclean@5",
                "-: fencing1@5",
                "last: fenced@5",
                "-: fenced@5",
                "-: XA@5",
                "-: SA@5",
                "-: SAB@5",
                "-: SA?@5",
            ],
        ),
        (
            Drained(CS2, 4),
            [
                "-: idle@5",
                "-: unclean@5",
                "-: fencing2@5",
                "-: fencing1@5",
                "-: fenced@5",
                "-: XA@5",
                "-: SA@5",
                "-: SAB@5",
                "-: SA?@5",
            ],
        ),
        (
            Drained(CsId(9), 5),
            [
                "-: idle@5",
                "-: unclean@5",
                "-: fencing2@5",
                "-: fencing1@5",
                "-: fenced@5",
                "-: XA@5",
                "-: SA@5",
                "-: SAB@5",
                "-: SA?@5",
            ],
        ),
        (Doubt, ["-: unclean@5"; 9]),
    ]
}

#[test]
fn c1_c2_every_phase_against_every_event() {
    for (event, wants) in table() {
        for (before, want) in phases().into_iter().zip(wants) {
            let mut lease = before.clone();
            let verdict = apply(&mut lease, event, false);
            assert_eq!(format!("{verdict}: {}", short(&lease)), want, "{} then {event:?}", short(&before));
            assert_eq!(lease.check(), Ok(()));
        }
    }
}

#[test]
fn c2_without_chunks_there_is_nobody_to_fence() {
    let mut lease = Lease { phase: Phase::Unclean, ..Lease::default() };
    let now =
        Circumstances { generation: 1, needs_reconcile: false, is_live: &|_| true, to_fence: &Vec::new };
    assert_eq!(lease.open(A, LeaseMode::Exclusive, now), Verdict::Granted);
    assert_eq!(short(&lease), "XA@1");
}

#[test]
fn c5_a_reader_that_reconciles_is_alone() {
    let mut lease = phases()[6].clone();
    assert_eq!(apply(&mut lease, Event::Open(C, LeaseMode::Shared), true), "held");
    assert_eq!(apply(&mut lease, Event::Open(A, LeaseMode::Shared), true), "granted", "asked again");
    assert_eq!(apply(&mut lease, Event::Open(C, LeaseMode::Shared), false), "granted", "once it is done");
}

#[test]
fn c1_a_hand_over_keeps_the_lease_for_the_successor() {
    let mut lease = phases()[5].clone();
    apply(&mut lease, Event::End(A, End::Clean), false);
    lease.reserve(B);
    assert_eq!(apply(&mut lease, Event::Open(C, LeaseMode::Exclusive), false), "reserved");
    assert_eq!(apply(&mut lease, Event::Open(B, LeaseMode::Exclusive), false), "granted");
    assert_eq!(short(&lease), "XB@6");
    lease = phases()[0].clone();
    lease.reserve(B);
    lease.clear_reservation();
    assert_eq!(apply(&mut lease, Event::Open(C, LeaseMode::Exclusive), false), "granted");
}

#[test]
fn c1_an_expired_client_resumes_unless_somebody_was_granted_since() {
    let resume = Event::Resume(A, LeaseMode::Exclusive);
    let mut lease = phases()[5].clone();
    apply(&mut lease, Event::End(A, End::Expired), false);
    assert_eq!(apply(&mut lease, resume, true), "wait", "like anybody else, behind a fence");
    apply(&mut lease, Event::Drained(CS1, 6), false);
    apply(&mut lease, Event::Drained(CS2, 6), false);
    let mut other = lease.clone();
    assert_eq!(apply(&mut lease, resume, true), "granted");
    assert_eq!(short(&lease), "XA@6");
    assert_eq!(apply(&mut other, Event::Open(B, LeaseMode::Exclusive), true), "granted");
    assert_eq!(apply(&mut other, resume, true), "lost");
    apply(&mut other, Event::End(B, End::Clean), false);
    assert_eq!(apply(&mut other, resume, true), "lost", "for ever");
}

#[test]
fn c12_after_a_restore_the_next_grant_is_fenced_in_the_new_generation() {
    let mut lease = phases()[4].clone();
    lease.doubt();
    let to_fence = || vec![CS1];
    let now =
        Circumstances { generation: 2, needs_reconcile: false, is_live: &|_| true, to_fence: &to_fence };
    assert_eq!(lease.open(A, LeaseMode::Shared, now), Verdict::Fencing);
    assert_eq!(lease.epoch(), Epoch::new(2, 1));
}

fn any_event() -> impl Strategy<Value = Event> {
    let client = prop_oneof![Just(A), Just(B), Just(C)];
    let mode = prop_oneof![Just(LeaseMode::Shared), Just(LeaseMode::Exclusive)];
    let end = prop_oneof![
        Just(End::Clean),
        Just(End::Dirty),
        Just(End::Expired),
        Just(End::TakenOver),
        Just(End::Reopened),
        Just(End::Revoked)
    ];
    let cs = prop_oneof![Just(CS1), Just(CS2)];
    prop_oneof![
        4 => (client.clone(), mode.clone()).prop_map(|(client, mode)| Event::Open(client, mode)),
        2 => (client.clone(), mode).prop_map(|(client, mode)| Event::Resume(client, mode)),
        4 => (client, end).prop_map(|(client, end)| Event::End(client, end)),
        4 => (cs, 0..20u64).prop_map(|(cs, epoch)| Event::Drained(cs, epoch)),
    ]
}

proptest! {
    /// C1: the epoch never goes back; whoever gets the lease after another held it gets a higher epoch; and (C2)
    /// after an unclean end nobody gets it before both chunk servers are drained at the epoch granted.
    #[test]
    fn no_sequence_breaks_the_rules(events in prop::collection::vec(any_event(), 1..60)) {
        let mut lease = Lease::default();
        let mut last_held = Epoch::ZERO;
        let mut unclean = false;
        let mut drained = [Epoch::ZERO; 2];
        for event in events {
            let before = lease.clone();
            apply(&mut lease, event, false);
            prop_assert_eq!(lease.check(), Ok(()));
            prop_assert!(lease.epoch() >= before.epoch());
            if let Event::Drained(cs, epoch) = event
                && epoch >= before.epoch().counter()
                && matches!(before.phase(), Phase::Fencing { .. })
            {
                drained[(cs.0 - CS1.0) as usize] = before.epoch();
            }
            let fresh_grant = !before.phase().is_held() && lease.phase().is_held();
            if fresh_grant {
                prop_assert!(lease.epoch() > last_held);
                prop_assert!(!unclean || drained.iter().all(|epoch| *epoch == lease.epoch()));
                unclean = false;
            }
            if lease.phase().is_held() {
                last_held = lease.epoch();
            }
            if let Event::End(_, how) = event && before.holders() != lease.holders() {
                unclean |= how != End::Clean;
            }
        }
    }
}

#[test]
fn c13_those_who_may_come_back_are_not_remembered_without_end() {
    let mut lease = Lease::default();
    let all_live = |_| true;
    let nobody = Vec::new;
    let now = Circumstances { generation: 1, needs_reconcile: false, is_live: &all_live, to_fence: &nobody };
    let stays = ClientId(1);
    assert_eq!(lease.open(stays, LeaseMode::Shared, now), Verdict::Granted);
    for n in 0..RESUMABLE_MAX as u32 + 5 {
        let client = ClientId(3000 + n);
        assert_eq!(lease.open(client, LeaseMode::Shared, now), Verdict::Granted);
        lease.end(client, End::Expired);
    }
    assert_eq!(lease.resumable().len(), RESUMABLE_MAX);
    assert_eq!(lease.check(), Ok(()));
    assert_eq!(lease.resume(ClientId(3000), LeaseMode::Shared, now), Verdict::Lost);
    assert_eq!(lease.resume(ClientId(3005), LeaseMode::Shared, now), Verdict::Granted);
}
