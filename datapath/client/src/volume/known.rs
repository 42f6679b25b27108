//! Which chunks of a file are known, and of which positions it is known that they have none: those are ranges, so that a file of
//! which almost nothing is there costs what is there.

use std::collections::BTreeMap;
use std::ops::Range;

/// What is known of a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Position<T> {
    /// This chunk.
    Chunk(T),
    /// There is none.
    Hole,
    /// Nothing.
    Unknown,
}

/// What comes next in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A chunk here.
    Chunk(u64),
    /// A position here of which nothing is known.
    Unknown(u64),
    /// Nothing.
    End,
}

/// What is known of a file's chunks.
#[derive(Debug)]
pub(crate) struct Known<T> {
    chunks: BTreeMap<u64, T>,
    /// Positions that have been told of, by the first of each range: the end. Those without a chunk are holes.
    told: BTreeMap<u64, u64>,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { chunks: BTreeMap::new(), told: BTreeMap::new() }
    }
}

impl<T> Known<T> {
    /// The chunk here, if one is known.
    pub(crate) fn chunk(&self, index: u64) -> Option<&T> {
        self.chunks.get(&index)
    }

    /// All chunks.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &T> {
        self.chunks.values()
    }

    fn told_until(&self, index: u64) -> Option<u64> {
        let (_, &end) = self.told.range(..=index).next_back()?;
        (index < end).then_some(end)
    }

    /// What comes first in a range that is not a hole.
    pub(crate) fn next(&self, range: Range<u64>) -> Next {
        let first = self.chunks.range(range.clone()).next().map(|(&index, _)| index);
        let until = first.unwrap_or(range.end);
        let told = self.told_until(range.start).unwrap_or(range.start);
        match first {
            _ if told < until => Next::Unknown(told),
            Some(index) => Next::Chunk(index),
            None => Next::End,
        }
    }

    /// Notes a chunk.
    pub(crate) fn insert(&mut self, index: u64, chunk: T) {
        self.chunks.insert(index, chunk);
    }

    /// Notes that these positions have no chunks but those that are known.
    pub(crate) fn tell(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        if let Some((&first, &until)) = self.told.range(..=start).next_back()
            && until >= start
        {
            start = first;
        }
        while let Some((&first, &until)) = self.told.range(start..=end).next() {
            self.told.remove(&first);
            end = end.max(until);
        }
        self.told.insert(start, end);
    }

    /// Forgets what is known of a position.
    pub(crate) fn forget(&mut self, index: u64) {
        self.chunks.remove(&index);
        let Some((&first, &until)) = self.told.range(..=index).next_back() else { return };
        if index < until {
            self.told.remove(&first);
            self.tell(first..index);
            if index + 1 < until {
                self.told.insert(index + 1, until);
            }
        }
    }

    /// The chunks from `first` on are gone.
    pub(crate) fn drop_from(&mut self, first: u64) {
        for index in self.chunks.split_off(&first).into_keys() {
            self.tell(index..index + 1);
        }
    }
}

impl<T: Clone> Known<T> {
    /// What is known of a position.
    pub(crate) fn get(&self, index: u64) -> Position<T> {
        match self.chunk(index) {
            Some(chunk) => Position::Chunk(chunk.clone()),
            None if self.told_until(index).is_some() => Position::Hole,
            None => Position::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the ranges say, position by position.
    #[derive(Default)]
    struct Twin(BTreeMap<u64, Option<u32>>);

    impl Twin {
        fn get(&self, index: u64) -> Position<u32> {
            match self.0.get(&index) {
                Some(Some(chunk)) => Position::Chunk(*chunk),
                Some(None) => Position::Hole,
                None => Position::Unknown,
            }
        }

        fn next(&self, range: Range<u64>) -> Next {
            for index in range {
                match self.get(index) {
                    Position::Chunk(_) => return Next::Chunk(index),
                    Position::Unknown => return Next::Unknown(index),
                    Position::Hole => {}
                }
            }
            Next::End
        }
    }

    #[test]
    fn ranges_say_what_positions_say() {
        let mut rng = rt::random::Rng::from_seed(5);
        for _ in 0..200 {
            let (mut known, mut twin) = (Known::default(), Twin::default());
            for step in 0..60 {
                let at = rng.below(30);
                match rng.below(8) {
                    0..3 => {
                        let end = at + rng.below(8);
                        known.tell(at..end);
                        for index in at..end {
                            twin.0.entry(index).or_insert(None);
                        }
                    }
                    3..5 => {
                        known.insert(at, step);
                        twin.0.insert(at, Some(step));
                    }
                    5..7 => {
                        known.forget(at);
                        twin.0.remove(&at);
                    }
                    _ => {
                        known.drop_from(at);
                        twin.0.range_mut(at..).for_each(|(_, chunk)| *chunk = None);
                    }
                }
                for index in 0..40 {
                    assert_eq!(known.get(index), twin.get(index), "{index}: {known:?}");
                    assert_eq!(known.next(index..40), twin.next(index..40), "{index}: {known:?}");
                }
                let ranges: Vec<_> = known.told.iter().collect();
                assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{ranges:?}");
            }
        }
    }

    #[test]
    fn what_is_not_there_costs_nothing() {
        let mut known = Known::default();
        known.tell(0..u64::MAX);
        known.insert(1 << 40, 1);
        assert_eq!(known.next(0..u64::MAX), Next::Chunk(1 << 40));
        assert_eq!(known.next(1 + (1 << 40)..u64::MAX), Next::End);
        assert_eq!(known.told.len(), 1);
    }
}
