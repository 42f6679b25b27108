//! Why no executor could be started, and what the operator can do about it.

use std::fmt;
use std::io;

/// The oldest kernel that has everything we need (deferred task work of single-issuer rings).
const OLDEST: KernelVersion = KernelVersion { major: 6, minor: 1 };

/// A version of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl KernelVersion {
    /// Reads a release as `uname(2)` gives it, such as `6.12.9-amd64`.
    fn from_release(release: &str) -> Option<Self> {
        let number = |text: &str| {
            let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            text[..end].parse().ok()
        };
        let (major, rest) = release.split_once('.')?;
        Some(Self { major: number(major)?, minor: number(rest)? })
    }
}

/// Why no executor could be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The administrator has switched io_uring off.
    #[error(
        "io_uring is disabled on this host (kernel.io_uring_disabled = {setting}); allow it with \
         `sysctl -w kernel.io_uring_disabled=0`, for good in /etc/sysctl.d/, or, where the setting is 1, run as a member \
         of the group in kernel.io_uring_group"
    )]
    Disabled {
        /// The setting: 1 for processes without privilege, 2 for all.
        setting: u8,
    },
    /// The host allows io_uring, but not to this process.
    #[error(
        "io_uring is forbidden to this process by a sandbox (the seccomp profile of a container, SystemCallFilter= in a \
         systemd unit); allow io_uring_setup, io_uring_enter and io_uring_register there"
    )]
    Forbidden,
    /// The kernel lacks something we need.
    #[error("Linux {running} is too old: it lacks {missing}; vstorage needs Linux {OLDEST} or later")]
    KernelTooOld {
        /// What it lacks.
        missing: &'static str,
        /// The running kernel.
        running: KernelVersion,
    },
    /// The kernel is new enough and yet lacks something we need.
    #[error(
        "this kernel has no {missing}: it was built without, or a sandbox hides it; use a kernel of a distribution, Linux \
         {OLDEST} or later, and allow io_uring_setup, io_uring_enter and io_uring_register in the sandbox"
    )]
    Missing {
        /// What it lacks.
        missing: &'static str,
    },
    /// Memory cannot be locked. Some kernels count the rings as well as the buffers.
    #[error(
        "cannot lock enough memory for the rings and buffers of io_uring: all processes of this user together may lock \
         {limit} bytes; raise the limit with `ulimit -l` (LimitMEMLOCK= in a systemd unit)"
    )]
    LockedMemory {
        /// The limit, in bytes.
        limit: u64,
    },
    /// There is no memory for the rings.
    #[error(
        "not enough memory for the rings and buffers of io_uring; free some, or raise the memory limit of this service"
    )]
    Memory,
    /// The limit of open files is reached.
    #[error(
        "too many open files for another ring; raise the limit with `ulimit -n` (LimitNOFILE= in a systemd unit)"
    )]
    OpenFiles,
    /// Anything else the kernel said.
    #[error("cannot set up io_uring: {0}")]
    Kernel(#[source] io::Error),
}

/// What an explanation depends on besides the error.
#[derive(Clone, Copy, Debug)]
struct Host {
    /// The running kernel, if it says so in a form we know.
    kernel: Option<KernelVersion>,
    /// `kernel.io_uring_disabled`; `None` where there is no such setting (before Linux 6.6), or no `/proc`.
    disabled: Option<u8>,
    /// The limit of locked memory, in bytes; `None` for no limit, as for root.
    locked_max: Option<u64>,
}

impl Host {
    fn this() -> Self {
        let uname = rustix::system::uname();
        let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
        Self {
            kernel: KernelVersion::from_release(&uname.release().to_string_lossy()),
            disabled: setting.and_then(|text| text.trim().parse().ok()),
            locked_max: rustix::process::getrlimit(rustix::process::Resource::Memlock)
                .current
                .filter(|_| !rustix::process::geteuid().is_root()),
        }
    }

    /// The kernel lacks `missing`.
    fn lacks(self, missing: &'static str) -> StartError {
        match self.kernel {
            Some(running) if running < OLDEST => StartError::KernelTooOld { missing, running },
            _ => StartError::Missing { missing },
        }
    }

    /// Explains what the kernel said to `io_uring_setup(2)` and the registrations behind it.
    fn explain(self, error: &io::Error) -> StartError {
        match error.raw_os_error() {
            Some(libc::EPERM) => match self.disabled {
                Some(setting @ 1..) => StartError::Disabled { setting },
                _ => StartError::Forbidden,
            },
            // Some sandboxes answer so for what they do not know; `lacks` names both.
            Some(libc::ENOSYS) => self.lacks("io_uring"),
            Some(libc::EINVAL) => self.lacks("single-issuer rings with deferred task work"),
            Some(libc::ENOMEM) => {
                self.locked_max.map_or(StartError::Memory, |limit| StartError::LockedMemory { limit })
            }
            Some(libc::EMFILE | libc::ENFILE) => StartError::OpenFiles,
            Some(code) => StartError::Kernel(io::Error::from_raw_os_error(code)),
            None => StartError::Kernel(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

impl StartError {
    /// Explains what the kernel said to `io_uring_setup(2)` and the registrations behind it.
    pub(crate) fn from_setup(error: &io::Error) -> Self {
        Host::this().explain(error)
    }

    /// The kernel lacks `missing`.
    pub(crate) fn lacking(missing: &'static str) -> Self {
        Host::this().lacks(missing)
    }
}

#[cfg(test)]
mod tests;
