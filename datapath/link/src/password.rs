//! The password of a cluster, and the exchange that proves it without showing it: OPAQUE (RFC 9807) over ristretto255 with
//! triple Diffie-Hellman, SHA-512, and Argon2id on the side that knows the password.
//!
//! The side that keeps the [`Verifier`] never learns the password, nor anything with which it could pass for somebody who knows
//! it. Both sides mix the cluster's name and what is unique to their channel into the exchange, so that it fails when
//! they mean different clusters, and when somebody stands between them.

use opaque_ke::argon2::{Algorithm, Argon2, Params, Version};
use opaque_ke::errors::ProtocolError;
use opaque_ke::rand::{CryptoRng, Error as RandError, RngCore};
use opaque_ke::{
    CipherSuite, ClientLogin, ClientLoginFinishParameters, ClientRegistration,
    ClientRegistrationFinishParameters, CredentialFinalization, CredentialRequest, CredentialResponse,
    Identifiers, RegistrationRequest, RegistrationResponse, RegistrationUpload, Ristretto255, ServerLogin,
    ServerLoginParameters, ServerRegistration, ServerSetup, TripleDh,
};
use ring::hmac;
use zeroize::Zeroizing;

/// Shortest password, in characters.
pub const PASSWORD_MIN: usize = 8;
/// Longest password, in bytes.
pub const PASSWORD_MAX: usize = 1024;

/// The version of a verifier's bytes, and of all choices made here.
const VERSION: u8 = 1;
/// Names what a registration belongs to: there is one per cluster.
const CREDENTIAL: &[u8] = b"cluster";
/// What the client is called in the exchange; who it is comes later.
const CLIENT: &[u8] = b"node";
/// Argon2id: the second choice that RFC 9106 section 4 recommends, 64 MiB and three passes over four lanes.
const KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;

struct Suite;

impl CipherSuite for Suite {
    type OprfCs = Ristretto255;
    type KeyExchange = TripleDh<Ristretto255, sha2_0_10::Sha512>;
    type Ksf = Argon2<'static>;
}

/// Why a password is not taken, or not proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short.
    #[error("the password is too short: use at least {PASSWORD_MIN} characters")]
    TooShort,
    /// Too long.
    #[error("the password is longer than {PASSWORD_MAX} bytes")]
    TooLong,
    /// What the peer proved is not the password, or something has changed its messages.
    #[error("the password is wrong")]
    Wrong,
    /// A message of the exchange is none.
    #[error("a message of the password exchange cannot be read")]
    Malformed,
    /// Bytes of a verifier that are none.
    #[error("what is kept of the password cannot be read: set the password anew")]
    Verifier,
    /// Bytes of a verifier of a later version.
    #[error("what is kept of the password was written by a later version (format {0}): run that version")]
    Newer(u8),
}

impl From<ProtocolError> for PasswordError {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::InvalidLoginError | ProtocolError::ReflectedValueError => Self::Wrong,
            _ => Self::Malformed,
        }
    }
}

/// Randomness of the executor, in the form the exchange wants.
struct Random;

impl RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        rt::random::fill_secret(bytes);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), RandError> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

// What `rt` fills secrets with comes from the kernel.
impl CryptoRng for Random {}

/// A password. Wiped when it is dropped; not shown by `Debug`.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

impl Password {
    /// A password that may be set.
    ///
    /// # Errors
    /// [`PasswordError::TooShort`] and [`PasswordError::TooLong`].
    pub fn new(text: &str) -> Result<Self, PasswordError> {
        if text.chars().count() < PASSWORD_MIN {
            return Err(PasswordError::TooShort);
        }
        Self::typed(text)
    }

    /// A password that somebody says is that of a cluster: it may be too short to be true.
    ///
    /// # Errors
    /// [`PasswordError::TooLong`].
    pub fn typed(text: &str) -> Result<Self, PasswordError> {
        if text.len() > PASSWORD_MAX {
            Err(PasswordError::TooLong)
        } else {
            Ok(Self(Zeroizing::new(text.to_owned())))
        }
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn stretching() -> Argon2<'static> {
    let params = Params::new(KIB, PASSES, LANES, None).expect("within the limits of Argon2");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn identifiers(cluster: &str) -> Identifiers<'_> {
    Identifiers { client: Some(CLIENT), server: Some(cluster.as_bytes()) }
}

/// What both sides know when the password was right, and nobody else.
#[derive(Clone)]
pub struct SessionKey(hmac::Key);

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey")
    }
}

