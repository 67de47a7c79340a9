//! See `trucker_fuzz::stream`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trucker_fuzz::stream::check(data));
