//! The engine on the real executor and on simulated disks.

mod basic;
mod check;
mod compare;
mod copier;
mod damage;
mod faults;
mod fill;
mod fixtures;
mod found;
mod install;
mod journal_faults;
mod journals;
mod leaving;
mod model;
mod registration;
mod restarts;
mod returner;
mod rig;
mod scrub;
mod simulated;
mod single;