impl SessionKey {
    fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA512, bytes))
    }

    /// Proves that these parts come from somebody who has the key. `purpose` keeps proofs of one kind from being used as
    /// another.
    pub fn prove(&self, purpose: &str, parts: &[&[u8]]) -> Vec<u8> {
        hmac::sign(&self.0, &joined(purpose, parts)).as_ref().to_vec()
    }

    /// Whether this is the proof that [`SessionKey::prove`] gives.
    #[must_use]
    pub fn is_proof(&self, purpose: &str, parts: &[&[u8]], proof: &[u8]) -> bool {
        hmac::verify(&self.0, &joined(purpose, parts), proof).is_ok()
    }
}

/// Parts in a row, each led by its length.
fn joined(purpose: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut text = Vec::new();
    for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part);
    }
    text
}

/// What is kept of a password. Whoever reads it can guess at the password, one Argon2id at a time, and pass for the cluster
/// towards somebody who types it; he cannot log in with it.
pub struct Verifier {
    setup: ServerSetup<Suite>,
    /// Nothing when there is no password: then every one is wrong.
    record: Option<ServerRegistration<Suite>>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("password", &self.record.is_some()).finish_non_exhaustive()
    }
}

impl Verifier {
    /// That of a password, made where the password is known.
    ///
    /// # Errors
    /// None that is known of.
    ///
    /// # Panics
    /// When called outside an executor, from which the randomness comes. So do all functions here that begin something.
    pub fn of(password: &Password, cluster: &str) -> Result<Self, PasswordError> {
        let empty = Self::without_password();
        let (registration, request) = Registration::begin(password)?;
        let response = empty.register(&request)?;
        let record = registration.finish(&response, password, cluster)?;
        empty.with_record(&record)
    }

    /// One that no password fits, and that cannot be told from others over the network.
    #[must_use]
    pub fn without_password() -> Self {
        Self { setup: ServerSetup::new(&mut Random), record: None }
    }

    /// Answers who sets a password.
    ///
    /// # Errors
    /// [`PasswordError::Malformed`].
    pub fn register(&self, request: &[u8]) -> Result<Vec<u8>, PasswordError> {
        let request = RegistrationRequest::deserialize(request)?;
        let started = ServerRegistration::<Suite>::start(&self.setup, request, CREDENTIAL)?;
        Ok(started.message.serialize().to_vec())
    }

    /// The verifier of the password that was registered here.
    ///
    /// # Errors
    /// [`PasswordError::Malformed`].
    pub fn with_record(self, record: &[u8]) -> Result<Self, PasswordError> {
        let upload = RegistrationUpload::deserialize(record)?;
        Ok(Self { setup: self.setup, record: Some(ServerRegistration::finish(upload)) })
    }

    /// Begins to find out whether a peer knows the password; also what it is to be sent.
    ///
    /// # Errors
    /// [`PasswordError::Malformed`].
    pub fn challenge(
        &self,
        ke1: &[u8],
        cluster: &str,
        channel: &[u8],
    ) -> Result<(Challenge, Vec<u8>), PasswordError> {
        let request = CredentialRequest::deserialize(ke1)?;
        let parameters = ServerLoginParameters { context: Some(channel), identifiers: identifiers(cluster) };
        let started = ServerLogin::start(
            &mut Random,
            &self.setup,
            self.record.clone(),
            request,
            CREDENTIAL,
            parameters,
        )?;
        let challenge =
            Challenge { login: started.state, cluster: cluster.to_owned(), channel: channel.to_vec() };
        Ok((challenge, started.message.serialize().to_vec()))
    }

    /// Its bytes, to be kept secret.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let setup = self.setup.serialize();
        let mut bytes = Zeroizing::new(vec![VERSION, setup.len() as u8]);
        bytes.extend_from_slice(&setup);
        if let Some(record) = &self.record {
            bytes.extend_from_slice(&record.serialize());
        }
        bytes
    }

    /// Reads what [`Verifier::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`PasswordError::Newer`], [`PasswordError::Verifier`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PasswordError> {
        let (&[version, length], rest) = bytes.split_first_chunk::<2>().ok_or(PasswordError::Verifier)?;
        if version != VERSION {
            return Err(PasswordError::Newer(version));
        }
        let (setup, record) = rest.split_at_checked(length.into()).ok_or(PasswordError::Verifier)?;
        let record = if record.is_empty() { None } else { Some(ServerRegistration::deserialize(record)) };
        Ok(Self {
            setup: ServerSetup::deserialize(setup).map_err(|_| PasswordError::Verifier)?,
            record: record.transpose().map_err(|_| PasswordError::Verifier)?,
        })
    }
}

