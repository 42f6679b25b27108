//! Disks: faults, and a look at what they hold.
//!
//! A disk is named by a host and any path on it.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::controller;
use crate::sim::calling;
use crate::sim::disk::{Damage, DiskFault, DiskImage, FaultRates};
use crate::sim::host::HostId;
use crate::sim::ops::Place;
use crate::sim::world::World;

fn locate(world: &World, host: HostId, path: &Path) -> io::Result<(Place, Vec<String>)> {
    let (mount, names) = world.hosts.borrow()[host.0 as usize].locate(path)?;
    Ok(((host, mount), names))
}

/// Asks for a fault of the disk that holds `at`.
///
/// # Panics
/// When `at` is no path a file system takes.
pub fn disk_fault(host: HostId, at: impl AsRef<Path>, fault: DiskFault) {
    let world = controller();
    let (place, _) = locate(&world, host, at.as_ref()).expect("a path in UTF-8");
    world.with_fs(place, |fs| fs.add_fault(fault));
}

/// Sets how often faults come by themselves, on all disks of a host.
pub fn fault_rates(host: HostId, rates: FaultRates) {
    let world = controller();
    world.hosts.borrow_mut()[host.0 as usize].mounts.iter_mut().for_each(|mount| mount.fs.set_rates(rates));
}

/// Ends the faults of all disks of a host, those asked for and those by chance. What they have done stays.
pub fn clear_disk_faults(host: HostId) {
    let world = controller();
    world.hosts.borrow_mut()[host.0 as usize].mounts.iter_mut().for_each(|mount| mount.fs.clear_faults());
}

/// Makes the blocks of a range of a file fail every read with EIO until they are written again.
///
/// # Errors
/// When there is no such file.
pub fn make_unreadable(host: HostId, path: impl AsRef<Path>, range: Range<u64>) -> io::Result<()> {
    let world = controller();
    let (place, names) = locate(&world, host, path.as_ref())?;
    world.hit("disk.read-error");
    world.with_fs(place, |fs| fs.find_file(&names).map(|file| file.make_unreadable(range)))
}

/// Flips a random stored bit of the block at `offset` of a file; false if nothing is stored there.
///
/// # Errors
/// When there is no such file.
pub fn rot(host: HostId, path: impl AsRef<Path>, offset: u64) -> io::Result<bool> {
    let world = controller();
    let (place, names) = locate(&world, host, path.as_ref())?;
    let chance = world.rng.borrow_mut().next_u64();
    let done = world.with_fs(place, |fs| -> io::Result<bool> {
        let done = fs.find_file(&names)?.rot(offset / 4096, (chance >> 8) as usize, chance as u8);
        if done {
            fs.note_damage(path.as_ref(), offset);
        }
        Ok(done)
    })?;
    if done {
        world.hit("disk.bit-rot");
    }
    Ok(done)
}

/// What faults have damaged so far on the disks of all hosts, on each disk in the order in which it happened: with [`rot`], and what
/// reads and writes that a fault has struck were about.
#[must_use]
pub fn damages() -> Vec<Damage> {
    let world = calling().0;
    let hosts = world.hosts.borrow();
    let mounts = (0..)
        .map(HostId)
        .zip(hosts.iter())
        .flat_map(|(id, host)| host.mounts.iter().map(move |mount| (id, mount)));
    let all = mounts.flat_map(|(host, mount)| {
        let damaged = mount.fs.damaged().iter();
        damaged.map(move |(path, bytes)| Damage { host, path: mount.path.join(path), bytes: bytes.clone() })
    });
    all.collect()
}

/// Lets somebody else occupy so many bytes of the disk that holds `at`; zero frees it.
///
/// # Panics
/// When `at` is no path a file system takes.
pub fn occupy(host: HostId, at: impl AsRef<Path>, bytes: u64) {
    let world = controller();
    let (place, _) = locate(&world, host, at.as_ref()).expect("a path in UTF-8");
    world.with_fs(place, |fs| fs.occupy(bytes));
}

/// What a read of a file would give now; fewer bytes at its end.
///
/// # Errors
/// When there is no such file.
pub fn visible_content(host: HostId, path: impl AsRef<Path>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    content(host, path.as_ref(), offset, len, false)
}

/// What a read of a file would give after a power cut that takes everything volatile, under the name it has now.
///
/// # Errors
/// When there is no such file.
pub fn durable_content(host: HostId, path: impl AsRef<Path>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    content(host, path.as_ref(), offset, len, true)
}

fn content(host: HostId, path: &Path, offset: u64, len: usize, durable: bool) -> io::Result<Vec<u8>> {
    let world = controller();
    let (place, names) = locate(&world, host, path)?;
    let mut bytes = vec![0; len];
    let count = world.with_fs(place, |fs| {
        fs.find_file(&names).map(|file| match durable {
            true => file.read_durable(offset, &mut bytes),
            false => file.read(offset, &mut bytes),
        })
    })?;
    bytes.truncate(count);
    Ok(bytes)
}

/// The files under a directory, at any depth, with their sizes, sorted by path; none if there is no such directory.
#[must_use]
pub fn files_under(host: HostId, dir: impl AsRef<Path>) -> Vec<(PathBuf, u64)> {
    let world = controller();
    let (mut files, mut todo) = (Vec::new(), vec![dir.as_ref().to_owned()]);
    while let Some(dir) = todo.pop() {
        let Ok((place, names)) = locate(&world, host, &dir) else { continue };
        for entry in world.with_fs(place, |fs| fs.read_dir(&names)).unwrap_or_default() {
            let path = dir.join(&entry.name);
            if entry.is_dir {
                todo.push(path);
                continue;
            }
            let mut names = names.clone();
            names.push(entry.name);
            if let Ok(size) = world.with_fs(place, |fs| fs.find_file(&names).map(|file| file.size)) {
                files.push((path, size));
            }
        }
    }
    files.sort();
    files
}

/// A copy of what is visible on the disk that holds `at`.
///
/// # Panics
/// When `at` is no path a file system takes.
#[must_use]
pub fn disk_image(host: HostId, at: impl AsRef<Path>) -> DiskImage {
    let world = controller();
    let (place, _) = locate(&world, host, at.as_ref()).expect("a path in UTF-8");
    world.with_fs(place, |fs| fs.image())
}

/// Puts an image in the place of what a disk holds, all of it durable: how a disk is rolled back, copied or replaced
/// ([`DiskImage::empty`]).
///
/// # Panics
/// When a file of the disk is open, or an operation on it under way.
pub fn restore_disk(host: HostId, at: impl AsRef<Path>, image: &DiskImage) {
    let world = controller();
    let (place, _) = locate(&world, host, at.as_ref()).expect("a path in UTF-8");
    let open = world.handles.borrow().open.values().any(|handle| handle.place == place);
    let busy = world.operations.borrow_mut().iter_mut().any(|(_, operation)| operation.place == place);
    assert!(!open && !busy, "the disk is in use");
    world.with_fs(place, |fs| fs.restore(image));
}
