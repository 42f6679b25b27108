//! `wire::fuzz::block_status` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    wire::fuzz::block_status(data);
});
