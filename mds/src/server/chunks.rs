//! Chunks of files: maps, allocation, the end of reconciling, reports about replicas.

use std::time::Duration;

use wire::hello::Empty;
use wire::lease::{AllocateChunks, GetMap, MapReply, ReconcileDone, ReportMember};
use wire::{Action, Status};

use super::asked::{Asked, Holder};
use super::failure::Failure;
use super::reign::Reign;
use super::shown;
use crate::state::command::{
    self, CommandOp, CsReport, DropMember, LeaseMode, LeaseProof, ReconciledChunk, ReportedEvent,
    ReportedSeverity,
};
use crate::state::query::ChunkView;
use crate::state::refusal::{NotHolder, TooMany, WrongEpoch};
use crate::state::{ChunkId, CsId, FileId, INDICES_MAX, Refusal, State};

/// How long a request waits that finds no place for a chunk: its sender would ask again at once.
const NO_PLACE_PAUSE: Duration = Duration::from_secs(1);

impl Reign {
    pub(super) async fn get_map(&self, call: GetMap, asked: &Asked) -> Result<MapReply, Failure> {
        self.confirm(asked).await?;
        let file = FileId::from_raw(call.file_id);
        Ok(self.read(|state| {
            check_epoch(state, file, call.epoch)?;
            shown::map(state, file, call.first_index, call.count.into())
        })?)
    }

