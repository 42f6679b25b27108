//! From a checked request to its reply, by way of the device.

use rt::buf::View;

use super::MAX_EXTENTS;
use super::block_status::{BlockStatus, ExtentState, Room};
use super::connection::{Connection, Job};
use super::gather::{ReadData, Reply};
use super::session::MetaContext;
use super::transmission::{Errno, Request};
use crate::device::{Device, DeviceError};

/// Longest range of one request to the device, in bytes; ranges are cut at multiples of it. A client may trim 4 GiB
/// at once, and other requests should not have to wait for all of that.
const PIECE: u64 = 1 << 30;

/// The error that a client is told.
fn errno(error: &DeviceError) -> Errno {
    use client::VolumeError as Volume;
    match error {
        DeviceError::Volume(Volume::ReadOnly) => Errno::Perm,
        DeviceError::Volume(Volume::Range { .. }) => Errno::Inval,
        DeviceError::Volume(Volume::Closed) => Errno::Shutdown,
        DeviceError::Volume(
            Volume::LeaseLost(_) | Volume::Corrupt { .. } | Volume::WritesLost | Volume::Refused { .. },
        ) => Errno::Io,
        DeviceError::Volume(Volume::NoSpace) => Errno::NoSpc,
        DeviceError::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => Errno::NoSpc,
        DeviceError::Io(_) => Errno::Io,
    }
}

/// Cuts a range into pieces that the device takes.
fn pieces(offset: u64, length: u32) -> impl Iterator<Item = (u64, u64)> {
    let end = offset + u64::from(length);
    let mut at = offset;
    std::iter::from_fn(move || {
        let len = (PIECE - at % PIECE).min(end - at);
        let piece = (at, len);
        at += len;
        (len > 0).then_some(piece)
    })
}

impl<D: Device> Connection<D> {
    /// Carries a request out and makes its reply.
    pub(super) async fn execute(&self, job: &mut Job) -> Reply {
        let (cookie, request) = (job.cookie, job.request);
        match self.answer(cookie, request, job.data.as_ref()).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::warn!(client = self.id, ?request, "the device refused a request: {error}");
                Reply::Bytes(self.session.reply_form().error(cookie, errno(&error), &error.to_string()))
            }
        }
    }

    async fn answer(&self, cookie: u64, request: Request, data: Option<&View>) -> Result<Reply, DeviceError> {
        let device = &*self.device;
        let fua = match request {
            Request::Read { offset, length, df } => {
                let parts = device.read(offset, length.into()).await?;
                debug_assert_eq!(parts.iter().map(|(len, _)| len).sum::<u64>(), u64::from(length));
                return Ok(Reply::Read(ReadData { cookie, offset, length, df, parts }));
            }
            Request::BlockStatus { offset, length, req_one } => {
                return self.block_status(cookie, (offset, length), req_one).await;
            }
            Request::Write { offset, fua, .. } => {
                if let Some(data) = data {
                    device.write(offset, data.clone()).await?;
                }
                fua
            }
            Request::Trim { offset, length, fua } => {
                for (offset, len) in pieces(offset, length) {
                    device.discard(offset, len).await?;
                }
                fua
            }
            // Zeroing is always fast here: it sends no data.
            Request::WriteZeroes { offset, length, fua, no_hole, fast_zero: _ } => {
                for (offset, len) in pieces(offset, length) {
                    device.write_zeroes(offset, len, !no_hole).await?;
                }
                fua
            }
            Request::Flush => true,
            // There is no cache to fill; a disconnect never comes here.
            Request::Cache { .. } | Request::Disconnect => false,
        };
        if fua {
            device.flush().await?;
        }
        Ok(Reply::Header(self.session.reply_form().ok(cookie)))
    }

    async fn block_status(
        &self,
        cookie: u64,
        (offset, length): (u64, u32),
        req_one: bool,
    ) -> Result<Reply, DeviceError> {
        let mut status = BlockStatus::new(length, req_one);
        let mut left = if req_one { 1 } else { MAX_EXTENTS };
        'pieces: for (offset, len) in pieces(offset, length) {
            let runs = self.device.block_status(offset, len, left).await?;
            let mut covered = 0;
            for run in &runs {
                let state = if run.data { ExtentState::DATA } else { ExtentState::HOLE };
                covered += run.len;
                if status.push(run.len, state) == Room::Full {
                    break 'pieces;
                }
            }
            left = left.saturating_sub(runs.len()).max(1);
            // The device ends early where it has told of as many runs as it was asked for.
            if covered < len {
                break;
            }
        }
        let mut bytes = Vec::new();
        for (at, context) in self.session.meta_contexts.iter().enumerate() {
            let last = at + 1 == self.session.meta_contexts.len();
            match context {
                MetaContext::BaseAllocation => bytes.extend(status.encode(cookie, *context, last)),
            }
        }
        Ok(Reply::Bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_ranges_are_cut_at_round_offsets() {
        let cut = |offset, length| pieces(offset, length).collect::<Vec<_>>();
        assert_eq!(cut(5, 10), [(5, 10)]);
        assert_eq!(cut(PIECE, PIECE as u32), [(PIECE, PIECE)]);
        assert_eq!(cut(PIECE - 1, 2), [(PIECE - 1, 1), (PIECE, 1)]);
        let all = cut(4096, u32::MAX);
        assert_eq!(all.len(), 5);
        assert_eq!(all.iter().map(|(_, len)| len).sum::<u64>(), u64::from(u32::MAX));
        assert!(all.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0));
    }

    #[test]
    fn each_failure_has_its_number() {
        use client::VolumeError;
        let volume = |error| errno(&DeviceError::Volume(error));
        assert_eq!(volume(VolumeError::ReadOnly), Errno::Perm);
        assert_eq!(volume(VolumeError::Range { offset: 0, len: 1, size: 0 }), Errno::Inval);
        assert_eq!(volume(VolumeError::Closed), Errno::Shutdown);
        assert_eq!(volume(VolumeError::LeaseLost(String::new())), Errno::Io);
        assert_eq!(volume(VolumeError::Corrupt { index: 0, block: 0 }), Errno::Io);
        assert_eq!(volume(VolumeError::WritesLost), Errno::Io);
        assert_eq!(volume(VolumeError::Refused { cs: 1, text: String::new() }), Errno::Io);
        assert_eq!(errno(&std::io::Error::from(std::io::ErrorKind::StorageFull).into()), Errno::NoSpc);
        assert_eq!(errno(&std::io::Error::other("x").into()), Errno::Io);
    }
}
