//! The cluster as a file system of this host: `vstorage-mount`.
//!
//! One thread does everything: the executor is woken by the kernel's requests ([`kernel`]), [`fs`] carries them out, each in a task of
//! its own, and answers them. So a request costs no more wakes than the kernel's own.

mod clock;
pub mod daemon;
mod errno;
mod fs;
mod kernel;
mod race;
