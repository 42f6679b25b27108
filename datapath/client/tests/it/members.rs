//! Members that leave, and joiners (C3, C7).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use rt::buf::View;
use rt::sync::Notify;
use rt::time::Instant;
use wire::data::{BlockState, BlockSurvey, Flush, Write};
use wire::lease::{MemberState, ReportMember};
use wire::{ErrorBody, Op, Status};

use crate::client::{FailureLimits, OpenOptions, Servers, Volume, VolumeError};
use crate::world::{CHUNK, FIRST_VERSION, Order, Turn, World, run, run_with, version_of};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn data() -> View {
    View::copy_of(&[1; 4096])
}

/// Begins a write; the handle gives when it was answered.
fn write(volume: &Volume, offset: u64) -> rt::JoinHandle<Result<Instant, VolumeError>> {
    let volume = volume.clone();
    rt::spawn(async move { volume.write(offset, data()).await.map(|()| rt::time::now()) })
}

async fn done(handle: rt::JoinHandle<Result<Instant, VolumeError>>) -> Instant {
    let answer = rt::time::timeout(60 * SECOND, handle).await.expect("in time");
    answer.expect("not aborted").expect("done")
}

fn reports(world: &World) -> Vec<(u64, Status)> {
    let asked = world.mds.desk.asked::<ReportMember>();
    asked.iter().map(|report| (report.cs_id, Status::from_code(report.status as u16))).collect()
}

/// What a server with another version says.
fn has(version: u64) -> Turn {
    Turn::Refuse(Status::StaleVersion, ErrorBody { detail: version, ..ErrorBody::default() })
}

#[test]
fn c3_a_dead_member_costs_one_stall_and_one_report() {
    run_with(3, 8 * CHUNK, async |world| {
        (0..8).for_each(|index| world.mds.allocate(index));
        world.mds.drops.set(true);
        let volume = world.open().await;
        volume.write(0, data()).await.expect("all are there");
        world.order(Order::Kill(2)).await;
        let began = rt::time::now();
        let writes: Vec<_> = (0..8).map(|index| write(&volume, index * CHUNK)).collect();
        for write in writes {
            let took = done(write).await.since(began);
            assert!(took > 500 * MS && took < 1200 * MS, "{took:?}");
        }
        assert_eq!(reports(&world), [(3, Status::Timeout)]);
        let again = rt::time::now();
        volume.write(CHUNK, data()).await.expect("without it");
        volume.flush().await.expect("without it");
        assert!(again.elapsed() < 100 * MS, "{:?}", again.elapsed());
        assert_eq!(volume.epoch(), 1);
        // Under both versions each write had the same number, and nobody was asked for an old one afterwards.
        for cs in &world.cs[..2] {
            let writes = cs.desk.writes();
            let seqs = |version| -> BTreeSet<u64> {
                let of = writes.iter().filter(|write| write.target.version == version);
                of.map(|write| write.seq).collect()
            };
            assert!((2..=9).all(|seq| seqs(FIRST_VERSION + 1).contains(&seq)), "{writes:?}");
            assert!(writes.iter().all(|write| write.seq <= 10), "no number is given twice to one write");
        }
    });
}

#[test]
fn a_member_that_must_stay_is_waited_for_and_reported_again() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        world.order(Order::Kill(1)).await;
        let writing = write(&volume, 0);
        rt::time::sleep(10 * SECOND).await;
        let said = reports(&world).len();
        assert!((4..=8).contains(&said), "{said} reports in 10 s: after 0.6, 1.1, 2.1, 4.1, 6.1, 8.1 s");
        world.order(Order::Start(1)).await;
        done(writing).await;
        volume.flush().await.expect("both are there");
        assert_eq!(volume.epoch(), 1, "within one boot it goes on where it was");
        let seqs: Vec<_> = world.cs.iter().map(|cs| cs.desk.writes().last().map(|write| write.seq)).collect();
        assert_eq!(seqs, [Some(1), Some(1)]);
    });
}

#[test]
fn a_server_that_is_back_soon_is_not_reported() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        world.mds.drops.set(true);
        let volume = world.open().await;
        volume.write(0, data()).await.expect("written");
        world.order(Order::Kill(1)).await;
        let writing = write(&volume, 0);
        rt::time::sleep(300 * MS).await;
        world.order(Order::Start(1)).await;
        done(writing).await;
        assert_eq!(reports(&world), []);
    });
}

