//! Another journal for a server at work (C10): what it had stays, what was left behind goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use cs_engine::engine::{Engine, JournalChange, JournalError, OpenError, Refusal};
use cs_engine::format::journal::RING_MIN;

use crate::check::checked;
use crate::install::{joiner, member};
use crate::rig::{CHUNK, Client, MIB, Rig, pattern};

const SIZE: u64 = 8 << 20;

fn outside(dir: &Path, bytes: u64) -> JournalChange {
    JournalChange { dir: Some(dir.to_owned()), bytes, ssd: true }
}

fn inside(bytes: u64) -> JournalChange {
    JournalChange { dir: None, bytes, ssd: false }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

fn is_clean(path: &Path) {
    let report = checked(path);
    assert!(report.is_clean(), "{report}");
}

const META: [&str; 3] = ["crc.table", "journal", "meta.table"];

/// Writes while the journal changes; everything is there afterwards, also after a kill.
fn change_under_load(rig: &Rig, seed: u64, change: JournalChange) {
    rig.life(async move |engine| {
        let client = Rc::new(Client::new(&engine, seed));
        let stop = Rc::new(std::cell::Cell::new(false));
        let (theirs, told) = (Rc::clone(&client), Rc::clone(&stop));
        let writing = rt::spawn(async move {
            let mut count: u32 = 0;
            while !told.get() || count < 50 {
                let offset = MIB + count % 64 * 5000;
                theirs.write(offset, &pattern(seed + u64::from(count % 64), 5000)).await;
                if count.is_multiple_of(10) {
                    theirs.flush().await;
                }
                count += 1;
            }
            count
        });
        assert!(engine.change_journal(change.clone()).await.expect("another journal"));
        assert!(!engine.change_journal(change).await.expect("the same again"), "there is nothing to do");
        stop.set(true);
        assert!(writing.await.expect("it ends") >= 50);
        client.write(0, &pattern(seed, 4096)).await;
    });
    is_clean(&rig.path);
    rig.life(async move |engine| {
        let client = Client::new(&engine, seed + 1);
        assert_eq!(client.read(0, 4096).await, pattern(seed, 4096), "after a kill");
        for number in 0..50 {
            assert_eq!(client.read(MIB + number * 5000, 5000).await, pattern(seed + u64::from(number), 5000));
        }
        assert_eq!(client.read(6 * MIB, MIB).await, pattern(1, MIB as usize), "what was there before");
    });
}

#[test]
fn journals_are_added_moved_resized_and_destroyed_under_load() {
    let rig = Rig::new();
    let beside = rig.path.parent().unwrap().to_owned();
    let (one, two) = (beside.join("ssd/one"), beside.join("ssd/two"));
    rig.life(async |engine| {
        let client = Client::with_chunk(&engine, 1, SIZE).await;
        client.write(6 * MIB, &pattern(1, MIB as usize)).await;
        engine.stop().await;
    });
    change_under_load(&rig, 100, outside(&one, RING_MIN));
    assert_eq!(names(&one), META);
    assert_eq!(names(&rig.path), ["chunks", "superblock"], "nothing is left beside the chunks");
    change_under_load(&rig, 200, outside(&one, 2 * RING_MIN));
    assert_eq!(names(&one), META);
    assert_eq!(fs::metadata(one.join("journal")).unwrap().len(), 2 * RING_MIN + 8192);
    change_under_load(&rig, 300, outside(&two, RING_MIN));
    assert_eq!((names(&one), names(&two)), (vec![], META.map(str::to_owned).to_vec()));
    change_under_load(&rig, 400, inside(RING_MIN + 4096));
    assert_eq!(names(&two), Vec::<String>::new());
    assert_eq!(names(&rig.path), ["chunks", "crc.table", "journal", "meta.table", "superblock"]);
}

#[test]
fn what_cannot_be_a_journal_changes_nothing() {
    let rig = Rig::new();
    let beside = rig.path.parent().unwrap().to_owned();
    let taken = beside.join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("journal"), "of somebody else").unwrap();
    let file = beside.join("file");
    fs::write(&file, "").unwrap();
    let before = names(&rig.path);
    rig.life(async move |engine| {
        let client = Client::with_chunk(&engine, 1, SIZE).await;
        let superblock = engine.superblock();
        let refused = async |change| engine.change_journal(change).await.expect_err("refused");
        assert!(matches!(refused(inside(4096)).await, JournalError::TooSmall(4096)));
        assert!(matches!(refused(inside(RING_MIN + 1)).await, JournalError::Uneven(_)));
        assert!(matches!(refused(outside(&taken, RING_MIN)).await, JournalError::NotEmpty(_)));
        assert!(matches!(refused(outside(&file, RING_MIN)).await, JournalError::Io { .. }));
        assert!(matches!(refused(inside(1 << 50)).await, JournalError::NoSpace { .. }));
        let long = PathBuf::from(format!("/{}", "x".repeat(2000)));
        assert!(matches!(refused(outside(&long, RING_MIN)).await, JournalError::Setting(_)));
        assert_eq!(engine.superblock(), superblock, "nothing was written");
        let theirs = Rc::clone(&engine);
        let large = inside(4 * RING_MIN);
        let changing = rt::spawn(async move { theirs.change_journal(large).await });
        rt::yield_now().await;
        assert!(matches!(refused(inside(RING_MIN)).await, JournalError::Busy));
        assert!(changing.await.unwrap().expect("the first one goes on"));
        client.write(0, &pattern(1, 4096)).await;
        engine.stop().await;
        assert!(matches!(refused(inside(RING_MIN)).await, JournalError::Engine(Refusal::Stopping)));
        assert_eq!(fs::read(taken.join("journal")).unwrap(), b"of somebody else");
    });
    assert_eq!(names(&rig.path), before);
    is_clean(&rig.path);
}

