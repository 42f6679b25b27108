//! Files of which almost nothing is there.

use std::time::Duration;

use wire::Op;

use crate::client::Run;
use crate::world::{CHUNK, run};

/// Chunks of the file.
const CHUNKS: u64 = 1 << 26;
const SIZE: u64 = CHUNKS * CHUNK;
/// Requests that chunks far from each other may cost.
const FEW: usize = 20;

#[test]
fn zeroing_costs_what_is_there() {
    for punch in [false, true] {
        run(SIZE, async move |world| {
            let there = [3, 4, 500_000, CHUNKS - 1];
            there.iter().for_each(|index| world.mds.allocate(*index));
            let volume = world.open().await;
            volume.write_zeroes(100, SIZE - 200, punch).await.expect("zeroed");
            for cs in &world.cs {
                assert_eq!(cs.desk.count(Op::Write), there.len());
            }
            let asked = world.mds.desk.count(Op::GetMap);
            assert!(asked <= FEW, "{asked} requests for maps");
            assert_eq!(world.mds.desk.count(Op::AllocateChunks), 0);
        });
    }
}

#[test]
fn data_is_found_at_the_far_end() {
    run(SIZE, async |world| {
        world.mds.allocate(CHUNKS - 1);
        let volume = world.open().await;
        let runs = volume.block_status(100, SIZE - 100, 16).await.expect("found");
        let hole = SIZE - CHUNK - 100;
        assert_eq!(runs, [Run { len: hole, data: false }, Run { len: CHUNK, data: true }]);
        let asked = world.mds.desk.count(Op::GetMap);
        assert!(asked <= FEW, "{asked} requests for maps");
    });
}

#[test]
fn a_range_full_of_data_is_told_in_parts() {
    run(SIZE, async |world| {
        (0..5000).for_each(|index| world.mds.allocate(index));
        let volume = world.open().await;
        let runs = volume.block_status(0, SIZE, 16).await.expect("found");
        let covered: u64 = runs.iter().map(|run| run.len).sum();
        assert!(runs.iter().all(|run| run.data) && covered < 5000 * CHUNK, "{runs:?}");
        let next = volume.block_status(covered, SIZE - covered, 16).await.expect("found");
        assert!(next[0].data);
    });
}

#[test]
fn settling_looks_at_what_is_there() {
    run(SIZE, async |world| {
        world.mds.needs_reconcile.set(true);
        [3, 500_000].iter().for_each(|index| world.mds.allocate(*index));
        let volume = world.open().await;
        // A flush waits until nothing is in doubt.
        let flushed = rt::time::timeout(Duration::from_secs(5), volume.flush()).await;
        flushed.expect("soon").expect("flushed");
        let asked = world.mds.desk.count(Op::GetMap);
        assert!(asked <= FEW, "{asked} requests for maps");
    });
}
