//! Members that cannot be used are reported: by one request per chunk server at a time, however many writes wait for it, and about
//! the same version of a chunk again only after a pause that grows.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use link::AskError;
use rt::first;
use rt::sync::Notify;
use rt::time::Instant;

use wire::lease::ReportMember;
use wire::{Action, Status};

use super::call::{Refused, until_broken, until_replaced};
use super::lease::{Chunk, Lease};
use super::{ASK, Halt, Inner, Stop};
use crate::error::VolumeError;
use crate::servers::Server;

/// Pause after the first report that changed nothing...
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// ...and the longest.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often the map of a chunk is looked at while a report about it waits.
const MAP_PAUSE: Duration = Duration::from_millis(200);

/// What was said of a server and a chunk.
#[derive(Debug)]
struct Said {
    version: u64,
    pause: Duration,
    due: Instant,
}

/// The reports of one epoch.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// By chunk server and index of the chunk.
    said: RefCell<BTreeMap<(u64, u64), Said>>,
    /// Chunk servers that are being reported.
    under_way: RefCell<BTreeSet<u64>>,
    ended: Notify,
}

impl Reports {
    /// Whether a report may be made now; if so, it is under way.
    fn begin(&self, server: u64, chunk: &Chunk, now: Instant) -> bool {
        let is_due = self.due(server, chunk).is_none_or(|due| due <= now);
        is_due && self.under_way.borrow_mut().insert(server)
    }

    /// When the next report about this version may be made; `None` if there was none.
    fn due(&self, server: u64, chunk: &Chunk) -> Option<Instant> {
        let said = self.said.borrow();
        said.get(&(server, chunk.index)).filter(|said| said.version == chunk.version).map(|said| said.due)
    }

    /// A report has been answered, or could not be made.
    fn end(&self, server: u64, chunk: &Chunk, now: Instant) {
        let mut said = self.said.borrow_mut();
        let before = said.get(&(server, chunk.index)).filter(|said| said.version == chunk.version);
        let pause = before.map_or(PAUSE_MIN, |said| (said.pause * 2).min(PAUSE_MAX));
        said.insert((server, chunk.index), Said { version: chunk.version, pause, due: now + pause });
        self.under_way.borrow_mut().remove(&server);
        self.ended.notify_all();
    }
}

/// What is done about a refusal by a server that has to carry a request out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// It has not installed the version yet: it is asked again.
    AskAgain,
    /// Our map is old.
    Refresh,
    /// It is reported, and asked again if it must stay.
    Report,
    /// It is reported; if it must stay the chunk is settled anew, which mends what can be mended.
    ReportOrSettle,
    /// The chunk is settled anew.
    Settle,
}

/// Decides what is done about a refusal under a version.
pub(crate) fn remedy(refused: &Refused, version: u64) -> Remedy {
    match refused.status {
        Status::StaleVersion if refused.detail != 0 && refused.detail < version => Remedy::AskAgain,
        Status::StaleVersion => Remedy::Refresh,
        // No answer, or no registration for too long; a server that has lost the whole file has lost the chunk.
        Status::Timeout | Status::RegistrationLapsed | Status::UnknownFile => Remedy::Report,
        // It had no room for what settles a chunk, for long.
        Status::NoSpace => Remedy::Report,
        Status::Corrupt => Remedy::ReportOrSettle,
        other if other.action() == Action::ReportMember => Remedy::Report,
        _ => Remedy::Settle,
    }
}

/// Whether a member refuses because of one block, of which a part was to be written.
fn is_bad_block(refused: &Refused) -> bool {
    matches!(refused.status, Status::Corrupt | Status::Unsettled)
}

