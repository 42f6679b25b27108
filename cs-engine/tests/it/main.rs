//! The engine on the real executor and on simulated disks.

mod basic;
mod check;
mod damage;
mod fixtures;
mod found;
mod model;
mod registration;
mod restarts;
mod rig;
mod simulated;
mod single;
