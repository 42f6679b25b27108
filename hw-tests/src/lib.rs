//! Tests on a real kernel and real disks, and what they stand on.
//!
//! - [`forgetting_disk`]: a block device whose unflushed writes a power cut takes, for real processes on a real ext4;
//! - [`ram_medium`]: an ext4 on a disk of memory, for benches and long runs;
//! - [`process`]: child daemons, awaited by what they print, ended rudely;
//! - [`cluster`]: whole clusters of real daemons on this machine, on plain directories or disks that forget;
//! - [`network`]: hosts of such a cluster that can be cut off from each other;
//! - [`mount`]: such a cluster, mounted as a file system;
//! - [`oracle`]: judges what a block holds after a crash; [`load`]: a load through [`nbd`] under its eyes;
//! - [`machine`]: whether this machine can run all that, and whether a test may be skipped.
//!
//! Needs root, FUSE and loop devices in the kernel, and the Debian packages `e2fsprogs`, `mount` (also `losetup`) and
//! `util-linux` (`setpriv`). `libfuse` and `fusermount` are not needed.

pub mod cluster;
pub mod deadline;
pub mod direct_file;
pub mod ext4;
pub mod forgetting_disk;
pub mod leftovers;
pub mod load;
pub mod loop_device;
pub mod machine;
pub mod mount;
mod mounts;
pub mod nbd;
pub mod network;
pub mod oracle;
pub mod own_dir;
pub mod process;
pub mod ram_medium;
pub mod seeded;
pub mod tool;

pub use leftovers::{LeftoverError, cleanup_stale};
