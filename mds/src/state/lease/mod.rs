//! The lease of one file: who may use it, at which epoch (C1, C2).
//!
//! A [`Lease`] is a small machine without clock, network or knowledge of other files. Every box below is a
//! [`Phase`]; every arrow that leads into a held phase is a *grant*.
//!
//! ```text
//!                         open                               open, nobody to fence
//!      ┌─────────── Idle ──────────▶ Exclusive ◀───────────────────── Unclean ◀─────┐
//!      │              ▲               or Shared                          │          │
//!      │              │                 │  │ ▲                            │ open     │
//!      │   last end   │                 │  │ │ open                       ▼          │
//!      │   was clean  └─────────────────┘  │ └────────── Fenced ◀─── Fencing         │
//!      │                                   │                 last chunk server       │
//!      │                                   │                 recorded or lapsed      │
//!      │                                   └─────────────────────────────────────────┘
//!      └ (a new file)                         end without a flush, expiry, revocation
//! ```
//!
//! - Every grant that is not a reader joining readers has a new epoch. An epoch is prepared once: the grant after
//!   fencing has the very epoch the chunk servers recorded, so no grant is ever below a recorded fence.
//! - The fence belongs to the file, not to who asked for it: if that client goes away, the next one profits.
//! - While nobody holds the file it may be kept for one client: a named successor (hand-over), or a client whose
//!   daemon was restarted, or one that opens it anew.
//! - A reader writes nothing, so only the end of a writer makes replicas suspect; but an unclean reader is fenced
//!   like a writer, since it may still be reading.
//! - While chunks are to be reconciled (C5) a reader is alone, because exactly one client reconciles at an epoch.

#[cfg(test)]
mod tests;

use super::command::LeaseMode;
use super::ids::{ClientId, CsId, Epoch};

/// How many clients may have a lease back. Those with the lowest ids, which are the longest gone, are forgotten first: for them
/// it is lost.
const RESUMABLE_MAX: usize = 1024;

/// Where a lease stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nobody holds it; the last holder, if any, released it after a flush.
    Idle,
    /// Nobody holds it, and the last holder may still have requests under way.
    Unclean,
    /// The next epoch is prepared; these chunk servers have neither recorded it nor lapsed. Never empty, sorted.
    Fencing {
        /// Who is missing.
        waiting: Vec<CsId>,
    },
    /// Nobody holds it; nothing below the prepared epoch gets through any more.
    Fenced,
    /// One client may write.
    Exclusive {
        /// Which.
        holder: ClientId,
    },
    /// Clients may read. Never empty, sorted.
    Shared {
        /// Which.
        readers: Vec<ClientId>,
        /// A reader of this epoch left without saying that it has nothing under way.
        unclean: bool,
    },
}

impl Phase {
    /// Whether anybody holds the lease.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Exclusive { .. } | Self::Shared { .. })
    }
}

/// How a client's lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Released after a flush, nothing under way.
    Clean,
    /// Released, but not so.
    Dirty,
    /// Not renewed in time.
    Expired,
    /// The client's daemon was restarted.
    TakenOver,
    /// The client gives it up to have it anew at a higher epoch.
    Reopened,
    /// Taken away by the operator.
    Revoked,
}

/// What a client gets that asks for the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds the lease, at the lease's epoch.
    Granted,
    /// Others do; or the lease is kept for another.
    Held {
        /// Who.
        by: Vec<ClientId>,
        /// They do not hold it, it is kept for them.
        reserved: bool,
    },
    /// Chunk servers are recording the epoch.
    Fencing,
    /// It cannot be resumed: somebody else was granted since, or it was revoked.
    Lost,
}

/// What a lease needs to know to judge a request.
#[derive(Clone, Copy)]
pub struct Circumstances<'a> {
    /// The cluster generation (C12).
    pub generation: u16,
    /// Chunks of the file are to be reconciled (C5).
    pub needs_reconcile: bool,
    /// Whether a client has a live session: for one that has none nothing is kept.
    pub is_live: &'a dyn Fn(ClientId) -> bool,
    /// The chunk servers that hold chunks of the file and have not lapsed. Asked only if there must be a fence.
    pub to_fence: &'a dyn Fn() -> Vec<CsId>,
}

