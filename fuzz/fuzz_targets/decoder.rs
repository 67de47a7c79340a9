//! See `trucker_fuzz::decoder`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trucker_fuzz::decoder::check(data));
