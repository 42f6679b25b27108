//! Orders of the metadata server.

use link::{Request, Response};
use std::rc::Rc;

use wire::cs::{
    CatchUp, CompareChunks, CompareChunksReply, CreateChunks, DeleteChunks, Fence, InstallItem,
    InstallVersions, ItemResult, RepairBlocks, ResultsReply, Role,
};
use wire::{Op, Status};

use super::{Failure, Server};
use crate::engine::{Engine, Install, NewChunk, Refusal};

impl Server {
    pub(super) async fn order(&self, op: Op, request: &Request) -> Result<Response, Failure> {
        let results = match op {
            Op::CompareChunks => {
                let order: CompareChunks = wire::decode_body(&request.body)?;
                let results = self.comparer.compare(order).await;
                return Ok(Response::ok(wire::encode_body(&CompareChunksReply { results })?));
            }
            Op::CreateChunks => {
                let order: CreateChunks = wire::decode_body(&request.body)?;
                self.create(order).await
            }
            Op::DeleteChunks => {
                let order: DeleteChunks = wire::decode_body(&request.body)?;
                self.delete(order).await
            }
            Op::InstallVersions => {
                let order: InstallVersions = wire::decode_body(&request.body)?;
                self.install(order).await
            }
            Op::CatchUp => {
                let order: CatchUp = wire::decode_body(&request.body)?;
                self.copier.start(order)
            }
            Op::RepairBlocks => {
                let order: RepairBlocks = wire::decode_body(&request.body)?;
                self.copier.repair(order).await
            }
            Op::Fence => {
                let order: Fence = wire::decode_body(&request.body)?;
                self.fence(order).await
            }
            _ => return Err(Failure::status(Status::Unsupported)),
        };
        Ok(Response::ok(wire::encode_body(&ResultsReply { results })?))
    }

    async fn create(&self, order: CreateChunks) -> Vec<ItemResult> {
        let ids = order.items.iter().map(|item| item.chunk_id);
        let all = ids.clone().min().unwrap_or(0)..ids.max().unwrap_or(0).saturating_add(1);
        let _before_deletions = self.orders.shared(all).await;
        let mut results = Vec::with_capacity(order.items.len());
        for item in order.items {
            let new = NewChunk {
                chunk: item.chunk_id,
                version: item.version,
                file: item.file_id,
                size: item.size_bytes,
                joining: item.joining,
            };
            results.push(result(item.chunk_id, self.create_one(new, item.epoch).await));
        }
        results
    }

    /// A new chunk is born fenced: requests of an epoch before its file's are refused from the start (C2).
    async fn create_one(&self, new: NewChunk, epoch: u64) -> Result<(), Refusal> {
        self.engine.create_fenced(new, epoch).await
    }

    async fn delete(&self, order: DeleteChunks) -> Vec<ItemResult> {
        let mut results = Vec::with_capacity(order.items.len());
        for item in order.items {
            let creations = self.orders.exclusive(item.chunk_id..item.chunk_id.saturating_add(1));
            drop(creations.await);
            results.push(result(item.chunk_id, self.engine.delete_chunk(item.chunk_id, item.version).await));
        }
        results
    }

    async fn install(&self, order: InstallVersions) -> Vec<ItemResult> {
        // Each waits for what is under way in its chunk, and those that are ready share a flush.
        let installs = order.items.into_iter().map(|item| {
            let engine = Rc::clone(&self.engine);
            let id = item.chunk_id;
            (id, rt::spawn(async move { install_one(&engine, &item).await }))
        });
        let installs: Vec<_> = installs.collect();
        let mut results = Vec::with_capacity(installs.len());
        for (id, install) in installs {
            results.push(result(id, install.await.unwrap_or(Err(Refusal::Stopping))));
        }
        results
    }

    async fn fence(&self, order: Fence) -> Vec<ItemResult> {
        let round = self.registration().round();
        let mut results = Vec::with_capacity(order.items.len());
        for item in &order.items {
            results.push(result(item.file_id, self.engine.fence(item.file_id, item.epoch).await));
        }
        let all = results.iter().all(|result| result.status == u32::from(Status::Ok.code()));
        if order.last && all {
            self.registration().fences_complete(round);
        }
        results
    }
}

async fn install_one(engine: &Rc<Engine>, item: &InstallItem) -> Result<(), Refusal> {
    let joiner = match item.role() {
        Role::Member => false,
        Role::Joiner => true,
        Role::Unspecified => return Err(Refusal::Invalid("an order to install names no role")),
    };
    let order = Install { from: item.from_version, to: item.to_version, joiner, keep: item.keep };
    engine.install(item.chunk_id, order).await
}

fn result(id: u64, outcome: Result<(), Refusal>) -> ItemResult {
    let status = match outcome {
        Ok(()) => Status::Ok,
        Err(refusal) => {
            tracing::warn!("order for {id:#x} refused: {refusal}");
            Failure::from(refusal).status
        }
    };
    ItemResult { id, status: u32::from(status.code()) }
}
