//! Who a node is, as its certificate says.
//!
//! A certificate carries its facts as URIs of the scheme `vstorage` in the subject alternative names, one
//! fact each (`docs/formats/security.md`). Nothing here is to be believed before the chain of the
//! certificate has been checked.

use std::fmt;
use std::str::FromStr;

use wire::hello::Role;

/// Longest node name, cluster name or host id, in bytes.
pub const NAME_MAX: usize = 64;

/// The identity of a cluster: a UUID made when the cluster is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// A new random (version 4, RFC 9562) identity.
    ///
    /// # Panics
    /// When called outside an executor.
    #[must_use]
    pub fn random() -> Self {
        let mut id = [0; 16];
        rt::random::fill_secret(&mut id);
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        Self(id)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a UUID in its usual form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID of the form 01234567-89ab-cdef-0123-456789abcdef")]
pub struct NotAUuid;

impl FromStr for ClusterId {
    type Err = NotAUuid;

    fn from_str(text: &str) -> Result<Self, NotAUuid> {
        let bytes = text.as_bytes();
        let dashes = [8, 13, 18, 23];
        if bytes.len() != 36 || dashes.iter().any(|&at| bytes[at] != b'-') {
            return Err(NotAUuid);
        }
        let mut digits = bytes.iter().enumerate().filter(|(at, _)| !dashes.contains(at));
        let mut digit = || {
            let (_, &byte) = digits.next().ok_or(NotAUuid)?;
            (byte as char).to_digit(16).map(|digit| digit as u8).ok_or(NotAUuid)
        };
        let mut id = [0; 16];
        for byte in &mut id {
            *byte = digit()? << 4 | digit()?;
        }
        Ok(Self(id))
    }
}

/// A set of [`Role`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Roles(u8);

const NAMES: [(Role, &str); 4] =
    [(Role::Mds, "mds"), (Role::Cs, "cs"), (Role::Client, "client"), (Role::Tool, "tool")];

impl Roles {
    /// Every role: what a server of the cluster gets, which may run any daemon.
    pub const ALL: Self = Self(0b11110);

    /// The roles of a list.
    #[must_use]
    pub fn of(roles: &[Role]) -> Self {
        Self(roles.iter().fold(0, |set, &role| set | 1 << (role as u8)) & Self::ALL.0)
    }

    /// Whether the set has this role; it never has [`Role::Unspecified`].
    #[must_use]
    pub fn contains(self, role: Role) -> bool {
        self.0 & (1 << (role as u8)) != 0
    }

    fn iter(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(role, _)| self.contains(*role)).map(|(_, name)| name)
    }
}

/// The name of a role in messages and certificates.
#[must_use]
pub fn role_name(role: Role) -> &'static str {
    NAMES.iter().find(|(known, _)| *known == role).map_or("unknown", |(_, name)| name)
}

/// What a node's certificate says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster the node belongs to.
    pub cluster: ClusterId,
    /// The name of the node, for people.
    pub node: String,
    /// The id of its host, as in `/etc/vstorage/host_id`.
    pub host_id: String,
    /// What its programs may be.
    pub roles: Roles,
    /// The number under which it was admitted, by which it can be revoked; 0 = made beside the cluster's list.
    pub number: u64,
    /// The hour of the cluster's own time (see [`crate::revocation`]) at which the certificate has served its time; 0 = never.
    pub until_h: u64,
}

const CLUSTER: &str = "vstorage:cluster:";
const NAME: &str = "vstorage:name:";
const NODE: &str = "vstorage:node:";
const HOST: &str = "vstorage:host:";
const ROLE: &str = "vstorage:role:";
const NUMBER: &str = "vstorage:number:";
const UNTIL: &str = "vstorage:until:";

impl Identity {
    /// The URIs that say so.
    pub(crate) fn to_uris(&self) -> Vec<String> {
        let mut uris = vec![
            format!("{CLUSTER}{}", self.cluster),
            format!("{NODE}{}", self.node),
            format!("{HOST}{}", self.host_id),
        ];
        uris.extend(self.roles.iter().map(|role| format!("{ROLE}{role}")));
        let facts = [(NUMBER, self.number), (UNTIL, self.until_h)];
        uris.extend(facts.iter().filter(|(_, fact)| *fact > 0).map(|(name, fact)| format!("{name}{fact}")));
        uris
    }

