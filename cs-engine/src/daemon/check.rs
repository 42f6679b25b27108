//! `check`: every inconsistency of a stopped chunk server.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::{CheckArgs, Failure};
use crate::check::{self, Progress, Report};
use crate::engine::OpenError;

/// There are findings.
const FOUND: u8 = 1;
/// The check could not be made.
pub(super) const NOT_CHECKED: u8 = 2;
/// How long to wait for the lock of a daemon that was killed: its last operation may still be under way.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn check(args: CheckArgs) -> Result<ExitCode, Failure> {
    let mut meter = Meter::new();
    let report = patiently(&args.repository, &mut |progress| meter.show(progress)).await;
    meter.clear();
    let report = report?;
    if args.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

async fn patiently(dir: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Report, OpenError> {
    let deadline = rt::time::now() + LOCK_PATIENCE;
    loop {
        match check::run(dir, progress).await {
            Err(OpenError::InUse(_)) if rt::time::now() < deadline => rt::time::sleep(LOCK_PAUSE).await,
            ended => return ended,
        }
    }
}

/// Shows progress on standard error: on a terminal in place, elsewhere a line now and then.
struct Meter {
    terminal: bool,
    interval: Duration,
    shown: rt::time::Instant,
    /// Something is on the terminal's line.
    dirty: bool,
}

impl Meter {
    fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let interval = if terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        Self { terminal, interval, shown: rt::time::now(), dirty: false }
    }

    fn show(&mut self, progress: Progress) {
        if self.shown.elapsed() < self.interval {
            return;
        }
        self.shown = rt::time::now();
        let line = progress_line(progress);
        if self.terminal {
            eprint!("\r{line}");
            // Nothing depends on the line being seen.
            let _shown = std::io::stderr().flush();
            self.dirty = true;
        } else {
            eprintln!("{line}");
        }
    }

    fn clear(&self) {
        if self.dirty {
            eprint!("\r{:60}\r", "");
        }
    }
}

fn progress_line(progress: Progress) -> String {
    let Progress { done, total } = progress;
    format!("checked {done} of {total} bytes, {} %", progress.percent())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_in_bytes_and_percent() {
        assert_eq!(progress_line(Progress { done: 3, total: 8 }), "checked 3 of 8 bytes, 37 %");
        assert_eq!(Progress::default().percent(), 100);
    }
}
