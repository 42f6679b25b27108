//! Asking the metadata servers: for as long as it takes, as a disk would.

use std::rc::Rc;
use std::time::Duration;

use client::Session;
use link::AskError;
use wire::inode::{GetInode, Inode};
use wire::session::SessionKey;
use wire::{Action, Status};

use super::Answer;
use crate::errno::{self, Errno};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// The way to the metadata servers.
#[derive(Debug)]
pub(super) struct Meta {
    session: Rc<Session>,
}

impl Meta {
    pub(super) fn new(session: Rc<Session>) -> Self {
        Self { session }
    }

    pub(super) fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// The top directory.
    pub(super) async fn root(&self, patience: Duration) -> Result<Inode, AskError> {
        let request = GetInode { id: 0 };
        Ok(self.session.master().ask(&request, rt::time::now() + patience).await?.inode)
    }

    /// An inode as it is now.
    pub(super) async fn inode(&self, id: u64) -> Answer<Inode> {
        Ok(self.ask(&GetInode { id }).await?.inode)
    }

    /// Asks for what changes nothing.
    pub(super) async fn ask<R: wire::Call>(&self, request: &R) -> Answer<R::Reply> {
        loop {
            let deadline = rt::time::now() + ATTEMPT;
            match self.session.master().ask(request, deadline).await {
                Ok(reply) => return Ok(reply),
                Err(error) => self.heed(error).await?,
            }
        }
    }

    /// Asks for a change, which is carried out once however often it is sent. `request` makes it for a key of the session, which
    /// may become another one meanwhile.
    pub(super) async fn change<R: wire::Call>(&self, request: impl Fn(SessionKey) -> R) -> Answer<R::Reply> {
        let change = self.session.change();
        loop {
            if self.session.valid().await.is_err() {
                return Err(Errno::EIO);
            }
            let deadline = rt::time::now() + ATTEMPT;
            match change.ask(&request(self.session.key()), deadline).await {
                Ok(reply) => return Ok(reply),
                Err(error) => self.heed(error).await?,
            }
        }
    }

    /// Waits before another attempt, or says why there is none.
    async fn heed(&self, error: AskError) -> Answer<()> {
        match error {
            AskError::Status { status, error } => match status.action() {
                Action::Rejoin => {}
                _ if status == Status::Retry || status == Status::Timeout => {}
                Action::Redirect | Action::Reconnect => {}
                _ => {
                    tracing::debug!("refused: {status}: {}", error.message);
                    return Err(errno::of_status(status));
                }
            },
            AskError::Call(error) => tracing::warn!("waiting for the metadata servers: {error}"),
            error => {
                tracing::error!("{error}");
                return Err(Errno::EIO);
            }
        }
        rt::time::sleep(PAUSE).await;
        Ok(())
    }
}
