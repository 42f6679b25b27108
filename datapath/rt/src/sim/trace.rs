//! What happened, as one number and, if wanted, as lines.

/// What to do with the lines of the trace. The hash is kept in every case and does not depend on this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceLines {
    /// Make none.
    #[default]
    Off,
    /// Keep them for [`super::Simulation::trace_lines`].
    Keep,
    /// Print them to standard output as they come.
    Print,
}

/// The running trace of one world.
#[derive(Debug)]
pub(super) struct Trace {
    mode: TraceLines,
    hash: u64,
    lines: Vec<String>,
}

impl Trace {
    pub(super) fn new(mode: TraceLines) -> Self {
        Self { mode, hash: 0xCBF2_9CE4_8422_2325, lines: Vec::new() }
    }

    /// Mixes one word into the hash.
    pub(super) fn fold(&mut self, word: u64) {
        // One multiplication spreads low bits upwards, the rotation brings them back down.
        self.hash = (self.hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash ^ (self.hash >> 32)
    }

    pub(super) fn wants_lines(&self) -> bool {
        self.mode != TraceLines::Off
    }

    /// Adds the line `SECONDS host process text`.
    pub(super) fn line(&mut self, now: u64, host: &str, process: &str, text: &str) {
        let line = format!("{}.{:09} {host} {process} {text}", now / 1_000_000_000, now % 1_000_000_000);
        match self.mode {
            TraceLines::Off => {}
            TraceLines::Keep => self.lines.push(line),
            TraceLines::Print => println!("{line}"),
        }
    }

    pub(super) fn lines(&self) -> &[String] {
        &self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_every_word_and_on_their_order() {
        let hash = |words: &[u64]| {
            let mut trace = Trace::new(TraceLines::Off);
            words.iter().for_each(|&word| trace.fold(word));
            trace.hash()
        };
        assert_eq!(hash(&[1, 2, 3]), hash(&[1, 2, 3]));
        assert_ne!(hash(&[1, 2, 3]), hash(&[1, 3, 2]));
        assert_ne!(hash(&[1, 2, 3]), hash(&[1, 2]));
        assert_ne!(hash(&[0]), hash(&[0, 0]));
    }

    #[test]
    fn lines_carry_time_host_and_process() {
        let mut trace = Trace::new(TraceLines::Keep);
        trace.line(12_345_678_901, "a", "cs", "starts");
        assert_eq!(trace.lines(), ["12.345678901 a cs starts"]);
    }
}
