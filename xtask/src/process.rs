//! Running other programs: their output line by line, a limit to their time, and nothing left behind when it is up.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};

use crate::error::Error;
use crate::leader;
use crate::stopwatch::Stopwatch;

/// How often a running program is looked at, besides whenever it prints.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the output of a program that has ended is waited for. A process it left behind may hold it open for ever.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// How long killed processes may take to end.
const ENDING_MAX: Duration = Duration::from_secs(10);

/// What a program may take before it is killed together with its descendants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From start to end.
    pub(crate) total: Duration,
    /// Between two lines of its standard output.
    pub(crate) silence: Option<Duration>,
}

/// Which limit a program has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    Total,
    Silence(Duration),
}

impl Limits {
    /// What has been passed `now` when the last line came at `last_line`, both counted from the start.
    fn passed(self, now: Duration, last_line: Duration) -> Option<Passed> {
        if now > self.total {
            return Some(Passed::Total);
        }
        self.silence.filter(|&limit| now > last_line + limit).map(Passed::Silence)
    }
}

/// Prints a line of a program's output as our own.
pub(crate) fn echo(line: &str) {
    say!("{line}");
}

/// Like [`stream`], and anything but success is an error.
pub(crate) fn succeed(
    command: &mut Command,
    limits: Limits,
    each_line: impl FnMut(&str),
) -> Result<(), Error> {
    let status = stream(command, limits, each_line)?;
    if status.success() { Ok(()) } else { Err(Error::Exit { program: shown(command), status }) }
}

/// Like [`succeed`], for a program that leaves something broken behind when it is killed: although the run is told to end, it
/// is waited for, within its limits.
pub(crate) fn complete(
    command: &mut Command,
    limits: Limits,
    each_line: impl FnMut(&str),
) -> Result<(), Error> {
    let status = stream_unless(command, limits, || false, each_line)?;
    if status.success() { Ok(()) } else { Err(Error::Exit { program: shown(command), status }) }
}

/// Runs `command` to its end and hands each line of its standard output to `each_line` as it appears; standard
/// error goes where ours goes.
pub(crate) fn stream(
    command: &mut Command,
    limits: Limits,
    each_line: impl FnMut(&str),
) -> Result<ExitStatus, Error> {
    stream_unless(command, limits, leader::is_gone, each_line)
}

/// As [`stream`]; the program is killed when `unwanted` says that nobody waits for it any more.
fn stream_unless(
    command: &mut Command,
    limits: Limits,
    unwanted: impl Fn() -> bool,
    mut each_line: impl FnMut(&str),
) -> Result<ExitStatus, Error> {
    // What we printed so far stays above what the program prints.
    let _ = std::io::stdout().flush();
    let program = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Spawn { program: program.clone(), source })?;
    let lines = read_lines(child.stdout.take());
    let result = follow(&mut child, &lines, limits, &program, unwanted, &mut each_line);
    if result.is_err() {
        kill_tree(&mut child);
    }
    result
}

/// Runs a program that clears away, also when the run was ended.
pub(crate) fn clear_away(command: &mut Command, limit: Duration) -> Result<(), Error> {
    let program = shown(command);
    let child = command.stdin(Stdio::null()).spawn();
    let mut child = child.map_err(|source| Error::Spawn { program: program.clone(), source })?;
    match wait_within(&mut child, limit) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(Error::Exit { program, status }),
        Ok(None) => {
            kill_tree(&mut child);
            Err(Error::OutOfTime { program, limit })
        }
        Err(source) => Err(Error::Wait { program, source }),
    }
}

/// Waits for a child's end, but no longer than the limit: `None` then.
fn wait_within(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let clock = Stopwatch::start();
    loop {
        let status = child.try_wait()?;
        if status.is_some() || clock.elapsed() > limit {
            return Ok(status);
        }
        pause(LOOK_EVERY);
    }
}

