//! Configuration and monitoring of the cluster.

use std::collections::BTreeMap;

use prost::Message;
use wire::MAX_BODY;
use wire::cluster::{
    ChunkCounts, ClusterHealth, ClusterStat, ClusterStatReply, ConfigEntry, CsInfo, Event, GetConfig,
    GetConfigReply, GetEvents, GetEventsReply, ListServices, ListServicesReply, MdsInfo, ServiceStatus,
    SetConfig, Severity, Space,
};
use wire::cs::FLAGS_OUT_OF_SERVICE;
use wire::hello::Empty;
use wire::limits::MAX_LISTED;

use super::asked::Asked;
use super::failure::Failure;
use super::reign::Reign;
use crate::state::command::{self, CommandOp, CsState, Leave};
use crate::state::health::{ChunkHealth, ClusterStatus};
use crate::state::query::Summary;
use crate::state::servers::{ChunkServer, Standing};
use crate::state::{self, CsId, Parameter, State};

/// Bytes of events in one answer, with room for what goes around them.
const EVENT_BYTES: usize = MAX_BODY as usize - (64 << 10);
/// Bytes of clients in the cluster's state: the rest of the answer needs room, too.
const STAT_CLIENT_BYTES: usize = MAX_BODY as usize / 4;
/// Requests that may wait for events at a time.
const FOLLOWERS_MAX: u32 = 256;

impl Reign {
    pub(super) async fn get_config(&self, call: GetConfig, asked: &Asked) -> Result<GetConfigReply, Failure> {
        self.confirm(asked).await?;
        let entry = |setting: state::query::Setting| ConfigEntry {
            key: setting.spec.name.to_owned(),
            value: setting.value.to_string(),
            default: setting.spec.default.to_string(),
            description: format!(
                "{} ({} to {} {})",
                setting.spec.about, setting.spec.min, setting.spec.max, setting.spec.unit
            ),
        };
        let entries = self.read(|state| {
            state
                .settings()
                .filter(|setting| setting.spec.name.starts_with(&call.prefix))
                .map(entry)
                .collect()
        });
        Ok(GetConfigReply { entries })
    }

    pub(super) async fn set_config(&self, call: SetConfig, asked: &Asked) -> Result<Empty, Failure> {
        let value = match call.value {
            Some(value) => value,
            None => Parameter::parse(&call.key)?.spec().default.to_string(),
        };
        let origin = asked.connection.peer().identity.node.clone();
        let op = CommandOp::SetConfig(command::SetConfig { key: call.key, value, origin });
        self.change(asked, asked.key(None), op).await??;
        Ok(Empty {})
    }

    pub(super) async fn list_services(
        &self,
        _: ListServices,
        asked: &Asked,
    ) -> Result<ListServicesReply, Failure> {
        self.confirm(asked).await?;
        let unique = self.read(unique_replicas);
        Ok(ListServicesReply { mds: vec![self.mds_info()], cs: self.cs_infos(&unique) })
    }

    pub(super) async fn cluster_stat(
        &self,
        _: ClusterStat,
        asked: &Asked,
    ) -> Result<ClusterStatReply, Failure> {
        self.confirm(asked).await?;
        let (summary, unique) = self.read(|state| {
            let servers = self.servers.borrow();
            (state.summary_with(|server| servers.free_bytes(server)), unique_replicas(state))
        });
        let (name, uuid) = self.read(|state| {
            state.cluster().map(|cluster| (cluster.name.clone(), cluster.uuid.0.to_vec())).unwrap_or_default()
        });
        let (io, io_rate) = self.sessions.borrow().totals(rt::time::now());
        let counts = summary.servers;
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(ClusterStatReply {
            name,
            health: match summary.status {
                ClusterStatus::Unknown => ClusterHealth::Unknown,
                ClusterStatus::Healthy => ClusterHealth::Healthy,
                ClusterStatus::Degraded => ClusterHealth::Degraded,
                ClusterStatus::Failed => ClusterHealth::Failure,
            }
            .into(),
            space: space(0, summary.space),
            tiers: summary.tiers.iter().map(|(tier, of)| space(*tier, *of)).collect(),
            master_id: self.served.mds_id,
            master_uptime_ms: millis(self.since.elapsed()),
            mds_up: 1,
            mds_total: 1,
            cs_active: count(counts.active),
            cs_inactive: count(counts.inactive),
            cs_offline: count(counts.offline),
            cs_total: count(counts.active + counts.inactive + counts.offline),
            replicas: summary.attrs.replicas.normal.into(),
            replicas_min: summary.attrs.replicas.minimum.into(),
            chunks: chunk_counts(&summary),
            fs_bytes: summary.file_bytes,
            fs_files: summary.files as u64,
            fs_inodes: (summary.files + summary.dirs) as u64,
            fs_chunks: summary.chunks.total(),
            fs_replicas: summary.replicas,
            io,
            io_rate,
            mds: vec![self.mds_info()],
            cs: self.cs_infos(&unique),
            clients: self.clients_after(0, STAT_CLIENT_BYTES).0,
            cluster_uuid: uuid,
            copy_rate: Some(self.servers.borrow().copy_rate(rt::time::now())),
        })
    }

