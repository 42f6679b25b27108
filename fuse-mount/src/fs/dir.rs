//! Listing directories, page by page.
//!
//! The kernel counts entries: 0 and 1 are `.` and `..`, the others follow in the order of their names. It goes on where it
//! was, begins anew, or goes back to a place it has been at; so the name before each page is kept, and of the
//! entries only one page.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use fuser::{Errno, FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use std::os::unix::ffi::OsStrExt;
use wire::inode::{DirEntry, ReadDir};
use wire::namespace::FileKind;

use super::{Answer, Fs, Handle, LIFETIME, node};

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
}

impl Page {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

/// An entry as it is put into an answer.
struct Item<'a> {
    number: u64,
    ino: u64,
    kind: FileType,
    name: &'a [u8],
    entry: Option<&'a DirEntry>,
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
        self.handles.borrow_mut().remove(&fh);
        Ok(())
    }

    /// Fills an answer with names.
    pub(super) async fn read_directory(
        &self,
        fh: u64,
        offset: u64,
        reply: &mut ReplyDirectory,
    ) -> Answer<()> {
        self.walk(fh, offset, |item| {
            reply.add(INodeNo(item.ino), item.number + 1, item.kind, std::ffi::OsStr::from_bytes(item.name))
        })
        .await
    }

    /// Fills an answer with names and attributes; the kernel counts on each of them but the dots.
    pub(super) async fn read_directory_plus(
        &self,
        fh: u64,
        offset: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Answer<()> {
        let id = self.directory(fh)?.id;
        let own = self.nodes.by_id(id).ok_or(Errno::ESTALE)?;
        self.walk(fh, offset, |item| {
            let name = std::ffi::OsStr::from_bytes(item.name);
            let ino = INodeNo(item.ino);
            let node = item.entry.map(|entry| self.nodes.learn(&entry.inode));
            let attr = match &node {
                Some(node) => node.attr(item.ino),
                None => fuser::FileAttr { ino, ..own.attr(item.ino) },
            };
            let full = reply.add(ino, item.number + 1, name, &LIFETIME, &attr, Generation(0));
            if let Some(node) = node {
                if full {
                    self.nodes.let_go(&node);
                } else {
                    self.nodes.count(&node);
                }
            }
            full
        })
        .await
    }

    /// Gives the entries from number `offset` on to `put`, until that says that there is no more room.
    async fn walk(&self, fh: u64, offset: u64, mut put: impl FnMut(Item<'_>) -> bool) -> Answer<()> {
        let directory = self.directory(fh)?;
        if offset == 0 {
            directory.starts.borrow_mut().clear();
            *directory.page.borrow_mut() = None;
        }
        // The first page says who is above.
        let mut page = self.page(&directory, offset.max(DOTS)).await?;
        let dots: [(u64, &[u8]); 2] = [(directory.id, b"."), (directory.parent.get(), b"..")];
        for number in offset..DOTS {
            let (id, name) = dots[number as usize];
            let ino = self.nodes.ino(id);
            if put(Item { number, ino, kind: FileType::Directory, name, entry: None }) {
                return Ok(());
            }
        }
        let mut number = offset.max(DOTS);
        let mut any = false;
        loop {
            for entry in page.entries.iter().skip((number - page.first) as usize) {
                let item = Item {
                    number,
                    ino: self.nodes.ino(entry.inode.id),
                    kind: node::kind(entry.inode.kind()),
                    name: &entry.name,
                    entry: Some(entry),
                };
                if put(item) {
                    return Ok(());
                }
                any = true;
                number += 1;
            }
            if any || !page.more {
                return Ok(());
            }
            page = self.page(&directory, number).await?;
        }
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
            let page = Page { first, more: reply.more && !reply.entries.is_empty(), entries: reply.entries };
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