#[test]
fn a_slow_server_is_waited_for_and_a_silent_one_is_not() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        world.mds.drops.set(true);
        let volume = world.open().await;
        volume.write(0, data()).await.expect("written");
        let disk = Rc::new(Notify::new());
        let told = Rc::clone(&disk);
        world.cs[1].desk.script(move |op, _| match op {
            Op::Write => Turn::Wait(Rc::clone(&told)),
            _ => Turn::Usual,
        });
        let writing = write(&volume, 0);
        rt::time::sleep(8 * SECOND).await;
        assert_eq!(reports(&world), [], "it answers pings");
        disk.notify_all();
        done(writing).await;
        world.cs[1].desk.script(|_, _| Turn::Usual);
        world.order(Order::Pause(1)).await;
        let began = rt::time::now();
        let took = done(write(&volume, 0)).await.since(began);
        assert!(took > 3400 * MS && took < 4500 * MS, "{took:?}");
        assert_eq!(reports(&world), [(2, Status::Timeout)]);
        assert_eq!(volume.epoch(), 1);
    });
}

#[test]
fn how_long_a_server_is_waited_for_can_be_set() {
    for (silence_ms, order, least, most) in [
        (1000, Order::Pause(1), 900 * MS, 2000 * MS),
        (14_000, Order::Pause(1), 13_500 * MS, 15_500 * MS),
        (14_000, Order::Kill(1), 2300 * MS, 3500 * MS),
    ] {
        run(CHUNK, async move |world| {
            world.mds.allocate(0);
            world.mds.drops.set(true);
            let limits = FailureLimits::for_silence(silence_ms);
            let servers = Servers::with_limits(world.endpoint.clone(), limits);
            let options = OpenOptions { write: true, patience: 5 * SECOND };
            let volume = Volume::open(&world.session, &servers, "/file", &options).await.expect("opened");
            volume.write(0, data()).await.expect("written");
            world.order(order).await;
            let began = rt::time::now();
            let took = done(write(&volume, 0)).await.since(began);
            assert!(took > least && took < most, "{silence_ms} ms, {order:?}: {took:?}");
        });
    }
}

#[test]
fn c3_a_repair_holds_up_no_reader_of_a_blocked_chunk() {
    for damaged in [0, 1] {
        run(CHUNK, async move |world| {
            world.mds.allocate(0);
            world.mds.blocked.set(true);
            let volume = world.open().await;
            world.cs[damaged].desk.script(|op, _| match op {
                Op::Read => Turn::refuse(Status::Corrupt),
                _ => Turn::Usual,
            });
            for _ in 0..4 {
                let read = rt::time::timeout(SECOND, volume.read(0, 8192)).await;
                read.expect("nobody holds the range").expect("the other one has it");
                rt::time::sleep(SECOND).await;
            }
            assert_eq!(world.cs[1 - damaged].desk.count(Op::Write), 0);
        });
    }
}

#[test]
fn a_slow_server_is_waited_for_even_if_no_ping_reaches_it() {
    run(40 * CHUNK, async |world| {
        (0..40).for_each(|index| world.mds.allocate(index));
        world.mds.drops.set(true);
        let volume = world.open().await;
        volume.write(0, data()).await.expect("written");
        let disk = Rc::new(Notify::new());
        let told = Rc::clone(&disk);
        world.cs[1].desk.script(move |op, _| match op {
            Op::Write => Turn::Wait(Rc::clone(&told)),
            _ => Turn::Usual,
        });
        // More than a connection takes at a time: whatever is asked then waits behind it.
        let writing: Vec<_> = (0..40)
            .map(|index| {
                let volume = volume.clone();
                rt::spawn(async move {
                    let whole = View::copy_of(&vec![1; CHUNK as usize]);
                    volume.write(index * CHUNK, whole).await.map(|()| rt::time::now())
                })
            })
            .collect();
        rt::time::sleep(8 * SECOND).await;
        assert_eq!(reports(&world), []);
        assert_eq!(world.servers.states(), [(1, true), (2, true)]);
        world.order(Order::Pause(1)).await;
        rt::time::sleep(4 * SECOND).await;
        assert_eq!(reports(&world), [(2, Status::Timeout)]);
        for write in writing {
            done(write).await;
        }
    });
}

#[test]
fn the_connection_of_a_silent_server_is_given_up() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        volume.write(0, data()).await.expect("written");
        world.order(Order::Pause(1)).await;
        let writing = write(&volume, 0);
        rt::time::sleep(3 * SECOND).await;
        assert_eq!(world.servers.states(), [(1, true), (2, true)]);
        rt::time::sleep(SECOND).await;
        assert_eq!(world.servers.states(), [(1, true), (2, false)]);
        // Reads do not try it first any more, wherever they began.
        let began = rt::time::now();
        volume.read(CHUNK - 4096, 4096).await.expect("the other one has it");
        assert!(began.elapsed() < 100 * MS, "{:?}", began.elapsed());
        world.order(Order::Resume(1)).await;
        done(writing).await;
        assert_eq!(volume.epoch(), 1);
    });
}

