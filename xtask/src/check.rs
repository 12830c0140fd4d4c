//! Everything that can be said of the project without running it.

use crate::{
    layers, shape,
    tool::{Failure, cargo, has},
};

/// Runs every check, and says at the end which failed, not only the first.
pub(crate) fn run() -> Result<(), Failure> {
    let mut failed = Vec::new();
    let mut note = |outcome: Result<(), Failure>| {
        if let Err(failure) = outcome {
            eprintln!("xtask: {failure}");
            failed.push(failure.to_string());
        }
    };
    note(cargo(&["fmt", "--all", "--check"]));
    note(layers::run());
    note(shape::run());
    note(cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]));
    note(documentation());
    if has("cargo-deny") {
        note(cargo(&[
            "deny",
            "--offline",
            "check",
            "bans",
            "licenses",
            "sources",
        ]));
    } else {
        println!("skipped: deny (cargo-deny is not installed: cargo install cargo-deny)");
    }
    if failed.is_empty() {
        println!("check: everything holds");
        return Ok(());
    }
    Err(Failure::Found(format!(
        "{} of the checks failed",
        failed.len()
    )))
}

fn documentation() -> Result<(), Failure> {
    cargo(&[
        "doc",
        "--workspace",
        "--no-deps",
        "--quiet",
        "--document-private-items",
    ])
}
