//! Settling a chunk after an unclean end of a lease (C5): for every block in doubt on any member the newest write whose
//! checksum matches is chosen, copied to the others, flushed everywhere, and only then is the chunk used.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::rc::Rc;

use rt::buf::{Buf, View};
use rt::time::Instant;
use wire::data::{
    BlockState, BlockSurvey, ClearMarks, Read, ReadReply, Settle, Survey, SurveyBlocks, SurveyBlocksReply,
    SurveyReply, Target, Write, WriteKind,
};
use wire::lease::ReconcileDone;
use wire::{Op, Status};

use super::call::{Message, Refused, all, unless_replaced};
use super::lease::{Chunk, Issued, Lease};
use super::map::Need;
use super::reports::{Remedy, remedy};
use super::{ASK, BLOCK, BUSY_PAUSE, Halt, Inner, Stop};
use crate::error::VolumeError;
use crate::servers::Server;

/// Chunks settled side by side in the background.
const SETTLED_AT_ONCE: usize = 4;
/// Blocks surveyed by one request.
const SURVEY_BLOCKS: u32 = 256;

/// Which content a block gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Every member has the same.
    Agreed,
    /// That of this member, whose record matches.
    Member(usize),
    /// No member's content matches a record: what one of them holds is taken as it is.
    Accept,
}

/// Chooses a block's content from what the members say of it (C5): the highest (epoch, seq) whose checksum matches; of
/// equals the first.
pub(crate) fn choose(members: &[BlockSurvey]) -> Choice {
    let intact = members.iter().enumerate().filter(|(_, survey)| survey.state != BlockState::Unmatched);
    let winner = intact.max_by_key(|(index, survey)| (survey.epoch, survey.seq, std::cmp::Reverse(*index)));
    let Some((winner, survey)) = winner else { return Choice::Accept };
    let same = |other: &BlockSurvey| other.state == survey.state && other.crc == survey.crc;
    if members.iter().all(same) { Choice::Agreed } else { Choice::Member(winner) }
}

/// The last write to a block that was taken by a member who cannot give it any more, if nobody has content as new as that.
pub(crate) fn damaged_write(members: &[BlockSurvey]) -> Option<(u64, u64)> {
    let newest = |is_damaged: bool| {
        let counts = move |survey: &&BlockSurvey| (survey.state == BlockState::Unmatched) == is_damaged;
        members.iter().filter(counts).map(|survey| (survey.epoch, survey.seq)).max()
    };
    newest(true).filter(|&write| newest(false).is_some_and(|intact| write > intact))
}

/// What a comparison of a chunk's members found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Blocks that are damaged on at least one member and whole on another.
    pub damaged: Vec<u32>,
    /// Blocks that are damaged on every member.
    pub lost: Vec<u32>,
    /// Blocks in which members differ although each one's checksum matches: that must never be (C5).
    pub different: Vec<u32>,
}

impl super::Volume {
    /// Compares all members of a chunk block by block, by checksum. Nothing is changed.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn compare_members(&self, index: u64) -> Result<Comparison, VolumeError> {
        let inner = &self.inner;
        let from = index * inner.chunk_size;
        let _range = inner.ranges.shared(from..from + inner.chunk_size).await;
        loop {
            let lease = inner.usable_lease().await?;
            let outcome = async {
                let comparison = inner.compare_chunk(&lease, index).await?;
                inner.may_acknowledge(&lease).await.map(|()| comparison)
            };
            match outcome.await {
                Ok(comparison) => return Ok(comparison),
                Err(Stop::Broken) => {}
                Err(Stop::Fatal(error)) => return Err(error),
            }
        }
    }

    /// Replaces damaged blocks by the content of a member that has them whole (C8); gives how many.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn mend(&self, index: u64) -> Result<usize, VolumeError> {
        if !self.inner.writable {
            return Err(VolumeError::ReadOnly);
        }
        let damaged = self.compare_members(index).await?.damaged;
        for &block in &damaged {
            self.mend_block(index, block).await?;
        }
        Ok(damaged.len())
    }
}

