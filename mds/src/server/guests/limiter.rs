//! How often the password may be guessed at: so many attempts from one address, so many in all, and no more memory than that.
//!
//! Each attempt takes a token; a right password gives it back. So a hundred hosts of one site that join at once are let in,
//! and somebody who guesses is slowed down to a few attempts a minute, wherever he comes from.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use rt::net::Address;
use rt::time::Instant;

/// Attempts from one address in a row.
pub(super) const BURST: u32 = 8;
/// Time after which an address may try once more.
pub(super) const PAUSE: Duration = Duration::from_secs(10);
/// Attempts from all addresses in a row.
pub(super) const BURST_ALL: u32 = 64;
/// Time after which somebody may try once more.
pub(super) const PAUSE_ALL: Duration = Duration::from_secs(1);
/// Addresses that are remembered. Others share one bucket.
const ADDRESSES_MAX: usize = 1024;

/// Tokens that come back one by one.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u32,
    /// When the last one came back.
    since: Instant,
}

impl Bucket {
    fn full(tokens: u32, now: Instant) -> Self {
        Self { tokens, since: now }
    }

    fn fill(&mut self, most: u32, pause: Duration, now: Instant) {
        let due = now.since(self.since).as_nanos() / pause.as_nanos();
        let due = u32::try_from(due).unwrap_or(u32::MAX).min(most);
        self.tokens = self.tokens.saturating_add(due).min(most);
        self.since = if self.tokens == most { now } else { self.since + pause * due };
    }
}

/// Who an attempt is counted for: an IPv4 address, or the /64 that a host has all to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin(IpAddr);

impl Origin {
    pub(super) fn of(address: &Address) -> Self {
        let ip = match address {
            Address::Tcp(address) => address.ip().to_canonical(),
            Address::Unix(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self(match ip {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
            four => four,
        })
    }
}

/// Counts attempts.
#[derive(Debug)]
pub(super) struct Limiter {
    origins: BTreeMap<Origin, Bucket>,
    /// For the addresses that are not remembered.
    others: Bucket,
    all: Bucket,
}

impl Limiter {
    pub(super) fn new(now: Instant) -> Self {
        let (others, all) = (Bucket::full(BURST, now), Bucket::full(BURST_ALL, now));
        Self { origins: BTreeMap::new(), others, all }
    }

    /// Whether an attempt may be made now; it is counted then.
    pub(super) fn admit(&mut self, origin: Origin, now: Instant) -> bool {
        self.all.fill(BURST_ALL, PAUSE_ALL, now);
        if self.all.tokens == 0 {
            return false;
        }
        let bucket = self.bucket(origin, now);
        bucket.fill(BURST, PAUSE, now);
        if bucket.tokens == 0 {
            return false;
        }
        bucket.tokens -= 1;
        self.all.tokens -= 1;
        true
    }

    /// The password was right.
    pub(super) fn give_back(&mut self, origin: Origin) {
        self.all.tokens = (self.all.tokens + 1).min(BURST_ALL);
        if let Some(bucket) = self.origins.get_mut(&origin) {
            bucket.tokens = (bucket.tokens + 1).min(BURST);
        }
    }

    fn bucket(&mut self, origin: Origin, now: Instant) -> &mut Bucket {
        if self.origins.len() >= ADDRESSES_MAX && !self.origins.contains_key(&origin) {
            self.origins.retain(|_, bucket| {
                bucket.fill(BURST, PAUSE, now);
                bucket.tokens < BURST
            });
        }
        if self.origins.len() >= ADDRESSES_MAX && !self.origins.contains_key(&origin) {
            return &mut self.others;
        }
        self.origins.entry(origin).or_insert_with(|| Bucket::full(BURST, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000_000 + ms * 1_000_000)
    }

    fn origin(text: &str) -> Origin {
        Origin::of(&Address::Tcp(format!("{text}:1").parse().unwrap()))
    }

    #[test]
    fn one_address_is_slowed_down_and_others_are_not() {
        let mut limiter = Limiter::new(at(0));
        let (one, two) = (origin("10.0.0.1"), origin("10.0.0.2"));
        assert!((0..BURST).all(|_| limiter.admit(one, at(0))));
        assert!(!limiter.admit(one, at(9_999)) && limiter.admit(two, at(9_999)));
        assert!(limiter.admit(one, at(10_000)) && !limiter.admit(one, at(10_001)));
        assert!(limiter.admit(one, at(20_000)), "the pause is counted from token to token");
        let later = at(20_000 + 3_600_000);
        assert_eq!((0..100).filter(|_| limiter.admit(one, later)).count(), BURST as usize);
    }

    #[test]
    fn a_right_password_costs_nothing() {
        let mut limiter = Limiter::new(at(0));
        for _ in 0..1000 {
            assert!(limiter.admit(origin("10.0.0.1"), at(0)));
            limiter.give_back(origin("10.0.0.1"));
        }
        assert!(limiter.all.tokens == BURST_ALL);
    }

    #[test]
    fn many_addresses_are_slowed_down_together_and_not_all_remembered() {
        let mut limiter = Limiter::new(at(0));
        let mut admitted = 0;
        // An hour of somebody with a hundred thousand addresses.
        for n in 0..100_000u32 {
            let from = origin(&std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string());
            admitted += u32::from(limiter.admit(from, at(u64::from(n) * 36)));
            assert!(limiter.origins.len() <= ADDRESSES_MAX);
        }
        assert!((3600..=3664).contains(&admitted), "{admitted}");
        // A host whose whole network is its own is one host.
        assert_eq!(origin("[fd00::1]"), origin("[fd00::2:3]"));
        assert_ne!(origin("[fd00::1]"), origin("[fd00:0:0:1::1]"));
        assert_eq!(origin("[::ffff:10.0.0.1]"), origin("10.0.0.1"));
    }

    #[test]
    fn whoever_is_not_remembered_shares() {
        let mut limiter = Limiter::new(at(0));
        for n in 0..2 * ADDRESSES_MAX as u32 {
            limiter.all.tokens = BURST_ALL;
            limiter.admit(origin(&std::net::Ipv4Addr::from(n).to_string()), at(0));
        }
        assert_eq!((limiter.origins.len(), limiter.others.tokens), (ADDRESSES_MAX, 0));
        limiter.all.tokens = BURST_ALL;
        assert!(limiter.admit(origin("0.0.0.1"), at(0)), "those that are remembered have their own");
    }
}
