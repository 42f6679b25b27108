//! Requests as they arrive: who may ask what, and who answers.

use std::rc::Rc;

use link::{Connection, Request, Response, Service};
use wire::hello::Role;
use wire::{Call, Group, Op, Status};

use super::Server;
use super::asked::Asked;
use super::failure::Failure;

impl Service for Server {
    async fn serve(self: Rc<Self>, connection: Connection, request: Request) -> Response {
        match self.answer(connection, request).await {
            Ok(response) => response,
            Err(failure) => failure.into(),
        }
    }
}

/// Reads a request, has it answered, and writes the reply.
async fn reply<C: Call>(
    request: &Request,
    answer: impl AsyncFnOnce(C) -> Result<C::Reply, Failure>,
) -> Result<Response, Failure> {
    let reply = answer(wire::decode_body(&request.body)?).await?;
    Ok(Response::ok(wire::encode_body(&reply)?))
}

/// Whether a peer of this role may ask operations of this group.
fn may_ask(role: Role, group: Group) -> bool {
    match group {
        Group::ChunkServer => role == Role::Cs,
        Group::Session | Group::Namespace | Group::Inode | Group::Lease | Group::Cluster => {
            matches!(role, Role::Client | Role::Tool)
        }
        // Each member cares for its own certificate; the rest is checked by operation.
        Group::Node => true,
        // Of the connection itself, which has answered them, or not for metadata servers at all.
        Group::Connection | Group::Data | Group::Reconcile | Group::Copy | Group::Command | Group::Guest => {
            false
        }
    }
}

/// Whether an operation keeps somebody alive: such are served however busy the server is.
fn renews(op: Op) -> bool {
    matches!(op, Op::RenewSession | Op::Heartbeat | Op::RegisterCs)
}

fn unsupported(request: &Request) -> Failure {
    Failure::new(Status::Unsupported, format!("metadata servers do not serve operation {:#06x}", request.op))
}

