//! Attributes of files and directories: `replicas=3:2 failure-domain=host tier=1 chunk-size=64M encoding=5+2`.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use wire::namespace::{Attrs, FailureDomain};

use crate::units::{ByteSize, SizeError};

/// Names of the attributes, for messages.
pub(crate) const NAMES: &str = "replicas, failure-domain, tier, chunk-size, encoding";

/// One attribute and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attribute {
    /// How many replicas, and below how many writes wait; without the second the MDS chooses it.
    Replicas(u32, Option<u32>),
    /// What may fail at once.
    FailureDomain(FailureDomain),
    /// Storage tier.
    Tier(u32),
    /// Bytes in a chunk.
    ChunkSize(u64),
    /// Erasure code, `M+N`.
    Encoding(String),
}

/// Why a text is no attribute.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttributeError {
    /// It has no `=`.
    #[error("{0:?} is no attribute: write NAME=VALUE, such as replicas=3")]
    Form(String),
    /// There is no such attribute.
    #[error("there is no attribute {0:?}; there are {NAMES}")]
    Unknown(String),
    /// The value of `replicas`.
    #[error(
        "replicas={0} is not possible: write replicas=N or replicas=N:MIN, with N from 1 to 15 and MIN from 1 to N"
    )]
    Replicas(String),
    /// The value of `failure-domain`.
    #[error("failure-domain={0} is not possible: it is disk or host")]
    FailureDomain(String),
    /// The value of `tier`.
    #[error("tier={0} is not possible: tiers are 0 to 3")]
    Tier(String),
    /// The value of `chunk-size`.
    #[error("chunk-size={value} is not possible: {error}")]
    ChunkSize {
        /// The value.
        value: String,
        /// What is wrong with it.
        #[source]
        error: SizeError,
    },
    /// The value of `encoding`.
    #[error("encoding={0} is not possible: write encoding=M+N, such as 5+2")]
    Encoding(String),
    /// It is given twice.
    #[error("the attribute {0} is given twice")]
    Twice(&'static str),
}

impl Attribute {
    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Replicas(..) => "replicas",
            Self::FailureDomain(_) => "failure-domain",
            Self::Tier(_) => "tier",
            Self::ChunkSize(_) => "chunk-size",
            Self::Encoding(_) => "encoding",
        }
    }

    fn put_into(&self, attrs: &mut Attrs) {
        match self {
            Self::Replicas(normal, minimum) => {
                attrs.replicas = Some(*normal);
                attrs.replicas_min = *minimum;
            }
            Self::FailureDomain(domain) => attrs.failure_domain = Some((*domain).into()),
            Self::Tier(tier) => attrs.tier = Some(*tier),
            Self::ChunkSize(bytes) => attrs.chunk_size = Some(*bytes),
            Self::Encoding(encoding) => attrs.encoding = Some(encoding.clone()),
        }
    }
}

impl FromStr for Attribute {
    type Err = AttributeError;

    fn from_str(text: &str) -> Result<Self, AttributeError> {
        let (name, value) = text.split_once('=').ok_or_else(|| AttributeError::Form(text.to_owned()))?;
        match name {
            "replicas" => replicas(value),
            "failure-domain" => failure_domain(value),
            "tier" => {
                let tier = value.parse().ok().filter(|tier| *tier <= 3 && value.len() == 1);
                tier.map(Self::Tier).ok_or_else(|| AttributeError::Tier(value.to_owned()))
            }
            "chunk-size" => value
                .parse()
                .map(|ByteSize(bytes)| Self::ChunkSize(bytes))
                .map_err(|error| AttributeError::ChunkSize { value: value.to_owned(), error }),
            "encoding" => encoding(value),
            _ => Err(AttributeError::Unknown(name.to_owned())),
        }
    }
}

/// A number of digits only, without the sign that `parse` would allow.
fn whole(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn replicas(value: &str) -> Result<Attribute, AttributeError> {
    let refused = || AttributeError::Replicas(value.to_owned());
    let count = |text: &str| whole(text).filter(|count| (1..=15).contains(count));
    let (normal, minimum) = match value.split_once(':') {
        Some((normal, minimum)) => (normal, Some(count(minimum).ok_or_else(refused)?)),
        None => (value, None),
    };
    let normal = count(normal).ok_or_else(refused)?;
    if minimum.is_some_and(|minimum| minimum > normal) {
        return Err(refused());
    }
    Ok(Attribute::Replicas(normal, minimum))
}

fn failure_domain(value: &str) -> Result<Attribute, AttributeError> {
    match value {
        "disk" => Ok(Attribute::FailureDomain(FailureDomain::Disk)),
        "host" => Ok(Attribute::FailureDomain(FailureDomain::Host)),
        _ => Err(AttributeError::FailureDomain(value.to_owned())),
    }
}

fn encoding(value: &str) -> Result<Attribute, AttributeError> {
    let count = |text: &str, least: u32| whole(text).filter(|count| (least..=64).contains(count));
    let good = value.split_once('+').and_then(|(data, parity)| Some((count(data, 1)?, count(parity, 0)?)));
    let (data, parity) = good.ok_or_else(|| AttributeError::Encoding(value.to_owned()))?;
    Ok(Attribute::Encoding(format!("{data}+{parity}")))
}

/// The attributes as the protocol has them.
///
/// # Errors
/// [`AttributeError::Twice`].
pub(crate) fn collect(attributes: &[Attribute]) -> Result<Attrs, AttributeError> {
    let mut attrs = Attrs::default();
    for (at, attribute) in attributes.iter().enumerate() {
        if attributes[..at].iter().any(|earlier| earlier.name() == attribute.name()) {
            return Err(AttributeError::Twice(attribute.name()));
        }
        attribute.put_into(&mut attrs);
    }
    Ok(attrs)
}

/// What a domain is called.
pub(crate) fn domain_name(domain: FailureDomain) -> &'static str {
    match domain {
        FailureDomain::Unspecified => "unknown",
        FailureDomain::Disk => "disk",
        FailureDomain::Host => "host",
    }
}

