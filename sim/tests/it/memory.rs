//! A run gives back what it took, however it ends: thousands of seeds go through one process.

use std::panic::AssertUnwindSafe;

use allocation_counter::measure;
use sim::run::{RunOptions, run};

/// What may stay, in bytes: a lazily made static here and there. A run takes tens of megabytes.
const LEFT_MAX: i64 = 64 << 10;
/// A bug with which a metadata server finds its log damaged, and panics.
const BROKEN: Option<&str> = Some("mds.log-flush-skipped");

/// Ten small runs; how many of them panicked.
fn ten(planted: Option<&str>) -> usize {
    let runs = (1..=10).map(|seed| {
        let options = RunOptions {
            operations: 200,
            faults: 6,
            planted: planted.map(str::to_owned).into_iter().collect(),
            ..RunOptions::new(seed)
        };
        std::panic::catch_unwind(AssertUnwindSafe(|| run(&options))).is_err()
    });
    runs.filter(|panicked| *panicked).count()
}

#[test]
fn twenty_runs_leave_no_memory_behind() {
    // What is made once in a process is made here: statics, and the tables with which the standard library gives the
    // frames of a panic their names.
    assert!(ten(BROKEN) > 0, "no run panicked, and that is to be measured too");
    let mut panicked = 0;
    let ordinary = measure(|| panicked = ten(None));
    assert_eq!(panicked, 0);
    assert!(ordinary.bytes_total > 1 << 30, "not everything was counted: {ordinary:?}");
    assert!(ordinary.bytes_current < LEFT_MAX, "ten runs left memory behind: {ordinary:?}");
    let broken = measure(|| panicked = ten(BROKEN));
    assert!(
        broken.bytes_current < LEFT_MAX,
        "ten runs, {panicked} with a panic, left memory behind: {broken:?}"
    );
}
