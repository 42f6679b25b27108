//! The cryptography of an endpoint, and the TLS configurations made from it.
//!
//! TLS 1.3 only, one suite, one signature algorithm, no resumption: every connection proves both ends anew,
//! and two versions of this program have nothing to negotiate down.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring as real;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use crate::credentials::{self, Credentials, CredentialsError};
use crate::simulated;
use crate::verify::{ALGORITHMS, AnyServer, ClusterVerifier};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Real,
    Simulated,
}

/// Where an endpoint's cryptography comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Security(Kind);

impl Security {
    /// The real thing.
    #[must_use]
    pub const fn real() -> Self {
        Self(Kind::Real)
    }

    /// The stand-in whose every byte follows from the simulator's seed. **It protects nothing**: outside a simulation
    /// no endpoint can be made with it, and one made with it cannot talk to one made with [`Security::real`].
    #[must_use]
    pub const fn simulated() -> Self {
        Self(Kind::Simulated)
    }

    fn provider(self) -> CryptoProvider {
        let groups: [&'static dyn SupportedKxGroup; 1] = match self.0 {
            Kind::Real => [real::kx_group::X25519],
            Kind::Simulated => [&simulated::KeyExchange],
        };
        let base = real::default_provider();
        CryptoProvider {
            cipher_suites: vec![real::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: groups.to_vec(),
            signature_verification_algorithms: ALGORITHMS,
            secure_random: match self.0 {
                Kind::Real => base.secure_random,
                Kind::Simulated => &simulated::Randomness,
            },
            key_provider: base.key_provider,
        }
    }
}

/// The clock certificates are checked against.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(credentials::now())
    }
}

/// The configurations of a member.
pub(crate) struct Configs {
    /// For connecting.
    pub(crate) client: Arc<ClientConfig>,
    /// For being connected to, by members.
    pub(crate) server: Arc<ServerConfig>,
    /// For being connected to, by members and guests.
    pub(crate) host: Arc<ServerConfig>,
    /// The certificate that all of them show.
    pub(crate) certificate: CertificateDer<'static>,
}

impl Configs {
    pub(crate) fn new(credentials: &Credentials, security: Security) -> Result<Self, ConfigError> {
        let provider = checked_provider(security)?;
        let client = ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(Clock))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ClusterVerifier::new(credentials, false)?))
            .with_client_auth_cert(credentials.chain(), credentials.key())?;
        let server = |guests| -> Result<_, ConfigError> {
            let verifier = Arc::new(ClusterVerifier::new(credentials, guests)?);
            let mut server = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(Clock))
                .with_protocol_versions(&[&TLS13])?
                .with_client_cert_verifier(verifier)
                .with_single_cert(credentials.chain(), credentials.key())?;
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
            server.enable_secret_extraction = true;
            Ok(Arc::new(server))
        };
        let certificate = credentials.certificate().clone();
        Ok(Self { client: finished(client), server: server(false)?, host: server(true)?, certificate })
    }
}

fn checked_provider(security: Security) -> Result<Arc<CryptoProvider>, ConfigError> {
    if security == Security::simulated() && !rt::sim::is_running() {
        return Err(ConfigError::SimulatedInEarnest);
    }
    Ok(Arc::new(security.provider()))
}

fn finished(mut client: ClientConfig) -> Arc<ClientConfig> {
    client.enable_sni = false;
    client.resumption = Resumption::disabled();
    client.enable_secret_extraction = true;
    Arc::new(client)
}

/// The configuration of a guest, who has no certificate and knows none.
pub(crate) fn of_guest(security: Security) -> Result<Arc<ClientConfig>, ConfigError> {
    let client = ClientConfig::builder_with_details(checked_provider(security)?, Arc::new(Clock))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    Ok(finished(client))
}

/// Why credentials do not make an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The credentials are not usable.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// [`Security::simulated`] outside a simulation: a bug of the program.
    #[error(
        "the simulator's cryptography protects nothing and is refused outside the simulator; report this bug"
    )]
    SimulatedInEarnest,
    /// TLS does not take them.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}
