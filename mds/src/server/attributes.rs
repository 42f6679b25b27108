//! Attributes as they travel and as the state keeps them.

use wire::namespace::{Attrs as WireAttrs, FailureDomain as WireDomain};
use wire::{BodyError, Status};

use super::failure::Failure;
use crate::state::attrs::{AttrSet, Attrs};
use crate::state::command::{AttrChange, FailureDomain, ReplicaChange};

/// The change a request asks for, checked.
pub(crate) fn change(attrs: &WireAttrs) -> Result<AttrChange, Failure> {
    let replicas = match (attrs.replicas, attrs.replicas_min) {
        (Some(normal), minimum) => Some(ReplicaChange { normal, minimum }),
        (None, None) => None,
        (None, Some(_)) => {
            let text =
                "a minimum of replicas needs their normal number beside it: use replicas=NORMAL:MINIMUM";
            return Err(Failure::new(Status::Invalid, text));
        }
    };
    let failure_domain = match attrs.failure_domain {
        None => None,
        Some(raw) => match WireDomain::try_from(raw) {
            Ok(WireDomain::Disk) => Some(FailureDomain::Disk.into()),
            Ok(WireDomain::Host) => Some(FailureDomain::Host.into()),
            _ => return Err(unknown_value("failure_domain", raw)),
        },
    };
    let change = AttrChange {
        replicas,
        failure_domain,
        tier: attrs.tier,
        chunk_size: attrs.chunk_size,
        // No encoding is replication, which is what there is.
        encoding: attrs.encoding.clone().filter(|encoding| !encoding.is_empty()),
    };
    AttrSet::parse(&change)?;
    Ok(change)
}

fn unknown_value(field: &'static str, found: i32) -> Failure {
    BodyError::Value { field, found: u8::try_from(found).unwrap_or(u8::MAX) }.into()
}

/// Whether a change changes nothing.
pub(crate) fn is_empty(change: &AttrChange) -> bool {
    *change == AttrChange::default()
}

/// All attributes that are in force.
pub(crate) fn in_force(attrs: Attrs) -> WireAttrs {
    let set = AttrSet {
        replicas: Some(attrs.replicas),
        domain: Some(attrs.domain),
        tier: Some(attrs.tier),
        chunk_size: Some(attrs.chunk_size),
    };
    WireAttrs { encoding: Some(String::new()), ..explicit(&set) }
}

/// Attributes that were set on a directory itself.
pub(crate) fn explicit(set: &AttrSet) -> WireAttrs {
    let domain = |domain| match domain {
        FailureDomain::Disk => WireDomain::Disk.into(),
        FailureDomain::Host => WireDomain::Host.into(),
    };
    WireAttrs {
        replicas: set.replicas.map(|replicas| replicas.normal.into()),
        replicas_min: set.replicas.map(|replicas| replicas.minimum.into()),
        failure_domain: set.domain.map(domain),
        tier: set.tier.map(u32::from),
        encoding: None,
        chunk_size: set.chunk_size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::attrs::Replicas;

    #[test]
    fn what_is_set_comes_back() {
        let asked = WireAttrs {
            replicas: Some(3),
            replicas_min: Some(2),
            failure_domain: Some(WireDomain::Disk.into()),
            tier: Some(1),
            encoding: Some(String::new()),
            chunk_size: Some(1 << 20),
        };
        let change = change(&asked).unwrap();
        let set = AttrSet::parse(&change).unwrap();
        assert_eq!(explicit(&set), WireAttrs { encoding: None, ..asked.clone() });
        assert_eq!(in_force(set.over(Attrs::default())), asked);
        assert!(is_empty(&super::change(&WireAttrs::default()).unwrap()) && !is_empty(&change));
    }

    #[test]
    fn bad_attributes_are_refused() {
        let good = WireAttrs::default();
        let table = [
            (WireAttrs { replicas_min: Some(2), ..good.clone() }, Status::Invalid),
            (WireAttrs { replicas: Some(16), ..good.clone() }, Status::Invalid),
            (WireAttrs { failure_domain: Some(0), ..good.clone() }, Status::Invalid),
            (WireAttrs { failure_domain: Some(-7), ..good.clone() }, Status::Invalid),
            (WireAttrs { tier: Some(4), ..good.clone() }, Status::Invalid),
            (WireAttrs { chunk_size: Some(5), ..good.clone() }, Status::Invalid),
            (WireAttrs { encoding: Some("5+2".into()), ..good }, Status::Unsupported),
        ];
        for (attrs, status) in table {
            assert_eq!(change(&attrs).unwrap_err().status(), status, "{attrs:?}");
        }
    }

    #[test]
    fn a_minimum_may_be_left_out() {
        let change = change(&WireAttrs { replicas: Some(3), ..WireAttrs::default() }).unwrap();
        let set = AttrSet::parse(&change).unwrap();
        assert_eq!(set.replicas, Some(Replicas { normal: 3, minimum: 2 }));
    }
}
