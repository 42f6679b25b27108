//! Which part this member plays, and since when.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rt::sync::Notify;

use super::peers::Peer;

/// The part a member plays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It follows another one, or looks for one.
    Follower {
        /// The newest term it knows.
        term: u64,
        /// The leader, if it knows one.
        leader: Option<Peer>,
    },
    /// It leads, and its state has everything that was committed before. Each reign has a term of its own, also that of
    /// one member before and after a restart.
    Leader {
        /// The term.
        term: u64,
    },
    /// It has stopped and will not do anything more.
    Stopped,
}

impl Role {
    /// Whether it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self, Self::Leader { .. })
    }

    /// Who leads, if that is another member.
    #[must_use]
    pub fn other_leader(&self) -> Option<&Peer> {
        match self {
            Self::Follower { leader, .. } => leader.as_ref(),
            _ => None,
        }
    }
}

/// The role as it is now, and a signal when it changes.
#[derive(Debug)]
pub(super) struct Roles {
    role: RefCell<Role>,
    version: Cell<u64>,
    changed: Notify,
}

impl Roles {
    pub(super) fn new() -> Rc<Self> {
        let role = RefCell::new(Role::Follower { term: 0, leader: None });
        Rc::new(Self { role, version: Cell::new(0), changed: Notify::new() })
    }

    pub(super) fn get(&self) -> Role {
        self.role.borrow().clone()
    }

    /// Changes the role; the end is final.
    pub(super) fn set(&self, role: Role) {
        let mut now = self.role.borrow_mut();
        if *now == role || *now == Role::Stopped {
            return;
        }
        *now = role;
        drop(now);
        self.version.set(self.version.get() + 1);
        self.changed.notify_all();
    }
}

/// The changes of a member's role from a moment on.
#[derive(Debug)]
pub struct RoleWatch {
    roles: Rc<Roles>,
    seen: Option<u64>,
}

impl RoleWatch {
    pub(super) fn new(roles: Rc<Roles>) -> Self {
        Self { roles, seen: None }
    }

    /// The role now when called first, later the next role that is another one than the last given. Roles that did not last
    /// until this was called may be left out. After [`Role::Stopped`] it waits for ever.
    pub async fn next(&mut self) -> Role {
        loop {
            let changed = self.roles.changed.notified();
            let version = self.roles.version.get();
            if self.seen != Some(version) {
                self.seen = Some(version);
                return self.roles.get();
            }
            changed.await;
        }
    }
}
