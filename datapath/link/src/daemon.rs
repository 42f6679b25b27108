//! What every daemon does in the same way: its log.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;

/// How much a daemon writes to its log, the quietest first.
pub const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No such level.
    #[error("{level:?} is no log level; there are {}", LOG_LEVELS.join(", "))]
    Level {
        /// What was given instead.
        level: String,
    },
    /// The file cannot be written.
    #[error("cannot write the log file {}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process has a log already: a bug of the program.
    #[error("the log has been set up before")]
    Twice,
}

/// Starts the log: lines with time (UTC), level (one of [`LOG_LEVELS`] and those before it) and origin, appended to
/// `file` or written to standard error. A panic is in it, too. Once per process, before any executor.
///
/// # Errors
/// [`LogError`].
pub fn init_logging(level: &str, file: Option<&Path>) -> Result<(), LogError> {
    init_logging_without(&[], level, file)
}

/// The same, but of these parts of the program, which talk to their own makers, only warnings and errors are written, unless
/// the level is `debug` or `trace`.
///
/// # Errors
/// [`LogError`].
pub fn init_logging_without(chatty: &[&str], level: &str, file: Option<&Path>) -> Result<(), LogError> {
    let known = LOG_LEVELS.contains(&level).then(|| level.parse::<LevelFilter>().ok()).flatten();
    let filter = known.ok_or_else(|| LogError::Level { level: level.to_owned() })?;
    let targets = targets(chatty, filter);
    let lines = tracing_subscriber::fmt().with_max_level(filter);
    let started = match file {
        Some(path) => {
            let opened = File::options().append(true).create(true).open(path);
            let opened = opened.map_err(|source| LogError::File { path: path.to_owned(), source })?;
            // Each line is one write at the file's end, so several processes may share the file.
            let lines = lines.with_ansi(false).with_writer(Arc::new(opened)).finish();
            tracing::subscriber::set_global_default(lines.with(targets))
        }
        None => {
            let colours = io::stderr().is_terminal();
            let lines = lines.with_ansi(colours).with_writer(io::stderr).finish();
            tracing::subscriber::set_global_default(lines.with(targets))
        }
    };
    started.map_err(|_| LogError::Twice)?;
    if file.is_some() {
        // It also goes to standard error, as always.
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tracing::error!("{panic}");
            usual(panic);
        }));
    }
    Ok(())
}

/// Which part may write how much.
fn targets(chatty: &[&str], level: LevelFilter) -> Targets {
    let hushed = if level >= LevelFilter::DEBUG { level } else { level.min(LevelFilter::WARN) };
    let all = Targets::new().with_default(level);
    chatty.iter().fold(all, |targets, part| targets.with_target(*part, hushed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn chatty_parts_are_heard_when_something_is_wrong_or_when_asked_for() {
        let table = [
            (LevelFilter::ERROR, Level::ERROR, true),
            (LevelFilter::ERROR, Level::WARN, false),
            (LevelFilter::INFO, Level::WARN, true),
            (LevelFilter::INFO, Level::INFO, false),
            (LevelFilter::DEBUG, Level::DEBUG, true),
            (LevelFilter::DEBUG, Level::TRACE, false),
        ];
        for (level, line, written) in table {
            let targets = targets(&["noise"], level);
            assert_eq!(targets.would_enable("noise::deep", &line), written, "{level} {line}");
            assert_eq!(targets.would_enable("ours", &line), line <= level, "{level} {line}");
        }
    }

    #[test]
    fn every_level_is_a_filter() {
        for level in LOG_LEVELS {
            assert!(level.parse::<LevelFilter>().is_ok(), "{level}");
        }
        assert!(matches!(init_logging("loud", None), Err(LogError::Level { .. })));
        assert!(matches!(init_logging("3", None), Err(LogError::Level { .. })), "numbers are no names");
    }

    #[test]
    fn the_log_goes_to_its_file_and_is_set_up_once() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing/log");
        assert!(matches!(init_logging("info", Some(&missing)), Err(LogError::File { .. })));
        let path = dir.path().join("log");
        std::fs::write(&path, "earlier\n").unwrap();
        init_logging("info", Some(&path)).unwrap();
        tracing::info!(number = 7, "loud enough");
        tracing::debug!("too quiet");
        assert!(matches!(init_logging("info", None), Err(LogError::Twice)));
        let log = std::fs::read_to_string(&path).unwrap();
        assert!(log.starts_with("earlier\n"), "{log}");
        // Other tests of this process may log, too.
        assert!(
            log.lines().any(|line| line.contains("INFO") && line.ends_with("loud enough number=7")),
            "{log}"
        );
        assert!(!log.contains("too quiet"), "{log}");
    }
}
