//! Fuzzes `mpool::fuzzing::sums`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mpool::fuzzing::sums(bytes));