#[test]
fn who_has_not_installed_a_version_is_asked_again() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        let refusals = Rc::new(Cell::new(0));
        let count = Rc::clone(&refusals);
        world.cs[1].desk.script(move |op, _| {
            if matches!(op, Op::Write | Op::Read) && count.get() < 5 {
                count.set(count.get() + 1);
                return has(FIRST_VERSION - 1);
            }
            Turn::Usual
        });
        done(write(&volume, 0)).await;
        assert_eq!(refusals.replace(0), 5);
        volume.read(0, 4096).await.expect("another one has it");
        assert_eq!((world.mds.desk.count(Op::GetMap), reports(&world).len()), (0, 0));
        assert_eq!(volume.epoch(), 1);
        assert_eq!(world.cs[1].desk.writes().iter().map(|write| write.seq).collect::<Vec<_>>(), [1; 6]);
    });
}

#[test]
fn c3_a_write_counts_when_all_of_one_version_have_answered_under_it() {
    run_with(3, CHUNK, async |world| {
        world.mds.allocate(0);
        world.mds.states.borrow_mut().insert(3, MemberState::Absent);
        let volume = world.open().await;
        volume.write(0, data()).await.expect("written");
        // While the write is on its way, the third server joins, and only the first one has carried it out.
        let installed = Rc::new(Notify::new());
        let told = Rc::clone(&installed);
        world.cs[1].desk.script(move |op, body| match op {
            Op::Write if version_of(body) == FIRST_VERSION => Turn::Wait(Rc::clone(&told)),
            _ => Turn::Usual,
        });
        let writing = write(&volume, 0);
        rt::time::sleep(100 * MS).await;
        assert_eq!(world.cs[0].desk.writes().len(), 2);
        world.mds.set(3, MemberState::Joining);
        world.cs[0].desk.script(|op, body| match op {
            Op::Write if version_of(body) == FIRST_VERSION => has(FIRST_VERSION + 1),
            _ => Turn::Usual,
        });
        // Another write learns of it, and wakes the one that waits.
        let other = write(&volume, 8192);
        done(writing).await;
        done(other).await;
        for cs in &world.cs {
            let writes = cs.desk.writes();
            let new: BTreeSet<_> = writes
                .iter()
                .filter(|write| write.target.version == FIRST_VERSION + 1)
                .map(|write| (write.seq, write.offset))
                .collect();
            assert_eq!(new, BTreeSet::from([(2, 0), (3, 8192)]), "{writes:?}");
        }
        assert_eq!(volume.epoch(), 1);
        installed.notify_all();
    });
}

/// Who has carried it out already would take it for done, although settling has put something else in its place (simulator, seed 10266).
#[test]
fn c11_a_write_on_its_way_is_another_one_after_settling() {
    run_with(3, CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        let installed = Rc::new(Notify::new());
        let told = Rc::clone(&installed);
        world.cs[1].desk.script(move |op, body| match op {
            Op::Write if version_of(body) == FIRST_VERSION => Turn::Wait(Rc::clone(&told)),
            _ => Turn::Usual,
        });
        let writing = write(&volume, 0);
        rt::time::sleep(100 * MS).await;
        assert_eq!(world.cs[0].desk.writes().len(), 1);
        // Somebody has rebooted and is left out: the chunk has to be settled among the others.
        world.mds.unreconciled.set(true);
        world.mds.set(3, MemberState::Absent);
        world.cs[0].desk.script(|op, body| match op {
            Op::Write if version_of(body) == FIRST_VERSION => has(FIRST_VERSION + 1),
            _ => Turn::Usual,
        });
        let other = write(&volume, 8192);
        done(writing).await;
        done(other).await;
        assert_eq!(volume.epoch(), 2);
        for cs in &world.cs[..2] {
            assert_eq!(cs.desk.count(Op::Survey), 1, "nothing is settled while a write is on its way");
            let anew = cs.desk.writes().into_iter().filter(|write| write.target.epoch == 2);
            assert_eq!(anew.map(|write| write.offset).collect::<BTreeSet<_>>(), BTreeSet::from([0, 8192]));
        }
        installed.notify_all();
    });
}

