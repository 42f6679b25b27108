//! Each fault of a simulated disk, and files of processes that are killed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::io::ErrorKind;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use datapath_rt as rt;
use rt::buf::{Buf, View};
use rt::fs::{Allocation, File, OpenOptions};
use rt::sim::control::{self, PeerView};
use rt::sim::{DiskFault, DiskFaultKind, DiskImage, DiskOptions, FaultRates, HostId, Latency};

use crate::sim_world::{blocks, content, direct, durable, forever, host, host_with, killed, on, world};

async fn read(file: &File, block: u64, count: usize) -> std::io::Result<Vec<u8>> {
    let (result, buf) = file.read_at(Buf::new(4096 * count), block * 4096).await;
    result.map(|count| buf[..count].to_vec())
}

/// Runs `test` in a process on a host with a fault of `/a`, a file of four blocks of ones.
fn with_fault<F>(fault: DiskFault, test: fn(HostId) -> F)
where
    F: Future<Output = ()> + 'static,
{
    for seed in 0..20 {
        let fault = fault.clone();
        world(seed, async move {
            let host = host();
            let file = on(host, async { durable("/a", 1, 4).await }).await;
            drop(file);
            control::disk_fault(host, "/", fault);
            on(host, test(host)).await;
        });
    }
}

#[test]
fn read_errors() {
    with_fault(DiskFault::new(DiskFaultKind::ReadError).on("/a").within(4096..8192), |_| async {
        let file = direct("/a").await;
        assert_eq!(read(&file, 0, 1).await.unwrap(), [1; 4096]);
        assert_eq!(read(&file, 0, 2).await.unwrap_err().raw_os_error(), Some(5));
        assert_eq!(read(&file, 0, 2).await.unwrap(), [1; 8192]);
    });
}

#[test]
fn unreadable_blocks_are_mended_by_writing_them() {
    world(1, async {
        let host = host();
        on(host, async { durable("/a", 1, 4).await }).await;
        control::make_unreadable(host, "/a", 4096..4097).unwrap();
        on(host, async {
            let file = direct("/a").await;
            assert!(read(&file, 1, 1).await.is_err());
            assert!(read(&file, 0, 4).await.is_err());
            assert!(read(&file, 2, 2).await.is_ok());
            file.write_all_at(blocks(2, 1), 4096).await.unwrap();
            assert_eq!(read(&file, 1, 1).await.unwrap(), [2; 4096]);
        })
        .await;
    });
}

#[test]
fn write_errors_end_the_file_and_may_leave_a_part() {
    with_fault(DiskFault::new(DiskFaultKind::WriteError).after(1), |_| async {
        let file = direct("/a").await;
        file.write_all_at(blocks(1, 4), 0).await.unwrap();
        assert!(file.write_all_at(blocks(2, 4), 0).await.is_err());
        assert!(file.has_failed() && file.sync_data().await.is_err());
        let left = content("/a").await;
        let landed = left.iter().take_while(|byte| **byte == 2).count();
        assert!(landed.is_multiple_of(4096) && left[landed..].iter().all(|byte| *byte == 1));
    });
}

#[test]
fn after_a_failed_flush_no_later_one_proves_anything() {
    let left: BTreeSet<u8> = (0..60)
        .map(|seed| {
            world(seed, async {
                let host = host();
                on(host, async { durable("/a", 1, 1).await }).await;
                control::disk_fault(host, "/", DiskFault::new(DiskFaultKind::FlushError));
                on(host, async {
                    let file = direct("/a").await;
                    file.write_all_at(blocks(2, 1), 0).await.unwrap();
                    assert!(file.sync_data().await.is_err());
                    assert!(file.sync_data().await.is_err());
                    direct("/a").await.sync_data().await.unwrap();
                })
                .await;
                control::power_cut(&[host], PeerView::Silence);
                control::power_on(host);
                on(host, content("/a")).await[0]
            })
        })
        .collect();
    assert_eq!(left, BTreeSet::from([1, 2]));
}

#[test]
fn lost_writes() {
    with_fault(DiskFault::new(DiskFaultKind::LostWrite).times(2), |_| async {
        let file = direct("/a").await;
        file.write_all_at(blocks(2, 1), 0).await.unwrap();
        file.write_all_at(blocks(2, 1), 4096 * 4).await.unwrap();
        file.sync_data().await.unwrap();
        assert_eq!(read(&file, 0, 1).await.unwrap(), [1; 4096], "an old block keeps what it holds");
        assert_eq!(read(&file, 4, 1).await.unwrap(), [0; 4096], "a new one reads as zero");
    });
}