impl Server {
    async fn answer(&self, connection: Connection, request: Request) -> Result<Response, Failure> {
        let op = request.known_op().ok_or_else(|| unsupported(&request))?;
        let role = connection.peer().role;
        match op.group() {
            Group::Connection
            | Group::Data
            | Group::Reconcile
            | Group::Copy
            | Group::Command
            | Group::Guest => {
                return Err(unsupported(&request));
            }
            group if !may_ask(role, group) || (op == Op::RevokeNode && role != Role::Tool) => {
                let text = format!("{op} is not for peers of the role {}", link::identity::role_name(role));
                return Err(Failure::new(Status::Forbidden, text));
            }
            _ => {}
        }
        let _place = if renews(op) { None } else { Some(self.admit()?) };
        let reign = self.reign()?;
        let asked = &Asked::new(connection, &request);
        let request = &request;
        match op {
            Op::OpenSession => reply(request, async |call| reign.open_session(call, asked).await).await,
            Op::RenewSession => reply(request, async |call| reign.renew_session(call, asked).await).await,
            Op::CloseSession => reply(request, async |call| reign.close_session(call, asked).await).await,
            Op::ListClients => reply(request, async |call| reign.list_clients(call, asked).await).await,

            Op::Create => reply(request, async |call| reign.create(call, asked).await).await,
            Op::List => reply(request, async |call| reign.list(call, asked).await).await,
            Op::Stat => reply(request, async |call| reign.stat(call, asked).await).await,
            Op::Remove => reply(request, async |call| reign.remove(call, asked).await).await,
            Op::Rename => reply(request, async |call| reign.rename(call, asked).await).await,
            Op::Resize => reply(request, async |call| reign.resize(call, asked).await).await,
            Op::GetAttr => reply(request, async |call| reign.get_attr(call, asked).await).await,
            Op::SetAttr => reply(request, async |call| reign.set_attr(call, asked).await).await,

            Op::Open => reply(request, async |call| reign.open(call, asked).await).await,
            Op::Release => reply(request, async |call| reign.release(call, asked).await).await,
            Op::GetMap => reply(request, async |call| reign.get_map(call, asked).await).await,
            Op::AllocateChunks => reply(request, async |call| reign.allocate_chunks(call, asked).await).await,
            Op::ReconcileDone => reply(request, async |call| reign.reconcile_done(call, asked).await).await,
            Op::ReportMember => reply(request, async |call| reign.report_member(call, asked).await).await,
            Op::Revoke => reply(request, async |call| reign.revoke(call, asked).await).await,

            Op::RegisterCs => reply(request, async |call| reign.register_cs(call, asked).await).await,
            Op::Heartbeat => reply(request, async |call| reign.heartbeat(call, asked).await).await,
            Op::ReportChunks => reply(request, async |call| reign.report_chunks(call, asked).await).await,

            Op::CaughtUp => reply(request, async |call| reign.caught_up(call, asked).await).await,
            Op::ReportDamage => reply(request, async |call| reign.report_damage(call, asked).await).await,

            Op::GetConfig => reply(request, async |call| reign.get_config(call, asked).await).await,
            Op::SetConfig => reply(request, async |call| reign.set_config(call, asked).await).await,
            Op::ListServices => reply(request, async |call| reign.list_services(call, asked).await).await,
            Op::ClusterStat => reply(request, async |call| reign.cluster_stat(call, asked).await).await,
            Op::GetEvents => reply(request, async |call| reign.get_events(call, asked).await).await,
            Op::RemoveCs => reply(request, async |call| reign.remove_cs(call, asked).await).await,

            Op::Lookup => reply(request, async |call| reign.lookup(call, asked).await).await,
            Op::GetInode => reply(request, async |call| reign.get_inode(call, asked).await).await,
            Op::SetInode => reply(request, async |call| reign.set_inode(call, asked).await).await,
            Op::MakeNode => reply(request, async |call| reign.make_node(call, asked).await).await,
            Op::Link => reply(request, async |call| reign.link(call, asked).await).await,
            Op::Unlink => reply(request, async |call| reign.unlink(call, asked).await).await,
            Op::RenameEntry => reply(request, async |call| reign.rename_entry(call, asked).await).await,
            Op::ReadDir => reply(request, async |call| reign.read_dir(call, asked).await).await,
            Op::ReadLink => reply(request, async |call| reign.read_link(call, asked).await).await,
            Op::GetXattr => reply(request, async |call| reign.get_xattr(call, asked).await).await,
            Op::SetXattr => reply(request, async |call| reign.set_xattr(call, asked).await).await,
            Op::ListXattrs => reply(request, async |call| reign.list_xattrs(call, asked).await).await,
            Op::RemoveXattr => reply(request, async |call| reign.remove_xattr(call, asked).await).await,
            Op::StatFs => reply(request, async |call| reign.stat_fs(call, asked).await).await,

            Op::ListNodes => reply(request, async |call| reign.list_nodes(call, asked).await).await,
            Op::RevokeNode => reply(request, async |call| reign.revoke_node(call, asked).await).await,
            Op::RenewCertificate => {
                reply(request, async |call| reign.renew_certificate(call, asked).await).await
            }

            Op::Login | Op::Enroll | Op::NewPassword | Op::SetPassword => Err(unsupported(request)),
            Op::Hello | Op::Ping | Op::Goodbye | Op::Revocations => Err(unsupported(request)),
            Op::Write | Op::Read | Op::Flush | Op::BlockStatus => Err(unsupported(request)),
            Op::Survey | Op::SurveyBlocks | Op::Settle | Op::ClearMarks => Err(unsupported(request)),
            Op::ChangedRegions | Op::CopyRead | Op::CopyFlush | Op::CopyDigest => Err(unsupported(request)),
            Op::CreateChunks | Op::DeleteChunks | Op::Fence => Err(unsupported(request)),
            Op::InstallVersions | Op::CatchUp | Op::RepairBlocks | Op::CompareChunks => {
                Err(unsupported(request))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_asks_its_own() {
        let table = [
            (Role::Client, Op::Open, true),
            (Role::Client, Op::RegisterCs, false),
            (Role::Tool, Op::SetConfig, true),
            (Role::Tool, Op::Heartbeat, false),
            (Role::Cs, Op::RegisterCs, true),
            (Role::Cs, Op::Create, false),
            (Role::Cs, Op::SetConfig, false),
            (Role::Mds, Op::Open, false),
            (Role::Client, Op::Write, false),
            (Role::Cs, Op::Fence, false),
        ];
        for (role, op, may) in table {
            assert_eq!(may_ask(role, op.group()), may, "{role:?} {op}");
        }
    }
}
