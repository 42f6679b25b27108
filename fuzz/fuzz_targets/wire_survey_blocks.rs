//! `wire::fuzz::survey_blocks` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    wire::fuzz::survey_blocks(data);
});
