//! Connections on real sockets with real TLS, and in the simulator.

use datapath_link as link;

mod calls;
mod guests;
mod hostile;
mod measure;
mod raw;
mod servers;
mod sim;
mod world;