impl Inner {
    /// Does what can be done about a server that has refused a request which it has to carry out, or is lost. Comes back when it
    /// shall be asked again.
    pub(crate) async fn overcome(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        server: &Rc<Server>,
        refused: &Refused,
    ) -> Result<(), Halt> {
        match remedy(refused, chunk.version) {
            Remedy::AskAgain => {
                let pause = Duration::from_millis(5 + rt::random::below(45));
                until_replaced(lease, chunk, rt::time::sleep(pause)).await
            }
            Remedy::Refresh => {
                // Whoever names a version that nobody else knows must not keep us busy.
                until_replaced(lease, chunk, rt::time::sleep(Duration::from_millis(5))).await?;
                self.forget_chunk(lease, chunk);
                Err(Halt::Replaced)
            }
            Remedy::Report => self.report_and_wait(lease, chunk, server, refused.status).await,
            // Settling could not mend it: no member has the block whole.
            Remedy::ReportOrSettle | Remedy::Settle if chunk.settled_here.get() && is_bad_block(refused) => {
                let block = u32::try_from(refused.detail).unwrap_or(u32::MAX);
                Err(VolumeError::Corrupt { index: chunk.index, block }.into())
            }
            Remedy::ReportOrSettle => {
                self.report_and_wait(lease, chunk, server, refused.status).await?;
                Err(self.member_refused(lease, chunk, server, refused).into())
            }
            Remedy::Settle => Err(self.member_refused(lease, chunk, server, refused).into()),
        }
    }

    /// Has a member reported until the chunk has a version without it (C3), or there is reason to ask it again: it is back, or it was
    /// not lost and a pause has passed.
    pub(crate) async fn report_and_wait(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        server: &Rc<Server>,
        status: Status,
    ) -> Result<(), Halt> {
        let is_lost = status == Status::Timeout;
        let mut is_told = false;
        loop {
            let (ended, changed) = (lease.reports.ended.notified(), server.changed());
            chunk.check(lease)?;
            if is_lost && server.is_connected() {
                return Ok(());
            }
            let now = rt::time::now();
            let due = lease.reports.due(server.id(), chunk).filter(|due| *due > now);
            if due.is_none() {
                if is_told && !is_lost {
                    return Ok(());
                }
                self.report_in_background(lease, chunk, server, status);
            }
            is_told |= due.is_some();
            let until = due.map_or(now + MAP_PAUSE, |due| due.min(now + MAP_PAUSE));
            let news = rt::time::timeout_at(until, first(ended, changed));
            if until_replaced(lease, chunk, news).await?.is_err() && is_told {
                self.look_at_map(lease, chunk).await?;
            }
        }
    }

    /// Asks whether a chunk that a member holds up has another version, or must wait. One asks for all.
    pub(crate) async fn look_at_map(&self, lease: &Rc<Lease>, chunk: &Rc<Chunk>) -> Result<(), Halt> {
        let Some(_turn) = chunk.looking.try_acquire(1) else { return Ok(()) };
        match until_replaced(lease, chunk, self.ask_map(lease, chunk.index, 1)).await? {
            Ok(map) => {
                lease.learn(&self.servers, &map, chunk.index..chunk.index);
                if chunk.blocked.get() {
                    // It waits with all others that want the chunk.
                    self.forget_chunk(lease, chunk);
                }
                Ok(())
            }
            Err(AskError::Status { status, error }) => Ok(self.map_refused(lease, status, &error.message)?),
            Err(error) => {
                tracing::debug!("asking for the map of file {}: {error}", self.file_id);
                Ok(())
            }
        }
    }

    /// Reports a server, unless that is under way or was done a moment ago.
    pub(crate) fn report_in_background(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        server: &Rc<Server>,
        status: Status,
    ) {
        let Some(inner) = self.this.upgrade() else { return };
        if !lease.reports.begin(server.id(), chunk, rt::time::now()) {
            return;
        }
        if status == Status::Timeout {
            server.miss();
        }
        let (lease, chunk, server) = (Rc::clone(lease), Rc::clone(chunk), Rc::clone(server));
        rt::spawn(async move {
            if let Err(stop) = inner.report(&lease, &chunk, &server, status).await {
                tracing::debug!("a report of chunk server {} ended: {stop:?}", server.id());
            }
            lease.reports.end(server.id(), &chunk, rt::time::now());
        });
    }

