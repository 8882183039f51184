//! Fuzzes `mpool::fuzzing::superblock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mpool::fuzzing::superblock(bytes));