/// The lease of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    epoch: Epoch,
    phase: Phase,
    /// Only while not held.
    reserved_for: Option<ClientId>,
    /// Clients that may still have the lease back, sorted.
    resumable: Vec<ClientId>,
}

impl Default for Lease {
    fn default() -> Self {
        Self { epoch: Epoch::ZERO, phase: Phase::Idle, reserved_for: None, resumable: Vec::new() }
    }
}

impl Lease {
    /// The highest epoch that was granted or prepared. It only grows (C1).
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Where it stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The client it is kept for, while nobody holds it.
    pub fn reserved_for(&self) -> Option<ClientId> {
        self.reserved_for
    }

    /// Clients that may have it back (C1).
    pub fn resumable(&self) -> &[ClientId] {
        &self.resumable
    }

    /// The clients that hold it.
    pub fn holders(&self) -> &[ClientId] {
        match &self.phase {
            Phase::Exclusive { holder } => std::slice::from_ref(holder),
            Phase::Shared { readers, .. } => readers,
            Phase::Idle | Phase::Unclean | Phase::Fencing { .. } | Phase::Fenced => &[],
        }
    }

    /// What this client holds.
    pub fn mode_of(&self, client: ClientId) -> Option<LeaseMode> {
        match &self.phase {
            Phase::Exclusive { holder } if *holder == client => Some(LeaseMode::Exclusive),
            Phase::Shared { readers, .. } if readers.contains(&client) => Some(LeaseMode::Shared),
            _ => None,
        }
    }

    /// A client asks for the lease.
    pub(super) fn open(&mut self, client: ClientId, mode: LeaseMode, now: Circumstances<'_>) -> Verdict {
        if let Some(owner) = self.reserved_for
            && owner != client
            && (now.is_live)(owner)
        {
            return Verdict::Held { by: vec![owner], reserved: true };
        }
        match (&mut self.phase, mode) {
            (Phase::Idle, _) => {
                self.epoch = self.epoch.next(now.generation);
                self.grant(client, mode)
            }
            (Phase::Unclean, _) => {
                self.epoch = self.epoch.next(now.generation);
                let mut waiting = (now.to_fence)();
                waiting.sort_unstable();
                if waiting.is_empty() {
                    return self.grant(client, mode);
                }
                self.phase = Phase::Fencing { waiting };
                Verdict::Fencing
            }
            (Phase::Fencing { .. }, _) => Verdict::Fencing,
            (Phase::Fenced, _) => self.grant(client, mode),
            // The same process asks again: its answer was lost.
            (Phase::Exclusive { holder }, LeaseMode::Exclusive) if *holder == client => Verdict::Granted,
            (Phase::Shared { readers, .. }, LeaseMode::Shared) if readers.contains(&client) => {
                Verdict::Granted
            }
            (Phase::Shared { readers, .. }, LeaseMode::Shared) if !now.needs_reconcile => {
                let at = readers.partition_point(|reader| *reader < client);
                readers.insert(at, client);
                self.resumable.retain(|other| *other != client);
                Verdict::Granted
            }
            (Phase::Exclusive { .. } | Phase::Shared { .. }, _) => {
                Verdict::Held { by: self.holders().to_vec(), reserved: false }
            }
        }
    }

    /// A client asks for the lease back that it lost without its will, or gave up to have it anew (C1).
    ///
    /// It gets it like anybody else, fence and all; but never after somebody else had it.
    pub(super) fn resume(&mut self, client: ClientId, mode: LeaseMode, now: Circumstances<'_>) -> Verdict {
        if self.mode_of(client) == Some(mode) {
            return Verdict::Granted;
        }
        if !self.resumable.contains(&client) {
            return Verdict::Lost;
        }
        self.open(client, mode, now)
    }

    fn grant(&mut self, client: ClientId, mode: LeaseMode) -> Verdict {
        self.phase = match mode {
            LeaseMode::Exclusive => Phase::Exclusive { holder: client },
            LeaseMode::Shared => Phase::Shared { readers: vec![client], unclean: false },
        };
        self.reserved_for = None;
        self.resumable.clear();
        Verdict::Granted
    }

