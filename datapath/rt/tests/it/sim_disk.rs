//! What survives a power cut on a simulated disk, and what does not.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use datapath_rt as rt;
use rt::buf::{Buf, View};
use rt::fs::{Allocation, File, OpenOptions};
use rt::sim::control::{self, PeerView};
use rt::sim::{DiskOptions, HostOptions, Latency};

use crate::sim_world::{blocks, content, direct, durable, forever, host_with, on, world};

fn tearing() -> DiskOptions {
    DiskOptions { atomic_unit: 512, ..DiskOptions::default() }
}

/// Runs `before` for a second, cuts the power, and gives what `after` finds; over many seeds.
fn outcomes<B, A, T>(disk: &DiskOptions, before: fn() -> B, after: fn() -> A) -> BTreeSet<T>
where
    B: Future + 'static,
    A: Future<Output = T> + 'static,
    T: Ord + 'static,
{
    let run = |seed| {
        let disk = disk.clone();
        world(seed, async move {
            let host = host_with(disk);
            let _process = forever(host, before());
            control::advance(Duration::from_secs(1)).await;
            control::power_cut(&[host], PeerView::Silence);
            control::power_on(host);
            on(host, after()).await
        })
    };
    (0..150).map(run).collect()
}

/// The first byte of each block, and whether every block is of one byte.
async fn summary(path: &str) -> (Vec<u8>, bool) {
    let all = content(path).await;
    let whole = all.chunks(4096).all(|block| block.iter().all(|byte| *byte == block[0]));
    (all.chunks(4096).map(|block| block[0]).collect(), whole)
}

fn firsts(all: &BTreeSet<(Vec<u8>, bool)>) -> BTreeSet<Vec<u8>> {
    all.iter().map(|(firsts, _)| firsts.clone()).collect()
}

#[test]
fn what_was_flushed_stays() {
    let seen = outcomes(
        &tearing(),
        || async {
            let file = durable("/a", 1, 4).await;
            file.write_all_at(blocks(2, 2), 4096).await.unwrap();
            file.sync_data().await.unwrap();
        },
        || summary("/a"),
    );
    assert_eq!(seen, BTreeSet::from([(vec![1, 2, 2, 1], true)]));
}

#[test]
fn an_unflushed_write_is_kept_lost_or_torn() {
    let before = || async {
        let file = durable("/a", 1, 3).await;
        file.write_all_at(blocks(2, 3), 0).await.unwrap();
    };
    let seen = outcomes(&DiskOptions::default(), before, || summary("/a"));
    assert!(seen.iter().all(|(_, whole)| *whole), "a block of 4096 bytes is atomic here");
    let firsts = firsts(&seen);
    for pattern in [[1, 1, 1], [2, 2, 2], [2, 1, 1], [1, 1, 2], [2, 1, 2]] {
        assert!(firsts.contains(pattern.as_slice()), "{pattern:?} never happened: {firsts:?}");
    }
    let torn = outcomes(&tearing(), before, || summary("/a"));
    assert!(torn.iter().any(|(_, whole)| !whole), "no block was torn inside");
}

#[test]
fn unflushed_writes_survive_independently_of_their_order() {
    let seen = outcomes(
        &DiskOptions::default(),
        || async {
            let file = durable("/a", 0, 2).await;
            file.write_all_at(blocks(1, 1), 0).await.unwrap();
            file.write_all_at(blocks(1, 1), 4096).await.unwrap();
            file.write_all_at(blocks(2, 1), 4096).await.unwrap();
        },
        || summary("/a"),
    );
    let all = (0..2).flat_map(|a| (0..3).map(move |b| vec![a, b])).collect();
    assert_eq!(firsts(&seen), all);
}

#[test]
fn a_flush_through_any_file_covers_writes_in_place() {
    let seen = outcomes(
        &tearing(),
        || async {
            let (a, b) = (durable("/a", 1, 2).await, durable("/b", 1, 1).await);
            a.write_all_at(blocks(2, 1), 0).await.unwrap();
            b.sync_data().await.unwrap();
            a.write_all_at(blocks(3, 1), 4096).await.unwrap();
        },
        || summary("/a"),
    );
    assert_eq!(
        firsts(&seen).into_iter().map(|firsts| firsts[0]).collect::<BTreeSet<_>>(),
        BTreeSet::from([2])
    );
    assert!(firsts(&seen).contains(&vec![2, 1]));
}

