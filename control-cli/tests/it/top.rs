//! `top` on a terminal, and without one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use wire::cluster::{ClusterStat, ClusterStatReply, GetEvents, GetEventsReply};

use crate::ask::{cluster, event};
use crate::fake_mds::{FakeMds, run};
use crate::host::VSTORAGE;
use crate::make::terminal;

/// How long something may take to show, in seconds.
const PATIENCE_S: i64 = 60;

/// A command on a terminal of its own.
struct Session {
    ours: File,
    theirs: OwnedFd,
    child: Child,
    shown: String,
}

impl Session {
    fn start(mut command: Command) -> Self {
        let (ours, theirs) = terminal();
        let size = Winsize { ws_row: 30, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).unwrap();
        let side = || theirs.try_clone().unwrap();
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        Self { ours, theirs, child, shown: String::new() }
    }

    /// Reads until the terminal shows this; forgets what it showed before.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        let patience = Timespec { tv_sec: PATIENCE_S, tv_nsec: 0 };
        while !self.shown.contains(text) {
            let ready = poll(&mut [PollFd::new(&self.ours, PollFlags::IN)], Some(&patience)).unwrap();
            assert!(ready > 0, "no {text:?} in {:?}", self.shown);
            let mut bytes = [0; 4096];
            let length = self.ours.read(&mut bytes).unwrap();
            self.shown.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
        self.shown.clear();
    }

    /// Waits for the end; the terminal is as it was.
    #[track_caller]
    fn ends(&mut self) -> Option<i32> {
        self.shows("\x1b[?1049l");
        let code = self.child.wait().unwrap().code();
        let modes = tcgetattr(&self.theirs).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG), "{modes:?}");
        code
    }
}

/// Holds a conversation with `top` beside the executor.
async fn on_terminal(mds: &FakeMds, talk: impl FnOnce(&mut Session) -> Option<i32> + Send + 'static) {
    let command = mds.host.command(VSTORAGE, &["-c", "stor1", "top", "--delay", "1"]);
    let code = rt::blocking::run(move || talk(&mut Session::start(command))).await.unwrap();
    assert_eq!(code, Some(0));
}

async fn healthy() -> FakeMds {
    let mds = FakeMds::start().await;
    mds.say::<ClusterStat>(&cluster());
    mds.say::<GetEvents>(&GetEventsReply { events: vec![event(1), event(2)], last_id: 2 });
    mds
}

#[test]
fn keys_show_more_and_other_things() {
    run(async {
        let mds = healthy().await;
        on_terminal(&mds, |top| {
            top.shows("Cluster 'stor1': healthy");
            top.shows("q: quit");
            for (key, text) in [
                ("v", "Sync rate: "),
                ("w", "LOCATION"),
                ("d", "smartctl"),
                ("i", "TIER  FLAGS  READ"),
                ("V", "v: more"),
            ] {
                top.ours.write_all(key.as_bytes()).unwrap();
                top.shows(text);
            }
            top.ours.write_all(b"q").unwrap();
            top.ends()
        })
        .await;
    });
}

#[test]
fn news_are_shown_and_a_server_that_is_silent_is_waited_for() {
    run(async {
        let mds = FakeMds::start().await;
        mds.say::<GetEvents>(&GetEventsReply::default());
        mds.say::<ClusterStat>(&cluster());
        mds.hold::<ClusterStat>();
        mds.say::<ClusterStat>(&ClusterStatReply { name: "renamed".into(), ..cluster() });
        let command = mds.host.command(VSTORAGE, &["-c", "stor1", "--timeout", "2", "top", "--delay", "1"]);
        let code = rt::blocking::run(move || {
            let mut top = Session::start(command);
            top.shows("Cluster 'stor1'");
            top.shows("not up to date: ");
            top.shows("Cluster 'renamed'");
            top.ours.write_all(b"\x03").unwrap();
            top.ends()
        });
        assert_eq!(code.await.unwrap(), Some(0));
    });
}

#[test]
fn a_signal_gives_the_terminal_back() {
    run(async {
        let mds = healthy().await;
        on_terminal(&mds, |top| {
            top.shows("q: quit");
            kill_process(Pid::from_child(&top.child), Signal::TERM).unwrap();
            top.ends()
        })
        .await;
    });
}

#[test]
fn without_a_terminal_the_state_is_shown_once() {
    run(async {
        let mds = healthy().await;
        let ended = mds.vstorage(&["top"]).await;
        assert_eq!(ended.stderr, "connected to MDS#7\n");
        let text = ended.done();
        assert!(text.starts_with("Cluster 'stor1': healthy\n") && text.contains("\nCSID  "), "{text}");
        assert!(!text.contains("Sync rate") && !text.contains('\x1b'), "{text}");
        let all = mds.vstorage(&["top", "-v"]).await;
        assert_eq!(all.done(), mds.vstorage(&["stat"]).await.done());
        assert_eq!(mds.vstorage(&["top", "--json"]).await.json()["cluster"], "stor1");
    });
}
