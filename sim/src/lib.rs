//! Whole clusters in one thread, from one seed.
//!
//! A run has a metadata server, four chunk servers and two clients on seven hosts of the simulator
//! ([`rt::sim`]). The clients work ([`workload`]) while faults strike ([`faults`]); an oracle outside every process
//! knows what they were told ([`oracle`]). Then the faults end, everything is started again, the clients must finish
//! (convergence), every sector is read once more, the members are compared, and the disks are checked.

pub mod cluster;
pub mod coverage;
pub mod faults;
pub mod log;
pub mod oracle;
pub mod plans;
pub mod queues;
pub mod run;
pub mod scratch;
pub mod workload;