/// One member has lost its power with a write, and another one's device does not give it back any more (simulator, seed 4448).
#[test]
fn c4_a_flush_fails_when_the_only_copy_of_an_acknowledged_write_is_damaged() {
    // Whether it was flushed before, and which other content the block has instead.
    for (flushed, elsewhere, lost) in [(false, false, true), (true, false, false), (false, true, false)] {
        run_with(3, CHUNK, async move |world| {
            world.mds.allocate(0);
            let volume = world.open().await;
            volume.write(0, data()).await.expect("all have it");
            if flushed {
                volume.flush().await.expect("all have it for good");
            }
            let [older, newer] = [0, volume.epoch()].map(|epoch| BlockSurvey {
                epoch,
                seq: if epoch == 0 { 0 } else { world.cs[0].desk.writes()[0].seq },
                crc: 0,
                state: BlockState::Zero,
            });
            let damaged = BlockSurvey { state: BlockState::Unmatched, ..newer };
            world.cs[0].surveyed.replace(vec![if elsewhere { newer } else { older }]);
            world.cs[1].surveyed.replace(vec![damaged]);
            // One that has rebooted is left out, and the chunk has to be settled among the others.
            world.mds.unreconciled.set(true);
            world.mds.set(3, MemberState::Absent);
            world.cs[0].desk.script(|op, body| match op {
                Op::Write if version_of(body) == FIRST_VERSION => has(FIRST_VERSION + 1),
                _ => Turn::Usual,
            });
            done(write(&volume, 8192)).await;
            assert_eq!(volume.epoch(), 2);
            assert_eq!(world.cs[1].desk.count(Op::Settle), 1, "what is whole takes its place");
            let flush = volume.flush().await;
            assert!(
                matches!(flush, Err(VolumeError::WritesLost)) == lost && flush.is_err() == lost,
                "{flush:?}"
            );
        });
    }
}

#[test]
fn c7_a_joiner_gets_everything_and_is_asked_for_nothing() {
    run_with(3, 2 * CHUNK, async |world| {
        (0..2).for_each(|index| world.mds.allocate(index));
        world.mds.set(1, MemberState::Joining);
        let volume = world.open().await;
        volume.write(0, data()).await.expect("written");
        volume.write_zeroes(4096, 4096, false).await.expect("zeroed");
        volume.discard(8192, 4096).await.expect("discarded");
        for index in 0..2 {
            volume.read(index * CHUNK, 4096).await.expect("members have it");
            volume.block_status(index * CHUNK, 4096, 1).await.expect("members know");
        }
        volume.flush().await.expect("flushed");
        let counts = |op| world.cs.iter().map(|cs| cs.desk.count(op)).collect::<Vec<_>>();
        assert_eq!((counts(Op::Write), counts(Op::Flush)), (vec![3; 3], vec![1; 3]));
        assert_eq!((world.cs[0].desk.count(Op::Read), world.cs[0].desk.count(Op::BlockStatus)), (0, 0));
        volume.close().await.expect("closed");
        assert_eq!(counts(Op::Flush), [2; 3], "it hears that all is stable");
    });
}

#[test]
fn a_chunk_is_settled_among_its_members_alone() {
    run_with(3, CHUNK, async |world| {
        world.mds.allocate(0);
        world.mds.needs_reconcile.set(true);
        world.mds.unreconciled.set(true);
        world.mds.set(3, MemberState::Joining);
        let volume = world.open().await;
        volume.read(0, 4096).await.expect("settled");
        volume.flush().await.expect("settled");
        let asked = |op| world.cs.iter().map(|cs| cs.desk.count(op)).collect::<Vec<_>>();
        assert_eq!((asked(Op::Survey), asked(Op::ClearMarks)), (vec![1, 1, 0], vec![1, 1, 0]));
    });
}

/// Before the metadata server knows that a chunk is settled, and so that whoever is being filled has to begin anew, the members keep their
/// claims: else a joiner that becomes a member meanwhile would be believed (C7).
#[test]
fn c5_lists_are_cleared_when_it_is_known_that_a_chunk_is_settled() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        world.mds.needs_reconcile.set(true);
        world.mds.unreconciled.set(true);
        let volume = world.open().await;
        let cleared = |world: &World| world.cs.iter().map(|cs| cs.desk.count(Op::ClearMarks)).sum::<usize>();
        let mut refusals = 3;
        world.mds.desk.script(move |op, _| match op {
            Op::ReconcileDone if refusals > 0 => {
                refusals -= 1;
                Turn::refuse(Status::StaleVersion)
            }
            _ => Turn::Usual,
        });
        let reading = volume.read(0, 4096);
        let mut reading = std::pin::pin!(reading);
        while world.mds.desk.count(Op::ReconcileDone) < 3 {
            let waited = rt::time::timeout(MS, reading.as_mut()).await;
            assert!(waited.is_err() && cleared(&world) == 0, "refused, and cleared all the same");
        }
        reading.await.expect("settled");
        assert_eq!((world.mds.desk.count(Op::ReconcileDone), cleared(&world)), (4, 2));
    });
}