#[test]
fn misdirected_writes() {
    with_fault(DiskFault::new(DiskFaultKind::MisdirectedWrite).on("/a"), |_| async {
        let _other = durable("/b", 1, 4).await;
        let file = direct("/a").await;
        file.write_all_at(blocks(2, 1), 4096).await.unwrap();
        assert_eq!(read(&file, 1, 1).await.unwrap(), [1; 4096]);
        let (a, b) = (content("/a").await, content("/b").await);
        let elsewhere = a.iter().chain(&b).filter(|byte| **byte == 2).count();
        assert!(elsewhere == 4096 || elsewhere == 0, "{elsewhere} bytes landed elsewhere");
    });
    // It does land somewhere else, most of the time.
    let landed = Rc::new(Cell::new(0));
    for seed in 0..20 {
        let landed = Rc::clone(&landed);
        world(seed, async move {
            let host = host();
            on(host, async {
                durable("/b", 1, 4).await;
                durable("/a", 1, 4).await;
            })
            .await;
            control::disk_fault(host, "/", DiskFault::new(DiskFaultKind::MisdirectedWrite));
            on(host, async move {
                direct("/a").await.write_all_at(blocks(2, 1), 0).await.unwrap();
                landed.set(
                    landed.get()
                        + u32::from(content("/a").await.contains(&2) || content("/b").await.contains(&2)),
                );
            })
            .await;
        });
    }
    assert!(landed.get() > 10, "{} of 20 landed", landed.get());
}

#[test]
fn rot_is_stored_and_corrupt_reads_are_not() {
    let flips = |bytes: &[u8]| bytes.iter().map(|byte| (byte ^ 1).count_ones()).sum::<u32>();
    world(3, async move {
        let host = host();
        on(host, async { durable("/a", 1, 4).await }).await;
        assert!(control::rot(host, "/a", 4096).unwrap());
        assert!(!control::rot(host, "/a", 1 << 30).unwrap(), "nothing is stored there");
        assert!(control::rot(host, "/none", 0).is_err());
        control::disk_fault(host, "/", DiskFault::new(DiskFaultKind::CorruptRead).within(0..1));
        control::disk_fault(host, "/", DiskFault::new(DiskFaultKind::BitRot).within(8192..8193));
        on(host, async move {
            let file = direct("/a").await;
            assert_eq!(flips(&read(&file, 0, 1).await.unwrap()), 1);
            assert_eq!(flips(&read(&file, 0, 1).await.unwrap()), 0, "what is stored is right");
            assert_eq!(flips(&read(&file, 1, 1).await.unwrap()), 1);
            assert_eq!(flips(&read(&file, 2, 1).await.unwrap()), 1);
            assert_eq!(flips(&read(&file, 2, 1).await.unwrap()), 1, "rot stays");
        })
        .await;
        control::power_cut(&[host], PeerView::Silence);
        control::power_on(host);
        assert_eq!(flips(&on(host, content("/a")).await), 2, "rot is in what is durable");
    });
}

#[test]
fn short_transfers_are_carried_on() {
    with_fault(DiskFault::new(DiskFaultKind::ShortRead), |host| async move {
        let file = direct("/a").await;
        assert!(read(&file, 0, 4).await.unwrap().len() < 4 * 4096);
        let _unused = host;
    });
    with_fault(DiskFault::new(DiskFaultKind::ShortRead).forever(), |_| async {
        let (result, buf) = direct("/a").await.read_exact_at(Buf::new(4 * 4096), 0).await;
        result.unwrap();
        assert_eq!(&buf[..], [1; 4 * 4096]);
    });
    with_fault(DiskFault::new(DiskFaultKind::ShortWrite).forever(), |_| async {
        let file = direct("/a").await;
        file.write_all_at(blocks(2, 4), 0).await.unwrap();
        assert_eq!(content("/a").await, [2; 4 * 4096]);
    });
}

