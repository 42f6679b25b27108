//! `cs_engine::format::fuzz::journal_header` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _accepted = cs_engine::format::fuzz::journal_header(data);
});
