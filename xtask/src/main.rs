//! `cargo xtask`: everything the project asks of itself, by name, so that a red job is reproducible by anybody.

mod bench;
mod check;
mod docs;
mod layers;
mod shape;
mod test;
mod tool;

use std::{env, process::ExitCode};

use tool::{Failure, cargo};

const USAGE: &str = "cargo xtask COMMAND
  check          format, clippy, layers, shape of the files, documentation, licences of dependencies
  test [NAME]    every test; what is missing on this machine is reported as skipped, with the reason
  layers         the direction of dependencies between crates
  shape          files and functions that have grown too long
  docs           rewrites what the code says in the documentation: limits, refusals, commands
  codegen        leno-wire's Rust from its protobuf files
  golden         rewrites the expected outputs of golden tests
  fuzz [SECONDS] runs each fuzz target for so long (needs cargo-fuzz)
  simulate       control plane, store and agents with seeded faults: see cargo xtask simulate --help
  bench          compares Leno with its peers: see cargo xtask bench --help";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["check"] => check::run(),
        ["test", rest @ ..] => test::run(rest),
        ["layers"] => layers::run(),
        ["shape"] => shape::run(),
        ["docs"] => docs::run(),
        ["codegen"] => cargo(&["run", "--quiet", "--package", "wire-codegen"])
            .and_then(|()| cargo(&["fmt", "--package", "leno-wire"])),
        ["golden"] => test::golden(),
        ["fuzz", rest @ ..] => test::fuzz(rest),
        ["simulate", rest @ ..] => test::simulate(rest),
        ["bench", rest @ ..] => bench::run(rest),
        _ => Err(Failure::Usage(USAGE)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}