/// Orders wait for writes, writes for the journal, and the journal for nobody.
#[test]
fn replicas_join_while_journals_change() {
    let rig = Rig::new();
    rig.life(async |engine| {
        Client::with_chunk(&engine, 1, SIZE).await;
        let mut version = 1;
        for turn in 0..12 {
            let change = inside(RING_MIN + (1 + turn % 2) * 4096);
            let theirs = Rc::clone(&engine);
            let changing = rt::spawn(async move { theirs.change_journal(change).await });
            while !changing.is_finished() {
                let order = joiner(version, version + 1, turn % 3 == 0);
                engine.install(CHUNK, order).await.expect("it joins");
                version += 1;
                let other = 0x100 + version;
                let new = crate::rig::new_chunk(other, 1 << 20);
                engine.create_chunk(new).await.expect("another chunk");
                engine.install(other, member(1, 2, true)).await.expect("a later version");
                engine.delete_chunk(other, 2).await.expect("it goes");
            }
            assert!(changing.await.unwrap().expect("another journal"));
        }
    });
    is_clean(&rig.path);
}

/// A crash leaves the old journal or the new one, and files of which nobody knows any more but the superblock.
#[test]
fn what_a_crash_leaves_is_put_in_order() {
    let rig = Rig::new();
    let one = rig.path.parent().unwrap().join("one");
    let to = one.clone();
    rig.life(async move |engine| {
        let client = Client::with_chunk(&engine, 1, SIZE).await;
        client.write(0, &pattern(1, 4096)).await;
        engine.change_journal(outside(&to, RING_MIN)).await.expect("a journal");
    });
    // As if the new one had not been given its name.
    fs::rename(one.join("journal"), one.join("journal.next")).unwrap();
    is_clean(&rig.path);
    assert!(one.join("journal.next").exists(), "a check changes nothing");
    let reads = async |engine: Rc<Engine>| {
        assert_eq!(Client::new(&engine, 2).read(0, 4096).await, pattern(1, 4096));
    };
    rig.life(reads);
    assert_eq!(names(&one), META);
    // A journal that was made and never used.
    fs::copy(one.join("journal"), one.join("journal.next")).unwrap();
    let other = Rig::with(|superblock, _| superblock.store_uuid = [9; 16]);
    is_clean(&rig.path);
    rig.life(reads);
    assert_eq!(names(&one), META);
    // One of another server is none of ours.
    fs::copy(other.path.join("journal"), one.join("journal.next")).unwrap();
    rig.life(reads);
    assert_eq!(names(&one), ["crc.table", "journal", "journal.next", "meta.table"]);
    fs::remove_file(one.join("journal.next")).unwrap();
    // Both lost.
    fs::rename(one.join("journal"), one.join("hidden")).unwrap();
    assert!(matches!(rig.try_life(reads), Err(OpenError::JournalMissing(_))));
    fs::rename(one.join("hidden"), one.join("journal")).unwrap();
    rig.life(reads);
}
