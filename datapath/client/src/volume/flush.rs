//! Flushing: every write acknowledged before is stable on every member (C4).
//!
//! Whoever cannot be flushed is reported for each chunk that needs it to be, until none does any more.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use wire::data::{Flush, FlushReply, InstalledVersion};
use wire::limits::MAX_FLUSH_CHUNKS;
use wire::{Op, Status};

use super::call::{Message, Refused, all, until_broken, until_replaced};
use super::known::Position;
use super::lease::{Chunk, Lease};
use super::reports::{Remedy, remedy};
use super::window::FlushPlan;
use super::{BUSY_PAUSE, Halt, Inner, Stop, Volume};
use crate::error::VolumeError;
use crate::servers::Server;

/// How long chunk servers may take to hear that everything is stable.
const ANNOUNCE: Duration = Duration::from_secs(5);

/// How often a member is asked whether it has installed a version before the chunk's map is looked at again.
const ASKED_PER_MAP: u32 = 8;

impl Volume {
    /// Makes every write acknowledged before durable on all members.
    ///
    /// # Errors
    /// [`VolumeError::WritesLost`] when all members of a chunk rebooted with unflushed writes: then every flush fails
    /// until the volume is opened again (C4).
    pub async fn flush(&self) -> Result<(), VolumeError> {
        let inner = &self.inner;
        if !inner.writable {
            return Ok(());
        }
        loop {
            let lease = inner.usable_lease().await?;
            let outcome = async {
                inner.flush_answered(&lease).await?;
                inner.may_acknowledge(&lease).await
            };
            match outcome.await {
                Ok(()) if inner.writes_lost.get() && !rt::sim::planted("loss-not-told") => {
                    return Err(VolumeError::WritesLost);
                }
                Ok(()) => {
                    inner.session.report(|io| io.flushes += 1);
                    return Ok(());
                }
                Err(Stop::Broken) => {}
                Err(Stop::Fatal(error)) => return Err(error),
            }
        }
    }

    /// Before a clean release: tells every server that was written to that all is stable, so that it forgets its marks.
    pub(crate) async fn announce_stable(&self) {
        let inner = &self.inner;
        let lease = Rc::clone(&inner.lease.borrow());
        let servers: BTreeSet<u64> = {
            let chunks = lease.chunks.borrow();
            chunks.chunks().flat_map(|chunk| chunk.targets().map(|server| server.id())).collect()
        };
        let upto = lease.window.borrow().done();
        let plan = FlushPlan {
            servers: servers.into_iter().map(|server| (server, 0)).collect(),
            covers: upto,
            upto,
            answers: 0,
        };
        // Marks that stay cost the next client a comparison, nothing more: a disk that is stuck is not waited for.
        match rt::time::timeout(ANNOUNCE, inner.flush_servers(&lease, &plan)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some((server, refused)))) => {
                tracing::debug!("chunk server {server} is not told that all is stable: {}", refused.status);
            }
            Ok(Err(stop)) => tracing::debug!("telling the chunk servers that all is stable: {stop:?}"),
            Err(_) => tracing::debug!("telling the chunk servers that all is stable takes too long"),
        }
    }
}

impl Inner {
    /// Sees to it that every write answered so far is stable; by a flush of others, where one that began late enough does it.
    async fn flush_answered(&self, lease: &Rc<Lease>) -> Result<(), Stop> {
        self.all_settled(lease).await?;
        let answers = lease.window.borrow().answers();
        if lease.window.borrow().has_flushed(answers) {
            return Ok(());
        }
        let _turn = until_broken(lease, lease.flushes.acquire(1)).await?;
        if lease.window.borrow().has_flushed(answers) {
            return Ok(());
        }
        self.flush_under(lease).await
    }

    /// Waits until what earlier epochs have left in doubt is settled, and so flushed.
    async fn all_settled(&self, lease: &Rc<Lease>) -> Result<(), Stop> {
        while !lease.is_all_settled() {
            until_broken(lease, lease.settled_all.notified()).await?;
        }
        Ok(())
    }

    /// One flush under one epoch.
    pub(crate) async fn flush_under(&self, lease: &Rc<Lease>) -> Result<(), Stop> {
        self.all_settled(lease).await?;
        loop {
            let plan = lease.flush_plan();
            match self.flush_servers(lease, &plan).await? {
                None => {
                    self.all_installed(lease, &plan).await?;
                    lease.window.borrow_mut().flushed(&plan);
                    lease.prune_unstable();
                    return Ok(());
                }
                Some((server, refused)) => self.do_without(lease, server, &refused).await?,
            }
        }
    }

