//! What happened in the cluster, for the operator.
//!
//! An event is a stable code with its arguments; the text is made when it is read. So a later version may say a
//! thing better without making its state differ from that of its peers.

use std::collections::VecDeque;
use std::fmt;

/// How many events are kept.
pub const EVENTS_MAX: usize = 10_000;

/// Who the event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sys {
    /// The metadata service.
    Mds,
    /// The replicated journal of the metadata servers.
    Jrn,
    /// Chunk servers.
    Cs,
    /// Clients.
    Clt,
    /// The watch over services.
    Mon,
}

impl fmt::Display for Sys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mds => "MDS",
            Self::Jrn => "JRN",
            Self::Cs => "CS",
            Self::Clt => "CLT",
            Self::Mon => "MON",
        })
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look.
    Warning,
    /// Somebody must act.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "INF",
            Self::Warning => "WRN",
            Self::Error => "ERR",
        })
    }
}

/// One line of the table of events.
#[derive(Debug, PartialEq, Eq)]
pub struct EventSpec {
    /// The stable name, for scripts.
    pub name: &'static str,
    /// Who it is about.
    pub sys: Sys,
    /// How bad it is.
    pub severity: Severity,
    /// The text; `{0}`, `{1}` … stand for the arguments. What is in brackets is left out if an argument in it is empty.
    pub text: &'static str,
}

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident = $number:literal: $name:literal $sys:ident $severity:ident $text:literal;)*) => {
        /// The kinds of events. The numbers are on disk and never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
        #[repr(i32)]
        pub enum EventCode {
            $($(#[$doc])* $variant = $number,)*
        }

        impl EventCode {
            /// All kinds.
            pub const ALL: &'static [EventCode] = &[$(Self::$variant),*];

            /// The line of the table for this kind.
            pub fn spec(self) -> EventSpec {
                match self {
                    $(Self::$variant => EventSpec {
                        name: $name, sys: Sys::$sys, severity: Severity::$severity, text: $text,
                    },)*
                }
            }
        }
    };
}

events! {
    /// Arguments: name.
    ClusterCreated = 1: "mds.cluster_created" Mds Info "Cluster '{0}' was created";
    /// Arguments: MDS id, address.
    BecameMaster = 2: "mds.became_master" Jrn Info "MDS#{0} at {1} is now the master";
    /// Arguments: generation.
    GenerationRaised = 3: "mds.generation_raised" Mds Warning
        "The cluster was restored from a backup: its generation is now {0}, all sessions and registrations start anew";
    /// Arguments: parameter, old value, new value, origin.
    ConfigChanged = 4: "mds.config_changed" Mds Info "{0} changed from {1} to {2}{3}";
    /// Arguments: active.
    ClusterHealthy = 5: "mds.cluster_healthy" Mds Info "The cluster is healthy: all {0} chunk servers are active";
    /// Arguments: active, inactive, offline.
    ClusterDegraded = 6: "mds.cluster_degraded" Mds Warning
        "The cluster is degraded: chunk servers {0} active, {1} inactive, {2} offline";
    /// Arguments: active, inactive, offline, limit.
    ClusterFailed = 7: "mds.cluster_failed" Mds Error
        "The cluster failed: chunk servers {0} active, {1} inactive, {2} offline, more than mds.wd.max_offline_cs={3}; data is not replicated anew until some return or the limit is raised";
    /// Arguments: percent.
    ClusterFilled = 8: "mds.cluster_filled" Mds Warning
        "{0} % of the disk space is used: add chunk servers or remove data";
    /// Arguments: replicas, path, tier, found, why.
    AllocFailed = 9: "mds.alloc_failed" Mds Warning
        "Cannot place {0} replicas for '{1}' at tier {2}: {3} chunk servers can take them ({4})";

    /// Arguments: CS, host, address.
    CsAdded = 20: "mds.cs_added" Mds Info "CS#{0} joined the cluster from host {1}[ at {2}]";
    /// Arguments: CS, address.
    CsRegistered = 21: "mds.cs_registered" Mds Info "CS#{0} registered[ from {1}]";
    /// Arguments: CS.
    CsRebooted = 22: "mds.cs_rebooted" Mds Warning
        "CS#{0} lost its memory (its host or power failed): files in use on it are reconciled";
    /// Arguments: CS, replicas.
    CsStale = 23: "mds.cs_stale" Mds Error
        "CS#{0} is not what it was when it last registered (its directory was rolled back, copied or restored): its {1} replicas are not used any more";
    /// Arguments: CS.
    CsUnverified = 24: "mds.cs_unverified" Mds Warning
        "CS#{0} registered for the first time since the metadata was restored: its replicas are taken on trust";
    /// Arguments: CS, old host, new host, chunks.
    CsMoved = 25: "mds.cs_moved" Mds Warning
        "CS#{0} moved from host {1} to {2}: {3} chunks now have two replicas on one host";
    /// Arguments: CS.
    CsActive = 26: "mds.cs_active" Mds Info "CS#{0} is active";
    /// Arguments: CS.
    CsInactive = 27: "mds.cs_inactive" Mon Warning "CS#{0} has not been heard from for its term and is inactive";
    /// Arguments: CS, seconds.
    CsOffline = 28: "mds.cs_offline" Mon Warning "CS#{0} has not been heard from for {1} s and is offline";
    /// Arguments: CS, code, text.
    CsReportedInfo = 29: "cs.reported_info" Cs Info "CS#{0}: {2}";
    /// Arguments: CS, code, text.
    CsReportedWarning = 30: "cs.reported_warning" Cs Warning "CS#{0}: {2}";
    /// Arguments: CS, code, text.
    CsReportedError = 31: "cs.reported_error" Cs Error "CS#{0}: {2}";

    /// Arguments: CS, replicas, origin.
    CsReleased = 32: "mds.cs_released" Mds Info "CS#{0} is being removed: its {1} replicas go to other chunk servers{2}";
    /// Arguments: CS, origin.
    CsKept = 33: "mds.cs_kept" Mds Info "CS#{0} is not removed after all{1}";
    /// Arguments: CS, replicas, origin.
    CsLost = 34: "mds.cs_lost" Mds Warning
        "CS#{0} is given up for lost: its {1} replicas are made anew on other chunk servers{2}";
    /// Arguments: CS.
    CsDropped = 35: "mds.cs_dropped" Mds Info "CS#{0} was removed from the cluster";

    /// Arguments: CS, host id, address, other CS, its address.
    HostIdCopied = 36: "mds.host_id_copied" Mds Warning
        "CS#{0} at {2} and CS#{3} at {4} run on different machines with the same host id {1}, and count as one failure domain: if a machine was cloned, write a new id to /etc/vstorage/host_id on one of them and restart its chunk servers";

    /// Arguments: client, host.
    SessionExpired = 40: "mds.session_expired" Clt Warning
        "CL#{0} on {1} has not renewed its leases: they expired";
    /// Arguments: client, host, leases.
    SessionTakenOver = 41: "mds.session_taken_over" Clt Info
        "CL#{0} on {1} was restarted and takes over {2} leases";
    /// Arguments: what, client.
    LeaseRevoked = 42: "mds.lease_revoked" Clt Warning "The lease of CL#{1} on '{0}' was revoked";
    /// Arguments: path, epoch.
    ReconcileNeeded = 43: "mds.reconcile_needed" Mds Info
        "'{0}' was left without a flush at epoch {1}: its next holder reconciles its replicas";
    /// Arguments: path.
    Reconciled = 44: "mds.reconciled" Mds Info "All replicas of '{0}' are reconciled";
    /// Arguments: path, client.
    WritesLost = 45: "mds.writes_lost" Mds Error
        "All replicas of a chunk of '{0}' restarted with writes that CL#{1} had not flushed, or are damaged: its flushes fail until it opens the file again";
    /// Arguments: CS, chunks, path, why.
    ReplicasLeft = 46: "mds.replicas_left" Mds Warning
        "CS#{0} is left out of {1} chunks of '{2}': {3}; its replicas return by difference";
    /// Arguments: CS, chunks, path, why.
    ReplicaLost = 47: "mds.replica_lost" Mds Warning "CS#{0} has lost {1} replicas of '{2}': {3}";
    /// Arguments: CS, replicas, bytes.
    ReplicasReturned = 48: "mds.replicas_returned" Mds Info
        "All replicas on CS#{0} are in sync: {1} were filled, {2} bytes were copied";

    /// Arguments: CS, replicas, path of the first.
    ReplicasMissing = 49: "mds.replicas_missing" Mds Warning
        "CS#{0} does not have {1} replicas that it should have, the first of '{2}': others are made in their place";
    /// Arguments: CS, replicas, path of the first.
    ReplicasGone = 50: "mds.replicas_gone" Mds Error
        "CS#{0} does not have {1} replicas that it should have, the first of '{2}', and too few others are there to do without them: bring back the other chunk servers, or restore these files";
    /// Arguments: CS, replicas.
    ReplicasUnknown = 51: "mds.replicas_unknown" Mds Warning
        "CS#{0} has {1} replicas that are of no use any more: they are deleted after a quarantine";
    /// Arguments: CS, replicas.
    UnknownKept = 52: "mds.unknown_kept" Mds Warning
        "CS#{0} has {1} replicas from before the metadata was restored, which does not know them: they are kept until mds.wd.delete_unknown is set to 1";
    /// Arguments: CS, replicas.
    MetadataOld = 53: "mds.metadata_old" Mds Error
        "CS#{0} has {1} replicas of chunks that the metadata has never made: it is older than it should be; none of them is deleted. Put back the newest copy of the metadata, or run `vstorage-mdsd restored` with this one";
    /// Arguments: chunks.
    ReplicationStarted = 54: "mds.replication_started" Mds Info "Replication started: {0} chunks are queued";
    /// No arguments.
    ReplicationCompleted = 55: "mds.replication_completed" Mds Info "Replication completed: no chunk waits for replicas";
    /// Arguments: hosts, limit.
    ReplicationHeld = 56: "mds.replication_held" Mds Error
        "Missing replicas are not made anew: {0} hosts are offline, more than mds.wd.max_offline_cs_hosts={1}; bring hosts back, or raise the limit";
    /// Arguments: chunks, path of the first, replicas that are missing of it, chunk servers found, why.
    NoPlaceForReplicas = 57: "mds.no_place" Mds Warning
        "{0} chunks have no place for their replicas, the first of '{1}', which needs {2} more: {3} chunk servers can take them ({4}); add chunk servers, or lower replicas= of these files";
    /// No arguments.
    PlacesFound = 58: "mds.places_found" Mds Info "There is a place for every replica again";
    /// Arguments: path, chunk, blocks, bytes of the file, who agrees with whom.
    ReplicasDiffer = 59: "mds.replicas_differ" Mds Error
        "Replicas of '{0}' differ although all their checksums match: chunk {1}, {2} blocks of 4 KiB, bytes {3} of the file, {4}; nothing was changed, because nobody knows which are right";
    /// Arguments: CS, replicas.
    ReplicasNewer = 61: "mds.replicas_newer" Mds Error
        "CS#{0} has {1} replicas that are newer than the restored metadata knows: their chunks may lack what was written after the backup; they are kept. If there is a newer copy of the metadata, restore that";
    /// Arguments: CS, blocks, path, chunks, chunk servers.
    BlocksLost = 60: "mds.blocks_lost" Mds Error
        "CS#{0} was filled without {1} blocks[ of {3} chunks] that none of its sources had, the first of '{2}': they cannot be read until they are repaired or written again[. Other replicas may have them and are kept until they have been asked: bring {4} back, or give up with rm-cs -f what is lost for ever]";
    /// Arguments: chunk servers, chunks, path.
    LastMemoryAway = 62: "mds.last_memory_away" Mds Error
        "{1} chunks, the first of '{2}', wait for {0}: what was acknowledged there and not flushed may be nowhere else, because the others have lost their memory. Bring back what is offline, or give up with rm-cs -f what is lost for ever";

    /// Arguments: origin.
    PasswordSet = 90: "mds.password_set" Mds Info "The password of the cluster was set{0}";
    /// Arguments: origin.
    PasswordChanged = 91: "mds.password_changed" Mds Warning "The password of the cluster was changed{0}";
    /// Arguments: node, name, address.
    NodeAdmitted = 92: "mds.node_admitted" Mds Info "Node {0} ({1}) was admitted to the cluster[ from {2}]";
    /// Arguments: node, name, origin.
    NodeRevoked = 93: "mds.node_revoked" Mds Warning "Node {0} ({1}) was revoked{2}";
    /// Arguments: attempts, address.
    LoginFailed = 94: "mds.login_failed" Mds Warning
        "{0} attempts to authenticate with a wrong password, the last one from {1}";
    /// Arguments: attempts, address.
    LoginsIgnored = 95: "mds.logins_ignored" Mds Warning
        "{0} attempts to authenticate were turned away because there were too many, the last one from {1}";
}

impl EventCode {
    /// Whether the leader notes it by a command of its own: nothing else in the log tells of it.
    pub fn is_noted(self) -> bool {
        matches!(
            self,
            Self::ClusterHealthy
                | Self::ClusterDegraded
                | Self::ClusterFailed
                | Self::HostIdCopied
                | Self::UnknownKept
                | Self::MetadataOld
                | Self::ReplicasNewer
                | Self::ReplicationStarted
                | Self::ReplicationCompleted
                | Self::ReplicationHeld
                | Self::NoPlaceForReplicas
                | Self::PlacesFound
                | Self::ReplicasDiffer
        )
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counts from 1 without gaps.
    pub id: u64,
    /// When it happened, in milliseconds since 1970 by the wall clock of the leader of that time.
    pub time_ms: u64,
    /// What kind of event.
    pub code: EventCode,
    /// What fills the places in the text.
    pub args: Vec<String>,
    /// How often the same happened again right after, without anything else in between.
    pub repeats: u64,
}

impl Event {
    /// The stable name, for scripts: that of the table, or the one a chunk server gave.
    pub fn name(&self) -> &str {
        use EventCode::{CsReportedError, CsReportedInfo, CsReportedWarning};
        match (self.code, self.args.get(1)) {
            (CsReportedInfo | CsReportedWarning | CsReportedError, Some(code)) => code,
            (code, _) => code.spec().name,
        }
    }

    /// The text for the operator.
    pub fn message(&self) -> String {
        let mut text = String::new();
        let mut rest = self.code.spec().text;
        while let Some((before, after)) = rest.split_once('[') {
            self.fill(before, &mut text);
            let (part, tail) = after.split_once(']').unwrap_or((after, ""));
            let before_part = text.len();
            if !self.fill(part, &mut text) {
                text.truncate(before_part);
            }
            rest = tail;
        }
        self.fill(rest, &mut text);
        if self.repeats > 0 {
            text.push_str(&format!(" ({} times)", self.repeats + 1));
        }
        text
    }

    /// Appends a part of the text with its places filled; whether there was something for each of them.
    fn fill(&self, mut part: &str, text: &mut String) -> bool {
        let mut complete = true;
        while let Some((before, after)) = part.split_once('{') {
            let Some((number, tail)) = after.split_once('}') else { break };
            let arg = number.parse::<usize>().ok().and_then(|n| self.args.get(n));
            complete &= arg.is_some_and(|arg| !arg.is_empty());
            text.push_str(before);
            text.push_str(arg.map_or("?", String::as_str));
            part = tail;
        }
        text.push_str(part);
        complete
    }
}

/// The last [`EVENTS_MAX`] events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventLog {
    ring: VecDeque<Event>,
    last_id: u64,
}

impl EventLog {
    /// The highest id given; 0 if there was no event yet.
    pub fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Events kept, from the oldest.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.ring.iter()
    }

    /// At most `limit` events with an id above `id`, from the oldest.
    pub fn after(&self, id: u64, limit: usize) -> impl Iterator<Item = &Event> {
        let first = self.ring.front().map_or(0, |event| event.id);
        let skip = usize::try_from(id.saturating_add(1).saturating_sub(first)).unwrap_or(usize::MAX);
        self.ring.iter().skip(skip).take(limit)
    }

    /// Adds an event and returns it. What a client repeats until it works is counted with the first.
    pub(super) fn push(&mut self, time_ms: u64, code: EventCode, args: Vec<String>) -> Event {
        if let Some(last) = self.ring.back_mut()
            && matches!(
                code,
                EventCode::AllocFailed | EventCode::CsReportedWarning | EventCode::CsReportedError
            )
            && last.code == code
            && last.args == args
        {
            last.repeats += 1;
            return last.clone();
        }
        self.last_id += 1;
        let event = Event { id: self.last_id, time_ms, code, args, repeats: 0 };
        if self.ring.len() == EVENTS_MAX {
            self.ring.pop_front();
        }
        self.ring.push_back(event.clone());
        event
    }

    /// Builds the log from a snapshot; `events` are in order and at most [`EVENTS_MAX`].
    pub(super) fn restore(last_id: u64, events: VecDeque<Event>) -> Self {
        Self { ring: events, last_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent() {
        let mut names: Vec<_> = EventCode::ALL.iter().map(|code| code.spec().name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EventCode::ALL.len(), "every event has its own name");
        for code in EventCode::ALL {
            let text = code.spec().text;
            assert_eq!(text.matches('{').count(), text.matches('}').count(), "{text}");
            assert_eq!(text.matches('[').count(), text.matches(']').count(), "{text}");
        }
    }

    #[test]
    fn texts_are_filled_in() {
        let mut log = EventLog::default();
        let event =
            log.push(0, EventCode::ConfigChanged, ["a.b", "1", "2", " by h"].map(String::from).into());
        assert_eq!(event.message(), "a.b changed from 1 to 2 by h");
        let event = log.push(0, EventCode::CsMoved, vec!["7".into()]);
        assert!(event.message().contains("moved from host ? to ?"), "a missing argument shows");
        let mut joined = |address: &str| {
            log.push(0, EventCode::CsAdded, ["7", "h", address].map(String::from).into()).message()
        };
        assert_eq!(joined("a:1"), "CS#7 joined the cluster from host h at a:1");
        assert_eq!(joined(""), "CS#7 joined the cluster from host h", "made, but not running yet");
    }

    #[test]
    fn the_ring_is_bounded_and_ids_go_on() {
        let mut log = EventLog::default();
        for n in 0..EVENTS_MAX + 10 {
            log.push(n as u64, EventCode::CsActive, vec![n.to_string()]);
        }
        assert_eq!(log.iter().count(), EVENTS_MAX);
        assert_eq!(log.last_id(), EVENTS_MAX as u64 + 10);
        assert_eq!(log.after(0, 2).map(|event| event.id).collect::<Vec<_>>(), [11, 12]);
        assert_eq!(log.after(10_005, 2).map(|event| event.id).collect::<Vec<_>>(), [10_006, 10_007]);
        assert_eq!(log.after(log.last_id(), 2).count(), 0);
        assert_eq!(log.after(u64::MAX - 1, 2).count(), 0);
    }

    #[test]
    fn what_repeats_is_counted_and_what_recurs_is_not() {
        let mut log = EventLog::default();
        log.push(1, EventCode::AllocFailed, vec!["1".into()]);
        let again = log.push(2, EventCode::AllocFailed, vec!["1".into()]);
        assert_eq!((again.id, again.time_ms, again.repeats), (1, 1, 1));
        assert!(again.message().ends_with("(2 times)"));
        log.push(3, EventCode::CsActive, vec!["1".into()]);
        log.push(4, EventCode::CsActive, vec!["1".into()]);
        assert_eq!(log.iter().count(), 3);
    }
}
