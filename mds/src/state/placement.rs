//! Where new replicas go: a pure function of the chunk servers, a policy and a seed.
//!
//! Never two replicas on one chunk server; never two on one host unless the failure domain is the disk (or the
//! operator made the domain advisory). Among the places left a chunk server is drawn with a weight equal to its free
//! space, so servers fill evenly and no server is hit by every new chunk. Drawing greedily never misses a
//! possible placement: hosts are disjoint sets of servers, and any free host serves as well as any other.
//!
//! A full tier falls back to the tiers below it, then to those above (guide 3.5.5 and 7.8), unless tiers are strict.

use super::attrs::TIER_MAX;
use super::command::FailureDomain;
use super::ids::CsId;

/// A chunk server as placement sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Which.
    pub cs: CsId,
    /// Its host.
    pub host: &'a str,
    /// Its storage tier.
    pub tier: u8,
    /// Bytes free on its disk.
    pub free_bytes: u64,
    /// Bytes of its disk.
    pub total_bytes: u64,
    /// Active, registered, and past its fences.
    pub usable: bool,
    /// Only if there is no other place: it shows damage.
    pub doubtful: bool,
}

/// What a placement must fulfil.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How many replicas there shall be, with those that exist.
    pub replicas: u8,
    /// Where replicas may meet.
    pub domain: FailureDomain,
    /// Refuse rather than break the domain.
    pub strict_domain: bool,
    /// The tier wanted.
    pub tier: u8,
    /// Refuse rather than use another tier.
    pub strict_tier: bool,
    /// Bytes a replica may grow to.
    pub chunk_size: u64,
    /// Percent of each disk that stays free.
    pub fill_margin: u64,
}

/// Places that fulfil a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The chunk servers chosen, in the order of the draw.
    pub servers: Vec<CsId>,
    /// All replicas, with those that existed, are on different hosts.
    pub distinct_hosts: bool,
}

/// What a placement lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// Fewer chunk servers are usable than replicas wanted, wherever they are.
    #[error("too few chunk servers are active")]
    Servers,
    /// Enough are usable, but not in this tier, and tiers are strict.
    #[error("too few chunk servers are active in this tier")]
    Tier,
    /// Enough are usable, but too few have room.
    #[error("too few chunk servers have free space")]
    Space,
    /// Enough have room, but they are on too few hosts.
    #[error("the chunk servers with free space are on too few hosts")]
    Hosts,
}

/// Why replicas cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed} places are needed and {found} found: {why}")]
pub struct PlacementRefusal {
    /// Replicas to place.
    pub needed: u8,
    /// How many could be placed.
    pub found: u8,
    /// What is short.
    pub why: Shortage,
}

