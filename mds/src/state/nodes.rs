//! Who was admitted to the cluster, who is a member no longer, what is kept of the password, and the cluster's own time.

use std::collections::BTreeMap;

/// Most nodes that are kept, revoked ones among them.
pub const NODES_MAX: usize = 16_384;
/// The number of the host that makes the cluster.
pub const FOUNDER: u64 = 1;

/// A node: a host that was admitted once. If it is admitted again, that is another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number, which its certificates carry; from 1, never used twice.
    pub number: u64,
    /// Its name, for people.
    pub name: String,
    /// The id of its host.
    pub host_id: String,
    /// Where it was admitted from, without port; empty for the founder.
    pub address: String,
    /// When it was admitted, in milliseconds since 1970.
    pub admitted_ms: u64,
    /// When it was revoked, in milliseconds since 1970.
    pub revoked_ms: Option<u64>,
}

/// What the password's verifier is, and how often it was set.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password {
    /// Bytes of the verifier; empty = there is no password.
    pub verifier: Vec<u8>,
    /// Counts the passwords.
    pub version: u64,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Password").field("version", &self.version).finish_non_exhaustive()
    }
}

/// All nodes, the password, and the cluster's own time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    members: BTreeMap<u64, Node>,
    last: u64,
    password: Password,
    hours: u64,
    /// The version of the list of revoked nodes: a later list has a higher one.
    version: u64,
}

impl Nodes {
    /// The node of this number.
    pub fn get(&self, number: u64) -> Option<&Node> {
        self.members.get(&number)
    }

    /// Nodes with numbers above `after`, ascending.
    pub fn after(&self, after: u64) -> impl Iterator<Item = &Node> {
        self.members.range(after.saturating_add(1)..).map(|(_, node)| node)
    }

    /// Numbers of those that are members no longer, ascending.
    pub fn revoked(&self) -> impl Iterator<Item = u64> {
        self.members.values().filter(|node| node.revoked_ms.is_some()).map(|node| node.number)
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What is kept of the password.
    pub fn password(&self) -> &Password {
        &self.password
    }

    /// Hours during which the cluster has had a master.
    pub fn hours(&self) -> u64 {
        self.hours
    }

    /// The version of the list of revoked nodes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The last number given.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Adds a node under a number of its own.
    pub(super) fn admit(&mut self, name: &str, host_id: &str, address: &str, now_ms: u64) -> u64 {
        self.last += 1;
        let node = Node {
            number: self.last,
            name: name.to_owned(),
            host_id: host_id.to_owned(),
            address: address.to_owned(),
            admitted_ms: now_ms,
            revoked_ms: None,
        };
        self.members.insert(self.last, node);
        self.last
    }

    /// Revokes a node; gives it if it was a member until now.
    pub(super) fn revoke(&mut self, number: u64, now_ms: u64, version: u64) -> Option<&Node> {
        let node = self.members.get_mut(&number).filter(|node| node.revoked_ms.is_none())?;
        node.revoked_ms = Some(now_ms);
        self.version = version;
        Some(node)
    }

    pub(super) fn set_password(&mut self, verifier: Vec<u8>) {
        self.password = Password { verifier, version: self.password.version + 1 };
    }

    /// The cluster is an hour older.
    pub(super) fn set_hours(&mut self, hours: u64, version: u64) {
        self.hours = hours;
        self.version = version;
    }

    /// Numbers that a restored backup may not know of are skipped.
    pub(super) fn skip_numbers(&mut self, count: u64, version: u64) {
        self.last = self.last.saturating_add(count);
        self.version = version;
    }

    /// From a snapshot.
    pub(super) fn restore(&mut self, last: u64, password: Password, hours: u64, version: u64) {
        (self.last, self.password, self.hours, self.version) = (last, password, hours, version);
    }

    /// From a snapshot; false if the number is taken or was never given.
    pub(super) fn restore_node(&mut self, node: Node) -> bool {
        (1..=self.last).contains(&node.number) && self.members.insert(node.number, node).is_none()
    }
}
