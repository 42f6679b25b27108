//! What the clients were told, kept outside every process: each sector of a volume is a register (C3, C4).
//!
//! A write has an interval in which it may take effect: from its issue to its end. It ends when it is acknowledged, or,
//! if its client died, when the file was granted anew, because the fence lets nothing older through (C2). It
//! is *certain* once it was acknowledged, until a power cut of every member may have taken it along: then it is *weak*.
//! Flushed writes stay certain. A flush that succeeds makes the weak writes of its own holder certain again, because it
//! must fail if one of them is lost (C4).
//!
//! A read that began at `start` may return the value of a write unless a certain write was issued after that one had
//! ended and was acknowledged before `start`. Once a value was seen, writes that had ended before it was issued
//! never show again, and neither do later ones that had ended before the read began and did not show.

use std::collections::{BTreeMap, BTreeSet};

/// Bytes of one register.
pub const SECTOR: u64 = 512;

/// Lease term of these runs: whoever has not renewed for so long acknowledges nothing more, revoked or not.
pub const TERM_NS: u64 = 8_000_000_000;

/// Names a write of one volume; 0 is the zero that was there before all.
pub type WriteId = u64;

/// One write.
#[derive(Clone, Debug)]
struct Write {
    sectors: std::ops::Range<u64>,
    issued: u64,
    ended: Option<u64>,
    certain: bool,
    durable: bool,
    /// Whether it may have been lost by every member.
    weak: Weak,
    acknowledged: Option<u64>,
    zero: bool,
    /// Who issued it: see [`Oracle::fence`].
    holder: u64,
}

/// What was issued until a moment may be lost unless it is durable.
#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    at: u64,
    /// When that became known: what reads show that began before may be lost since.
    known: u64,
}

impl Cut {
    /// Whether a read that began at `start` proves nothing for a write that was issued at `issued`.
    fn is_between(self, issued: u64, start: u64) -> bool {
        issued <= self.at && start <= self.known
    }
}

/// How much of an acknowledged write may be lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Weak {
    /// Nothing.
    #[default]
    Nowhere,
    /// What is in damaged places.
    Within,
    /// All of it.
    Everywhere,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

/// The registers of one volume. Time is any counter that only grows.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    writes: BTreeMap<WriteId, Write>,
    /// Per sector the writes that may still show, oldest first.
    candidates: BTreeMap<u64, Vec<WriteId>>,
    /// Per sector the newest write that was seen for certain.
    seen: BTreeMap<u64, WriteId>,
    next: WriteId,
    /// How often the volume was granted to somebody.
    holder: u64,
    /// Until when an operator may take the volume away from whoever has it.
    revoked_until: u64,
    /// Whom that has happened to, perhaps: who sleeps meanwhile cannot know, and tells of answers that it had before.
    revoked: BTreeSet<u64>,
    /// The latest moment at which all members had lost power after what was before.
    cut: Cut,
    /// For sectors in damaged places, where all members but the one with the damage have lost power.
    places: BTreeMap<u64, Cut>,
}

impl Oracle {
    /// Without any write.
    #[must_use]
    pub fn new() -> Self {
        Self { next: 1, ..Self::default() }
    }

    /// A write begins.
    pub fn issue(&mut self, now: u64, sectors: std::ops::Range<u64>, zero: bool) -> WriteId {
        let id = self.next;
        self.next += 1;
        for sector in sectors.clone() {
            self.candidates.entry(sector).or_insert_with(|| vec![0]).push(id);
        }
        let write = Write {
            sectors,
            issued: now,
            ended: None,
            certain: false,
            durable: false,
            weak: Weak::Nowhere,
            acknowledged: None,
            zero,
            holder: self.holder,
        };
        self.writes.insert(id, write);
        id
    }

    /// A write begins after the volume was granted to somebody else: it must never take effect (C2).
    pub fn issue_late(&mut self, now: u64, sectors: std::ops::Range<u64>, zero: bool) -> WriteId {
        let id = self.issue(now, sectors.clone(), zero);
        for sector in sectors {
            self.candidates.entry(sector).or_default().retain(|other| *other != id);
        }
        self.writes.entry(id).and_modify(|write| write.ended = Some(now));
        id
    }

