//! See `trucker_fuzz::template`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trucker_fuzz::template::check(data));
