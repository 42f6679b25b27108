//! One case in its directory: what it may do, and the lines it leaves behind, which are compared.

use std::fmt::Debug;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// When a case goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// At once, alone.
    Plain,
    /// At once, with a second process.
    Pair,
    /// After the file system was unmounted and mounted again.
    Remount,
    /// After the file system's daemon was killed and started again.
    Crash,
}

/// A case.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) class: Class,
    pub(crate) run: fn(&mut Trial),
    /// The second process, or what happens afterwards.
    pub(crate) then: Option<fn(&mut Trial)>,
}

/// A case for one process.
pub(crate) const fn plain(name: &'static str, run: fn(&mut Trial)) -> Case {
    Case { name, class: Class::Plain, run, then: None }
}

/// A case for two processes.
pub(crate) const fn pair(name: &'static str, run: fn(&mut Trial), other: fn(&mut Trial)) -> Case {
    Case { name, class: Class::Pair, run, then: Some(other) }
}

/// A case that looks again after a remount.
pub(crate) const fn remount(name: &'static str, run: fn(&mut Trial), then: fn(&mut Trial)) -> Case {
    Case { name, class: Class::Remount, run, then: Some(then) }
}

/// A case that looks again after a crash.
pub(crate) const fn crash(name: &'static str, run: fn(&mut Trial), then: fn(&mut Trial)) -> Case {
    Case { name, class: Class::Crash, run, then: Some(then) }
}

/// A case under way.
pub(crate) struct Trial {
    case: &'static str,
    dir: PathBuf,
    pub(crate) lines: Vec<String>,
}

/// What a line that is no result begins with.
const MEET: &str = "\u{1}meet";
/// What a line begins with that says that a case did not run to its end: then it has shown nothing, wherever it ran.
pub(crate) const BROKEN: &str = "broken: ";

impl Trial {
    /// In a directory that is there.
    pub(crate) fn new(case: &'static str, dir: PathBuf) -> Self {
        Self { case, dir, lines: Vec::new() }
    }

