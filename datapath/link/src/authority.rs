//! The cluster's own certificate authority.
//!
//! Made with the cluster and kept by the metadata servers. Its one certificate is the anchor of every
//! connection: no other authority is ever asked.

use std::io;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use ring::signature::{ED25519, UnparsedPublicKey};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use wire::auth::KeyClaim;
use zeroize::Zeroizing;

use crate::credentials::{Credentials, CredentialsError, PemFile};
use crate::identity::{self, ClusterId, Identity, Roles, is_name};

/// Certificates are valid from here on, so that a clock that has fallen back refuses nobody.
const FIRST_YEAR: i32 = 1970;
/// A clock earlier than this is wrong, and does not shorten what is issued by it.
const EARLIEST_YEAR: i32 = 2026;
/// Nodes' certificates are valid for at least this many years.
pub const NODE_YEARS: i32 = 30;
/// "No well-defined end" (RFC 5280 section 4.1.2.5): the end of the cluster is the end of its authority.
const LAST_YEAR: i32 = 9999;

/// Why the authority could not be made, read, or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A name with characters we do not allow.
    #[error("{what} {found:?} is not valid: use 1 to 64 letters, digits, dots, dashes and underscores")]
    Name {
        /// What kind of name.
        what: &'static str,
        /// The name.
        found: String,
    },
    /// A key that does not prove itself.
    #[error("the key to be certified does not prove that its secret half is known")]
    Claim,
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The authority's file, or the credentials just issued, are not usable.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// The key that makes nodes members of a cluster.
pub struct ClusterAuthority {
    cluster: ClusterId,
    name: String,
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl std::fmt::Debug for ClusterAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterAuthority")
            .field("cluster", &self.cluster)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl ClusterAuthority {
    /// Makes the authority of a new cluster.
    ///
    /// # Errors
    /// [`AuthorityError::Name`] when the cluster may not be called so.
    ///
    /// # Panics
    /// When called outside an executor, from which the randomness comes.
    pub fn create(name: &str, cluster: ClusterId) -> Result<Self, AuthorityError> {
        check("cluster name", name)?;
        let key = new_key()?;
        let mut params = params(&cluster.to_string(), LAST_YEAR, &identity::authority_uris(cluster, name))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { cluster, name: name.to_owned(), certificate, key })
    }

    /// The cluster it is of.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The name of the cluster.
    #[must_use]
    pub fn cluster_name(&self) -> &str {
        &self.name
    }

    /// Makes a node a member: a new key and a certificate for it, good for [`NODE_YEARS`] years.
    ///
    /// # Errors
    /// [`AuthorityError::Name`] when node or host may not be called so.
    ///
    /// # Panics
    /// When called outside an executor, from which randomness and time come.
    pub fn issue(&self, node: &str, host_id: &str, roles: Roles) -> Result<Credentials, AuthorityError> {
        let year = year_of(rt::time::wall_clock_ms()).clamp(EARLIEST_YEAR, LAST_YEAR - 1 - NODE_YEARS);
        self.issue_until(node, host_id, roles, year + 1 + NODE_YEARS)
    }

    /// As [`ClusterAuthority::issue`], valid until the first of January of `year`.
    ///
    /// # Errors
    /// As [`ClusterAuthority::issue`].
    ///
    /// # Panics
    /// As [`ClusterAuthority::issue`], and when `year` is not between 1971 and 9999.
    pub fn issue_until(
        &self,
        node: &str,
        host_id: &str,
        roles: Roles,
        year: i32,
    ) -> Result<Credentials, AuthorityError> {
        assert!((FIRST_YEAR + 1..=LAST_YEAR).contains(&year), "certificates end between 1971 and 9999");
        check("node name", node)?;
        check("host id", host_id)?;
        let identity = Identity {
            cluster: self.cluster,
            node: node.to_owned(),
            host_id: host_id.to_owned(),
            roles,
            number: 0,
            until_h: 0,
        };
        let key = NodeKey::new()?;
        let certificate = self.sign(&identity, key.0.public_key_raw(), year)?;
        Ok(Credentials::from_parts(self.certificate.clone(), certificate, key.to_pkcs8())?)
    }

    /// Makes a node with a number a member: a new key and a certificate for it, without an end by the calendar.
    ///
    /// # Errors
    /// [`AuthorityError::Name`] when node or host may not be called so.
    ///
    /// # Panics
    /// When called outside an executor, from which randomness comes, and when the identity is of another cluster.
    pub fn issue_as(&self, identity: &Identity) -> Result<Credentials, AuthorityError> {
        let key = NodeKey::new()?;
        let certificate = self.admit(identity, &key.claim()?)?;
        Ok(Credentials::from_parts(self.certificate.clone(), certificate.into(), key.to_pkcs8())?)
    }