impl Inner {
    async fn compare_chunk(&self, lease: &Rc<Lease>, index: u64) -> Result<Comparison, Stop> {
        let mut found = Comparison::default();
        let Some(chunk) = self.chunk(lease, index, Need::Read).await? else { return Ok(found) };
        let blocks = (self.chunk_size / BLOCK) as u32;
        for first in (0..blocks).step_by(SURVEY_BLOCKS as usize) {
            let range = first..(first + SURVEY_BLOCKS).min(blocks);
            let members = match self.survey_members(lease, &chunk, range.clone()).await {
                Ok(members) => members,
                // Others are to be compared.
                Err(Halt::Replaced) => return Box::pin(self.compare_chunk(lease, index)).await,
                Err(Halt::Stop(stop)) => return Err(stop),
            };
            for (offset, block) in range.enumerate() {
                let whole: Vec<&BlockSurvey> = members
                    .iter()
                    .map(|member| &member[offset])
                    .filter(|survey| survey.state != BlockState::Unmatched)
                    .collect();
                // A hole and a block of zeroes are the same to every reader.
                let same = |survey: &&BlockSurvey| content(survey) == content(whole[0]);
                if whole.is_empty() {
                    found.lost.push(block);
                } else if !whole.iter().all(same) {
                    found.different.push(block);
                } else if whole.len() < members.len() {
                    found.damaged.push(block);
                }
            }
        }
        Ok(found)
    }

    /// Settles every chunk that an earlier epoch has left in doubt, a few at a time, while the volume is already in use.
    pub(super) fn settle_in_background(&self, lease: &Rc<Lease>) {
        if lease.is_all_settled() || !self.writable {
            return;
        }
        let Some(inner) = self.this.upgrade() else { return };
        let lease = Rc::clone(lease);
        rt::spawn(async move {
            if let Err(stop) = inner.settle_all(&lease).await {
                tracing::debug!("file {}: settling ended: {stop:?}", inner.file_id);
                // A broken epoch is followed by another, which settles again; anything else is tried again.
                rt::time::sleep(BUSY_PAUSE * 4).await;
                return lease.break_off();
            }
            lease.set_all_settled();
        });
    }

    async fn settle_all(&self, lease: &Rc<Lease>) -> Result<(), Stop> {
        let chunks = self.size.get().div_ceil(self.chunk_size);
        let mut from = 0;
        while from < chunks {
            let mut some: Vec<u64> = Vec::new();
            while some.len() < SETTLED_AT_ONCE && from < chunks {
                let index = self.next_chunk(lease, from..chunks).await?;
                some.extend((index < chunks).then_some(index));
                from = index + 1;
            }
            all(some.into_iter().map(|index| {
                let future: Pin<Box<dyn Future<Output = _> + '_>> =
                    Box::pin(self.chunk(lease, index, Need::Read));
                future
            }))
            .await?;
        }
        Ok(())
    }

    /// Settles a chunk unless that is done.
    pub(crate) async fn settle(&self, lease: &Rc<Lease>, chunk: &Rc<Chunk>) -> Result<(), Halt> {
        let _one = chunk.settling.acquire(1).await;
        if !chunk.settled.get() {
            if rt::sim::planted("reconcile-skipped") {
                chunk.settled.set(true);
                return Ok(());
            }
            // A member has rebooted, or was left out of a chunk that another one has to be settled with. What some members have of a write on
            // its way may be settled away, and whoever has carried it out would take it for done when it comes again (C11): it gets a number of
            // another epoch.
            if lease.window.borrow().writes_to(chunk.index) {
                rt::sim::hit("client.settles-under-writes");
                lease.break_off();
                return Err(Stop::Broken.into());
            }
            self.equalise(lease, chunk).await?;
        }
        if lease.is_uncleared(chunk.index) {
            self.clear_marks(lease, chunk).await?;
            lease.uncleared.borrow_mut().remove(&chunk.index);
        }
        if !chunk.settled.replace(true) {
            chunk.settled_here.set(true);
        }
        Ok(())
    }

