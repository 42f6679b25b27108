//! The directory of a metadata server: who owns it, and that nobody else uses it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rt::fs::{self, File, OpenOptions};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::entry::NodeId;
use super::failure::{OpenError, Strangeness};
use super::record::crc;

const MAGIC: [u8; 8] = *b"vstorMDI";
const VERSION: u32 = 1;
const LEN: usize = 64;
/// How long to wait for the lock: that of a killed process falls only after its last operation has ended (C10).
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_POLL: Duration = Duration::from_millis(20);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    reserved: [u8; 4],
    uuid: [u8; 16],
    node: U64,
    more: [u8; 20],
    crc: U32,
}

const _: () = assert!(size_of::<Raw>() == LEN);

/// Who a directory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Drawn when the directory was created; every file in it carries it.
    pub uuid: [u8; 16],
    /// The member of the consensus group.
    pub node: NodeId,
}

impl Identity {
    /// The part of the UUID that each record carries.
    pub(super) fn tag(&self) -> u32 {
        u32::from_le_bytes([self.uuid[0], self.uuid[1], self.uuid[2], self.uuid[3]])
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut raw = Raw {
            magic: MAGIC,
            version: VERSION.into(),
            reserved: [0; 4],
            uuid: self.uuid,
            node: self.node.into(),
            more: [0; 20],
            crc: 0.into(),
        };
        raw.crc = crc(&raw.as_bytes()[..LEN - 4]).into();
        raw.as_bytes().to_vec()
    }

    pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<Self, OpenError> {
        let strange = |what| OpenError::strange(path, what);
        let (raw, _) = Raw::read_from_prefix(bytes).map_err(|_| strange(Strangeness::Short))?;
        if raw.magic != MAGIC {
            return Err(strange(Strangeness::Magic));
        }
        if raw.crc.get() != crc(&raw.as_bytes()[..LEN - 4]) {
            return Err(strange(Strangeness::Crc));
        }
        if raw.version.get() != VERSION {
            return Err(OpenError::Newer(path.to_owned()));
        }
        Ok(Self { uuid: raw.uuid, node: raw.node.get() })
    }
}

/// A locked directory. The lock falls when this is dropped, or after the last operation of a killed process.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

impl Directory {
    /// Makes the directory, if need be, and locks it. It is no metadata server's before [`Directory::sign`].
    pub(super) async fn prepare(path: &Path, node: NodeId) -> Result<Self, OpenError> {
        make_dirs(path).await?;
        let lock = lock(path, true).await?;
        let identity = path.join("identity");
        if fs::exists(&identity).await.map_err(OpenError::io("look for", &identity))? {
            return Err(OpenError::Exists(path.to_owned()));
        }
        let mut uuid = [0; 16];
        rt::random::fill_secret(&mut uuid);
        Ok(Self { path: path.to_owned(), identity: Identity { uuid, node }, _lock: lock })
    }

    /// Makes it a metadata server's: from here on [`Directory::open`] finds it.
    pub(super) async fn sign(&self) -> Result<(), OpenError> {
        let path = self.path.join("identity");
        fs::write_atomic(&path, &self.identity.encode()).await.map_err(OpenError::io("write", &path))
    }

    /// Locks a directory that was created.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let lock = lock(path, false).await?;
        let file = path.join("identity");
        let bytes = match fs::read(&file).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(OpenError::NotCreated(path.to_owned()));
            }
            other => other.map_err(OpenError::io("read", &file))?,
        };
        let identity = Identity::decode(&file, &bytes)?;
        Ok(Self { path: path.to_owned(), identity, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }
}

/// Makes a directory and those above it, durably. Also those that are there already may not be durable: an attempt before
/// this one may have been killed.
async fn make_dirs(path: &Path) -> Result<(), OpenError> {
    fs::create_dir_all(path).await.map_err(OpenError::io("create", path))?;
    for dir in path.ancestors().skip(1) {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        match fs::sync_dir(dir).await {
            // What we may not even read we have not made.
            Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => {
                return Err(OpenError::io("flush", dir)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

async fn lock(dir: &Path, create: bool) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let options = if create {
        OpenOptions::read().create()
    } else {
        OpenOptions { write: true, ..OpenOptions::read() }
    };
    let file = match File::open(&path, options).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(OpenError::NotCreated(dir.to_owned()));
        }
        other => other.map_err(OpenError::io("open", &path))?,
    };
    let until = rt::time::now() + LOCK_WAIT;
    while !file.try_lock().await.map_err(OpenError::io("lock", &path))? {
        if rt::time::now() >= until {
            return Err(OpenError::InUse(dir.to_owned()));
        }
        rt::time::sleep(LOCK_POLL).await;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_come_back_and_no_flipped_bit_does() {
        let identity = Identity { uuid: *b"0123456789abcdef", node: 3 };
        let bytes = identity.encode();
        let path = Path::new("identity");
        assert_eq!(Identity::decode(path, &bytes).unwrap(), identity);
        for bit in 0..LEN * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(path, &bad).is_err(), "bit {bit}");
        }
        assert!(Identity::decode(path, &bytes[..LEN - 1]).is_err());
    }
}
