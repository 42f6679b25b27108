//! `wire::fuzz::block_status_reply` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    wire::fuzz::block_status_reply(data);
});
