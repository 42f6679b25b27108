//! Servers that refuse, are busy, or are slow.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rt::buf::View;
use rt::sync::Notify;
use wire::{ErrorBody, Op, Status};

use crate::client::VolumeError;
use crate::journal::Journal;
use crate::world::{CHUNK, Turn, run};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_one_replica_will_never_give_is_read_from_another() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        for (refusing, other) in [(0, 1), (1, 0)] {
            world.cs[other].desk.script(|_, _| Turn::Usual);
            world.cs[refusing].desk.script(|_, _| Turn::refuse(Status::Unsupported));
            volume.read(0, 4096).await.expect("the other one has it");
            volume.block_status(0, 4096, 1).await.expect("the other one knows");
        }
        world.cs[0].desk.script(|_, _| Turn::refuse(Status::Unsupported));
        world.cs[1].desk.script(|_, _| Turn::refuse(Status::Unsupported));
        let read = volume.read(0, 4096).await;
        assert!(matches!(read, Err(VolumeError::Refused { .. })), "{read:?}");
        let written = volume.write(0, View::copy_of(&[1; 4096])).await;
        assert!(matches!(written, Err(VolumeError::Refused { .. })), "{written:?}");
    });
}

#[test]
fn a_member_that_hangs_costs_one_read_and_not_every_one() {
    run(4 * CHUNK, async |world| {
        (0..4).for_each(|index| world.mds.allocate(index));
        let volume = world.open().await;
        // It answers what is asked beside reads; the other one is slow as well, as disks are.
        world.cs[0].desk.script(|op, _| if op == Op::Read { Turn::Silence } else { Turn::Usual });
        world.cs[1].desk.script(|_, _| Turn::After(Duration::from_millis(80)));
        let began = rt::time::now();
        for turn in 0..20 {
            volume.read(turn % 4 * CHUNK, 4096).await.expect("the other one has it");
        }
        // One for the silence, one when it has rested (three seconds each), and what the other one takes.
        assert!(began.elapsed() < 8 * SECOND, "{:?}", began.elapsed());
        assert!((1..=2).contains(&world.cs[0].desk.count(Op::Read)));
        world.cs[0].desk.script(|_, _| Turn::Usual);
        for turn in 0..600 {
            volume.read(turn % 4 * CHUNK, 4096).await.expect("one has it");
        }
        assert!(world.cs[0].desk.count(Op::Read) > 100, "it is used again once it is quick");
    });
}

#[test]
fn a_map_is_had_while_another_write_waits_for_space() {
    run(64 * CHUNK, async |world| {
        let volume = world.open().await;
        let there_is_space = Rc::new(Notify::new());
        let told = Rc::clone(&there_is_space);
        world.mds.desk.script(move |op, _| match op {
            Op::AllocateChunks => Turn::Wait(Rc::clone(&told)),
            _ => Turn::Usual,
        });
        let writer = volume.clone();
        let writing = rt::spawn(async move { writer.write(0, View::copy_of(&[1; 4096])).await });
        rt::time::sleep(SECOND / 10).await;
        assert_eq!(world.mds.desk.count(Op::AllocateChunks), 1);
        // What the map of the first chunks, which came with the lease, does not tell.
        let read = rt::time::timeout(SECOND, volume.read(40 * CHUNK, 4096)).await;
        read.expect("it has nothing to do with the write").expect("a hole");
        there_is_space.notify_one();
        writing.await.expect("not aborted").expect("written");
    });
}

#[test]
fn a_write_that_waits_for_space_goes_on_under_the_next_epoch_at_once() {
    run(64 * CHUNK, async |world| {
        world.mds.allocate(1);
        let volume = world.open().await;
        let mds = Rc::clone(&world.mds);
        world.mds.desk.script(move |op, _| match op {
            Op::AllocateChunks if mds.epoch.get() == 1 => Turn::Silence,
            _ => Turn::Usual,
        });
        let writer = volume.clone();
        let writing = rt::spawn(async move { writer.write(0, View::copy_of(&[1; 4096])).await });
        rt::time::sleep(SECOND / 10).await;
        let mds = Rc::clone(&world.mds);
        world.cs[0].desk.script(move |_, _| match mds.epoch.get() {
            1 => Turn::refuse(Status::StaleEpoch),
            _ => Turn::Usual,
        });
        volume.write(CHUNK, View::copy_of(&[1; 4096])).await.expect("written at the next epoch");
        let written = rt::time::timeout(SECOND, writing).await.expect("not after the request's own time");
        written.expect("not aborted").expect("written");
        assert_eq!(volume.epoch(), 2);
    });
}

#[test]
fn a_busy_server_is_asked_when_it_says_and_that_is_said_once() {
    let journal = Journal::default();
    let (read, seen) = (journal.clone(), Rc::new(Cell::new(0)));
    let asked = Rc::clone(&seen);
    tracing::subscriber::with_default(journal, || {
        run(CHUNK, async move |world| {
            world.mds.allocate(0);
            let volume = world.open().await;
            let began = rt::time::now();
            world.cs[0].desk.script(move |_, _| {
                let busy = ErrorBody { retry_after_ms: 700, ..ErrorBody::default() };
                match rt::time::now().since(began) < 5 * SECOND {
                    true => Turn::Refuse(Status::Retry, busy),
                    false => Turn::Usual,
                }
            });
            volume.write(0, View::copy_of(&[1; 4096])).await.expect("written at last");
            asked.set(world.cs[0].desk.count(Op::Write));
        });
    });
    assert!((5..=10).contains(&seen.get()), "{} attempts", seen.get());
    let said = read.lines("chunk server 1: the server is busy");
    assert_eq!(said.len(), 1, "{said:?}");
}

#[test]
fn data_that_is_damaged_on_the_way_again_and_again_is_told() {
    let journal = Journal::default();
    let read = journal.clone();
    tracing::subscriber::with_default(journal, || {
        run(CHUNK, async move |world| {
            world.mds.allocate(0);
            let volume = world.open().await;
            let began = rt::time::now();
            world.cs[0].desk.script(move |_, _| match rt::time::now().since(began) < 5 * SECOND {
                true => Turn::refuse(Status::ChecksumMismatch),
                false => Turn::Usual,
            });
            volume.write(0, View::copy_of(&[1; 4096])).await.expect("written at last");
        });
    });
    let said = read.lines("chunk server 1: data was damaged on the way");
    assert_eq!(said.len(), 1, "{said:?}");
}