/// The body of [`stream_unless`]. After an error the child may still run.
fn follow(
    child: &mut Child,
    lines: &Receiver<String>,
    limits: Limits,
    program: &str,
    unwanted: impl Fn() -> bool,
    each_line: &mut impl FnMut(&str),
) -> Result<ExitStatus, Error> {
    let clock = Stopwatch::start();
    let mut last_line = Duration::ZERO;
    let mut ended: Option<(ExitStatus, Duration)> = None;
    loop {
        match lines.recv_timeout(LOOK_EVERY) {
            Ok(line) => {
                each_line(&line);
                last_line = clock.elapsed();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => match ended {
                Some((status, _)) => return Ok(status),
                None => pause(LOOK_EVERY),
            },
        }
        let now = clock.elapsed();
        if let Some((status, at)) = ended {
            if now > at + DRAIN_MAX {
                complain!("{program} has ended but left a process behind that holds its output open");
                return Ok(status);
            }
            continue;
        }
        let status = child.try_wait().map_err(|source| Error::Wait { program: program.into(), source })?;
        ended = status.map(|status| (status, now));
        if ended.is_some() {
            continue;
        }
        if unwanted() {
            return Err(Error::Ended { program: program.into() });
        }
        match limits.passed(now, last_line) {
            Some(Passed::Total) => {
                return Err(Error::OutOfTime { program: program.into(), limit: limits.total });
            }
            Some(Passed::Silence(limit)) => return Err(Error::Silent { program: program.into(), limit }),
            None => {}
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a child that closed its output but goes on can only be polled")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Lines of a pipe, without their ends. The reader is on its own: a pipe that somebody else holds open never ends.
#[allow(
    clippy::disallowed_methods,
    reason = "xtask runs outside the executor; a blocked pipe needs a thread"
)]
fn read_lines(pipe: Option<ChildStdout>) -> Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1024);
    let Some(pipe) = pipe else { return receiver };
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(length) if length > 0) {
            let end = line.strip_suffix(b"\n").unwrap_or(&line);
            if sender.send(String::from_utf8_lossy(end).into_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });
    receiver
}

