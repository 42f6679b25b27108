//! Chunk servers that operators take out of the cluster.

use std::rc::Rc;

use wire::Status;
use wire::cluster::{RemoveAction, RemoveCs, RemoveCsReply};

use super::asked::Asked;
use super::failure::Failure;
use super::monitoring::status;
use super::reign::Reign;
use crate::state::command::{CommandOp, Leave, ReleaseCs};
use crate::state::{CsId, Refusal, State};

impl Reign {
    pub(super) async fn remove_cs(
        self: &Rc<Self>,
        call: RemoveCs,
        asked: &Asked,
    ) -> Result<RemoveCsReply, Failure> {
        let id = u32::try_from(call.cs_id).map_err(|_| Refusal::UnknownCs(u32::MAX))?;
        self.confirm(asked).await?;
        let action = RemoveAction::try_from(call.action).map_err(|_| {
            Failure::new(Status::Invalid, "this is nothing that can be done to a chunk server")
        })?;
        let how = match action {
            RemoveAction::Unspecified => None,
            RemoveAction::Release => Some(Leave::Leave),
            RemoveAction::Cancel => Some(Leave::Stay),
            RemoveAction::Force => Some(Leave::Lost),
        };
        if let Some(how) = how {
            let origin = asked.connection.peer().identity.node.clone();
            let op = ReleaseCs { cs: id, how: how.into(), origin };
            self.change(asked, None, CommandOp::ReleaseCs(op)).await??;
            if how == Leave::Leave {
                self.tell_what_waits(CsId(id));
            }
        }
        Ok(self.read(|state| progress(state, CsId(id)))?)
    }
}

impl Reign {
    /// Says why a removal will not come to its end by itself.
    fn tell_what_waits(self: &Rc<Self>, cs: CsId) {
        let (session, (chunks, files)) =
            self.read(|state| (state.server(cs).map(|server| server.session), state.waiting_on(cs)));
        let Some(session) = session.filter(|_| chunks > 0) else { return };
        let message = format!(
            "{chunks} chunks on it cannot go elsewhere before their files (such as {}) are opened for writing once: the client that \
             wrote to them last did not end in order",
            files.join(", "),
        );
        rt::spawn(Rc::clone(self).warn(cs, session, "cs.removal_waits", message));
    }
}

/// What is left to do.
fn progress(state: &State, cs: CsId) -> Result<RemoveCsReply, Refusal> {
    let server = state.server(cs).ok_or(Refusal::UnknownCs(cs.0))?;
    let waiting = state.deletions().filter(|(_, deletion)| deletion.waiting.contains(&cs)).count() as u64;
    // Sparse replicas tell nobody how many bytes they have: the disk says what all of them take together.
    let used = server.total_bytes.saturating_sub(server.free_bytes);
    let share =
        u128::from(used) * u128::from(server.replicas) / u128::from((server.replicas + waiting).max(1));
    let bytes = share.min(u128::from(state.bytes_on(cs)));
    Ok(RemoveCsReply {
        status: status(server).into(),
        replicas: server.replicas,
        bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
    })
}
