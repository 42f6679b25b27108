//! Metadata and chunk servers.

use serde::Serialize;
use wire::cluster::{CsInfo, MdsInfo, ServiceStatus};
use wire::cs::flag_letters;

use super::io::IoView;
use crate::table::{Column, Row};
use crate::units::{bytes, elapsed, latencies, memory, ops, percent, rate, tenths, whole_percent};

/// What a state is called.
pub(crate) fn status_name(status: ServiceStatus) -> &'static str {
    match status {
        ServiceStatus::Unspecified => "unknown",
        ServiceStatus::Active => "active",
        ServiceStatus::Inactive => "inactive",
        ServiceStatus::Offline => "offline",
        ServiceStatus::Failed => "failed",
        ServiceStatus::Releasing => "releasing",
        ServiceStatus::Dropped => "dropped",
        ServiceStatus::Stale => "stale",
    }
}

/// A metadata server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MdsView {
    /// Its id.
    mds_id: u64,
    /// It is the master.
    master: bool,
    /// Its state.
    status: &'static str,
    /// Its host.
    host: String,
    /// Address and port.
    address: String,
    /// Its directory.
    path: String,
    /// Part of the time it writes its journal.
    commit_time_permille: u32,
    /// Commits per second.
    commits_per_s: u64,
    /// CPU time.
    cpu_permille: u32,
    /// Memory in use.
    memory_bytes: u64,
    /// Time since its start.
    uptime_ms: u64,
    /// Version of its program.
    version: String,
}

impl From<&MdsInfo> for MdsView {
    fn from(info: &MdsInfo) -> Self {
        let status =
            if info.status() == ServiceStatus::Active { "avail" } else { status_name(info.status()) };
        Self {
            mds_id: info.mds_id,
            master: info.master,
            status,
            host: info.host_name.clone(),
            address: info.address.clone(),
            path: info.path.clone(),
            commit_time_permille: info.commit_time_permille,
            commits_per_s: info.commits_per_s,
            cpu_permille: info.cpu_permille,
            memory_bytes: info.memory_bytes,
            uptime_ms: info.uptime_ms,
            version: info.software.clone(),
        }
    }
}

impl MdsView {
    /// The id, with an `M` before that of the master.
    fn marked_id(&self) -> String {
        format!("{}{:>4}", if self.master { 'M' } else { ' ' }, self.mds_id)
    }

    /// Host and port.
    fn host_and_port(&self) -> String {
        match self.address.rsplit_once(':') {
            _ if self.host.is_empty() => self.address.clone(),
            Some((_, port)) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }
}

impl Row for MdsView {
    const COLUMNS: &'static [Column] = &[
        Column::number("MDSID"),
        Column::text("STATUS"),
        Column::number("%CTIME"),
        Column::number("COMMITS"),
        Column::number("%CPU"),
        Column::number("MEM"),
        Column::number("UPTIME"),
        Column::text("HOST"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.marked_id(),
            self.status.to_owned(),
            percent(self.commit_time_permille),
            format!("{}/s", self.commits_per_s),
            percent(self.cpu_permille),
            memory(self.memory_bytes),
            elapsed(self.uptime_ms),
            self.host_and_port(),
        ]
    }
}

/// A metadata server in a list of who and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct MdsPlace(pub(crate) MdsView);

impl Row for MdsPlace {
    const COLUMNS: &'static [Column] = &[
        Column::number("MDSID"),
        Column::text("STATUS"),
        Column::text("ADDRESS"),
        Column::text("HOST"),
        Column::text("VERSION"),
        Column::text("PATH"),
    ];

    fn cells(&self) -> Vec<String> {
        let mds = &self.0;
        vec![
            mds.marked_id(),
            mds.status.to_owned(),
            mds.address.clone(),
            mds.host.clone(),
            mds.version.clone(),
            mds.path.clone(),
        ]
    }
}

/// A chunk server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct CsView {
    /// Its id.
    cs_id: u64,
    /// Its state.
    status: &'static str,
    /// Letters: `J` journal, `C` checksums, `D` direct I/O, `c` journal clean; failed: `H h S R T`.
    flags: String,
    /// Storage tier.
    tier: u32,
    /// Its host.
    host: String,
    /// Id of its host.
    host_id: String,
    /// Addresses with port.
    addresses: Vec<String>,
    /// Its directory.
    path: String,
    /// Directory of its journal; empty when it is inside its own.
    journal_path: String,
    /// Size of its journal.
    journal_bytes: u64,
    /// Size of its disk.
    total_bytes: u64,
    /// Free on its disk.
    free_bytes: u64,
    /// Replicas.
    replicas: u64,
    /// Replicas that are the only one of their chunk.
    unique: u64,
    /// I/O per second.
    io_rate: IoView,
    /// Part of the time its disk was busy.
    io_wait_permille: u32,
    /// Average latency.
    latency_us_avg: u64,
    /// Longest latency.
    latency_us_max: u64,
    /// Average operations under way, in thousandths.
    pub(super) queue_depth_milli: u64,
    /// Time since it was last heard of.
    renewed_ms_ago: u64,
    /// Version of its program.
    version: String,
}

