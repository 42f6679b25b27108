//! What each refusal says; and executors that cannot start, each in a process of its own, in which something is taken
//! away first.

use std::process::Command;

use super::*;
use crate::{Executor, ExecutorOptions};

fn version(major: u32, minor: u32) -> KernelVersion {
    KernelVersion { major, minor }
}

#[test]
fn releases_are_read_whatever_a_distribution_adds() {
    let table = [
        ("6.1.0-28-amd64", Some(version(6, 1))),
        ("5.15.0", Some(version(5, 15))),
        ("6.12-rc3", Some(version(6, 12))),
        ("10.0", Some(version(10, 0))),
        ("6.8+", Some(version(6, 8))),
        ("6", None),
        ("", None),
        ("six.one", None),
    ];
    for (release, expected) in table {
        assert_eq!(KernelVersion::from_release(release), expected, "{release}");
    }
    assert!(version(5, 19) < OLDEST && version(6, 0) < OLDEST && version(6, 1) >= OLDEST);
    assert!(version(10, 0) > version(6, 18));
}

#[test]
fn each_refusal_says_what_is_wrong_and_what_to_do() {
    let new = Host { kernel: Some(version(6, 12)), disabled: Some(0), locked_max: None };
    let old = Host { kernel: Some(version(5, 10)), disabled: None, locked_max: None };
    let nameless = Host { kernel: None, ..new };
    let off = |setting| Host { disabled: Some(setting), ..new };
    let table = [
        (off(1), libc::EPERM, "io_uring_disabled = 1); allow it with `sysctl -w kernel.io_uring_disabled=0`"),
        (off(2), libc::EPERM, "io_uring_disabled = 2)"),
        (new, libc::EPERM, "forbidden to this process by a sandbox"),
        (old, libc::EPERM, "forbidden to this process by a sandbox"),
        (new, libc::ENOSYS, "this kernel has no io_uring: it was built without"),
        (old, libc::ENOSYS, "Linux 5.10 is too old: it lacks io_uring; vstorage needs Linux 6.1 or later"),
        (nameless, libc::ENOSYS, "this kernel has no io_uring"),
        (old, libc::EINVAL, "Linux 5.10 is too old: it lacks single-issuer rings"),
        (new, libc::EINVAL, "this kernel has no single-issuer rings"),
        (new, libc::ENOMEM, "not enough memory for the rings"),
        (new, libc::EMFILE, "`ulimit -n`"),
        (new, libc::EIO, "cannot set up io_uring: "),
    ];
    for (host, code, expected) in table {
        let text = host.explain(&io::Error::from_raw_os_error(code)).to_string();
        assert!(text.contains(expected), "{code} on {host:?}: {text}");
    }
    assert!(old.lacks("zero-copy send").to_string().contains("it lacks zero-copy send"));
}

#[test]
fn a_limit_of_locked_memory_is_told_from_a_lack_of_memory() {
    let limited = Host { kernel: Some(version(6, 12)), disabled: None, locked_max: Some(65_536) };
    let error = io::Error::from_raw_os_error(libc::ENOMEM);
    let text = limited.explain(&error).to_string();
    assert!(text.contains("may lock 65536 bytes") && text.contains("LimitMEMLOCK="), "{text}");
    assert!(matches!(Host { locked_max: None, ..limited }.explain(&error), StartError::Memory));
}

/// Tells a child what to take away.
const TAKE: &str = "DATAPATH_RT_TEST_TAKE";
/// Begins the line with the child's outcome.
const OUTCOME: &str = "outcome: ";

/// Answers `io_uring_setup(2)` with `code` from now on (`seccomp(2)`).
fn forbid_rings(code: i32) {
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let filter = [
        // The number of the call is the first word of what the filter is shown.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_io_uring_setup as u32, 0, 1),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | code as u32, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program and its filter live through both calls; they take away rights of this thread only.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            + libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Allows `bytes` of locked memory and gives up the privilege not to care.
fn limit_locked_memory(bytes: u64) {
    let limit = rustix::process::Rlimit { current: Some(bytes), maximum: Some(bytes) };
    rustix::process::setrlimit(rustix::process::Resource::Memlock, limit).expect("a lower limit");
    // SAFETY: gives up the privileges of this process, which has nothing else to do.
    let done = unsafe { libc::setresuid(65_534, 65_534, 65_534) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// What the child does; nothing when it is run as a test.
#[test]
fn child() {
    let Ok(take) = std::env::var(TAKE) else { return };
    match take.split_once(' ').expect("what and how much") {
        ("rings", code) => forbid_rings(code.parse().expect("a number")),
        ("memory", bytes) => limit_locked_memory(bytes.parse().expect("a number")),
        ("files", count) => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            let limit = rustix::process::Rlimit { current: Some(count.parse().expect("a number")), ..limit };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("a lower limit");
        }
        other => panic!("{other:?}"),
    }
    match Executor::start(&ExecutorOptions::default()) {
        Ok(executor) => println!("{OUTCOME}{}", executor.run(async { "it runs" })),
        Err(error) => println!("{OUTCOME}{error}"),
    }
}

/// What an executor says in a process from which `take` has been taken.
fn without(take: &str) -> String {
    let this = std::env::current_exe().expect("this test");
    let child = Command::new(this)
        .args(["--exact", "start_error::tests::child", "--nocapture", "--test-threads=1"])
        .env(TAKE, take)
        .output()
        .expect("a process");
    let text = String::from_utf8_lossy(&child.stdout);
    let outcome = text.lines().find_map(|line| line.split_once(OUTCOME));
    let outcome = outcome.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&child.stderr)));
    outcome.1.to_owned()
}

#[test]
fn a_sandbox_that_forbids_rings_is_named() {
    let said = without(&format!("rings {}", libc::EPERM));
    assert!(said.contains("forbidden to this process by a sandbox"), "{said}");
    assert!(said.contains("allow io_uring_setup"), "{said}");
    let said = without(&format!("rings {}", libc::ENOSYS));
    assert!(said.contains("this kernel has no io_uring") && said.contains("a sandbox hides it"), "{said}");
}

#[test]
fn too_little_locked_memory_is_named_with_the_limit() {
    let said = without("memory 65536");
    assert!(said.contains("cannot lock enough memory") && said.contains("may lock 65536 bytes"), "{said}");
    assert!(said.contains("LimitMEMLOCK="), "{said}");
    // The usual limit of a service is 8 MiB: enough to start with, and buffers beyond it come from the heap.
    assert_eq!(without(&format!("memory {}", 8 << 20)), "it runs");
}

#[test]
fn too_few_open_files_are_named() {
    let said = without("files 3");
    assert!(said.contains("`ulimit -n`"), "{said}");
}
