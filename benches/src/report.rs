//! The table: one line per pattern and target, with medians of all rounds.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::latency::Percentiles;
use crate::pattern::Pattern;
use crate::worker::Measured;

/// Where and on what the table was made.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct About {
    pub(crate) machine: String,
    pub(crate) kernel: String,
    pub(crate) medium: String,
    pub(crate) security: &'static str,
    pub(crate) commit: String,
    pub(crate) command: String,
    pub(crate) rounds: usize,
}

/// A line of the table. All numbers are medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) pattern: String,
    pub(crate) target: String,
    pub(crate) per_second: f64,
    pub(crate) megabytes_per_second: f64,
    pub(crate) latency_us: Percentiles,
    /// Median latency by that of the raw file, round by round.
    pub(crate) to_raw: Option<f64>,
    /// Median latency by that of the floor with as many servers, round by round.
    pub(crate) to_floor: Option<f64>,
    pub(crate) cpu_us: f64,
    pub(crate) switches: f64,
    pub(crate) flushes: f64,
    /// System calls of all processes per operation, from a round of its own.
    pub(crate) syscalls: Option<f64>,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    rounds: BTreeMap<(usize, usize), Vec<Measured>>,
    syscalls: BTreeMap<(usize, usize), f64>,
}

impl Results {
    /// Adds what a round gave for a pattern and a target, both by their places in the lists.
    pub(crate) fn add(&mut self, pattern: usize, target: usize, measured: Measured) {
        self.rounds.entry((pattern, target)).or_default().push(measured);
    }

    /// Adds a count of system calls per operation.
    pub(crate) fn add_syscalls(&mut self, pattern: usize, target: usize, per_operation: f64) {
        self.syscalls.insert((pattern, target), per_operation);
    }

    /// The lines, by pattern and target. `targets` gives for each its name and the place of its floor; the first is the
    /// raw file.
    pub(crate) fn lines(&self, patterns: &[Pattern], targets: &[(String, Option<usize>)]) -> Vec<Line> {
        let mut lines = Vec::new();
        for (p, pattern) in patterns.iter().enumerate() {
            for (t, (name, floor)) in targets.iter().enumerate() {
                let Some(rounds) = self.rounds.get(&(p, t)) else { continue };
                let of = |part: fn(&Measured) -> f64| median(rounds.iter().map(part).collect());
                let per_second = of(|m| m.operations as f64 / m.seconds);
                lines.push(Line {
                    pattern: pattern.to_string(),
                    target: name.clone(),
                    per_second,
                    megabytes_per_second: per_second * f64::from(pattern.bytes) / 1e6,
                    latency_us: Percentiles {
                        p50: of(|m| m.latency_us.p50),
                        p95: of(|m| m.latency_us.p95),
                        p99: of(|m| m.latency_us.p99),
                        p999: of(|m| m.latency_us.p999),
                        max: of(|m| m.latency_us.max),
                    },
                    to_raw: (t != 0).then(|| self.ratio(p, t, 0)).flatten(),
                    to_floor: floor.filter(|floor| *floor != t).and_then(|floor| self.ratio(p, t, floor)),
                    cpu_us: of(|m| m.cpu_us),
                    switches: of(|m| m.switches),
                    flushes: of(|m| m.flushes),
                    syscalls: self.syscalls.get(&(p, t)).copied(),
                });
            }
        }
        lines
    }

    /// The median over the rounds of one latency by another.
    fn ratio(&self, pattern: usize, target: usize, base: usize) -> Option<f64> {
        let (mine, base) = (self.rounds.get(&(pattern, target))?, self.rounds.get(&(pattern, base))?);
        let ratios: Vec<f64> =
            mine.iter().zip(base).map(|(mine, base)| mine.latency_us.p50 / base.latency_us.p50).collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The table as Markdown.
pub(crate) fn markdown(about: &About, lines: &[Line]) -> String {
    let mut text = format!(
        "Machine: {}; kernel {}; medium: {}; security: {}; commit {}; `{}`; medians of {} rounds.\n\n",
        about.machine, about.kernel, about.medium, about.security, about.commit, about.command, about.rounds
    );
    text.push_str(
        "| pattern | target | op/s | MB/s | p50 µs | p99 µs | × raw | × floor | CPU µs/op | switches/op | syscalls/op | flushes/op |\n",
    );
    text.push_str("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
    let maybe = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
    for line in lines {
        text.push_str(&format!(
            "| {} | {} | {:.0} | {:.0} | {:.1} | {:.1} | {} | {} | {:.1} | {:.2} | {} | {:.2} |\n",
            line.pattern,
            line.target,
            line.per_second,
            line.megabytes_per_second,
            line.latency_us.p50,
            line.latency_us.p99,
            maybe(line.to_raw),
            maybe(line.to_floor),
            line.cpu_us,
            line.switches,
            maybe(line.syscalls),
            line.flushes,
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern;

    fn measured(p50: f64) -> Measured {
        let latency_us = Percentiles { p50, ..Percentiles::default() };
        Measured { operations: 100, seconds: 2.0, latency_us, cpu_us: 1.0, switches: 0.0, flushes: 0.0 }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let mut results = Results::default();
        for (raw, mine) in [(10.0, 20.0), (100.0, 200.0), (50.0, 150.0)] {
            results.add(0, 0, measured(raw));
            results.add(0, 1, measured(mine));
        }
        let targets = [("raw".to_owned(), None), ("volume".to_owned(), Some(0))];
        let lines = results.lines(&pattern::ALL[..1], &targets);
        assert_eq!((lines[0].to_raw, lines[0].to_floor), (None, None));
        assert_eq!((lines[1].to_raw, lines[1].to_floor), (Some(2.0), Some(2.0)));
        assert_eq!((lines[1].latency_us.p50, lines[1].per_second), (150.0, 50.0));
        assert_eq!(median(Vec::new()), 0.0);
    }
}