#[test]
fn stalls_take_their_time() {
    with_fault(DiskFault::new(DiskFaultKind::Stall(Duration::from_secs(7))).on("/a").after(1), |_| async {
        let start = rt::time::now();
        let file = direct("/a").await;
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_eq!(read(&file, 0, 1).await.unwrap(), [1; 4096]);
        assert!(start.elapsed() >= Duration::from_secs(7));
    });
}

#[test]
fn faults_come_by_chance_and_can_be_ended() {
    let mut options = rt::sim::SimOptions::new(5);
    options.time_max = Duration::from_secs(3600);
    let mut simulation = rt::sim::Simulation::new(options);
    simulation
        .run(async {
            let rates = FaultRates {
                bit_rot: 20,
                short_read: 20,
                short_write: 20,
                stall: 50,
                ..FaultRates::default()
            };
            let host = host_with(DiskOptions { rates, ..DiskOptions::default() });
            let busy = || async {
                let file = direct("/a").await;
                for _ in 0..500 {
                    file.write_all_at(blocks(1, 4), 0).await.unwrap();
                    read(&file, 0, 4).await.unwrap();
                }
            };
            on(host, busy()).await;
            let before = control::coverage();
            assert!(
                ["disk.bit-rot", "disk.short-read", "disk.short-write", "disk.stall"]
                    .iter()
                    .all(|name| before[name] > 5)
            );
            control::clear_disk_faults(host);
            on(host, busy()).await;
            assert_eq!(before, control::coverage());
        })
        .unwrap();
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    for seed in 0..30 {
        world(seed, async {
            let host = host_with(DiskOptions { capacity: 1 << 20, ..DiskOptions::default() });
            on(host, async {
                let file = durable("/a", 1, 100).await;
                let space = rt::fs::space(Path::new("/")).await.unwrap();
                assert_eq!((space.total, space.free), (1 << 20, (1 << 20) - 101 * 4096));
                let error = file.write_all_at(blocks(2, 200), 100 * 4096).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::StorageFull);
                assert!(!file.has_failed(), "running out of space is no failure of the device");
                let error = file.allocate(Allocation::Reserve, 1 << 20, 1 << 20).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::StorageFull);
                file.write_all_at(blocks(3, 100), 0).await.unwrap();
                file.allocate(Allocation::Punch, 0, 2 << 20).await.unwrap();
                assert_eq!(file.allocated_bytes().await.unwrap(), 0);
                file.write_all_at(blocks(4, 200), 0).await.unwrap();
                assert_eq!(file.allocated_bytes().await.unwrap(), 200 * 4096);
                // A removed file takes its space until it is closed.
                rt::fs::remove_file(Path::new("/a")).await.unwrap();
                let open = rt::fs::space(Path::new("/")).await.unwrap().free;
                drop(file);
                assert_eq!(rt::fs::space(Path::new("/")).await.unwrap().free, 1 << 20);
                assert!(open < 1 << 18);
            })
            .await;
            control::occupy(host, "/", 1 << 20);
            on(host, async {
                let made = File::open(Path::new("/b"), OpenOptions::direct().create()).await;
                assert_eq!(made.unwrap_err().kind(), ErrorKind::StorageFull);
                assert!(rt::fs::create_dir_all(Path::new("/c")).await.is_err());
            })
            .await;
        });
    }
}

#[test]
fn direct_io_must_be_aligned() {
    for (sector, refused) in [(512, 1), (4096, 512)] {
        world(1, async move {
            let host = host_with(DiskOptions { sector, ..DiskOptions::default() });
            on(host, async move {
                let file = durable("/a", 1, 4).await;
                let view = blocks(2, 3);
                let fine = sector as usize;
                for (offset, slice) in [(refused, 0..4096), (0, 0..refused), (0, refused..refused + 4096)] {
                    let error = file.read_at(Buf::new(slice.len()), offset as u64).await.0.err();
                    let error = error.or(File::open(Path::new("/a"), OpenOptions::direct())
                        .await
                        .unwrap()
                        .write_all_at(view.slice(slice), offset as u64)
                        .await
                        .err());
                    assert_eq!(error.unwrap().kind(), ErrorKind::InvalidInput, "offset {offset}");
                }
                file.write_all_at(view.slice(fine..2 * fine), fine as u64).await.unwrap();
                let through_cache =
                    File::open(Path::new("/a"), OpenOptions { write: true, ..OpenOptions::read() })
                        .await
                        .unwrap();
                through_cache.write_all_at(View::copy_of(b"abc"), 5).await.unwrap();
                let all = content("/a").await;
                assert_eq!((&all[4..9], all[fine], all[2 * fine]), (&b"\x01abc\x01"[..], 2, 1));
            })
            .await;
        });
    }
}

