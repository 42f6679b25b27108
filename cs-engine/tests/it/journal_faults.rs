//! Changes of a journal beside devices that fail, and beside replicas that are being made (C4, C10, C13).

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use cs_engine::engine::{Engine, JournalChange, JournalError, OpenError, Refusal};
use cs_engine::format::journal::{JournalHeader, RING_MIN};
use cs_engine::format::superblock::OtherJournal;
use cs_engine::format::table::Place;
use cs_engine::format::{BLOCK, CHUNK_MAX};
use rt::fs::{File, OpenOptions};
use rt::sim::control;
use rt::sim::{DiskFault, DiskFaultKind};

use crate::faults::{beside, life, refused, start, with_server};
use crate::rig::{CHUNK, Client, FILE, Rig, new_chunk, pattern};

/// Where the server's journal is at first.
const FIRST: &str = "/ssd/cs";

fn to(dir: &str) -> JournalChange {
    JournalChange { dir: Some(dir.into()), bytes: RING_MIN, ssd: true }
}

/// Waits for what the simulation is to come to, for ten seconds of its time.
async fn until_hit(name: &'static str) {
    let deadline = control::now() + Duration::from_secs(10);
    while !control::coverage().contains_key(name) {
        assert!(control::now() < deadline, "{name} does not happen");
        control::advance(Duration::from_micros(10)).await;
    }
}

/// A joiner that is being made when everything is held has its space in the tables that follow (C13).
#[test]
fn c13_replicas_that_are_made_while_tables_move_have_their_space() {
    let met = Rc::new(Cell::new(false));
    let meets = Rc::clone(&met);
    let in_time = |met: &Cell<bool>, turn: usize| turn < 6 || (turn < 60 && !met.get()) || turn % 2 == 1;
    beside(
        async move |_host| {
            until_hit("tables.allocated-again").await;
            meets.set(true);
        },
        async move |engine| {
            let made = Rc::new(Cell::new(0u64));
            let stop = Rc::new(Cell::new(false));
            let (theirs, count, told) = (Rc::clone(&engine), Rc::clone(&made), Rc::clone(&stop));
            let making = rt::spawn(async move {
                while !told.get() {
                    let chunk = CHUNK + 1 + count.get();
                    let mut new = new_chunk(chunk, 4 << 20);
                    new.joining = count.get().is_multiple_of(2);
                    theirs.create_chunk(new).await.expect("a replica");
                    count.set(count.get() + 1);
                }
            });
            let mut turn = 0;
            while in_time(&met, turn) {
                engine.change_journal(to(["/ssd/a", "/ssd/b"][turn % 2])).await.expect("another journal");
                turn += 1;
            }
            assert!(met.get(), "none was being made when tables changed");
            stop.set(true);
            making.await.expect("it ends");
            let table =
                File::open(Path::new("/ssd/b/crc.table"), OpenOptions::read()).await.expect("a table");
            // Two pages twice for each, the first chunk among them.
            let needed = (made.get() + 1) * 4 * BLOCK as u64;
            let allocated = table.allocated_bytes().await.expect("its space");
            assert!(
                made.get() > 20 && allocated >= needed,
                "{} replicas, {allocated} of {needed}",
                made.get()
            );
        },
    );
}

/// What checkpoints write into the tables is copied before requests have to wait.
#[test]
fn c13_few_slots_are_copied_while_requests_wait() {
    let gauges = beside(
        async |_host| {},
        async |engine| {
            let client = Client::new(&engine, 2);
            for number in 1..120 {
                engine.create_chunk(new_chunk(CHUNK + number, 4 * BLOCK as u64)).await.expect("a chunk");
                client.try_write(CHUNK + number, 0, &pattern(number, BLOCK)).await.expect("a write");
            }
            engine.change_journal(to("/ssd/a")).await.expect("another journal");
            for number in 1..120 {
                let read = client.try_read(CHUNK + number, 0, BLOCK as u32).await;
                assert_eq!(read, Ok(pattern(number, BLOCK)));
            }
            engine.stop().await;
        },
    );
    let last = gauges.get("tables.slots-copied-in-the-end").copied().expect("a change");
    assert!(last <= 64, "{last} slots were copied while everything waited");
}

