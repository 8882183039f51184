//! Fuzzes `mpool::fuzzing::session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mpool::fuzzing::session(bytes));
