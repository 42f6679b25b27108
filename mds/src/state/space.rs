//! How much fits: free and allocatable space (guide 5.3.1).

use super::command::FailureDomain;
use super::ids::CsId;
use std::collections::BTreeMap;

/// A chunk server's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk<'a> {
    /// Which.
    pub cs: CsId,
    /// Its host.
    pub host: &'a str,
    /// Its tier.
    pub tier: u8,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes free.
    pub free_bytes: u64,
}

/// Space of the cluster or of a tier, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Of all disks.
    pub total: u64,
    /// Free on all disks.
    pub free: u64,
    /// User data that can still be written.
    pub allocatable: u64,
    /// User data that could be written if all disks were empty.
    pub allocatable_total: u64,
}

/// Adds up disks and works out what can be allocated with `replicas` copies of everything.
///
/// `fill_margin` percent of each disk are left out, as placement does.
pub fn space(disks: &[Disk<'_>], replicas: u8, domain: FailureDomain, fill_margin: u64) -> Space {
    let margin = |disk: &Disk<'_>| super::placement::margin_bytes(disk.total_bytes, fill_margin);
    let free = places(disks, domain, |disk| disk.free_bytes.saturating_sub(margin(disk)));
    let total = places(disks, domain, |disk| disk.total_bytes);
    Space {
        total: sum(disks.iter().map(|disk| disk.total_bytes)),
        free: sum(disks.iter().map(|disk| disk.free_bytes)),
        allocatable: allocatable(&free, replicas),
        allocatable_total: allocatable(&total, replicas),
    }
}

/// Bytes per place that may hold only one replica of a chunk: a disk, or all disks of a host.
fn places(disks: &[Disk<'_>], domain: FailureDomain, bytes: impl Fn(&Disk<'_>) -> u64) -> Vec<u64> {
    match domain {
        FailureDomain::Disk => disks.iter().map(bytes).collect(),
        FailureDomain::Host => {
            let mut hosts: BTreeMap<&str, u64> = BTreeMap::new();
            for disk in disks {
                let host = hosts.entry(disk.host).or_default();
                *host = host.saturating_add(bytes(disk));
            }
            hosts.into_values().collect()
        }
    }
}

fn sum(bytes: impl Iterator<Item = u64>) -> u64 {
    bytes.fold(0, u64::saturating_add)
}

/// The most bytes `x` of user data whose `replicas` copies fit, no two copies of a byte in one place.
///
/// A place can hold at most `x` (one copy of everything), so `x` fits exactly if Σ min(place, x) ≥ replicas · x: fill
/// place after place, wrapping the copies around (McNaughton's rule). The excess is concave in `x` and zero at
/// zero, so the greatest such `x` is found by bisection.
pub fn allocatable(places: &[u64], replicas: u8) -> u64 {
    let replicas = u128::from(replicas.max(1));
    let fits = |x: u64| {
        let held: u128 = places.iter().map(|place| u128::from((*place).min(x))).sum();
        held >= replicas * u128::from(x)
    };
    let all: u128 = places.iter().copied().map(u128::from).sum();
    let (mut low, mut high) = (0, u64::try_from(all / replicas).unwrap_or(u64::MAX));
    while low < high {
        let middle = high - (high - low) / 2;
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_guide() {
        // 5.3.1.1: disks of 200 GB, 500 GB and 1 TB.
        let places = [200, 500, 1000];
        assert_eq!(allocatable(&places, 3), 200);
        assert_eq!(allocatable(&places, 2), 700);
        assert_eq!(allocatable(&places, 1), 1700);
        assert_eq!(allocatable(&places, 4), 0);
        assert_eq!(allocatable(&[], 1), 0);
        assert_eq!(allocatable(&[u64::MAX; 3], 1), u64::MAX);
    }

    #[test]
    fn hosts_are_one_place_unless_the_domain_is_the_disk() {
        let disk = |cs, host, tier| Disk { cs: CsId(cs), host, tier, total_bytes: 100, free_bytes: 60 };
        let disks = [disk(1025, "a", 0), disk(1026, "a", 0), disk(1027, "b", 0)];
        let host = space(&disks, 2, FailureDomain::Host, 10);
        assert_eq!(host, Space { total: 300, free: 180, allocatable: 50, allocatable_total: 100 });
        let disk = space(&disks, 2, FailureDomain::Disk, 10);
        assert_eq!(disk, Space { total: 300, free: 180, allocatable: 75, allocatable_total: 150 });
    }

    /// The slow twin: put one unit after another on the emptiest places, which is optimal for unit pieces.
    fn fill(mut places: Vec<u64>, replicas: usize) -> u64 {
        let mut units = 0;
        loop {
            places.sort_unstable_by(|a, b| b.cmp(a));
            if places.len() < replicas || places[replicas - 1] == 0 {
                return units;
            }
            places[..replicas].iter_mut().for_each(|place| *place -= 1);
            units += 1;
        }
    }

    proptest! {
        #[test]
        fn as_much_as_filling_unit_by_unit(places in prop::collection::vec(0..40u64, 0..7), replicas in 1..5u8) {
            prop_assert_eq!(allocatable(&places, replicas), fill(places, usize::from(replicas)));
        }
    }
}
