//! The NBD server and the daemon around it, on the real executor: a raw client of our own, then the programs that
//! people use.

mod back_pressure;
mod cluster;
mod daemon;
mod device;
mod hostile;
mod programs;
mod protocol;
mod raw;
mod server;
mod shutdown;
mod tools;
