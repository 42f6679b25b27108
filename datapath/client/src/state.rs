//! What survives a daemon that is killed, in `/run/vstorage/DAEMON` (moved by `VSTORAGE_RUN`): the key of its session, so
//! that the next one takes its leases over at once (C1), and locks, so that there is no next one before its time.
//!
//! Readers need neither: a shared lease that was left behind stops no other reader.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rt::buf::View;
use rt::fs::{self, File, OpenOptions};
use wire::session::SessionKey;

/// How long to wait for a lock: the last operation of a daemon that was killed may still be under way (C10).
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Longest file name made of a path; longer ones are cut and told apart by a hash.
const NAME_MAX: usize = 200;
/// First line of a file with a session.
const TITLE: &str = "vstorage client session, version 1; keep it secret";

/// Why the run-time directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be written.
    #[error("cannot write {}: {error}; run this as root, or let VSTORAGE_RUN name a directory of yours", .path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Another process has the lock.
    #[error("{what} is served by process {pid} on this host already; stop that one first")]
    Taken {
        /// What it is about.
        what: String,
        /// The process, or what stands for it.
        pid: String,
    },
}

/// The directory.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

/// A lock; it falls with the process.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl StateDir {
    /// Makes the directory of a daemon below the run-time directory if there is none.
    ///
    /// # Errors
    /// [`StateError::Write`].
    pub async fn open(run: &Path, daemon: &str) -> Result<Self, StateError> {
        let path = run.join(daemon);
        match fs::create_dir_all(&path).await {
            Ok(()) => Ok(Self(path)),
            Err(error) => Err(StateError::Write { path, error }),
        }
    }

    /// Takes the lock `name`; `what` it protects is for the message if another process has it.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn lock(&self, name: &str, what: &str) -> Result<Lock, StateError> {
        let path = self.0.join(format!("{name}.lock"));
        let fail = |error| StateError::Write { path: path.clone(), error };
        let options = OpenOptions { write: true, create: true, ..OpenOptions::default() };
        let file = File::open(&path, options).await.map_err(fail)?;
        let deadline = rt::time::now() + LOCK_PATIENCE;
        while !file.try_lock().await.map_err(fail)? {
            if rt::time::now() >= deadline {
                let holder = fs::read(&path).await.unwrap_or_default();
                let pid = String::from_utf8_lossy(&holder).trim().to_owned();
                let pid = if pid.is_empty() { "(unknown)".to_owned() } else { pid };
                return Err(StateError::Taken { what: what.to_owned(), pid });
            }
            rt::time::sleep(LOCK_PAUSE).await;
        }
        file.set_len(0).await.map_err(fail)?;
        let pid = format!("{}\n", std::process::id());
        file.write_all_at(View::copy_of(pid.as_bytes()), 0).await.map_err(fail)?;
        Ok(Lock { _file: file })
    }

    /// Where the session of the one writer of a volume is kept.
    #[must_use]
    pub fn session(&self, cluster: &str, volume: &str) -> SessionFile {
        let path = self.0.join(format!("{}.session", volume_name(cluster, volume)));
        SessionFile { path, cluster: cluster.to_owned(), volume: volume.to_owned() }
    }
}

/// The name of what belongs to the one writer of a volume, or to the one mount at a directory.
#[must_use]
pub fn volume_name(cluster: &str, volume: &str) -> String {
    file_name(&format!("{cluster}{volume}"))
}

/// The name of what belongs to a socket.
#[must_use]
pub fn socket_name(socket: &Path) -> String {
    // No cluster has a colon in its name.
    file_name(&format!("socket:{}", socket.display()))
}

/// A file name for a text: readable, and different for different texts (the session file says whose it is, in case two
/// long ones have the same hash).
fn file_name(text: &str) -> String {
    let mut name = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => name.push(byte as char),
            b'/' => name.push('+'),
            // Writing to a string cannot fail.
            other => drop(write!(name, "%{other:02x}")),
        }
    }
    if name.len() > NAME_MAX {
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        name.truncate(NAME_MAX - 17);
        // As above.
        let _always = write!(name, "~{hash:016x}");
    }
    name
}

/// A session that can be gone on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Identity of the client.
    pub client_uuid: [u8; 16],
    /// Key of its session.
    pub key: SessionKey,
}

/// A file with a session.
#[derive(Clone, Debug)]
pub struct SessionFile {
    path: PathBuf,
    cluster: String,
    volume: String,
}

