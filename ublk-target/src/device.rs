//! What a front end serves: a range of bytes that can be read, written, zeroed and flushed.
//!
//! A [`client::Volume`] is one; tests bring others.

use std::future::Future;
use std::io;

use client::{Run, Volume, VolumeError};
use rt::buf::View;

/// Consecutive parts of a range, each with its length in bytes; `None` reads as zeroes.
pub type Parts = Vec<(u64, Option<View>)>;

/// Why a request to a device failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The volume says so.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A file or disk of this host says so.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A block device by bytes. Ranges of requests are not empty and lie inside it.
///
/// A request runs until it is answered: its future must not be dropped before, since a device may have done half of
/// it. Requests run side by side; what overlapping ones do to each other is up to the device.
pub trait Device: 'static {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Reads `len` bytes from `offset`; the parts add up to `len`.
    fn read(&self, offset: u64, len: u64) -> impl Future<Output = Result<Parts, DeviceError>>;

    /// Writes `data` at `offset`.
    fn write(&self, offset: u64, data: View) -> impl Future<Output = Result<(), DeviceError>>;

    /// Makes a range read as zeroes; with `punch` it may become a hole.
    fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        punch: bool,
    ) -> impl Future<Output = Result<(), DeviceError>>;

    /// Gives a range back.
    fn discard(&self, offset: u64, len: u64) -> impl Future<Output = Result<(), DeviceError>>;

    /// Makes every change answered before durable, whoever asked for it.
    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>>;

    /// What is allocated from `offset` on: at least one run, at most `runs_max`, together at most `len` bytes.
    fn block_status(
        &self,
        offset: u64,
        len: u64,
        runs_max: usize,
    ) -> impl Future<Output = Result<Vec<Run>, DeviceError>>;
}

impl Device for Volume {
    fn size(&self) -> u64 {
        Volume::size(self)
    }

    async fn read(&self, offset: u64, len: u64) -> Result<Parts, DeviceError> {
        Ok(Volume::read(self, offset, len).await?)
    }

    async fn write(&self, offset: u64, data: View) -> Result<(), DeviceError> {
        Ok(Volume::write(self, offset, data).await?)
    }

    async fn write_zeroes(&self, offset: u64, len: u64, punch: bool) -> Result<(), DeviceError> {
        Ok(Volume::write_zeroes(self, offset, len, punch).await?)
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        Ok(Volume::discard(self, offset, len).await?)
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        Ok(Volume::flush(self).await?)
    }

    async fn block_status(&self, offset: u64, len: u64, runs_max: usize) -> Result<Vec<Run>, DeviceError> {
        Ok(Volume::block_status(self, offset, len, runs_max).await?)
    }
}
