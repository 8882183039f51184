//! Fuzzes `mpool::fuzzing::record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mpool::fuzzing::record(bytes));