impl SessionFile {
    /// The session of an earlier daemon; `None` if there is none, or the file is damaged or about another volume.
    ///
    /// # Errors
    /// [`StateError::Write`] if the file is there and cannot be read.
    pub async fn load(&self) -> Result<Option<Stored>, StateError> {
        let bytes = match fs::read(&self.path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::Write { path: self.path.clone(), error }),
        };
        let stored = std::str::from_utf8(&bytes).ok().and_then(|text| self.parse(text));
        if stored.is_none() {
            tracing::warn!(
                "{} holds no session of {} in cluster {}; if an earlier daemon was killed, its lease must end first",
                self.path.display(),
                self.volume,
                self.cluster
            );
        }
        Ok(stored)
    }

    /// Stores a session, for its owner's eyes only.
    ///
    /// # Errors
    /// [`StateError::Write`].
    pub async fn save(&self, stored: &Stored) -> Result<(), StateError> {
        let saved = fs::write_atomic(&self.path, self.format(stored).as_bytes()).await;
        saved.map_err(|error| StateError::Write { path: self.path.clone(), error })
    }

    /// Forgets the session: it has ended in order.
    pub async fn remove(&self) {
        // A session that has ended is refused, and a new one made.
        if let Err(error) = fs::remove_file(&self.path).await {
            tracing::debug!("cannot remove {}: {error}", self.path.display());
        }
    }

    fn format(&self, stored: &Stored) -> String {
        format!(
            "{TITLE}\ncluster {}\nvolume {}\nclient_uuid {}\nclient_id {}\ntoken {}\n",
            self.cluster,
            self.volume,
            hex(&stored.client_uuid),
            stored.key.client_id,
            hex(&stored.key.token)
        )
    }

    fn parse(&self, text: &str) -> Option<Stored> {
        let mut lines = text.lines();
        (lines.next()? == TITLE).then_some(())?;
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let (cluster, volume) = (field("cluster")?, field("volume")?);
        let client_uuid = unhex(field("client_uuid")?)?.try_into().ok()?;
        let client_id = field("client_id")?.parse().ok()?;
        let token = unhex(field("token")?)?;
        let ours = cluster == self.cluster && volume == self.volume;
        ours.then_some(Stored { client_uuid, key: SessionKey { client_id, token } })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<F: Future + 'static>(main: F) -> F::Output {
        rt::Executor::start(&rt::ExecutorOptions::default()).expect("io_uring works here").run(main)
    }

    fn stored() -> Stored {
        Stored { client_uuid: [7; 16], key: SessionKey { client_id: 2049, token: vec![0xab; 16] } }
    }

    #[test]
    fn a_session_survives_its_file_which_is_private() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let state = StateDir::open(dir.path(), "ublkd").await.unwrap();
            let file = state.session("stor1", "/a/vm1");
            assert_eq!(file.load().await.unwrap(), None);
            file.save(&stored()).await.unwrap();
            let path = dir.path().join("ublkd/stor1+a+vm1.session");
            let mode =
                std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600);
            assert_eq!(file.load().await.unwrap(), Some(stored()));
            let text = std::fs::read_to_string(&path).unwrap();
            for damaged in [&text[..text.len() - 2], &text[10..], "", &text.replace("/a/vm1", "/a/vm2")] {
                std::fs::write(&path, damaged).unwrap();
                assert_eq!(file.load().await.unwrap(), None, "{damaged}");
            }
            file.remove().await;
            file.remove().await;
            assert_eq!(file.load().await.unwrap(), None);
        });
    }

    #[test]
    fn a_lock_has_one_holder_and_says_who() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let state = StateDir::open(dir.path(), "ublkd").await.unwrap();
            let name = volume_name("stor1", "/vm1");
            let held = state.lock(&name, "/vm1").await.unwrap();
            let error = state.lock(&name, "/vm1").await.unwrap_err();
            let expected = format!("/vm1 is served by process {} on this host already", std::process::id());
            assert!(error.to_string().starts_with(&expected), "{error}");
            let other = state.lock(&volume_name("stor1", "/vm2"), "/vm2").await.unwrap();
            drop((held, other));
            state.lock(&name, "/vm1").await.unwrap();
        });
    }

    #[test]
    fn file_names_are_short_and_distinct() {
        assert_eq!(volume_name("s", "/a b/ü"), "s+a%20b+%c3%bc");
        let (one, two) = ("/x".repeat(500), format!("{}y", "/x".repeat(500)));
        let (one, two) = (volume_name("s", &one), volume_name("s", &two));
        assert_ne!(one, two);
        assert_eq!((one.len(), two.len()), (NAME_MAX, NAME_MAX));
        assert_ne!(volume_name("socket", "/x"), socket_name(Path::new("/x")));
    }
}