/// A bad sector is the reason to move, and not in the way.
#[test]
fn c10_tables_with_bad_sectors_can_be_moved() {
    let ready = Rc::new(Cell::new(false));
    let bad = Rc::clone(&ready);
    beside(
        async move |host| {
            while !bad.get() {
                control::advance(Duration::from_millis(1)).await;
            }
            let page = Place::CrcPage { slot: 0, page: 0, copy: 1 }.offset();
            control::make_unreadable(host, format!("{FIRST}/crc.table"), page..page + 4096).expect("a table");
            let header = Place::Meta { slot: 0, copy: 0 }.offset();
            control::make_unreadable(host, format!("{FIRST}/meta.table"), header..header + 4096)
                .expect("a table");
            bad.set(false);
        },
        async move |engine| {
            engine.checkpoint().await.expect("a checkpoint");
            ready.set(true);
            while ready.get() {
                rt::time::sleep(Duration::from_millis(1)).await;
            }
            engine.change_journal(to("/ssd/a")).await.expect("the bad sectors stay behind");
            let client = Client::new(&engine, 2);
            assert_eq!(client.try_read(CHUNK, 0, 8192).await, Ok(pattern(1, 8192)));
            for name in ["meta.table", "crc.table"] {
                let gone = File::open(&Path::new(FIRST).join(name), OpenOptions::read()).await;
                assert!(gone.is_err(), "{name} is left");
            }
            engine.stop().await;
        },
    );
}

/// Who cannot read the old place is told so, and not that the new one is bad.
#[test]
fn c10_what_is_lost_in_the_old_place_is_not_blamed_on_the_new_one() {
    let ready = Rc::new(Cell::new(false));
    let bad = Rc::clone(&ready);
    beside(
        async move |host| {
            while !bad.get() {
                control::advance(Duration::from_millis(1)).await;
            }
            let header = Place::Meta { slot: 0, copy: 0 }.offset();
            control::make_unreadable(host, format!("{FIRST}/meta.table"), header..header + 8192)
                .expect("a table");
            bad.set(false);
        },
        async move |engine| {
            ready.set(true);
            while ready.get() {
                rt::time::sleep(Duration::from_millis(1)).await;
            }
            match engine.change_journal(to("/ssd/a")).await {
                Err(JournalError::Old { dir, .. }) => assert_eq!(dir, Path::new(FIRST)),
                other => panic!("{other:?}"),
            }
            let client = Client::new(&engine, 2);
            client.write(0, &pattern(7, 4096)).await;
            assert_eq!(client.read(0, 4096).await, pattern(7, 4096), "the old one goes on");
            assert!(File::open(Path::new("/ssd/a/meta.table"), OpenOptions::read()).await.is_err());
        },
    );
}

/// A new device that fails is given up; what waited goes on in the old journal.
#[test]
fn c10_a_new_place_that_fails_changes_nothing() {
    for skip in 0..4 {
        beside(
            async move |host| {
                until_hit("engine.journal-silent").await;
                let fault = DiskFault::new(DiskFaultKind::WriteError).on("/ssd/a").after(skip);
                control::disk_fault(host, FIRST, fault);
            },
            async move |engine| {
                let client = Rc::new(Client::new(&engine, 2));
                let (theirs, writing) = (Rc::clone(&client), Rc::new(Cell::new(true)));
                let told = Rc::clone(&writing);
                let writer = rt::spawn(async move {
                    while told.get() {
                        theirs.write(0, &pattern(7, 4096)).await;
                    }
                });
                let changed = engine.change_journal(to("/ssd/a")).await;
                writing.set(false);
                writer.await.expect("it ends");
                // The last steps may all be done before the fault strikes.
                let expected = if changed.is_ok() { "/ssd/a" } else { FIRST };
                assert!(skip > 0 || matches!(changed, Err(JournalError::Io { .. })), "{changed:?}");
                assert_eq!(engine.superblock().journal_dir, Some(PathBuf::from(expected)));
                if changed.is_err() {
                    assert_eq!(engine.superblock().other_journal, OtherJournal::None);
                    assert!(File::open(Path::new("/ssd/a/journal.next"), OpenOptions::read()).await.is_err());
                    client.write(4096, &pattern(8, 4096)).await;
                    client.flush().await;
                    assert_eq!(client.read(0, 8192).await, [pattern(7, 4096), pattern(8, 4096)].concat());
                }
            },
        );
    }
}

