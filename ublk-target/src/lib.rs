//! Block front ends: NBD now, ublk next.

pub mod nbd;
