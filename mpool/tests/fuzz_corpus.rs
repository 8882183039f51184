//! What the fuzz targets have kept, replayed on the stable toolchain: a decoder that once fell
//! stays up. `fuzz/corpus/TARGET/` has the inputs, `fuzz/fuzz_targets/TARGET.rs` the target.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::print_stdout, reason = "a failure says which input it was")]

use mpool::fuzzing::TARGETS;
use std::{collections::BTreeSet, path::Path};

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[test]
fn every_kept_input_holds_the_properties_of_its_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    for (name, target) in TARGETS {
        let corpus = fuzz.join("corpus").join(name);
        let inputs = names(&corpus);
        assert!(!inputs.is_empty(), "{} is empty", corpus.display());
        for input in inputs {
            // A failure says which.
            println!("{name}/{input}");
            target(&std::fs::read(corpus.join(input)).unwrap());
        }
    }
}

#[test]
fn every_target_has_its_file_and_its_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz.join("corpus")), targets);
    let files = names(&fuzz.join("fuzz_targets"));
    assert_eq!(files, targets.iter().map(|name| format!("{name}.rs")).collect());
}
