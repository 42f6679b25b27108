//! The cluster at a glance.

use std::fmt;

use serde::Serialize;
use wire::cluster::{ChunkCounts, ClusterHealth, ClusterStatReply, CopyRate, Event, Space};

use super::client::ClientView;
use super::event::EventView;
use super::io::IoView;
use super::server::{CsView, MdsView};
use crate::table::{draw, printable};
use crate::units::{bytes, elapsed, ops, rate, share, tenths};

/// From this part of the disks in use on, in percent, the space is said to need attention.
const FILLED_WARNING: u64 = 80;

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ClusterView {
    cluster: String,
    cluster_uuid: String,
    health: &'static str,
    space: SpaceView,
    tiers: Vec<TierView>,
    master_id: u64,
    epoch_uptime_ms: u64,
    mds_up: u32,
    mds_total: u32,
    cs_active: u32,
    cs_inactive: u32,
    cs_offline: u32,
    cs_total: u32,
    replicas: u32,
    replicas_min: u32,
    chunks: ChunksView,
    fs: FsView,
    io_rate: IoView,
    copy_rate: Option<CopyView>,
    io_total: IoView,
    pub(super) mds: Vec<MdsView>,
    pub(super) cs: Vec<CsView>,
    pub(super) clients: Vec<ClientView>,
    pub(super) events: Vec<EventView>,
}

/// Space in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct SpaceView {
    total_bytes: u64,
    free_bytes: u64,
    allocatable_bytes: u64,
    allocatable_total_bytes: u64,
}

/// Space of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct TierView {
    tier: u32,
    #[serde(flatten)]
    space: SpaceView,
}

/// Chunks by state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct ChunksView {
    healthy: u64,
    standby: u64,
    degraded: u64,
    urgent: u64,
    blocked: u64,
    pending: u64,
    offline: u64,
    replicating: u64,
    overcommitted: u64,
    deleting: u64,
    void: u64,
}

/// What is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct FsView {
    bytes: u64,
    files: u64,
    inodes: u64,
    chunks: u64,
    replicas: u64,
}

/// What chunk servers copy among themselves, per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct CopyView {
    read_bytes: u64,
    write_bytes: u64,
}

/// How much attention something needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attention {
    None,
    Some,
    Much,
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "[OK]",
            Self::Some => "[WARN]",
            Self::Much => "[ERROR]",
        })
    }
}

impl From<&Space> for SpaceView {
    fn from(space: &Space) -> Self {
        Self {
            total_bytes: space.total_bytes,
            free_bytes: space.free_bytes,
            allocatable_bytes: space.allocatable_bytes,
            allocatable_total_bytes: space.allocatable_total_bytes,
        }
    }
}

impl SpaceView {
    fn attention(self) -> Attention {
        let used = self.total_bytes.saturating_sub(self.free_bytes);
        let filled = u128::from(used) * 100 >= u128::from(self.total_bytes) * u128::from(FILLED_WARNING);
        match (self.total_bytes, self.allocatable_bytes) {
            (0, _) => Attention::Some,
            (_, 0) => Attention::Much,
            _ if filled => Attention::Some,
            _ => Attention::None,
        }
    }
}

impl fmt::Display for SpaceView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [allocatable, all, free, total] =
            [self.allocatable_bytes, self.allocatable_total_bytes, self.free_bytes, self.total_bytes]
                .map(bytes);
        write!(f, "allocatable {allocatable} of {all}, free {free} of {total}")
    }
}

impl From<&CopyRate> for CopyView {
    fn from(rate: &CopyRate) -> Self {
        Self { read_bytes: rate.read_bytes, write_bytes: rate.write_bytes }
    }
}

impl From<&ChunkCounts> for ChunksView {
    fn from(counts: &ChunkCounts) -> Self {
        Self {
            healthy: counts.healthy,
            standby: counts.standby,
            degraded: counts.degraded,
            urgent: counts.urgent,
            blocked: counts.blocked,
            pending: counts.pending,
            offline: counts.offline,
            replicating: counts.replicating,
            overcommitted: counts.overcommitted,
            deleting: counts.deleting,
            void: counts.void,
        }
    }
}

impl ChunksView {
    fn attention(self) -> Attention {
        if self.blocked + self.pending + self.offline > 0 {
            Attention::Much
        } else if self.standby + self.degraded + self.urgent > 0 {
            Attention::Some
        } else {
            Attention::None
        }
    }