    /// What the URIs of a node's certificate say; `None` when it is not one of ours. Facts and roles this
    /// code does not know are skipped.
    pub(crate) fn from_uris<'a>(uris: impl Iterator<Item = &'a str>) -> Option<Self> {
        let (mut cluster, mut node, mut host, mut roles) = (None, None, None, Roles::default());
        let (mut number, mut until_h) = (0, 0);
        for uri in uris {
            if let Some(text) = uri.strip_prefix(CLUSTER) {
                cluster = Some(text.parse().ok()?);
            } else if let Some(text) = uri.strip_prefix(NODE) {
                node = Some(text.to_owned());
            } else if let Some(text) = uri.strip_prefix(HOST) {
                host = Some(text.to_owned());
            } else if let Some(text) = uri.strip_prefix(NUMBER) {
                number = text.parse().ok()?;
            } else if let Some(text) = uri.strip_prefix(UNTIL) {
                until_h = text.parse().ok()?;
            } else if let Some(text) = uri.strip_prefix(ROLE)
                && let Some((role, _)) = NAMES.iter().find(|(_, name)| *name == text)
            {
                roles.0 |= Roles::of(&[*role]).0;
            }
        }
        let (node, host_id) = (node?, host?);
        let good = is_name(&node) && is_name(&host_id);
        good.then_some(Self { cluster: cluster?, node, host_id, roles, number, until_h })
    }
}

/// The URIs of the authority's own certificate.
pub(crate) fn authority_uris(cluster: ClusterId, name: &str) -> [String; 2] {
    [format!("{CLUSTER}{cluster}"), format!("{NAME}{name}")]
}

/// Cluster and its name by the URIs of an authority's certificate.
pub(crate) fn authority_from_uris<'a>(uris: impl Iterator<Item = &'a str>) -> Option<(ClusterId, String)> {
    let (mut cluster, mut name) = (None, None);
    for uri in uris {
        if let Some(text) = uri.strip_prefix(CLUSTER) {
            cluster = Some(text.parse().ok()?);
        } else if let Some(text) = uri.strip_prefix(NAME) {
            name = Some(text.to_owned());
        }
    }
    Some((cluster?, name.filter(|name| is_name(name))?))
}

/// A host's name as a certificate takes it, for [`Identity::node`].
#[must_use]
pub fn node_name(host: &str) -> String {
    let good = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' };
    let name: String = host.chars().map(good).take(NAME_MAX).collect();
    if name.is_empty() { "node".to_owned() } else { name }
}

/// Whether `text` may name a node, a cluster or a host: letters, digits, `.`, `_` and `-`.
pub(crate) fn is_name(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids_survive_their_text() {
        let id = ClusterId([0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0, 1, 2, 3, 4, 5, 6, 0xff]);
        assert_eq!(id.to_string(), "01234567-89ab-cdef-0001-0203040506ff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "01234567-89ab-cdef-0001-0203040506f",
            "01234567089ab-cdef-0001-0203040506ff",
            "é1234567-89ab-cdef-0001-0203040506f",
        ] {
            assert_eq!(bad.parse::<ClusterId>(), Err(NotAUuid), "{bad}");
        }
    }

    #[test]
    fn identities_survive_their_uris_and_unknown_facts_are_skipped() {
        let identity = Identity {
            cluster: ClusterId([7; 16]),
            node: "s1.example".into(),
            host_id: "0123456789abcdef".into(),
            roles: Roles::of(&[Role::Cs, Role::Client]),
            number: 7,
            until_h: u64::MAX,
        };
        let mut uris = identity.to_uris();
        uris.push("vstorage:role:gateway".into());
        uris.push("https://elsewhere.invalid/".into());
        assert_eq!(Identity::from_uris(uris.iter().map(String::as_str)), Some(identity.clone()));
        assert!(identity.roles.contains(Role::Cs) && !identity.roles.contains(Role::Mds));
        for missing in 0..3 {
            let rest = uris.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, uri)| uri.as_str());
            assert_eq!(Identity::from_uris(rest), None);
        }
    }

    #[test]
    fn no_set_of_roles_has_the_unspecified_one() {
        assert!(!Roles::ALL.contains(Role::Unspecified));
        assert!(!Roles::of(&[Role::Unspecified]).contains(Role::Unspecified));
        for (role, name) in NAMES {
            assert!(Roles::ALL.contains(role));
            assert_eq!(role_name(role), name);
        }
    }

    #[test]
    fn host_names_become_node_names() {
        assert_eq!(node_name("s1.stor.test"), "s1.stor.test");
        assert_eq!(node_name("büro pc"), "b-ro-pc");
        assert_eq!(node_name(""), "node");
        assert_eq!(node_name(&"x".repeat(200)).len(), NAME_MAX);
    }

    #[test]
    fn names_are_plain() {
        assert!(is_name("stor1") && is_name("a.b-c_d"));
        assert!(
            !is_name("") && !is_name("a b") && !is_name("a/b") && !is_name("ü") && !is_name(&"x".repeat(65))
        );
    }
}
