//! What a machine must offer for these tests, and what to do where it does not.

use std::io::Write;
use std::path::Path;

use crate::tool::{self, Tool};

/// Something a test needs and the machine lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// Mounting needs root.
    #[error("not root")]
    Root,
    /// No `/dev/fuse`.
    #[error("no /dev/fuse")]
    Fuse,
    /// No `/dev/loop-control`.
    #[error("no /dev/loop-control")]
    Loop,
    /// A program is not installed.
    #[error("no {}, which is in the Debian package {}", .0.program, .0.package)]
    Tool(Tool),
}

/// All that is missing on this machine for disks that forget and RAM media.
pub fn lacks() -> Vec<Lack> {
    let mut lacks = Vec::new();
    if !rustix::process::geteuid().is_root() {
        lacks.push(Lack::Root);
    }
    if !Path::new("/dev/fuse").exists() {
        lacks.push(Lack::Fuse);
    }
    if !Path::new("/dev/loop-control").exists() {
        lacks.push(Lack::Loop);
    }
    lacks.extend(tool::ALL.into_iter().filter(|tool| !tool.is_installed()).map(Lack::Tool));
    lacks
}

/// Whether the test `name` can run here. If not, says so in one line.
///
/// # Panics
/// If it cannot run where nothing may be skipped: `VSTORAGE_REQUIRE_ALL` or `CI` is set.
pub fn can_run(name: &str) -> bool {
    let lacks = lacks();
    if lacks.is_empty() {
        return true;
    }
    let reasons = lacks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let required = ["VSTORAGE_REQUIRE_ALL", "CI"].into_iter().find(|name| std::env::var_os(name).is_some());
    if let Some(variable) = required {
        panic!("{name} cannot run here ({reasons}) and {variable} forbids skipping");
    }
    // Not by macro: the test harness shows what macros print only for tests that fail.
    let _ = writeln!(std::io::stderr(), "skipped: {name} ({reasons})");
    false
}
