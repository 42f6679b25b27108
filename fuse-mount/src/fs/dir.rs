//! Listing directories, page by page.
//!
//! The kernel counts entries: 0 and 1 are `.` and `..`, the others follow in the order of their names. It goes on where it
//! was, begins anew, or goes back to a place it has been at; so the name before each page is kept, and of the
//! entries only one page.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use rt::time::Instant;
use wire::inode::{DirEntry, Inode, ReadDir};
use wire::namespace::FileKind;

use super::{Answer, Fs, Handle, LIFETIME};
use crate::errno::Errno;
use crate::kernel::{Attr, Listing};

/// Entries before the first name.
const DOTS: u64 = 2;

/// A directory that is being listed.
#[derive(Debug)]
pub(super) struct Directory {
    id: u64,
    /// For each page but the first the number of its first entry and the name before it, ascending.
    starts: RefCell<Vec<(u64, Vec<u8>)>>,
    page: RefCell<Option<Rc<Page>>>,
    parent: Cell<u64>,
}

#[derive(Debug)]
struct Page {
    /// Number of the first entry.
    first: u64,
    entries: Vec<DirEntry>,
    more: bool,
    /// When it was asked for: it is no newer.
    asked: Instant,
}

impl Page {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

impl Fs {
    /// Opens a directory.
    pub(super) fn open_directory(&self, ino: u64) -> Answer<u64> {
        let node = self.node(ino)?;
        if node.inode().kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let directory = Directory {
            id: node.id,
            starts: RefCell::default(),
            page: RefCell::default(),
            parent: Cell::new(node.id),
        };
        Ok(self.add_handle(Handle::Directory(Rc::new(directory))))
    }

    pub(super) fn release_directory(&self, fh: u64) -> Answer<()> {
        self.directory(fh)?;
        self.forget_directory(fh);
        Ok(())
    }

    /// Drops the handle of a directory.
    pub(super) fn forget_directory(&self, fh: u64) {
        self.handles.borrow_mut().remove(&fh);
    }

    /// The entries from number `offset` on, as many as there is room for; with `plus` also their attributes, and the kernel counts
    /// on each of them but the dots.
    pub(super) async fn read_directory(
        &self,
        fh: u64,
        offset: u64,
        room: u32,
        plus: bool,
    ) -> Answer<Listing> {
        let directory = self.directory(fh)?;
        if offset == 0 {
            directory.starts.borrow_mut().clear();
            *directory.page.borrow_mut() = None;
        }
        let mut listing = Listing::new(room, plus);
        // The first page says who is above.
        let mut page = self.page(&directory, offset.max(DOTS)).await?;
        let dots: [(u64, &[u8]); 2] = [(directory.id, b"."), (directory.parent.get(), b"..")];
        for number in offset..DOTS {
            let (id, name) = dots[number as usize];
            let inode = Inode { id, kind: FileKind::Directory.into(), ..Inode::default() };
            let attr = Attr { ino: self.nodes.ino(id), inode, valid: Duration::ZERO };
            if !listing.add(&attr, name, number + 1, Duration::ZERO, false) {
                return Ok(listing);
            }
        }
        let mut number = offset.max(DOTS);
        let mut any = false;
        loop {
            for entry in page.entries.iter().skip((number - page.first) as usize) {
                number += 1;
                if !self.list(&mut listing, &page, entry, number, plus) {
                    return Ok(listing);
                }
                any = true;
            }
            if any || !page.more {
                return Ok(listing);
            }
            page = self.page(&directory, number).await?;
        }
    }

    /// Adds an entry; false if there is no room. A page may be as old as whoever lists is slow: the kernel may go by what it says no
    /// longer than by an answer that is asked for now, and it changes nothing that is known better here.
    fn list(&self, listing: &mut Listing, page: &Page, entry: &DirEntry, next: u64, plus: bool) -> bool {
        let ino = self.nodes.ino(entry.inode.id);
        let valid = LIFETIME.saturating_sub(page.asked.elapsed());
        if !plus {
            return listing.add(&Attr { ino, inode: entry.inode, valid }, &entry.name, next, valid, false);
        }
        let node = self.nodes.learn(&entry.inode, page.asked);
        let added = listing.add(&node.attr(ino), &entry.name, next, valid, true);
        if added {
            self.nodes.count(&node);
        } else {
            self.nodes.let_go(&node);
        }
        added
    }

    /// The page with entry `number`, or the last one.
    async fn page(&self, directory: &Directory, number: u64) -> Answer<Rc<Page>> {
        loop {
            let known = directory.page.borrow().clone();
            if let Some(page) = known
                && page.first <= number
                && (number < page.end() || !page.more)
            {
                // Behind the end there is nothing.
                return Ok(page);
            }
            let (first, after) = {
                let starts = directory.starts.borrow();
                let before = starts.iter().rev().find(|(first, _)| *first <= number);
                before.cloned().unwrap_or((DOTS, Vec::new()))
            };
            let asked = rt::time::now();
            let request = ReadDir { id: directory.id, after, limit: 0 };
            let reply = match self.meta.ask(&request).await {
                Ok(reply) => reply,
                // Removed while it is open: empty.
                Err(error) if error.code() == libc::ENOENT => {
                    wire::inode::ReadDirReply { parent: directory.id, ..Default::default() }
                }
                Err(error) => return Err(error),
            };
            directory.parent.set(reply.parent);
            let more = reply.more && !reply.entries.is_empty();
            let page = Page { first, more, entries: reply.entries, asked };
            if page.more
                && let Some(last) = page.entries.last()
            {
                let mut starts = directory.starts.borrow_mut();
                if starts.last().is_none_or(|(start, _)| *start < page.end()) {
                    starts.push((page.end(), last.name.clone()));
                }
            }
            *directory.page.borrow_mut() = Some(Rc::new(page));
        }
    }
}
