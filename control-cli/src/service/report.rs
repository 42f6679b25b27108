//! What became of each service: a line as it happens, or a JSON array at the end.

use serde::Serialize;

use super::Service;
use crate::error::Error;
use crate::output::Output;
use crate::table::printable;

/// What became of a service. The names are part of the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fate {
    /// It is ready.
    Started,
    /// It ran already.
    AlreadyRunning,
    /// It runs and has not said that it is ready.
    NotReady,
    /// It could not be started or has ended at once.
    Failed,
    /// It has ended.
    Stopped,
    /// It did not run.
    NotRunning,
    /// It was told to stop and has not yet.
    StillRunning,
    /// It did not stop in time and was killed.
    Killed,
}

impl Fate {
    fn text(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::AlreadyRunning => "already running",
            Self::NotReady => "not ready yet",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::NotRunning => "not running",
            Self::StillRunning => "still running",
            Self::Killed => "killed",
        }
    }

    /// Whether it is what was asked for.
    fn is_good(self) -> bool {
        !matches!(self, Self::NotReady | Self::Failed | Self::StillRunning)
    }
}

/// What became of one service.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    kind: &'static str,
    dir: String,
    state: Fate,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl Report {
    /// A report.
    pub(crate) fn new(service: &Service, state: Fate) -> Self {
        let dir = service.dir.display().to_string();
        Self { kind: service.kind.word(), dir, state, pid: None, message: None }
    }

    /// With the number of its process.
    pub(crate) fn pid(self, pid: i32) -> Self {
        Self { pid: Some(pid), ..self }
    }

    /// With more to say.
    pub(crate) fn message(self, text: impl Into<String>) -> Self {
        Self { message: Some(text.into()).filter(|text| !text.is_empty()), ..self }
    }

    fn line(&self) -> String {
        let pid = self.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        let message = self
            .message
            .iter()
            .flat_map(|text| text.lines())
            .map(printable)
            .collect::<Vec<_>>()
            .join("\n    ");
        let colon = if message.is_empty() { "" } else { ": " };
        format!("{} {}: {}{pid}{colon}{message}\n", self.kind, printable(&self.dir), self.state.text())
    }
}

/// Collects reports.
pub(crate) struct Reports<'a> {
    output: &'a mut Output,
    done: Vec<Report>,
}

impl<'a> Reports<'a> {
    /// None yet.
    pub(crate) fn new(output: &'a mut Output) -> Self {
        Self { output, done: Vec::new() }
    }

    /// One more.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub(crate) fn add(&mut self, report: Report) -> Result<(), Error> {
        if !self.output.is_json() {
            self.output.item(&report, || report.line())?;
        }
        self.done.push(report);
        Ok(())
    }

    /// All are there.
    ///
    /// # Errors
    /// [`Error::Reported`] when one is not what was asked for; [`Error::Output`].
    pub(crate) fn finish(self) -> Result<(), Error> {
        if self.output.is_json() {
            self.output.value(&self.done, String::new)?;
        }
        if self.done.iter().all(|report| report.state.is_good()) { Ok(()) } else { Err(Error::Reported) }
    }
}

#[cfg(test)]
mod tests {
    use link::cluster_dir::ServiceKind;

    use super::*;

    #[test]
    fn a_report_is_a_line_or_an_object() {
        let service =
            Service { cluster: "stor1".into(), kind: ServiceKind::Cs, dir: "/vstorage/stor1-cs".into() };
        let report = Report::new(&service, Fate::Started).pid(7).message("listens on 10.0.0.1:3000");
        assert_eq!(report.line(), "cs /vstorage/stor1-cs: started (pid 7): listens on 10.0.0.1:3000\n");
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(
            json,
            r#"{"kind":"cs","dir":"/vstorage/stor1-cs","state":"started","pid":7,"message":"listens on 10.0.0.1:3000"}"#
        );
        let report = Report::new(&service, Fate::NotRunning).message("");
        assert_eq!(report.line(), "cs /vstorage/stor1-cs: not running\n");
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"kind":"cs","dir":"/vstorage/stor1-cs","state":"not_running"}"#
        );
        let report = Report::new(&service, Fate::Failed).message("it ended\nsee its log\x07");
        assert_eq!(report.line(), "cs /vstorage/stor1-cs: failed: it ended\n    see its log\\u{7}\n");
    }
}