    /// Sees to it that all members have the same, durably, and that the metadata server knows it.
    async fn equalise(&self, lease: &Rc<Lease>, chunk: &Rc<Chunk>) -> Result<(), Halt> {
        let doubts = self.doubts(lease, chunk).await?;
        let mut copied = 0;
        for range in &doubts {
            copied += self.settle_range(lease, chunk, range.clone()).await?;
        }
        // Agreed content may still be volatile everywhere: it is flushed before it is served.
        self.flush_members(lease, chunk).await?;
        self.zero_behind_end(lease, chunk).await?;
        let writes_lost = self.note_lost_writes(lease, chunk);
        // With the report whoever is being filled has to begin anew. Had the members lost their lists before, a joiner that becomes a member
        // meanwhile could pass off what it has copied as newer (C7). Noted first, for the answer may be lost.
        lease.uncleared.borrow_mut().insert(chunk.index);
        self.report_settled(lease, chunk, writes_lost).await?;
        if writes_lost {
            self.loss_told.set(true);
        }
        if copied > 0 {
            tracing::warn!(
                "file {}: {copied} blocks of chunk {} differed and are settled",
                self.file_id,
                chunk.index
            );
        }
        Ok(())
    }

    /// Voids the members' lists and marks of earlier epochs: they agree.
    async fn clear_marks(&self, lease: &Rc<Lease>, chunk: &Rc<Chunk>) -> Result<(), Halt> {
        let clear = ClearMarks {
            target: self.target(lease, chunk),
            upto_epoch: lease.epoch.saturating_sub(1),
            upto_seq: u64::MAX,
        };
        let mut body = Vec::new();
        clear.encode(&mut body);
        let message = Message { op: Op::ClearMarks, body, payload: None, reply_bytes: 0 };
        self.tell_all(lease, chunk, &message).await
    }

    pub(super) fn target(&self, lease: &Lease, chunk: &Chunk) -> Target {
        Target { file: self.file_id, epoch: lease.epoch, chunk: chunk.id, version: chunk.version }
    }

    /// A request to one member that must not be refused. When the chunk gets another version meanwhile, settling begins anew.
    async fn demand(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        server: &Rc<Server>,
        message: &Message,
    ) -> Result<link::Reply, Halt> {
        let carried_out = async {
            loop {
                match self.request(lease, server, message).await? {
                    Ok(reply) => return Ok(reply),
                    Err(refused) => self.overcome(lease, chunk, server, &refused).await?,
                }
            }
        };
        unless_replaced(chunk, carried_out).await.and_then(|carried_out| carried_out)
    }

    async fn tell_all(&self, lease: &Rc<Lease>, chunk: &Rc<Chunk>, message: &Message) -> Result<(), Halt> {
        all(chunk.members.iter().map(|server| {
            let future: Pin<Box<dyn Future<Output = _> + '_>> =
                Box::pin(self.demand(lease, chunk, server, message));
            future
        }))
        .await
        .map(drop)
    }

    /// The union of what the members doubt, in runs of blocks.
    async fn doubts(&self, lease: &Rc<Lease>, chunk: &Rc<Chunk>) -> Result<Vec<std::ops::Range<u32>>, Halt> {
        let surveys = all(chunk.members.iter().map(|server| {
            let future: Pin<Box<dyn Future<Output = _> + '_>> = Box::pin(self.survey(lease, chunk, server));
            future
        }))
        .await?;
        let mut blocks = BTreeSet::new();
        for (first, count) in surveys.into_iter().flatten() {
            blocks.extend(first..first.saturating_add(count));
        }
        let mut runs: Vec<std::ops::Range<u32>> = Vec::new();
        for block in blocks {
            match runs.last_mut() {
                Some(run) if run.end == block && (run.len() as u32) < SURVEY_BLOCKS => run.end += 1,
                _ => runs.push(block..block + 1),
            }
        }
        Ok(runs)
    }

    async fn survey(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        server: &Rc<Server>,
    ) -> Result<Vec<(u32, u32)>, Halt> {
        let mut found = Vec::new();
        let mut total = None;
        loop {
            let request = Survey { target: self.target(lease, chunk), skip: found.len() as u32 };
            let mut body = Vec::new();
            request.encode(&mut body);
            let message = Message { op: Op::Survey, body, payload: None, reply_bytes: 0 };
            let reply = self.demand(lease, chunk, server, &message).await?;
            let reply =
                SurveyReply::decode(&reply.body).map_err(|error| bad_answer(server, &error.to_string()))?;
            if total.replace(reply.total).is_some_and(|total| total != reply.total) {
                // The list has changed under the pages, which count from its beginning.
                found.clear();
                total = None;
                rt::time::sleep(BUSY_PAUSE).await;
                continue;
            }
            found.extend(reply.entries.iter().map(|entry| (entry.first_block, entry.blocks)));
            if reply.entries.is_empty() || found.len() as u64 >= u64::from(reply.total) {
                return Ok(found);
            }
        }
    }

