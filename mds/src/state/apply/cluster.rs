//! The cluster as a whole: founding, restoring, configuring.

use super::{Answer, Step, check_text};
use crate::state::command::{InitCluster, LeaderElected, RaiseGeneration, SetConfig};
use crate::state::config::Parameter;
use crate::state::effect::Effect;
use crate::state::event::EventCode;
use crate::state::health::{ClusterStatus, CsCounts};
use crate::state::ids::Uuid;
use crate::state::namespace::Namespace;
use crate::state::outcome::Outcome;
use crate::state::refusal::Refusal;
use crate::state::servers::Registration;
use crate::state::{Cluster, State, clients::Clients, command::CsState};

/// Client and chunk server ids skipped by a restore: more than a backup can have missed.
const IDS_SKIPPED: u32 = 100_000;
/// From this share of used disk space on, in percent, each further step is an event.
const FILLED_FROM: u64 = 80;
/// The step, in percent.
const FILLED_STEP: u64 = 5;

impl State {
    pub(super) fn init_cluster(&mut self, step: &mut Step, op: &InitCluster) -> Answer {
        if self.cluster.generation != 0 {
            return Err(Refusal::AlreadyInitialized(self.cluster.name.clone()));
        }
        let uuid =
            Uuid::from_bytes(&op.uuid).ok_or_else(|| Refusal::malformed("the cluster UUID has 16 bytes"))?;
        check_cluster_name(&op.name)?;
        self.cluster = Cluster {
            uuid,
            name: op.name.clone(),
            generation: 1,
            created_ms: step.now_ms,
            next_file: 1,
            next_chunk: 1,
            ahead: None,
        };
        let root = self.cluster.mint_file();
        self.tree = Namespace::new(root, step.now_ns());
        step.event(EventCode::ClusterCreated, &[&op.name]);
        Ok(Outcome::Done(()))
    }

    pub(super) fn leader_elected(&mut self, step: &mut Step, op: &LeaderElected) -> Answer {
        check_text("an address", &op.address)?;
        step.event(EventCode::BecameMaster, &[&op.mds_id, &op.address]);
        Ok(Outcome::Done(()))
    }

    pub(super) fn set_config(&mut self, step: &mut Step, op: &SetConfig) -> Answer {
        check_text("the origin of a request", &op.origin)?;
        let parameter = Parameter::parse(&op.key)?;
        let value = parameter.parse_value(&op.value)?;
        let old = self.config.set(parameter, value);
        if old != value {
            let origin = if op.origin.is_empty() { String::new() } else { format!(" by {}", op.origin) };
            step.event(EventCode::ConfigChanged, &[&op.key, &old, &value, &origin]);
            // With more servers offline, or fuller disks, than before replicas may be made now.
            step.effect(Effect::Replicate);
        }
        self.report_status(step);
        Ok(Outcome::Done(()))
    }

    /// C12: whatever the backup says about who holds what may have been overtaken.
    pub(super) fn raise_generation(&mut self, step: &mut Step, op: &RaiseGeneration) -> Answer {
        let generation = u32::from(self.cluster.generation).max(op.above).checked_add(1);
        let generation = generation.and_then(|generation| u16::try_from(generation).ok());
        let generation =
            generation.ok_or_else(|| Refusal::malformed("the last cluster generation is reached"))?;
        self.cluster.generation = generation;
        // They are of an earlier generation now.
        self.cluster.ahead = None;

        let next_client = self.clients.next_id().saturating_add(IDS_SKIPPED);
        self.clients = Clients::default();
        self.clients.skip_ids(next_client);

        self.servers.skip_ids(self.servers.next_id().saturating_add(IDS_SKIPPED));
        for server in self.servers.iter_mut() {
            server.trust_next = true;
            server.registration = Registration::Lapsed;
            if server.state == CsState::Active {
                server.state = CsState::Inactive;
                server.changed_ms = step.now_ms;
            }
        }

        for (_, file) in self.tree.files_mut() {
            file.lease.doubt();
            file.chunks.update_all(|entry| entry.set_unreconciled(entry.is_usable()));
        }
        self.fencing.clear();
        self.kept.clear();
        for orphan in self.tree.orphans().clone() {
            self.delete_file(step, orphan);
        }
        self.dismiss_joiners(step, |_, _, _| true);
        self.end_additions(step, |_| true);
        self.deletions.restart(step.now_ms);
        self.restore_nodes(step);

        step.event(EventCode::GenerationRaised, &[&generation]);
        self.report_status(step);
        Ok(Outcome::Generation(generation.into()))
    }

    /// How many chunk servers are in which state.
    pub(in crate::state) fn cs_counts(&self) -> CsCounts {
        let mut counts = CsCounts::default();
        for server in self.servers.iter() {
            match server.state {
                CsState::Active => counts.active += 1,
                CsState::Inactive => counts.inactive += 1,
                CsState::Offline => counts.offline += 1,
                CsState::Dropped => {}
            }
        }
        counts
    }

    /// Tells the operator if the cluster's state has changed.
    pub(super) fn report_status(&mut self, step: &mut Step) {
        let counts = self.cs_counts();
        let limit = self.config.get(Parameter::MaxOfflineCs);
        let status = ClusterStatus::of(counts, limit);
        if std::mem::replace(&mut self.status, status) == status {
            return;
        }
        let CsCounts { active, inactive, offline } = counts;
        match status {
            ClusterStatus::Unknown => {}
            ClusterStatus::Healthy => step.event(EventCode::ClusterHealthy, &[&active]),
            ClusterStatus::Degraded => {
                step.event(EventCode::ClusterDegraded, &[&active, &inactive, &offline])
            }
            ClusterStatus::Failed => {
                step.event(EventCode::ClusterFailed, &[&active, &inactive, &offline, &limit])
            }
        }
    }

    /// Tells the operator if the disks have filled up by another step.
    pub(super) fn report_space(&mut self, step: &mut Step) {
        let sum = |bytes: fn(&crate::state::servers::ChunkServer) -> u64| -> u128 {
            self.servers.iter().map(|server| u128::from(bytes(server))).sum()
        };
        let total = sum(|server| server.total_bytes);
        let used = total - sum(|server| server.free_bytes.min(server.total_bytes));
        // At most 100.
        let percent = (used * 100).checked_div(total).unwrap_or(0) as u64;
        let filled = if percent < FILLED_FROM { 0 } else { percent / FILLED_STEP * FILLED_STEP };
        if std::mem::replace(&mut self.filled, filled) < filled {
            step.event(EventCode::ClusterFilled, &[&filled]);
        }
    }
}

/// A cluster's name is also a directory's and a service's.
fn check_cluster_name(name: &str) -> Result<(), Refusal> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let starts_well = name.bytes().next().is_some_and(|byte| byte != b'.' && byte != b'-');
    if starts_well && name.len() <= 63 && name.bytes().all(good) {
        Ok(())
    } else {
        Err(Refusal::malformed("a cluster name is 1 to 63 of a-z A-Z 0-9 . _ -, not beginning with . or -"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_names() {
        for good in ["stor1", "a", "A.b_c-9", &"x".repeat(63)] {
            assert_eq!(check_cluster_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "-a", "a/b", "a b", "ü", "..", &"x".repeat(64)] {
            assert!(check_cluster_name(bad).is_err(), "{bad}");
        }
    }
}