#[test]
fn another_disk_s_flush_covers_nothing() {
    let survivors: BTreeSet<u8> = (0..60)
        .map(|seed| {
            world(seed, async {
                let mut options = HostOptions::new("two disks");
                options.disks.push(("/ssd".into(), DiskOptions::default()));
                let host = control::add_host(options);
                let _process = forever(host, async {
                    let a = durable("/a", 1, 1).await;
                    let b = direct("/ssd/b").await;
                    a.write_all_at(blocks(2, 1), 0).await.unwrap();
                    b.sync_data().await.unwrap();
                    let moved = rt::fs::rename(Path::new("/ssd/b"), Path::new("/b")).await;
                    assert_eq!(moved.unwrap_err().kind(), std::io::ErrorKind::CrossesDevices);
                });
                control::advance(Duration::from_secs(1)).await;
                control::power_cut(&[host], PeerView::Silence);
                control::power_on(host);
                on(host, summary("/a")).await.0[0]
            })
        })
        .collect();
    assert_eq!(survivors, BTreeSet::from([1, 2]));
}

#[test]
fn an_allocating_write_needs_a_sync_of_its_own_file() {
    let seen = outcomes(
        &tearing(),
        || async {
            let (a, b) = (durable("/a", 1, 1).await, durable("/b", 1, 1).await);
            a.write_all_at(blocks(2, 2), 4096).await.unwrap();
            b.sync_data().await.unwrap();
        },
        || summary("/a"),
    );
    // Its size, its allocation and its data survive together or not at all, and never torn.
    assert_eq!(seen, BTreeSet::from([(vec![1], true), (vec![1, 2, 2], true)]));
    let synced = outcomes(
        &tearing(),
        || async {
            let a = durable("/a", 1, 1).await;
            a.write_all_at(blocks(2, 2), 4096).await.unwrap();
            a.sync_data().await.unwrap();
        },
        || summary("/a"),
    );
    assert_eq!(synced, BTreeSet::from([(vec![1, 2, 2], true)]));
}

#[test]
fn a_reserved_block_is_not_committed_until_written_and_synced() {
    let before = || async {
        let (a, b) = (direct("/a").await, durable("/b", 1, 1).await);
        a.allocate(Allocation::Extend, 0, 8192).await.unwrap();
        a.sync_data().await.unwrap();
        rt::fs::sync_dir(Path::new("/")).await.unwrap();
        a.write_all_at(blocks(2, 1), 0).await.unwrap();
        b.sync_data().await.unwrap();
    };
    let seen = outcomes(&tearing(), before, || summary("/a"));
    assert_eq!(seen, BTreeSet::from([(vec![0, 0], true), (vec![2, 0], true)]));
}

#[test]
fn a_write_that_completes_during_a_sync_is_covered_by_the_next_one() {
    let slow =
        DiskOptions { flush: Latency::micros(1000, 1000), write: Latency::micros(10, 20), ..tearing() };
    let before = || async {
        let a = Rc::new(durable("/a", 1, 2).await);
        let theirs = Rc::clone(&a);
        let sync = rt::spawn(async move { theirs.sync_data().await });
        rt::time::sleep(Duration::from_micros(50)).await;
        a.write_all_at(blocks(2, 1), 0).await.unwrap();
        sync.await.unwrap().unwrap();
    };
    let seen = firsts(&outcomes(&slow, before, || summary("/a")));
    assert!(
        seen.iter().any(|firsts| firsts[0] == 1),
        "the sync covered a write that completed after it was issued"
    );
    let committed = outcomes(
        &slow,
        || async {
            let (a, b) = (Rc::new(direct("/a").await), durable("/b", 1, 1).await);
            a.write_all_at(blocks(1, 1), 0).await.unwrap();
            let theirs = Rc::clone(&a);
            let sync = rt::spawn(async move { theirs.sync_data().await });
            rt::time::sleep(Duration::from_micros(50)).await;
            // The allocation is committed by the sync under way; a later flush of any file covers this.
            a.write_all_at(blocks(2, 1), 0).await.unwrap();
            sync.await.unwrap().unwrap();
            b.sync_data().await.unwrap();
            rt::fs::sync_dir(Path::new("/")).await.unwrap();
        },
        || summary("/a"),
    );
    assert_eq!(firsts(&committed), BTreeSet::from([vec![2]]));
}