/// The side that keeps the verifier, waiting for the proof.
pub struct Challenge {
    login: ServerLogin<Suite>,
    cluster: String,
    channel: Vec<u8>,
}

impl std::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Challenge")
    }
}

impl Challenge {
    /// Checks the proof.
    ///
    /// # Errors
    /// [`PasswordError::Wrong`], [`PasswordError::Malformed`].
    pub fn check(self, ke3: &[u8]) -> Result<SessionKey, PasswordError> {
        let finalization = CredentialFinalization::deserialize(ke3)?;
        let parameters =
            ServerLoginParameters { context: Some(&self.channel), identifiers: identifiers(&self.cluster) };
        let finished = self.login.finish(finalization, parameters)?;
        Ok(SessionKey::new(&finished.session_key))
    }
}

/// The side that knows the password, proving it.
pub struct Login(ClientLogin<Suite>);

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

impl Login {
    /// Begins; also what the peer is to be sent.
    ///
    /// # Errors
    /// None that is known of.
    pub fn begin(password: &Password) -> Result<(Self, Vec<u8>), PasswordError> {
        let started = ClientLogin::start(&mut Random, password.bytes())?;
        Ok((Self(started.state), started.message.serialize().to_vec()))
    }

    /// Checks that the peer keeps the verifier of this password in this cluster and that nobody is in between; gives the proof that
    /// the peer is to be sent. Takes a good part of a second.
    ///
    /// # Errors
    /// [`PasswordError::Wrong`]: one of these is not so. [`PasswordError::Malformed`].
    pub fn finish(
        self,
        ke2: &[u8],
        password: &Password,
        cluster: &str,
        channel: &[u8],
    ) -> Result<(SessionKey, Vec<u8>), PasswordError> {
        let response = CredentialResponse::deserialize(ke2)?;
        let ksf = stretching();
        let parameters = ClientLoginFinishParameters::new(Some(channel), identifiers(cluster), Some(&ksf));
        let finished = self.0.finish(&mut Random, password.bytes(), response, parameters)?;
        Ok((SessionKey::new(&finished.session_key), finished.message.serialize().to_vec()))
    }
}

/// The side that knows a new password, setting it.
pub struct Registration(ClientRegistration<Suite>);

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registration")
    }
}

impl Registration {
    /// Begins; also what the peer is to be sent.
    ///
    /// # Errors
    /// None that is known of.
    pub fn begin(password: &Password) -> Result<(Self, Vec<u8>), PasswordError> {
        let started = ClientRegistration::<Suite>::start(&mut Random, password.bytes())?;
        Ok((Self(started.state), started.message.serialize().to_vec()))
    }

