//! Programs of the system: whether they are there, and running them.

use std::io::Write;
use std::process::{Command, Output};

/// Whether tests must not skip anything.
fn nothing_may_be_skipped() -> bool {
    std::env::var_os("VSTORAGE_REQUIRE_ALL").is_some_and(|value| value == "1")
}

/// Whether only what is quick may run.
pub(crate) fn quick() -> bool {
    std::env::var_os("VSTORAGE_QUICK").is_some_and(|value| value == "1")
}

/// Whether all programs (each with its Debian package) are installed. If not, says so in one line.
///
/// # Panics
/// If one is missing where nothing may be skipped.
pub(crate) fn installed(test: &str, programs: &[(&str, &str)]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<String> = programs
        .iter()
        .filter(|(program, _)| !std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
        .map(|(program, package)| format!("no {program}, which is in the Debian package {package}"))
        .collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(!nothing_may_be_skipped(), "{test} cannot run: {missing}");
    // Not by macro: the test harness shows what macros print only for tests that fail.
    let _unseen = writeln!(std::io::stderr(), "skipped: {test} ({missing})");
    false
}

/// Runs a program to its end while the executor goes on; one that hangs is killed.
pub(crate) async fn output(program: &str, args: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["-k", "2", "60", program]).args(args).env("LC_ALL", "C");
    rt::blocking::run(move || command.output()).await.expect("a thread").expect("timeout is installed")
}

/// Runs a program that must succeed; gives what it printed.
pub(crate) async fn succeed(program: &str, args: &[&str]) -> String {
    let output = output(program, args).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}
