//! A run: makes the medium and the cluster, measures round by round, prints the table.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hw_tests::cleanup_stale;
use hw_tests::cluster::{self, Cluster, Options};
use hw_tests::mount::Mount;
use hw_tests::own_dir::OwnDir;
use hw_tests::process::{Daemon, DaemonSpec};
use hw_tests::ram_medium::RamMedium;

use crate::error::Error;
use crate::pattern::{self, Pattern};
use crate::report::{About, Results, markdown};
use crate::target::Target;
use crate::worker::Measured;

/// Bytes of the area that each target works in.
const AREA: u64 = 256 << 20;
/// The medium in memory.
const RAM_BYTES: u64 = 10 << 30;
/// Servers of the floor, as many as replicas.
const FLOOR_SERVERS: usize = 3;
/// How long a floor server may take to listen.
const READY: Duration = Duration::from_secs(10);

/// Where the measurements happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Medium {
    /// Files in a directory of a real disk.
    Disk,
    /// A loop device with direct I/O on memory: the software's own cost.
    Ram,
}

/// Options of a run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the measurements happen.
    #[arg(long, value_enum, default_value_t = Medium::Ram)]
    medium: Medium,
    /// One round of short measurements.
    #[arg(long)]
    quick: bool,
    /// Also write everything to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Also write the table to this file.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Where the directory vstorage-bench goes; what an earlier run left in that is removed.
    #[arg(long)]
    dir: PathBuf,
    /// Where the programs are.
    #[arg(long)]
    binaries: PathBuf,
    /// The commit, for the table.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Only patterns whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Only targets whose name contains this; the raw file is always measured.
    #[arg(long)]
    target: Option<String>,
    /// Rounds; 5 unless told otherwise, and 1 with --quick.
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of a measurement in milliseconds; 2000 unless told otherwise, and 500 with --quick.
    #[arg(long)]
    milliseconds: Option<u64>,
    /// Count system calls as well, in a round of its own, by perf.
    #[arg(long)]
    syscalls: bool,
}

/// A target, what it is called, and whose time counts.
struct Measurable {
    name: &'static str,
    target: Target,
    pids: Vec<u32>,
    floor: Option<usize>,
}

/// Everything that runs during a run; dropping it ends and removes it all.
struct Bench {
    measurables: Vec<Measurable>,
    mount: Mount,
    cluster: Cluster,
    _floor: Vec<Daemon>,
    device: Option<PathBuf>,
    _ram: Option<RamMedium>,
}

/// Measures everything.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let patterns: Vec<Pattern> = pattern::ALL
        .iter()
        .copied()
        .filter(|pattern| args.only.as_ref().is_none_or(|only| pattern.to_string().contains(only.as_str())))
        .collect();
    let mut bench = Bench::make(args)?;
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 5 });
    let milliseconds = args.milliseconds.unwrap_or(if args.quick { 500 } else { 2000 });
    for measurable in &bench.measurables {
        eprintln!("filling {}", measurable.name);
        bench.measure(measurable, pattern::ALL[0], 1, 0, true)?;
    }
    let mut results = Results::default();
    for round in 0..rounds {
        for (p, pattern) in patterns.iter().enumerate() {
            eprintln!("round {} of {rounds}: {pattern}", round + 1);
            for (t, measurable) in bench.measurables.iter().enumerate() {
                let seed = (round * 1000 + p) as u64;
                results.add(p, t, bench.measure(measurable, *pattern, milliseconds, seed, false)?);
            }
        }
    }
    if args.syscalls {
        for (p, pattern) in patterns.iter().enumerate() {
            eprintln!("system calls: {pattern}");
            for (t, measurable) in bench.measurables.iter().enumerate() {
                if let Some(per_operation) = bench.count_syscalls(measurable, *pattern, milliseconds)? {
                    results.add_syscalls(p, t, per_operation);
                }
            }
        }
    }
    let targets: Vec<_> = bench.measurables.iter().map(|m| (m.name.to_owned(), m.floor)).collect();
    bench.mount.unmount()?;
    let lines = results.lines(&patterns, &targets);
    let about = about(args, rounds);
    let table = markdown(&about, &lines);
    println!("{table}");
    let write = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(Error::io(format!("cannot write {}", path.display())))
    };
    if let Some(path) = &args.markdown {
        write(path, &table)?;
    }
    if let Some(path) = &args.json {
        let all = serde_json::json!({ "about": about, "lines": lines });
        write(path, &format!("{all:#}\n"))?;
    }
    Ok(())
}

