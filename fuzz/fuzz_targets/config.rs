//! See `trucker_fuzz::config`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trucker_fuzz::config::check(data));
