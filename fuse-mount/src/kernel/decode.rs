//! From bytes to requests.

use rt::buf::View;

use super::abi::{Arguments, FSYNC_DATA, IN_HEADER, Short, WRITE_CACHE, fattr, opcode};
use super::request::{AttrChange, Making, Owner, Request, TimeChange, Writing};

/// What stands before every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) ino: u64,
    pub(super) owner: Owner,
    /// The thread that asks.
    pub(super) thread: u32,
}

impl Header {
    /// Reads it.
    ///
    /// # Errors
    /// [`Short`].
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Short> {
        let mut header = Arguments(bytes.get(..IN_HEADER).ok_or(Short)?);
        header.skip(4)?;
        Ok(Self {
            opcode: header.u32()?,
            unique: header.u64()?,
            ino: header.u64()?,
            owner: Owner { uid: header.u32()?, gid: header.u32()? },
            thread: header.u32()?,
        })
    }
}

/// Reads a write's arguments; its data is kept elsewhere.
///
/// # Errors
/// [`Short`].
pub(super) fn write(header: &Header, bytes: &[u8], data: View) -> Result<Request, Short> {
    let mut arguments = Arguments(bytes);
    let (fh, offset, size) = (arguments.u64()?, arguments.u64()?, arguments.u32()?);
    let from_cache = arguments.u32()? & WRITE_CACHE != 0;
    if size as usize != data.len() {
        return Err(Short);
    }
    Ok(Request::Write(Writing { fh, offset, data, from_cache, uid: header.owner.uid }))
}

/// Reads the arguments of every other request.
///
/// # Errors
/// [`Short`].
pub(super) fn request(header: &Header, bytes: &[u8]) -> Result<Request, Short> {
    let mut a = Arguments(bytes);
    let ino = header.ino;
    Ok(match header.opcode {
        opcode::LOOKUP => Request::Lookup { parent: ino, name: a.name()? },
        opcode::FORGET => Request::Forget { inodes: vec![(ino, a.u64()?)] },
        opcode::BATCH_FORGET => {
            let count = a.u32()?;
            a.skip(4)?;
            let inodes = (0..count).map(|_| Ok((a.u64()?, a.u64()?))).collect::<Result<_, Short>>()?;
            Request::Forget { inodes }
        }
        opcode::INTERRUPT => Request::Interrupt { unique: a.u64()? },
        opcode::GETATTR => Request::GetAttr { ino },
        opcode::SETATTR => Request::SetAttr { ino, change: attributes(&mut a)? },
        opcode::READLINK => Request::ReadLink { ino },
        opcode::SYMLINK | opcode::MKNOD | opcode::MKDIR | opcode::CREATE => make(header, &mut a)?,
        opcode::UNLINK => Request::Remove { parent: ino, name: a.name()?, directory: false },
        opcode::RMDIR => Request::Remove { parent: ino, name: a.name()?, directory: true },
        opcode::RENAME | opcode::RENAME2 => {
            let to = a.u64()?;
            let mut flags = 0;
            if header.opcode == opcode::RENAME2 {
                flags = a.u32()?;
                a.skip(4)?;
            }
            let from = (ino, a.name()?);
            Request::Rename { from, to: (to, a.name()?), flags }
        }
        opcode::LINK => Request::Link { ino: a.u64()?, parent: ino, name: a.name()? },
        opcode::OPEN => Request::Open { ino, flags: a.u32()?.cast_signed() },
        opcode::READ => Request::Read { fh: a.u64()?, offset: a.u64()?, len: a.u32()? },
        opcode::FLUSH => Request::Flush { fh: a.u64()? },
        opcode::RELEASE => Request::Release { fh: a.u64()? },
        opcode::FSYNC => Request::Sync { fh: a.u64()?, data_only: a.u32()? & FSYNC_DATA != 0 },
        opcode::OPENDIR => Request::OpenDir { ino },
        opcode::READDIR | opcode::READDIRPLUS => Request::ReadDir {
            fh: a.u64()?,
            offset: a.u64()?,
            room: a.u32()?,
            plus: header.opcode == opcode::READDIRPLUS,
        },
        opcode::RELEASEDIR => Request::ReleaseDir { fh: a.u64()? },
        // Whatever the metadata server has answered is durable (C12).
        opcode::FSYNCDIR => Request::SyncDir,
        opcode::STATFS => Request::StatFs,
        opcode::SETXATTR => {
            let (size, flags) = (a.u32()?, a.u32()?.cast_signed());
            let name = a.name()?;
            Request::SetXattr { ino, name, value: a.bytes(size as usize)?.to_vec(), flags }
        }
        opcode::GETXATTR => {
            let room = a.u32()?;
            a.skip(4)?;
            Request::GetXattr { ino, name: a.name()?, room }
        }
        opcode::LISTXATTR => Request::ListXattrs { ino, room: a.u32()? },
        opcode::REMOVEXATTR => Request::RemoveXattr { ino, name: a.name()? },
        opcode::FALLOCATE => {
            Request::Allocate { fh: a.u64()?, offset: a.u64()?, len: a.u64()?, mode: a.u32()?.cast_signed() }
        }
        opcode::LSEEK => {
            Request::Seek { fh: a.u64()?, offset: a.u64()?.cast_signed(), whence: a.u32()?.cast_signed() }
        }
        opcode::IOCTL => Request::Refused { errno: libc::ENOTTY },
        // The kernel copies by reading and writing then.
        opcode::COPY_FILE_RANGE => Request::Refused { errno: libc::EOPNOTSUPP },
        // Permissions (`default_permissions`) and locks are the kernel's own matter; it does not ask again.
        _ => Request::Refused { errno: libc::ENOSYS },
    })
}