    /// A client's lease ends; returns what it held, `None` if nothing.
    pub(super) fn end(&mut self, client: ClientId, how: End) -> Option<LeaseMode> {
        let clean = how == End::Clean;
        let mode = self.mode_of(client)?;
        let free = |clean| if clean { Phase::Idle } else { Phase::Unclean };
        match &mut self.phase {
            Phase::Shared { readers, unclean } => {
                readers.retain(|reader| *reader != client);
                *unclean |= !clean;
                if readers.is_empty() {
                    self.phase = free(!*unclean);
                }
            }
            Phase::Exclusive { .. } => self.phase = free(clean),
            Phase::Idle | Phase::Unclean | Phase::Fencing { .. } | Phase::Fenced => return None,
        }
        if matches!(how, End::Expired | End::TakenOver | End::Reopened) {
            let at = self.resumable.partition_point(|other| *other < client);
            self.resumable.insert(at, client);
            let surplus = self.resumable.len().saturating_sub(RESUMABLE_MAX);
            self.resumable.drain(..surplus);
        }
        if matches!(how, End::TakenOver | End::Reopened) && !self.phase.is_held() {
            self.reserved_for = Some(client);
        }
        Some(mode)
    }

    /// Keeps a lease that nobody holds for one client (hand-over).
    pub(super) fn reserve(&mut self, client: ClientId) {
        assert!(!self.phase.is_held(), "a held lease is not kept for anybody");
        self.reserved_for = Some(client);
    }

    /// Gives up the reservation: its client is gone, or the operator says so.
    pub(super) fn clear_reservation(&mut self) {
        self.reserved_for = None;
    }

    /// A chunk server has drained requests below `epoch`, and recorded it or lapsed. Returns whether that was the
    /// last one.
    pub(super) fn drained(&mut self, cs: CsId, epoch: Epoch) -> bool {
        let Phase::Fencing { waiting } = &mut self.phase else { return false };
        if epoch < self.epoch {
            return false;
        }
        waiting.retain(|other| *other != cs);
        let last = waiting.is_empty();
        if last {
            self.phase = Phase::Fenced;
        }
        last
    }

    /// Nobody may have the lease back: the file changed while it was not held, or it was revoked.
    pub(super) fn forget_resumable(&mut self) {
        self.resumable.clear();
    }

    /// The metadata was restored from a backup: who was granted what since is unknown (C12). Held or not, the next
    /// grant needs a fence, at an epoch of the new generation.
    pub(super) fn doubt(&mut self) {
        self.phase = Phase::Unclean;
        self.reserved_for = None;
        self.resumable.clear();
    }

    /// Builds a lease from a snapshot.
    pub(super) fn restore(
        epoch: Epoch,
        phase: Phase,
        reserved_for: Option<ClientId>,
        resumable: Vec<ClientId>,
    ) -> Self {
        Self { epoch, phase, reserved_for, resumable }
    }

    /// Checks what must hold of every lease; says what does not.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let sorted = |clients: &[ClientId]| clients.windows(2).all(|pair| pair[0] < pair[1]);
        match &self.phase {
            Phase::Fencing { waiting } if waiting.is_empty() => {
                return Err("fencing without anybody to wait for");
            }
            Phase::Fencing { waiting } if !waiting.windows(2).all(|pair| pair[0] < pair[1]) => {
                return Err("waiting chunk servers out of order");
            }
            Phase::Shared { readers, .. } if readers.is_empty() || !sorted(readers) => {
                return Err("readers missing, twice or out of order");
            }
            _ => {}
        }
        if self.phase.is_held() && self.reserved_for.is_some() {
            return Err("held, and kept for somebody");
        }
        if self.phase != Phase::Idle && self.phase != Phase::Unclean && self.epoch == Epoch::ZERO {
            return Err("in use without an epoch");
        }
        if !sorted(&self.resumable) || self.holders().iter().any(|holder| self.resumable.contains(holder)) {
            return Err("resumable clients out of order, or holding");
        }
        Ok(())
    }
}
