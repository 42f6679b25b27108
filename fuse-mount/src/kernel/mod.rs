//! The kernel's side: the FUSE device, its protocol (`include/uapi/linux/fuse.h` of Linux, version 7), mounting.
//!
//! Requests are read by the executor itself, when the device says that there are some: no thread, no hop, no copy of large
//! writes. Each request comes with a [`Reply`], which answers it exactly once.

mod abi;
mod decode;
mod device;
mod notices;
mod reply;
mod request;
mod waiting;

pub(crate) use device::{Device, Manner, Next};
pub(crate) use notices::Old;
pub(crate) use reply::{Attr, Listing, OpenFlags, Reply, Space};
pub(crate) use request::{AttrChange, Making, Request, TimeChange, Writing};

/// Most bytes of one write, and of one read.
pub(crate) const TRANSFER_MAX: usize = 1 << 20;
