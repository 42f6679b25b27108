//! What a node has to prove that it is a member: the authority's certificate, its own, and its key.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use zeroize::Zeroizing;

use crate::identity::{Identity, authority_from_uris};
use crate::revocation::Standing;
use crate::verify;

const CERTIFICATE: &str = "CERTIFICATE";
const PRIVATE_KEY: &str = "PRIVATE KEY";

/// Why a file of keys and certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read the file: {0}")]
    Read(#[source] io::Error),
    /// The file is not PEM.
    #[error("not a PEM file: {0}")]
    Pem(pem::PemError),
    /// A section that does not belong there.
    #[error("unexpected section {found:?}")]
    Section {
        /// The label of the section.
        found: String,
    },
    /// Too few or too many certificates.
    #[error("expected {expected} certificate(s), found {found}")]
    Certificates {
        /// How many belong there.
        expected: usize,
        /// How many are there.
        found: usize,
    },
    /// No key, more than one, or not an Ed25519 key in PKCS#8.
    #[error("no single Ed25519 private key (PKCS#8) in it: the file is incomplete or something else")]
    Key,
    /// The key is not that of the certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The certificate cannot be read.
    #[error("malformed certificate: {0}")]
    Malformed(#[source] webpki::Error),
    /// The certificate does not say whose it is.
    #[error("the certificate is not one of a vstorage cluster")]
    NoIdentity,
    /// The certificate was not issued by the authority beside it, or is not valid now.
    #[error("the node's certificate is refused: {0}")]
    Refused(#[source] verify::CertificateRefused),
}

/// A node's proof of membership. Cheap to clone; may be given to other threads.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    cluster_name: String,
    authority: CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: Zeroizing<Vec<u8>>,
    /// The file they were read from, which a renewal replaces.
    origin: Option<PathBuf>,
    /// What this process knows of revoked nodes; all copies share it.
    standing: Standing,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Puts credentials together and checks that the parts belong to each other. Whether the certificate is
    /// valid today is left to [`Credentials::check_validity`].
    pub(crate) fn from_parts(
        authority: CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        key: Zeroizing<Vec<u8>>,
    ) -> Result<Self, CredentialsError> {
        let anchor = webpki::EndEntityCert::try_from(&authority).map_err(CredentialsError::Malformed)?;
        let (cluster, cluster_name) =
            authority_from_uris(anchor.valid_uri_names()).ok_or(CredentialsError::NoIdentity)?;
        drop(anchor);
        let parsed = webpki::EndEntityCert::try_from(&certificate).map_err(CredentialsError::Malformed)?;
        let identity = Identity::from_uris(parsed.valid_uri_names()).ok_or(CredentialsError::NoIdentity)?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&key).map_err(|_| CredentialsError::Key)?;
        if !parsed.subject_public_key_info().ends_with(pair.public_key().as_ref()) {
            return Err(CredentialsError::KeyMismatch);
        }
        if identity.cluster != cluster {
            let refused =
                verify::CertificateRefused::WrongCluster { theirs: identity.cluster, ours: cluster };
            return Err(CredentialsError::Refused(refused));
        }
        drop(parsed);
        let (origin, standing) = (None, Standing::default());
        Ok(Self { identity, cluster_name, authority, certificate, key, origin, standing })
    }

    /// Who the node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The name of the cluster.
    #[must_use]
    pub fn cluster_name(&self) -> &str {
        &self.cluster_name
    }

    /// Checks that the certificate was issued by the cluster's authority and is valid by this host's clock.
    ///
    /// # Errors
    /// [`CredentialsError::Refused`].
    ///
    /// # Panics
    /// When called outside an executor, whose clock it reads.
    pub fn check_validity(&self) -> Result<(), CredentialsError> {
        let verifier = verify::ClusterVerifier::new(self, false)?;
        let refused = verifier.check(&self.certificate, &[], now(), webpki::KeyUsage::client_auth());
        refused.map(drop).map_err(CredentialsError::Refused)
    }

    /// The credentials as a PEM file: the node's certificate, the authority's, and the node's key.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let title = format!(
            "Key and certificates of node {} in the vstorage cluster {} ({}). Keep them secret.",
            self.identity.node, self.cluster_name, self.identity.cluster
        );
        let mut file = PemFile::titled(&title);
        file.certificate(&self.certificate);
        file.certificate(&self.authority);
        file.key(&self.key);
        file.finish()
    }

    /// Reads what [`Credentials::to_pem`] wrote.
    ///
    /// # Errors
    /// [`CredentialsError`]; an expired certificate is none (see [`Credentials::check_validity`]).
    pub fn from_pem(text: &[u8]) -> Result<Self, CredentialsError> {
        let (certificates, key) = PemFile::parse(text)?;
        let [certificate, authority] = <[_; 2]>::try_from(certificates)
            .map_err(|found| CredentialsError::Certificates { expected: 2, found: found.len() })?;
        Self::from_parts(authority, certificate, key)
    }

    /// Writes the credentials to a file (`auth_digest.key`) that only its owner may read, whole or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn save(&self, path: &Path) -> io::Result<()> {
        rt::fs::write_atomic(path, self.to_pem().as_bytes()).await
    }

    /// Reads credentials from a file.
    ///
    /// # Errors
    /// As [`Credentials::from_pem`], and [`CredentialsError::Read`].
    pub async fn load(path: &Path) -> Result<Self, CredentialsError> {
        let text = Zeroizing::new(rt::fs::read(path).await.map_err(CredentialsError::Read)?);
        Ok(Self { origin: Some(path.to_owned()), ..Self::from_pem(&text)? })
    }

    /// The file they were read from.
    pub(crate) fn origin(&self) -> Option<&Path> {
        self.origin.as_deref()
    }

    /// What this process knows of revoked nodes.
    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The private key, as in the file.
    pub(crate) fn key_bytes(&self) -> &[u8] {
        &self.key
    }

    /// The same node with another certificate, and what this process knows of revoked nodes.
    pub(crate) fn with_certificate(&self, certificate: Vec<u8>) -> Result<Self, CredentialsError> {
        let renewed = Self::from_parts(self.authority.clone(), certificate.into(), self.key.clone())?;
        Ok(Self { origin: self.origin.clone(), standing: self.standing.clone(), ..renewed })
    }

    /// Those found in the file, with what this process knows of revoked nodes.
    pub(crate) fn with_file(&self, found: &Self) -> Self {
        Self { standing: self.standing.clone(), ..found.clone() }
    }

    /// The certificate of the cluster's authority, DER.
    pub(crate) fn authority_certificate(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The node's certificate, DER.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What is sent to peers: the authority's certificate they have themselves.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    /// The private key, PKCS#8.
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_vec()).into()
    }
}

