//! Block front ends: NBD now, ublk next.

pub mod device;
pub mod nbd;
