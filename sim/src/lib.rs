//! Whole clusters in one thread, by seed.
