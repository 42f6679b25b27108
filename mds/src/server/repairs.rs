//! Damaged blocks are repaired from other members (C8).
//!
//! Nothing is remembered: a chunk server tells what is still damaged every few minutes, and with each registration.

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

/// Repairs that are under way.
#[derive(Debug)]
pub(crate) struct Repairs {
    places: rt::sync::Semaphore,
}

impl Default for Repairs {
    fn default() -> Self {
        Self { places: rt::sync::Semaphore::new(REPAIRS_MAX) }
    }
}

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

    /// Has a chunk server repair what it says is damaged, if another member has it.
    async fn repair(self: Rc<Self>, cs: CsId, session: u64, damage: DamageItem) {
        let Some(_place) = self.repairs.places.try_acquire(1) else { return };
        let (file, chunk) = (FileId::from_raw(damage.file_id), ChunkId::from_raw(damage.chunk_id));
        let blocks: u64 = damage.ranges.iter().map(|range| u64::from(range.count)).sum();
        let version = Version::from_raw(damage.version);
        let sources = self.read(|state| state.repair_sources(file, chunk, version, cs));
        if sources.is_empty() {
            tracing::warn!(
                "{cs}: {blocks} blocks of chunk {:#x} are damaged, and no other member can give them",
                chunk.raw()
            );
            return;
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
        let Some(connection) = connection else { return };
        let order = RepairBlocks { items: vec![item], servers };
        let status = match connection.ask(&order, rt::time::now() + REPAIR_TIME).await {
            Ok(reply) => reply.results.first().map_or(Status::Internal, |result| {
                Status::from_code(u16::try_from(result.status).unwrap_or(u16::MAX))
            }),
            Err(error) => {
                tracing::warn!("{cs} did not repair chunk {:#x}: {error}", chunk.raw());
                return;
            }
        };
        if !status.is_ok() {
            tracing::warn!("{cs} could not repair chunk {:#x}: {status}", chunk.raw());
            return;
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
    }
}
