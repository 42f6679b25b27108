//! The simulator driver.

use std::io;
use std::path::Path;

use crate::buf::{Buf, View};
use crate::fs::{Allocation, DirEntry, OpenOptions, Space};
use crate::net::{Address, Received};
use crate::task::Owner;

pub(crate) struct World;

impl World {
    pub(crate) fn now_nanos(&self) -> u64 {
        0
    }
    pub(crate) fn wall_clock_ms(&self, _owner: Owner) -> u64 {
        0
    }
    pub(crate) fn boot_id(&self, _owner: Owner) -> [u8; 16] {
        [0; 16]
    }
    pub(crate) fn host_name(&self, _owner: Owner) -> String {
        String::new()
    }
}

#[derive(Debug)]
pub(crate) struct SimFile;

impl SimFile {
    pub(crate) async fn open(_path: &Path, _options: &OpenOptions) -> io::Result<Self> {
        Ok(Self)
    }
    pub(crate) async fn read_at(&self, buf: Buf, _offset: u64) -> (io::Result<usize>, Buf) {
        (Ok(0), buf)
    }
    pub(crate) async fn write_at(&self, _data: View, _offset: u64) -> io::Result<usize> {
        Ok(0)
    }
    pub(crate) async fn sync(&self, _data_only: bool) -> io::Result<()> {
        Ok(())
    }
    pub(crate) async fn allocate(&self, _kind: Allocation, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    pub(crate) async fn set_len(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }
    pub(crate) async fn len(&self) -> io::Result<u64> {
        Ok(0)
    }
    pub(crate) async fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }
    pub(crate) async fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }
}

pub(crate) async fn create_dir(_path: &Path) -> io::Result<()> {
    Ok(())
}
pub(crate) async fn remove_file(_path: &Path) -> io::Result<()> {
    Ok(())
}
pub(crate) async fn rename(_from: &Path, _to: &Path) -> io::Result<()> {
    Ok(())
}
pub(crate) async fn read_dir(_path: &Path) -> io::Result<Vec<DirEntry>> {
    Ok(Vec::new())
}
pub(crate) async fn exists(_path: &Path) -> io::Result<bool> {
    Ok(false)
}
pub(crate) async fn sync_dir(_path: &Path) -> io::Result<()> {
    Ok(())
}
pub(crate) async fn space(_path: &Path) -> io::Result<Space> {
    Ok(Space { total: 0, free: 0 })
}

#[derive(Debug)]
pub(crate) struct SimListener;

impl SimListener {
    pub(crate) fn bind(_address: &Address) -> io::Result<Self> {
        Ok(Self)
    }
    pub(crate) fn local_address(&self) -> io::Result<Address> {
        Err(io::ErrorKind::Unsupported.into())
    }
    pub(crate) async fn accept(&mut self) -> io::Result<(SimReader, SimWriter, Address)> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

pub(crate) async fn connect(_address: &Address) -> io::Result<(SimReader, SimWriter)> {
    Err(io::ErrorKind::Unsupported.into())
}

#[derive(Debug)]
pub(crate) struct SimReader;

impl SimReader {
    pub(crate) async fn recv(&mut self) -> io::Result<Option<Received>> {
        Ok(Some(Received::owned(Buf::new(0))))
    }
}

#[derive(Debug)]
pub(crate) struct SimWriter;

impl SimWriter {
    pub(crate) async fn send_all(&self, _data: &[u8]) -> io::Result<()> {
        Ok(())
    }
    pub(crate) fn shutdown(&self) {}
}
