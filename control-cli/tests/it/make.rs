//! Commands that run the daemons' own programs.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use wire::cluster::{ClusterStat, ClusterStatReply};
use wire::namespace::{Attrs, FailureDomain, GetAttr, GetAttrReply};

use crate::ask::{cs_info, effective};
use crate::fake_mds::{FakeMds, ended, run};
use crate::host::Host;

/// Writes down how it was called, and what it was given.
const WITNESS: &str = "\
out=$(dirname \"$VSTORAGE_ETC\")
printf '%s\\n' \"$@\" > \"$out/args\"
cat > \"$out/input\"
env > \"$out/env\"
";

#[test]
fn the_first_metadata_server_is_made_by_its_daemon() {
    let host = Host::new();
    host.install("vstorage-mdsd", WITNESS);
    let args = ["-c", "stor1", "make-mds", "-I", "-a", "10.30.100.101", "-r", "/vstorage/stor1-mds", "-p"];
    host.run_with_input(&args, "pass wörd\nmore\n").done();
    let given =
        "make\n-c\nstor1\n-I\n-a\n10.30.100.101:2510\n-r\n/vstorage/stor1-mds\n--log-level\nwarn\n-p\n";
    assert_eq!(host.read("args"), given);
    assert_eq!(host.read("input"), "pass wörd\n");
    assert!(!host.read("env").contains("wörd"));
}

#[test]
fn without_a_password_nothing_is_run() {
    let host = Host::new();
    host.install("vstorage-mdsd", WITNESS);
    let args = ["-c", "stor1", "make-mds", "-I", "-a", "10.30.100.101", "-r", "/x", "-p"];
    let ended = host.run_with_input(&args, "");
    assert!(ended.failed(1).contains("standard input ended before a password came"), "{ended:?}");
    let ended = host.run_with_input(&args, "\n");
    assert!(ended.failed(1).contains("the password is empty"), "{ended:?}");
    assert_eq!(host.read("args"), "");
}

/// A terminal: our side, and the one for a program.
pub(crate) fn terminal() -> (std::fs::File, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
    let theirs = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
    (ours.into(), theirs)
}

/// Types passwords for a new cluster.
fn type_on_terminal(host: &Host, first: &str, second: &str) -> (Option<i32>, String, String) {
    let args = ["-c", "stor1", "make-mds", "-I", "-a", "10.30.100.101", "-r", "/x", "-p"];
    answer_on_terminal(host, &args, &[("cluster: ", first), ("again: ", second)])
}

/// Answers questions on a terminal; gives the exit code, what the terminal showed, and what came on standard error.
fn answer_on_terminal(host: &Host, args: &[&str], answers: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let (mut ours, theirs) = terminal();
    let mut command = host.command(host.installed(), args);
    let shown_before = theirs.try_clone().unwrap();
    let mut child = command.stdin(theirs).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    drop(command);
    let mut stderr = child.stderr.take().unwrap();
    let mut said = String::new();
    let mut wait_for = |text: &str, said: &mut String| {
        let mut byte = [0];
        while !said.ends_with(text) && stderr.read(&mut byte).unwrap() == 1 {
            said.push(byte[0].into());
        }
    };
    for (question, keys) in answers {
        wait_for(question, &mut said);
        // It may have ended already.
        let _ended = ours.write_all(keys.as_bytes());
    }
    wait_for("\0never", &mut said);
    let code = child.wait().unwrap().code();
    // An echo would have come by now: it is made when keys are typed.
    rustix::io::ioctl_fionbio(&ours, true).unwrap();
    let mut shown = Vec::new();
    let _nothing_more = ours.read_to_end(&mut shown);
    drop(shown_before);
    (code, String::from_utf8_lossy(&shown).into_owned(), said)
}

#[test]
fn a_terminal_is_asked_twice_and_shows_nothing() {
    let host = Host::new();
    host.install("vstorage-mdsd", WITNESS);
    let (code, shown, said) = type_on_terminal(&host, "sekrit\r", "sekrit\r");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(host.read("input"), "sekrit\n");
    assert!(!shown.contains("sekrit") && !said.contains("sekrit"), "{shown:?} {said:?}");
    let (code, _, said) = type_on_terminal(&host, "sekrit\r", "secret\r");
    assert_eq!(code, Some(1));
    assert!(said.contains("the two passwords differ"), "{said}");
    let (code, _, said) = type_on_terminal(&host, "sek\x03", "");
    assert_eq!(code, Some(1));
    assert!(said.contains("interrupted; nothing was done"), "{said}");
}

#[test]
fn the_password_of_a_cluster_is_asked_for_and_not_shown() {
    let host = Host::new();
    // Nobody is there; by then everything has been asked.
    host.write_list("stor1", "127.0.0.1:1\n");
    let check = |command: &str, answers: &[(&str, &str)], expected: &str| {
        let (code, shown, said) = answer_on_terminal(&host, &[command], answers);
        assert!(code == Some(1) && said.contains(expected), "{command}: {said}");
        assert!(!shown.contains("sekrit") && !said.contains("sekrit"), "{shown:?} {said:?}");
    };
    let nobody = "no metadata server of cluster";
    check("auth-node", &[("Please enter password for cluster: ", "sekrit\r")], nobody);
    check("auth-node", &[("cluster: ", "sek\x03")], "interrupted; nothing was done");
    let [old, new] = [("Present password of the cluster: ", "sekrit12\r"), ("New password: ", "sekrit34\r")];
    check("change-password", &[old, new, ("again: ", "sekrit34\r")], nobody);
    check("change-password", &[old, new, ("again: ", "sekrit56\r")], "the two passwords differ");
}

