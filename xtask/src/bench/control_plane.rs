//! `cargo xtask bench control-plane`: builds what ships and what loads it, and lets that measure.

use crate::tool::{Failure, cargo, cargo_command, root, status};

const USAGE: &str = "cargo xtask bench control-plane [OPTIONS]
  --services N     services (default 10000)
  --endpoints N    endpoints: workloads that serve one of them (default 100000)
  --proxies N      agents, each with a TLS connection of its own (default 5000)
  -o json FILE     writes the result as JSON
  -o markdown FILE writes the tables into a page, such as docs/benchmarks.md, between their two marks
  --leno FILE      measures this binary instead of building one (profile dist)";

/// Builds, and measures.
pub(super) fn run(args: &[&str]) -> Result<(), Failure> {
    let mut arguments: Vec<String> = Vec::new();
    let mut leno = None;
    let mut rest = args;
    loop {
        rest = match rest {
            [] => break,
            [
                size @ ("--services" | "--endpoints" | "--proxies"),
                number,
                rest @ ..,
            ] => {
                arguments.extend([(*size).to_owned(), (*number).to_owned()]);
                rest
            }
            ["-o", form @ ("json" | "markdown"), file, rest @ ..] => {
                arguments.extend([format!("--{form}"), (*file).to_owned()]);
                rest
            }
            ["--leno", file, rest @ ..] => {
                leno = Some((*file).to_owned());
                rest
            }
            _ => return Err(Failure::Usage(USAGE)),
        };
    }
    let leno = match leno {
        Some(leno) => leno,
        None => {
            cargo(&["build", "--profile", "dist", "--package", "leno"])?;
            let built = super::target_directory()?.join("dist/leno");
            built.display().to_string()
        }
    };
    let mut command = cargo_command();
    command
        .current_dir(root())
        .args(["run", "--quiet", "--release", "--package", "control-load"])
        .args(["--", "--leno", &leno])
        .args(arguments);
    status(&mut command, "cargo run --package control-load")
}