/// A server that fails while everything is held ends with its old journal, and answers nothing.
#[test]
fn c4_a_server_that_fails_at_the_end_of_a_change_does_not_go_on() {
    let broken = Rc::new(Cell::new(false));
    let breaks = Rc::clone(&broken);
    beside(
        async move |host| {
            until_hit("engine.journal-silent").await;
            control::disk_fault(host, "/cs", DiskFault::new(DiskFaultKind::WriteError).on("/cs/superblock"));
            // The new journal takes its time meanwhile.
            let stall = DiskFault::new(DiskFaultKind::Stall(Duration::from_millis(50))).on("/ssd/a");
            control::disk_fault(host, FIRST, stall);
            breaks.set(true);
        },
        async move |engine| {
            let theirs = Rc::clone(&engine);
            // As a registration does, which needs no journal.
            let noting = rt::spawn(async move {
                while !broken.get() {
                    rt::time::sleep(Duration::from_micros(10)).await;
                }
                theirs.update_superblock(|superblock| superblock.nonce_offered = [9; 16]).await
            });
            let changed = engine.change_journal(to("/ssd/a")).await;
            assert!(noting.await.expect("it ends").is_err());
            let refused = Client::new(&engine, 2).try_write(CHUNK, 0, &pattern(2, 4096)).await;
            assert_eq!(refused, Err(Refusal::DeviceFailed));
            assert!(changed.is_err(), "{changed:?}");
            assert!(engine.has_failed() && !engine.has_lost_journal());
            assert_eq!(engine.superblock().journal_dir, Some(PathBuf::from(FIRST)));
        },
    );
}

/// As soon as the new journal counts, each copy of its header says where the state is.
#[test]
fn c8_one_good_header_of_a_new_journal_is_enough() {
    // Killed when the superblock has been written; then the newer copy rots.
    with_server(async move |host| {
        life(host, async |_| ()).await;
        let process = start(host, async |engine| {
            engine.fence(FILE, 7).await.expect("a fence");
            let _changed = engine.change_journal(to("/ssd/a")).await;
            std::future::pending::<()>().await;
        });
        until_hit("engine.journal-changed").await;
        control::kill(process.id());
        let name = if control::visible_content(host, "/ssd/a/journal", 0, 1).is_ok() {
            "journal"
        } else {
            "journal.next"
        };
        let path = format!("/ssd/a/{name}");
        let headers = [0, 4096].map(|at| {
            let bytes = control::visible_content(host, &path, at, BLOCK).expect("a journal");
            JournalHeader::decode(bytes.first_chunk().expect("a block")).expect("a good header")
        });
        assert_eq!(headers[0].tail, headers[1].tail, "{headers:?}");
        assert!(
            headers[0].durable.max(headers[1].durable) > headers[0].tail,
            "the state is durable: {headers:?}"
        );
        let newer = u64::from(headers[1].sequence > headers[0].sequence) * 4096;
        assert!(control::rot(host, &path, newer).expect("a journal"));
        life(host, async |engine| {
            let client = Client::new(&engine, 6);
            let refused = client.try_write(CHUNK, 0, &pattern(1, 4096)).await;
            assert_eq!(refused, Err(Refusal::StaleEpoch { epoch: 6, fence: 7 }), "the fence is there");
        })
        .await;
    });
}

