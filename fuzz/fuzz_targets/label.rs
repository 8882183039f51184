//! Fuzzes `mpool::fuzzing::label`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mpool::fuzzing::label(bytes));
