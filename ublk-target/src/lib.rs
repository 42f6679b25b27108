//! Block front ends: NBD now, ublk next.

pub mod daemon;
pub mod device;
pub mod nbd;
mod stop;
