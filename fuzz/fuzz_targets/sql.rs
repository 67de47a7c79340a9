//! See `trucker_fuzz::sql`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trucker_fuzz::sql::check(data));
