//! See `trucker_fuzz::clickhouse`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trucker_fuzz::clickhouse::check(data));
