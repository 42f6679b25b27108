//! The threads that read the kernel's requests: they decode and hand over, and never wait for the cluster.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow,
    WriteFlags,
};
use rt::mailbox::Sender;

use crate::clock;
use crate::request::{AttrChange, Making, Owner, Request};

/// Most bytes of one write, and of one read.
pub(crate) const TRANSFER_MAX: u32 = 1 << 20;
/// Requests for readahead and asynchronous I/O that the kernel has under way at once.
const BACKGROUND_MAX: u16 = 128;

/// How the kernel is to treat the file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// The kernel may keep written data to itself for a while.
    pub(crate) writeback: bool,
    /// Bytes it may read ahead.
    pub(crate) readahead_max: u32,
}

/// The kernel's side of the file system.
#[derive(Debug)]
pub(crate) struct Bridge {
    mailbox: Sender<Request>,
    manner: Manner,
}

impl Bridge {
    pub(crate) fn new(mailbox: Sender<Request>, manner: Manner) -> Self {
        Self { mailbox, manner }
    }

    /// Hands a request over; waits while the mailbox is full. When nobody takes requests any more it is dropped, which
    /// answers it with EIO.
    fn pass(&self, request: Request) {
        if let Err(request) = self.mailbox.try_send(request) {
            // Closed: dropped.
            let _closed = block_on(self.mailbox.send(request));
        }
    }
}

/// Runs a future on this thread, which sleeps meanwhile.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn bytes(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

fn making(request: &fuser::Request, parent: INodeNo, name: &OsStr, mode: u32) -> Making {
    let owner = Owner { uid: request.uid(), gid: request.gid() };
    Making { parent: parent.0, name: bytes(name), mode, rdev: 0, owner, target: Vec::new() }
}

impl Filesystem for Bridge {
    fn init(&mut self, _request: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = vec![
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ];
        if self.manner.writeback {
            wanted.push(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        for flag in wanted {
            // An older kernel does without.
            let _lacking = config.add_capabilities(flag);
        }
        // Each is within what the kernel takes, or becomes the most it does.
        let _most = config.set_max_write(TRANSFER_MAX);
        if let Err(most) = config.set_max_readahead(self.manner.readahead_max.max(1)) {
            let _most = config.set_max_readahead(most);
        }
        let _most = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.pass(Request::Lookup { parent: parent.0, name: bytes(name), reply });
    }

    fn forget(&self, _: &fuser::Request, ino: INodeNo, lookups: u64) {
        self.pass(Request::Forget { inodes: vec![(ino.0, lookups)] });
    }

    fn getattr(&self, _: &fuser::Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.pass(Request::GetAttr { ino: ino.0, reply });
    }

    fn setattr(
        &self,
        _: &fuser::Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let ctime_ns = ctime.map(clock::from_kernel);
        let change = AttrChange { mode, uid, gid, size, atime, mtime, ctime_ns };
        self.pass(Request::SetAttr { ino: ino.0, change, reply });
    }

    fn readlink(&self, _: &fuser::Request, ino: INodeNo, reply: ReplyData) {
        self.pass(Request::ReadLink { ino: ino.0, reply });
    }

    fn mknod(
        &self,
        request: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let making = Making { rdev, ..making(request, parent, name, mode) };
        self.pass(Request::Make { making, reply });
    }

    fn mkdir(
        &self,
        request: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let making = making(request, parent, name, mode & 0o7777 | libc::S_IFDIR);
        self.pass(Request::Make { making, reply });
    }

    fn symlink(
        &self,
        request: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let making = Making {
            target: bytes(target.as_os_str()),
            ..making(request, parent, name, libc::S_IFLNK | 0o777)
        };
        self.pass(Request::Make { making, reply });
    }

    fn create(
        &self,
        request: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let making = making(request, parent, name, mode & 0o7777 | libc::S_IFREG);
        self.pass(Request::Create { making, flags, reply });
    }

    fn unlink(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.pass(Request::Remove { parent: parent.0, name: bytes(name), directory: false, reply });
    }

    fn rmdir(&self, _: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.pass(Request::Remove { parent: parent.0, name: bytes(name), directory: true, reply });
    }

    fn rename(
        &self,
        _: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, bytes(name)), (new_parent.0, bytes(new_name)));
        self.pass(Request::Rename { from, to, flags: flags.bits(), reply });
    }

    fn link(&self, _: &fuser::Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.pass(Request::Link { ino: ino.0, parent: parent.0, name: bytes(name), reply });
    }

    fn open(&self, _: &fuser::Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.pass(Request::Open { ino: ino.0, flags: flags.0, reply });
    }

    fn read(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.pass(Request::Read { fh: fh.0, offset, len, reply });
    }

    fn write(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.pass(Request::Write { fh: fh.0, offset, data: data.to_vec(), reply });
    }

    fn flush(&self, _: &fuser::Request, _: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.pass(Request::Flush { fh: fh.0, reply });
    }

    fn release(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.pass(Request::Release { fh: fh.0, reply });
    }

    fn fsync(&self, _: &fuser::Request, _: INodeNo, fh: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.pass(Request::Sync { fh: fh.0, data_only, reply });
    }

    fn opendir(&self, _: &fuser::Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.pass(Request::OpenDir { ino: ino.0, reply });
    }

    fn readdir(&self, _: &fuser::Request, _: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.pass(Request::ReadDir { fh: fh.0, offset, reply });
    }

    fn readdirplus(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.pass(Request::ReadDirPlus { fh: fh.0, offset, reply });
    }

    fn releasedir(&self, _: &fuser::Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.pass(Request::ReleaseDir { fh: fh.0, reply });
    }

    fn fsyncdir(&self, _: &fuser::Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // Whatever the metadata server has answered is durable (C12).
        reply.ok();
    }

    fn statfs(&self, _: &fuser::Request, _: INodeNo, reply: ReplyStatfs) {
        self.pass(Request::StatFs { reply });
    }

    fn setxattr(
        &self,
        _: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.pass(Request::SetXattr { ino: ino.0, name: bytes(name), value: value.to_vec(), flags, reply });
    }

    fn getxattr(&self, _: &fuser::Request, ino: INodeNo, name: &OsStr, room: u32, reply: ReplyXattr) {
        self.pass(Request::GetXattr { ino: ino.0, name: bytes(name), room, reply });
    }

    fn listxattr(&self, _: &fuser::Request, ino: INodeNo, room: u32, reply: ReplyXattr) {
        self.pass(Request::ListXattrs { ino: ino.0, room, reply });
    }

    fn removexattr(&self, _: &fuser::Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.pass(Request::RemoveXattr { ino: ino.0, name: bytes(name), reply });
    }

    fn fallocate(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.pass(Request::Allocate { fh: fh.0, offset, len, mode, reply });
    }

    fn lseek(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.pass(Request::Seek { fh: fh.0, offset, whence, reply });
    }

    fn ioctl(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: fuser::IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn access(&self, _: &fuser::Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions (`default_permissions`); it is not to ask again.
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _: &fuser::Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel copies by reading and writing then.
        reply.error(Errno::EOPNOTSUPP);
    }
}