    /// Settles one run; gives how many blocks had to be copied.
    async fn settle_range(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        range: std::ops::Range<u32>,
    ) -> Result<usize, Halt> {
        let members = self.survey_members(lease, chunk, range.clone()).await?;
        let mut copied = 0;
        for (offset, block) in range.enumerate() {
            let surveys: Vec<BlockSurvey> = members.iter().map(|member| member[offset]).collect();
            match choose(&surveys) {
                Choice::Agreed => {}
                Choice::Member(winner) => {
                    // Before anybody is given what is older: a second look would find that all agree.
                    self.note_damaged_write(lease, chunk, block, &surveys);
                    let survey = surveys[winner];
                    let content = match survey.state {
                        BlockState::Zero => None,
                        _ => Some(self.read_verified(lease, chunk, winner, block).await?),
                    };
                    self.copy_block(lease, chunk, block, content, survey).await?;
                    copied += 1;
                }
                Choice::Accept => {
                    let Some((member, content)) = self.read_any(lease, chunk, block).await? else {
                        tracing::error!(
                            "file {}: no replica of block {block} of chunk {} can be read; the block is lost until it \
                             is written again",
                            self.file_id,
                            chunk.index
                        );
                        continue;
                    };
                    tracing::warn!(
                        "file {}: no replica of block {block} of chunk {} matches a record; one copy is taken",
                        self.file_id,
                        chunk.index
                    );
                    // Nobody knows of which write it is.
                    let unnumbered = BlockSurvey { epoch: 0, seq: 0, ..surveys[member] };
                    self.copy_block(lease, chunk, block, Some(content), unnumbered).await?;
                    copied += 1;
                }
            }
        }
        Ok(copied)
    }

    /// If the only copy of a write that was acknowledged and is not stable is damaged, and older content takes its place, flushes say so (C4).
    fn note_damaged_write(&self, lease: &Lease, chunk: &Chunk, block: u32, surveys: &[BlockSurvey]) {
        let Some((epoch, seq)) = damaged_write(surveys) else { return };
        let is_told = !rt::sim::planted("damage-not-told");
        if is_told && lease.is_at_risk(chunk.index, epoch, seq) && !self.writes_lost.replace(true) {
            tracing::error!(
                "file {}: the only replica that has an unflushed write to block {block} of chunk {} is damaged; flushes \
                 fail until the volume is opened again",
                self.file_id,
                chunk.index
            );
        }
    }

    /// What each member holds in a range of blocks.
    async fn survey_members(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        range: std::ops::Range<u32>,
    ) -> Result<Vec<Vec<BlockSurvey>>, Halt> {
        let request = SurveyBlocks {
            target: self.target(lease, chunk),
            first_block: range.start,
            count: range.len() as u32,
        };
        let mut body = Vec::new();
        request.encode(&mut body);
        let message = Message { op: Op::SurveyBlocks, body, payload: None, reply_bytes: 0 };
        all(chunk.members.iter().map(|server| {
            let (message, request) = (&message, &request);
            let future: Pin<Box<dyn Future<Output = Result<Vec<BlockSurvey>, Halt>> + '_>> =
                Box::pin(async move {
                    let reply = self.demand(lease, chunk, server, message).await?;
                    let decoded = SurveyBlocksReply::decode(&reply.body);
                    let reply = decoded.map_err(|error| bad_answer(server, &error.to_string()))?;
                    if !reply.answers(request) {
                        return Err(bad_answer(server, "a survey of other blocks").into());
                    }
                    Ok(reply.blocks)
                });
            future
        }))
        .await
    }