    async fn report(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        server: &Rc<Server>,
        status: Status,
    ) -> Result<(), Stop> {
        rt::sim::hit("client.member-reported");
        let request = ReportMember {
            session: self.session.key(),
            file_id: self.file_id,
            epoch: lease.epoch,
            chunk_id: chunk.id,
            version: chunk.version,
            cs_id: server.id(),
            status: status.code().into(),
        };
        let change = self.session.change();
        match until_broken(lease, change.ask(&request, rt::time::now() + ASK)).await? {
            Ok(map) => {
                lease.learn(&self.servers, &map, chunk.index..chunk.index);
                let now = lease.chunks.borrow().chunk(chunk.index).cloned();
                match now {
                    // What was decided holds in the whole file: nobody else has to find out.
                    Some(now) if !now.is_target(server.id()) => lease.forget_server(server.id()),
                    // It waits with all others that want the chunk.
                    Some(now) if now.blocked.get() => self.forget_chunk(lease, &now),
                    Some(_) | None => {}
                }
            }
            Err(AskError::Status { status, error }) => match status.action() {
                Action::Reopen | Action::Rejoin => {
                    lease.break_off();
                    return Err(Stop::Broken);
                }
                Action::RefreshMap => self.forget_chunk(lease, chunk),
                _ => tracing::warn!(
                    "reporting chunk server {} for file {}: {status}: {}",
                    server.id(),
                    self.file_id,
                    error.message
                ),
            },
            Err(error) => tracing::warn!("reporting chunk server {}: {error}", server.id()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: Status, detail: u64) -> Refused {
        Refused { status, text: String::new(), detail }
    }

    #[test]
    fn every_refusal_has_a_remedy() {
        let rows = [
            (Status::StaleVersion, 6, Remedy::AskAgain),
            (Status::StaleVersion, 8, Remedy::Refresh),
            (Status::StaleVersion, 0, Remedy::Refresh),
            (Status::Timeout, 0, Remedy::Report),
            (Status::RegistrationLapsed, 0, Remedy::Report),
            (Status::UnknownChunk, 0, Remedy::Report),
            (Status::UnknownFile, 0, Remedy::Report),
            (Status::DeviceFailed, 0, Remedy::Report),
            (Status::Corrupt, 0, Remedy::ReportOrSettle),
            (Status::Unsettled, 0, Remedy::Settle),
            (Status::Internal, 0, Remedy::Settle),
        ];
        for (status, detail, expected) in rows {
            assert_eq!(remedy(&refused(status, detail), 7), expected, "{status:?} {detail}");
        }
    }

    #[test]
    fn one_report_at_a_time_and_the_same_one_after_a_pause_that_grows() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let reports = Reports::default();
        let (one, other) = (Chunk::bare(0, 5), Chunk::bare(1, 5));
        assert!(reports.begin(9, &one, at(0)));
        assert!(!reports.begin(9, &one, at(0)), "it is under way");
        assert!(!reports.begin(9, &other, at(0)), "and its answer may be about the other chunk as well");
        assert!(reports.begin(8, &one, at(0)), "another server is another matter");
        reports.end(9, &one, at(10));
        assert!(!reports.begin(9, &one, at(509)));
        assert!(reports.begin(9, &other, at(11)));
        reports.end(9, &other, at(12));
        let mut now = 510;
        for pause in [1000, 2000, 2000] {
            assert!(reports.begin(9, &one, at(now)));
            reports.end(9, &one, at(now));
            assert_eq!(reports.due(9, &one), Some(at(now + pause)));
            now += pause;
        }
        assert!(reports.begin(9, &Chunk::bare(0, 6), at(now - 1)), "another version is another matter");
    }
}