/// With the report whoever is being filled leaves, and the chunk has another version: under the old one nobody clears anything any more.
#[test]
fn c5_lists_are_cleared_under_the_version_that_settling_has_left() {
    run_with(3, CHUNK, async |world| {
        world.mds.allocate(0);
        world.mds.needs_reconcile.set(true);
        world.mds.unreconciled.set(true);
        world.mds.set(3, MemberState::Joining);
        let before = FIRST_VERSION + 1;
        let volume = world.open().await;
        let mds = Rc::clone(&world.mds);
        world.mds.desk.script(move |op, _| {
            if op == Op::ReconcileDone {
                mds.unreconciled.set(false);
                mds.set(3, MemberState::Absent);
            }
            Turn::Usual
        });
        for cs in &world.cs {
            cs.desk.script(move |op, body| match op {
                Op::ClearMarks | Op::Read if version_of(body) == before => has(before + 1),
                _ => Turn::Usual,
            });
        }
        volume.read(0, 4096).await.expect("settled");
        volume.flush().await.expect("flushed");
        let cleared = |op| world.cs.iter().map(|cs| cs.desk.count(op)).collect::<Vec<_>>();
        assert_eq!((cleared(Op::Survey), world.mds.desk.count(Op::ReconcileDone)), (vec![1, 1, 0], 1));
        let under = |cs: usize| world.cs[cs].desk.versions(Op::ClearMarks).last().copied();
        assert_eq!((under(0), under(1), cleared(Op::ClearMarks)[2]), (Some(before + 1), Some(before + 1), 0));
        assert_eq!(volume.epoch(), 1);
    });
}

/// Reads go on: a chunk that the metadata server knows to be settled waits for nobody who is away and must stay.
#[test]
fn c3_a_settled_chunk_is_read_before_all_have_cleared_their_lists() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        world.mds.needs_reconcile.set(true);
        world.mds.unreconciled.set(true);
        let mds = Rc::clone(&world.mds);
        world.mds.desk.script(move |op, _| {
            if op == Op::ReconcileDone {
                mds.unreconciled.set(false);
                mds.blocked.set(true);
            }
            Turn::Usual
        });
        world.cs[1].desk.script(|op, _| match op {
            Op::ClearMarks => Turn::Silence,
            _ => Turn::Usual,
        });
        let volume = world.open().await;
        let reader = volume.clone();
        let reading = rt::spawn(async move { reader.read(0, 4096).await });
        while world.cs[1].desk.count(Op::ClearMarks) == 0 {
            rt::time::sleep(MS).await;
        }
        world.order(Order::Kill(1)).await;
        let read = rt::time::timeout(5 * SECOND, reading).await.expect("soon").expect("it ends");
        read.expect("the other one has everything");
        assert_eq!((volume.epoch(), world.mds.desk.count(Op::ReconcileDone)), (1, 1));
    });
}

#[test]
fn a_chunk_is_settled_without_a_member_that_is_gone() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        world.mds.drops.set(true);
        world.mds.needs_reconcile.set(true);
        world.mds.unreconciled.set(true);
        world.order(Order::Kill(1)).await;
        let volume = world.open().await;
        let read = rt::time::timeout(2 * SECOND, volume.read(0, 4096)).await;
        read.expect("soon").expect("settled among those that are left");
        assert_eq!(reports(&world), [(2, Status::Timeout)]);
        assert_eq!((world.mds.desk.count(Op::ReconcileDone), volume.epoch()), (1, 1));
    });
}

#[test]
fn who_has_not_installed_a_version_is_not_read_from_yet() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        volume.write(0, data()).await.expect("both are there");
        let refusals = Rc::new(Cell::new(0));
        for cs in &world.cs {
            let count = Rc::clone(&refusals);
            cs.desk.script(move |_, _| {
                count.set(count.get() + 1);
                if count.get() <= 6 { has(FIRST_VERSION - 1) } else { Turn::Usual }
            });
        }
        volume.read(0, 4096).await.expect("at last");
        assert_eq!((refusals.get(), world.mds.desk.count(Op::GetMap)), (7, 0));
    });
}

#[test]
fn c11_a_number_that_counts_as_answered_is_never_an_acknowledgement() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        world.cs[1].desk.script(|_, _| Turn::refuse(Status::DedupRefused));
        let written = volume.write(0, data()).await;
        assert!(matches!(written, Err(VolumeError::Refused { cs: 2, .. })), "{written:?}");
    });
}

