//! `wire::fuzz::clear_marks` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    wire::fuzz::clear_marks(data);
});