/// Chooses places for the replicas that are missing.
///
/// `existing` are the places of replicas that stay: they are not chosen again, nor are their hosts.
///
/// # Errors
/// [`PlacementRefusal`] if not all can be placed; nothing is placed in part.
pub fn place(
    candidates: &[Candidate<'_>],
    existing: &[CsId],
    policy: &Policy,
    seed: u64,
) -> Result<Placement, PlacementRefusal> {
    let needed = usize::from(policy.replicas).saturating_sub(existing.len());
    let mut draw = Draw::new(candidates, existing, policy, seed);
    for doubtful in [false, true] {
        draw.fill(needed, policy.domain == FailureDomain::Host, doubtful);
    }
    if policy.domain == FailureDomain::Host && !policy.strict_domain {
        for doubtful in [false, true] {
            draw.fill(needed, false, doubtful);
        }
    }
    if draw.chosen.len() < needed {
        return Err(PlacementRefusal {
            needed: needed as u8,
            found: draw.chosen.len() as u8,
            why: shortage(candidates, existing, policy, needed),
        });
    }
    let mut hosts = draw.hosts;
    hosts.sort_unstable();
    let distinct_hosts = hosts.windows(2).all(|pair| pair[0] != pair[1]);
    Ok(Placement { servers: draw.chosen, distinct_hosts })
}

/// The tiers to try, in order.
fn tiers(policy: &Policy) -> impl Iterator<Item = u8> {
    let others = (0..policy.tier).rev().chain(policy.tier + 1..=TIER_MAX);
    std::iter::once(policy.tier).chain(others.take(if policy.strict_tier { 0 } else { usize::MAX }))
}

/// Bytes that may still be used on a chunk server.
fn room(candidate: &Candidate<'_>, fill_margin: u64) -> u64 {
    candidate.free_bytes.saturating_sub(margin_bytes(candidate.total_bytes, fill_margin))
}

/// `percent` of `total`, without overflow.
pub(super) fn margin_bytes(total: u64, percent: u64) -> u64 {
    // The quotient is at most `total` for the percentages that the configuration allows.
    (u128::from(total) * u128::from(percent) / 100) as u64
}

/// Whether a replica has room on a chunk server.
pub(super) fn has_room(candidate: &Candidate<'_>, policy: &Policy) -> bool {
    room(candidate, policy.fill_margin) >= policy.chunk_size.max(1)
}

/// Names the first thing that is short, in the order in which an operator would look.
fn shortage(candidates: &[Candidate<'_>], existing: &[CsId], policy: &Policy, needed: usize) -> Shortage {
    let fresh = || candidates.iter().filter(|c| c.usable && !existing.contains(&c.cs));
    let in_tier = |candidate: &&Candidate<'_>| !policy.strict_tier || candidate.tier == policy.tier;
    if fresh().count() < needed {
        Shortage::Servers
    } else if fresh().filter(in_tier).count() < needed {
        Shortage::Tier
    } else if fresh().filter(in_tier).filter(|candidate| has_room(candidate, policy)).count() < needed {
        Shortage::Space
    } else {
        Shortage::Hosts
    }
}

/// A drawing of places.
struct Draw<'a, 'b> {
    candidates: &'b [Candidate<'a>],
    policy: &'b Policy,
    random: SplitMix,
    chosen: Vec<CsId>,
    /// Not to be chosen (again).
    taken: Vec<CsId>,
    /// Of all replicas, existing and chosen.
    hosts: Vec<&'a str>,
}

impl<'a, 'b> Draw<'a, 'b> {
    fn new(candidates: &'b [Candidate<'a>], existing: &[CsId], policy: &'b Policy, seed: u64) -> Self {
        let hosts = candidates.iter().filter(|c| existing.contains(&c.cs)).map(|c| c.host).collect();
        Self {
            candidates,
            policy,
            random: SplitMix(seed),
            chosen: Vec::new(),
            taken: existing.to_vec(),
            hosts,
        }
    }

    /// Draws until there are `needed`, or no place is left.
    fn fill(&mut self, needed: usize, distinct_hosts: bool, doubtful: bool) {
        for tier in tiers(self.policy) {
            while self.chosen.len() < needed {
                let Some(candidate) = self.draw(tier, distinct_hosts, doubtful) else { break };
                self.chosen.push(candidate.cs);
                self.taken.push(candidate.cs);
                self.hosts.push(candidate.host);
            }
        }
    }

    fn draw(&mut self, tier: u8, distinct_hosts: bool, doubtful: bool) -> Option<Candidate<'a>> {
        let open: Vec<Candidate<'a>> = self
            .candidates
            .iter()
            .filter(|c| c.usable && c.doubtful == doubtful && c.tier == tier && has_room(c, self.policy))
            .filter(|c| !self.taken.contains(&c.cs))
            .filter(|c| !distinct_hosts || !self.hosts.contains(&c.host))
            .copied()
            .collect();
        let weight = |candidate: &Candidate<'_>| u128::from(room(candidate, self.policy.fill_margin));
        let total: u128 = open.iter().map(weight).sum();
        // A sum of 64-bit weights of fewer than 2³² servers has 96 bits; its product with 32 random bits has 128.
        let mut point = (total * u128::from(self.random.next() >> 32)) >> 32;
        open.into_iter().find(|candidate| {
            let hit = point < weight(candidate);
            point = point.saturating_sub(weight(candidate));
            hit
        })
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// A seed for one of several placements under one seed of a command.
pub(super) fn derive_seed(seed: u64, salt: u64) -> u64 {
    SplitMix(seed ^ salt.wrapping_mul(0xD6E8_FEB8_6659_FD93)).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;
    const HOSTS: [&str; 4] = ["h0", "h1", "h2", "h3"];

    fn policy(replicas: u8) -> Policy {
        Policy {
            replicas,
            domain: FailureDomain::Host,
            strict_domain: true,
            tier: 0,
            strict_tier: false,
            chunk_size: 64 << 20,
            fill_margin: 5,
        }
    }

    /// Chunk servers with half of 100 GiB free, on the hosts and tiers given.
    fn servers(places: &[(usize, u8)]) -> Vec<Candidate<'static>> {
        let server = |(n, (host, tier)): (usize, &(usize, u8))| Candidate {
            cs: CsId(1025 + n as u32),
            host: HOSTS[*host],
            tier: *tier,
            free_bytes: 50 * GIB,
            total_bytes: 100 * GIB,
            doubtful: false,
            usable: true,
        };
        places.iter().enumerate().map(server).collect()
    }

    #[test]
    fn refusals_name_what_is_short() {
        let three = servers(&[(0, 0), (1, 0), (2, 0)]);
        let mut one_full = three.clone();
        one_full[2].free_bytes = 5 * GIB + (32 << 20);
        let mut one_down = three.clone();
        one_down[0].usable = false;
        let disk = Policy { domain: FailureDomain::Disk, ..policy(3) };
        let strict = Policy { strict_tier: true, ..policy(3) };
        let advisory = Policy { strict_domain: false, ..policy(3) };
        let two_hosts = servers(&[(0, 0), (0, 0), (1, 0)]);
        let two_tiers = servers(&[(0, 0), (1, 0), (2, 1)]);
        type Case<'a> = (&'a str, &'a [Candidate<'a>], Policy, Result<bool, (u8, Shortage)>);
        let cases: Vec<Case<'_>> = vec![
            ("three of three", &three, policy(3), Ok(true)),
            ("four of three", &three, policy(4), Err((3, Shortage::Servers))),
            ("nobody", &[], policy(1), Err((0, Shortage::Servers))),
            ("one down", &one_down, policy(3), Err((2, Shortage::Servers))),
            ("one full but for less than a chunk", &one_full, policy(3), Err((2, Shortage::Space))),
            ("no margin left out", &one_full, Policy { fill_margin: 4, ..policy(3) }, Ok(true)),
            ("two hosts", &two_hosts, policy(3), Err((2, Shortage::Hosts))),
            ("two hosts, disk", &two_hosts, disk, Ok(false)),
            ("two hosts, advisory", &two_hosts, advisory, Ok(false)),
            ("three hosts, advisory", &three, advisory, Ok(true)),
            ("two tiers", &two_tiers, policy(3), Ok(true)),
            ("two tiers, strict", &two_tiers, strict, Err((2, Shortage::Tier))),
        ];
        for (name, candidates, policy, want) in cases {
            for seed in 0..20 {
                let got = place(candidates, &[], &policy, seed);
                assert_eq!(got.map(|p| p.distinct_hosts).map_err(|r| (r.found, r.why)), want, "{name}");
            }
        }
    }

    #[test]
    fn tiers_are_tried_downwards_then_upwards() {
        let all = servers(&[(0, 0), (1, 1), (2, 2), (3, 3)]);
        let order = |tier| {
            let policy = Policy { tier, ..policy(4) };
            place(&all, &[], &policy, 1).unwrap().servers.iter().map(|cs| cs.0 - 1025).collect::<Vec<_>>()
        };
        assert_eq!(order(0), [0, 1, 2, 3]);
        assert_eq!(order(2), [2, 1, 0, 3]);
        assert_eq!(order(3), [3, 2, 1, 0]);
    }

    #[test]
    fn a_replacement_avoids_the_hosts_of_those_that_stay() {
        let all = servers(&[(0, 0), (0, 0), (1, 0), (2, 0)]);
        for seed in 0..20 {
            let got = place(&all, &[CsId(1025), CsId(1027)], &policy(3), seed).unwrap();
            assert_eq!(got.servers, [CsId(1028)]);
        }
        assert_eq!(place(&all, &[CsId(1025)], &policy(1), 0).unwrap().servers, []);
    }

    #[test]
    fn a_server_is_drawn_as_often_as_it_has_room() {
        let mut all = servers(&[(0, 0), (1, 0)]);
        all[0].free_bytes = 5 * GIB + 60 * GIB;
        all[1].free_bytes = 5 * GIB + 20 * GIB;
        let first = (0..4000).filter(|seed| {
            place(&all, &[], &policy(1), derive_seed(*seed, 7)).unwrap().servers == [CsId(1025)]
        });
        let share = first.count();
        assert!((2850..3150).contains(&share), "{share} of 4000, not three quarters");
    }

    fn any_servers() -> impl Strategy<Value = Vec<Candidate<'static>>> {
        let one = (0..4usize, 0..4u8, 0..100 * GIB, prop::bool::weighted(0.8));
        prop::collection::vec(one, 0..10).prop_map(|list| {
            let places: Vec<_> = list.iter().map(|(host, tier, ..)| (*host, *tier)).collect();
            let mut all = servers(&places);
            for (server, (_, _, free, usable)) in all.iter_mut().zip(list) {
                (server.free_bytes, server.usable) = (free, usable);
            }
            all
        })
    }

    /// The slow twin: the most replicas that can be placed, by trying every subset.
    fn most(candidates: &[Candidate<'_>], policy: &Policy) -> usize {
        let one_host = policy.domain == FailureDomain::Host && policy.strict_domain;
        let fits = |set: u32| {
            let chosen: Vec<_> =
                (0..candidates.len()).filter(|i| set >> i & 1 == 1).map(|i| &candidates[i]).collect();
            chosen.iter().enumerate().all(|(i, c)| {
                c.usable
                    && c.free_bytes >= c.total_bytes * policy.fill_margin / 100 + policy.chunk_size
                    && (!policy.strict_tier || c.tier == policy.tier)
                    && (!one_host || chosen[..i].iter().all(|other| other.host != c.host))
            })
        };
        (0..1u32 << candidates.len()).filter(|set| fits(*set)).map(u32::count_ones).max().unwrap_or(0)
            as usize
    }

    proptest! {
        #[test]
        fn whatever_can_be_placed_is_placed_by_the_rules(
            all in any_servers(), replicas in 1..6u8, disk: bool, strict_domain: bool, tier in 0..4u8,
            strict_tier: bool, seed: u64,
        ) {
            let domain = if disk { FailureDomain::Disk } else { FailureDomain::Host };
            let policy = Policy { domain, strict_domain, tier, strict_tier, ..policy(replicas) };
            let got = place(&all, &[], &policy, seed);
            prop_assert_eq!(&got, &place(&all, &[], &policy, seed), "the same seed, the same places");
            let possible = most(&all, &policy);
            match got {
                Err(refusal) => {
                    prop_assert!(possible < usize::from(replicas));
                    prop_assert_eq!(usize::from(refusal.found), possible);
                }
                Ok(Placement { servers, distinct_hosts }) => {
                    prop_assert_eq!(servers.len(), usize::from(replicas));
                    let chosen: Vec<_> =
                        servers.iter().map(|cs| all.iter().find(|c| c.cs == *cs).unwrap()).collect();
                    let twice = |same: &dyn Fn(&Candidate<'_>, &Candidate<'_>) -> bool| {
                        chosen.iter().enumerate().any(|(i, a)| chosen[..i].iter().any(|b| same(a, b)))
                    };
                    prop_assert!(!twice(&|a, b| a.cs == b.cs));
                    prop_assert_eq!(distinct_hosts, !twice(&|a, b| a.host == b.host));
                    prop_assert!(distinct_hosts || disk || !strict_domain);
                    prop_assert!(chosen.iter().all(|c| c.usable && has_room(c, &policy)));
                    prop_assert!(chosen.iter().all(|c| !strict_tier || c.tier == tier));
                }
            }
        }
    }
}
