//! Feeds every committed corpus, and pieces made of it, to its parser; and holds the fuzz targets to be mere wrappers.
//!
//! What is made of a seed is the same in every run: cut off, bits flipped, pieces doubled, two seeds joined. Searching is
//! the fuzzer's, with `cargo xtask fuzz`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use leno_parsers::TARGETS;

/// So many places of a seed are cut, and so many bits of it flipped.
const PLACES: usize = 48;
const AS_IT_IS: &str = "as it is";

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// The names in a directory.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = fuzz().join("corpus").join(target);
    let read = |name: String| {
        let bytes = fs::read(dir.join(&name)).unwrap();
        (name, bytes)
    };
    names(&dir).into_iter().map(read).collect()
}

/// What is made of `seed`; `other` is another of its corpus.
fn variants(seed: &[u8], other: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut made = vec![
        (AS_IT_IS, seed.to_vec()),
        ("with another", [seed, other].concat()),
    ];
    let places = || (0..PLACES.min(seed.len())).map(|n| n * seed.len() / PLACES.min(seed.len()));
    for (n, at) in places().enumerate() {
        made.push(("cut", seed[..at].to_vec()));
        let mut flipped = seed.to_vec();
        flipped[at] ^= 1 << (n % 8);
        made.push(("with a bit flipped", flipped));
        if n % 4 == 0 {
            let doubled = [seed, &seed[at..]].concat();
            made.push(("with its end doubled", doubled));
            made.push(("begun later", seed[at..].to_vec()));
            let mut high = seed.to_vec();
            high[at] = 0xff;
            made.push(("with a byte of ones", high));
        }
    }
    // The longest of a thing that repeats.
    made.push(("64 times", seed.repeat(64)));
    made
}

#[test]
fn every_seed_and_what_is_made_of_it_is_read_or_refused() {
    let mut failed = Vec::new();
    for (target, parse) in TARGETS {
        let seeds = seeds(target);
        let (mut read, mut refused) = (false, false);
        let next = seeds.iter().cycle().skip(1);
        for ((name, seed), (_, other)) in seeds.iter().zip(next) {
            for (how, bytes) in variants(seed, other) {
                match catch_unwind(AssertUnwindSafe(|| parse(&bytes))) {
                    Ok(taken) if how == AS_IT_IS => read |= taken,
                    Ok(taken) => refused |= !taken,
                    Err(_) => {
                        let bytes = bytes.escape_ascii();
                        failed.push(format!("{target}/{name}, {how}: {bytes:.2000}"));
                    }
                }
            }
        }
        // A corpus in which nothing can be read tests a parser's first line.
        if !read || !refused {
            failed.push(format!("{target}: read {read}, refused {refused}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_parser_has_a_corpus_and_a_target_that_only_calls_it() {
    let all: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("corpus")), all);
    let files = all.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz().join("targets")), files);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &all {
        let wrapper = fs::read_to_string(fuzz().join(format!("targets/{name}.rs"))).unwrap();
        assert_eq!(wrapper, wrapper_of(name));
        assert!(seeds(name).len() > 1, "the corpus of {name} has one seed");
        let bin = format!("[[bin]]\nname = \"{name}\"\npath = \"targets/{name}.rs\"\n");
        assert!(manifest.contains(&bin), "fuzz/Cargo.toml has no {name}");
    }
}

fn wrapper_of(name: &str) -> String {
    format!(
        "//! The parser `{name}` of tests/parsers.\n#![no_main]\n\n\
         libfuzzer_sys::fuzz_target!(|data: &[u8]| {{\n    leno_parsers::{name}(data);\n}});\n"
    )
}