/// Attributes for operators and for JSON; what is not set is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct AttrsView {
    /// Bytes in a chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chunk_size: Option<u64>,
    /// Erasure code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) encoding: Option<String>,
    /// `disk` or `host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure_domain: Option<&'static str>,
    /// Replicas a chunk should have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replicas: Option<u32>,
    /// Replicas below which writes wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replicas_min: Option<u32>,
    /// Storage tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tier: Option<u32>,
}

impl From<&Attrs> for AttrsView {
    fn from(attrs: &Attrs) -> Self {
        Self {
            chunk_size: attrs.chunk_size,
            encoding: attrs.encoding.clone().filter(|encoding| !encoding.is_empty()),
            failure_domain: attrs.failure_domain.map(|_| domain_name(attrs.failure_domain())),
            replicas: attrs.replicas,
            replicas_min: attrs.replicas_min,
            tier: attrs.tier,
        }
    }
}

impl fmt::Display for AttrsView {
    /// One line per attribute, in a form that `set-attr` takes back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(bytes) = self.chunk_size {
            writeln!(f, "chunk-size={}", ByteSize(bytes))?;
        }
        if let Some(encoding) = &self.encoding {
            writeln!(f, "encoding={}", crate::table::printable(encoding))?;
        }
        if let Some(domain) = self.failure_domain {
            writeln!(f, "failure-domain={domain}")?;
        }
        match (self.replicas, self.replicas_min) {
            (Some(normal), Some(minimum)) => writeln!(f, "replicas={normal}:{minimum}")?,
            (Some(normal), None) => writeln!(f, "replicas={normal}")?,
            _ => {}
        }
        match self.tier {
            Some(tier) => writeln!(f, "tier={tier}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_the_guide_are_read() {
        let table = [
            ("replicas=3", Attribute::Replicas(3, None)),
            ("replicas=2:1", Attribute::Replicas(2, Some(1))),
            ("replicas=15:15", Attribute::Replicas(15, Some(15))),
            ("failure-domain=disk", Attribute::FailureDomain(FailureDomain::Disk)),
            ("failure-domain=host", Attribute::FailureDomain(FailureDomain::Host)),
            ("tier=3", Attribute::Tier(3)),
            ("chunk-size=64M", Attribute::ChunkSize(64 << 20)),
            ("encoding=17+3", Attribute::Encoding("17+3".into())),
            ("encoding=1+0", Attribute::Encoding("1+0".into())),
        ];
        for (text, attribute) in table {
            assert_eq!(text.parse(), Ok(attribute), "{text}");
        }
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let table = [
            ("replicas", "is no attribute"),
            ("raid=5", "there is no attribute \"raid\""),
            ("replicas=0", "replicas=0 is not possible"),
            ("replicas=16", "1 to 15"),
            ("replicas=3:4", "MIN from 1 to N"),
            ("replicas=3:0", "MIN"),
            ("replicas=3:", "MIN"),
            ("replicas=", "replicas= is not possible"),
            ("failure-domain=rack", "disk or host"),
            ("tier=4", "tiers are 0 to 3"),
            ("tier=00", "tiers are 0 to 3"),
            ("tier=+1", "tiers are 0 to 3"),
            ("chunk-size=big", "not a size"),
            ("encoding=5", "M+N"),
            ("encoding=0+2", "M+N"),
            ("encoding=5++2", "M+N"),
            ("replicas=+3", "1 to 15"),
        ];
        for (text, part) in table {
            let error = text.parse::<Attribute>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn each_attribute_is_given_once() {
        let read = |texts: &[&str]| {
            let attributes: Vec<Attribute> = texts.iter().map(|text| text.parse().unwrap()).collect();
            collect(&attributes)
        };
        let attrs = read(&["replicas=3:2", "tier=1", "failure-domain=disk"]).unwrap();
        assert_eq!((attrs.replicas, attrs.replicas_min, attrs.tier), (Some(3), Some(2), Some(1)));
        assert_eq!(attrs.failure_domain(), FailureDomain::Disk);
        assert_eq!((attrs.chunk_size, attrs.encoding), (None, None));
        assert_eq!(read(&["replicas=3"]).unwrap().replicas_min, None, "the MDS chooses the minimum");
        assert_eq!(read(&["tier=1", "tier=1"]), Err(AttributeError::Twice("tier")));
        assert_eq!(read(&[]), Ok(Attrs::default()));
    }

    #[test]
    fn attributes_are_shown_as_they_are_given() {
        let attributes: Vec<Attribute> =
            ["chunk-size=64M", "encoding=5+2", "failure-domain=host", "replicas=3:2", "tier=0"]
                .iter()
                .map(|text| text.parse().unwrap())
                .collect();
        let view = AttrsView::from(&collect(&attributes).unwrap());
        assert_eq!(
            view.to_string(),
            "chunk-size=64M\nencoding=5+2\nfailure-domain=host\nreplicas=3:2\ntier=0\n"
        );
        let json = serde_json::to_string(&view).unwrap();
        assert_eq!(
            json,
            r#"{"chunk_size":67108864,"encoding":"5+2","failure_domain":"host","replicas":3,"replicas_min":2,"tier":0}"#
        );
        assert_eq!(serde_json::to_string(&AttrsView::default()).unwrap(), "{}");
    }
}