/// The present time as certificates are checked against it.
pub(crate) fn now() -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_millis(rt::time::wall_clock_ms()))
}

/// Text of a PEM file (RFC 7468) under construction. Lines before the first section are comments.
pub(crate) struct PemFile(Zeroizing<String>);

impl PemFile {
    pub(crate) fn titled(title: &str) -> Self {
        Self(Zeroizing::new(format!("# {title}\n")))
    }

    pub(crate) fn certificate(&mut self, der: &CertificateDer<'_>) {
        self.section(CERTIFICATE, der);
    }

    pub(crate) fn key(&mut self, pkcs8: &[u8]) {
        self.section(PRIVATE_KEY, pkcs8);
    }

    fn section(&mut self, label: &str, der: &[u8]) {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        let text = Zeroizing::new(pem::encode_config(&pem::Pem::new(label, der), config));
        self.0.push_str(&text);
    }

    pub(crate) fn finish(self) -> Zeroizing<String> {
        self.0
    }

    /// The certificates in their order, and the one key.
    pub(crate) fn parse(
        text: &[u8],
    ) -> Result<(Vec<CertificateDer<'static>>, Zeroizing<Vec<u8>>), CredentialsError> {
        let (mut certificates, mut keys) = (Vec::new(), Vec::new());
        for section in pem::parse_many(text).map_err(CredentialsError::Pem)? {
            match section.tag() {
                CERTIFICATE => certificates.push(CertificateDer::from(section.into_contents())),
                PRIVATE_KEY => keys.push(Zeroizing::new(section.into_contents())),
                found => return Err(CredentialsError::Section { found: found.to_owned() }),
            }
        }
        let [key] = <[_; 1]>::try_from(keys).map_err(|_| CredentialsError::Key)?;
        Ok((certificates, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::ClusterAuthority;
    use crate::identity::{ClusterId, Roles};
    use crate::testing::run;
    use crate::verify::CertificateRefused;

    fn authority(name: &str) -> ClusterAuthority {
        ClusterAuthority::create(name, ClusterId::random()).unwrap()
    }

    #[test]
    fn credentials_survive_their_file_which_is_private() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("auth_digest.key");
            let node = authority("stor1").issue("s1", "00ff", Roles::ALL).unwrap();
            node.save(&path).await.unwrap();
            let mode =
                std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600);
            let again = Credentials::load(&path).await.unwrap();
            assert_eq!(again.identity(), node.identity());
            assert_eq!(again.cluster_name(), "stor1");
            again.check_validity().unwrap();
            assert!(!format!("{again:?}").contains("key"), "no secret may reach a log");
        });
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        run(async {
            let (one, two) = (authority("one"), authority("two"));
            let node = one.issue("n", "1", Roles::ALL).unwrap();
            let other = two.issue("n", "1", Roles::ALL).unwrap();
            let error = |text: &str| Credentials::from_pem(text.as_bytes()).unwrap_err();
            assert!(matches!(error("not a PEM file"), CredentialsError::Key));
            assert!(matches!(error(&node.to_pem()[..400]), CredentialsError::Key));
            assert!(matches!(error(&node.to_pem().replacen("MI", "!!", 1)), CredentialsError::Pem(_)));
            let build = |certificates: &[&CertificateDer<'static>], key: &[u8]| {
                let mut file = PemFile::titled("test");
                certificates.iter().for_each(|certificate| file.certificate(certificate));
                file.key(key);
                Credentials::from_pem(file.finish().as_bytes())
            };
            let missing = build(&[&node.certificate], &node.key).unwrap_err();
            assert!(matches!(missing, CredentialsError::Certificates { expected: 2, found: 1 }));
            let key = build(&[&node.certificate, &node.authority], &other.key).unwrap_err();
            assert!(matches!(key, CredentialsError::KeyMismatch));
            let cluster = build(&[&node.certificate, &other.authority], &node.key).unwrap_err();
            assert!(
                matches!(cluster, CredentialsError::Refused(CertificateRefused::WrongCluster { .. })),
                "{cluster}"
            );
            let swapped = build(&[&node.authority, &node.certificate], &node.key).unwrap_err();
            assert!(matches!(swapped, CredentialsError::NoIdentity));
            let garbage =
                build(&[&node.certificate, &CertificateDer::from(vec![1, 2, 3])], &node.key).unwrap_err();
            assert!(matches!(garbage, CredentialsError::Malformed(_)));
        });
    }

    #[test]
    fn expired_certificates_are_told_apart_from_forged_ones() {
        run(async {
            let one = authority("one");
            let old = one.issue_until("n", "1", Roles::ALL, 2001).unwrap();
            let error = old.check_validity().unwrap_err();
            assert!(
                matches!(error, CredentialsError::Refused(CertificateRefused::Expired { .. })),
                "{error}"
            );
            // Same cluster id and names, another key: what a forger would make.
            let forged = ClusterAuthority::create("one", one.cluster()).unwrap();
            let node = forged.issue("n", "1", Roles::ALL).unwrap();
            let mixed = Credentials { authority: one.issue("n", "1", Roles::ALL).unwrap().authority, ..node };
            let error = mixed.check_validity().unwrap_err();
            assert!(matches!(error, CredentialsError::Refused(CertificateRefused::Untrusted)), "{error}");
        });
    }
}
