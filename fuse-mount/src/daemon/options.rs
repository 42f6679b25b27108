//! What stands after `-o`.

use fuser::{MountOption, SessionACL};

/// Bytes the kernel reads ahead, unless told otherwise.
const READAHEAD: u32 = 1 << 20;
/// Threads that read the kernel's requests, unless told otherwise.
const THREADS: usize = 2;
/// Most threads.
const THREADS_MAX: usize = 64;

/// How to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// Nothing is changed.
    pub(super) read_only: bool,
    /// Past the page cache always.
    pub(super) direct: bool,
    /// The kernel keeps written data for a while.
    pub(super) writeback: bool,
    /// A write that finds no space fails.
    pub(super) fails_when_full: bool,
    /// Bytes the kernel reads ahead.
    pub(super) readahead_max: u32,
    /// Threads that read the kernel's requests.
    pub(super) threads: usize,
    /// Who may use it.
    pub(super) users: SessionACL,
    /// For the kernel.
    pub(super) kernel: Vec<MountOption>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            direct: false,
            writeback: false,
            fails_when_full: false,
            readahead_max: READAHEAD,
            threads: THREADS,
            users: SessionACL::All,
            kernel: Vec::new(),
        }
    }
}

/// Why options are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OptionError {
    /// Not known.
    #[error("there is no mount option {0:?}; see --help")]
    Unknown(String),
    /// Not a number, or too large.
    #[error("{name} takes a number of at most {most}, not {value:?}")]
    Number {
        /// The option.
        name: &'static str,
        /// The most it takes.
        most: u64,
        /// What was given.
        value: String,
    },
}

impl MountOptions {
    /// Reads lists with commas; of contradicting options the last counts.
    pub(super) fn parse(lists: &[String]) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for option in lists.iter().flat_map(|list| list.split(',')).filter(|option| !option.is_empty()) {
            options.set(option)?;
        }
        Ok(options)
    }

    fn set(&mut self, option: &str) -> Result<(), OptionError> {
        let (name, value) = option.split_once('=').map_or((option, ""), |(name, value)| (name, value));
        match name {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "direct_io" => self.direct = true,
            "writeback_cache" => self.writeback = true,
            "fail_on_nospace" => self.fails_when_full = true,
            "max_readahead" => self.readahead_max = number("max_readahead", value, u32::MAX.into())? as u32,
            "threads" => self.threads = number("threads", value, THREADS_MAX as u64)?.max(1) as usize,
            "allow_other" => self.users = SessionACL::All,
            "allow_root" => self.users = SessionACL::RootAndOwner,
            "private" => self.users = SessionACL::Owner,
            "nosuid" => self.replace(MountOption::NoSuid, &MountOption::Suid),
            "suid" => self.replace(MountOption::Suid, &MountOption::NoSuid),
            "nodev" => self.replace(MountOption::NoDev, &MountOption::Dev),
            "dev" => self.replace(MountOption::Dev, &MountOption::NoDev),
            "noexec" => self.replace(MountOption::NoExec, &MountOption::Exec),
            "exec" => self.replace(MountOption::Exec, &MountOption::NoExec),
            "noatime" => self.replace(MountOption::NoAtime, &MountOption::Atime),
            "atime" => self.replace(MountOption::Atime, &MountOption::NoAtime),
            "sync" => self.replace(MountOption::Sync, &MountOption::Async),
            "async" => self.replace(MountOption::Async, &MountOption::Sync),
            "dirsync" => self.replace(MountOption::DirSync, &MountOption::DirSync),
            // Said by mount(8) and fstab for others; what they ask for is so anyway.
            "defaults"
            | "default_permissions"
            | "auto"
            | "noauto"
            | "nofail"
            | "_netdev"
            | "user"
            | "nouser"
            | "users"
            | "owner"
            | "group"
            | "relatime"
            | "norelatime"
            | "strictatime"
            | "nostrictatime"
            | "lazytime"
            | "nolazytime"
            | "diratime"
            | "nodiratime"
            | "loud"
            | "silent" => {}
            _ if name.starts_with("x-") || name.starts_with("comment") => {}
            _ => return Err(OptionError::Unknown(option.to_owned())),
        }
        Ok(())
    }

    fn replace(&mut self, option: MountOption, opposite: &MountOption) {
        self.kernel.retain(|other| *other != option && other != opposite);
        self.kernel.push(option);
    }
}

fn number(name: &'static str, value: &str, most: u64) -> Result<u64, OptionError> {
    let number = value.parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| OptionError::Number { name, most, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<MountOptions, OptionError> {
        MountOptions::parse(&[list.to_owned()])
    }

    #[test]
    fn options_are_read_and_the_last_counts() {
        assert_eq!(parse("defaults,rw,_netdev,x-systemd.automount").unwrap(), MountOptions::default());
        let options = parse("ro,suid,nosuid,direct_io,max_readahead=65536,threads=4,,noatime").unwrap();
        assert!(options.read_only && options.direct && !options.writeback);
        assert_eq!(options.kernel, [MountOption::NoSuid, MountOption::NoAtime]);
        assert_eq!((options.readahead_max, options.threads), (65536, 4));
        assert_eq!(parse("allow_root").unwrap().users, SessionACL::RootAndOwner);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(parse("rw,colour=red"), Err(OptionError::Unknown("colour=red".into())));
        for bad in ["threads=65", "threads=", "threads", "max_readahead=-1", "max_readahead=9999999999"] {
            assert!(matches!(parse(bad), Err(OptionError::Number { .. })), "{bad}");
        }
    }
}
