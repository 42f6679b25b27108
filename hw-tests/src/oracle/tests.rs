//! The oracle against a twin that tries every order of the writes.

use super::*;

const BLOCK: u64 = 3;

fn stamped(oracle: &Oracle, id: u64) -> Vec<u8> {
    let mut data = vec![0; oracle.block_bytes()];
    oracle.stamp(BLOCK, id, &mut data);
    data
}

/// Whole histories, judged by definition: a content may be found if some order of the writes, true to what was over
/// before what began, has no flushed write after one with that content.
#[derive(Default)]
struct Twin {
    writes: Vec<TwinWrite>,
    clock: u64,
}

struct TwinWrite {
    id: u64,
    zeroes: bool,
    issued: u64,
    completed: Option<u64>,
    flushed: bool,
}

impl Twin {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The contents that a disk could hold.
    fn possible(&self, must_stay: impl Fn(&TwinWrite) -> bool) -> Vec<Content> {
        let mut found = Vec::new();
        if !self.writes.iter().any(&must_stay) {
            found.push(Content::Zeroes);
        }
        let mut order = Vec::new();
        self.each_order(&mut order, &mut |order| {
            // The last write that stays, and all after it: each may be the last that landed.
            for &index in order.iter().rev() {
                let write = &self.writes[index];
                found.push(if write.zeroes { Content::Zeroes } else { Content::Write(write.id) });
                if must_stay(write) {
                    break;
                }
            }
        });
        found
    }

    fn each_order(&self, order: &mut Vec<usize>, visit: &mut impl FnMut(&[usize])) {
        if order.len() == self.writes.len() {
            return visit(order);
        }
        for next in 0..self.writes.len() {
            let left = |index: usize| !order.contains(&index);
            let waits = |index: usize| {
                left(index) && self.writes[index].completed.is_some_and(|at| at < self.writes[next].issued)
            };
            if left(next) && !(0..self.writes.len()).any(waits) {
                order.push(next);
                self.each_order(order, visit);
                order.pop();
            }
        }
    }
}

/// Compares oracle and twin on every content there can be. Returns how many were allowed and how many refused.
fn compare(oracle: &Oracle, twin: &Twin) -> (u64, u64) {
    let flushed = twin.possible(|write| write.flushed);
    let acknowledged = twin.possible(|write| write.completed.is_some());
    let contents = (1..=7).map(Content::Write).chain([Content::Zeroes]);
    let mut counts = (0, 0);
    for content in contents {
        let data = match content {
            Content::Write(id) => stamped(oracle, id),
            Content::Zeroes => vec![0; oracle.block_bytes()],
        };
        let judged = oracle.check(BLOCK, &data);
        assert_eq!(judged.is_ok(), flushed.contains(&content), "{content:?}: {judged:?}, {oracle:?}");
        let judged = oracle.check_acknowledged(BLOCK, &data);
        assert_eq!(judged.is_ok(), acknowledged.contains(&content), "{content:?}: {judged:?}, {oracle:?}");
        if flushed.contains(&content) { counts.0 += 1 } else { counts.1 += 1 }
    }
    counts
}

#[test]
fn agrees_with_a_twin_that_tries_every_order() {
    let mut counts = (0, 0);
    for seed in 0..400 {
        let mut seeded = Seeded::new(seed);
        let mut oracle = Oracle::with_block_bytes(seed, 512);
        let mut twin = Twin::default();
        let mut flushes: Vec<(FlushToken, u64)> = Vec::new();
        for _ in 0..18 {
            match seeded.below(8) {
                0..3 if twin.writes.len() < 6 => {
                    let (id, zeroes) = (twin.writes.len() as u64 + 1, seeded.chance(20));
                    if zeroes {
                        oracle.issued_zeroes(BLOCK, id)
                    } else {
                        oracle.issued(BLOCK, id)
                    }
                    let issued = twin.tick();
                    twin.writes.push(TwinWrite { id, zeroes, issued, completed: None, flushed: false });
                }
                3..5 => {
                    let now = twin.tick();
                    let going: Vec<usize> = (0..twin.writes.len())
                        .filter(|&index| twin.writes[index].completed.is_none())
                        .collect();
                    if !going.is_empty() {
                        let chosen = going[seeded.below(going.len() as u64) as usize];
                        oracle.completed(BLOCK, twin.writes[chosen].id);
                        twin.writes[chosen].completed = Some(now);
                    }
                }
                5 => flushes.push((oracle.flush_started(), twin.tick())),
                6 if !flushes.is_empty() => {
                    // Flushes overlap and finish in any order.
                    let (token, started) = flushes.swap_remove(seeded.below(flushes.len() as u64) as usize);
                    oracle.flush_completed(token);
                    let covered =
                        twin.writes.iter_mut().filter(|write| write.completed.is_some_and(|at| at < started));
                    covered.for_each(|write| write.flushed = true);
                }
                _ => {}
            }
            let (allowed, refused) = compare(&oracle, &twin);
            counts = (counts.0 + allowed, counts.1 + refused);
        }
    }
    assert!(counts.0 > 10_000 && counts.1 > 10_000, "both verdicts are common: {counts:?}");
}

#[test]
fn a_flush_covers_what_was_completed_before_it_was_issued() {
    let mut oracle = Oracle::new(1);
    oracle.issued(BLOCK, 1);
    let early = oracle.flush_started();
    oracle.completed(BLOCK, 1);
    oracle.flush_completed(early);
    oracle.check(BLOCK, &[0; 4096]).expect("the flush was issued before the write was over");
    let late = oracle.flush_started();
    oracle.flush_completed(late);
    let lost = oracle.check(BLOCK, &[0; 4096]);
    assert_eq!(lost, Err(Violation::Lost { block: BLOCK, found: Content::Zeroes, wanted: 1 }));
    oracle.check(BLOCK, &stamped(&oracle, 1)).expect("it is the flushed one");
}