impl Bench {
    fn make(args: &Args) -> Result<Self, Error> {
        let own = OwnDir::take(&args.dir, "vstorage-bench")?;
        let dir = own.path();
        cleanup_stale(dir).map_err(Error::access)?;
        own.empty()?;
        let ram = match args.medium {
            Medium::Ram => Some(RamMedium::create(&dir.join("ram"), RAM_BYTES)?),
            Medium::Disk => None,
        };
        let device = ram.as_ref().and_then(RamMedium::device).and_then(Path::file_name).map(|name| {
            let mut path = PathBuf::from("/sys/block");
            path.push(name);
            path.join("stat")
        });
        let place = ram.as_ref().map_or_else(|| dir.join("disk"), RamMedium::path);
        std::fs::create_dir_all(&place).map_err(Error::io("the medium"))?;

        let file = |name: &str| -> Result<PathBuf, Error> {
            let path = place.join(name);
            let made = File::create(&path).and_then(|file| file.set_len(AREA));
            made.map_err(Error::io(format!("cannot make {}", path.display()))).map(|()| path)
        };
        let raw = file("raw")?;
        let mut floor = Vec::new();
        let mut ports = Vec::new();
        for number in 0..FLOOR_SERVERS {
            let spec = DaemonSpec::new(args.binaries.join("bench"), dir.join(format!("floor{number}.log")));
            let mut daemon = spec.arg("floor-server").arg(file(&format!("floor{number}"))?).start()?;
            let ready = daemon.wait_line("ready:", READY)?;
            let port = ready.rsplit(' ').next().and_then(|port| port.trim().parse().ok());
            ports.push(port.ok_or_else(|| Error::Access(format!("the floor server says '{ready}'")))?);
            floor.push(daemon);
        }

        let options = Options {
            mds: place.join("mds"),
            servers: (1..=3).map(|number| place.join(format!("cs{number}"))).collect(),
            ..Options::plain(&dir.join("cluster"), &args.binaries)
        };
        std::fs::create_dir_all(&options.dir).map_err(Error::io("the cluster's directory"))?;
        let mut cluster = Cluster::make(options)?;
        for path in ["/one", "/three", "/nbd", "/mounted"] {
            cluster.vstorage(&["create", path, "--size", &AREA.to_string()])?;
        }
        for path in ["/one", "/mounted"] {
            cluster.vstorage(&["set-attr", "-p", path, "replicas=1"])?;
        }
        cluster.export("/nbd")?;
        let mount = Mount::make(&cluster, &args.binaries, "mount", &dir.join("mnt"), "direct_io")?;
        let mounted = mount.point().join("mounted");

        let mut pids: Vec<u32> = cluster.pids().into_iter().map(|(_, pid)| pid).collect();
        pids.extend(mount.pid());
        let floor_pids: Vec<u32> = floor.iter().map(Daemon::pid).collect();
        let volume = |path: &str| Target::Volume { cluster: cluster::NAME.to_owned(), path: path.to_owned() };
        let all = vec![
            Measurable { name: "raw file", target: Target::File(raw), pids: Vec::new(), floor: None },
            Measurable {
                name: "floor, 1 server",
                target: Target::Floor(ports[..1].to_vec()),
                pids: floor_pids[..1].to_vec(),
                floor: None,
            },
            Measurable {
                name: "floor, 3 servers",
                target: Target::Floor(ports),
                pids: floor_pids,
                floor: None,
            },
            Measurable {
                name: "library, 1 replica",
                target: volume("/one"),
                pids: pids.clone(),
                floor: Some(1),
            },
            Measurable {
                name: "library, 3 replicas",
                target: volume("/three"),
                pids: pids.clone(),
                floor: Some(2),
            },
            Measurable {
                name: "NBD, 3 replicas",
                target: Target::Nbd(cluster.socket()),
                pids: pids.clone(),
                floor: Some(2),
            },
            Measurable { name: "mount, 1 replica", target: Target::File(mounted), pids, floor: Some(1) },
        ];
        let is_wanted = |m: &Measurable| {
            m.floor.is_none() || args.target.as_ref().is_none_or(|wanted| m.name.contains(wanted.as_str()))
        };
        let measurables = all.into_iter().filter(is_wanted).collect();
        Ok(Self { measurables, mount, cluster, _floor: floor, device, _ram: ram })
    }

