//! Visiting the metadata servers with nothing but the password of the cluster.

use std::time::Duration;

use link::guest::{ChannelError, VisitError, Visitor};
use link::password::{self, PasswordError};
use link::{Security, ServerAddress};
use rt::net::Address;
use wire::Status;

use crate::cluster::Cluster;
use crate::password::Password;
use crate::table::printable;

/// Why a visit came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    /// No server could be reached, or none is the master.
    #[error(
        "no metadata server of cluster '{cluster}' lets this host in:{}\n\
         check that one runs, and its address in bs.list or after -b",
        attempts.iter().map(|attempt| format!("\n  {attempt}")).collect::<String>()
    )]
    Unreachable {
        /// The cluster.
        cluster: String,
        /// What came of each address.
        attempts: Vec<String>,
    },
    /// The password does not fit.
    #[error(
        "the password is wrong, or {address} does not belong to cluster '{cluster}', or somebody in between pretends to: \
         check the password, the name and the address; nothing was changed"
    )]
    Wrong {
        /// The cluster.
        cluster: String,
        /// Who answered.
        address: Address,
    },
    /// The password cannot be one.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The server refuses.
    #[error("{address}: {text}; nothing was changed")]
    Refused {
        /// Who answered.
        address: Address,
        /// What it says.
        text: String,
    },
    /// Something else went wrong.
    #[error("{address}: {error}")]
    Failed {
        /// Who answered.
        address: Address,
        /// What went wrong.
        #[source]
        error: VisitError,
    },
}

/// The metadata servers of a cluster, visited until one does what is asked.
pub(crate) struct Guest {
    cluster: Cluster,
    servers: Vec<ServerAddress>,
    visitor: Visitor,
}

impl Guest {
    /// A guest of these servers.
    ///
    /// # Errors
    /// [`GuestError::Password`].
    pub(crate) fn new(
        cluster: &Cluster,
        servers: Vec<ServerAddress>,
        password: &Password,
        patience: Duration,
    ) -> Result<Self, GuestError> {
        let password = password::Password::typed(password.text())?;
        let visitor =
            Visitor { cluster: cluster.name.clone(), password, patience, security: Security::real() };
        Ok(Self { cluster: cluster.clone(), servers, visitor })
    }

    /// Has one of the servers do something.
    ///
    /// # Errors
    /// [`GuestError`].
    pub(crate) async fn visit<T>(
        &self,
        does: impl AsyncFn(&Visitor, &Address) -> Result<T, VisitError>,
    ) -> Result<T, GuestError> {
        let mut attempts = Vec::new();
        for server in &self.servers {
            let addresses = match server.for_clients().await {
                Ok(addresses) => addresses,
                Err(error) => {
                    attempts.push(format!("{server}: cannot find its address: {error}"));
                    continue;
                }
            };
            for address in addresses {
                match does(&self.visitor, &address).await {
                    Ok(done) => return Ok(done),
                    Err(error) => attempts.push(self.sort(error, address)?),
                }
            }
        }
        Err(GuestError::Unreachable { cluster: self.cluster.name.clone(), attempts })
    }

    /// A line about an attempt, if another server may do better.
    fn sort(&self, error: VisitError, address: Address) -> Result<String, GuestError> {
        match error {
            VisitError::Password(PasswordError::Wrong) => {
                Err(GuestError::Wrong { cluster: self.cluster.name.clone(), address })
            }
            VisitError::Channel(ChannelError::Refused { status: Status::NotMaster, .. }) => {
                Ok(format!("{address}: not the master"))
            }
            VisitError::Channel(ChannelError::Refused { .. }) => {
                Err(GuestError::Refused { address, text: printable(&error.to_string()) })
            }
            VisitError::Connect(_) | VisitError::Timeout(_) | VisitError::Channel(_) => {
                Ok(format!("{address}: {error}"))
            }
            error => Err(GuestError::Failed { address, error }),
        }
    }
}