    /// The record that the peer is to keep. Takes a good part of a second.
    ///
    /// # Errors
    /// [`PasswordError::Malformed`].
    pub fn finish(
        self,
        response: &[u8],
        password: &Password,
        cluster: &str,
    ) -> Result<Vec<u8>, PasswordError> {
        let response = RegistrationResponse::deserialize(response)?;
        let ksf = stretching();
        let parameters = ClientRegistrationFinishParameters::new(identifiers(cluster), Some(&ksf));
        let finished = self.0.finish(&mut Random, password.bytes(), response, parameters)?;
        Ok(finished.message.serialize().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run;

    fn password(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    /// Both sides of a login; what each of them makes of it.
    fn login(
        verifier: &Verifier,
        (cluster, channel): (&str, &[u8]),
        typed: &str,
        (meant, seen): (&str, &[u8]),
    ) -> Result<(SessionKey, SessionKey), PasswordError> {
        let typed = Password::typed(typed)?;
        let (login, ke1) = Login::begin(&typed)?;
        let (challenge, ke2) = verifier.challenge(&ke1, cluster, channel)?;
        let (ours, ke3) = login.finish(&ke2, &typed, meant, seen)?;
        Ok((ours, challenge.check(&ke3)?))
    }

    #[test]
    fn only_the_password_of_this_cluster_over_this_channel_is_right() {
        run(async {
            let verifier = Verifier::of(&password("correct horse"), "stor1").unwrap();
            let bytes = verifier.to_bytes();
            assert!(!bytes.windows(5).any(|part| part == b"horse"));
            let verifier = Verifier::from_bytes(&bytes).unwrap();
            let here = ("stor1", &b"channel"[..]);
            let (ours, theirs) = login(&verifier, here, "correct horse", here).unwrap();
            let proof = ours.prove("x", &[b"ab", b"c"]);
            assert!(theirs.is_proof("x", &[b"ab", b"c"], &proof));
            assert!(!theirs.is_proof("x", &[b"a", b"bc"], &proof));
            assert!(!theirs.is_proof("y", &[b"ab", b"c"], &proof));
            let wrong = |typed, there| login(&verifier, here, typed, there).unwrap_err();
            assert_eq!(wrong("wrong horse", here), PasswordError::Wrong);
            assert_eq!(wrong("", here), PasswordError::Wrong);
            assert_eq!(wrong("correct horse", ("stor2", b"channel")), PasswordError::Wrong);
            // Somebody in between has a channel of his own with each of the two.
            assert_eq!(wrong("correct horse", ("stor1", b"another")), PasswordError::Wrong);
            let none = Verifier::from_bytes(&Verifier::without_password().to_bytes()).unwrap();
            let error = login(&none, here, "correct horse", here).unwrap_err();
            assert_eq!(error, PasswordError::Wrong);
        });
    }

    #[test]
    fn what_was_recorded_proves_nothing_later() {
        run(async {
            let typed = password("correct horse");
            let verifier = Verifier::of(&typed, "stor1").unwrap();
            let (login, ke1) = Login::begin(&typed).unwrap();
            let (challenge, ke2) = verifier.challenge(&ke1, "stor1", b"first").unwrap();
            let (_, ke3) = login.finish(&ke2, &typed, "stor1", b"first").unwrap();
            assert!(challenge.check(&ke3).is_ok());
            for channel in [&b"first"[..], b"second"] {
                let (challenge, again) = verifier.challenge(&ke1, "stor1", channel).unwrap();
                assert_eq!(again.len(), ke2.len());
                assert_ne!(again, ke2);
                assert_eq!(challenge.check(&ke3).unwrap_err(), PasswordError::Wrong);
            }
        });
    }

    #[test]
    fn without_a_password_answers_look_the_same() {
        run(async {
            let (_, ke1) = Login::begin(&password("correct horse")).unwrap();
            let none = Verifier::without_password();
            let verifier = Verifier::of(&password("correct horse"), "stor1").unwrap();
            let lengths = [&none, &verifier].map(|verifier| {
                let (challenge, ke2) = verifier.challenge(&ke1, "stor1", b"c").unwrap();
                assert_eq!(challenge.check(&[0; 64]).unwrap_err(), PasswordError::Wrong);
                ke2.len()
            });
            assert_eq!(lengths[0], lengths[1]);
        });
    }

    #[test]
    fn garbage_is_refused() {
        run(async {
            let typed = password("correct horse");
            let verifier = Verifier::without_password();
            let (_, ke1) = Login::begin(&typed).unwrap();
            let mut rng = rt::random::Rng::from_seed(5);
            let (mut taken, mut refused) = (0, 0);
            for _ in 0..2000 {
                let mut bytes = ke1.clone();
                let at = rng.below(bytes.len() as u64) as usize;
                match rng.below(3) {
                    0 => bytes.truncate(at),
                    1 => rng.fill(&mut bytes),
                    _ => bytes[at] ^= 1 << rng.below(8),
                }
                match verifier.challenge(&bytes, "stor1", b"c") {
                    Ok((challenge, _)) => {
                        assert!(challenge.check(&bytes).is_err());
                        taken += 1;
                    }
                    Err(error) => {
                        assert_eq!(error, PasswordError::Malformed);
                        refused += 1;
                    }
                }
                let _either = verifier.register(&bytes);
                assert!(verifier.register(&bytes[..bytes.len().min(31)]).is_err());
            }
            assert!(taken > 50 && refused > 500, "{taken} {refused}");
            let good = verifier.to_bytes();
            assert_eq!(Verifier::from_bytes(&[]).unwrap_err(), PasswordError::Verifier);
            assert_eq!(Verifier::from_bytes(&good[..40]).unwrap_err(), PasswordError::Verifier);
            assert_eq!(Verifier::from_bytes(&[2, 0]).unwrap_err(), PasswordError::Newer(2));
        });
    }

    #[test]
    fn passwords_have_limits() {
        assert_eq!(Password::new("1234567").unwrap_err(), PasswordError::TooShort);
        assert_eq!(
            Password::new("äöüß").unwrap_err(),
            PasswordError::TooShort,
            "four characters in eight bytes"
        );
        assert_eq!(Password::typed(&"x".repeat(PASSWORD_MAX + 1)).unwrap_err(), PasswordError::TooLong);
        assert_eq!(format!("{:?}", password("correct horse")), "Password");
    }
}
