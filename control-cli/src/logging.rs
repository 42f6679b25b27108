//! The log of this program: what the layers below have to say, on standard error or in a file.

use std::path::Path;

use link::daemon::{LogError, init_logging};

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogLevel {
    /// Nothing.
    Off,
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
    /// Its name, as the daemons take it, too.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Starts logging. Without a level, failures go to standard error, and all that happens goes to a file.
///
/// # Errors
/// [`LogError`].
pub(crate) fn start(level: Option<LogLevel>, file: Option<&Path>) -> Result<(), LogError> {
    let usual = if file.is_some() { LogLevel::Info } else { LogLevel::Error };
    init_logging(level.unwrap_or(usual).name(), file)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn the_levels_are_those_of_the_daemons() {
        let names: Vec<&str> = LogLevel::value_variants().iter().map(|level| level.name()).collect();
        assert_eq!(names, link::daemon::LOG_LEVELS);
    }
}
