//! Requests of clients.

use std::time::Duration;

use link::{Request, Response};
use wire::copy::{
    ChangedRegions, ChangedRegionsReply, CopyDigest, CopyDigestReply, CopyFlush, CopyFlushReply, DIGESTS_MAX,
    ListedWrite,
};
use wire::data::{
    BlockState, BlockStatus, BlockStatusReply, BlockSurvey, ClearMarks, EntryKind, Flush, FlushReply, Read,
    ReadReply, Run, RunKind, Settle, Survey, SurveyBlocks, SurveyBlocksReply, SurveyEntry, SurveyReply,
    Write, WriteKind, WriteReply,
};
use wire::limits::MAX_SURVEY_ENTRIES;
use wire::{Op, Status};

use super::courtesy::Side;
use super::{Failure, Server};
use crate::engine::{self, ACTIVE_BLOCKS, DigestRequest, REGION_BLOCKS, Surveyed, WriteRequest};
use crate::format::BLOCK;

/// How long the read of a joiner elsewhere waits for its turn beside clients.
const TURN_PATIENCE: Duration = Duration::from_secs(1);

/// The one block that is to be read as it lies there.
fn single_block(read: &Read) -> Result<u32, Failure> {
    const BLOCK: u32 = crate::format::BLOCK as u32;
    if read.len != BLOCK || !read.offset.is_multiple_of(BLOCK) {
        return Err(Failure::status(Status::Invalid));
    }
    Ok(read.offset / BLOCK)
}

fn block_reply(read: &Read, data: rt::buf::Buf) -> Response {
    let crcs = [crate::format::crc32c(&data)];
    let mut body = Vec::new();
    ReadReply { offset: read.offset, len: read.len, zeroes: false }.encode(&crcs, &mut body);
    Response::ok(body).with_payload(data.freeze())
}

/// What was read, as the answer to a read.
fn read_reply(read: &Read, found: engine::ReadReply) -> Response {
    let mut body = Vec::new();
    ReadReply { offset: read.offset, len: read.len, zeroes: found.payload.is_none() }
        .encode(&found.crcs, &mut body);
    let response = Response::ok(body);
    match found.payload {
        Some(payload) => response.with_payload(payload),
        None => response,
    }
}

impl Server {
    pub(super) async fn data(&self, op: Op, request: Request) -> Result<Response, Failure> {
        match op {
            Op::Write => self.write(request).await,
            Op::Read => self.read(&request).await,
            Op::Flush => self.flush(&request).await,
            // What is seldom is boxed, here and below: every request takes room for the largest of these.
            Op::Settle => Box::pin(self.settle(request)).await,
            Op::BlockStatus => Box::pin(self.block_status(&request)).await,
            Op::Survey => self.survey(&request),
            Op::SurveyBlocks => Box::pin(self.survey_blocks(&request)).await,
            Op::ClearMarks => Box::pin(self.clear_marks(&request)).await,
            Op::CopyRead => Box::pin(self.copy_read(&request)).await,
            Op::ChangedRegions => self.changed_regions(&request),
            Op::CopyFlush => Box::pin(self.copy_flush(&request)).await,
            Op::CopyDigest => Box::pin(self.copy_digest(&request)).await,
            _ => Err(Failure::status(Status::Unsupported)),
        }
    }

    async fn write(&self, request: Request) -> Result<Response, Failure> {
        let (write, crcs) = Write::decode(&request.body, request.payload.len() as u32)?;
        let crcs = crcs.iter().collect();
        self.carry_out(write, crcs, request.payload, None).await
    }

    async fn settle(&self, request: Request) -> Result<Response, Failure> {
        let (settle, crcs) = Settle::decode(&request.body, request.payload.len() as u32)?;
        let crcs = crcs.iter().collect();
        self.carry_out(settle.write, crcs, request.payload, Some((settle.win_epoch, settle.win_seq))).await
    }

    async fn carry_out(
        &self,
        write: Write,
        crcs: Vec<u32>,
        payload: rt::buf::View,
        settles: Option<(u64, u64)>,
    ) -> Result<Response, Failure> {
        let kind = match write.kind {
            WriteKind::Data => engine::WriteKind::Data { payload, crcs },
            WriteKind::Zeroes | WriteKind::Discard => engine::WriteKind::Zero,
        };
        let target = write.target;
        let reply = self
            .engine
            .write(WriteRequest {
                file: target.file,
                epoch: target.epoch,
                chunk: target.chunk,
                version: target.version,
                seq: write.seq,
                done: write.done,
                stable: write.stable,
                offset: write.offset,
                len: write.len,
                kind,
                settles,
            })
            .await?;
        if write.fua {
            self.engine.flush().await?;
        }
        let mut body = Vec::new();
        WriteReply { flush_soon: reply.flush_soon, durable_hint: 0 }.encode(&mut body);
        Ok(Response::ok(body))
    }

