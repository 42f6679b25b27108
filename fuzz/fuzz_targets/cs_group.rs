//! `cs_engine::format::fuzz::group` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _accepted = cs_engine::format::fuzz::group(data);
});
