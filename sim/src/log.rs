//! What the daemons log, as lines of the trace.

use std::io;

use tracing::Level;

/// Sends every log message of this process into the trace of the simulation that runs.
pub fn into_trace() {
    tracing_subscriber::fmt()
        .with_max_level(Level::DEBUG)
        .with_ansi(false)
        .without_time()
        .with_writer(Line::default)
        .init();
}

/// One message.
#[derive(Debug, Default)]
struct Line(Vec<u8>);

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        rt::sim::trace(|| String::from_utf8_lossy(&self.0).trim().to_owned());
    }
}
