//! Tests of the crate as its users see it: frozen frames, fuzz functions, the written description.

// The short name that the rest of the workspace uses.
extern crate datapath_wire as wire;

mod auth_samples;
mod control_samples;
mod data_samples;
mod described;
mod fixtures;
mod fuzzed;
mod mutator;
mod sample;
