//! Damaged blocks are repaired from other members (C8).
//!
//! A chunk server tells what is still damaged every few minutes, and with each registration. What no member could give is remembered
//! until then, so that it is tried again at once when the chunk gets another member; it may be forgotten at any time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use wire::Status;
use wire::cs::{DamageItem, RepairBlocks, RepairItem, ReportDamage};
use wire::hello::Empty;

use super::asked::Asked;
use super::failure::Failure;
use super::orders::CsLink;
use super::reign::Reign;
use super::shown;
use crate::state::command::{CommandOp, CsReport, ReportedEvent, ReportedSeverity};
use crate::state::servers::ChunkServer;
use crate::state::{ChunkId, CsId, FileId, Version};

/// Repairs under way at once; what is told beyond them is told again later.
const REPAIRS_MAX: u64 = 64;
/// How long a chunk server has to repair the blocks of one report.
const REPAIR_TIME: Duration = Duration::from_secs(60);

/// Chunks of which it is remembered what nobody could give.
const LEFT_MAX: usize = 4096;

/// Repairs that are under way, and those that were in vain.
#[derive(Debug)]
pub(crate) struct Repairs {
    places: rt::sync::Semaphore,
    left: RefCell<BTreeMap<(ChunkId, CsId), Left>>,
    /// How often something was left so far.
    count: Cell<u64>,
}

/// What nobody could give.
#[derive(Debug)]
struct Left {
    /// When it was so last, counted. What is damaged still is told again, and becomes new by that.
    number: u64,
    damage: DamageItem,
}

impl Default for Repairs {
    fn default() -> Self {
        Self {
            places: rt::sync::Semaphore::new(REPAIRS_MAX),
            left: RefCell::default(),
            count: Cell::default(),
        }
    }
}

impl Repairs {
    /// What became of a repair.
    fn ended(&self, cs: CsId, chunk: ChunkId, left: Option<DamageItem>) {
        let mut known = self.left.borrow_mut();
        match left {
            Some(damage) => {
                let number = self.count.get();
                self.count.set(number + 1);
                known.insert((chunk, cs), Left { number, damage });
                if known.len() > LEFT_MAX {
                    // Nobody has told of it again for the longest time.
                    let oldest = known.iter().min_by_key(|(_, left)| left.number).map(|(at, _)| *at);
                    oldest.and_then(|at| known.remove(&at));
                }
            }
            None => {
                known.remove(&(chunk, cs));
            }
        }
    }

    /// What nobody could give of a chunk so far.
    fn left_of(&self, chunk: ChunkId) -> Vec<(CsId, DamageItem)> {
        let known = self.left.borrow();
        let of_it = known.range((chunk, CsId(0))..=(chunk, CsId(u32::MAX)));
        of_it.map(|((_, cs), left)| (*cs, left.damage.clone())).collect()
    }
}

/// Nobody has been asked for the blocks, or did not say what came of it.
pub(super) struct NotTried;

impl Reign {
    pub(super) async fn report_damage(
        self: &Rc<Self>,
        call: ReportDamage,
        asked: &Asked,
    ) -> Result<Empty, Failure> {
        let cs = CsId(u32::try_from(call.cs_id).map_err(|_| Failure::not_registered())?);
        self.confirm(asked).await?;
        let is_known = |server: &&ChunkServer| server.session == call.session && !server.is_lapsed();
        if self.read(|state| state.server(cs).filter(is_known).is_none()) {
            return Err(Failure::not_registered());
        }
        for item in call.items {
            rt::spawn(Rc::clone(self).repair(cs, call.session, item));
        }
        Ok(Empty {})
    }

    /// A chunk has a version that one more replica has installed: whoever is repaired may be so from another one.
    pub(super) fn repair_again(self: &Rc<Self>, chunk: ChunkId) {
        for (cs, damage) in self.repairs.left_of(chunk) {
            let found = self.read(|state| {
                let version = state.version_on(FileId::from_raw(damage.file_id), chunk, cs)?;
                Some((version, state.server(cs)?.session))
            });
            match found {
                Some((version, session)) => {
                    let damage = DamageItem { version: version.raw(), ..damage };
                    rt::spawn(Rc::clone(self).repair(cs, session, damage));
                }
                None => self.repairs.ended(cs, chunk, None),
            }
        }
    }

