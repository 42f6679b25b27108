//! A file of the cluster as a volume.
//!
//! A [`Session`] is this process at the metadata servers: one lease renewal for all its files (C1). [`Servers`] are the
//! chunk servers it talks to. A [`Volume`] is one file, open under a lease: reads, writes, flushes, discards go from
//! here to the chunk servers directly; the metadata server is asked again only when something changes.

mod detector;
mod error;
mod host;
mod membership;
mod quickness;
mod release;
mod servers;
mod session;
pub mod state;
mod volume;

pub use detector::FailureLimits;
pub use error::{OpenError, VolumeError};
pub use host::{HostCluster, HostError};
pub use membership::{Membership, MembershipError};
pub use servers::{Server, Servers};
pub use session::{Change, Lapsed, Session, SessionOptions};
pub use state::StateError;
pub use volume::{Comparison, Cut, OpenOptions, Run, Volume, VolumeState};
