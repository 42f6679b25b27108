//! Asks the metadata server what is in doubt no more (C5): chunk after chunk, as many with each heartbeat as it looks up at once.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rt::time::Instant;
use wire::cs::{ChunkInDoubt, SettledChunk};

use crate::engine::{Engine, Settled};

/// Chunks that one heartbeat names.
const NAMED_MAX: usize = 64;
/// What is in doubt still is asked for again so long after the last time.
const ROUND: Duration = Duration::from_secs(30);

/// How far it has come.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// The next file and chunk to name.
    from: Cell<(u64, u64)>,
    /// When the next round begins.
    next: Cell<Option<Instant>>,
}

impl Doubts {
    /// Chunks to name in the next heartbeat.
    pub(crate) fn take(&self, engine: &Engine) -> Vec<ChunkInDoubt> {
        let (page, is_last) = self.page(|from, limit| engine.in_doubt(from, limit));
        if is_last {
            engine.begin_quiet();
        }
        page.into_iter().map(|(file_id, chunk_id)| ChunkInDoubt { chunk_id, file_id }).collect()
    }

    /// The next page of files and chunks, and whether a round ends with it. Between two rounds there is none.
    fn page(&self, in_doubt: impl Fn((u64, u64), usize) -> Vec<(u64, u64)>) -> (Vec<(u64, u64)>, bool) {
        let now = rt::time::now();
        if self.next.get().is_some_and(|next| now < next) {
            return (Vec::new(), false);
        }
        let page = in_doubt(self.from.get(), NAMED_MAX);
        let last = page.last().filter(|_| page.len() == NAMED_MAX);
        let is_last = last.is_none();
        self.next.set(is_last.then(|| now + ROUND));
        self.from.set(last.map_or((0, 0), |(file, chunk)| (*file, chunk + 1)));
        (page, is_last)
    }
}

/// Takes what the metadata server says of them.
pub(crate) fn settle(engine: &Rc<Engine>, settled: &[SettledChunk]) {
    for &SettledChunk { chunk_id: chunk, version, below_epoch: below, newest_epoch: newest } in settled {
        engine.settle(&Settled { chunk, version, below, newest });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rt::sim::{SimOptions, Simulation};

    /// Chunks of two files, of which the first has so many.
    fn in_doubt(first: u64, second: u64) -> impl Fn((u64, u64), usize) -> Vec<(u64, u64)> {
        move |from, limit| {
            let all = (0..first).map(|chunk| (1, chunk)).chain((0..second).map(|chunk| (2, chunk)));
            all.filter(|pair| *pair >= from).take(limit).collect()
        }
    }

    #[test]
    fn a_round_names_every_chunk_once_and_the_next_begins_later() {
        let mut simulation = Simulation::new(SimOptions::new(1));
        let ended = simulation.run(async {
            for (first, second, pages) in [
                (0, 0, vec![0]),
                (63, 0, vec![63]),
                (64, 0, vec![64, 0]),
                (60, 5, vec![64, 1]),
                (64, 64, vec![64, 64, 0]),
            ] {
                let (doubts, all) = (Doubts::default(), in_doubt(first, second));
                for _round in 0..2 {
                    let mut named = Vec::new();
                    for (number, &len) in pages.iter().enumerate() {
                        let (page, is_last) = doubts.page(&all);
                        assert_eq!(
                            (page.len(), is_last),
                            (len, number + 1 == pages.len()),
                            "{first} {second}"
                        );
                        named.extend(page);
                    }
                    assert_eq!(named, all((0, 0), usize::MAX));
                    rt::time::sleep(ROUND / 2).await;
                    assert_eq!(doubts.page(&all), (Vec::new(), false), "it has just been asked for");
                    rt::time::sleep(ROUND / 2).await;
                }
            }
        });
        ended.expect("no violation");
    }
}
