//! Inodes that the kernel knows: each lives here as long as the kernel counts on it or a handle is open.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rt::time::Instant;
use wire::inode::Inode;

use super::file::MaybeOpen;
use super::{LIFETIME, ROOT};
use crate::kernel::Attr;

/// An inode.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u64,
    /// How often the kernel was told of it and has not forgotten it.
    lookups: Cell<u64>,
    inode: RefCell<Inode>,
    /// When that was asked for; `None` if it has changed since.
    known_at: Cell<Option<Instant>>,
    /// Answers to what was asked before may be older than what is known.
    changed_at: Cell<Instant>,
    /// It has no name any more and nothing holds it at the metadata server.
    gone: Cell<bool>,
    /// Until when it counts as having no capabilities, which the kernel asks for before each write.
    plain_until: Cell<Option<Instant>>,
    pub(super) open: MaybeOpen,
}

impl Node {
    fn new(inode: Inode, asked: Instant) -> Self {
        Self {
            id: inode.id,
            lookups: Cell::new(0),
            inode: RefCell::new(inode),
            known_at: Cell::new(Some(asked)),
            changed_at: Cell::new(asked),
            gone: Cell::new(false),
            plain_until: Cell::new(None),
            open: MaybeOpen::default(),
        }
    }

    /// What is known of it.
    pub(super) fn inode(&self) -> Inode {
        *self.inode.borrow()
    }

    pub(super) fn size(&self) -> u64 {
        self.inode.borrow().size
    }

    /// Changes what is known of it, ahead of the metadata server.
    pub(super) fn update(&self, change: impl FnOnce(&mut Inode)) {
        change(&mut self.inode.borrow_mut());
    }

    /// What is known of it, unless that is old.
    pub(super) fn fresh(&self) -> Option<Inode> {
        (!self.valid().is_zero()).then(|| self.inode())
    }

    /// How long what is known of it counts.
    fn valid(&self) -> Duration {
        if self.gone.get() {
            return LIFETIME;
        }
        self.known_at.get().map_or(Duration::ZERO, |at| LIFETIME.saturating_sub(at.elapsed()))
    }

    /// What is known of it is old, and so is what was asked for before now.
    pub(super) fn age(&self) {
        self.known_at.set(None);
        self.reject_older();
    }

    /// It has changed: what was asked for before now says nothing of that.
    pub(super) fn reject_older(&self) {
        self.changed_at.set(rt::time::now());
    }

    /// Notes whether it has no capabilities.
    pub(super) fn set_plain(&self, plain: bool) {
        self.plain_until.set(plain.then(|| rt::time::now() + LIFETIME));
    }

    /// Whether it is known to have no capabilities.
    pub(super) fn is_plain(&self) -> bool {
        self.plain_until.get().is_some_and(|until| rt::time::now() < until)
    }

    /// Its last name is gone, and so is it at the metadata server.
    pub(super) fn set_gone(&self) {
        self.gone.set(true);
        self.update(|inode| inode.nlink = 0);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Takes over what the metadata server said to a question of this moment, unless something newer is known. Of a file being
    /// written, size and times are known here first.
    pub(super) fn learn(&self, said: &Inode, asked: Instant) {
        if asked < self.changed_at.get() {
            return;
        }
        self.changed_at.set(asked);
        let mut inode = self.inode.borrow_mut();
        let known = *inode;
        *inode = *said;
        if self.open.is_writing() {
            inode.size = known.size;
            inode.allocated_bytes = said.allocated_bytes.max(known.allocated_bytes);
        }
        if self.open.is_dirty() {
            inode.mtime_ns = known.mtime_ns;
            inode.ctime_ns = known.ctime_ns.max(said.ctime_ns);
        }
        self.known_at.set(Some(asked));
    }

    /// Takes over what the metadata server answered to a change that is done.
    pub(super) fn learn_change(&self, said: &Inode) {
        self.learn(said, rt::time::now());
    }

    /// Its attributes, by its number at the kernel.
    pub(super) fn attr(&self, ino: u64) -> Attr {
        Attr { ino, inode: self.inode(), valid: self.valid() }
    }
}

/// All inodes known, by id.
#[derive(Debug)]
pub(super) struct Nodes {
    root: u64,
    nodes: RefCell<BTreeMap<u64, Rc<Node>>>,
}

impl Nodes {
    /// With the top directory, which is never forgotten.
    pub(super) fn new(root: Inode, asked: Instant) -> Self {
        let id = root.id;
        let node = Rc::new(Node::new(root, asked));
        node.lookups.set(1);
        Self { root: id, nodes: RefCell::new(BTreeMap::from([(id, node)])) }
    }