    /// Gives every member the winner's content of a block.
    async fn copy_block(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        block: u32,
        content: Option<View>,
        survey: BlockSurvey,
    ) -> Result<(), Halt> {
        let mut crcs = Vec::new();
        if let Some(content) = &content {
            wire::crc::block_crcs(u64::from(block) * BLOCK, content, &mut crcs);
        }
        let issued = Issued::begin(lease);
        let seq = issued.seq;
        let (done, stable) = {
            let window = lease.window.borrow();
            (window.done().min(seq), window.stable().min(window.done().min(seq)))
        };
        let settle = Settle {
            write: Write {
                target: self.target(lease, chunk),
                seq,
                done,
                stable,
                offset: block * BLOCK as u32,
                len: BLOCK as u32,
                kind: if content.is_some() { WriteKind::Data } else { WriteKind::Zeroes },
                fua: false,
                stripe_version: 0,
            },
            win_epoch: survey.epoch,
            win_seq: survey.seq,
        };
        let mut body = Vec::new();
        settle.encode(&crcs, &mut body);
        let message = Message { op: Op::Settle, body, payload: content, reply_bytes: 0 };
        for server in &chunk.members {
            lease.window.borrow_mut().touch(server.id(), seq);
        }
        self.tell_all(lease, chunk, &message).await?;
        issued.answered();
        Ok(())
    }

    /// A member's content of a block that its survey has verified.
    async fn read_verified(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        member: usize,
        block: u32,
    ) -> Result<View, Halt> {
        let server = &chunk.members[member];
        match self.read_block(lease, chunk, server, block, false).await? {
            Ok(content) => Ok(content),
            Err(refused) => Err(self.member_refused(lease, chunk, server, &refused).into()),
        }
    }

    /// What any member holds of a block that no member can verify, and whose that is; `None` when none can be read.
    async fn read_any(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        block: u32,
    ) -> Result<Option<(usize, View)>, Halt> {
        for (member, server) in chunk.members.iter().enumerate() {
            match self.read_block(lease, chunk, server, block, true).await? {
                Ok(content) => return Ok(Some((member, content))),
                Err(refused) if matches!(refused.status, Status::Corrupt | Status::Unsettled) => {
                    tracing::warn!(
                        "block {block} of chunk {} of file {} on chunk server {}: {}",
                        chunk.index,
                        self.file_id,
                        server.id(),
                        refused.text
                    )
                }
                Err(refused) => return Err(self.member_refused(lease, chunk, server, &refused).into()),
            }
        }
        Ok(None)
    }

    async fn read_block(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        server: &Rc<Server>,
        block: u32,
        unsettled: bool,
    ) -> Result<Result<View, Refused>, Halt> {
        let request = Read {
            target: self.target(lease, chunk),
            offset: block * BLOCK as u32,
            len: BLOCK as u32,
            unsettled,
        };
        let mut body = Vec::new();
        request.encode(&mut body);
        let message = Message { op: Op::Read, body, payload: None, reply_bytes: BLOCK as usize };
        let reply = loop {
            let asked = unless_replaced(chunk, self.request(lease, server, &message)).await;
            match asked?? {
                Ok(reply) => break reply,
                Err(refused) if remedy(&refused, chunk.version) == Remedy::Report => {
                    self.overcome(lease, chunk, server, &refused).await?;
                }
                Err(refused) => return Ok(Err(refused)),
            }
        };
        let (answer, crcs) = ReadReply::decode(&reply.body, reply.payload.len() as u32)
            .map_err(|error| bad_answer(server, &error.to_string()))?;
        if answer.zeroes {
            return Ok(Ok(Buf::zeroed(BLOCK as usize).freeze()));
        }
        if wire::crc::verify_blocks(u64::from(block) * BLOCK, &reply.payload, crcs.iter()).is_err() {
            // Damaged on the way: the whole chunk is settled again.
            lease.break_off();
            return Err(Stop::Broken.into());
        }
        Ok(Ok(reply.payload))
    }

    /// Tells the metadata server that the members agree.
    async fn report_settled(&self, lease: &Rc<Lease>, chunk: &Chunk, writes_lost: bool) -> Result<(), Halt> {
        let request = ReconcileDone {
            session: self.session.key(),
            file_id: self.file_id,
            epoch: lease.epoch,
            chunk_id: chunk.id,
            version: chunk.version,
            writes_lost,
        };
        let change = self.session.change();
        loop {
            let deadline: Instant = rt::time::now() + ASK;
            match change.ask(&request, deadline).await {
                Ok(_) => return Ok(()),
                Err(link::AskError::Status { status, error }) => match status.action() {
                    wire::Action::RetrySame | wire::Action::RetryAfter | wire::Action::Redirect => {}
                    wire::Action::GiveUp => {
                        let text = format!("{status}: {}", error.message);
                        return Err(VolumeError::LeaseLost(text).into());
                    }
                    wire::Action::RefreshMap => {
                        self.forget_chunk(lease, chunk);
                        return Err(Halt::Replaced);
                    }
                    _ => {
                        lease.break_off();
                        return Err(Stop::Broken.into());
                    }
                },
                Err(error) => tracing::warn!("reporting a settled chunk: {error}"),
            }
            lease.check()?;
            rt::time::sleep(BUSY_PAUSE).await;
        }
    }
}