#[test]
fn a_program_that_is_missing_is_named() {
    let host = Host::new();
    host.write_list("stor1", "127.0.0.1:1\n");
    let ended = host.run_installed(&["export", "--nbd", "/run/x.sock", "/vm1"]);
    let text = ended.failed(1);
    assert!(text.contains("vstorage-ublkd is neither beside vstorage nor in PATH"), "{text}");
}

#[test]
fn a_volume_is_exported_by_the_daemon() {
    let host = Host::new();
    host.write_list("stor1", "127.0.0.1:1\n");
    host.install("vstorage-ublkd", WITNESS);
    host.run_installed(&["export", "--nbd", "/run/x.sock", "/vm1/", "--read-only", "--log-level", "debug"])
        .done();
    assert_eq!(
        host.read("args"),
        "nbd\n-c\nstor1\n--socket\n/run/x.sock\n--read-only\n--log-level\ndebug\n/vm1\n"
    );
    host.run_installed(&["export", "--listen", "127.0.0.1:10809", "/vm1"]).done();
    assert_eq!(host.read("args"), "nbd\n-c\nstor1\n--listen\n127.0.0.1:10809\n/vm1\n");
}

#[test]
fn a_chunk_server_is_made_and_missing_redundancy_is_told() {
    run(async {
        let mds = FakeMds::start().await;
        std::fs::write(mds.host.path("etc/host_id"), format!("{:032x}\n", 1)).unwrap();
        mds.host.install("vstorage-csd", &format!("{WITNESS}echo made\n"));
        let attrs = |replicas| Attrs {
            replicas: Some(replicas),
            failure_domain: Some(FailureDomain::Disk.into()),
            ..effective()
        };
        for replicas in [3, 2] {
            mds.say::<GetAttr>(&GetAttrReply { explicit: Attrs::default(), effective: attrs(replicas) });
        }
        mds.say::<ClusterStat>(&ClusterStatReply { cs: vec![cs_info()], ..Default::default() });
        // A port that was free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let make = || {
            let args = [
                "make-cs",
                "-r",
                "/vstorage/stor1-cs2",
                "-t",
                "1",
                "-a",
                &free,
                "-j",
                "/ssd/cs2",
                "-s",
                "30720",
                "-T",
                "ssd",
                "-S",
            ];
            ended(mds.host.command(mds.host.installed(), &args))
        };
        let first = make().await;
        assert_eq!(first.done(), "made\n");
        let given = format!(
            "make\n-c\nstor1\n-r\n/vstorage/stor1-cs2\n-t\n1\n-a\n{free}\n-j\n/ssd/cs2\n-s\n30720\n-T\nssd\n-S\n--log-level\nwarn\n"
        );
        assert_eq!(mds.host.read("args"), given);
        let warning = "warning: files in cluster 'stor1' ask for 3 replicas (at least 2) on different disks, \
                       and there is room on 2 disks only";
        assert!(first.stderr.starts_with(warning), "{first:?}");
        let second = make().await;
        assert_eq!((second.done(), second.stderr.as_str()), ("made\n", ""));
    });
}

#[test]
fn a_chunk_server_is_not_made_at_an_address_of_another_host() {
    run(async {
        let mds = FakeMds::start().await;
        mds.host.install("vstorage-csd", WITNESS);
        // An address for documentation only (RFC 5737).
        let args = ["make-cs", "-r", "/x", "-a", "192.0.2.1:3000"];
        let ended = ended(mds.host.command(mds.host.installed(), &args)).await;
        assert!(ended.failed(1).contains("-a 192.0.2.1: this host has no such address"), "{ended:?}");
        assert_eq!(mds.host.read("args"), "");
    });
}

#[test]
fn the_exit_code_of_a_daemon_that_failed_is_handed_on() {
    run(async {
        let mds = FakeMds::start().await;
        mds.host.install("vstorage-csd", "echo 'no disk' >&2\nexit 7\n");
        let failed = ended(mds.host.command(mds.host.installed(), &["make-cs", "-r", "/x"])).await;
        assert_eq!(failed.failed(7), "no disk\n");
        assert!(mds.seen::<ClusterStat>().is_empty());
    });
}

#[test]
fn a_chunk_server_is_made_even_if_the_cluster_cannot_be_asked() {
    run(async {
        let mds = FakeMds::start().await;
        mds.host.install("vstorage-csd", "exit 0\n");
        let made = ended(mds.host.command(mds.host.installed(), &["make-cs", "-r", "/x"])).await;
        made.done();
        assert!(
            made.stderr.starts_with("warning: cannot tell whether the redundancy policy can be met"),
            "{made:?}"
        );
    });
}
