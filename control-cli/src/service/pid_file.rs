//! Which process is a service: a file with its id, when it began, and in which run of the machine.
//!
//! ```text
//! 1234
//! began 567890
//! boot 00112233445566778899aabbccddeeff
//! dir /vstorage/stor1-cs
//! ```
//!
//! The first line is for people and other tools; a process of that number that began at another time, or in another
//! run of the machine, is somebody else and is left alone.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::process::{BootId, ProcessId};
use super::{Service, ServiceError};
use crate::cluster::Cluster;

/// The file that says which process a service is.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// That of a service.
    pub(crate) fn of(cluster: &Cluster, service: &Service) -> Self {
        Self { path: cluster.dirs.run.join(format!("{}.pid", service.file_stem())) }
    }

    /// The process, if there is a file and the machine has not been restarted since.
    ///
    /// # Errors
    /// [`ServiceError::File`]; a file with other content counts as none.
    pub(crate) fn read(&self, boot: BootId) -> Result<Option<ProcessId>, ServiceError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(parse(&text, boot)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// Writes the file, whole or not at all, readable by everybody.
    ///
    /// # Errors
    /// [`ServiceError::File`].
    pub(crate) fn write(&self, process: ProcessId, boot: BootId, dir: &Path) -> Result<(), ServiceError> {
        let text = format!("{}\nbegan {}\nboot {boot}\ndir {}\n", process.pid, process.began, dir.display());
        let new = self.path.with_extension("pid.new");
        let written = fs::File::options().create(true).truncate(true).write(true).mode(0o644).open(&new);
        let written = written.and_then(|mut file| file.write_all(text.as_bytes()));
        written.and_then(|()| fs::rename(&new, &self.path)).map_err(|error| self.failure(error))
    }

    /// Removes the file.
    ///
    /// # Errors
    /// [`ServiceError::File`].
    pub(crate) fn remove(&self) -> Result<(), ServiceError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failure(error)),
            _ => Ok(()),
        }
    }

    fn failure(&self, error: io::Error) -> ServiceError {
        ServiceError::File { path: self.path.clone(), error }
    }
}

fn parse(text: &str, boot: BootId) -> Option<ProcessId> {
    let mut lines = text.lines();
    let pid = lines.next()?.parse().ok()?;
    let began = lines.next()?.strip_prefix("began ")?.parse().ok()?;
    let same_boot = lines.next()?.strip_prefix("boot ")? == boot.to_string();
    same_boot.then_some(ProcessId { pid, began })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_another_boot_is_not_ours() {
        let root = tempfile::tempdir().unwrap();
        let file = PidFile { path: root.path().join("stor1.cs.x.pid") };
        let (now, then) = (BootId([1; 16]), BootId([2; 16]));
        assert_eq!(file.read(now).unwrap(), None);
        let process = ProcessId { pid: 1234, began: 567_890 };
        file.write(process, now, Path::new("/x")).unwrap();
        assert_eq!(file.read(now).unwrap(), Some(process));
        assert_eq!(file.read(then).unwrap(), None);
        let text = fs::read_to_string(&file.path).unwrap();
        assert_eq!(text.lines().next(), Some("1234"));
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777 & !0o022, 0o644);
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.read(now).unwrap(), None);
    }

    #[test]
    fn a_file_that_says_something_else_is_no_pid_file() {
        let boot = BootId([1; 16]);
        for text in
            ["", "1234\n", "1234\n567890\n", "x\nbegan 1\nboot 1\n", "1\nbegan x\nboot 1\n", "1\nbegan 1\n"]
        {
            assert_eq!(parse(text, boot), None, "{text:?}");
        }
    }
}