#[test]
fn a_writer_that_waits_hears_soon_of_another_version() {
    run(2 * CHUNK, async |world| {
        (0..2).for_each(|index| world.mds.allocate(index));
        let volume = world.open().await;
        volume.write(0, data()).await.expect("written");
        world.order(Order::Kill(1)).await;
        let writing = write(&volume, 0);
        // Long enough for the longest pause between reports.
        rt::time::sleep(9 * SECOND).await;
        world.mds.set(2, MemberState::Absent);
        let changed = rt::time::now();
        let took = done(writing).await.since(changed);
        assert!(took < 250 * MS, "{took:?}");
    });
}

#[test]
fn c3_a_blocked_chunk_is_waited_for_and_read() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        volume.write(0, data()).await.expect("written");
        world.order(Order::Kill(1)).await;
        world.mds.blocked.set(true);
        let writing = write(&volume, 0);
        rt::time::sleep(5 * SECOND).await;
        volume.read(CHUNK / 2, 4096).await.expect("the other one has it");
        assert!(!writing.is_finished());
        // Another one has been filled in its place.
        world.mds.set(2, MemberState::Absent);
        world.mds.blocked.set(false);
        let changed = rt::time::now();
        let took = done(writing).await.since(changed);
        assert!(took < 250 * MS, "{took:?}");
    });
}

/// The highest watermark that a chunk server was told of.
fn stable(world: &World, cs: usize) -> u64 {
    let desk = &world.cs[cs].desk;
    let (flushes, writes) = (desk.flushes(), desk.writes());
    let told = flushes.iter().map(|(flush, _)| flush.stable).chain(writes.iter().map(|write| write.stable));
    told.max().expect("it was asked something")
}

/// Refuses flushes that name a chunk of a list in a version above the one it has.
fn installs(world: &World, cs: usize, has_chunks: &Rc<RefCell<BTreeMap<u64, u64>>>) {
    let chunks = Rc::clone(has_chunks);
    world.cs[cs].desk.script(move |op, body| {
        if op != Op::Flush {
            return Turn::Usual;
        }
        let (_, named) = Flush::decode(body).expect("a client's flush");
        let lower = named.iter().find_map(|one| {
            let have = *chunks.borrow().get(&one.chunk).expect("it has this chunk");
            (have < one.version).then_some(have)
        });
        lower.map_or(Turn::Usual, has)
    });
}

#[test]
fn c6_what_a_server_that_leaves_may_have_lost_is_not_stable_before_the_others_have_installed_that() {
    run_with(3, 9 * CHUNK, async |world| {
        (0..9).for_each(|index| world.mds.allocate(index));
        world.mds.drops.set(true);
        let volume = world.open().await;
        for index in 0..9 {
            volume.write(index * CHUNK, data()).await.expect("written");
        }
        let has_chunks: BTreeMap<_, _> = (1000..1009).map(|chunk| (chunk, FIRST_VERSION)).collect();
        let has_chunks = [(); 2].map(|()| Rc::new(RefCell::new(has_chunks.clone())));
        (0..2).for_each(|cs| installs(&world, cs, &has_chunks[cs]));
        world.order(Order::Kill(2)).await;
        let flusher = volume.clone();
        let flushing = rt::spawn(async move { flusher.flush().await });
        // One is ready soon, the other one chunk by chunk.
        rt::time::sleep(2 * SECOND).await;
        has_chunks[0].borrow_mut().values_mut().for_each(|version| *version += 1);
        for chunk in 1000..1008 {
            assert!(!flushing.is_finished(), "chunk {chunk} is as it was");
            // Writes go on meanwhile, and tell nobody more.
            done(write(&volume, 8 * CHUNK)).await;
            assert_eq!((stable(&world, 0), stable(&world, 1)), (1, 1));
            has_chunks[1].borrow_mut().entry(chunk).and_modify(|version| *version += 1);
            rt::time::sleep(SECOND / 2).await;
        }
        rt::time::timeout(SECOND, flushing).await.expect("soon").expect("not aborted").expect("flushed");
        done(write(&volume, 0)).await;
        assert!(stable(&world, 1) > 9 && stable(&world, 0) > 9);
        // Of the chunk that was written to under the new version nobody had to be asked later on.
        let named: BTreeSet<u64> =
            world.cs[1].desk.flushes().iter().flat_map(|(_, named)| named).map(|one| one.chunk).collect();
        assert!((1000..1008).all(|chunk| named.contains(&chunk)), "{named:?}");
        assert_eq!((volume.epoch(), reports(&world).len()), (1, 1));
        let before = world.cs[1].desk.count(Op::Flush);
        volume.flush().await.expect("nothing is awaited");
        assert_eq!(world.cs[1].desk.count(Op::Flush), before + 1);
    });
}

