//! Whether a peer's certificate makes it a member of our cluster.
//!
//! Both ends check the same: the chain ends at the cluster's authority, the certificate is valid now, and it
//! names our cluster. Host names play no part: addresses change, membership does not.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
};

use crate::credentials::{Credentials, CredentialsError};
use crate::identity::{ClusterId, Identity};
use crate::revocation::Standing;

/// Why a certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefused {
    /// It names another cluster.
    #[error(
        "its certificate is for cluster {theirs}, ours is {ours}; check the address and the cluster name"
    )]
    WrongCluster {
        /// The cluster it names. Not proven: its authority is unknown to us.
        theirs: ClusterId,
        /// Our cluster.
        ours: ClusterId,
    },
    /// It names our cluster, but our authority has not issued it.
    #[error("its certificate was not issued by the cluster's authority; authenticate the node again")]
    Untrusted,
    /// It was valid once.
    #[error(
        "its certificate expired at {not_after_s} (seconds since 1970), this host's clock says {now_s}; \
         check the clock, then renew the certificate"
    )]
    Expired {
        /// End of validity, in seconds since 1970.
        not_after_s: u64,
        /// The time here, in seconds since 1970.
        now_s: u64,
    },
    /// It will be valid.
    #[error(
        "its certificate is valid from {not_before_s} (seconds since 1970), this host's clock says {now_s}; check the clock"
    )]
    NotYetValid {
        /// Begin of validity, in seconds since 1970.
        not_before_s: u64,
        /// The time here, in seconds since 1970.
        now_s: u64,
    },
    /// An operator has revoked it.
    #[error(
        "its certificate was revoked; if that is a mistake, authenticate the node again (vstorage auth-node)"
    )]
    Revoked,
    /// Nobody has renewed it for years of the cluster's own time.
    #[error(
        "its certificate has served its time in this cluster; authenticate the node again (vstorage auth-node)"
    )]
    Served,
    /// It does not say whose it is, or cannot be read.
    #[error("its certificate is not one of a vstorage cluster")]
    Foreign,
    /// It was issued for something else.
    #[error("its certificate cannot be used here: {0}")]
    Unusable(#[source] webpki::Error),
}

impl CertificateRefused {
    fn from_webpki(error: webpki::Error) -> Self {
        match error {
            webpki::Error::CertExpired { time, not_after } => {
                Self::Expired { not_after_s: not_after.as_secs(), now_s: time.as_secs() }
            }
            webpki::Error::CertNotValidYet { time, not_before } => {
                Self::NotYetValid { not_before_s: not_before.as_secs(), now_s: time.as_secs() }
            }
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => Self::Untrusted,
            webpki::Error::BadDer | webpki::Error::TrailingData(_) => Self::Foreign,
            other => Self::Unusable(other),
        }
    }

    /// For `rustls`, which sends the peer an alert by the variant and gives the error back to us.
    fn into_rustls(self) -> Error {
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        Error::InvalidCertificate(match self {
            Self::Expired { not_after_s, now_s } => {
                CertificateError::ExpiredContext { time: at(now_s), not_after: at(not_after_s) }
            }
            Self::NotYetValid { not_before_s, now_s } => {
                CertificateError::NotValidYetContext { time: at(now_s), not_before: at(not_before_s) }
            }
            Self::Untrusted => CertificateError::UnknownIssuer,
            Self::Revoked => CertificateError::Revoked,
            Self::Served => CertificateError::Expired,
            Self::Foreign => CertificateError::BadEncoding,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }

    /// Turns what `rustls` gives back into what [`ClusterVerifier`] had said.
    pub(crate) fn from_rustls(error: &CertificateError) -> Option<Self> {
        match error {
            CertificateError::ExpiredContext { time, not_after } => {
                Some(Self::Expired { not_after_s: not_after.as_secs(), now_s: time.as_secs() })
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                Some(Self::NotYetValid { not_before_s: not_before.as_secs(), now_s: time.as_secs() })
            }
            CertificateError::UnknownIssuer => Some(Self::Untrusted),
            CertificateError::Revoked => Some(Self::Revoked),
            CertificateError::Expired => Some(Self::Served),
            CertificateError::BadEncoding => Some(Self::Foreign),
            CertificateError::Other(other) => other.0.downcast_ref::<Self>().cloned(),
            _ => None,
        }
    }
}

/// The one signature algorithm of our certificates and handshakes.
pub(crate) const ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::ring::ED25519],
    mapping: &[(SignatureScheme::ED25519, &[webpki::ring::ED25519])],
};

/// Checks the certificates of peers against one cluster.
#[derive(Debug)]
pub(crate) struct ClusterVerifier {
    cluster: ClusterId,
    anchors: [TrustAnchor<'static>; 1],
    standing: Standing,
    /// A peer that has connected need not show a certificate: it is a guest then.
    guests: bool,
}

impl ClusterVerifier {
    pub(crate) fn new(credentials: &Credentials, guests: bool) -> Result<Self, CredentialsError> {
        let certificate = credentials.authority_certificate();
        let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(CredentialsError::Malformed)?;
        let standing = credentials.standing().clone();
        Ok(Self { cluster: credentials.identity().cluster, anchors: [anchor.to_owned()], standing, guests })
    }

    /// Who the peer is, if it is a member.
    pub(crate) fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: webpki::KeyUsage,
    ) -> Result<Identity, CertificateRefused> {
        let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|_| CertificateRefused::Foreign)?;
        let identity = Identity::from_uris(parsed.valid_uri_names()).ok_or(CertificateRefused::Foreign)?;
        // Asked first only because it makes the better message: a member of another cluster fails below as well.
        if identity.cluster != self.cluster {
            return Err(CertificateRefused::WrongCluster { theirs: identity.cluster, ours: self.cluster });
        }
        let all: &[&dyn SignatureVerificationAlgorithm] = ALGORITHMS.all;
        parsed
            .verify_for_usage(all, &self.anchors, intermediates, now, usage, None, None)
            .map_err(CertificateRefused::from_webpki)?;
        self.standing.check(&identity)?;
        Ok(identity)
    }
}

/// `rustls` asks this for TLS 1.2, which is not compiled in.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
}

impl ServerCertVerifier for ClusterVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate, intermediates, now, webpki::KeyUsage::server_auth())
            .map(|_| ServerCertVerified::assertion())
            .map_err(CertificateRefused::into_rustls)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl ClientCertVerifier for ClusterVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.guests
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate, intermediates, now, webpki::KeyUsage::client_auth())
            .map(|_| ClientCertVerified::assertion())
            .map_err(CertificateRefused::into_rustls)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

/// For a guest, who knows no authority yet: any server will do that has the key of the certificate it shows. Which one it was goes
/// into the password exchange, which tells whether it was the right one.
#[derive(Debug)]
pub(crate) struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = webpki::EndEntityCert::try_from(certificate);
        let known = parsed.ok().and_then(|parsed| Identity::from_uris(parsed.valid_uri_names()));
        known.map(|_| ServerCertVerified::assertion()).ok_or(CertificateRefused::Foreign.into_rustls())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}