    /// Has a chunk server repair what it says is damaged, if another member has it.
    async fn repair(self: Rc<Self>, cs: CsId, session: u64, damage: DamageItem) {
        let chunk = ChunkId::from_raw(damage.chunk_id);
        match Rc::clone(&self).try_repair(cs, session, damage.clone()).await {
            Ok(Status::Ok) => self.repairs.ended(cs, chunk, None),
            Ok(_) | Err(NotTried) => self.repairs.ended(cs, chunk, Some(damage)),
        }
    }

    /// Has a chunk server repair what is damaged of these ranges from the other members.
    pub(super) async fn order_repair(
        &self,
        cs: CsId,
        session: u64,
        damage: DamageItem,
    ) -> Result<Status, NotTried> {
        let _place = self.repairs.places.try_acquire(1).ok_or(NotTried)?;
        let (file, chunk) = (FileId::from_raw(damage.file_id), ChunkId::from_raw(damage.chunk_id));
        let version = Version::from_raw(damage.version);
        let sources = self.read(|state| state.repair_sources(file, chunk, version, cs));
        if sources.is_empty() {
            // No other member can give anything.
            return Ok(Status::Corrupt);
        }
        let item = RepairItem {
            file_id: damage.file_id,
            chunk_id: damage.chunk_id,
            version: damage.version,
            ranges: damage.ranges,
            sources: sources.iter().map(|source| source.0.into()).collect(),
        };
        let servers = self.read(|state| shown::addresses_of(state, sources));
        let mut connection = None;
        self.servers.borrow().order(cs, |link: &CsLink| {
            connection = (link.session == session).then(|| link.connection.clone());
        });
        let connection = connection.ok_or(NotTried)?;
        let order = RepairBlocks { items: vec![item], servers };
        match connection.ask(&order, rt::time::now() + REPAIR_TIME).await {
            Ok(reply) => Ok(reply.results.first().map_or(Status::Internal, |result| {
                Status::from_code(u16::try_from(result.status).unwrap_or(u16::MAX))
            })),
            Err(error) => {
                tracing::warn!("{cs} did not repair chunk {:#x}: {error}", chunk.raw());
                Err(NotTried)
            }
        }
    }

    async fn try_repair(
        self: Rc<Self>,
        cs: CsId,
        session: u64,
        damage: DamageItem,
    ) -> Result<Status, NotTried> {
        let chunk = ChunkId::from_raw(damage.chunk_id);
        let blocks: u64 = damage.ranges.iter().map(|range| u64::from(range.count)).sum();
        let status = self.order_repair(cs, session, damage).await?;
        if !status.is_ok() {
            tracing::warn!("{cs} could not repair {blocks} blocks of chunk {:#x}: {status}", chunk.raw());
            return Ok(status);
        }
        rt::sim::hit("mds.blocks-repaired");
        let event = ReportedEvent {
            severity: ReportedSeverity::Info.into(),
            code: "cs.blocks_repaired".into(),
            message: format!(
                "{blocks} damaged blocks of chunk {:#x} are repaired from other members",
                chunk.raw()
            ),
        };
        let op =
            CsReport { cs: cs.0, session, events_only: true, events: vec![event], ..CsReport::default() };
        if let Some(Err(refusal)) = self.insist(CommandOp::CsReport(op)).await {
            tracing::debug!("{cs}: {refusal}");
        }
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c13_what_nobody_tells_of_again_makes_room() {
        let repairs = Repairs::default();
        let cs = CsId(1025);
        let chunk = |number: usize| ChunkId::from_raw(number as u64);
        let leave = |number| repairs.ended(cs, chunk(number), Some(DamageItem::default()));
        let is_known = |number| !repairs.left_of(chunk(number)).is_empty();
        (0..LEFT_MAX).for_each(leave);
        leave(0);
        leave(LEFT_MAX);
        assert!(is_known(0) && !is_known(1) && is_known(2) && is_known(LEFT_MAX));
        assert_eq!(repairs.left.borrow().len(), LEFT_MAX);
        repairs.ended(cs, chunk(2), None);
        assert!(!is_known(2));
        leave(1);
        assert!(is_known(1) && is_known(3), "there was room");
    }
}
