//! The vstorage command line.
