//! Attributes of directories and files, and how they are inherited.
//!
//! A directory keeps only what was set on it ([`AttrSet`]); for the rest it follows the nearest directory above
//! that says something, and the top directory says everything. A file takes a copy of what is in force in its
//! directory at the moment it is created ([`Attrs`]), and from then on goes its own way. `set-attr -R` changes the
//! directory and every file below, and makes the directories below follow again.

use super::command::{AttrChange, FailureDomain, ReplicaChange};
use super::refusal::{BadAttribute, Refusal};

/// The most replicas of a chunk.
pub const REPLICAS_MAX: u32 = 15;
/// The highest storage tier.
pub const TIER_MAX: u8 = 3;
/// The smallest chunk size, in bytes.
pub const CHUNK_SIZE_MIN: u64 = 64 << 10;
/// The largest chunk size, in bytes; the default.
pub const CHUNK_SIZE_MAX: u64 = 64 << 20;

/// How many replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// How many a chunk should have.
    pub normal: u8,
    /// With fewer, writes wait (C3).
    pub minimum: u8,
}

impl Replicas {
    /// Checks a wish; the minimum is one less than normal if it is not given.
    ///
    /// # Errors
    /// [`Refusal::BadAttribute`].
    pub fn parse(change: ReplicaChange) -> Result<Self, Refusal> {
        let normal = change.normal;
        let minimum = change.minimum.unwrap_or(normal.saturating_sub(1).max(1));
        let reason = if !(1..=REPLICAS_MAX).contains(&normal) {
            "there can be 1 to 15 replicas"
        } else if minimum == 0 || minimum > normal {
            "the minimum is from 1 to the normal number"
        } else {
            // Both are at most 15.
            return Ok(Self { normal: normal as u8, minimum: minimum as u8 });
        };
        Err(bad("replicas", format!("{normal}:{minimum}"), reason))
    }
}

fn bad(name: &str, value: impl ToString, reason: &str) -> Refusal {
    Refusal::BadAttribute(BadAttribute {
        name: name.to_owned(),
        value: value.to_string(),
        reason: reason.to_owned(),
    })
}

/// A full set of attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attrs {
    /// Replica counts.
    pub replicas: Replicas,
    /// Where replicas may meet.
    pub domain: FailureDomain,
    /// Storage tier, 0 to [`TIER_MAX`].
    pub tier: u8,
    /// Bytes per chunk.
    pub chunk_size: u64,
}

impl Default for Attrs {
    /// What a new cluster starts with.
    fn default() -> Self {
        Self {
            replicas: Replicas { normal: 1, minimum: 1 },
            domain: FailureDomain::Host,
            tier: 0,
            chunk_size: CHUNK_SIZE_MAX,
        }
    }
}

/// Some attributes: what a directory says itself, or what a command changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttrSet {
    /// Replica counts.
    pub replicas: Option<Replicas>,
    /// Where replicas may meet.
    pub domain: Option<FailureDomain>,
    /// Storage tier.
    pub tier: Option<u8>,
    /// Bytes per chunk.
    pub chunk_size: Option<u64>,
}