    /// The kernel calls the top directory 1, whatever its id; what has the id 1 gets that id instead.
    pub(super) fn ino(&self, id: u64) -> u64 {
        if id == self.root {
            ROOT
        } else if id == ROOT {
            self.root
        } else {
            id
        }
    }

    /// The id of what the kernel calls `ino`; the same exchange.
    pub(super) fn id(&self, ino: u64) -> u64 {
        self.ino(ino)
    }

    pub(super) fn get(&self, ino: u64) -> Option<Rc<Node>> {
        self.by_id(self.id(ino))
    }

    pub(super) fn by_id(&self, id: u64) -> Option<Rc<Node>> {
        self.nodes.borrow().get(&id).cloned()
    }

    /// Takes over what the metadata server said of an inode to a question of this moment.
    pub(super) fn learn(&self, inode: &Inode, asked: Instant) -> Rc<Node> {
        let mut nodes = self.nodes.borrow_mut();
        let node = nodes.entry(inode.id).or_insert_with(|| Rc::new(Node::new(*inode, asked)));
        node.learn(inode, asked);
        Rc::clone(node)
    }

    /// The kernel is told of an inode by its name. To be called before it is.
    pub(super) fn count(&self, node: &Rc<Node>) {
        node.lookups.set(node.lookups.get() + 1);
        // It may have been forgotten since it was learnt.
        self.nodes.borrow_mut().insert(node.id, Rc::clone(node));
    }

    /// The kernel has forgotten an inode `lookups` times.
    pub(super) fn forget(&self, ino: u64, lookups: u64) {
        let id = self.id(ino);
        let Some(node) = self.by_id(id) else { return };
        node.lookups.set(node.lookups.get().saturating_sub(lookups));
        self.let_go(&node);
    }

    /// Drops an inode that nobody counts on.
    pub(super) fn let_go(&self, node: &Node) {
        if node.lookups.get() == 0 && !node.open.is_open() && node.id != self.root {
            self.nodes.borrow_mut().remove(&node.id);
        }
    }

    pub(super) fn all(&self) -> Vec<Rc<Node>> {
        self.nodes.borrow().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rt::sim::{SimOptions, Simulation};

    fn inode(size: u64) -> Inode {
        Inode { id: 7, size, nlink: 1, ..Inode::default() }
    }

    #[test]
    fn attributes_are_as_old_as_the_question() {
        let run = Simulation::new(SimOptions::new(1)).run(async {
            let asked = rt::time::now();
            rt::time::sleep(LIFETIME / 4).await;
            let nodes = Nodes::new(Inode { id: 1, ..Inode::default() }, asked);
            let node = nodes.learn(&inode(10), asked);
            assert_eq!(node.attr(7).valid, LIFETIME * 3 / 4, "the answer took a while");
            rt::time::sleep(LIFETIME / 4).await;
            assert_eq!(node.attr(7).valid, LIFETIME / 2);
            rt::time::sleep(LIFETIME).await;
            assert_eq!((node.attr(7).valid, node.fresh()), (Duration::ZERO, None));
        });
        run.expect("it ends");
    }

    #[test]
    fn an_old_listing_changes_nothing_that_is_known_better() {
        let run = Simulation::new(SimOptions::new(1)).run(async {
            let listed = rt::time::now();
            let nodes = Nodes::new(Inode { id: 1, ..Inode::default() }, listed);
            let node = nodes.learn(&inode(0), listed);
            rt::time::sleep(LIFETIME / 8).await;
            node.learn_change(&inode(4096));
            rt::time::sleep(LIFETIME / 8).await;
            nodes.learn(&inode(0), listed);
            assert_eq!((node.size(), node.attr(7).valid), (4096, LIFETIME * 7 / 8), "changed since");
            rt::time::sleep(LIFETIME / 8).await;
            node.age();
            nodes.learn(&inode(0), listed);
            assert_eq!((node.size(), node.attr(7).valid), (4096, Duration::ZERO), "nothing new is known");
            nodes.learn(&inode(9), rt::time::now());
            assert_eq!((node.size(), node.attr(7).valid), (9, LIFETIME), "asked since");
        });
        run.expect("it ends");
    }
}
