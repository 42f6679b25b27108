//! `mds::raft::fuzz::message` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _accepted = mds::raft::fuzz::message(data);
});
