//! The guest's side: prove the password, then become a node or change the password.

use std::time::Duration;

use rt::net::Address;
use wire::auth::{Enroll, EnrollReply, Login as LoginCall, NewPassword, SetPassword};

use super::channel::{Channel, ChannelError};
use super::purpose;
use crate::authority::{AuthorityError, NodeKey};
use crate::credentials::{Credentials, CredentialsError};
use crate::error::ConnectCause;
use crate::password::{Login, Password, PasswordError, Registration, SessionKey};
use crate::security::{ConfigError, Security};

/// Why a visit came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// No connection could be made.
    #[error(transparent)]
    Connect(#[from] ConnectCause),
    /// The connection failed, or the peer refuses.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The password is wrong, or the peer is not the cluster that it is the password of.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// What the peer says it has issued was changed on the way.
    #[error("what came back is not proven to come from the cluster")]
    Unproven,
    /// The certificates are not what was asked for.
    #[error("the certificate that came back is not usable: {0}")]
    Credentials(#[from] CredentialsError),
    /// The certificate is of another cluster or node than was asked for.
    #[error("the certificate that came back is for {0}")]
    Another(String),
    /// No key could be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It took too long.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
}

/// Somebody who means to visit the metadata servers of a cluster.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// The cluster's name.
    pub cluster: String,
    /// The password.
    pub password: Password,
    /// How long one visit may take.
    pub patience: Duration,
    /// Where the cryptography comes from.
    pub security: Security,
}

impl Visitor {
    /// Becomes a node of the cluster: makes a key, has it certified, and gives both.
    ///
    /// # Errors
    /// [`VisitError`].
    ///
    /// # Panics
    /// When called outside an executor.
    pub async fn enroll(
        &self,
        address: &Address,
        node: &str,
        host_id: &str,
    ) -> Result<Credentials, VisitError> {
        self.in_time(async {
            let visit = Visit::begin(self, address).await?;
            visit.enroll(&self.cluster, node, host_id).await
        })
        .await
    }

    /// Changes the password of the cluster.
    ///
    /// # Errors
    /// [`VisitError`].
    ///
    /// # Panics
    /// When called outside an executor.
    pub async fn change_password(&self, address: &Address, new: &Password) -> Result<(), VisitError> {
        self.in_time(async {
            let visit = Visit::begin(self, address).await?;
            visit.change_password(&self.cluster, new).await
        })
        .await
    }

    async fn in_time<T>(&self, visit: impl Future<Output = Result<T, VisitError>>) -> Result<T, VisitError> {
        let done = rt::time::timeout(self.patience, visit).await;
        done.unwrap_or(Err(VisitError::Timeout(self.patience)))
    }
}

/// A visit whose host has proved that it keeps the password's verifier; our proof goes along with what we ask for.
pub struct Visit {
    channel: Channel,
    key: SessionKey,
    ke3: Vec<u8>,
}

impl std::fmt::Debug for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visit").field("channel", &self.channel).finish_non_exhaustive()
    }
}

impl Visit {
    /// Connects, and sees to it that the host is the cluster's.
    ///
    /// # Errors
    /// [`VisitError`].
    ///
    /// # Panics
    /// When called outside an executor.
    pub async fn begin(visitor: &Visitor, address: &Address) -> Result<Self, VisitError> {
        let mut channel = Channel::connect(address, visitor.security).await?;
        let (login, ke1) = Login::begin(&visitor.password)?;
        let reply = channel.ask(&LoginCall { ke1 }).await?;
        let proven = login.finish(&reply.ke2, &visitor.password, &visitor.cluster, channel.binding());
        match proven {
            Ok((key, ke3)) => Ok(Self { channel, key, ke3 }),
            Err(error) => {
                channel.close().await;
                Err(error.into())
            }
        }
    }

    /// Becomes a node.
    ///
    /// # Errors
    /// [`VisitError`].
    pub async fn enroll(
        mut self,
        cluster: &str,
        node: &str,
        host_id: &str,
    ) -> Result<Credentials, VisitError> {
        let key = NodeKey::new()?;
        let (node, host_id) = (node.to_owned(), host_id.to_owned());
        let call =
            Enroll { ke3: self.ke3, key: Some(key.claim()?), node: node.clone(), host_id: host_id.clone() };
        let EnrollReply { authority, certificate, proof } = self.channel.ask(&call).await?;
        self.channel.close().await;
        if !self.key.is_proof(purpose::ENROLLED, &[&authority, &certificate], &proof) {
            return Err(VisitError::Unproven);
        }
        let credentials = Credentials::from_parts(authority.into(), certificate.into(), key.to_pkcs8())?;
        credentials.check_validity()?;
        let identity = credentials.identity();
        if credentials.cluster_name() != cluster || (&identity.node, &identity.host_id) != (&node, &host_id) {
            let (found, of) = (&identity.node, credentials.cluster_name());
            return Err(VisitError::Another(format!("node {found} of cluster {of}")));
        }
        Ok(credentials)
    }

    /// Changes the password.
    ///
    /// # Errors
    /// [`VisitError`].
    pub async fn change_password(mut self, cluster: &str, new: &Password) -> Result<(), VisitError> {
        let (registration, request) = Registration::begin(new)?;
        let reply = self.channel.ask(&NewPassword { ke3: self.ke3, request }).await?;
        let record = registration.finish(&reply.response, new, cluster)?;
        let proof = self.key.prove(purpose::SET_PASSWORD, &[&record]);
        self.channel.ask(&SetPassword { record, proof }).await?;
        self.channel.close().await;
        Ok(())
    }
}
