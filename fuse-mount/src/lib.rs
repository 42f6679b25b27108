//! The cluster as a file system of this host: `vstorage-mount`.
//!
//! The kernel's requests are decoded by a few threads ([`bridge`]) that do nothing else: each request goes, with the object it is
//! answered by, through one mailbox to the one executor, where [`fs`] carries it out and answers it. Nothing is shared.

mod bridge;
mod clock;
pub mod daemon;
mod errno;
mod fs;
mod request;
