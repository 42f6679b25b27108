//! fio with its own verification, through NBD.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hw_tests::cluster::Cluster;
use hw_tests::deadline::poll_until;

use crate::scene::PATIENCE;

/// A running fio.
pub(crate) struct Fio {
    child: Child,
    report: PathBuf,
}

impl Fio {
    /// Starts one that writes at random for so long, and verifies behind itself; `further` says where, and how fast.
    pub(crate) fn start(cluster: &Cluster, dir: &Path, seconds: u64, further: &[&str]) -> Self {
        let report = dir.join("fio.json");
        let child = Command::new("fio")
            .current_dir(dir)
            .args(["--name=soak", "--ioengine=nbd", "--rw=randwrite", "--bsrange=4k-64k", "--iodepth=16"])
            .args(["--verify=crc32c", "--verify_backlog=512", "--verify_fatal=1", "--fsync=64"])
            .args(further)
            .args(["--time_based", &format!("--runtime={seconds}"), "--output-format=json"])
            .arg(format!("--uri={}", cluster.uri()))
            .arg(format!("--output={}", report.display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("fio of the Debian package fio");
        Self { child, report }
    }

    /// Waits so many seconds; false as soon as it has ended.
    pub(crate) fn runs_for(&mut self, seconds: u64) -> bool {
        let limit = Duration::from_secs(seconds);
        poll_until(limit, || self.child.try_wait().expect("it is our child")).is_none()
    }

    /// Waits for its end, and returns its figures.
    pub(crate) fn finish(mut self, seconds: u64) -> String {
        assert!(!self.runs_for(seconds + 120), "fio does not end");
        let status = self.child.wait().expect("it has ended");
        let (text, report) = self.figures();
        assert!(status.success(), "fio's verification failed ({status}):\n{text}");
        let job = &report["jobs"][0];
        let number = |kind: &str, field: &str| job[kind][field].as_f64().unwrap_or(0.0);
        assert_eq!(job["error"], 0, "{text}");
        let written = number("write", "io_bytes");
        let verified = number("read", "io_bytes");
        assert!(written > 0.0 && verified > 0.0, "fio wrote and verified:\n{text}");
        format!(
            "fio wrote {:.0} MB and verified {:.0} MB; {:.0} writes/s, longest write {:.1} s",
            written / 1e6,
            verified / 1e6,
            number("write", "iops"),
            job["write"]["lat_ns"]["max"].as_f64().unwrap_or(0.0) / 1e9
        )
    }

    /// Ends it before its time: the errno with which it ended by itself, or 0, and the bytes that it wrote and verified.
    pub(crate) fn end(mut self) -> (i64, u64, u64) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // Gone already if it has met an error.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        assert!(!self.runs_for(PATIENCE.as_secs()), "fio does not end");
        let (text, report) = self.figures();
        let job = &report["jobs"][0];
        let bytes =
            |kind: &str| job[kind]["io_bytes"].as_u64().unwrap_or_else(|| panic!("no figures:\n{text}"));
        (job["error"].as_i64().expect("an errno"), bytes("write"), bytes("read"))
    }

    /// What it has reported, as text and as an object.
    fn figures(&self) -> (String, serde_json::Value) {
        let text = std::fs::read_to_string(&self.report).unwrap_or_default();
        let start = text.find('{').unwrap_or_else(|| panic!("fio has reported nothing: {text}"));
        let report = serde_json::from_str(&text[start..]).expect("a JSON report");
        (text, report)
    }
}

impl Drop for Fio {
    fn drop(&mut self) {
        // Ended already, unless the scenario failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