#[test]
fn punching_and_zeroing_need_a_sync_of_their_file() {
    let before = || async {
        let (a, b) = (durable("/a", 1, 4).await, durable("/b", 1, 1).await);
        a.allocate(Allocation::Punch, 4096, 4096).await.unwrap();
        a.allocate(Allocation::Zero, 8192, 4096).await.unwrap();
        b.sync_data().await.unwrap();
    };
    let seen = firsts(&outcomes(&tearing(), before, || summary("/a")));
    assert_eq!(
        seen,
        BTreeSet::from([vec![1, 1, 1, 1], vec![1, 0, 1, 1], vec![1, 0, 0, 1]]),
        "up to a point in their order"
    );
    let synced = outcomes(
        &tearing(),
        || async {
            let a = durable("/a", 1, 2).await;
            a.allocate(Allocation::Punch, 4096, 4096).await.unwrap();
            a.write_all_at(blocks(2, 1), 4096).await.unwrap();
            a.sync_data().await.unwrap();
        },
        || summary("/a"),
    );
    assert_eq!(firsts(&synced), BTreeSet::from([vec![1, 2]]));
}

#[test]
fn a_write_to_a_lost_allocation_does_not_land_on_the_old_one() {
    let seen = outcomes(
        &tearing(),
        || async {
            let a = durable("/a", 1, 1).await;
            a.allocate(Allocation::Punch, 0, 4096).await.unwrap();
            a.write_all_at(blocks(2, 1), 0).await.unwrap();
            a.write_all_at(blocks(3, 1).slice(..512), 0).await.unwrap();
        },
        || async {
            let all = content("/a").await;
            (all[0], all[4095])
        },
    );
    assert_eq!(seen, BTreeSet::from([(1, 1), (0, 0), (2, 2), (3, 2)]));
}

#[test]
fn rewriting_a_block_often_does_not_take_it_out_of_a_flush() {
    let slow =
        DiskOptions { flush: Latency::micros(2000, 2000), write: Latency::micros(10, 20), ..tearing() };
    let seen = outcomes(
        &slow,
        || async {
            let a = Rc::new(durable("/a", 0, 1).await);
            a.write_all_at(blocks(1, 1), 0).await.unwrap();
            let theirs = Rc::clone(&a);
            let sync = rt::spawn(async move { theirs.sync_data().await });
            rt::time::sleep(Duration::from_micros(50)).await;
            for byte in 2..22 {
                a.write_all_at(blocks(byte, 1).slice(..512), 0).await.unwrap();
            }
            sync.await.unwrap().unwrap();
        },
        || async {
            let all = content("/a").await;
            (all[0] > 0, all[4095])
        },
    );
    assert_eq!(seen, BTreeSet::from([(true, 1)]));
}

#[test]
fn data_in_the_page_cache_needs_a_sync_of_its_file() {
    let seen = outcomes(
        &DiskOptions::default(),
        || async {
            let _a = durable("/a", 1, 1).await;
            let b = durable("/b", 1, 1).await;
            let a = File::open(Path::new("/a"), OpenOptions { write: true, ..OpenOptions::read() })
                .await
                .unwrap();
            a.write_all_at(View::copy_of(&[2; 4096]), 0).await.unwrap();
            b.sync_data().await.unwrap();
        },
        || summary("/a"),
    );
    assert_eq!(firsts(&seen), BTreeSet::from([vec![1], vec![2]]));
}

