//! A network of hosts that can be cut: one network namespace for each, and one in the middle that forwards between them.
//!
//! ```text
//!   host 1 (10.213.1.2) ── 10.213.1.1 ┐
//!   host 2 (10.213.2.2) ── 10.213.2.1 ┤ middle: forwards, unless a rule says that packets of this pair vanish
//!   host 3 (10.213.3.2) ── 10.213.3.1 ┘
//! ```
//!
//! A cut is silent, as when a switch loses its power: nobody is refused, nothing is reset. It can be of one direction only.
//! What a process has to say to itself is not cut. Needs `ip` of the Debian package `iproute2`, `nsenter` of
//! `util-linux`, and a kernel with network namespaces, `veth` and policy routing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use crate::tool::{Tool, ToolError};

/// Namespaces, links, addresses and rules.
const IP: Tool = Tool { program: "ip", package: "iproute2" };
/// How the names of namespaces begin; then comes the process that made them.
const PREFIX: &str = "vst-e2e-";
/// Most hosts: each has a network of its own.
const HOSTS_MAX: usize = 200;

/// The network. Dropping it removes it.
#[derive(Debug)]
pub struct Network {
    names: Vec<String>,
    middle: String,
    /// Pairs of hosts whose packets vanish, from and to.
    cuts: Mutex<BTreeSet<(usize, usize)>>,
}

fn ip(args: &[&str]) -> Result<String, ToolError> {
    let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    IP.run(&args)
}

fn place(host: usize, last: u8) -> Ipv4Addr {
    // Checked when the network is made.
    let net = u8::try_from(host + 1).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, 213, net, last)
}

/// Removes the namespaces of processes that have ended without doing so.
fn remove_stale() -> Result<(), ToolError> {
    for line in ip(&["netns", "list"])?.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            ip(&["netns", "del", name])?;
        }
    }
    Ok(())
}

impl Network {
    /// A network of so many hosts, with nothing cut.
    ///
    /// # Errors
    /// [`ToolError`]: also where this kernel or this user may not have one.
    ///
    /// # Panics
    /// With more than 200 hosts.
    pub fn make(hosts: usize) -> Result<Self, ToolError> {
        assert!(hosts <= HOSTS_MAX, "each host has a network of its own");
        remove_stale()?;
        let own = std::process::id();
        let names = (0..hosts).map(|host| format!("{PREFIX}{own}-{host}")).collect();
        let network = Self { names, middle: format!("{PREFIX}{own}-middle"), cuts: Mutex::default() };
        // From here on dropping it removes what there is.
        ip(&["netns", "add", &network.middle])?;
        for host in 0..hosts {
            network.add(host)?;
        }
        ip(&["netns", "exec", &network.middle, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])?;
        Ok(network)
    }

    fn add(&self, host: usize) -> Result<(), ToolError> {
        let (name, middle, link) = (&self.names[host], &self.middle, format!("p{host}"));
        let (own, gateway) = (place(host, 2).to_string(), place(host, 1).to_string());
        ip(&["netns", "add", name])?;
        ip(&["-n", middle, "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["-n", middle, "addr", "add", &format!("{gateway}/24"), "dev", &link])?;
        ip(&["-n", middle, "link", "set", &link, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "addr", "add", &format!("{own}/24"), "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        ip(&["-n", name, "route", "add", "default", "via", &gateway]).map(drop)
    }

    /// How many hosts it has.
    pub fn hosts(&self) -> usize {
        self.names.len()
    }

    /// Where a host is.
    pub fn address(&self, host: usize) -> Ipv4Addr {
        place(host, 2)
    }

    /// What runs a program on a host: to be put before its own words.
    pub fn starter(&self, host: usize) -> [String; 3] {
        ["nsenter".to_owned(), format!("--net=/run/netns/{}", self.names[host]), "--".to_owned()]
    }

    /// From now on packets from one host to another vanish. The other direction is left as it is.
    ///
    /// # Errors
    /// [`ToolError`].
    pub fn cut(&self, from: usize, to: usize) -> Result<(), ToolError> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        if cuts.contains(&(from, to)) {
            return Ok(());
        }
        let (source, target) = (self.address(from).to_string(), self.address(to).to_string());
        ip(&["-n", &self.middle, "rule", "add", "from", &source, "to", &target, "blackhole"])?;
        cuts.insert((from, to));
        Ok(())
    }

    /// Cuts a host off from all others, both ways.
    ///
    /// # Errors
    /// [`ToolError`].
    pub fn isolate(&self, host: usize) -> Result<(), ToolError> {
        for other in (0..self.hosts()).filter(|other| *other != host) {
            self.cut(host, other)?;
            self.cut(other, host)?;
        }
        Ok(())
    }

    /// Nothing is cut any more.
    ///
    /// # Errors
    /// [`ToolError`].
    pub fn heal(&self) -> Result<(), ToolError> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((from, to)) = cuts.first().copied() {
            let (source, target) = (self.address(from).to_string(), self.address(to).to_string());
            ip(&["-n", &self.middle, "rule", "del", "from", &source, "to", &target, "blackhole"])?;
            cuts.remove(&(from, to));
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.names.iter().chain([&self.middle]) {
            // One that was never made cannot be removed.
            if std::path::Path::new("/run/netns").join(name).exists()
                && let Err(error) = ip(&["netns", "del", name])
            {
                eprintln!("left behind: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::machine;

    /// Whether a packet comes there and back.
    fn reaches(network: &Network, from: usize, to: usize) -> bool {
        let [program, net, dashes] = network.starter(from);
        let target = network.address(to).to_string();
        // Port 9 is nobody's: who is there refuses at once, and who is not lets the time pass.
        let script = format!("exec 3<>/dev/tcp/{target}/9");
        let connect = ["timeout", "1", "bash", "-c", &script];
        let ended =
            Command::new(program).args([net, dashes]).args(connect).output().expect("nsenter and bash");
        ended.status.code() == Some(1)
    }

    #[test]
    fn hosts_are_cut_off_and_come_back() {
        if !machine::can_run("network") {
            return;
        }
        let network = Network::make(3).expect("a network of namespaces");
        assert!(reaches(&network, 0, 1) && reaches(&network, 2, 1));
        network.isolate(0).expect("cut");
        assert!(!reaches(&network, 0, 1) && reaches(&network, 2, 1));
        network.heal().expect("healed");
        assert!(reaches(&network, 0, 1));
        network.cut(1, 0).expect("cut");
        assert!(!reaches(&network, 0, 1), "one direction is enough to be silent");
        assert!(reaches(&network, 2, 1) && reaches(&network, 2, 0));
        let place = std::path::PathBuf::from("/run/netns").join(&network.middle);
        assert!(place.exists());
        drop(network);
        assert!(!place.exists());
    }
}
