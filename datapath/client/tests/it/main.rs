//! Volumes in the simulator, against servers that answer by a script.

use datapath_client as client;

mod flushes;
mod growth;
mod journal;
mod leases;
mod members;
mod servers;
mod sparse;
mod world;