impl From<&CsInfo> for CsView {
    fn from(info: &CsInfo) -> Self {
        Self {
            cs_id: info.cs_id,
            status: status_name(info.status()),
            flags: flag_letters(info.flags),
            tier: info.tier,
            host: info.host_name.clone(),
            host_id: info.host_id.clone(),
            addresses: info.addresses.clone(),
            path: info.path.clone(),
            journal_path: info.journal_path.clone(),
            journal_bytes: info.journal_bytes,
            total_bytes: info.total_bytes,
            free_bytes: info.free_bytes,
            replicas: info.replicas,
            unique: info.unique,
            io_rate: (&info.io_rate).into(),
            io_wait_permille: info.io_rate.io_wait_permille,
            latency_us_avg: info.io_rate.latency_us_avg,
            latency_us_max: info.io_rate.latency_us_max,
            queue_depth_milli: info.io_rate.queue_depth_milli,
            renewed_ms_ago: info.renewed_ms_ago,
            version: info.software.clone(),
        }
    }
}

impl CsView {
    /// Its host, by name if it has told one.
    fn host_or_address(&self) -> String {
        let named = if self.host.is_empty() { self.addresses.first() } else { Some(&self.host) };
        named.cloned().unwrap_or_default()
    }
}

impl Row for CsView {
    const COLUMNS: &'static [Column] = &[
        Column::number("CSID"),
        Column::text("STATUS"),
        Column::number("SPACE"),
        Column::number("AVAIL"),
        Column::number("REPLICAS"),
        Column::number("UNIQUE"),
        Column::number("IOWAIT"),
        Column::number("IOLAT(ms)"),
        Column::number("QDEPTH"),
        Column::text("HOST"),
        Column::text("FLAGS"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.cs_id.to_string(),
            self.status.to_owned(),
            bytes(self.total_bytes),
            bytes(self.free_bytes),
            self.replicas.to_string(),
            self.unique.to_string(),
            whole_percent(self.io_wait_permille),
            latencies(self.latency_us_avg, self.latency_us_max),
            tenths(self.queue_depth_milli),
            self.host_or_address(),
            self.flags.clone(),
        ]
    }
}

/// A chunk server in a list of who and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct CsPlace(pub(crate) CsView);

impl Row for CsPlace {
    const COLUMNS: &'static [Column] = &[
        Column::number("CSID"),
        Column::text("STATUS"),
        Column::number("TIER"),
        Column::text("FLAGS"),
        Column::text("ADDRESS"),
        Column::text("HOST"),
        Column::text("VERSION"),
        Column::text("PATH"),
        Column::text("JOURNAL"),
    ];

    fn cells(&self) -> Vec<String> {
        let cs = &self.0;
        let journal = if cs.journal_path.is_empty() {
            String::new()
        } else {
            format!("{} ({})", cs.journal_path, bytes(cs.journal_bytes))
        };
        vec![
            cs.cs_id.to_string(),
            cs.status.to_owned(),
            cs.tier.to_string(),
            cs.flags.clone(),
            cs.addresses.join(","),
            cs.host.clone(),
            cs.version.clone(),
            cs.path.clone(),
            journal,
        ]
    }
}

/// A chunk server and what it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct CsWork(pub(super) CsView);

impl Row for CsWork {
    const COLUMNS: &'static [Column] = &[
        Column::number("CSID"),
        Column::text("STATUS"),
        Column::number("TIER"),
        Column::text("FLAGS"),
        Column::number("READ"),
        Column::number("WRITE"),
        Column::number("RD_OPS"),
        Column::number("WR_OPS"),
        Column::number("FSYNCS"),
        Column::text("HOST"),
    ];

    fn cells(&self) -> Vec<String> {
        let cs = &self.0;
        vec![
            cs.cs_id.to_string(),
            cs.status.to_owned(),
            cs.tier.to_string(),
            cs.flags.clone(),
            rate(cs.io_rate.read_bytes),
            rate(cs.io_rate.write_bytes),
            ops(cs.io_rate.read_ops),
            ops(cs.io_rate.write_ops),
            ops(cs.io_rate.flushes),
            cs.host_or_address(),
        ]
    }
}

