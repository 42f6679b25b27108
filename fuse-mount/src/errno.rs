//! What a failure is to the program that asked.

use client::{OpenError, VolumeError};
use fuser::Errno;
use wire::Status;

/// The number for a refusal of the metadata server.
pub(crate) fn of_status(status: Status) -> Errno {
    Errno::from_i32(status.errno())
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
            (Status::NotFound, Errno::ENOENT),
            (Status::LeaseHeld, Errno::EBUSY),
            (Status::NotEmpty, Errno::ENOTEMPTY),
            (Status::Gone, Errno::ESTALE),
            (Status::NoSpace, Errno::ENOSPC),
            (Status::Internal, Errno::EIO),
        ] {
            assert_eq!(of_status(status).code(), errno.code(), "{status:?}");
        }
        assert_eq!(of_volume(&VolumeError::WritesLost).code(), Errno::EIO.code());
        assert_eq!(of_volume(&VolumeError::NoSpace).code(), Errno::ENOSPC.code());
    }
}
