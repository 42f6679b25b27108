//! The engine on the real executor and on simulated disks.

mod basic;
mod model;
mod restarts;
mod rig;
