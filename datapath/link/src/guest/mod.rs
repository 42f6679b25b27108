//! Guests: those who have no certificate and know the password. They come to the port of the members and are told apart in the
//! handshake, where they show no certificate. A guest says one thing at a time and waits for the answer; he reaches nothing but
//! the [`Host`], and proves the password before he is given anything.
//!
//! The guest cannot know the certificate he is shown. The password exchange tells him whether it is the cluster's: both ends mix
//! [`Channel::binding`] into it, so that somebody in between, who has a channel with each of them, fails with both.

mod channel;
mod visit;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

pub use channel::{Channel, ChannelError};
pub use visit::{Visit, VisitError, Visitor};

/// What proofs under the session's key are for.
pub mod purpose {
    /// The certificates of an enrolment.
    pub const ENROLLED: &str = "vstorage enrolled 1";
    /// The record of a new password.
    pub const SET_PASSWORD: &str = "vstorage set password 1";
}

/// Who receives guests.
pub trait Host: 'static {
    /// Receives one. The visit ends when this does, or when it takes too long.
    fn receive(self: Rc<Self>, channel: Channel) -> Pin<Box<dyn Future<Output = ()>>>;
}
