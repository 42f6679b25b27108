//! The log of this program: what the layers below have to say, on standard error or in a file.

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::filter::LevelFilter;

use crate::error::Error;

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogLevel {
    /// Failures.
    Error,
    /// And what may lead to one.
    Warn,
    /// And what happens.
    Info,
    /// And how.
    Debug,
    /// And every step.
    Trace,
}

impl LogLevel {
    /// Its name, as the daemons take it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// Starts logging. Without a level, failures go to standard error, and all that happens goes to a file.
///
/// # Errors
/// [`Error::LogFile`].
pub(crate) fn start(level: Option<LogLevel>, file: Option<&Path>) -> Result<(), Error> {
    let usual = if file.is_some() { LogLevel::Info } else { LogLevel::Error };
    let builder = tracing_subscriber::fmt().with_max_level(level.unwrap_or(usual).filter());
    match file {
        Some(path) => {
            let opened = File::options().create(true).append(true).open(path);
            let file = opened.map_err(|error| Error::LogFile { path: path.to_owned(), error })?;
            builder.with_ansi(false).with_writer(Mutex::new(file)).init();
        }
        None => builder.with_writer(std::io::stderr).init(),
    }
    Ok(())
}
