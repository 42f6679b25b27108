//! Daemons made of shell scripts.

use std::os::unix::process::ExitStatusExt;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("vstorage-process-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("writable");
        Self(dir)
    }

    fn script(&self, script: &str) -> DaemonSpec {
        DaemonSpec::new("sh", self.0.join("log")).args(["-c", script])
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.0.join("log")).expect("there")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_line_is_awaited_and_everything_is_logged() {
    let scratch = Scratch::new("line");
    let script =
        scratch.script("echo first; echo oops >&2; echo ready on $PORT; exec sleep 1000").env("PORT", "7");
    let mut daemon = script.start().expect("starts");
    assert_eq!(daemon.wait_line("ready", LIMIT).expect("prints"), "ready on 7");
    assert!(daemon.is_running());
    let status = daemon.kill().expect("dies");
    assert_eq!(status.signal(), Some(9));
    assert_eq!(daemon.kill().expect("is dead"), status, "killing the dead is no error");
    assert!(!daemon.is_running());
    let log = scratch.log();
    assert!(log.contains("first\n") && log.contains("oops\n") && log.contains("ready on 7\n"), "{log}");
}

#[test]
fn a_daemon_is_the_process_that_was_started() {
    let scratch = Scratch::new("same");
    let mut daemon = scratch.script("echo pid $$ $#").args(["a b", "", "$c"]).start().expect("starts");
    // The script's name comes first and is not counted.
    let line = daemon.wait_line("pid", LIMIT).expect("prints");
    assert_eq!(line, format!("pid {} 2", daemon.pid()), "no shell in between, arguments as they are");
}

#[test]
fn an_orphan_does_not_start() {
    // A parent that is already another one: what a daemon sees whose test died before it could ask for the signal.
    let status =
        Command::new("sh").args(["-c", UNLESS_ORPHANED, "1", "sh", "-c", "exit 0"]).status().expect("starts");
    assert!(!status.success());
    let status = Command::new("sh")
        .args(["-c", UNLESS_ORPHANED, &std::process::id().to_string(), "sh", "-c", "exit 0"])
        .status()
        .expect("starts");
    assert!(status.success());
}

#[test]
fn an_early_end_shows_the_log() {
    let scratch = Scratch::new("early");
    let mut daemon = scratch.script("echo cannot find my disk >&2; exit 4").start().expect("starts");
    let error = daemon.wait_line("ready", LIMIT).expect_err("it ends");
    assert!(
        matches!(&error, ProcessError::Ended { status, log_tail, .. }
            if status.code() == Some(4) && log_tail.contains("cannot find my disk")),
        "{error}"
    );
    let mut absent =
        DaemonSpec::new(scratch.0.join("absent"), scratch.0.join("log")).start().expect("setpriv starts");
    let error = absent.wait_line("ready", LIMIT).expect_err("there is no such program");
    assert!(error.to_string().contains("absent: not found"), "{error}");
}

#[test]
fn silence_has_a_limit() {
    let scratch = Scratch::new("silent");
    let mut daemon = scratch.script("echo something else; exec sleep 1000").start().expect("starts");
    let error = daemon.wait_line("ready", Duration::from_millis(100)).expect_err("it never says so");
    assert!(matches!(error, ProcessError::Silent { .. }), "{error}");
    let error = daemon.wait_exit(Duration::from_millis(10)).expect_err("it sleeps");
    assert!(matches!(error, ProcessError::StillRuns { .. }), "{error}");
}

#[test]
fn sigterm_is_an_orderly_end() {
    let scratch = Scratch::new("term");
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
    let mut daemon = scratch.script(script).start().expect("starts");
    daemon.wait_line("ready", LIMIT).expect("prints");
    assert!(daemon.terminate(LIMIT).expect("ends").success());
    daemon.wait_line("bye", LIMIT).expect("said so");
    assert!(matches!(daemon.signal(Signal::TERM), Err(ProcessError::Gone { .. })));
}

#[test]
fn pause_stands_still_and_resume_goes_on() {
    let scratch = Scratch::new("pause");
    let mut daemon = scratch.script("while :; do echo tick; sleep 0.01; done").start().expect("starts");
    daemon.wait_line("tick", LIMIT).expect("prints");
    for _ in 0..3 {
        daemon.pause().expect("stops");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).expect("lives");
        assert!(stat.contains(") T "), "{stat}");
        daemon.resume().expect("continues");
        daemon.wait_line("tick", LIMIT).expect("prints again");
    }
    daemon.pause().expect("stops");
    assert_eq!(daemon.kill().expect("a stopped process dies too").signal(), Some(9));
}

#[test]
fn dropping_kills_the_whole_group() {
    let scratch = Scratch::new("drop");
    let mut daemon = scratch.script("sleep 1000 & echo child $!; wait").start().expect("starts");
    let line = daemon.wait_line("child", LIMIT).expect("prints");
    let grandchild: u32 = line.trim_start_matches("child ").parse().expect("a pid");
    let pid = daemon.pid();
    assert!(is_alive(pid) && is_alive(grandchild));
    drop(daemon);
    assert!(!is_alive(pid));
    assert!(poll_until(LIMIT, || (!is_alive(grandchild)).then_some(())).is_some());
}

#[test]
fn a_daemon_outlives_the_thread_that_started_it() {
    let scratch = Scratch::new("thread");
    let script = scratch.script("echo ready; sleep 0.2; echo still here; exec sleep 1000");
    let mut daemon =
        std::thread::scope(|scope| scope.spawn(|| script.start()).join()).expect("no panic").expect("starts");
    daemon.wait_line("still here", LIMIT).expect("the thread's end does not kill it");
}
