//! Where results go: standard output, as text or as JSON. Messages go to standard error.

use std::io::Write;

use serde::Serialize;

use crate::error::Error;
use crate::table::{self, Row};

/// Where results go.
pub(crate) struct Output {
    json: bool,
    to: Box<dyn Write>,
}

impl Output {
    /// Standard output.
    pub(crate) fn standard(json: bool) -> Self {
        Self { json, to: Box::new(std::io::stdout()) }
    }

    /// Whether JSON is wanted.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A list: a table with a line per row, or a JSON array.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub(crate) fn rows<R: Row>(&mut self, rows: &[R]) -> Result<(), Error> {
        self.value(&rows, || table::draw(rows))
    }

    /// One thing: the text, or a JSON value.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub(crate) fn value<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        let text = if self.json { json_text(serde_json::to_string_pretty(value)) + "\n" } else { text() };
        self.write(&text)
    }

    /// One thing of a series that has no end: the text, or one line of JSON.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub(crate) fn item<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        let text = if self.json { json_text(serde_json::to_string(value)) + "\n" } else { text() };
        self.write(&text)
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        self.to.write_all(text.as_bytes()).and_then(|()| self.to.flush()).map_err(Error::Output)
    }

    /// A message for the operator, on standard error.
    pub(crate) fn note(&self, text: &str) {
        // Nobody is left to tell if that fails.
        let _lost = writeln!(std::io::stderr(), "{text}");
    }
}

/// Our views have string keys and numbers that JSON knows, so that they can always be written.
fn json_text(written: Result<String, serde_json::Error>) -> String {
    written.unwrap_or_else(|error| unreachable!("a view is not valid JSON: {error}"))
}