    /// A path in the case's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.dir.clone() } else { self.dir.join(name) }
    }

    /// Leaves a line.
    pub(crate) fn say(&mut self, what: &str, value: impl Debug) {
        self.lines.push(format!("{what}: {value:?}"));
    }

    /// Leaves the outcome of a call, and gives what it returned.
    pub(crate) fn note<T: Debug>(&mut self, what: &str, outcome: rustix::io::Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.say(what, &value);
                Some(value)
            }
            Err(error) => {
                self.fail(what, error);
                None
            }
        }
    }

    /// Leaves whether a call succeeded.
    pub(crate) fn did<T>(&mut self, what: &str, outcome: rustix::io::Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.lines.push(format!("{what}: ok"));
                Some(value)
            }
            Err(error) => {
                self.fail(what, error);
                None
            }
        }
    }

    fn fail(&mut self, what: &str, error: Errno) {
        let error = std::io::Error::from_raw_os_error(error.raw_os_error());
        self.lines.push(format!("{what}: {error}"));
    }

    /// Makes a file with this content. What cannot be made is seen by what follows.
    pub(crate) fn make(&mut self, name: &str, content: &[u8]) {
        if let Err(error) = std::fs::write(self.path(name), content) {
            self.lines.push(format!("make {name}: {error}"));
        }
    }

    /// Makes a directory.
    pub(crate) fn make_dir(&mut self, name: &str) {
        if let Err(error) = std::fs::create_dir(self.path(name)) {
            self.lines.push(format!("make directory {name}: {error}"));
        }
    }

    /// Opens a file; new ones get 0644.
    pub(crate) fn open(&self, name: &str, flags: OFlags) -> rustix::io::Result<File> {
        rustix::fs::open(self.path(name), flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644)).map(File::from)
    }

    /// Opens a file that must open.
    pub(crate) fn file(&self, name: &str, flags: OFlags) -> File {
        match self.open(name, flags) {
            Ok(file) => file,
            Err(error) => panic!("{}: opening {name}: {error}", self.case),
        }
    }

    /// Leaves the content of a file, or a short sum of a long one.
    pub(crate) fn show(&mut self, name: &str) {
        match std::fs::read(self.path(name)) {
            Ok(bytes) => self.show_bytes(name, &bytes),
            Err(error) => self.lines.push(format!("content of {name}: {error}")),
        }
    }

    /// Leaves bytes, or a short sum of many.
    pub(crate) fn show_bytes(&mut self, what: &str, bytes: &[u8]) {
        if bytes.len() <= 64 {
            self.lines.push(format!("{what} = {}", bytes.escape_ascii()));
        } else {
            let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| {
                (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
            let zeroes = bytes.iter().filter(|byte| **byte == 0).count();
            self.lines.push(format!("{what} = {} bytes, {zeroes} zero, sum {sum:016x}", bytes.len()));
        }
    }

    /// Leaves what `lstat` says that is the same on every file system.
    pub(crate) fn stat(&mut self, name: &str) {
        let path = self.path(name);
        let stat = rustix::fs::lstat(path).map(|stat| shape(&stat));
        self.note(&format!("stat {name}"), stat);
    }

    /// Leaves the names in a directory.
    pub(crate) fn list(&mut self, name: &str) {
        let mut names = Vec::new();
        match rustix::fs::Dir::new(match self.open(name, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(dir) => dir,
            Err(error) => return self.fail(&format!("list {name}"), error),
        }) {
            Ok(dir) => {
                for entry in dir {
                    match entry {
                        Ok(entry) => names.push(format!(
                            "{} {:?}",
                            entry.file_name().to_bytes().escape_ascii(),
                            entry.file_type()
                        )),
                        Err(error) => return self.fail(&format!("list {name}"), error),
                    }
                }
            }
            Err(error) => return self.fail(&format!("list {name}"), error),
        }
        names.sort();
        self.say(&format!("list {name}"), names);
    }

    /// Starts the case's second process.
    pub(crate) fn partner(&self) -> Partner {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.args(["--partner", self.case]).arg(&self.dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a second process of this program");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Partner { child, input, output: BufReader::new(output), lines: Vec::new() }
    }

    /// In the second process: waits until the first one says to go on.
    pub(crate) fn meet(&mut self) {
        println!("{MEET}");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("the first process lives");
    }

    /// Becomes somebody without privileges.
    pub(crate) fn become_user(&mut self, uid: u32, gid: u32) {
        use rustix::process::{Gid, Uid};
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        self.did("groups", rustix::thread::set_thread_groups(&[]));
        self.did("group", rustix::thread::set_thread_res_gid(Some(gid), Some(gid), Some(gid)));
        self.did("user", rustix::thread::set_thread_res_uid(Some(uid), Some(uid), Some(uid)));
    }
}

/// What `stat` says that is the same on every file system. The size of a directory is not.
pub(crate) fn shape(stat: &Stat) -> String {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let size = if kind == FileType::Directory { -1 } else { stat.st_size };
    format!(
        "{kind:?} {:04o} links {} owner {}:{} size {size} device {:#x}",
        stat.st_mode & 0o7777,
        stat.st_nlink,
        stat.st_uid,
        stat.st_gid,
        stat.st_rdev
    )
}

/// The second process.
pub(crate) struct Partner {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    lines: Vec<String>,
}

impl Partner {
    /// Waits until it wants to meet.
    pub(crate) fn meet(&mut self) {
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("a pipe");
            assert!(read > 0, "the second process has ended: {:?}", self.lines);
            if line.trim_end() == MEET {
                return;
            }
            self.lines.push(line.trim_end().to_owned());
        }
    }

    /// Lets it go on.
    pub(crate) fn go(&mut self) {
        writeln!(self.input).expect("the second process lives");
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// Waits until it has ended, and takes over its lines.
    pub(crate) fn end(mut self, trial: &mut Trial) {
        drop(self.input);
        for line in self.output.lines() {
            self.lines.push(line.expect("a pipe"));
        }
        let status = self.child.wait().expect("it is our child");
        trial.lines.extend(self.lines.into_iter().map(|line| format!("other {line}")));
        if !status.success() {
            trial.lines.push(format!("{BROKEN}the second process ended with {status}"));
        }
    }
}

/// Runs the second process of a case; prints its lines.
pub(crate) fn run_partner(case: &Case, dir: &Path) {
    // From within: whoever it becomes may not reach what is above.
    std::env::set_current_dir(dir).expect("the directory of the case");
    let mut trial = Trial::new(case.name, PathBuf::from("."));
    if let Some(then) = case.then {
        then(&mut trial);
    }
    trial.lines.iter().for_each(|line| println!("{line}"));
}