async fn names() -> Vec<String> {
    rt::fs::read_dir(Path::new("/")).await.unwrap().into_iter().map(|entry| entry.name).collect()
}

#[test]
fn names_survive_as_a_prefix_and_need_a_sync_of_their_directory() {
    let seen = outcomes(
        &DiskOptions::default(),
        || async {
            for name in ["/a", "/b", "/c"] {
                direct(name).await.sync_all().await.unwrap();
            }
            rt::fs::rename(Path::new("/a"), Path::new("/d")).await.unwrap();
            rt::fs::remove_file(Path::new("/b")).await.unwrap();
        },
        names,
    );
    let prefixes =
        [vec![], vec!["a"], vec!["a", "b"], vec!["a", "b", "c"], vec!["b", "c", "d"], vec!["c", "d"]];
    assert_eq!(seen, prefixes.map(|names| names.into_iter().map(str::to_owned).collect()).into());
    let synced = outcomes(
        &DiskOptions::default(),
        || async {
            direct("/a").await;
            rt::fs::create_dir_all(Path::new("/dir")).await.unwrap();
            rt::fs::sync_dir(Path::new("/")).await.unwrap();
            direct("/dir/x").await;
            rt::fs::rename(Path::new("/a"), Path::new("/dir/b")).await.unwrap();
            rt::fs::sync_dir(Path::new("/dir")).await.unwrap();
        },
        || async {
            let inside = rt::fs::read_dir(Path::new("/dir")).await.unwrap();
            (names().await, inside.into_iter().map(|entry| entry.name).collect::<Vec<_>>())
        },
    );
    let expected = (vec!["dir".to_owned()], vec!["b".to_owned(), "x".to_owned()]);
    assert_eq!(
        synced,
        BTreeSet::from([expected]),
        "a rename is one step, whichever of its directories is synced"
    );
}

#[test]
fn a_rename_that_is_durable_leaves_no_second_name() {
    let seen = outcomes(
        &DiskOptions::default(),
        || async {
            rt::fs::create_dir_all(Path::new("/dir")).await.unwrap();
            rt::fs::sync_dir(Path::new("/")).await.unwrap();
            direct("/a").await;
            rt::fs::rename(Path::new("/a"), Path::new("/dir/b")).await.unwrap();
            rt::fs::sync_dir(Path::new("/dir")).await.unwrap();
        },
        || async { (names().await.len(), rt::fs::exists(Path::new("/dir/b")).await.unwrap()) },
    );
    assert_eq!(seen, BTreeSet::from([(1, true)]), "the older creation of /a is not done again");
}

#[test]
fn a_synced_directory_under_an_unsynced_name_may_vanish_whole() {
    let seen = outcomes(
        &DiskOptions::default(),
        || async {
            rt::fs::create_dir_all(Path::new("/dir")).await.unwrap();
            direct("/dir/x").await;
            rt::fs::sync_dir(Path::new("/dir")).await.unwrap();
        },
        || async { (names().await.len(), rt::fs::exists(Path::new("/dir/x")).await.unwrap()) },
    );
    assert_eq!(seen, BTreeSet::from([(0, false), (1, true)]));
}

#[test]
fn replacing_a_small_file_leaves_the_old_or_the_new() {
    let seen = outcomes(
        &tearing(),
        || async {
            let path = Path::new("/state");
            rt::fs::write_atomic(path, &[1; 6000]).await.unwrap();
            rt::fs::write_atomic(path, &[2; 6000]).await.unwrap();
            // Cut off somewhere in this one.
            loop {
                rt::fs::write_atomic(path, &[3; 6000]).await.unwrap();
                rt::fs::write_atomic(path, &[4; 6000]).await.unwrap();
            }
        },
        || async {
            let all = content("/state").await;
            assert_eq!(all.len(), 6000);
            all.into_iter().collect::<BTreeSet<u8>>()
        },
    );
    assert_eq!(seen, BTreeSet::from([BTreeSet::from([3]), BTreeSet::from([4])]));
}