#[test]
fn a_disk_can_be_rolled_back() {
    world(1, async {
        let host = host();
        on(host, async { durable("/a", 1, 1).await }).await;
        let image = control::disk_image(host, "/");
        on(host, async { durable("/a", 2, 1).await }).await;
        control::restore_disk(host, "/", &image);
        control::power_cut(&[host], PeerView::Silence);
        control::power_on(host);
        assert_eq!(on(host, content("/a")).await, [1; 4096]);
        control::restore_disk(host, "/", &DiskImage::empty());
        assert!(control::files_under(host, "/").is_empty());
        let other = self::host();
        control::restore_disk(other, "/", &image);
        assert_eq!(on(other, content("/a")).await, [1; 4096], "a copied disk");
    });
}

#[test]
fn a_kill_keeps_what_has_completed_and_cuts_what_has_not() {
    let mut seen = BTreeSet::new();
    for seed in 0..300 {
        seen.insert(world(seed, async {
            let host = host();
            on(host, async { durable("/a", 1, 4).await }).await;
            let stall = DiskFaultKind::Stall(Duration::from_secs(2));
            control::disk_fault(host, "/", DiskFault::new(stall).on("/a").after(2));
            let process = forever(host, async {
                let file = direct("/a").await;
                file.write_all_at(blocks(2, 1), 0).await.unwrap();
                file.write_all_at(blocks(3, 3), 4096).await.unwrap();
            });
            control::advance(Duration::from_secs(1)).await;
            control::kill(process.id());
            killed(process).await;
            let at_once = on(host, content("/a")).await;
            assert_eq!(
                (at_once[0], &at_once[4096..]),
                (2, &[1; 3 * 4096][..]),
                "the operation is still under way"
            );
            control::advance(Duration::from_secs(3)).await;
            on(host, content("/a")).await.chunks(4096).map(|block| block[0]).collect::<Vec<_>>()
        }));
    }
    assert!(
        seen.is_superset(&[vec![2, 1, 1, 1], vec![2, 3, 1, 1], vec![2, 3, 3, 1], vec![2, 3, 3, 3]].into()),
        "{seen:?}"
    );
}

#[test]
fn a_lock_falls_after_the_last_operation_of_a_killed_process() {
    world(1, async {
        let host = host();
        let stall = DiskFaultKind::Stall(Duration::from_secs(5));
        control::disk_fault(host, "/", DiskFault::new(stall).on("/data").after(1));
        let holder = forever(host, async {
            let lock = direct("/lock").await;
            assert!(lock.try_lock().await.unwrap());
            let data = direct("/data").await;
            data.write_all_at(blocks(1, 1), 0).await.unwrap();
        });
        control::advance(Duration::from_secs(1)).await;
        control::kill(holder.id());
        let wanted = || async { direct("/lock").await.try_lock().await.unwrap() };
        assert!(!on(host, wanted()).await, "a write of the dead process is still under way");
        control::advance(Duration::from_secs(5)).await;
        assert!(on(host, wanted()).await);
        // A process that ends by itself leaves nothing behind.
        assert!(on(host, wanted()).await);
    });
}

#[test]
fn a_dropped_write_still_happens() {
    world(1, async {
        let write = Latency::micros(1_000_000, 2_000_000);
        let host = host_with(DiskOptions { write, ..DiskOptions::default() });
        on(host, async {
            let (file, again) = (durable("/a", 1, 1).await, direct("/a").await);
            assert!(file.try_lock().await.unwrap());
            let write = file.write_all_at(blocks(2, 1), 0);
            assert!(rt::time::timeout(Duration::from_micros(1), write).await.is_err());
            drop(file);
            assert!(!again.try_lock().await.unwrap(), "the file is open until the write has ended");
            rt::time::sleep(Duration::from_secs(50)).await;
            assert_eq!(content("/a").await, [2; 4096]);
            assert!(again.try_lock().await.unwrap());
        })
        .await;
    });
}