    async fn read(&self, request: &Request) -> Result<Response, Failure> {
        let read = Read::decode(&request.body)?;
        let target = read.target;
        if read.unsettled {
            return Box::pin(self.read_unsettled(&read)).await;
        }
        let found = self
            .engine
            .read(target.file, target.epoch, target.chunk, target.version, read.offset, read.len)
            .await?;
        Ok(read_reply(&read, found))
    }

    /// A read of a joiner's server: under the same version, whatever the writer's epoch (C7).
    async fn copy_read(&self, request: &Request) -> Result<Response, Failure> {
        let read = Read::decode(&request.body)?;
        let target = read.target;
        if read.unsettled {
            let block = single_block(&read)?;
            let (file, chunk, version) = (target.file, target.chunk, target.version);
            return match self.engine.accept_for_joiner(file, chunk, version, block).await {
                Ok(data) => {
                    self.copier.note_given(data.len());
                    Ok(block_reply(&read, data))
                }
                // The joiner may have what is lost here: it is told what that was.
                Err(refusal @ crate::engine::Refusal::Corrupt { .. }) => {
                    let recorded = self.engine.recorded_for_joiner(file, chunk, version, block).await?;
                    let detail = recorded.map_or(0, |plain| wire::copy::RECORDED | u64::from(plain));
                    Err(Failure { detail, ..Failure::from(refusal) })
                }
                Err(refusal) => Err(refusal.into()),
            };
        }
        // A joiner elsewhere does not wait for ever; and what it needs for a client's write is a region, which has no turn to wait for.
        let turn = match read.len > REGION_BLOCKS * BLOCK as u32 {
            true => rt::time::timeout(TURN_PATIENCE, self.courtesy.turn(Side::Giving)).await.ok(),
            false => None,
        };
        let found = self
            .engine
            .read_for_joiner(target.file, target.chunk, target.version, read.offset, read.len)
            .await?;
        drop(turn);
        self.copier.note_given(found.payload.as_ref().map_or(0, |payload| payload.len()));
        Ok(read_reply(&read, found))
    }

    fn changed_regions(&self, request: &Request) -> Result<Response, Failure> {
        let asked: ChangedRegions = wire::decode_body(&request.body)?;
        let (chunk, version) = (asked.chunk_id, asked.version);
        let known = self.engine.changed_regions(asked.file_id, chunk, version, asked.held)?;
        let listed = known.listed.iter().map(|write| ListedWrite {
            epoch: write.epoch,
            seq: write.seq,
            first_block: write.first,
            blocks: write.count,
        });
        let reply = ChangedRegionsReply {
            complete: known.complete,
            since: known.since,
            changed: if known.since == 0 { Vec::new() } else { known.changed.to_bytes(known.blocks) },
            listed: listed.collect(),
            boot_id: self.boot_id.to_vec(),
        };
        Ok(Response::ok(wire::encode_body(&reply)?))
    }

    async fn copy_flush(&self, request: &Request) -> Result<Response, Failure> {
        let asked: CopyFlush = wire::decode_body(&request.body)?;
        self.engine.flush_for_joiner(asked.chunk_id, asked.version).await?;
        Ok(Response::ok(wire::encode_body(&CopyFlushReply { boot_id: self.boot_id.to_vec() })?))
    }

    /// What is on record here, for a member that compares itself.
    async fn copy_digest(&self, request: &Request) -> Result<Response, Failure> {
        let CopyDigest { file_id, chunk_id, version, first_block, blocks, unit_blocks, examine } =
            wire::decode_body(&request.body)?;
        let end = first_block.saturating_add(blocks);
        if unit_blocks == 0 || blocks.div_ceil(unit_blocks) > DIGESTS_MAX {
            return Err(Failure::status(Status::Invalid));
        }
        let (file, chunk, blocks) = (file_id, chunk_id, first_block..end);
        let digested = DigestRequest { file, chunk, version, blocks, unit: unit_blocks, examine };
        let mut reply = CopyDigestReply::default();
        match self.engine.digests(&digested).await? {
            None => reply.none_kept = true,
            Some(digests) => {
                let left_out = (0..).zip(&digests).filter(|(_, digest)| digest.is_none());
                reply.left_out = left_out.map(|(unit, _)| unit).collect();
                reply.digests = digests.iter().map(|digest| digest.map_or(0, |digest| digest.sum)).collect();
            }
        }
        Ok(Response::ok(wire::encode_body(&reply)?))
    }

