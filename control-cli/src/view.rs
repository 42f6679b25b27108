//! What the metadata servers say, in the form that operators and scripts see. The names of fields are those of the
//! JSON and never change their meaning; units are part of them.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod event;
pub(crate) mod file;
pub(crate) mod io;
pub(crate) mod monitor;
pub(crate) mod node;
pub(crate) mod server;
