//! The executor of vstorage and its two drivers.
//!
//! One single-threaded executor per core runs plain `async` Rust. Its I/O goes to one of two drivers:
//! [`uring`](crate::launch::Executor), one io_uring per thread carrying files, sockets and timers, or
//! [`sim`], a deterministic world with virtual time, simulated disks and network. Code written
//! on this crate cannot tell which one it runs on: it reads no clock, no random source and no hash order
//! except through this crate.
//!
//! Rules every caller can rely on:
//!
//! * **A buffer belongs to its operation.** Operations take [`buf::Buf`] by value or a counted
//!   [`buf::View`]; dropping a future never frees memory the kernel may still touch.
//! * **Nothing here spins.** An executor without work blocks in the kernel.
//! * **Operations do not retry.** A failed device write or flush is reported once, to the caller.
//!
//! Some memory of a task may be observed from another thread only through [`mailbox`] and
//! [`blocking`]; everything else is `!Send` on purpose.

#![allow(unsafe_code, reason = "the kernel boundary lives here; each block carries its SAFETY argument")]

pub mod blocking;
pub mod buf;
pub mod collections;
mod context;
pub mod fs;
pub mod launch;
pub mod mailbox;
pub mod net;
pub mod node;
mod race;
pub mod random;
pub mod signal;
pub mod sim;
mod start_error;
pub mod sync;
pub mod task;
pub mod time;
mod timers;
mod uring;

pub use launch::{Executor, ExecutorOptions, StartError};
pub use race::{First, first};
pub use task::{JoinError, JoinHandle, spawn, yield_now};