#[test]
fn c6_who_leaves_himself_is_not_waited_for() {
    // It dies, or the metadata server drops it without a word to us.
    for dies in [true, false] {
        run_with(3, 4 * CHUNK, async move |world| {
            (0..4).for_each(|index| world.mds.allocate(index));
            world.mds.drops.set(true);
            let volume = world.open().await;
            for index in 0..4 {
                volume.write(index * CHUNK, data()).await.expect("written");
            }
            let has_chunks: BTreeMap<_, _> = (1000..1004).map(|chunk| (chunk, FIRST_VERSION)).collect();
            let newer: BTreeMap<_, _> = (1000..1004).map(|chunk| (chunk, FIRST_VERSION + 2)).collect();
            installs(&world, 0, &Rc::new(RefCell::new(newer)));
            installs(&world, 1, &Rc::new(RefCell::new(has_chunks)));
            world.order(Order::Kill(2)).await;
            let flusher = volume.clone();
            let flushing = rt::spawn(async move { flusher.flush().await });
            rt::time::sleep(3 * SECOND).await;
            assert!(!flushing.is_finished() && stable(&world, 0) == 1);
            if dies {
                world.order(Order::Kill(1)).await;
            } else {
                world.mds.set(2, MemberState::Absent);
            }
            let flushed = rt::time::timeout(5 * SECOND, flushing).await;
            flushed.expect("soon").expect("not aborted").expect("flushed");
            assert_eq!(volume.epoch(), 1);
            let (_, named) = world.cs[0].desk.flushes().pop().expect("it was asked");
            assert!(named.iter().all(|one| one.version == FIRST_VERSION + 2), "{named:?}");
            volume.write(0, data()).await.expect("written");
            assert!(stable(&world, 0) > 4);
        });
    }
}

#[test]
fn c4_a_server_that_cannot_be_flushed_is_reported_and_done_without() {
    run(2 * CHUNK, async |world| {
        (0..2).for_each(|index| world.mds.allocate(index));
        world.mds.drops.set(true);
        let volume = world.open().await;
        volume.write(0, data()).await.expect("written");
        volume.write(CHUNK, data()).await.expect("written");
        world.cs[1].desk.script(|op, _| match op {
            Op::Flush => Turn::refuse(Status::DeviceFailed),
            _ => Turn::Usual,
        });
        rt::time::timeout(SECOND, volume.flush()).await.expect("soon").expect("the other one has everything");
        assert_eq!(reports(&world), [(2, Status::DeviceFailed)]);
        assert_eq!(volume.epoch(), 1);
        assert!(world.cs[0].desk.count(Op::Flush) >= 1);
    });
}

#[test]
fn c4_a_flush_does_without_nobody_whom_a_chunk_needs() {
    run(2 * CHUNK, async |world| {
        (0..2).for_each(|index| world.mds.allocate(index));
        world.mds.drops.set(true);
        world.mds.kept.borrow_mut().insert(1);
        let volume = world.open().await;
        volume.write(0, data()).await.expect("written");
        volume.write(CHUNK, data()).await.expect("written");
        world.order(Order::Kill(1)).await;
        let flusher = volume.clone();
        let flushing = rt::spawn(async move { flusher.flush().await });
        rt::time::sleep(10 * SECOND).await;
        assert!(!flushing.is_finished(), "the second chunk needs both");
        // What the other chunk needs is not held up by that.
        done(write(&volume, 0)).await;
        let before = world.cs[1].desk.count(Op::Flush);
        world.order(Order::Start(1)).await;
        rt::time::timeout(10 * SECOND, flushing).await.expect("soon").expect("not aborted").expect("flushed");
        assert_eq!(world.cs[1].desk.count(Op::Flush), before + 1);
        assert_eq!(volume.epoch(), 1);
    });
}

#[test]
fn a_member_that_has_lost_the_chunk_is_passed_over_and_reported() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        volume.write(0, data()).await.expect("both are there");
        world.cs[0].desk.script(|_, _| Turn::refuse(Status::UnknownChunk));
        volume.read(0, 4096).await.expect("the other one has it");
        rt::time::sleep(SECOND / 10).await;
        assert_eq!(reports(&world), [(1, Status::UnknownChunk)]);
        world.cs[1].desk.script(|_, _| Turn::refuse(Status::UnknownChunk));
        let read = volume.read(0, 4096).await;
        assert!(matches!(read, Err(VolumeError::Refused { .. })), "{read:?}");
    });
}

