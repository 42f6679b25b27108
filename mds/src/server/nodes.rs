//! Nodes: who was admitted, who is a member no longer, new certificates, and the cluster's own time.

use std::rc::Rc;
use std::time::Duration;

use link::identity::Identity;
use link::revocation::{LIFETIME_H, SignedList};
use link::{ClusterAuthority, Endpoint};
use wire::Status;
use wire::auth::{ListNodes, ListNodesReply, NodeInfo, RenewCertificate, RenewCertificateReply, RevokeNode};
use wire::hello::Empty;
use wire::limits::MAX_LISTED;

use super::asked::Asked;
use super::failure::Failure;
use super::metadata::Metadata;
use super::reign::Reign;
use crate::state::command::{self, CommandOp, NoteHour};

/// An hour of the cluster's own time.
const HOUR: Duration = Duration::from_secs(3600);

impl Reign {
    /// The authority, if this server holds it.
    pub(super) fn authority(&self) -> Result<Rc<ClusterAuthority>, Failure> {
        let text = "this metadata server does not hold the authority of the cluster (ca.key): restore it from a backup";
        self.options.authority.clone().ok_or_else(|| Failure::new(Status::Forbidden, text))
    }

    pub(super) async fn list_nodes(&self, call: ListNodes, asked: &Asked) -> Result<ListNodesReply, Failure> {
        self.confirm(asked).await?;
        let most = MAX_LISTED as usize;
        let mut nodes: Vec<NodeInfo> = self.read(|state| {
            let nodes = state.nodes().after(call.after).take(most + 1);
            let info = |node: &crate::state::nodes::Node| NodeInfo {
                number: node.number,
                name: node.name.clone(),
                host_id: node.host_id.clone(),
                address: node.address.clone(),
                admitted_ms: node.admitted_ms,
                revoked_ms: node.revoked_ms.unwrap_or(0),
            };
            nodes.map(info).collect()
        });
        let more = nodes.len() > most;
        nodes.truncate(most);
        Ok(ListNodesReply { nodes, more })
    }

    pub(super) async fn revoke_node(&self, call: RevokeNode, asked: &Asked) -> Result<Empty, Failure> {
        if call.number != 0 && call.number == self.served.node {
            let text =
                format!("node {} runs this metadata server: without it there is no cluster", call.number);
            return Err(Failure::new(Status::Forbidden, text));
        }
        let origin = asked.connection.peer().identity.node.clone();
        let op = CommandOp::RevokeNode(command::RevokeNode { number: call.number, origin });
        self.change(asked, asked.key(None), op).await??;
        Ok(Empty {})
    }

    /// A member gets a certificate that lasts longer. Nothing is noted of it: it is the same node.
    pub(super) async fn renew_certificate(
        &self,
        call: RenewCertificate,
        asked: &Asked,
    ) -> Result<RenewCertificateReply, Failure> {
        self.confirm(asked).await?;
        let authority = self.authority()?;
        let peer = &asked.connection.peer().identity;
        let hours = self.read(|state| {
            let nodes = state.nodes();
            let member = nodes.get(peer.number).is_some_and(|node| node.revoked_ms.is_none());
            member.then(|| nodes.hours())
        });
        let text =
            "this node is not in the cluster's list of nodes: authenticate it again (vstorage auth-node)";
        let hours = hours.ok_or_else(|| Failure::new(Status::Forbidden, text))?;
        let claim = call.key.ok_or(wire::BodyError::Missing { field: "key" })?;
        let identity = Identity { until_h: hours + LIFETIME_H, ..peer.clone() };
        let certificate = authority.admit(&identity, &claim);
        let certificate = certificate.map_err(|error| Failure::new(Status::Invalid, error.to_string()))?;
        Ok(RenewCertificateReply { certificate })
    }

    /// The cluster grows older while it has a master. Counted on the clock that runs during suspend, and only in whole hours of
    /// one reign: an hour that is interrupted does not count, which only makes certificates last longer.
    pub(super) async fn count_hours(self: Rc<Self>) {
        loop {
            rt::time::sleep(self.options.hour.unwrap_or(HOUR)).await;
            let hours = self.read(|state| state.nodes().hours()).saturating_add(1);
            if self.insist(CommandOp::NoteHour(NoteHour { hours })).await.is_none() {
                return;
            }
        }
    }
}

/// Publishes the list of revoked nodes, now and after each change, for as long as the server runs.
pub(super) async fn publish(endpoint: Endpoint, metadata: Metadata, authority: Option<Rc<ClusterAuthority>>) {
    let Some(authority) = authority else { return };
    let mut published = 0;
    loop {
        let applied = metadata.applied();
        let (version, hours) = metadata.read(|state| (state.nodes().version(), state.nodes().hours()));
        if version > published {
            let revoked = metadata.read(|state| state.nodes().revoked().collect());
            match SignedList::sign(&authority, version, hours, revoked) {
                Ok(list) => endpoint.publish(list),
                Err(error) => tracing::error!("the list of revoked nodes cannot be signed: {error}"),
            }
            published = version;
        }
        applied.await;
    }
}