/// One bad copy of a header, of the superblock, or of the journal's header stops no start.
#[test]
fn c8_an_unreadable_copy_stops_no_start() {
    with_server(async |host| {
        life(host, async |engine| engine.stop().await).await;
        for copy in [0, 1] {
            let header = Place::Meta { slot: 0, copy }.offset();
            let place =
                |path: String, at: u64| control::make_unreadable(host, path, at..at + 4096).expect("a file");
            place(format!("{FIRST}/meta.table"), header);
            place(format!("{FIRST}/journal"), u64::from(copy) * 4096);
            place("/cs/superblock".into(), u64::from(copy) * 4096);
            life(host, async |engine| {
                let client = Client::new(&engine, 2);
                assert_eq!(client.try_read(CHUNK, 0, 8192).await, Ok(pattern(1, 8192)));
                client.write(0, &pattern(1, 8192)).await;
                // Writes the headers anew.
                assert!(engine.verify_next().await.expect("it is verified").is_some());
                engine.stop().await;
            })
            .await;
        }
    });
}

/// With no copy of a header the start would take its chunk for lost, and forget what the journal has of it, although the next start
/// may read it again.
#[test]
fn c4_an_unreadable_header_stops_the_start() {
    with_server(async |host| {
        life(host, async |engine| engine.stop().await).await;
        for copy in [0, 1] {
            let at = Place::Meta { slot: 0, copy }.offset();
            control::make_unreadable(host, format!("{FIRST}/meta.table"), at..at + 4096).expect("a file");
        }
        let (error, _) = refused(host).await;
        assert!(matches!(error, OpenError::Tables { .. }), "{error}");
        assert!(error.to_string().contains("slot 0"), "{error}");
    });
}

/// A write whose middle block cannot be read in the journal any more, and what is looked at then.
fn with_an_unreadable_payload(flushes: bool, look: impl AsyncFn(&Rc<Engine>, &Client) + 'static) {
    let ready = Rc::new(Cell::new(false));
    let bad = Rc::clone(&ready);
    beside(
        async move |host| {
            while !bad.get() {
                control::advance(Duration::from_millis(1)).await;
            }
            // Everything that was ever written to the ring, but not what follows.
            let wanted = pattern(5, 3 * BLOCK)[BLOCK..2 * BLOCK].to_vec();
            let ring =
                control::visible_content(host, format!("{FIRST}/journal"), 0, 4 << 20).expect("a journal");
            let at = ring.chunks(BLOCK).position(|block| block == wanted).expect("the payload") * BLOCK;
            let range = at as u64..at as u64 + 4096;
            control::make_unreadable(host, format!("{FIRST}/journal"), range).expect("a journal");
            bad.set(false);
        },
        async move |engine| {
            let client = Client::new(&engine, 2);
            client.write(16384, &pattern(5, 3 * BLOCK)).await;
            if flushes {
                client.flush().await;
                // The server hears with this that what was flushed is stable.
                client.write(65536, &pattern(7, BLOCK)).await;
            }
            ready.set(true);
            while ready.get() {
                rt::time::sleep(Duration::from_millis(1)).await;
            }
            look(&engine, &client).await;
            engine.stop().await;
        },
    );
}

