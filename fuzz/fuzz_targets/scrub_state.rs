//! Fuzzes `mpool::fuzzing::scrub_state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mpool::fuzzing::scrub_state(bytes));
