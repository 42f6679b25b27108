//! Orders of the metadata server.

use link::{Request, Response};
use wire::cs::{CreateChunks, DeleteChunks, Fence, ItemResult, ResultsReply};
use wire::{Op, Status};

use super::{Failure, Server};
use crate::engine::{NewChunk, Refusal};

impl Server {
    pub(super) async fn order(&self, op: Op, request: &Request) -> Result<Response, Failure> {
        let results = match op {
            Op::CreateChunks => {
                let order: CreateChunks = wire::decode_body(&request.body)?;
                self.create(order).await
            }
            Op::DeleteChunks => {
                let order: DeleteChunks = wire::decode_body(&request.body)?;
                self.delete(order).await
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
        let mut results = Vec::with_capacity(order.items.len());
        for item in order.items {
            let new = NewChunk {
                chunk: item.chunk_id,
                version: item.version,
                file: item.file_id,
                size: item.size_bytes,
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
            results.push(result(item.chunk_id, self.engine.delete_chunk(item.chunk_id, item.version).await));
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
