//! A chunk server that follows the rules of chunk servers: it serves for half its term, and records what it is told.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use link::{AskError, Connection, Credentials, Expect, Request, Response, Service};
use rt::net::Address;
use wire::cs::{
    CatchUp, CreateChunks, DeleteChunks, Fence, Heartbeat, InstallVersions, ItemResult, RegisterCs,
    RegisterCsReply, ResultsReply,
};
use wire::hello::Role;
use wire::{Op, Status};

use super::truth::{CsDisk, Directory, Truth};
use super::{endpoint, nap};

/// The orders a chunk server carries out.
struct CsService {
    truth: Rc<Truth>,
    number: usize,
}

impl Service for CsService {
    async fn serve(self: Rc<Self>, _: Connection, request: Request) -> Response {
        nap(5).await;
        let mut disk = self.truth.servers[self.number].borrow_mut();
        let ok = |id| ItemResult { id, status: Status::Ok.code().into() };
        let fence = |disk: &mut CsDisk, file, epoch| {
            let recorded = disk.dir.fences.entry(file).or_insert(epoch);
            *recorded = epoch.max(*recorded);
        };
        let results = match request.known_op() {
            Some(Op::CreateChunks) => {
                let order: CreateChunks = wire::decode_body(&request.body).expect("an order");
                let one = |item: wire::cs::CreateItem| {
                    fence(&mut disk, item.file_id, item.epoch);
                    disk.dir.chunks.insert(item.chunk_id, item.file_id);
                    ok(item.chunk_id)
                };
                order.items.into_iter().map(one).collect()
            }
            Some(Op::DeleteChunks) => {
                let order: DeleteChunks = wire::decode_body(&request.body).expect("an order");
                let one = |item: wire::cs::DeleteItem| {
                    disk.dir.chunks.remove(&item.chunk_id);
                    ok(item.chunk_id)
                };
                order.items.into_iter().map(one).collect()
            }
            Some(Op::Fence) => {
                let order: Fence = wire::decode_body(&request.body).expect("an order");
                let last = order.last;
                let one = |item: wire::cs::FenceItem| {
                    fence(&mut disk, item.file_id, item.epoch);
                    ok(item.file_id)
                };
                let results = order.items.into_iter().map(one).collect();
                disk.fences_pending &= !last;
                results
            }
            // Versions are not looked at here: what it has, it has in the present one. It never comes to an end of copying.
            Some(Op::InstallVersions) => {
                let order: InstallVersions = wire::decode_body(&request.body).expect("an order");
                let one = |item: wire::cs::InstallItem| match disk.dir.chunks.contains_key(&item.chunk_id) {
                    true => ok(item.chunk_id),
                    false => ItemResult { id: item.chunk_id, status: Status::UnknownChunk.code().into() },
                };
                order.items.into_iter().map(one).collect()
            }
            Some(Op::CatchUp) => {
                let order: CatchUp = wire::decode_body(&request.body).expect("an order");
                order.items.into_iter().map(|item| ok(item.chunk_id)).collect()
            }
            other => panic!("not an order: {other:?}"),
        };
        Response::ok(wire::encode_body(&ResultsReply { results }).expect("short"))
    }
}

/// The operator removes a directory that is stale, and makes a new one.
fn begin_anew(truth: &Truth, number: usize) {
    let server = &mut *truth.servers[number].borrow_mut();
    truth.lost.borrow_mut().insert(server.dir.id);
    truth.stale.set(truth.stale.get() + 1);
    server.dir = Directory { uuid: server.dir.uuid + 1, ..Directory::default() };
    (server.before, server.copy) = (None, None);
    (server.fences_pending, server.serve_until) = (true, None);
}

