//! What a metadata server says of members, heard: revoked ones are cut off, and a certificate of our own that has served half
//! its time is renewed.

use std::rc::Rc;

use crate::authority::NodeKey;
use crate::connection::Connection;
use crate::credentials::{Credentials, CredentialsError};
use crate::endpoint::Endpoint;
use crate::error::AskError;
use crate::revocation::is_due;
use crate::shared::Shared;
use wire::auth::{RenewCertificate, Revocations};
use wire::hello::Role;

/// How long a new certificate may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Why there is no new certificate. The old one serves on.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error("the metadata server does not issue it: {0}")]
    Refused(#[from] AskError),
    #[error("{0}")]
    Credentials(#[from] CredentialsError),
    #[error("{0}")]
    Authority(#[from] crate::authority::AuthorityError),
    #[error("it cannot be used: {0}")]
    Config(#[from] crate::security::ConfigError),
    #[error("it is another node's")]
    Another,
    #[error("it cannot be written: {0}")]
    Write(#[from] std::io::Error),
}

/// Takes a notice of a peer.
pub(crate) fn hear(shared: &Rc<Shared>, body: &[u8]) {
    if shared.peer().is_none_or(|peer| peer.role != Role::Mds) {
        return tracing::warn!(peer = %shared.address, "a list of revoked nodes from somebody who is no metadata server");
    }
    let endpoint = Endpoint(Rc::clone(&shared.local));
    let credentials = endpoint.credentials();
    let notice = wire::decode_body::<Revocations>(body);
    let cluster = credentials.identity().cluster;
    let heard = notice.map_err(|error| error.to_string()).and_then(|notice| {
        let heard = credentials.standing().hear(notice, cluster, credentials.authority_certificate());
        heard.map_err(|error| error.to_string())
    });
    match heard {
        Ok(true) => endpoint.cut_revoked(),
        // Known already; the certificate may have to be renewed all the same.
        Ok(false) => {}
        Err(error) => return tracing::warn!(peer = %shared.address, error, "refused"),
    }
    let due = is_due(credentials.identity(), credentials.standing().hours());
    if due
        && credentials.origin().is_some()
        && !endpoint.0.renewing.replace(true)
        && let Some(connection) = shared.connection()
    {
        rt::spawn(async move {
            match renew(&endpoint, &connection).await {
                Ok(until_h) => tracing::info!(until_h, "this node has a new certificate"),
                Err(error) => {
                    tracing::warn!(%error, "this node has no new certificate, and goes on with the old one");
                    // The next notice is another occasion.
                    endpoint.0.renewing.set(false);
                }
            }
        });
    }
}

/// Gets a new certificate for the key this node has and puts it where the old one was; the hour until which it serves. Another
/// program of the node may have done so before.
async fn renew(endpoint: &Endpoint, connection: &Connection) -> Result<u64, RenewalError> {
    let ours = endpoint.credentials();
    let Some(path) = ours.origin() else { return Err(RenewalError::Another) };
    let found = Credentials::load(path).await?;
    if found.identity().cluster != ours.identity().cluster {
        return Err(RenewalError::Another);
    }
    if !is_due(found.identity(), ours.standing().hours()) {
        endpoint.adopt(&ours.with_file(&found))?;
        return Ok(found.identity().until_h);
    }
    let key = Some(NodeKey::from_pkcs8(ours.key_bytes())?.claim()?);
    let reply = connection.ask(&RenewCertificate { key }, rt::time::now() + PATIENCE).await?;
    let renewed = ours.with_certificate(reply.certificate)?;
    renewed.check_validity()?;
    let (old, new) = (ours.identity(), renewed.identity());
    let same = (&old.node, &old.host_id, old.number) == (&new.node, &new.host_id, new.number);
    if !same || is_due(new, ours.standing().hours()) {
        return Err(RenewalError::Another);
    }
    endpoint.adopt(&renewed)?;
    // Only over what was renewed: somebody may have authenticated the node anew meanwhile.
    if found.certificate() == ours.certificate() {
        renewed.save(path).await?;
    }
    Ok(new.until_h)
}
