//! Fuzzes `mpool::fuzzing::mark`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mpool::fuzzing::mark(bytes));