impl AttrSet {
    /// Checks a change.
    ///
    /// # Errors
    /// [`Refusal::BadAttribute`] or [`Refusal::EncodingUnsupported`].
    pub fn parse(change: &AttrChange) -> Result<Self, Refusal> {
        if let Some(encoding) = change.encoding.as_ref().filter(|encoding| !encoding.is_empty()) {
            return Err(Refusal::EncodingUnsupported(encoding.clone()));
        }
        let domain = match change.failure_domain {
            None => None,
            Some(raw) => Some(
                FailureDomain::try_from(raw)
                    .map_err(|_| bad("failure-domain", raw, "it is disk (1) or host (2)"))?,
            ),
        };
        let tier = match change.tier {
            None => None,
            Some(tier) => Some(
                u8::try_from(tier)
                    .ok()
                    .filter(|tier| *tier <= TIER_MAX)
                    .ok_or_else(|| bad("tier", tier, "tiers are 0 to 3"))?,
            ),
        };
        if let Some(size) = change.chunk_size
            && !(size.is_power_of_two() && (CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(&size))
        {
            return Err(bad("chunk-size", size, "it is a power of two from 64 KiB to 64 MiB"));
        }
        let replicas = change.replicas.map(Replicas::parse).transpose()?;
        Ok(Self { replicas, domain, tier, chunk_size: change.chunk_size })
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is in force where this is said below `above`.
    pub fn over(&self, above: Attrs) -> Attrs {
        Attrs {
            replicas: self.replicas.unwrap_or(above.replicas),
            domain: self.domain.unwrap_or(above.domain),
            tier: self.tier.unwrap_or(above.tier),
            chunk_size: self.chunk_size.unwrap_or(above.chunk_size),
        }
    }

    /// Takes over what `change` says and keeps the rest.
    pub fn merge(&mut self, change: &AttrSet) {
        self.replicas = change.replicas.or(self.replicas);
        self.domain = change.domain.or(self.domain);
        self.tier = change.tier.or(self.tier);
        self.chunk_size = change.chunk_size.or(self.chunk_size);
    }

    /// Forgets whatever `change` says, so that the directory above is followed again.
    pub fn forget(&mut self, change: &AttrSet) {
        self.replicas = self.replicas.filter(|_| change.replicas.is_none());
        self.domain = self.domain.filter(|_| change.domain.is_none());
        self.tier = self.tier.filter(|_| change.tier.is_none());
        self.chunk_size = self.chunk_size.filter(|_| change.chunk_size.is_none());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_counts() {
        let cases = [
            (1, None, Some((1, 1))),
            (2, None, Some((2, 1))),
            (3, None, Some((3, 2))),
            (15, None, Some((15, 14))),
            (3, Some(1), Some((3, 1))),
            (3, Some(3), Some((3, 3))),
            (0, None, None),
            (16, None, None),
            (3, Some(0), None),
            (3, Some(4), None),
            (u32::MAX, Some(2), None),
        ];
        for (normal, minimum, want) in cases {
            let got = Replicas::parse(ReplicaChange { normal, minimum }).ok();
            assert_eq!(got.map(|r| (r.normal, r.minimum)), want, "{normal}:{minimum:?}");
        }
    }

    #[test]
    fn bad_attributes_are_named() {
        let cases = [
            (AttrChange { tier: Some(4), ..Default::default() }, "tier"),
            (AttrChange { tier: Some(260), ..Default::default() }, "tier"),
            (AttrChange { failure_domain: Some(3), ..Default::default() }, "failure-domain"),
            (AttrChange { chunk_size: Some(0), ..Default::default() }, "chunk-size"),
            (AttrChange { chunk_size: Some(32 << 10), ..Default::default() }, "chunk-size"),
            (AttrChange { chunk_size: Some(128 << 20), ..Default::default() }, "chunk-size"),
            (AttrChange { chunk_size: Some((64 << 10) + 1), ..Default::default() }, "chunk-size"),
        ];
        for (change, name) in cases {
            match AttrSet::parse(&change) {
                Err(Refusal::BadAttribute(refusal)) => assert_eq!(refusal.name, name),
                other => panic!("{change:?}: {other:?}"),
            }
        }
        let encoding = AttrChange { encoding: Some("5+2".into()), ..Default::default() };
        assert_eq!(AttrSet::parse(&encoding), Err(Refusal::EncodingUnsupported("5+2".into())));
        let replicas = AttrChange { encoding: Some(String::new()), ..Default::default() };
        assert_eq!(AttrSet::parse(&replicas), Ok(AttrSet::default()));
    }

    #[test]
    fn merge_then_forget_leaves_the_rest() {
        let mut set = AttrSet { tier: Some(1), ..Default::default() };
        let change = AttrSet { tier: Some(2), chunk_size: Some(CHUNK_SIZE_MIN), ..Default::default() };
        set.merge(&change);
        assert_eq!(set.over(Attrs::default()).tier, 2);
        assert_eq!(set.over(Attrs::default()).replicas, Attrs::default().replicas);
        set.forget(&AttrSet { tier: Some(0), ..Default::default() });
        assert_eq!(set, AttrSet { chunk_size: Some(CHUNK_SIZE_MIN), ..Default::default() });
        assert!(!set.is_empty());
    }
}