    /// Admits a node whose key only the node has: its certificate, DER. It has no end by the calendar, only by the cluster's own
    /// time ([`Identity::until_h`]), which no clock of a host can change.
    ///
    /// # Errors
    /// [`AuthorityError::Name`] when node or host may not be called so, [`AuthorityError::Claim`] when whoever asks does not have the
    /// key.
    ///
    /// # Panics
    /// When called outside an executor, from which randomness comes, and when the identity is of another cluster.
    pub fn admit(&self, identity: &Identity, claim: &KeyClaim) -> Result<Vec<u8>, AuthorityError> {
        assert_eq!(identity.cluster, self.cluster, "an authority admits to its own cluster only");
        check("node name", &identity.node)?;
        check("host id", &identity.host_id)?;
        let public_key = checked_claim(claim).ok_or(AuthorityError::Claim)?;
        Ok(self.sign(identity, public_key, LAST_YEAR)?.to_vec())
    }

    /// Signs a message of our own form. These begin with words, so that none can be taken for a certificate.
    pub(crate) fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, AuthorityError> {
        Ok(rcgen::SigningKey::sign(&self.key, message)?)
    }

    /// The authority's certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    fn sign(
        &self,
        identity: &Identity,
        public_key: &[u8],
        end_year: i32,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let mut params = params(&identity.node, end_year, &identity.to_uris())?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let mut own = CertificateParams::default();
        own.distinguished_name.push(DnType::CommonName, self.cluster.to_string());
        let issuer = Issuer::from_params(&own, &self.key);
        Ok(params.signed_by(&PublicKey(public_key), &issuer)?.der().clone())
    }

    /// The authority as a PEM file: certificate and key. Whoever reads it can make himself a member.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        let title = format!(
            "Certificate authority of the vstorage cluster {} ({}). Keep it secret.",
            self.name, self.cluster
        );
        let mut file = PemFile::titled(&title);
        file.certificate(&self.certificate);
        file.key(self.key.serialized_der());
        file.finish()
    }

    /// Reads what [`ClusterAuthority::to_pem`] wrote.
    ///
    /// # Errors
    /// [`AuthorityError::Credentials`], which says what is wrong with the text.
    pub fn from_pem(text: &[u8]) -> Result<Self, AuthorityError> {
        let (certificates, key) = PemFile::parse(text)?;
        let [certificate] = <[_; 1]>::try_from(certificates)
            .map_err(|found| CredentialsError::Certificates { expected: 1, found: found.len() })?;
        let parsed = webpki::EndEntityCert::try_from(&certificate).map_err(CredentialsError::Malformed)?;
        let (cluster, name) =
            identity::authority_from_uris(parsed.valid_uri_names()).ok_or(CredentialsError::NoIdentity)?;
        let spki = parsed.subject_public_key_info();
        let pkcs8 = PrivatePkcs8KeyDer::from(key.as_slice());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519)
            .map_err(|_| CredentialsError::Key)?;
        if !spki.ends_with(key.public_key_raw()) {
            return Err(CredentialsError::KeyMismatch.into());
        }
        drop(parsed);
        Ok(Self { cluster, name, certificate, key })
    }

    /// Writes the authority to a file that only its owner may read, whole or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn save(&self, path: &Path) -> io::Result<()> {
        rt::fs::write_atomic(path, self.to_pem().as_bytes()).await
    }

    /// Reads the authority from a file.
    ///
    /// # Errors
    /// [`AuthorityError::Credentials`], which says what is wrong with the file.
    pub async fn load(path: &Path) -> Result<Self, AuthorityError> {
        let text = Zeroizing::new(rt::fs::read(path).await.map_err(CredentialsError::Read)?);
        Self::from_pem(&text)
    }
}

fn check(what: &'static str, found: &str) -> Result<(), AuthorityError> {
    if is_name(found) { Ok(()) } else { Err(AuthorityError::Name { what, found: found.to_owned() }) }
}

/// What all our certificates have in common.
fn params(common_name: &str, end_year: i32, uris: &[String]) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    let mut serial = [0; 16];
    rt::random::fill_secret(&mut serial);
    // Positive and not zero, as RFC 5280 section 4.1.2.2 asks.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
    params.not_before = rcgen::date_time_ymd(FIRST_YEAR, 1, 1);
    params.not_after = rcgen::date_time_ymd(end_year, 1, 1);
    params.distinguished_name.push(DnType::CommonName, common_name);
    for uri in uris {
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
    }
    Ok(params)
}

/// Somebody else's public key, Ed25519.
struct PublicKey<'a>(&'a [u8]);

