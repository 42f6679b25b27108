//! `wire::fuzz::survey_blocks_reply` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    wire::fuzz::survey_blocks_reply(data);
});