    /// A write was acknowledged.
    ///
    /// # Errors
    /// When the file had been granted to somebody else before (C1). Of a lease that was revoked its holder need not have known: then
    /// the write was carried out everywhere before the next one was granted.
    pub fn acknowledge(&mut self, now: u64, id: WriteId) -> Result<(), Violation> {
        let Some(write) = self.writes.get_mut(&id) else { return Ok(()) };
        let end = write.ended.unwrap_or(now);
        if let Some(ended) = write.ended {
            let candidates = &self.candidates;
            let shows = |sector| candidates.get(&sector).is_some_and(|candidates| candidates.contains(&id));
            let is_there = write.acknowledged.is_none() && write.sectors.clone().all(shows);
            if !is_there || !self.revoked.contains(&write.holder) || now > ended + TERM_NS {
                return Err(Violation(format!(
                    "C1: write {id} acknowledged at {now}, but its lease ended at {ended}"
                )));
            }
        }
        write.ended = Some(end);
        write.acknowledged = Some(end);
        // The members may have had it before the power failed, and the answer was on its way since.
        write.weak = match () {
            () if write.issued <= self.cut.at => Weak::Everywhere,
            () if is_within(&self.places, write) => Weak::Within,
            () => Weak::Nowhere,
        };
        write.certain = write.weak == Weak::Nowhere;
        Ok(())
    }

    /// The volume was granted to a new holder. Everything begun by a client that is gone has taken effect by now or never
    /// will. Gives the sectors in question: whoever reads them knows which.
    pub fn fence(&mut self, now: u64) -> Vec<std::ops::Range<u64>> {
        self.holder += 1;
        if now <= self.revoked_until {
            self.revoked.insert(self.holder);
        }
        let open = self.writes.values_mut().filter(|write| write.ended.is_none());
        open.map(|write| {
            write.ended = Some(now);
            write.sectors.clone()
        })
        .collect()
    }

    /// An operator takes the volume away from its holder, at any moment until then.
    pub fn revoke(&mut self, until: u64) {
        self.revoked_until = self.revoked_until.max(until);
        self.revoked.insert(self.holder);
    }

    /// A flush of the present holder that began at `start` has succeeded: what was acknowledged before is durable.
    ///
    /// # Errors
    /// When a read has shown that a write is lost that the holder had been told of: then flushes must fail (C4).
    pub fn flushed(&mut self, start: u64) -> Result<(), Violation> {
        let mut lost = None;
        for (id, write) in &mut self.writes {
            if write.durable || write.acknowledged.is_none_or(|at| at > start) {
                continue;
            }
            if write.weak != Weak::Nowhere && write.holder == self.holder {
                (write.weak, write.certain) = (Weak::Nowhere, true);
                let candidates = &self.candidates;
                let shows =
                    |sector: &u64| candidates.get(sector).is_some_and(|candidates| candidates.contains(id));
                lost =
                    lost.or(write.sectors.clone().find(|sector| !shows(sector)).map(|sector| (*id, sector)));
            }
            write.durable = write.certain;
        }
        match lost {
            None => Ok(()),
            Some((id, sector)) => Err(Violation(format!(
                "C4: the flush begun at {start} succeeded, and write {id}, acknowledged before, is lost in sector {sector}"
            ))),
        }
    }

    /// Every member has lost power after `cut`: what was issued before and not flushed may be gone.
    pub fn weaken(&mut self, now: u64, cut: u64) {
        if cut <= self.cut.at {
            return;
        }
        self.cut = Cut { at: cut, known: now };
        for write in self.writes.values_mut() {
            if !write.durable && write.acknowledged.is_some() && write.issued <= cut {
                (write.certain, write.weak) = (false, Weak::Everywhere);
            }
        }
        // What was seen and not flushed may be gone again.
        let writes = &self.writes;
        let stays = |write: &Write| write.durable || write.issued > cut;
        self.seen.retain(|_, id| writes.get(id).is_some_and(stays));
    }