    /// Three lines of counts with their part of all chunks.
    fn lines(self, all: u64) -> String {
        let part = |(count, name): &(u64, &str)| format!("{count} ({}) {name}", share(*count, all));
        let rows: [&[(u64, &str)]; 3] = [
            &[
                (self.healthy, "healthy"),
                (self.standby, "standby"),
                (self.degraded, "degraded"),
                (self.urgent, "urgent"),
            ],
            &[
                (self.blocked, "blocked"),
                (self.pending, "pending"),
                (self.offline, "offline"),
                (self.replicating, "replicating"),
            ],
            &[(self.overcommitted, "overcommitted"), (self.deleting, "deleting"), (self.void, "void")],
        ];
        let rows = rows.map(|row| row.iter().map(part).collect::<Vec<_>>().join(", "));
        rows.join(",\n        ")
    }
}

impl ClusterView {
    /// The cluster and what happened last in it.
    pub(crate) fn new(stat: &ClusterStatReply, events: &[Event]) -> Self {
        let health = match stat.health() {
            ClusterHealth::Unknown => "unknown",
            ClusterHealth::Healthy => "healthy",
            ClusterHealth::Degraded => "degraded",
            ClusterHealth::Failure => "failure",
        };
        let uuid = <[u8; 16]>::try_from(&stat.cluster_uuid[..]).map(|id| link::ClusterId(id).to_string());
        Self {
            cluster: stat.name.clone(),
            cluster_uuid: uuid.unwrap_or_default(),
            health,
            space: (&stat.space).into(),
            tiers: stat.tiers.iter().map(|one| TierView { tier: one.tier, space: one.into() }).collect(),
            master_id: stat.master_id,
            epoch_uptime_ms: stat.master_uptime_ms,
            mds_up: stat.mds_up,
            mds_total: stat.mds_total,
            cs_active: stat.cs_active,
            cs_inactive: stat.cs_inactive,
            cs_offline: stat.cs_offline,
            cs_total: stat.cs_total,
            replicas: stat.replicas,
            replicas_min: stat.replicas_min,
            chunks: (&stat.chunks).into(),
            fs: FsView {
                bytes: stat.fs_bytes,
                files: stat.fs_files,
                inodes: stat.fs_inodes,
                chunks: stat.fs_chunks,
                replicas: stat.fs_replicas,
            },
            io_rate: (&stat.io_rate).into(),
            copy_rate: stat.copy_rate.as_ref().map(CopyView::from),
            io_total: (&stat.io).into(),
            mds: stat.mds.iter().map(MdsView::from).collect(),
            cs: stat.cs.iter().map(CsView::from).collect(),
            clients: stat.clients.iter().map(ClientView::from).collect(),
            events: events.iter().map(EventView::from).collect(),
        }
    }

    /// The lines above the tables; all of them, or those that are looked at most.
    pub(super) fn write_head(&self, f: &mut impl fmt::Write, all: bool) -> fmt::Result {
        writeln!(f, "Cluster '{}': {}", printable(&self.cluster), self.health)?;
        writeln!(f, "Space: {} {}", self.space.attention(), self.space)?;
        if all && self.tiers.len() > 1 {
            for one in &self.tiers {
                writeln!(f, "tier {}: {}", one.tier, one.space)?;
            }
        }
        let uptime = elapsed(self.epoch_uptime_ms);
        writeln!(f, "MDS nodes: {} of {}, epoch uptime: {uptime}", self.mds_up, self.mds_total)?;
        let (active, inactive, offline) = (self.cs_active, self.cs_inactive, self.cs_offline);
        let states = format!("{active} avail, {inactive} inactive, {offline} offline");
        writeln!(f, "CS nodes: {active} of {} ({states})", self.cs_total)?;
        writeln!(f, "Replication: {} norm, {} limit", self.replicas, self.replicas_min)?;
        if all {
            self.write_contents(f)?;
        }
        let now = self.io_rate;
        let [read, write] = [now.read_bytes, now.write_bytes].map(rate);
        let [reads, writes] = [now.read_ops, now.write_ops].map(ops);
        writeln!(f, "IO:       read {read} ({reads}), write {write} ({writes})")?;
        if all { self.write_more_io(f) } else { Ok(()) }
    }