    /// Flushes the servers of a plan; gives one that did not do it, and why.
    async fn flush_servers(
        &self,
        lease: &Rc<Lease>,
        plan: &FlushPlan,
    ) -> Result<Option<(u64, Refused)>, Stop> {
        let flushes = plan.servers.iter().map(|&(server, _)| {
            let future: Pin<Box<dyn Future<Output = Result<_, Stop>> + '_>> = Box::pin(async move {
                let flushed = self.flush_server(lease, &self.servers.get(server), plan.upto, &[]).await?;
                Ok(flushed.err().map(|refused| (server, refused)))
            });
            future
        });
        Ok(all(flushes).await?.into_iter().flatten().next())
    }

    /// Sees to it that no chunk needs the writes any more that a server cannot make durable, or that it is worth asking it again.
    async fn do_without(&self, lease: &Rc<Lease>, server: u64, refused: &Refused) -> Result<(), Stop> {
        let server = self.servers.get(server);
        if remedy(refused, 0) != Remedy::Report {
            return Err(self.flush_refused(lease, &server, refused));
        }
        while let Some((index, version)) = lease.needs_flushed(server.id()) {
            let Some(chunk) = self.unstable_chunk(lease, index, version).await? else { continue };
            match self.report_and_wait(lease, &chunk, &server, refused.status).await {
                Ok(()) => return Ok(()),
                Err(Halt::Replaced) => {}
                Err(Halt::Stop(stop)) => return Err(stop),
            }
        }
        lease.pass_over(server.id());
        Ok(())
    }

    /// A chunk with unstable writes under the highest version that is known of it; nothing if it has to be looked for again.
    async fn unstable_chunk(
        &self,
        lease: &Rc<Lease>,
        index: u64,
        version: u64,
    ) -> Result<Option<Rc<Chunk>>, Stop> {
        lease.check()?;
        let known = lease.chunks.borrow().get(index);
        match known {
            Position::Chunk(chunk) if chunk.version < version => {
                // A late answer: the chunk has a higher version.
                self.forget_chunk(lease, &chunk);
                until_broken(lease, rt::time::sleep(BUSY_PAUSE)).await?;
            }
            Position::Chunk(chunk) if chunk.is_replaced() => self.forget_chunk(lease, &chunk),
            Position::Chunk(chunk) => return Ok(Some(chunk)),
            Position::Unknown => self.fetch_maps(lease, index).await?,
            // With what was written the chunk has gone.
            Position::Hole => {
                lease.break_off();
                return Err(Stop::Broken);
            }
        }
        Ok(None)
    }

    /// Waits until every member that a flush counts on has installed the versions without those who may have lost writes that were not
    /// stable: those are then in its map of what has changed since. Once they counted as stable it would not list them any more, and whoever
    /// returns would never hear of them (C6).
    ///
    /// What was flushed before is durable at all members meanwhile, whoever leaves now. When this comes back, nothing is awaited, and
    /// the caller moves the mark before anything else can happen.
    async fn all_installed(&self, lease: &Rc<Lease>, plan: &FlushPlan) -> Result<(), Stop> {
        if plan.covers <= lease.window.borrow().stable() {
            return Ok(());
        }
        loop {
            let servers = lease.uninstalled();
            if servers.is_empty() {
                return Ok(());
            }
            rt::sim::hit("client.waits-for-installs");
            all(servers.into_iter().map(|server| {
                let future: Pin<Box<dyn Future<Output = Result<(), Stop>> + '_>> =
                    Box::pin(self.installed_at(lease, self.servers.get(server)));
                future
            }))
            .await?;
        }
    }

    /// Asks one member until it has installed what it must, or need not any more.
    async fn installed_at(&self, lease: &Rc<Lease>, server: Rc<Server>) -> Result<(), Stop> {
        let mut most = MAX_FLUSH_CHUNKS as usize;
        let mut refusals = 0;
        loop {
            let wanted = lease.uninstalled_at(server.id(), most);
            let Some(&(index, first)) = wanted.first() else { return Ok(()) };
            let versions: Vec<_> = wanted.iter().map(|(_, version)| *version).collect();
            let upto = lease.window.borrow().done();
            match self.flush_server(lease, &server, upto, &versions).await? {
                Ok(()) => {
                    lease.installed(server.id(), &wanted);
                    most = (most * 2).min(MAX_FLUSH_CHUNKS as usize);
                }
                // Which one it has not is found by halves: orders come for some chunks after the other.
                Err(refused) if refused.status == Status::StaleVersion && wanted.len() > 1 => {
                    lease.check()?;
                    most = wanted.len() / 2;
                }
                Err(refused) => {
                    refusals += 1;
                    let Some(chunk) = self.unstable_chunk(lease, index, first.version).await? else {
                        continue;
                    };
                    let waited = if refused.status == Status::StaleVersion {
                        self.ask_again(lease, &chunk, &server, refusals % ASKED_PER_MAP == 0).await
                    } else if remedy(&refused, first.version) == Remedy::Report {
                        self.report_and_wait(lease, &chunk, &server, refused.status).await
                    } else {
                        return Err(self.flush_refused(lease, &server, &refused));
                    };
                    match waited {
                        Ok(()) | Err(Halt::Replaced) => {}
                        Err(Halt::Stop(stop)) => return Err(stop),
                    }
                }
            }
        }
    }

    /// Waits before a member is asked again that has not installed a version; it may be that it need not any more.
    async fn ask_again(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        server: &Server,
        look_at_map: bool,
    ) -> Result<(), Halt> {
        let pause = Duration::from_millis(5 + rt::random::below(45));
        until_replaced(lease, chunk, rt::time::sleep(pause)).await?;
        if look_at_map {
            self.look_at_map(lease, chunk).await?;
            let now = lease.chunks.borrow().chunk(chunk.index).cloned();
            // Dropped without our doing, and hardly from this chunk alone: the maps of all that have it are asked for again.
            if now.is_some_and(|now| !now.is_target(server.id())) {
                lease.forget_server(server.id());
            }
        }
        Ok(())
    }

    fn flush_refused(&self, lease: &Lease, server: &Server, refused: &Refused) -> Stop {
        tracing::error!("chunk server {} cannot flush: {}: {}", server.id(), refused.status, refused.text);
        lease.break_off();
        Stop::Broken
    }

    /// Flushes all members of a chunk that is being settled.
    pub(crate) async fn flush_members(&self, lease: &Rc<Lease>, chunk: &Rc<Chunk>) -> Result<(), Halt> {
        let upto = lease.window.borrow().done();
        all(chunk.members.iter().map(|server| {
            let future: Pin<Box<dyn Future<Output = _> + '_>> =
                Box::pin(self.flush_member(lease, chunk, server, upto));
            future
        }))
        .await
        .map(drop)
    }

    /// Flushes a member of a chunk that is being settled.
    pub(crate) async fn flush_member(
        &self,
        lease: &Rc<Lease>,
        chunk: &Rc<Chunk>,
        server: &Rc<Server>,
        upto: u64,
    ) -> Result<(), Halt> {
        loop {
            match self.flush_server(lease, server, upto, &[]).await? {
                Ok(()) => return Ok(()),
                Err(refused) if remedy(&refused, chunk.version) == Remedy::Report => {
                    self.report_and_wait(lease, chunk, server, refused.status).await?;
                }
                Err(refused) => return Err(self.flush_refused(lease, server, &refused).into()),
            }
        }
    }

    async fn flush_server(
        &self,
        lease: &Rc<Lease>,
        server: &Rc<Server>,
        upto_seq: u64,
        installed: &[InstalledVersion],
    ) -> Result<Result<(), Refused>, Stop> {
        let message = {
            let window = lease.window.borrow();
            let flush = Flush {
                file: self.file_id,
                epoch: lease.epoch,
                upto_seq,
                done: window.done(),
                stable: window.stable().min(window.done()),
                settled_before: !lease.needs_reconcile,
            };
            let mut body = Vec::new();
            flush.encode(installed, &mut body);
            Message { op: Op::Flush, body, payload: None, reply_bytes: 0 }
        };
        let refused = |text: String| VolumeError::Refused { cs: server.id(), text };
        match self.request(lease, server, &message).await? {
            Ok(reply) => {
                let reply = FlushReply::decode(&reply.body).map_err(|error| refused(error.to_string()))?;
                if !lease.same_boot(server.id(), reply.boot_id) {
                    lease.break_off();
                    return Err(Stop::Broken);
                }
                Ok(Ok(()))
            }
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Flushes without anybody waiting, because a server's list of unstable writes is filling.
    pub(crate) fn flush_in_background(&self, lease: &Rc<Lease>) {
        if lease.flushing.replace(true) {
            return;
        }
        let Some(inner) = self.this.upgrade() else { return };
        let lease = Rc::clone(lease);
        rt::spawn(async move {
            if let Err(stop) = inner.flush_under(&lease).await {
                tracing::debug!("a flush in the background ended: {stop:?}");
            }
            lease.flushing.set(false);
        });
    }
}
