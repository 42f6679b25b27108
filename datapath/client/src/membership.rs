//! A session whose key is kept where a restarted daemon finds it (C1).

use std::rc::Rc;

use link::{AskError, Master};
use wire::session::ClientKind;

use crate::session::{Session, SessionOptions};
use crate::state::{SessionFile, StateError, Stored};

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// Its key cannot be read or stored.
    #[error(transparent)]
    State(#[from] StateError),
    /// The metadata servers gave none.
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// The session, and where its key is kept.
#[derive(Debug)]
pub struct Membership {
    session: Rc<Session>,
    kept: Option<(rt::JoinHandle<()>, SessionFile)>,
}

impl Membership {
    /// Opens the session: with `file`, as the client that an earlier daemon in this place was (C1).
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn begin(
        master: Rc<Master>,
        kind: ClientKind,
        file: Option<SessionFile>,
        patience: std::time::Duration,
    ) -> Result<Self, MembershipError> {
        let stored = match &file {
            Some(file) => file.load().await?,
            None => None,
        };
        let client_uuid = stored.as_ref().map_or_else(new_uuid, |stored| stored.client_uuid);
        let options = SessionOptions { client_uuid, kind, resume: stored.map(|stored| stored.key), patience };
        let session = Session::open(master, options).await?;
        let Some(file) = file else { return Ok(Self { session, kept: None }) };
        let stored = Stored { client_uuid, key: session.key() };
        // Before there is a lease, so that there is none that could not be taken over.
        file.save(&stored).await?;
        let keeper = rt::spawn(keep(Rc::clone(&session), file.clone(), stored));
        Ok(Self { session, kept: Some((keeper, file)) })
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// Ends the session in order.
    pub async fn end(self) {
        let file = self.kept.map(|(keeper, file)| {
            keeper.abort();
            file
        });
        match (self.session.close().await, file) {
            (Ok(()), Some(file)) => file.remove().await,
            (Ok(()), None) => {}
            (Err(error), _) => tracing::warn!("the session ends by itself, it could not be closed: {error}"),
        }
    }
}

/// Stores the key of the session whenever it changes.
async fn keep(session: Rc<Session>, file: SessionFile, mut stored: Stored) {
    loop {
        stored.key = session.key_changed(&stored.key).await;
        if let Err(error) = file.save(&stored).await {
            tracing::error!("a restarted daemon will have to wait until the lease has ended: {error}");
        }
    }
}

fn new_uuid() -> [u8; 16] {
    let mut uuid = [0; 16];
    rt::random::fill_secret(&mut uuid);
    uuid
}
