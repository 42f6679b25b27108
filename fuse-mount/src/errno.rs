//! What a failure is to the program that asked.

use client::{OpenError, VolumeError};
use wire::Status;

/// A number of `errno`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(i32);

impl Errno {
    pub(crate) const EBADF: Self = Self(libc::EBADF);
    pub(crate) const E2BIG: Self = Self(libc::E2BIG);
    pub(crate) const EFBIG: Self = Self(libc::EFBIG);
    pub(crate) const EINTR: Self = Self(libc::EINTR);
    pub(crate) const EINVAL: Self = Self(libc::EINVAL);
    pub(crate) const EIO: Self = Self(libc::EIO);
    pub(crate) const EISDIR: Self = Self(libc::EISDIR);
    pub(crate) const ENAMETOOLONG: Self = Self(libc::ENAMETOOLONG);
    pub(crate) const ENODATA: Self = Self(libc::ENODATA);
    pub(crate) const ENOSPC: Self = Self(libc::ENOSPC);
    pub(crate) const ENOTDIR: Self = Self(libc::ENOTDIR);
    pub(crate) const ENXIO: Self = Self(libc::ENXIO);
    pub(crate) const EOPNOTSUPP: Self = Self(libc::EOPNOTSUPP);
    pub(crate) const ERANGE: Self = Self(libc::ERANGE);
    pub(crate) const EROFS: Self = Self(libc::EROFS);
    pub(crate) const ESTALE: Self = Self(libc::ESTALE);

    /// Of a number; what is none is EIO.
    pub(crate) fn from_code(code: i32) -> Self {
        if code > 0 { Self(code) } else { Self::EIO }
    }

    /// The number.
    pub(crate) fn code(self) -> i32 {
        self.0
    }
}

/// The number for a refusal of the metadata server.
pub(crate) fn of_status(status: Status) -> Errno {
    Errno::from_code(status.errno())
}

/// The number for a failure of a volume.
pub(crate) fn of_volume(error: &VolumeError) -> Errno {
    match error {
        VolumeError::NoSpace => Errno::ENOSPC,
        VolumeError::ReadOnly => Errno::EBADF,
        VolumeError::Range { .. } => Errno::EFBIG,
        VolumeError::LeaseLost(_)
        | VolumeError::Corrupt { .. }
        | VolumeError::WritesLost
        | VolumeError::Refused { .. }
        | VolumeError::Closed => Errno::EIO,
    }
}

/// The number for a file that cannot be opened.
pub(crate) fn of_open(error: &OpenError) -> Errno {
    error.status().map_or(Errno::EIO, of_status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_see_the_usual_numbers() {
        for (status, errno) in [
            (Status::NotFound, libc::ENOENT),
            (Status::LeaseHeld, libc::EBUSY),
            (Status::NotEmpty, libc::ENOTEMPTY),
            (Status::Gone, libc::ESTALE),
            (Status::NoSpace, libc::ENOSPC),
            (Status::Internal, libc::EIO),
        ] {
            assert_eq!(of_status(status).code(), errno, "{status:?}");
        }
        assert_eq!(of_volume(&VolumeError::WritesLost), Errno::EIO);
        assert_eq!(of_volume(&VolumeError::NoSpace), Errno::ENOSPC);
    }
}