    /// Every member has lost power after `cut` but one, and that one is damaged in these sectors: as [`Self::weaken`], for what is there.
    pub fn weaken_within(&mut self, now: u64, sectors: std::ops::Range<u64>, cut: u64) {
        let mut changed = false;
        for sector in sectors.clone() {
            let place = self.places.entry(sector).or_default();
            if cut > place.at {
                *place = Cut { at: cut, known: now };
                changed = true;
            }
        }
        if !changed {
            return;
        }
        let places = &self.places;
        for write in self.writes.values_mut() {
            let counts = !write.durable && write.acknowledged.is_some() && write.weak == Weak::Nowhere;
            if counts && is_within(places, write) {
                (write.certain, write.weak) = (false, Weak::Within);
            }
        }
        let writes = &self.writes;
        let stays = |write: &Write| write.durable || write.issued > cut;
        let is_elsewhere = |sector: &u64| !sectors.contains(sector);
        self.seen.retain(|sector, id| is_elsewhere(sector) || writes.get(id).is_some_and(stays));
    }

    /// The content of a sector written by `id`.
    #[must_use]
    pub fn content(volume: u64, sector: u64, id: WriteId) -> [u8; SECTOR as usize] {
        let mut bytes = [0; SECTOR as usize];
        if id == 0 {
            return bytes;
        }
        for (index, word) in bytes.chunks_mut(8).enumerate() {
            let value = match index {
                0 => id,
                1 => sector,
                2 => volume,
                n => (id ^ sector.rotate_left(17) ^ volume.rotate_left(40))
                    .wrapping_mul(0x9E37_79B9_7F4A_7C15 + 2 * n as u64),
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Checks what a read that began at `start` and ended at `now` returned for one sector.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn check(
        &mut self,
        volume: u64,
        sector: u64,
        start: u64,
        now: u64,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let word =
            |index: usize| u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().unwrap_or([0; 8]));
        let seen = if bytes.iter().all(|&byte| byte == 0) { None } else { Some(word(0)) };
        if let Some(id) = seen
            && bytes != Self::content(volume, sector, id)
        {
            return Err(Violation(format!(
                "C8: sector {sector} of volume {volume} holds garbage (first words {:#x} {:#x} {:#x})",
                word(0),
                word(1),
                word(2)
            )));
        }
        let candidates = self.candidates.get(&sector).cloned().unwrap_or_else(|| vec![0]);
        // A zero may come from the beginning or from any write of zeroes.
        let possible: Vec<WriteId> = match seen {
            Some(id) => candidates
                .iter()
                .copied()
                .filter(|&candidate| candidate == id && !self.is_zero(candidate))
                .collect(),
            None => candidates.iter().copied().filter(|&candidate| self.is_zero(candidate)).collect(),
        };
        let alive: Vec<WriteId> = possible
            .iter()
            .copied()
            .filter(|&id| self.overwritten_by(sector, id, &candidates, start).is_none())
            .collect();
        let Some(&newest) = alive.last() else {
            return Err(self.explain(volume, sector, start, now, seen, &possible, &candidates));
        };
        // If one value only explains this, what had ended before it was issued cannot show again.
        if alive.len() == 1 && newest != 0 && !self.may_be_lost_since(newest, sector, start) {
            let seen = self.seen.entry(sector).or_insert(newest);
            *seen = (*seen).max(newest);
        }
        self.bury(sector, start, &alive, &possible);
        Ok(())
    }

    /// Forgets writes that had ended before a read began and that it should have shown, had they taken effect.
    fn bury(&mut self, sector: u64, start: u64, alive: &[WriteId], possible: &[WriteId]) {
        let writes = &self.writes;
        let issued = |id: &WriteId| writes.get(id).map_or(0, |write| write.issued);
        let newest = alive.iter().map(issued).max().unwrap_or(0);
        let gone = |id: &WriteId| {
            let ended = writes.get(id).and_then(|write| write.ended);
            !possible.contains(id) && issued(id) > newest && ended.is_some_and(|ended| ended <= start)
        };
        if let Some(candidates) = self.candidates.get_mut(&sector) {
            candidates.retain(|id| !gone(id));
        }
    }

    /// Whether a write cannot be lost in one of its sectors.
    fn is_certain(&self, write: &Write, sector: u64) -> bool {
        let outside = || self.places.get(&sector).is_none_or(|cut| write.issued > cut.at);
        write.certain || write.weak == Weak::Within && outside()
    }

    /// Whether a write that a read shows which began at `start` may be lost by now.
    fn may_be_lost_since(&self, id: WriteId, sector: u64, start: u64) -> bool {
        let Some(write) = self.writes.get(&id).filter(|write| !write.durable) else { return false };
        let place = self.places.get(&sector).copied().unwrap_or_default();
        [self.cut, place].into_iter().any(|cut| cut.is_between(write.issued, start))
    }

    fn is_zero(&self, id: WriteId) -> bool {
        id == 0 || self.writes.get(&id).is_some_and(|write| write.zero)
    }

    /// A certain write after which `id` cannot show to a read that begins at `start`.
    fn overwritten_by(
        &self,
        sector: u64,
        id: WriteId,
        candidates: &[WriteId],
        start: u64,
    ) -> Option<WriteId> {
        let ended = if id == 0 { Some(0) } else { self.writes.get(&id)?.ended };
        let ended = ended?;
        if let Some(seen) = self.seen.get(&sector)
            && self.writes.get(seen).is_some_and(|write| write.issued > ended)
        {
            return Some(*seen);
        }
        candidates.iter().copied().find(|other| {
            self.writes.get(other).is_some_and(|write| {
                self.is_certain(write, sector)
                    && write.issued > ended
                    && write.acknowledged.is_some_and(|at| at < start)
            })
        })
    }

    #[expect(clippy::too_many_arguments, reason = "everything that explains a violation")]
    fn explain(
        &self,
        volume: u64,
        sector: u64,
        start: u64,
        now: u64,
        seen: Option<WriteId>,
        possible: &[WriteId],
        candidates: &[WriteId],
    ) -> Violation {
        let seen = seen.map_or("zero".to_owned(), |id| format!("write {id}"));
        let history: Vec<String> = candidates
            .iter()
            .filter_map(|id| self.writes.get(id).map(|write| (id, write)))
            .map(|(id, write)| {
                format!(
                    "{id}: issued {} ended {:?} acknowledged {:?}{}{}",
                    write.issued,
                    write.ended,
                    write.acknowledged,
                    if write.certain { " certain" } else { "" },
                    if write.durable { " durable" } else { "" }
                )
            })
            .collect();
        let by = possible.first().and_then(|&id| self.overwritten_by(sector, id, candidates, start));
        Violation(format!(
            "C3/C4: sector {sector} of volume {volume} reads as {seen} at {start}..{now}, overwritten by {by:?}; {}",
            history.join("; ")
        ))
    }

    /// Data that its holder was told of and has not flushed, the newest first, each write with its first sector.
    pub fn unflushed(&self) -> impl Iterator<Item = (WriteId, u64)> {
        let counts =
            |write: &Write| write.certain && !write.durable && !write.zero && write.holder == self.holder;
        let newest_first = self.writes.iter().rev();
        newest_first.filter(move |(_, write)| counts(write)).map(|(&id, write)| (id, write.sectors.start))
    }

    /// Sectors that were ever written.
    #[must_use]
    pub fn sectors(&self) -> Vec<u64> {
        self.candidates.keys().copied().collect()
    }

    /// Writes so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.next - 1
    }
}

/// Whether a part of a write may be lost by damage.
fn is_within(places: &BTreeMap<u64, Cut>, write: &Write) -> bool {
    places.range(write.sectors.clone()).any(|(_, cut)| write.issued <= cut.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(oracle: &mut Oracle, start: u64, id: WriteId) -> bool {
        oracle.check(1, 5, start, start + 1, &Oracle::content(1, 5, id)).is_ok()
    }

    #[test]
    fn an_acknowledged_write_shows_and_the_old_value_does_not() {
        let mut oracle = Oracle::new();
        let a = oracle.issue(10, 5..6, false);
        assert!(read(&mut oracle.clone(), 11, a) && read(&mut oracle.clone(), 11, 0), "either while it runs");
        oracle.acknowledge(12, a).unwrap();
        assert!(read(&mut oracle.clone(), 13, a));
        assert!(!read(&mut oracle, 13, 0), "C3");
    }

    #[test]
    fn what_was_issued_too_late_never_shows() {
        let mut oracle = Oracle::new();
        oracle.fence(5);
        let late = oracle.issue_late(10, 5..6, false);
        assert!(read(&mut oracle.clone(), 11, 0) && !read(&mut oracle.clone(), 11, late), "C2");
        assert!(oracle.acknowledge(12, late).is_err(), "C1");
    }

    #[test]
    fn whose_lease_is_revoked_may_tell_of_it_late() {
        let revoked = || {
            let mut oracle = Oracle::new();
            let a = oracle.issue(10, 5..6, false);
            oracle.revoke(20);
            oracle.fence(15);
            (oracle, a)
        };
        let (mut oracle, a) = revoked();
        oracle.acknowledge(30, a).unwrap();
        assert!(oracle.clone().acknowledge(31, a).is_err(), "once");
        assert!(!read(&mut oracle, 32, 0), "C3: it was there before the fence");
        let (mut oracle, a) = revoked();
        assert!(oracle.acknowledge(15 + TERM_NS + 1, a).is_err(), "C1: by then he knows");
        let (mut oracle, a) = revoked();
        assert!(read(&mut oracle, 16, 0), "it was not carried out");
        assert!(oracle.acknowledge(30, a).is_err());
        let (mut oracle, _) = revoked();
        let late = oracle.issue_late(17, 5..6, false);
        assert!(oracle.acknowledge(18, late).is_err(), "C2");
        oracle.fence(40);
        let b = oracle.issue(41, 5..6, false);
        oracle.fence(50);
        assert!(oracle.acknowledge(51, b).is_err(), "C1: that one was not revoked");
    }

    #[test]
    fn unflushed_writes_may_go_when_all_members_lose_power_and_flushed_ones_may_not() {
        let mut oracle = Oracle::new();
        let a = oracle.issue(10, 5..6, false);
        oracle.acknowledge(12, a).unwrap();
        oracle.flushed(14).unwrap();
        let b = oracle.issue(20, 5..6, false);
        oracle.acknowledge(22, b).unwrap();
        oracle.weaken(25, 25);
        assert!(read(&mut oracle.clone(), 30, b) && read(&mut oracle.clone(), 30, a));
        assert!(!read(&mut oracle, 30, 0), "C4: a was flushed");
    }

    /// `a` was flushed, `b` acknowledged, and all members lost power.
    fn weakened() -> (Oracle, WriteId, WriteId) {
        let mut oracle = Oracle::new();
        let a = oracle.issue(10, 5..6, false);
        oracle.acknowledge(12, a).unwrap();
        oracle.flushed(14).unwrap();
        let b = oracle.issue(20, 5..6, false);
        oracle.acknowledge(22, b).unwrap();
        oracle.weaken(25, 25);
        (oracle, a, b)
    }

    #[test]
    fn a_flush_that_succeeds_promises_that_nothing_was_lost() {
        let (mut oracle, a, b) = weakened();
        oracle.flushed(26).unwrap();
        assert!(read(&mut oracle.clone(), 30, b));
        assert!(!read(&mut oracle, 30, a), "C4: the flush succeeded");

        let (mut oracle, a, _) = weakened();
        assert!(read(&mut oracle, 26, a), "b is lost");
        assert!(oracle.clone().flushed(28).is_err(), "C4: it has to fail");
        oracle.fence(30);
        oracle.flushed(32).expect("the next holder was told nothing");
        assert!(read(&mut oracle, 34, a));
    }

    #[test]
    fn only_what_is_in_a_damaged_place_may_go_when_the_others_lose_power() {
        let check = |oracle: &Oracle, sector, id| {
            oracle.clone().check(1, sector, 30, 31, &Oracle::content(1, sector, id)).is_ok()
        };
        let mut oracle = Oracle::new();
        let a = oracle.issue(10, 4..9, false);
        oracle.acknowledge(12, a).unwrap();
        let sleeper = oracle.issue(14, 20..21, false);
        oracle.weaken_within(15, 5..6, 15);
        oracle.weaken_within(15, 20..21, 15);
        let later = oracle.issue(16, 5..6, false);
        oracle.acknowledge(17, sleeper).unwrap();
        assert!(check(&oracle, 5, a) && check(&oracle, 5, 0) && check(&oracle, 20, 0));
        assert!(check(&oracle, 8, a) && !check(&oracle, 8, 0), "C3: it is whole there");
        let mut flushed = oracle.clone();
        flushed.flushed(20).unwrap();
        assert!(!check(&flushed, 5, 0), "C4: the flush succeeded");
        let mut lost = oracle.clone();
        assert!(read(&mut lost, 20, 0), "it is lost");
        assert!(lost.flushed(22).is_err(), "C4: it has to fail");
        oracle.acknowledge(18, later).unwrap();
        assert!(!check(&oracle, 5, a) && check(&oracle, 5, later), "C3: it came after the damage");
    }

    #[test]
    fn an_answer_may_have_been_on_its_way_while_the_power_failed() {
        let mut oracle = Oracle::new();
        let a = oracle.issue(10, 5..6, false);
        oracle.weaken(12, 12);
        oracle.acknowledge(15, a).unwrap();
        assert!(read(&mut oracle.clone(), 20, 0) && read(&mut oracle.clone(), 20, a));
        oracle.flushed(21).unwrap();
        assert!(!read(&mut oracle, 30, 0), "C4: the flush succeeded");
    }

    #[test]
    fn what_was_seen_is_not_unseen() {
        let mut oracle = Oracle::new();
        let a = oracle.issue(10, 5..6, false);
        oracle.fence(20);
        assert!(read(&mut oracle, 21, a));
        assert!(!read(&mut oracle, 22, 0), "C5: the members have settled on the new value");
    }

    #[test]
    fn what_was_seen_while_the_power_failed_may_be_lost() {
        for begun in [21, 26] {
            let mut oracle = Oracle::new();
            let a = oracle.issue(10, 5..6, false);
            oracle.acknowledge(12, a).unwrap();
            oracle.weaken(25, 20);
            assert!(read(&mut oracle, begun, a));
            assert_eq!(read(&mut oracle, 30, 0), begun == 21, "the members have settled on it since");
        }
    }

    #[test]
    fn a_dead_clients_write_does_not_come_back_after_the_fence() {
        let mut oracle = Oracle::new();
        let ghost = oracle.issue(10, 5..6, false);
        oracle.fence(20);
        let b = oracle.issue(30, 5..6, false);
        oracle.acknowledge(31, b).unwrap();
        assert!(!read(&mut oracle, 40, ghost), "C2");
    }

    #[test]
    fn garbage_and_foreign_sectors_are_noticed() {
        let mut oracle = Oracle::new();
        let a = oracle.issue(10, 5..6, false);
        oracle.acknowledge(11, a).unwrap();
        assert!(oracle.check(1, 5, 12, 13, &Oracle::content(1, 6, a)).is_err());
        assert!(oracle.check(1, 5, 12, 13, &Oracle::content(2, 5, a)).is_err());
        let mut torn = Oracle::content(1, 5, a);
        torn[300] ^= 1;
        assert!(oracle.check(1, 5, 12, 13, &torn).is_err());
    }

    #[test]
    fn zeroes_are_a_value_like_any_other() {
        let mut oracle = Oracle::new();
        let a = oracle.issue(10, 5..6, false);
        oracle.acknowledge(11, a).unwrap();
        let zero = oracle.issue(12, 5..6, true);
        assert!(read(&mut oracle.clone(), 13, 0) && read(&mut oracle.clone(), 13, a));
        oracle.acknowledge(14, zero).unwrap();
        assert!(read(&mut oracle.clone(), 15, 0));
        assert!(!read(&mut oracle, 15, a));
    }
}
