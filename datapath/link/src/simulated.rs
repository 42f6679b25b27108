//! A stand-in for the random parts of TLS, for the simulator only. **It protects nothing.**
//!
//! A run of the simulator must follow from its seed to the last byte, so its handshakes may not ask the kernel
//! for randomness. Here randoms and key shares come from `rt`'s seeded generator, and the shared secret is
//! computed from the two *public* shares: whoever listens knows it. Certificates, signatures, key schedule and
//! record protection are the real ones (and deterministic as they are).
//!
//! The group's code lies in the range RFC 8446 section 4.2.7 keeps for private use and no real endpoint offers
//! it, so that a simulated endpoint and a real one cannot agree on anything.

use rustls::crypto::{ActiveKeyExchange, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::{Error, NamedGroup, PeerMisbehaved};

/// Length of a share and of the secret, in bytes.
const LEN: usize = 32;
/// In `ecdhe_private_use`, 0xFE00..=0xFEFF.
const GROUP: NamedGroup = NamedGroup::Unknown(0xFE51);

/// Randomness that follows from the simulator's seed.
#[derive(Debug)]
pub(crate) struct Randomness;

impl SecureRandom for Randomness {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        rt::random::fill_secret(bytes);
        Ok(())
    }
}

/// A key exchange without a secret.
#[derive(Debug)]
pub(crate) struct KeyExchange;

impl SupportedKxGroup for KeyExchange {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut share = [0; LEN];
        rt::random::fill_secret(&mut share);
        Ok(Box::new(Share(share)))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        GROUP
    }
}

struct Share([u8; LEN]);

impl ActiveKeyExchange for Share {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        if peer.len() != LEN {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        let both: Vec<u8> = self.0.iter().zip(peer).map(|(own, theirs)| own ^ theirs).collect();
        Ok(SharedSecret::from(both))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        GROUP
    }

    fn pub_key(&self) -> &[u8] {
        &self.0
    }
}