    fn write_contents(&self, f: &mut impl fmt::Write) -> fmt::Result {
        writeln!(f, "Chunks: {} {}", self.chunks.attention(), self.chunks.lines(self.fs.chunks))?;
        let FsView { bytes: stored, files, inodes, chunks, replicas } = self.fs;
        let stored = bytes(stored);
        writeln!(
            f,
            "FS: {stored} in {files} files, {inodes} inodes, {chunks} chunks, {replicas} chunk replicas"
        )
    }

    fn write_more_io(&self, f: &mut impl fmt::Write) -> fmt::Result {
        let all = self.io_total;
        let [read, write] = [all.read_bytes, all.write_bytes].map(bytes);
        writeln!(f, "IO total: read {read} ({}ops), write {write} ({}ops)", all.read_ops, all.write_ops)?;
        if let Some(CopyView { read_bytes, write_bytes }) = self.copy_rate {
            writeln!(f, "Repl IO:  read {}, write {}", rate(read_bytes), rate(write_bytes))?;
        }
        writeln!(f, "Sync rate: {}", ops(self.io_rate.flushes))?;
        let depths = || self.cs.iter().map(|one| one.queue_depth_milli);
        let average = depths().fold(0, u64::saturating_add) / (self.cs.len() as u64).max(1);
        let most = depths().max().unwrap_or(0);
        writeln!(f, "IO QDEPTH: {} aver, {} max", tenths(average), tenths(most))
    }
}