/// Kills a child and every descendant of it that is known to be one, and waits for the child's end.
fn kill_tree(child: &mut Child) {
    let parents = parents_of_all();
    let mut doomed = vec![child.id()];
    let mut next = 0;
    while let Some(&parent) = doomed.get(next) {
        doomed.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    for pid in doomed {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It may have ended by itself meanwhile.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
    match wait_within(child, ENDING_MAX) {
        Ok(Some(_)) => {}
        Ok(None) => complain!("{} was killed and does not end: it waits in the kernel", child.id()),
        Err(error) => complain!("cannot wait for {}, which was killed: {error}", child.id()),
    }
}

/// From now on processes whose parent has ended are children of this one, so that [`end_orphans`] finds them.
pub(crate) fn adopt_orphans() -> std::io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Kills whatever descendants are left, when no child of ours should run any more: one that stayed would keep whoever waits
/// for our output waiting. Says what they were. One that does not end although it was killed waits in the kernel.
pub(crate) fn end_orphans() {
    let clock = Stopwatch::start();
    let mut named = Vec::new();
    loop {
        let parents = parents_of_all();
        let left: Vec<u32> =
            parents.into_iter().filter(|(_, of)| *of == std::process::id()).map(|(pid, _)| pid).collect();
        if left.is_empty() || clock.elapsed() > ENDING_MAX {
            return;
        }
        for number in left {
            if !named.contains(&number) {
                let words = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
                say!("left behind: {number} {}", String::from_utf8_lossy(&words).replace('\0', " "));
                named.push(number);
            }
            if let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) {
                // It may be ending by itself, but nobody else collects it.
                let _ended = rustix::process::kill_process(pid, Signal::KILL);
                let _collected = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
        pause(LOOK_EVERY);
    }
}

/// Parent of each process of this machine, by `/proc/PID/stat` (proc(5)).
fn parents_of_all() -> BTreeMap<u32, u32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some(parent) = parent_in(&stat) {
            parents.insert(pid, parent);
        }
    }
    parents
}

/// The second field after the name, which stands in parentheses and may itself contain some.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A command as one would type it, cut to its first words.
fn shown(command: &Command) -> String {
    const WORDS_MAX: usize = 4;
    let program = command.get_program().to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or(&program).to_owned();
    let mut words = vec![name];
    words.extend(command.get_args().take(WORDS_MAX).map(|word| word.to_string_lossy().into_owned()));
    if command.get_args().count() > WORDS_MAX {
        words.push("…".into());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Limits = Limits { total: Duration::from_secs(60), silence: None };

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_and_status_arrive() {
        let mut lines = Vec::new();
        let status =
            stream(&mut shell("echo one; printf two; exit 3"), LONG, |line| lines.push(line.to_owned()));
        assert_eq!(status.unwrap().code(), Some(3));
        assert_eq!(lines, ["one", "two"]);
        assert!(matches!(succeed(&mut shell("exit 3"), LONG, echo), Err(Error::Exit { .. })));
        assert!(succeed(&mut shell("true"), LONG, echo).is_ok());
    }

    #[test]
    fn what_must_come_to_its_end_does_though_nobody_waits() {
        let script = "trap 'echo told' TERM; sleep 1; echo done";
        let error = stream_unless(&mut shell("exec sleep 600"), LONG, || true, |_| {}).unwrap_err();
        assert!(matches!(error, Error::Ended { .. }), "{error}");
        let mut lines = Vec::new();
        complete(&mut shell(script), LONG, |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["done"], "it is not even told");
        assert!(matches!(complete(&mut shell("exit 3"), LONG, echo), Err(Error::Exit { .. })));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = stream(&mut Command::new("/nonexistent/fio"), LONG, echo).unwrap_err();
        assert!(error.to_string().contains("cannot start fio"), "{error}");
    }

    #[test]
    fn a_program_over_its_time_is_killed_with_its_children() {
        // Long enough for a shell to start on any machine.
        let limits = Limits { total: Duration::from_secs(5), silence: None };
        let mut grandchild = None;
        let script = "sleep 600 & echo $!; wait";
        let error =
            stream(&mut shell(script), limits, |line| grandchild = line.parse::<u32>().ok()).unwrap_err();
        assert!(matches!(error, Error::OutOfTime { .. }), "{error}");
        assert!(ends(grandchild.unwrap()), "the grandchild still runs");
    }

    /// Whether a process is gone, or is a zombie that its new parent has yet to collect, within a few seconds.
    fn ends(pid: u32) -> bool {
        let gone = || match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')),
            Err(_) => true,
        };
        (0..100).any(|_| {
            pause(LOOK_EVERY);
            gone()
        })
    }

    #[test]
    fn each_line_begins_the_silence_anew() {
        let second = Duration::from_secs(1);
        let limits = Limits { total: 60 * second, silence: Some(7 * second) };
        for (now, last_line, passed) in [
            (7, 0, None),
            (8, 0, Some(Passed::Silence(7 * second))),
            (8, 1, None),
            (60, 59, None),
            (61, 59, Some(Passed::Total)),
        ] {
            assert_eq!(limits.passed(now * second, last_line * second), passed, "{now} {last_line}");
        }
        assert_eq!(LONG.passed(60 * second, Duration::ZERO), None);
    }

    #[test]
    fn a_silent_program_is_killed_and_a_talking_one_is_not() {
        let limits = Limits { silence: Some(Duration::from_millis(700)), ..LONG };
        let error = stream(&mut shell("echo; exec sleep 600"), limits, |_| {}).unwrap_err();
        assert!(matches!(error, Error::Silent { .. }), "{error}");
        let patient = Limits { silence: Some(Duration::from_secs(30)), ..LONG };
        assert!(stream(&mut shell("echo 1; sleep 0.2; echo 2"), patient, |_| {}).unwrap().success());
    }

    #[test]
    fn clearing_away_has_a_limit_and_a_result() {
        let second = Duration::from_secs(1);
        assert!(clear_away(&mut shell("true"), 60 * second).is_ok());
        assert!(matches!(clear_away(&mut shell("exit 3"), 60 * second), Err(Error::Exit { .. })));
        assert!(matches!(clear_away(&mut shell("exec sleep 600"), second), Err(Error::OutOfTime { .. })));
    }

    #[test]
    fn a_process_left_behind_does_not_hold_us_up() {
        let clock = Stopwatch::start();
        let mut left = None;
        let script = "sleep 30 & echo $!";
        let status =
            stream(&mut shell(script), LONG, |line| left = line.parse().ok().and_then(Pid::from_raw))
                .unwrap();
        rustix::process::kill_process(left.unwrap(), Signal::KILL).unwrap();
        assert!(status.success());
        assert!(clock.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent_in("12 (a) b) (c) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in("12"), None);
    }
}