#[test]
fn a_failed_flush_covers_nothing() {
    let mut oracle = Oracle::new(1);
    oracle.issued(BLOCK, 1);
    oracle.completed(BLOCK, 1);
    drop(oracle.flush_started());
    oracle.check(BLOCK, &[0; 4096]).expect("no flush completed");
    let missing = oracle.check_acknowledged(BLOCK, &[0; 4096]);
    assert!(matches!(missing, Err(Violation::Lost { wanted: 1, .. })), "{missing:?}");
}

#[test]
fn every_damage_has_its_name() {
    let mut oracle = Oracle::new(9);
    oracle.issued(BLOCK, 1);
    oracle.issued(BLOCK, 2);
    let good = stamped(&oracle, 2);

    let mut torn = stamped(&oracle, 1);
    torn[512..1024].copy_from_slice(&good[512..1024]);
    let (first, other) = (Content::Write(1), Content::Write(2));
    assert_eq!(oracle.check(BLOCK, &torn), Err(Violation::Torn { block: BLOCK, first, sector: 1, other }));

    let mut half = good.clone();
    half[2048..].fill(0);
    assert!(matches!(
        oracle.check(BLOCK, &half),
        Err(Violation::Torn { sector: 4, other: Content::Zeroes, .. })
    ));

    let mut flipped = good.clone();
    flipped[4000] ^= 1;
    assert_eq!(oracle.check(BLOCK, &flipped), Err(Violation::Garbage { block: BLOCK, sector: 7 }));
    assert!(matches!(oracle.check(BLOCK, &[0xff; 4096]), Err(Violation::Garbage { .. })));

    let mut swapped = good.clone();
    swapped[..512].copy_from_slice(&good[512..1024]);
    assert!(matches!(oracle.check(BLOCK, &swapped), Err(Violation::Misdirected { sector: 0, .. })));

    let misdirected = oracle.check(BLOCK + 1, &good);
    assert_eq!(misdirected, Err(Violation::Misdirected { block: BLOCK + 1, sector: 0, found: BLOCK }));

    let foreign = stamped(&Oracle::new(8), 2);
    assert!(matches!(oracle.check(BLOCK, &foreign), Err(Violation::Foreign { found: 8, .. })));

    let unknown = oracle.check(BLOCK, &stamped(&oracle, 3));
    assert_eq!(unknown, Err(Violation::NeverIssued { block: BLOCK, found: Content::Write(3) }));
    oracle.check(BLOCK, &good).expect("issued");
}

#[test]
fn settling_makes_the_found_content_the_only_one() {
    let mut oracle = Oracle::new(4);
    oracle.issued(BLOCK, 1);
    oracle.issued(BLOCK, 2);
    oracle.completed(BLOCK, 2);
    oracle.settle(BLOCK, &stamped(&oracle, 1)).expect("both may be there");
    oracle.check(BLOCK, &stamped(&oracle, 1)).expect("found before");
    assert!(oracle.check(BLOCK, &stamped(&oracle, 2)).is_err(), "the crash decided against it");
    oracle.issued(BLOCK, 5);
    oracle.completed(BLOCK, 5);
    oracle.check(BLOCK, &stamped(&oracle, 1)).expect("write 5 is not flushed");
    let token = oracle.flush_started();
    oracle.flush_completed(token);
    assert!(oracle.check(BLOCK, &stamped(&oracle, 1)).is_err());
    oracle.check(BLOCK, &stamped(&oracle, 5)).expect("flushed");
    assert!(oracle.settle(BLOCK, &[0; 4096]).is_err(), "what may not be found cannot be settled");
    assert_eq!(oracle.blocks().collect::<Vec<_>>(), [BLOCK]);
}

#[test]
fn memory_does_not_grow_with_flushed_writes() {
    let mut oracle = Oracle::new(4);
    for id in 1..1000 {
        oracle.issued(BLOCK, id);
        oracle.completed(BLOCK, id);
        let token = oracle.flush_started();
        oracle.flush_completed(token);
    }
    assert!(oracle.unflushed.is_empty());
    assert_eq!(oracle.blocks[&BLOCK].live.len(), 1);
}

#[test]
#[should_panic(expected = "is not going on")]
fn completing_what_was_not_issued_is_a_mistake_of_the_test() {
    Oracle::new(1).completed(BLOCK, 1);
}

#[test]
fn a_write_with_fua_is_flushed_when_it_is_answered() {
    let mut oracle = Oracle::new(1);
    oracle.issued(BLOCK, 1);
    oracle.completed(BLOCK, 1);
    oracle.issued(BLOCK, 2);
    oracle.completed_durably(BLOCK, 2);
    let (old, new) = (stamped(&oracle, 1), stamped(&oracle, 2));
    assert_eq!(oracle.check(BLOCK, &new), Ok(()));
    let lost = Violation::Lost { block: BLOCK, found: Content::Write(1), wanted: 2 };
    assert_eq!(oracle.check(BLOCK, &old), Err(lost));
    // It says nothing about others.
    oracle.issued(BLOCK + 1, 3);
    oracle.completed(BLOCK + 1, 3);
    assert_eq!(oracle.check(BLOCK + 1, &[0; 4096]), Ok(()));
}