#[test]
fn a_removed_file_comes_back_with_its_durable_content() {
    let seen = outcomes(
        &DiskOptions::default(),
        || async {
            let file = durable("/a", 1, 1).await;
            file.write_all_at(blocks(2, 1), 0).await.unwrap();
            file.sync_data().await.unwrap();
            rt::fs::remove_file(Path::new("/a")).await.unwrap();
        },
        || async {
            match rt::fs::exists(Path::new("/a")).await.unwrap() {
                true => summary("/a").await.0,
                false => Vec::new(),
            }
        },
    );
    assert_eq!(seen, BTreeSet::from([vec![], vec![2]]));
}

#[test]
fn the_controller_sees_what_is_visible_and_what_is_durable() {
    world(1, async {
        let host = host_with(DiskOptions::default());
        on(host, async {
            rt::fs::create_dir_all(Path::new("/d")).await.unwrap();
            let file = durable("/a", 1, 1).await;
            file.write_all_at(blocks(2, 1), 0).await.unwrap();
            direct("/d/b").await;
        })
        .await;
        assert_eq!(control::visible_content(host, "/a", 10, 2).unwrap(), [2, 2]);
        assert_eq!(control::durable_content(host, "/a", 4095, 2).unwrap(), [1]);
        assert!(control::visible_content(host, "/none", 0, 1).is_err());
        assert_eq!(control::files_under(host, "/"), [("/a".into(), 4096), ("/d/b".into(), 0)]);
    });
}

/// Random writes and syncs against a slow twin: after a power cut each unit holds its last guaranteed value or a later
/// one.
#[test]
fn random_histories_keep_their_promises() {
    for seed in 0..200 {
        world(seed, async move {
            let unit = if seed % 2 == 0 { 512 } else { 4096 };
            let host = host_with(DiskOptions { atomic_unit: unit as u32, ..DiskOptions::default() });
            let allowed = Rc::new(RefCell::new(vec![vec![0u8]; 16 * 4096 / unit]));
            let twin = Rc::clone(&allowed);
            let _process = forever(host, history(twin, unit));
            control::advance(Duration::from_millis(2 + seed % 40)).await;
            control::power_cut(&[host], PeerView::Silence);
            control::power_on(host);
            if !on(host, async { rt::fs::exists(Path::new("/b")).await.unwrap() }).await {
                return;
            }
            let all = on(host, content("/a")).await;
            for (index, part) in all.chunks(unit).enumerate() {
                let allowed = &allowed.borrow()[index];
                assert!(part.iter().all(|byte| *byte == part[0]), "unit {index} is torn");
                assert!(
                    allowed.contains(&part[0]),
                    "unit {index} is {}, allowed are {allowed:?}, seed {seed}",
                    part[0]
                );
            }
        });
    }
}

async fn history(allowed: Rc<RefCell<Vec<Vec<u8>>>>, unit: usize) {
    let a = Rc::new(durable("/a", 0, 16).await);
    let b = durable("/b", 0, 1).await;
    let mut running = Vec::new();
    for round in 1..=250u8 {
        let (start, len) = (rt::random::below(16) as usize, 1 + rt::random::below(3) as usize);
        let len = len.min(16 - start);
        let units = start * 4096 / unit..(start + len) * 4096 / unit;
        allowed.borrow_mut()[units.clone()].iter_mut().for_each(|values| values.push(round));
        let theirs = Rc::clone(&a);
        running.push(rt::spawn(async move {
            theirs.write_all_at(blocks(round, len), start as u64 * 4096).await.unwrap();
        }));
        if rt::random::below(4) > 0 {
            continue;
        }
        for write in running.drain(..) {
            write.await.unwrap();
        }
        // What is visible now is what a flush makes durable.
        let (result, now) = a.read_exact_at(Buf::new(16 * 4096), 0).await;
        result.unwrap();
        if rt::random::below(2) == 0 { a.sync_data().await } else { b.sync_data().await }.unwrap();
        for (values, part) in allowed.borrow_mut().iter_mut().zip(now.chunks(unit)) {
            *values = vec![part[0]];
        }
    }
}