fn make(header: &Header, a: &mut Arguments<'_>) -> Result<Request, Short> {
    let (mut mode, mut rdev, mut flags, mut target) = (0, 0, 0, Vec::new());
    match header.opcode {
        opcode::CREATE => {
            flags = a.u32()?.cast_signed();
            mode = a.u32()? & 0o7777 | libc::S_IFREG;
            a.skip(8)?;
        }
        opcode::MKNOD => {
            (mode, rdev) = (a.u32()?, a.u32()?);
            a.skip(8)?;
        }
        opcode::MKDIR => {
            mode = a.u32()? & 0o7777 | libc::S_IFDIR;
            a.skip(4)?;
        }
        _ => {}
    }
    let name = a.name()?;
    if header.opcode == opcode::SYMLINK {
        mode = 0o777 | libc::S_IFLNK;
        target = a.name()?;
    }
    let making = Making { parent: header.ino, name, mode, rdev, owner: header.owner, target };
    Ok(match header.opcode {
        opcode::CREATE => Request::Create { making, flags },
        _ => Request::Make { making },
    })
}

fn attributes(a: &mut Arguments<'_>) -> Result<AttrChange, Short> {
    let valid = a.u32()?;
    a.skip(4 + 8)?;
    let size = a.u64()?;
    a.skip(8)?;
    let seconds = [a.u64()?, a.u64()?, a.u64()?].map(u64::cast_signed);
    let nanos = [a.u32()?, a.u32()?, a.u32()?];
    let mode = a.u32()?;
    a.skip(4)?;
    let (uid, gid) = (a.u32()?, a.u32()?);
    let has = |flag| valid & flag != 0;
    // What 64 bits of nanoseconds cannot hold becomes the nearest they can.
    let ns = |at: usize| seconds[at].saturating_mul(1_000_000_000).saturating_add(i64::from(nanos[at]));
    let time = |set, now, at| match (has(set), has(now)) {
        (true, true) => Some(TimeChange::Now),
        (true, false) => Some(TimeChange::To(ns(at))),
        (false, _) => None,
    };
    Ok(AttrChange {
        mode: has(fattr::MODE).then_some(mode),
        uid: has(fattr::UID).then_some(uid),
        gid: has(fattr::GID).then_some(gid),
        size: has(fattr::SIZE).then_some(size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, 0),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, 1),
        ctime_ns: has(fattr::CTIME).then(|| ns(2)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(opcode: u32) -> Header {
        Header { opcode, unique: 7, ino: 5, owner: Owner { uid: 1, gid: 2 }, thread: 99 }
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn headers_are_read() {
        // len, opcode, unique, nodeid, uid, gid, pid, padding; little-endian halves.
        let bytes = words(&[40, opcode::OPEN, 7, 0, 5, 0, 1, 2, 99, 0]);
        assert_eq!(Header::read(&bytes), Ok(header(opcode::OPEN)));
        assert_eq!(Header::read(&bytes[..39]), Err(Short));
    }

    #[test]
    fn renames_have_two_names() {
        let mut bytes = words(&[9, 0, 2, 0]);
        bytes.extend_from_slice(b"old\0new\0");
        let Ok(Request::Rename { from, to, flags }) = request(&header(opcode::RENAME2), &bytes) else {
            panic!("a rename")
        };
        assert_eq!((from, to, flags), ((5, b"old".to_vec()), (9, b"new".to_vec()), 2));
        assert!(request(&header(opcode::RENAME2), &bytes[..22]).is_err(), "the last NUL is missing");
    }

    #[test]
    fn times_before_1970_are_read() {
        let mut bytes = words(&[fattr::MTIME | fattr::ATIME | fattr::ATIME_NOW, 0, 0, 0, 0, 0, 0, 0]);
        for seconds in [0i64, -1, 0] {
            bytes.extend_from_slice(&seconds.to_ne_bytes());
        }
        bytes.extend(words(&[0, 500_000_000, 0, 0, 0, 0, 0, 0]));
        let Ok(Request::SetAttr { change, .. }) = request(&header(opcode::SETATTR), &bytes) else {
            panic!("a change")
        };
        let expected = AttrChange {
            mtime: Some(TimeChange::To(-500_000_000)),
            atime: Some(TimeChange::Now),
            ..AttrChange::default()
        };
        assert_eq!(change, expected);
    }

    #[test]
    fn short_requests_are_refused_and_strange_ones_answered() {
        for opcode in 1..60 {
            // Whatever comes, nothing panics.
            let _any = request(&header(opcode), &[0; 8]);
            let _any = request(&header(opcode), b"");
        }
        assert!(matches!(request(&header(4096), b""), Ok(Request::Refused { errno: libc::ENOSYS })));
        assert!(write(&header(opcode::WRITE), &words(&[1, 0, 0, 0, 9, 0]), View::empty()).is_err());
    }
}