impl rcgen::PublicKeyData for PublicKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

/// A node's own key, made on the node.
pub(crate) struct NodeKey(KeyPair);

impl NodeKey {
    /// A new one.
    pub(crate) fn new() -> Result<Self, AuthorityError> {
        new_key().map(Self)
    }

    /// Reads a key in PKCS#8.
    pub(crate) fn from_pkcs8(der: &[u8]) -> Result<Self, AuthorityError> {
        let der = PrivatePkcs8KeyDer::from(der);
        Ok(Self(KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519)?))
    }

    pub(crate) fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialize_der())
    }

    /// The public half, and the proof that there is another one.
    pub(crate) fn claim(&self) -> Result<KeyClaim, AuthorityError> {
        let public_key = self.0.public_key_raw().to_vec();
        let signature = rcgen::SigningKey::sign(&self.0, &claim_text(&public_key))?;
        Ok(KeyClaim { public_key, signature })
    }
}

fn claim_text(public_key: &[u8]) -> Vec<u8> {
    [b"vstorage key claim 1\0", public_key].concat()
}

/// The key of a claim that proves itself.
fn checked_claim(claim: &KeyClaim) -> Option<&[u8]> {
    let key = UnparsedPublicKey::new(&ED25519, &claim.public_key);
    let proven =
        claim.public_key.len() == 32 && key.verify(&claim_text(&claim.public_key), &claim.signature).is_ok();
    proven.then_some(&claim.public_key)
}

/// DER of a PKCS#8 Ed25519 key (RFC 8410 section 7) up to its 32 secret bytes.
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A new Ed25519 key. Its secret comes from `rt`, so that the simulator makes the same one again.
fn new_key() -> Result<KeyPair, AuthorityError> {
    let mut der = Zeroizing::new([0; PKCS8_ED25519.len() + 32]);
    der[..PKCS8_ED25519.len()].copy_from_slice(&PKCS8_ED25519);
    rt::random::fill_secret(&mut der[PKCS8_ED25519.len()..]);
    let der = PrivatePkcs8KeyDer::from(&der[..]);
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519)?)
}

/// The year of a wall clock in milliseconds, exact to a day.
fn year_of(wall_clock_ms: u64) -> i32 {
    // 31 556 952 seconds are a year of 365.2425 days.
    let years = i32::try_from(wall_clock_ms / 31_556_952_000).unwrap_or(i32::MAX);
    FIRST_YEAR + years.min(LAST_YEAR - FIRST_YEAR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run;

    #[test]
    fn the_authority_survives_its_file_and_issues_the_same_members() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ca.key");
            let authority = ClusterAuthority::create("stor1", ClusterId::random()).unwrap();
            authority.save(&path).await.unwrap();
            let mode =
                std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600);
            let again = ClusterAuthority::load(&path).await.unwrap();
            assert_eq!((again.cluster(), again.cluster_name()), (authority.cluster(), "stor1"));
            let node = again.issue("s1", "0123456789abcdef", Roles::ALL).unwrap();
            assert_eq!(node.identity().cluster, authority.cluster());
            assert_eq!(node.identity().node, "s1");
            assert_eq!(node.authority_certificate(), &authority.certificate);
        });
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        run(async {
            let refused = ClusterAuthority::create("a b", ClusterId::random()).unwrap_err();
            assert!(refused.to_string().contains("cluster name \"a b\" is not valid"));
            let authority = ClusterAuthority::create("a", ClusterId::random()).unwrap();
            assert!(matches!(
                authority.issue("../x", "1", Roles::ALL),
                Err(AuthorityError::Name { what: "node name", .. })
            ));
            assert!(matches!(
                authority.issue("x", "", Roles::ALL),
                Err(AuthorityError::Name { what: "host id", .. })
            ));
        });
    }

    #[test]
    fn a_foreign_key_beside_the_certificate_is_noticed() {
        run(async {
            let one = ClusterAuthority::create("one", ClusterId::random()).unwrap();
            let two = ClusterAuthority::create("two", ClusterId::random()).unwrap();
            let mut mixed = PemFile::titled("mixed");
            mixed.certificate(&one.certificate);
            mixed.key(two.key.serialized_der());
            let error = ClusterAuthority::from_pem(mixed.finish().as_bytes()).unwrap_err();
            assert!(matches!(error, AuthorityError::Credentials(CredentialsError::KeyMismatch)));
        });
    }

    #[test]
    fn years_are_counted_right() {
        assert_eq!(year_of(0), 1970);
        assert_eq!(year_of(1_800_000_000_000), 2027);
        assert_eq!(year_of(u64::MAX), LAST_YEAR);
    }
}
