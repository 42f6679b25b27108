//! Flushing: every write acknowledged before is stable on every member (C4).

use std::collections::BTreeSet;
use std::pin::Pin;
use std::rc::Rc;

use wire::Op;
use wire::data::{Flush, FlushReply};

use super::call::{Message, all, until_broken};
use super::lease::Lease;
use super::window::FlushPlan;
use super::{Inner, Stop, Volume};
use crate::error::VolumeError;

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
                inner.flush_under(&lease).await?;
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
            chunks.chunks().flat_map(|chunk| chunk.members.iter().map(|server| server.id())).collect()
        };
        let upto = lease.window.borrow().done();
        let plan = FlushPlan {
            servers: servers.into_iter().map(|server| (server, 0)).collect(),
            covers: upto,
            upto,
        };
        // Marks that stay cost the next client a comparison, nothing more.
        if let Err(stop) = inner.flush_servers(&lease, &plan).await {
            tracing::debug!("telling the chunk servers that all is stable: {stop:?}");
        }
    }
}

impl Inner {
    /// One flush under one epoch.
    pub(crate) async fn flush_under(&self, lease: &Rc<Lease>) -> Result<(), Stop> {
        // What earlier epochs have left in doubt is settled, and so flushed, first.
        loop {
            let settled = lease.settled_all.notified();
            if lease.is_all_settled() {
                break;
            }
            until_broken(lease, settled).await?;
        }
        let plan = lease.window.borrow().plan();
        self.flush_servers(lease, &plan).await?;
        lease.window.borrow_mut().flushed(&plan);
        lease.prune_unstable();
        Ok(())
    }

    async fn flush_servers(&self, lease: &Rc<Lease>, plan: &FlushPlan) -> Result<(), Stop> {
        let flushes = plan.servers.iter().map(|&(server, _)| {
            let future: Pin<Box<dyn Future<Output = _> + '_>> =
                Box::pin(self.flush_server(lease, server, plan.upto));
            future
        });
        all(flushes).await.map(drop)
    }

    pub(crate) async fn flush_server(
        &self,
        lease: &Rc<Lease>,
        server: u64,
        upto_seq: u64,
    ) -> Result<(), Stop> {
        let server = self.servers.get(server);
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
            flush.encode(&mut body);
            Message { op: Op::Flush, body, payload: None, reply_bytes: 0 }
        };
        let refused = |text: String| VolumeError::Refused { cs: server.id(), text };
        match self.request(lease, &server, &message).await? {
            Ok(reply) => {
                let reply = FlushReply::decode(&reply.body).map_err(|error| refused(error.to_string()))?;
                if !lease.same_boot(server.id(), reply.boot_id) {
                    lease.break_off();
                    return Err(Stop::Broken);
                }
                Ok(())
            }
            Err(failed) => {
                // The server's device failed: its replicas are lost, the others may still have everything.
                tracing::error!(
                    "chunk server {} cannot flush: {}: {}",
                    server.id(),
                    failed.status,
                    failed.text
                );
                lease.break_off();
                Err(Stop::Broken)
            }
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
