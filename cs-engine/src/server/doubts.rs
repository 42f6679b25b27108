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
        let now = rt::time::now();
        if self.next.get().is_some_and(|next| now < next) {
            return Vec::new();
        }
        let page = engine.in_doubt(self.from.get(), NAMED_MAX);
        let last = page.last().filter(|_| page.len() == NAMED_MAX);
        self.next.set(last.is_none().then(|| now + ROUND));
        self.from.set(last.map_or((0, 0), |(file, chunk)| (*file, chunk + 1)));
        if last.is_none() {
            engine.begin_quiet();
        }
        page.into_iter().map(|(file_id, chunk_id)| ChunkInDoubt { chunk_id, file_id }).collect()
    }
}

/// Takes what the metadata server says of them.
pub(crate) fn settle(engine: &Rc<Engine>, settled: &[SettledChunk]) {
    for &SettledChunk { chunk_id: chunk, version, below_epoch: below, newest_epoch: newest } in settled {
        engine.settle(&Settled { chunk, version, below, newest });
    }
}
