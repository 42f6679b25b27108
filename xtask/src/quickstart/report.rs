//! The short table at the end.

use std::time::Duration;

use crate::stopwatch::Shown;

/// What was done and measured.
pub(super) struct Report {
    rows: Vec<(String, String, Duration)>,
    notes: Vec<String>,
}

impl Report {
    pub(super) fn new() -> Self {
        Self { rows: Vec::new(), notes: Vec::new() }
    }

    pub(super) fn row(&mut self, what: &str, result: &str, took: Duration) {
        println!("    {result} ({})", Shown(took));
        self.rows.push((what.to_owned(), result.to_owned(), took));
    }

    pub(super) fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    pub(super) fn print(&self) {
        let width = |column: fn(&(String, String, Duration)) -> usize| {
            self.rows.iter().map(column).max().unwrap_or(0)
        };
        let (first, second) = (width(|row| row.0.len()), width(|row| row.1.len()));
        println!("\n{:first$}  {:second$}  TIME", "STEP", "RESULT");
        for (what, result, took) in &self.rows {
            println!("{what:first$}  {result:second$}  {}", Shown(*took));
        }
        for note in &self.notes {
            println!("{note}");
        }
    }
}

/// Bytes and their rate.
pub(super) fn bytes(bytes: u64, took: Duration) -> String {
    let megabytes = bytes as f64 / 1e6;
    format!("{megabytes:.0} MB at {:.0} MB/s", megabytes / took.as_secs_f64().max(0.001))
}