    /// A block as it lies on the disk, for a reconciler that has nothing better (C5).
    async fn read_unsettled(&self, read: &Read) -> Result<Response, Failure> {
        let target = read.target;
        let block = single_block(read)?;
        let data =
            self.engine.accept_block(target.file, target.epoch, target.chunk, target.version, block).await?;
        Ok(block_reply(read, data))
    }

    async fn flush(&self, request: &Request) -> Result<Response, Failure> {
        let (flush, installed) = Flush::decode(&request.body)?;
        self.engine.has_installed(flush.file, installed.iter().map(|one| (one.chunk, one.version)))?;
        self.engine
            .flush_file(flush.file, flush.epoch, flush.done, flush.stable, flush.settled_before)
            .await?;
        let mut body = Vec::new();
        FlushReply { boot_id: self.boot_id }.encode(&mut body);
        Ok(Response::ok(body))
    }

    async fn block_status(&self, request: &Request) -> Result<Response, Failure> {
        let status = BlockStatus::decode(&request.body)?;
        let target = status.target;
        let holes = self
            .engine
            .holes(target.file, target.epoch, target.chunk, target.version, status.offset, status.len)
            .await?;
        let mut runs: Vec<Run> = Vec::new();
        for hole in holes {
            let kind = if hole { RunKind::Hole } else { RunKind::Data };
            match runs.last_mut() {
                Some(last) if last.kind == kind => last.blocks += 1,
                _ => runs.push(Run { blocks: 1, kind }),
            }
        }
        runs.truncate(wire::limits::MAX_RUNS as usize);
        let mut body = Vec::new();
        BlockStatusReply { offset: status.offset, runs }.encode(&mut body);
        Ok(Response::ok(body))
    }

    fn survey(&self, request: &Request) -> Result<Response, Failure> {
        let survey = Survey::decode(&request.body)?;
        let target = survey.target;
        let doubts = self.engine.doubts(target.file, target.epoch, target.chunk, target.version)?;
        let page = doubts.iter().skip(survey.skip as usize).take(MAX_SURVEY_ENTRIES as usize);
        let entries = page.map(|doubt| SurveyEntry {
            first_block: doubt.first,
            blocks: doubt.count,
            kind: if doubt.epoch == 0 { EntryKind::Mark } else { EntryKind::Write },
            epoch: doubt.epoch,
            seq: doubt.seq,
        });
        let reply = SurveyReply {
            total: doubts.len() as u32,
            mark_blocks: ACTIVE_BLOCKS,
            entries: entries.collect(),
        };
        let mut body = Vec::new();
        reply.encode(&mut body);
        Ok(Response::ok(body))
    }

    async fn survey_blocks(&self, request: &Request) -> Result<Response, Failure> {
        let survey = SurveyBlocks::decode(&request.body)?;
        let target = survey.target;
        let found = self
            .engine
            .survey(target.file, target.epoch, target.chunk, target.version, survey.first_block, survey.count)
            .await?;
        let blocks = found.into_iter().map(|block| match block.content {
            Surveyed::Data(crc) => {
                BlockSurvey { epoch: block.epoch, seq: block.seq, crc, state: BlockState::Match }
            }
            Surveyed::Hole => {
                BlockSurvey { epoch: block.epoch, seq: block.seq, crc: 0, state: BlockState::Zero }
            }
            Surveyed::Unknown => {
                BlockSurvey { epoch: block.epoch, seq: block.seq, crc: 0, state: BlockState::Unmatched }
            }
        });
        let reply = SurveyBlocksReply { first_block: survey.first_block, blocks: blocks.collect() };
        let mut body = Vec::new();
        reply.encode(&mut body);
        Ok(Response::ok(body))
    }

    async fn clear_marks(&self, request: &Request) -> Result<Response, Failure> {
        let clear = ClearMarks::decode(&request.body)?;
        let target = clear.target;
        self.engine.clear_doubts(target.file, target.epoch, target.chunk, target.version).await?;
        Ok(Response::ok(Vec::new()))
    }
}