/// A host, or a chunk server below it, in the tree of places that may fail as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LocationView {
    location: String,
    host: String,
    status: String,
    tier: String,
    total_bytes: u64,
    free_bytes: u64,
    replicas: u64,
}

impl LocationView {
    /// The hosts, in the order of their first chunk server, each with its chunk servers below it.
    pub(super) fn tree(servers: &[CsView]) -> Vec<Self> {
        let mut hosts: Vec<(&str, Vec<&CsView>)> = Vec::new();
        for server in servers {
            match hosts.iter_mut().find(|(host, _)| *host == server.host_id) {
                Some((_, of)) => of.push(server),
                None => hosts.push((&server.host_id, vec![server])),
            }
        }
        let mut rows = Vec::new();
        for (host, servers) in hosts {
            let sum =
                |part: fn(&CsView) -> u64| servers.iter().map(|cs| part(cs)).fold(0, u64::saturating_add);
            let active = servers.iter().filter(|cs| cs.status == status_name(ServiceStatus::Active)).count();
            rows.push(Self {
                location: host.to_owned(),
                host: servers[0].host_or_address(),
                status: format!("{active} of {} active", servers.len()),
                tier: String::new(),
                total_bytes: sum(|cs| cs.total_bytes),
                free_bytes: sum(|cs| cs.free_bytes),
                replicas: sum(|cs| cs.replicas),
            });
            rows.extend(servers.iter().map(|cs| Self {
                location: format!("{host}.{}", cs.cs_id),
                host: cs.host_or_address(),
                status: cs.status.to_owned(),
                tier: cs.tier.to_string(),
                total_bytes: cs.total_bytes,
                free_bytes: cs.free_bytes,
                replicas: cs.replicas,
            }));
        }
        rows
    }
}

impl Row for LocationView {
    const COLUMNS: &'static [Column] = &[
        Column::text("LOCATION"),
        Column::text("STATUS"),
        Column::number("TIER"),
        Column::number("SPACE"),
        Column::number("AVAIL"),
        Column::number("REPLICAS"),
        Column::text("HOST"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.location.clone(),
            self.status.clone(),
            self.tier.clone(),
            bytes(self.total_bytes),
            bytes(self.free_bytes),
            self.replicas.to_string(),
            self.host.clone(),
        ]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use wire::cs::{FLAG_CHECKSUMS, FLAG_CLEAN, FLAG_FAILED_IO, FLAG_JOURNAL};
    use wire::session::IoStats;

    use super::*;
    use crate::table::draw;

    /// A metadata server as it describes itself.
    pub(crate) fn sample_mds(id: u64, master: bool) -> MdsInfo {
        MdsInfo {
            mds_id: id,
            address: format!("10.30.17.{id}:2510"),
            host_name: format!("s{id}"),
            path: "/vstorage/stor1-mds".into(),
            status: ServiceStatus::Active.into(),
            master,
            commit_time_permille: 20,
            commits_per_s: 3,
            cpu_permille: 4,
            memory_bytes: 64 << 20,
            uptime_ms: (17 * 24 + 6) * 3_600_000,
            software: "0.1.0".into(),
        }
    }

    /// A chunk server as an MDS describes it.
    pub(crate) fn sample_cs(id: u64, status: ServiceStatus) -> CsInfo {
        let gib = 1 << 30;
        CsInfo {
            cs_id: id,
            addresses: vec![format!("10.31.240.167:{}", 3000 + id - 1025)],
            host_name: "s2".into(),
            host_id: "00112233445566778899aabbccddeeff".into(),
            path: format!("/vstorage/stor1-cs{id}"),
            status: status.into(),
            flags: FLAG_JOURNAL
                | FLAG_CHECKSUMS
                | if status == ServiceStatus::Active { FLAG_CLEAN } else { FLAG_FAILED_IO },
            tier: 1,
            total_bytes: 1007 * gib,
            free_bytes: 157 * gib,
            replicas: 7142,
            unique: 0,
            io_rate: IoStats {
                latency_us_avg: 1_200,
                latency_us_max: 117_000,
                queue_depth_milli: 300,
                io_wait_permille: 100,
                ..Default::default()
            },
            software: "0.1.0".into(),
            renewed_ms_ago: 1_500,
            journal_path: "/ssd/cs1".into(),
            journal_bytes: 30 * gib,
        }
    }

