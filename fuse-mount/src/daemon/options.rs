//! What stands after `-o`.

use client::FailureLimits;
use rustix::mount::MountFlags;

/// Bytes the kernel reads ahead, unless told otherwise.
const READAHEAD: u32 = 1 << 20;
/// What `/etc/fstab` usually says as well.
const USUAL: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

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
    /// When a chunk server counts as lost.
    pub(super) limits: FailureLimits,
    /// Not only who mounts may use it.
    pub(super) for_all: bool,
    /// For `mount(2)`.
    pub(super) flags: MountFlags,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            direct: false,
            writeback: false,
            fails_when_full: false,
            readahead_max: READAHEAD,
            limits: FailureLimits::default(),
            for_all: true,
            flags: USUAL,
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
    /// No such time can be had.
    #[error("{name} takes milliseconds from {least} to {most}, not {value:?}")]
    Milliseconds {
        /// The option.
        name: &'static str,
        /// The least it takes.
        least: u64,
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
            "ro" => {
                self.read_only = true;
                self.flags.insert(MountFlags::RDONLY);
            }
            "rw" => {
                self.read_only = false;
                self.flags.remove(MountFlags::RDONLY);
            }
            "direct_io" => self.direct = true,
            "writeback_cache" => self.writeback = true,
            "fail_on_nospace" => self.fails_when_full = true,
            "max_readahead" => self.readahead_max = number("max_readahead", value, u32::MAX.into())? as u32,
            "cs_timeout" => self.limits = FailureLimits::for_silence(silence("cs_timeout", value)?),
            "allow_other" => self.for_all = true,
            "private" => self.for_all = false,
            "nosuid" => self.flags.insert(MountFlags::NOSUID),
            "suid" => self.flags.remove(MountFlags::NOSUID),
            "nodev" => self.flags.insert(MountFlags::NODEV),
            "dev" => self.flags.remove(MountFlags::NODEV),
            "noexec" => self.flags.insert(MountFlags::NOEXEC),
            "exec" => self.flags.remove(MountFlags::NOEXEC),
            "noatime" => self.flags.insert(MountFlags::NOATIME),
            "atime" => self.flags.remove(MountFlags::NOATIME),
            "sync" => self.flags.insert(MountFlags::SYNCHRONOUS),
            "async" => self.flags.remove(MountFlags::SYNCHRONOUS),
            "dirsync" => self.flags.insert(MountFlags::DIRSYNC),
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
}

fn number(name: &'static str, value: &str, most: u64) -> Result<u64, OptionError> {
    let number = value.parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| OptionError::Number { name, most, value: value.to_owned() })
}

/// How long a chunk server may be silent, in milliseconds.
fn silence(name: &'static str, value: &str) -> Result<u64, OptionError> {
    let range = FailureLimits::SILENCE_MS_RANGE;
    let ms = value.parse().ok().filter(|ms| range.contains(ms));
    let (least, most) = (*range.start(), *range.end());
    ms.ok_or_else(|| OptionError::Milliseconds { name, least, most, value: value.to_owned() })
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
        let options = parse("ro,nosuid,suid,direct_io,max_readahead=65536,,noatime,private").unwrap();
        assert!(options.read_only && options.direct && !options.writeback);
        assert_eq!(options.flags, MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOATIME);
        assert_eq!((options.readahead_max, options.for_all), (65536, false));
        assert_eq!(options.limits, FailureLimits::default());
        assert_eq!(parse("cs_timeout=1000").unwrap().limits, FailureLimits::for_silence(1000));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(parse("rw,colour=red"), Err(OptionError::Unknown("colour=red".into())));
        for bad in ["max_readahead", "max_readahead=", "max_readahead=-1", "max_readahead=9999999999"] {
            assert!(matches!(parse(bad), Err(OptionError::Number { .. })), "{bad}");
        }
        for bad in ["cs_timeout", "cs_timeout=0", "cs_timeout=499", "cs_timeout=15001", "cs_timeout=1s"] {
            assert!(matches!(parse(bad), Err(OptionError::Milliseconds { .. })), "{bad}");
        }
    }
}
