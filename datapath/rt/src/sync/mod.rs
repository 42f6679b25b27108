//! Waiting for each other inside one executor. Nothing here crosses threads; see [`crate::mailbox`] for that.

mod channel;
mod notify;
mod oneshot;
mod range_lock;
mod semaphore;

pub use channel::{Receiver, SendError, Sender, TrySendError, channel};
pub use notify::{Notified, Notify};
pub use oneshot::{Canceled, OneReceiver, OneSender, oneshot};
pub use range_lock::{LockRange, RangeGuard, RangeLock};
pub use semaphore::{Acquire, Permit, Semaphore};