/// CRC32C of 4096 zero bytes.
const ZERO_CRC: u32 = 0x98f9_4189;

/// The checksum of what a reader gets.
fn content(survey: &BlockSurvey) -> u32 {
    if survey.state == BlockState::Zero { ZERO_CRC } else { survey.crc }
}

fn bad_answer(server: &Server, text: &str) -> Stop {
    VolumeError::Refused { cs: server.id(), text: text.to_owned() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(epoch: u64, seq: u64, crc: u32) -> BlockSurvey {
        BlockSurvey { epoch, seq, crc, state: BlockState::Match }
    }

    const ZERO: BlockSurvey = BlockSurvey { epoch: 0, seq: 0, crc: 0, state: BlockState::Zero };
    const BAD: BlockSurvey = BlockSurvey { epoch: 0, seq: 0, crc: 9, state: BlockState::Unmatched };

    #[test]
    fn the_checksum_of_zeroes() {
        assert_eq!(wire::crc::crc32c(&[0; 4096]), ZERO_CRC);
    }

    #[test]
    fn c4_damaged_content_is_lost_where_everybody_else_has_older_content() {
        type Row<'a> = (&'a [BlockSurvey], Option<(u64, u64)>);
        let damaged = |epoch, seq| BlockSurvey { epoch, seq, ..BAD };
        #[rustfmt::skip]
        let rows: &[Row<'_>] = &[
            (&[ZERO, damaged(2, 7)],                               Some((2, 7))),
            (&[survey(2, 6, 1), damaged(2, 7), ZERO],              Some((2, 7))),
            (&[survey(1, 9, 1), damaged(2, 7)],                    Some((2, 7))),
            (&[damaged(2, 5), damaged(2, 7), survey(2, 6, 1)],     Some((2, 7))),
            (&[survey(2, 7, 1), damaged(2, 7)],                    None),
            (&[survey(2, 8, 1), damaged(2, 7)],                    None),
            (&[damaged(2, 7), survey(2, 6, 1), survey(2, 7, 2)],   None),
            // Stable long ago.
            (&[ZERO, BAD],                                         None),
            (&[ZERO, survey(2, 7, 1)],                             None),
            // Nobody has anything: no older content takes its place.
            (&[damaged(2, 7), damaged(2, 7)],                      None),
        ];
        for (number, (members, write)) in rows.iter().enumerate() {
            assert_eq!(damaged_write(members), *write, "line {number}");
        }
    }

    #[test]
    fn the_newest_matching_write_wins() {
        let (old, new) = (survey(2, 7, 1), survey(2, 8, 2));
        #[rustfmt::skip]
        let rows: &[(&[BlockSurvey], Choice)] = &[
            (&[old, old, old],                    Choice::Agreed),
            (&[old, new, old],                    Choice::Member(1)),
            (&[new, new, old],                    Choice::Member(0)),
            (&[survey(1, 99, 1), survey(2, 1, 2)], Choice::Member(1)),
            (&[ZERO, ZERO, ZERO],                 Choice::Agreed),
            (&[ZERO, new, ZERO],                  Choice::Member(1)),
            (&[BAD, old, old],                    Choice::Member(1)),
            (&[BAD, old, new],                    Choice::Member(2)),
            (&[BAD, BAD, ZERO],                   Choice::Member(2)),
            (&[BAD, BAD, BAD],                    Choice::Accept),
            (&[BAD],                              Choice::Accept),
            (&[old],                              Choice::Agreed),
            // The same content under different numbers is the same content.
            (&[survey(0, 0, 2), new],             Choice::Agreed),
            // Different content that nobody doubts: one copy is chosen.
            (&[survey(0, 0, 5), survey(0, 0, 6)], Choice::Member(0)),
        ];
        for (number, (members, choice)) in rows.iter().enumerate() {
            assert_eq!(choose(members), *choice, "line {number}");
        }
    }
}