    /// Gives chunks to positions that have none, and waits until all chunk servers chosen hold them (C9).
    pub(super) async fn allocate_chunks(
        &self,
        call: AllocateChunks,
        asked: &Asked,
    ) -> Result<MapReply, Failure> {
        let (holder, file) = (Holder::of(&call.session)?, FileId::from_raw(call.file_id));
        if call.indices.len() > INDICES_MAX {
            let many = TooMany { given: call.indices.len() as u64, limit: INDICES_MAX as u64 };
            return Err(Refusal::TooMany(many).into());
        }
        let beyond = || Failure::new(Status::Invalid, "a position lies beyond the end of every file");
        let indices: Vec<u32> = call
            .indices
            .iter()
            .map(|index| u32::try_from(*index))
            .collect::<Result<_, _>>()
            .map_err(|_| beyond())?;
        self.confirm(asked).await?;
        self.read(|state| check_lease(state, &holder, file, call.epoch, Some(LeaseMode::Exclusive)))?;
        let listener = self.waiting.listen(file);
        let mut woken = listener.woken();
        let is_done = |state: &State| {
            let grown = state.tree().file(file)?.size() >= call.grow_to;
            Ok::<_, Refusal>(grown && shown::usable(state, file, &indices)?.is_some())
        };
        if !self.read(is_done)? {
            let op = CommandOp::AllocateChunks(command::AllocateChunks {
                lease: Some(proof(&holder, call.epoch)),
                file: call.file_id,
                indices: indices.clone(),
                seed: rt::random::u64(),
                grow_to: call.grow_to,
            });
            match self.change(asked, None, op).await? {
                Ok(_) => {}
                Err(refusal @ Refusal::NoPlace(_)) => {
                    rt::time::sleep_until((rt::time::now() + NO_PLACE_PAUSE).min(asked.answer_by())).await;
                    return Err(refusal.into());
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
        loop {
            if self.is_over() {
                return Err(Self::not_master());
            }
            // While chunk servers worked, the lease may have ended: a map would let this writer go on beside the next (C1, C5).
            let map = self.read(|state| {
                check_lease(state, &holder, file, call.epoch, Some(LeaseMode::Exclusive))?;
                shown::usable(state, file, &indices)
            })?;
            if let Some(map) = map {
                return Ok(map);
            }
            if rt::time::timeout_at(asked.answer_by(), woken).await.is_err() {
                return Err(Failure::busy("chunk servers have not created the chunks yet"));
            }
            woken = listener.woken();
        }
    }

    /// A chunk's members are equal and flushed (C5).
    pub(super) async fn reconcile_done(&self, call: ReconcileDone, asked: &Asked) -> Result<Empty, Failure> {
        let (holder, file) = (Holder::of(&call.session)?, FileId::from_raw(call.file_id));
        self.confirm(asked).await?;
        let chunk = self.read(|state| {
            check_lease(state, &holder, file, call.epoch, None)?;
            state.find_chunk(file, ChunkId::from_raw(call.chunk_id))
        })?;
        let chunk = same_version(chunk, call.chunk_id, call.version)?;
        if !chunk.unreconciled {
            return Ok(Empty {});
        }
        let op = CommandOp::ReconcileDone(command::ReconcileDone {
            lease: Some(proof(&holder, call.epoch)),
            file: call.file_id,
            chunks: vec![ReconciledChunk { index: chunk.index, chunk: call.chunk_id, version: call.version }],
            writes_lost: call.writes_lost,
        });
        self.change(asked, None, op).await??;
        // Another version may have come first in the log: then nothing is settled.
        let chunk = self.read(|state| state.find_chunk(file, ChunkId::from_raw(call.chunk_id)))?;
        match chunk {
            Some(chunk) if chunk.unreconciled => Err(other_version(&chunk, call.version)),
            _ => Ok(Empty {}),
        }
    }

    /// A replica failed a request: it is left out if enough others remain (C3). The answer is the map as it is then. What an
    /// operator should know becomes an event.
    pub(super) async fn report_member(&self, call: ReportMember, asked: &Asked) -> Result<MapReply, Failure> {
        let (holder, file) = (Holder::of(&call.session)?, FileId::from_raw(call.file_id));
        self.confirm(asked).await?;
        let chunk = self.read(|state| {
            check_lease(state, &holder, file, call.epoch, None)?;
            state.find_chunk(file, ChunkId::from_raw(call.chunk_id))
        })?;
        let chunk = chunk.ok_or_else(|| no_chunk(call.chunk_id))?;
        let cs = u32::try_from(call.cs_id).ok().map(CsId);
        let member = cs.filter(|cs| chunk.members.iter().any(|member| member.cs == *cs));
        if let Some(cs) = member.filter(|_| chunk.version.raw() == call.version) {
            self.note_report(cs, &call, asked).await;
            self.leave_out(cs, &call, proof(&holder, call.epoch), asked).await?;
        }
        Ok(self.read(|state| shown::map(state, file, chunk.index.into(), 1))?)
    }

    /// Commits versions without a replica that failed, where that may be.
    async fn leave_out(
        &self,
        cs: CsId,
        call: &ReportMember,
        lease: LeaseProof,
        asked: &Asked,
    ) -> Result<(), Failure> {
        let status = Status::from_code(u16::try_from(call.status).unwrap_or(u16::MAX));
        // A block that is damaged is mended from another member (C8): the replica keeps everything else.
        if status.action() == Action::ReadElsewhere {
            return Ok(());
        }
        let op = DropMember {
            lease: Some(lease),
            file: call.file_id,
            cs: cs.0,
            chunk: call.chunk_id,
            version: call.version,
            // Whether it is there at all shows when it is to join again.
            lost: false,
            why: status.text().to_owned(),
        };
        if !self.read(|state| state.may_drop(&op)) {
            return Ok(());
        }
        // Before the command: it may be let back in as soon as it is out.
        self.returns.failed(FileId::from_raw(call.file_id), cs, rt::time::now());
        self.change(asked, None, CommandOp::DropMember(op)).await??;
        Ok(())
    }

    async fn note_report(&self, cs: CsId, call: &ReportMember, asked: &Asked) {
        let status = Status::from_code(u16::try_from(call.status).unwrap_or(u16::MAX));
        let grave = matches!(status.action(), Action::ReadElsewhere | Action::ReportMember);
        let about = (cs, call.chunk_id, status.code());
        tracing::warn!("{cs} failed a request for chunk {:#x}: {status}", call.chunk_id);
        if !grave || !self.servers.borrow_mut().is_news(about) {
            return;
        }
        let found = self.read(|state| {
            let server = state.server(cs)?;
            Some(CommandOp::CsReport(CsReport {
                cs: cs.0,
                session: server.session,
                events_only: true,
                events: vec![ReportedEvent {
                    severity: ReportedSeverity::Warning.into(),
                    code: "cs.replica_failed".into(),
                    message: format!("a client could not use chunk {:#x}: {}", call.chunk_id, status.text()),
                }],
                ..CsReport::default()
            }))
        });
        if let Some(op) = found {
            // An event that is lost is in the log of this server.
            let _refused = self.change(asked, None, op).await;
        }
    }
}

fn proof(holder: &Holder, epoch: u64) -> LeaseProof {
    LeaseProof { client: holder.client, token: holder.token, epoch }
}

fn no_chunk(chunk: u64) -> Failure {
    Failure::new(Status::StaleVersion, format!("the file has no chunk {chunk:#x} any more: ask for its map"))
}

fn same_version(chunk: Option<ChunkView>, id: u64, version: u64) -> Result<ChunkView, Failure> {
    let chunk = chunk.ok_or_else(|| no_chunk(id))?;
    if chunk.version.raw() == version {
        return Ok(chunk);
    }
    Err(other_version(&chunk, version))
}

fn other_version(chunk: &ChunkView, version: u64) -> Failure {
    let id = chunk.chunk.raw();
    let text = format!(
        "chunk {id:#x} has another version than {version:#x}, or is to be settled again: ask for its map"
    );
    Failure::new(Status::StaleVersion, text).detail(chunk.version.raw())
}

/// Checks that somebody holds the file's lease at this epoch.
fn check_epoch(state: &State, file: FileId, epoch: u64) -> Result<(), Refusal> {
    let lease = state.tree().file(file)?.lease();
    if lease.epoch().raw() == epoch && lease.phase().is_held() {
        return Ok(());
    }
    Err(Refusal::WrongEpoch(WrongEpoch { file: file.raw(), given: epoch, current: lease.epoch().raw() }))
}

/// Checks that the sender holds the file's lease at this epoch, in this mode if one is named.
fn check_lease(
    state: &State,
    holder: &Holder,
    file: FileId,
    epoch: u64,
    mode: Option<LeaseMode>,
) -> Result<(), Refusal> {
    let client = state.authenticate(holder.client, holder.token)?;
    let held = state.tree().file(file)?.lease().mode_of(client);
    if held.is_none() || (mode.is_some() && held != mode) {
        return Err(Refusal::NotHolder(NotHolder { file: file.raw(), client: client.0 }));
    }
    check_epoch(state, file, epoch)
}
