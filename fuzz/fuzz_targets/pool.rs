//! Fuzzes `mpool::fuzzing::pool`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mpool::fuzzing::pool(bytes));