/// A chunk server: registers, renews, registers again.
pub(super) async fn run_cs(truth: Rc<Truth>, number: usize, credentials: Credentials, mds: Address) {
    let endpoint = endpoint(credentials, Role::Cs);
    let disk = &truth.servers[number];
    {
        let mut disk = disk.borrow_mut();
        (disk.alive, disk.fences_pending, disk.serve_until) = (true, true, None);
    }
    let service = Rc::new(CsService { truth: Rc::clone(&truth), number });
    let mut started = true;
    loop {
        nap(300).await;
        let connected = endpoint.connect_serving(&mds, Expect::role(Role::Mds), Rc::clone(&service)).await;
        let Ok(connection) = connected else { continue };
        let fresh = started && disk.borrow().dir.nonce == disk.borrow().dir.offered;
        started = false;
        if fresh {
            let mut nonce = [0; 16];
            rt::random::fill_secret(&mut nonce);
            nap(3).await;
            let disk = &mut *disk.borrow_mut();
            disk.before = Some(disk.dir.clone()).filter(|dir| dir.id != 0);
            disk.dir.offered = nonce;
        }
        let request = {
            let mut disk = disk.borrow_mut();
            if disk.serve_until.is_none_or(|until| rt::time::now() >= until) {
                (disk.fences_pending, disk.serve_until) = (true, None);
            }
            RegisterCs {
                cs_id: disk.dir.id,
                cs_uuid: [vec![number as u8 + 1; 15], vec![disk.dir.uuid]].concat(),
                nonce: disk.dir.nonce.to_vec(),
                new_nonce: disk.dir.offered.to_vec(),
                host_id: format!("host{number}"),
                boot_id: rt::node::boot_id().expect("simulated").to_vec(),
                addresses: vec![format!("10.0.9.{number}:1")],
                total_bytes: 1 << 40,
                free_bytes: 1 << 39,
                ..RegisterCs::default()
            }
        };
        let offered = request.new_nonce.clone();
        let sent = rt::time::now();
        let reply = match connection.ask(&request, sent + Duration::from_secs(3)).await {
            Ok(reply) => reply,
            Err(AskError::Status { status, error }) => {
                assert!(
                    matches!(status, Status::Retry | Status::Stopping | Status::NotMaster | Status::Timeout),
                    "C10: registration refused: {status}: {}",
                    error.message
                );
                continue;
            }
            Err(_) => continue,
        };
        let rolled_back = disk.borrow().dir.rolled_back;
        assert_eq!(reply.stale, rolled_back, "C10: chunk server {number}: stale or not, rolled back or not");
        if reply.stale {
            begin_anew(&truth, number);
            started = true;
            continue;
        }
        // The answer reaches the disk a little later; a kill in between loses it.
        nap(5).await;
        let term = Duration::from_millis(reply.term_ms.into());
        {
            let mut disk = disk.borrow_mut();
            disk.copy = disk.before.take().or(disk.copy.take());
            disk.dir.id = reply.cs_id;
            disk.dir.nonce.copy_from_slice(&offered);
            for item in &reply.fences {
                let recorded = disk.dir.fences.entry(item.file_id).or_insert(item.epoch);
                *recorded = item.epoch.max(*recorded);
            }
            disk.fences_pending &= reply.more_fences;
            disk.serve_until = Some(sent + term / 2);
        }
        renew(disk, &connection, &reply, term).await;
    }
}

/// Renews a registration for as long as that succeeds in time.
async fn renew(disk: &RefCell<CsDisk>, connection: &Connection, reply: &RegisterCsReply, mut term: Duration) {
    loop {
        if rt::time::timeout(term / 6, connection.closed()).await.is_ok() {
            return;
        }
        let sent = rt::time::now();
        let heartbeat = Heartbeat {
            cs_id: reply.cs_id,
            session: reply.session,
            total_bytes: 1 << 40,
            free_bytes: 1 << 39,
            ..Heartbeat::default()
        };
        if disk.borrow().serve_until.is_none_or(|until| sent >= until) {
            return;
        }
        let Ok(renewed) = connection.ask(&heartbeat, sent + term / 3).await else { return };
        term = Duration::from_millis(renewed.term_ms.into());
        disk.borrow_mut().serve_until = Some(sent + term / 2);
    }
}