    fn worker(&self, measurable: &Measurable, pattern: Pattern, milliseconds: u64) -> Command {
        let pids: Vec<String> = measurable.pids.iter().map(u32::to_string).collect();
        let mut command = self.cluster.command("bench", &["worker"]);
        command.args(["--target", &measurable.target.to_string(), "--pattern", &pattern.to_string()]);
        command.args(["--milliseconds", &milliseconds.to_string(), "--area", &AREA.to_string()]);
        if !pids.is_empty() {
            command.args(["--pids", &pids.join(",")]);
        }
        if let Some(device) = &self.device {
            command.arg("--device").arg(device);
        }
        command
    }

    fn measure(
        &self,
        measurable: &Measurable,
        pattern: Pattern,
        milliseconds: u64,
        seed: u64,
        fill: bool,
    ) -> Result<Measured, Error> {
        let mut command = self.worker(measurable, pattern, milliseconds);
        command.args(["--seed", &seed.to_string()]);
        if fill {
            command.arg("--fill");
        }
        output(&mut command, measurable.name)
    }

    /// System calls per operation of all processes; `None` where perf cannot count them.
    fn count_syscalls(
        &self,
        measurable: &Measurable,
        pattern: Pattern,
        milliseconds: u64,
    ) -> Result<Option<f64>, Error> {
        let report = |whose: &str| self.cluster.dir().join(format!("perf-{whose}.txt"));
        let (servers, own) = (report("servers"), report("worker"));
        let counter = |report: &Path| {
            let mut perf = Command::new("perf");
            perf.args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-o"]).arg(report);
            perf
        };
        let mut beside = None;
        if !measurable.pids.is_empty() {
            let pids: Vec<String> = measurable.pids.iter().map(u32::to_string).collect();
            let mut perf = counter(&servers);
            perf.args(["-p", &pids.join(",")]).stdout(Stdio::null()).stderr(Stdio::null());
            let Ok(perf) = perf.spawn() else { return Ok(None) };
            beside = Some(perf);
        }
        let worker = self.worker(measurable, pattern, milliseconds);
        let mut counted = counter(&own);
        counted.arg("--").arg(worker.get_program()).args(worker.get_args());
        counted.envs(worker.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let measured = output(&mut counted, measurable.name);
        let mut sum = read_count(&own);
        if let Some(mut perf) = beside {
            if let Some(pid) = rustix::process::Pid::from_raw(perf.id() as i32) {
                let stopped = rustix::process::kill_process(pid, rustix::process::Signal::INT);
                stopped.map_err(|error| Error::io("cannot stop perf")(error.into()))?;
            }
            perf.wait().map_err(Error::io("perf"))?;
            sum = sum.zip(read_count(&servers)).map(|(own, servers)| own + servers);
        }
        Ok(sum.zip(measured.ok()).map(|(sum, measured)| sum / measured.operations as f64))
    }
}

/// The number in a report of perf.
fn read_count(report: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(report).ok()?;
    text.lines().find(|line| line.contains("sys_enter"))?.split(',').next()?.parse().ok()
}

fn output(command: &mut Command, name: &str) -> Result<Measured, Error> {
    let output = command.stderr(Stdio::inherit()).output().map_err(Error::io("cannot run the worker"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).map_err(|_| Error::NoResult { target: name.to_owned(), output: text })
}

fn about(args: &Args, rounds: usize) -> About {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let medium = match args.medium {
        Medium::Disk => "files on a disk",
        Medium::Ram => "ext4 on a loop device with direct I/O on memory",
    };
    About {
        machine: format!("{cores} × {}", model.map_or("unknown processor", |(_, model)| model)),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        medium: medium.to_owned(),
        security: "TLS 1.3, mutual certificates (the floor and the raw file have none)",
        commit: args.commit.clone(),
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        rounds,
    }
}
