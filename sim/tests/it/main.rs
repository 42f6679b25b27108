//! The simulator finds what it is there to find, and finds it again.

mod memory;

use sim::plans::Plan;
use sim::run::{RunOptions, run};

/// Seeds within which a deliberate bug must be found.
const SEEDS: u64 = 40;
/// Seeds that find nothing where there is nothing to find.
const SOUND: u64 = 2;

/// Whether only quick tests are wanted.
fn quick() -> bool {
    std::env::var_os("VSTORAGE_QUICK").is_some()
}

/// Whether it says which rule of the contract is broken.
fn names_a_rule(violation: &str) -> bool {
    let number = violation.strip_prefix('C').map(str::as_bytes).and_then(<[u8]>::first);
    number.is_some_and(u8::is_ascii_digit)
}

/// A run that carries deliberate bugs; those of special plans are short.
fn options(planted: &[&str], plan: Plan, seed: u64) -> RunOptions {
    let planted = planted.iter().map(|name| (*name).to_owned()).collect();
    let whole = RunOptions { planted, plan, ..RunOptions::new(seed) };
    if plan.is_special() { RunOptions { operations: 800, faults: 5, ..whole } } else { whole }
}

/// The first seed that finds deliberate bugs by a rule of the contract that they break; not by a crash, nor by a run that never ends.
fn caught(planted: &[&str], plan: Plan) -> Option<(u64, String)> {
    (1..=SEEDS).find_map(|seed| {
        let mut violations = run(&options(planted, plan, seed)).violations.into_iter();
        violations.find(|violation| names_a_rule(violation)).map(|violation| (seed, violation))
    })
}

fn must_catch(planted: &[&str], plan: Plan) {
    if quick() {
        return;
    }
    let (seed, violation) =
        caught(planted, plan).unwrap_or_else(|| panic!("{planted:?}: not found by {SEEDS} seeds"));
    println!("{planted:?}: seed {seed}: {violation}");
}

/// What the faults of a plan find without the bug is none of its doing.
fn finds_nothing(planted: &[&str], plan: Plan) {
    if quick() {
        return;
    }
    for seed in 1..=SOUND {
        assert_eq!(run(&options(planted, plan, seed)).violations, Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn a_flush_that_is_skipped_is_caught() {
    must_catch(&["flush-skipped"], Plan::Drawn);
}

#[test]
fn an_answer_before_the_journal_is_caught() {
    must_catch(&["acked-before-journal"], Plan::Drawn);
}

#[test]
fn an_epoch_that_is_ignored_is_caught() {
    must_catch(&["epoch-ignored"], Plan::Succession);
}

#[test]
fn a_reconciliation_that_is_skipped_is_caught() {
    must_catch(&["reconcile-skipped"], Plan::Remains);
    finds_nothing(&[], Plan::Remains);
}

#[test]
fn doubts_that_end_too_early_are_caught() {
    must_catch(&["settled-too-early"], Plan::Doubts);
    finds_nothing(&[], Plan::Doubts);
}

#[test]
fn a_loss_that_no_flush_tells_is_caught() {
    must_catch(&["loss-not-told"], Plan::Drawn);
}

#[test]
fn a_damaged_write_that_no_flush_tells_is_caught() {
    must_catch(&["damage-not-told"], Plan::Decay);
    finds_nothing(&[], Plan::Decay);
}

#[test]
fn an_answer_under_an_earlier_session_is_caught() {
    must_catch(&["generation-ignored"], Plan::Sleep);
    finds_nothing(&[], Plan::Sleep);
}

#[test]
fn a_return_that_forgets_a_region_is_caught() {
    must_catch(&["difference-forgets-one"], Plan::Absence);
}

#[test]
fn an_answer_before_the_version_is_committed_is_caught() {
    must_catch(&["acked-before-commit"], Plan::Absence);
    finds_nothing(&[], Plan::Absence);
}

#[test]
fn a_fence_that_a_restart_forgets_is_caught() {
    // Clients that watch their leases need no fence: here they do not, and the fence is all there is.
    must_catch(&["lease-not-watched", "fence-in-memory"], Plan::Fences);
    finds_nothing(&["lease-not-watched"], Plan::Fences);
}

#[test]
fn a_deletion_without_quarantine_is_caught() {
    must_catch(&["quarantine-skipped"], Plan::Deletion);
    finds_nothing(&[], Plan::Deletion);
}

#[test]
fn a_repair_from_a_bad_copy_is_caught() {
    must_catch(&["repair-unchecked"], Plan::Damage);
    finds_nothing(&[], Plan::Damage);
}

#[test]
fn a_version_that_a_power_cut_takes_back_is_caught() {
    must_catch(&["install-not-durable"], Plan::Versions);
    finds_nothing(&[], Plan::Versions);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let options = RunOptions { operations: 400, faults: 4, ..RunOptions::new(7) };
    let (first, second) = (run(&options), run(&options));
    assert_eq!(first.violations, Vec::<String>::new());
    assert_eq!((first.hash, first.steps, first.elapsed), (second.hash, second.steps, second.elapsed));
    let other = run(&RunOptions { seed: 8, ..options });
    assert_ne!(first.hash, other.hash);
}