#[test]
fn a_write_that_a_member_refuses_for_good_goes_on_without_it() {
    for status in [Status::UnknownChunk, Status::DeviceFailed, Status::RegistrationLapsed] {
        run(CHUNK, async move |world| {
            world.mds.allocate(0);
            world.mds.drops.set(true);
            let volume = world.open().await;
            world.cs[1].desk.script(move |_, _| Turn::refuse(status));
            let began = rt::time::now();
            let took = done(write(&volume, 0)).await.since(began);
            assert!(took < SECOND, "{took:?}");
            assert_eq!(reports(&world), [(2, status)]);
            assert_eq!(volume.epoch(), 1);
        });
    }
}

/// Only the write to that block fails, and what waits is not held up for ever (C8).
#[test]
fn c8_a_part_of_a_block_that_is_damaged_everywhere_is_an_error() {
    for status in [Status::Corrupt, Status::Unsettled] {
        run(CHUNK, async move |world| {
            world.mds.allocate(0);
            let volume = world.open().await;
            // What an epoch leaves behind is to be settled by the next.
            world.mds.needs_reconcile.set(true);
            world.mds.unreconciled.set(true);
            for cs in &world.cs[..2] {
                cs.desk.script(move |op, body| match op {
                    Op::Write
                        if Write::decode(body, data().len() as u32)
                            .is_ok_and(|(write, _)| write.offset / 4096 == 3) =>
                    {
                        Turn::Refuse(status, ErrorBody { detail: 3, ..ErrorBody::default() })
                    }
                    _ => Turn::Usual,
                });
            }
            let writer = volume.clone();
            let bad = rt::spawn(async move { writer.write(3 * 4096 + 512, data()).await });
            let ended = rt::time::timeout(30 * SECOND, bad).await.expect("it ends").expect("no panic");
            assert!(matches!(ended, Err(VolumeError::Corrupt { index: 0, block: 3 })), "{ended:?}");
            done(write(&volume, 0)).await;
            volume.flush().await.expect("flushed");
        });
    }
}

#[test]
fn c3_writes_that_wait_hold_up_no_reads() {
    run(64 * CHUNK, async |world| {
        (0..64).for_each(|index| world.mds.allocate(index));
        let volume = world.open().await;
        volume.write(0, data()).await.expect("written");
        world.cs[1].desk.script(|op, _| if op == Op::Write { Turn::Silence } else { Turn::Usual });
        for index in 1..64 {
            let writer = volume.clone();
            rt::spawn(async move { writer.write(index * CHUNK, View::copy_of(&[1; CHUNK as usize])).await });
        }
        for _ in 0..2 {
            let writer = volume.clone();
            rt::spawn(async move { writer.write(CHUNK / 2, View::copy_of(&[1; CHUNK as usize / 2])).await });
        }
        rt::time::sleep(SECOND).await;
        let read = rt::time::timeout(SECOND, volume.read(0, 4096)).await;
        read.expect("no write is waited for").expect("read");
    });
}

#[test]
fn a_short_lapse_of_a_registration_is_waited_for() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        let began = rt::time::now();
        world.cs[1].desk.script(move |_, _| match began.elapsed() < 400 * MS {
            true => Turn::refuse(Status::RegistrationLapsed),
            false => Turn::Usual,
        });
        done(write(&volume, 0)).await;
        assert_eq!(reports(&world), []);
    });
}

#[test]
fn c10_a_rebooted_joiner_is_reported_and_a_rebooted_member_ends_the_epoch() {
    run_with(3, CHUNK, async |world| {
        world.mds.allocate(0);
        world.mds.drops.set(true);
        world.mds.set(3, MemberState::Joining);
        let volume = world.open().await;
        volume.write(0, data()).await.expect("written");
        world.order(Order::Reboot(2)).await;
        rt::time::sleep(100 * MS).await;
        done(write(&volume, 0)).await;
        assert_eq!(reports(&world), [(3, Status::RegistrationLapsed)]);
        assert_eq!(volume.epoch(), 1);
        // It joins anew, in its new boot.
        world.mds.set(3, MemberState::Joining);
        world.cs[0].desk.script(|op, body| match op {
            Op::Write if version_of(body) == FIRST_VERSION + 2 => has(FIRST_VERSION + 3),
            _ => Turn::Usual,
        });
        let before = world.cs[2].desk.count(Op::Write);
        done(write(&volume, 0)).await;
        assert_eq!(world.cs[2].desk.count(Op::Write), before + 1);
        assert_eq!((reports(&world).len(), volume.epoch()), (1, 1));
        world.order(Order::Reboot(1)).await;
        rt::time::sleep(100 * MS).await;
        done(write(&volume, 0)).await;
        assert_eq!(volume.epoch(), 2, "what a member has lost is settled");
    });
}
