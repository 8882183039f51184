//! Fuzzes `mpool::fuzzing::cgroup`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mpool::fuzzing::cgroup(bytes));