    fn mds_info(&self) -> MdsInfo {
        let metrics = self.consensus.metrics();
        let uptime = self.served.since.elapsed();
        let permille = metrics.commit.total.as_micros() * 1000 / uptime.as_micros().max(1);
        let vitals = self.options.vitals.as_ref().map(|vitals| vitals()).unwrap_or_default();
        MdsInfo {
            mds_id: self.served.mds_id,
            address: self.served.address.to_string(),
            host_name: rt::node::host_name(),
            path: self.served.dir.display().to_string(),
            status: ServiceStatus::Active.into(),
            master: true,
            commit_time_permille: u32::try_from(permille.min(1000)).unwrap_or(1000),
            commits_per_s: metrics.commit.count / uptime.as_secs().max(1),
            cpu_permille: vitals.cpu_permille,
            memory_bytes: vitals.memory_bytes,
            uptime_ms: millis(uptime),
            software: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn cs_infos(&self, unique: &BTreeMap<CsId, u64>) -> Vec<CsInfo> {
        self.read(|state| state.servers().map(|server| self.cs_info(server, unique)).collect())
    }

    fn cs_info(&self, server: &ChunkServer, unique: &BTreeMap<CsId, u64>) -> CsInfo {
        let now = rt::time::now();
        let servers = self.servers.borrow();
        let memory = servers.memory(server.id);
        CsInfo {
            cs_id: server.id.0.into(),
            addresses: server.addresses.clone(),
            host_name: server.host_name.clone(),
            host_id: server.host.clone(),
            path: server.path.clone(),
            status: status(server).into(),
            flags: server.flags,
            tier: server.tier.into(),
            total_bytes: server.total_bytes,
            free_bytes: servers.free_bytes(server).unwrap_or(server.free_bytes),
            replicas: server.replicas,
            unique: unique.get(&server.id).copied().unwrap_or(0),
            io_rate: memory.map(|memory| memory.rates.per_second(now)).unwrap_or_default(),
            software: server.build.clone(),
            // Not heard from in this reign: at least as long ago as that began.
            renewed_ms_ago: millis(memory.and_then(|memory| memory.renewed).unwrap_or(self.since).elapsed()),
            journal_path: server.journal_path.clone(),
            journal_bytes: server.journal_bytes,
        }
    }

    /// Events after one, waiting for the first if that is wanted.
    pub(super) async fn get_events(&self, call: GetEvents, asked: &Asked) -> Result<GetEventsReply, Failure> {
        self.confirm(asked).await?;
        if call.follow {
            let _place = Follower::enter(self)?;
            loop {
                let applied = self.metadata.applied();
                if self.read(|state| state.events().last_id()) > call.after || self.is_over() {
                    break;
                }
                if rt::time::timeout_at(asked.answer_by(), applied).await.is_err() {
                    break;
                }
            }
        }
        let most = if call.limit == 0 { MAX_LISTED } else { call.limit.min(MAX_LISTED) };
        Ok(self.read(|state| events(state, call.after, most, call.newest)))
    }
}

/// A request that waits for events.
struct Follower<'a>(&'a std::cell::Cell<u32>);

impl<'a> Follower<'a> {
    fn enter(reign: &'a Reign) -> Result<Self, Failure> {
        let followers = &reign.served.followers;
        if followers.get() == FOLLOWERS_MAX {
            return Err(Failure::busy("too many requests wait for events"));
        }
        followers.set(followers.get() + 1);
        Ok(Self(followers))
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The events after one: at most `most`, the oldest of them or the newest, as many as one answer holds.
fn events(state: &State, after: u64, most: u32, newest: bool) -> GetEventsReply {
    let last_id = state.events().last_id();
    let from = if newest { after.max(last_id.saturating_sub(most.into())) } else { after };
    let mut listed: Vec<Event> = state.events().after(from, most as usize).map(event).collect();
    if newest {
        listed.reverse();
    }
    let mut bytes = 0;
    let fits = listed.iter().take_while(|event| {
        bytes += event.encoded_len() + 8;
        bytes <= EVENT_BYTES
    });
    let fits = fits.count();
    listed.truncate(fits);
    if newest {
        listed.reverse();
    }
    GetEventsReply { events: listed, last_id }
}

fn event(event: &state::Event) -> Event {
    let spec = event.code.spec();
    let severity = match spec.severity {
        state::Severity::Info => Severity::Info,
        state::Severity::Warning => Severity::Warning,
        state::Severity::Error => Severity::Error,
    };
    Event {
        id: event.id,
        time_ms: event.time_ms,
        sys: spec.sys.to_string(),
        severity: severity.into(),
        code: event.name().to_owned(),
        message: event.message(),
    }
}

fn space(tier: u8, space: state::space::Space) -> Space {
    Space {
        total_bytes: space.total,
        free_bytes: space.free,
        allocatable_bytes: space.allocatable,
        allocatable_total_bytes: space.allocatable_total,
        tier: tier.into(),
    }
}

fn chunk_counts(summary: &Summary) -> ChunkCounts {
    let count = |health| summary.chunks.get(health);
    ChunkCounts {
        healthy: count(ChunkHealth::Healthy),
        standby: count(ChunkHealth::Standby),
        degraded: count(ChunkHealth::Degraded),
        urgent: count(ChunkHealth::Urgent),
        blocked: count(ChunkHealth::Blocked),
        pending: count(ChunkHealth::Pending),
        offline: count(ChunkHealth::Offline),
        replicating: count(ChunkHealth::Replicating),
        overcommitted: count(ChunkHealth::Overcommitted),
        deleting: summary.deleting as u64,
        void: count(ChunkHealth::Void),
    }
}

pub(super) fn status(server: &ChunkServer) -> ServiceStatus {
    match server.state {
        // Whatever was wrong with it.
        CsState::Dropped => ServiceStatus::Dropped,
        _ if server.flags & FLAGS_OUT_OF_SERVICE != 0 || server.standing == Standing::Stale => {
            ServiceStatus::Failed
        }
        CsState::Active if server.leave != Leave::Stay => ServiceStatus::Releasing,
        CsState::Active => ServiceStatus::Active,
        CsState::Inactive => ServiceStatus::Inactive,
        CsState::Offline => ServiceStatus::Offline,
    }
}

/// How many replicas on each chunk server are the only ones of their chunk. Walks all chunks.
fn unique_replicas(state: &State) -> BTreeMap<CsId, u64> {
    let mut unique = BTreeMap::new();
    for entry in state.tree().files().flat_map(|(_, file)| file.chunks().iter()) {
        let mut members = entry.in_sync();
        if let (Some(only), None) = (members.next(), members.next()) {
            *unique.entry(only).or_default() += 1;
        }
    }
    unique
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::command::{InitCluster, RegisterCs, ReportedEvent, ReportedSeverity};
    use crate::state::{Command, REPORTED_MAX, Secret};

    /// A state with at least this many events, as long as events can be. Gives how many there are, too.
    fn state_with(events: u64) -> (State, u64) {
        let mut state = State::new();
        let mut number = 0;
        let mut apply = |state: &mut State, op| {
            number += 1;
            state.apply(number, &Command::internal(number, op)).outcome.unwrap()
        };
        apply(&mut state, CommandOp::InitCluster(InitCluster { uuid: vec![1; 16], name: "stor1".into() }));
        let register = RegisterCs {
            cs_uuid: vec![2; 16],
            new_nonce: Secret { high: 1, low: 1 },
            boot_id: vec![3; 16],
            ..RegisterCs::default()
        };
        apply(&mut state, CommandOp::RegisterCs(register));
        let (cs, session) = state.servers().map(|server| (server.id.0, server.session)).next().unwrap();
        let long = ReportedEvent {
            severity: ReportedSeverity::Info.into(),
            code: "cs.test".into(),
            message: "m".repeat(1024),
        };
        let report =
            command::CsReport { cs, session, events: vec![long; REPORTED_MAX], ..Default::default() };
        while state.events().last_id() < events {
            apply(&mut state, CommandOp::CsReport(report.clone()));
        }
        let last = state.events().last_id();
        (state, last)
    }

    #[test]
    fn events_come_in_pages_from_either_end() {
        let (state, last) = state_with(100);
        let ids = |after, most, newest| -> Vec<u64> {
            events(&state, after, most, newest).events.iter().map(|event| event.id).collect()
        };
        assert_eq!(ids(0, 3, false), [1, 2, 3]);
        assert_eq!(ids(last - 2, 3, false), [last - 1, last]);
        assert_eq!(ids(0, 3, true), [last - 2, last - 1, last]);
        assert_eq!(ids(last - 1, 3, true), [last]);
        assert_eq!(ids(last, 3, true), [0; 0]);
        assert_eq!(ids(u64::MAX, 3, false), [0; 0]);
        assert_eq!(events(&state, 0, 3, false).last_id, last);
        let first = &events(&state, 0, 1, false).events[0];
        assert_eq!((first.code.as_str(), first.sys.as_str()), ("mds.cluster_created", "MDS"));
        let reported = &events(&state, 0, 1, true).events[0];
        assert_eq!((reported.code.as_str(), reported.severity()), ("cs.test", Severity::Info));
    }

    #[test]
    fn an_answer_never_outgrows_its_frame() {
        let (state, last) = state_with(5000);
        for newest in [false, true] {
            let reply = events(&state, 0, MAX_LISTED, newest);
            assert!(wire::encode_body(&reply).is_ok(), "{} events", reply.events.len());
            assert!(reply.events.len() > 800);
            let ids: Vec<u64> = reply.events.iter().map(|event| event.id).collect();
            assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]));
            assert_eq!(ids[if newest { ids.len() - 1 } else { 0 }], if newest { last } else { 1 });
        }
    }
}
