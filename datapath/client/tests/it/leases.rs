//! Leases are given back, whatever happens on the way.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rt::buf::View;
use rt::sync::Notify;
use wire::lease::{OpenReply, Release};
use wire::{Op, Status};

use crate::client::{OpenError, OpenOptions, Volume};
use crate::world::{CHUNK, FILE, Turn, World, run};

/// Longer than a request and a pause take.
const LATER: Duration = Duration::from_secs(15);

/// Answers no request of this kind until the cell says so.
fn deaf(world: &World, op: Op) -> Rc<Cell<bool>> {
    let hears = Rc::new(Cell::new(false));
    let heard = Rc::clone(&hears);
    world
        .mds
        .desk
        .script(move |asked, _| if asked == op && !heard.get() { Turn::Silence } else { Turn::Usual });
    hears
}

#[test]
fn a_lease_is_given_back_until_that_is_heard() {
    run(CHUNK, async |world| {
        let volume = world.open().await;
        let hears = deaf(&world, Op::Release);
        volume.write(0, View::copy_of(&[1; 4096])).await.expect("written");
        volume.close().await.expect("flushed");
        drop(volume);
        rt::time::sleep(LATER).await;
        assert_eq!(world.mds.held.get(), Some(1), "nobody has heard it");
        hears.set(true);
        rt::time::sleep(LATER).await;
        assert_eq!(world.mds.held.get(), None);
        let asked = world.mds.desk.asked::<Release>();
        assert!(asked.iter().all(|release| release.clean && release.epoch == 1), "{asked:?}");
        rt::time::sleep(LATER).await;
        assert_eq!(world.mds.desk.count(Op::Release), asked.len(), "once heard it is not said again");
    });
}

#[test]
fn a_lease_that_came_with_an_answer_that_makes_no_sense_is_given_back() {
    run(CHUNK, async |world| {
        world.mds.held.set(Some(9));
        let reply =
            OpenReply { file_id: FILE, epoch: 9, size: CHUNK, chunk_size: 100, ..OpenReply::default() };
        let generation = world.session.generation();
        let opened = Volume::from_reply(&world.session, &world.servers, generation, &reply, true);
        assert!(matches!(opened, Err(OpenError::Answer(_))), "{opened:?}");
        rt::time::sleep(LATER).await;
        assert_eq!(world.mds.held.get(), None);
    });
}

#[test]
fn a_second_grant_of_an_open_file_is_given_back_when_the_file_is_closed() {
    run(CHUNK, async |world| {
        let volume = world.open().await;
        world.mds.held.set(Some(2));
        let reply =
            OpenReply { file_id: FILE, epoch: 2, size: CHUNK, chunk_size: CHUNK, ..OpenReply::default() };
        let generation = world.session.generation();
        let opened = Volume::from_reply(&world.session, &world.servers, generation, &reply, true);
        assert!(matches!(opened, Err(OpenError::AlreadyOpen)), "{opened:?}");
        rt::time::sleep(LATER).await;
        assert_eq!(world.mds.held.get(), Some(2), "the volume may have gone on under it");
        volume.close().await.expect("nothing to flush");
        rt::time::sleep(LATER).await;
        assert_eq!(world.mds.held.get(), None);
    });
}

#[test]
fn c1_what_is_about_to_be_given_back_is_not_taken_for_granted() {
    run(CHUNK, async |world| {
        world.mds.shared.set(true);
        let options = OpenOptions { write: false, patience: Duration::from_secs(60) };
        let open =
            async || Volume::open(&world.session, &world.servers, "/file", &options).await.expect("opened");
        let first = open().await;
        let hears = deaf(&world, Op::Release);
        first.close().await.expect("nothing to flush");
        drop(first);
        // Granted anew at the same epoch, while the release is repeated.
        rt::spawn(async move {
            rt::time::sleep(LATER).await;
            hears.set(true);
        });
        let second = open().await;
        rt::time::sleep(LATER).await;
        assert_eq!(world.mds.held.get(), Some(second.epoch()), "it holds what it works under");
        second.close().await.expect("nothing to flush");
    });
}

#[test]
fn c1_an_answer_that_comes_after_the_end_takes_nothing_from_the_next_opener() {
    run(CHUNK, async |world| {
        world.mds.allocate(0);
        let options = OpenOptions { write: false, patience: Duration::from_secs(60) };
        let open =
            async || Volume::open(&world.session, &world.servers, "/file", &options).await.expect("opened");
        let first = open().await;
        let (gate, is_first) = (Rc::new(Notify::new()), Cell::new(true));
        let told = Rc::clone(&gate);
        world.mds.desk.script(move |op, _| match op {
            Op::Open if is_first.replace(false) => Turn::Wait(Rc::clone(&told)),
            _ => Turn::Usual,
        });
        world.cs.iter().for_each(|cs| cs.desk.script(|_, _| Turn::refuse(Status::StaleEpoch)));
        let reader = first.clone();
        let reading = rt::spawn(async move { reader.read(0, 4096).await });
        rt::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.mds.desk.count(Op::Open), 2, "it is being opened again");
        reading.abort();
        first.close().await.expect("nothing to flush");
        world.cs.iter().for_each(|cs| cs.desk.script(|_, _| Turn::Usual));
        let second = open().await;
        // As the metadata server answers whoever holds the file already.
        world.mds.shared.set(true);
        gate.notify_all();
        rt::time::sleep(LATER).await;
        assert_eq!(world.mds.held.get(), Some(second.epoch()), "it holds what it works under");
        second.read(0, 4096).await.expect("it reads on");
        second.close().await.expect("nothing to flush");
        rt::time::sleep(LATER).await;
        assert_eq!(world.mds.held.get(), None);
    });
}

#[test]
fn a_refusal_for_good_is_not_argued_with() {
    run(CHUNK, async |world| {
        let volume = world.open().await;
        world.mds.desk.script(|op, _| match op {
            Op::Release => Turn::refuse(Status::Invalid),
            _ => Turn::Usual,
        });
        volume.close().await.expect("nothing to flush");
        rt::time::sleep(LATER).await;
        assert_eq!(world.mds.desk.count(Op::Release), 1);
    });
}