/// A sector of the journal that cannot be read when its content is moved costs that block, and nothing else.
#[test]
fn c8_an_unreadable_payload_costs_its_block() {
    with_an_unreadable_payload(true, async |engine, client| {
        engine.checkpoint().await.expect("the rest is moved");
        assert!(!engine.has_failed());
        let content = pattern(5, 3 * BLOCK);
        for (block, at) in [(4, 0), (6, 2)] {
            let read = client.try_read(CHUNK, block * 4096, 4096).await;
            assert_eq!(read, Ok(content[at * BLOCK..(at + 1) * BLOCK].to_vec()));
        }
        assert_eq!(client.try_read(CHUNK, 5 * 4096, 4096).await, Err(Refusal::Corrupt { block: 5 }));
        assert_eq!(engine.damage().blocks(CHUNK).into_keys().collect::<Vec<_>>(), [5]);
        client.write(5 * 4096, &pattern(6, BLOCK)).await;
        assert_eq!(client.read(5 * 4096, 4096).await, pattern(6, BLOCK));
    });
}

/// As long as nobody has flushed it a flush would have to say that it is there.
#[test]
fn c4_an_unreadable_payload_that_was_not_flushed_fails_the_server() {
    with_an_unreadable_payload(false, async |engine, _| {
        assert_eq!(engine.checkpoint().await, Err(Refusal::DeviceFailed));
        assert!(engine.has_failed() && engine.has_lost_journal());
        assert_eq!(engine.flush().await, Err(Refusal::DeviceFailed));
    });
}

fn outside(dir: &Path) -> JournalChange {
    JournalChange { dir: Some(dir.to_owned()), bytes: RING_MIN, ssd: true }
}

/// The superblock can name one place with files of an earlier change: it is not forgotten for another one.
#[test]
fn c10_what_an_earlier_change_has_left_is_not_forgotten() {
    let rig = Rig::new();
    let beside = rig.path.parent().expect("a directory above").to_owned();
    let (left, wanted) = (beside.join("left"), beside.join("wanted"));
    std::fs::create_dir(&left).expect("a directory");
    let journal = rig.path.join("journal");
    rig.life(async move |engine: Rc<Engine>| {
        // A journal of a later state of this very server: nobody may remove that (C10).
        std::fs::copy(&journal, left.join("journal")).expect("a copy");
        let other = left.clone();
        engine
            .update_superblock(move |superblock| {
                superblock.journal_generation += 1;
                superblock.other_journal = OtherJournal::At(other);
            })
            .await
            .expect("a superblock");
        engine
            .update_superblock(|superblock| superblock.journal_generation -= 1)
            .await
            .expect("a superblock");
        let lock = std::fs::File::open(left.join("journal")).expect("it is there");
        lock.lock().expect("nobody has it");
        match engine.change_journal(outside(&wanted)).await {
            Err(JournalError::Left(dir)) => assert_eq!(dir, left),
            other => panic!("{other:?}"),
        }
        assert_eq!(engine.superblock().other_journal, OtherJournal::At(left.clone()), "it is still known");
        drop(lock);
        engine.change_journal(outside(&wanted)).await.expect("it could be removed");
        assert!(!left.join("journal").exists());
    });
}

/// A journal that has not got its name yet and is damaged stays for whoever wants to look at it.
#[test]
fn c10_a_damaged_journal_is_not_removed_as_a_remnant() {
    let rig = Rig::new();
    rig.life(async |engine| {
        Client::with_chunk(&engine, 1, CHUNK_MAX).await.write(0, &pattern(1, BLOCK)).await;
        engine.stop().await;
    });
    let (plain, next) = (rig.path.join("journal"), rig.path.join("journal.next"));
    std::fs::rename(&plain, &next).expect("a journal");
    let good = std::fs::read(&next).expect("a journal");
    let mut bad = good.clone();
    bad[..8192].fill(0x5a);
    std::fs::write(&next, &bad).expect("a journal");
    match rig.try_life(async |_| ()) {
        Err(OpenError::Journal { path, .. }) => assert_eq!(path, next),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read(&next).expect("it is still there").len(), bad.len());
    std::fs::write(&next, &good).expect("a journal");
    rig.life(async |engine| {
        assert_eq!(Client::new(&engine, 2).read(0, BLOCK as u32).await, pattern(1, BLOCK));
    });
}
