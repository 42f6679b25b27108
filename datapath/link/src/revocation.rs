//! Who is a member no longer, and how old the cluster is: a list that the authority signs and everybody learns over the
//! connections he has anyway.
//!
//! A metadata server publishes the list ([`crate::Endpoint::publish`]): whoever connects to it is told, and everybody who is
//! connected at each change. Whoever hears of a later list than his own keeps it for all endpoints of his process, cuts the
//! connections of those it names, and refuses them from then on.
//!
//! The list also tells the *cluster's own time*: the hours during which it has had a master. It stands still while the
//! cluster is off and cannot be set, so no clock of any host, however wrong, and no year in a warehouse makes a certificate invalid.

use std::sync::{Arc, RwLock, RwLockReadGuard};

use ring::signature::{ED25519, UnparsedPublicKey};
use rustls::pki_types::CertificateDer;
use wire::auth::{REVOKED_MAX, RevocationList, Revocations};

use crate::authority::{AuthorityError, ClusterAuthority};
use crate::identity::{ClusterId, Identity};
use crate::verify::CertificateRefused;

/// How long a certificate serves, in hours of the cluster's own time: ten years of running.
pub const LIFETIME_H: u64 = 10 * YEAR_H;
/// A node asks for a new certificate when fewer than this many hours are left.
pub const RENEW_BEFORE_H: u64 = 5 * YEAR_H;
const YEAR_H: u64 = 8766;

/// Led by this, so that a signature for a list is one for nothing else.
const TITLE: &[u8] = b"vstorage revocation list 1\0";

/// Why a list is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListError {
    #[error("a list of revoked nodes that the cluster's authority has not signed")]
    Signature,
    #[error("a list of revoked nodes that cannot be read")]
    Malformed,
    #[error("a list of revoked nodes of another cluster")]
    Cluster,
}

/// A list that is known to be the authority's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedList {
    list: RevocationList,
    notice: Revocations,
}

impl SignedList {
    /// Signs a list. `revoked` is put in order.
    ///
    /// # Errors
    /// [`AuthorityError`] when the key cannot sign.
    ///
    /// # Panics
    /// When it names more than [`REVOKED_MAX`] nodes.
    pub fn sign(
        authority: &ClusterAuthority,
        version: u64,
        hours: u64,
        mut revoked: Vec<u64>,
    ) -> Result<Self, AuthorityError> {
        assert!(revoked.len() <= REVOKED_MAX, "the list has a limit");
        revoked.sort_unstable();
        let list = RevocationList { cluster: authority.cluster().0.to_vec(), version, hours, revoked };
        let bytes = prost::Message::encode_to_vec(&list);
        let signature = authority.sign_message(&[TITLE, &bytes].concat())?;
        Ok(Self { list, notice: Revocations { list: bytes, signature } })
    }

    /// Reads a notice and checks whose it is.
    fn check(
        notice: Revocations,
        cluster: ClusterId,
        authority: &CertificateDer<'_>,
    ) -> Result<Self, ListError> {
        let anchor = webpki::EndEntityCert::try_from(authority).map_err(|_| ListError::Signature)?;
        let spki = anchor.subject_public_key_info();
        // The last 32 bytes of it are the key (RFC 8410 section 4).
        let key = spki.last_chunk::<32>().ok_or(ListError::Signature)?;
        let text = [TITLE, &notice.list].concat();
        UnparsedPublicKey::new(&ED25519, key)
            .verify(&text, &notice.signature)
            .map_err(|_| ListError::Signature)?;
        let list: RevocationList = wire::decode_body(&notice.list).map_err(|_| ListError::Malformed)?;
        if !list.revoked.is_sorted() || list.revoked.len() > REVOKED_MAX {
            return Err(ListError::Malformed);
        }
        if list.cluster != cluster.0 {
            return Err(ListError::Cluster);
        }
        Ok(Self { list, notice })
    }

    pub(crate) fn notice(&self) -> &Revocations {
        &self.notice
    }
}

/// The latest list a process knows; shared by all endpoints with the same credentials.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing(Arc<RwLock<Option<SignedList>>>);

impl Standing {
    fn read(&self) -> RwLockReadGuard<'_, Option<SignedList>> {
        // Nothing in here can panic half way.
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes a list of ours, unless a later one is known; whether it was taken.
    pub(crate) fn take(&self, list: SignedList) -> bool {
        let mut known = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let newer = known.as_ref().is_none_or(|known| known.list.version < list.list.version);
        if newer {
            *known = Some(list);
        }
        newer
    }

