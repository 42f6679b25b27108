//! Flushes that callers share (C4).

use std::rc::Rc;
use std::time::Duration;

use rt::buf::View;
use rt::sync::Notify;
use wire::Op;

use crate::client::Volume;
use crate::world::{CHUNK, Order, Turn, World, run, run_with};

/// Long enough for whatever can happen to have happened.
const AWHILE: Duration = Duration::from_secs(2);

/// Makes chunk servers hold one kind of request until this is told.
fn hold(world: &World, held: Op) -> Rc<Notify> {
    let told = Rc::new(Notify::new());
    for cs in &world.cs {
        let told = Rc::clone(&told);
        cs.desk.script(move |op, _| if op == held { Turn::Wait(Rc::clone(&told)) } else { Turn::Usual });
    }
    told
}

fn flushes(world: &World) -> Vec<usize> {
    world.cs.iter().map(|cs| cs.desk.count(Op::Flush)).collect()
}

async fn write(volume: &Volume, block: u64) {
    volume.write(block * 4096, View::copy_of(&[1; 4096])).await.expect("written");
}

#[test]
fn callers_that_come_together_share_flushes() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        for block in 0..16 {
            write(&volume, block).await;
        }
        let told = hold(&world, Op::Flush);
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let volume = volume.clone();
                rt::spawn(async move { volume.flush().await })
            })
            .collect();
        rt::time::sleep(AWHILE).await;
        assert!(callers.iter().all(|caller| !caller.is_finished()));
        told.notify_all();
        for caller in callers {
            caller.await.expect("it runs to its end").expect("flushed");
        }
        assert_eq!(flushes(&world), [2, 2], "one under way and one behind it");
    });
}

#[test]
fn a_flush_that_began_before_a_write_was_answered_does_not_count_for_it() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        let told = hold(&world, Op::Flush);
        let mut callers = Vec::new();
        for block in 0..3 {
            write(&volume, block).await;
            let volume = volume.clone();
            callers.push(rt::spawn(async move { volume.flush().await }));
            rt::time::sleep(AWHILE).await;
        }
        assert_eq!(flushes(&world), [2, 2], "the third waits for its turn");
        told.notify_all();
        rt::time::sleep(AWHILE).await;
        assert_eq!(flushes(&world), [3, 3], "neither of the others was meant for it");
        let finished: Vec<_> = callers.iter().map(rt::JoinHandle::is_finished).collect();
        assert_eq!(finished, [true, true, false]);
        told.notify_all();
        for caller in callers {
            caller.await.expect("it runs to its end").expect("flushed");
        }
    });
}

#[test]
fn what_nobody_has_been_told_of_needs_no_flush() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let volume = world.open().await;
        write(&volume, 0).await;
        volume.flush().await.expect("flushed");
        assert_eq!(flushes(&world), [1, 1]);
        let told = hold(&world, Op::Write);
        let writer = volume.clone();
        let writing = rt::spawn(async move { write(&writer, 1).await });
        rt::time::sleep(AWHILE).await;
        volume.flush().await.expect("there is nothing to flush");
        assert_eq!(flushes(&world), [1, 1]);
        told.notify_all();
        writing.await.expect("written");
        volume.flush().await.expect("flushed");
        assert_eq!(flushes(&world), [2, 2], "now there is");
    });
}

#[test]
fn callers_that_share_a_flush_do_without_a_member_together() {
    run_with(3, CHUNK, async |world| {
        world.mds.allocate(0);
        world.mds.drops.set(true);
        let volume = world.open().await;
        write(&volume, 0).await;
        world.order(Order::Kill(2)).await;
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let volume = volume.clone();
                rt::spawn(async move { volume.flush().await })
            })
            .collect();
        for caller in callers {
            let flushed = rt::time::timeout(AWHILE, caller).await.expect("soon");
            flushed.expect("it runs to its end").expect("the others have everything");
        }
        assert_eq!(world.mds.desk.count(Op::ReportMember), 1);
        // With the one that is gone in vain, then without it, and whether they have noted what it may have lost.
        assert_eq!(flushes(&world)[..2], [6, 6]);
        write(&volume, 1).await;
        volume.flush().await.expect("flushed");
        assert_eq!(flushes(&world), [7, 7, 0]);
        assert_eq!(volume.epoch(), 1);
    });
}
