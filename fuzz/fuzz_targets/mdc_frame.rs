//! Fuzzes `mpool::fuzzing::mdc_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mpool::fuzzing::mdc_frame(bytes));