    /// Takes what a peer has sent; whether it was new.
    pub(crate) fn hear(
        &self,
        notice: Revocations,
        cluster: ClusterId,
        authority: &CertificateDer<'_>,
    ) -> Result<bool, ListError> {
        if self.read().as_ref().is_some_and(|known| known.notice == notice) {
            return Ok(false);
        }
        Ok(self.take(SignedList::check(notice, cluster, authority)?))
    }

    /// Hours the cluster has run, as far as is known.
    pub(crate) fn hours(&self) -> u64 {
        self.read().as_ref().map_or(0, |known| known.list.hours)
    }

    /// Whether a member is one no longer.
    pub(crate) fn check(&self, identity: &Identity) -> Result<(), CertificateRefused> {
        let known = self.read();
        let Some(SignedList { list, .. }) = &*known else { return Ok(()) };
        if identity.number != 0 && list.revoked.binary_search(&identity.number).is_ok() {
            return Err(CertificateRefused::Revoked);
        }
        if identity.until_h != 0 && identity.until_h < list.hours {
            return Err(CertificateRefused::Served);
        }
        Ok(())
    }
}

/// Whether it is time for a new certificate.
pub(crate) fn is_due(identity: &Identity, hours: u64) -> bool {
    identity.number != 0 && identity.until_h != 0 && identity.until_h.saturating_sub(hours) < RENEW_BEFORE_H
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Roles;
    use crate::testing::run;

    fn authority() -> ClusterAuthority {
        ClusterAuthority::create("stor1", ClusterId::random()).unwrap()
    }

    fn member(number: u64, until_h: u64) -> Identity {
        let (node, host_id) = ("n".into(), "1".into());
        Identity { cluster: ClusterId([1; 16]), node, host_id, roles: Roles::ALL, number, until_h }
    }

    #[test]
    fn only_a_later_list_of_the_own_authority_is_believed() {
        run(async {
            let (ours, other) = (authority(), authority());
            let anchor = CertificateDer::from(ours.certificate().to_vec());
            let standing = Standing::default();
            let hear = |notice: &Revocations| standing.hear(notice.clone(), ours.cluster(), &anchor);
            let list = |version, revoked| SignedList::sign(&ours, version, version, revoked).unwrap();
            assert_eq!(hear(list(5, vec![9, 7]).notice()), Ok(true));
            assert_eq!(standing.check(&member(7, 0)), Err(CertificateRefused::Revoked));
            assert_eq!(standing.check(&member(8, 0)), Ok(()));
            assert_eq!(standing.check(&member(0, 0)), Ok(()));
            assert_eq!(hear(list(5, vec![7, 9]).notice()), Ok(false), "the same");
            assert_eq!(hear(list(4, vec![]).notice()), Ok(false), "an earlier one");
            assert_eq!(standing.check(&member(9, 0)), Err(CertificateRefused::Revoked));
            let foreign = SignedList::sign(&other, 6, 6, vec![]).unwrap();
            assert_eq!(hear(foreign.notice()), Err(ListError::Signature));
            let good = list(6, vec![7]);
            for at in 0..good.notice().list.len() {
                let mut bent = good.notice().clone();
                bent.list[at] ^= 1;
                assert_eq!(hear(&bent), Err(ListError::Signature));
            }
            // The same key, another cluster: not made by any program of ours, refused all the same.
            let renamed = standing.hear(good.notice().clone(), other.cluster(), &anchor);
            assert_eq!(renamed, Err(ListError::Cluster));
            assert_eq!(standing.hours(), 5);
        });
    }

    #[test]
    fn certificates_end_by_the_clusters_own_time() {
        run(async {
            let ours = authority();
            let standing = Standing::default();
            let node = member(1, LIFETIME_H);
            for (version, hours, due, good) in [
                (1, 0, false, true),
                (2, LIFETIME_H - RENEW_BEFORE_H, false, true),
                (3, LIFETIME_H - RENEW_BEFORE_H + 1, true, true),
                (4, LIFETIME_H, true, true),
                (5, LIFETIME_H + 1, true, false),
            ] {
                assert!(standing.take(SignedList::sign(&ours, version, hours, vec![]).unwrap()));
                assert_eq!((is_due(&node, standing.hours()), standing.check(&node).is_ok()), (due, good));
                assert_eq!(standing.check(&member(1, 0)), Ok(()), "one without an end");
            }
            assert!(!is_due(&member(0, 1), 1), "whoever is not in the list cannot renew");
        });
    }
}