    #[test]
    fn metadata_servers_have_the_columns_of_the_guide() {
        let rows = [sample_mds(1, true), sample_mds(12, false)].map(|info| MdsView::from(&info));
        let drawn = "\
MDSID  STATUS  %CTIME  COMMITS  %CPU  MEM  UPTIME  HOST
M   1  avail     2.0%      3/s  0.4%  64m  17d 6h  s1:2510
   12  avail     2.0%      3/s  0.4%  64m  17d 6h  s12:2510
";
        assert_eq!(draw(&rows), drawn);
        let stale =
            MdsInfo { status: ServiceStatus::Stale.into(), host_name: String::new(), ..sample_mds(2, false) };
        let row = draw(&[MdsView::from(&stale)]);
        assert!(row.contains("stale") && row.contains("10.30.17.2:2510"), "{row}");
    }

    #[test]
    fn chunk_servers_have_the_columns_of_the_guide() {
        let rows = [sample_cs(1025, ServiceStatus::Active), sample_cs(1026, ServiceStatus::Failed)];
        let rows = rows.map(|info| CsView::from(&info));
        let drawn = "\
CSID  STATUS  SPACE  AVAIL  REPLICAS  UNIQUE  IOWAIT  IOLAT(ms)  QDEPTH  HOST  FLAGS
1025  active    1TB  157GB      7142       0     10%      1/117     0.3  s2    JCc
1026  failed    1TB  157GB      7142       0     10%      1/117     0.3  s2    HJC
";
        assert_eq!(draw(&rows), drawn);
    }

    #[test]
    fn lists_of_servers_say_where_they_are() {
        let mds = draw(&[MdsPlace(MdsView::from(&sample_mds(1, true)))]);
        let expected = "\
MDSID  STATUS  ADDRESS          HOST  VERSION  PATH
M   1  avail   10.30.17.1:2510  s1    0.1.0    /vstorage/stor1-mds
";
        assert_eq!(mds, expected);
        let cs = draw(&[CsPlace(CsView::from(&sample_cs(1025, ServiceStatus::Active)))]);
        let expected = "\
CSID  STATUS  TIER  FLAGS  ADDRESS             HOST  VERSION  PATH                    JOURNAL
1025  active     1  JCc    10.31.240.167:3000  s2    0.1.0    /vstorage/stor1-cs1025  /ssd/cs1 (30GB)
";
        assert_eq!(cs, expected);
    }

    #[test]
    fn numbers_are_numbers_in_json() {
        let json =
            serde_json::to_value(CsPlace(CsView::from(&sample_cs(1025, ServiceStatus::Active)))).unwrap();
        assert_eq!((&json["cs_id"], &json["free_bytes"]), (&1025.into(), &(157u64 << 30).into()));
        assert_eq!((&json["flags"], &json["status"]), (&"JCc".into(), &"active".into()));
        let json = serde_json::to_value(MdsView::from(&sample_mds(1, true))).unwrap();
        assert_eq!((&json["master"], &json["uptime_ms"]), (&true.into(), &1_490_400_000u64.into()));
    }
    #[test]
    fn locations_are_hosts_with_their_servers_below() {
        let other = CsInfo {
            host_id: "ff".into(),
            host_name: String::new(),
            ..sample_cs(1026, ServiceStatus::Inactive)
        };
        let servers = [sample_cs(1025, ServiceStatus::Active), other, sample_cs(1027, ServiceStatus::Failed)];
        let rows = LocationView::tree(&servers.each_ref().map(CsView::from));
        let drawn = "\
LOCATION                               STATUS         TIER  SPACE  AVAIL  REPLICAS  HOST
00112233445566778899aabbccddeeff       1 of 2 active          2TB  314GB     14284  s2
00112233445566778899aabbccddeeff.1025  active            1    1TB  157GB      7142  s2
00112233445566778899aabbccddeeff.1027  failed            1    1TB  157GB      7142  s2
ff                                     0 of 1 active          1TB  157GB      7142  10.31.240.167:3001
ff.1026                                inactive          1    1TB  157GB      7142  10.31.240.167:3001
";
        assert_eq!(draw(&rows), drawn);
    }

    #[test]
    fn what_chunk_servers_do_is_shown() {
        let mut info = sample_cs(1025, ServiceStatus::Active);
        info.io_rate = IoStats { write_bytes: 1 << 20, write_ops: 256, flushes: 2, ..Default::default() };
        let drawn = "\
CSID  STATUS  TIER  FLAGS  READ  WRITE  RD_OPS    WR_OPS  FSYNCS  HOST
1025  active     1  JCc    0B/s  1MB/s  0ops/s  256ops/s  2ops/s  s2
";
        assert_eq!(draw(&[CsWork(CsView::from(&info))]), drawn);
    }
}
