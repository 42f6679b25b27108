//! Events.

use serde::Serialize;
use wire::cluster::{Event, Severity};

use crate::table::{Column, Row};
use crate::units::{full_time, table_time};

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct EventView {
    /// Its number.
    pub(crate) id: u64,
    /// When, in milliseconds since 1970.
    time_ms: u64,
    /// When, for people, UTC.
    time: String,
    /// Part of the cluster.
    sys: String,
    /// `INF`, `WRN` or `ERR`.
    severity: &'static str,
    /// Stable code.
    code: String,
    /// Text.
    message: String,
}

impl From<&Event> for EventView {
    fn from(event: &Event) -> Self {
        let severity = match event.severity() {
            Severity::Unspecified => "???",
            Severity::Info => "INF",
            Severity::Warning => "WRN",
            Severity::Error => "ERR",
        };
        Self {
            id: event.id,
            time_ms: event.time_ms,
            time: full_time(event.time_ms),
            sys: event.sys.clone(),
            severity,
            code: event.code.clone(),
            message: event.message.clone(),
        }
    }
}

impl Row for EventView {
    // The title is as wide as a time: rows are also drawn one by one, below it.
    const COLUMNS: &'static [Column] = &[
        Column::text("TIME (UTC)       "),
        Column::text("SYS"),
        Column::text("SEV"),
        Column::text("MESSAGE"),
    ];

    fn cells(&self) -> Vec<String> {
        // Of one width in every row.
        vec![
            table_time(self.time_ms),
            format!("{:<3}", self.sys),
            self.severity.to_owned(),
            self.message.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::draw;

    #[test]
    fn events_have_the_columns_of_the_guide() {
        let event = |sys: &str, severity: Severity, message: &str| Event {
            id: 7,
            time_ms: 1_393_001_720_000,
            sys: sys.into(),
            severity: severity.into(),
            code: "mds.became_master".into(),
            message: message.into(),
        };
        let rows = [
            event("JRN", Severity::Info, "MDS#1 at 10.29.2.16:2510 is now the master"),
            event("CS", Severity::Error, "CS#1025 found a hard error"),
        ];
        let rows: Vec<EventView> = rows.iter().map(EventView::from).collect();
        let drawn = "\
TIME (UTC)         SYS  SEV  MESSAGE
21-02-14 16:55:20  JRN  INF  MDS#1 at 10.29.2.16:2510 is now the master
21-02-14 16:55:20  CS   ERR  CS#1025 found a hard error
";
        assert_eq!(draw(&rows), drawn);
        let alone: Vec<String> = rows.iter().map(|row| draw(std::slice::from_ref(row))).collect();
        assert!(
            alone.iter().zip(drawn.lines().skip(1)).all(|(text, line)| text.lines().nth(1) == Some(line))
        );
        assert_eq!(
            serde_json::to_string(&rows[0]).unwrap(),
            r#"{"id":7,"time_ms":1393001720000,"time":"2014-02-21 16:55:20 UTC","sys":"JRN","severity":"INF","code":"mds.became_master","message":"MDS#1 at 10.29.2.16:2510 is now the master"}"#
        );
    }
}