impl fmt::Display for ClusterView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(f, true)?;
        let tables = [draw(&self.mds), draw(&self.cs), draw(&self.clients), draw(&self.events)];
        tables.iter().try_for_each(|table| write!(f, "\n{table}"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use wire::cluster::{ServiceStatus, Severity};
    use wire::session::IoStats;

    use super::*;
    use crate::view::{client, server};

    pub(crate) fn sample() -> ClusterStatReply {
        let gib = 1 << 30;
        ClusterStatReply {
            name: "stor1".into(),
            health: ClusterHealth::Degraded.into(),
            space: Space {
                total_bytes: 2014 * gib,
                free_bytes: 314 * gib,
                allocatable_bytes: 140 * gib,
                allocatable_total_bytes: 1000 * gib,
                tier: 0,
            },
            tiers: vec![Space { total_bytes: gib, tier: 1, ..Default::default() }],
            master_id: 1,
            master_uptime_ms: 33 * 60_000,
            mds_up: 1,
            mds_total: 1,
            cs_active: 1,
            cs_inactive: 1,
            cs_total: 2,
            replicas: 2,
            replicas_min: 1,
            chunks: ChunkCounts { healthy: 38, degraded: 2, ..Default::default() },
            fs_bytes: gib,
            fs_files: 51,
            fs_inodes: 53,
            fs_chunks: 40,
            fs_replicas: 78,
            io: IoStats { write_bytes: 5 * gib, write_ops: 1000, ..Default::default() },
            io_rate: IoStats { read_bytes: 1 << 20, read_ops: 256, flushes: 2, ..Default::default() },
            mds: vec![server::tests::sample_mds(1, true)],
            cs: vec![
                server::tests::sample_cs(1025, ServiceStatus::Active),
                server::tests::sample_cs(1026, ServiceStatus::Inactive),
            ],
            clients: vec![client::tests::sample()],
            cluster_uuid: vec![0x11; 16],
            copy_rate: Some(CopyRate { read_bytes: 3 << 20, write_bytes: 3 << 19 }),
            ..Default::default()
        }
    }

    pub(crate) fn event() -> Event {
        Event {
            id: 3,
            time_ms: 1_393_001_720_000,
            sys: "MON".into(),
            severity: Severity::Warning.into(),
            code: "mds.cs_inactive".into(),
            message: "CS#1026 has not been heard from".into(),
        }
    }

    #[test]
    fn the_cluster_is_shown_as_in_the_guide() {
        let text = "\
Cluster 'stor1': degraded
Space: [WARN] allocatable 140GB of 1TB, free 314GB of 2TB
MDS nodes: 1 of 1, epoch uptime: 33 min
CS nodes: 1 of 2 (1 avail, 1 inactive, 0 offline)
Replication: 2 norm, 1 limit
Chunks: [WARN] 38 (95%) healthy, 0 (0%) standby, 2 (5%) degraded, 0 (0%) urgent,
        0 (0%) blocked, 0 (0%) pending, 0 (0%) offline, 0 (0%) replicating,
        0 (0%) overcommitted, 0 (0%) deleting, 0 (0%) void
FS: 1GB in 51 files, 53 inodes, 40 chunks, 78 chunk replicas
IO:       read 1MB/s (256ops/s), write 0B/s (0ops/s)
IO total: read 0B (0ops), write 5GB (1000ops)
Repl IO:  read 3MB/s, write 1.5MB/s
Sync rate: 2ops/s
IO QDEPTH: 0.3 aver, 0.3 max

MDSID  STATUS  %CTIME  COMMITS  %CPU  MEM  UPTIME  HOST
M   1  avail     2.0%      3/s  0.4%  64m  17d 6h  s1:2510

CSID  STATUS    SPACE  AVAIL  REPLICAS  UNIQUE  IOWAIT  IOLAT(ms)  QDEPTH  HOST  FLAGS
1025  active      1TB  157GB      7142       0     10%      1/117     0.3  s2    JCc
1026  inactive    1TB  157GB      7142       0     10%      1/117     0.3  s2    HJC

CLID  LEASES   READ    WRITE    RD_OPS    WR_OPS  FSYNCS  IOLAT(ms)  HOST
2053     0/1  1MB/s  1.5MB/s  256ops/s  384ops/s  2ops/s       1/12  s4

TIME (UTC)         SYS  SEV  MESSAGE
21-02-14 16:55:20  MON  WRN  CS#1026 has not been heard from
";
        assert_eq!(ClusterView::new(&sample(), &[event()]).to_string(), text);
    }

    #[test]
    fn what_nobody_counts_is_not_shown() {
        let stat = ClusterStatReply { copy_rate: None, ..sample() };
        assert!(!ClusterView::new(&stat, &[]).to_string().contains("Repl IO"));
    }

    #[test]
    fn tiers_are_shown_when_there_are_several() {
        let mut stat = sample();
        assert!(!ClusterView::new(&stat, &[]).to_string().contains("tier"));
        stat.tiers.push(Space { tier: 3, ..stat.space });
        let text = ClusterView::new(&stat, &[]).to_string();
        assert!(
            text.contains("\ntier 1: allocatable 0B of 0B, free 0B of 1GB\ntier 3: allocatable 140GB of"),
            "{text}"
        );
    }

    #[test]
    fn what_needs_attention_is_marked() {
        let space = |total_bytes, free_bytes, allocatable_bytes| {
            SpaceView { total_bytes, free_bytes, allocatable_bytes, allocatable_total_bytes: total_bytes }
                .attention()
        };
        assert_eq!(space(0, 0, 0), Attention::Some, "no chunk server");
        assert_eq!(space(100, 100, 95), Attention::None);
        assert_eq!(space(100, 21, 16), Attention::None);
        assert_eq!(space(100, 20, 15), Attention::Some);
        assert_eq!(space(100, 5, 0), Attention::Much);
        let chunks = |counts: ChunkCounts| ChunksView::from(&counts).attention();
        let of = ChunkCounts::default;
        assert_eq!(chunks(ChunkCounts { healthy: 1, void: 1, overcommitted: 1, ..of() }), Attention::None);
        assert_eq!(chunks(ChunkCounts { urgent: 1, ..of() }), Attention::Some);
        assert_eq!(chunks(ChunkCounts { degraded: 1, offline: 1, ..of() }), Attention::Much);
    }

    #[test]
    fn the_cluster_in_json_has_stable_names() {
        let json = serde_json::to_value(ClusterView::new(&sample(), &[event()])).unwrap();
        assert_eq!(json["cluster"], "stor1");
        assert_eq!(json["cluster_uuid"], "11111111-1111-1111-1111-111111111111");
        assert_eq!(json["health"], "degraded");
        assert_eq!(json["space"]["free_bytes"], 314u64 << 30);
        assert_eq!(json["tiers"][0]["tier"], 1);
        assert_eq!(json["tiers"][0]["total_bytes"], 1 << 30);
        assert_eq!(json["chunks"]["healthy"], 38);
        assert_eq!(json["fs"]["files"], 51);
        assert_eq!(json["copy_rate"]["write_bytes"], 3 << 19);
        assert_eq!((&json["mds"][0]["mds_id"], &json["cs"][1]["cs_id"]), (&1.into(), &1026.into()));
        assert_eq!((&json["clients"][0]["client_id"], &json["events"][0]["id"]), (&2053.into(), &3.into()));
    }
}
