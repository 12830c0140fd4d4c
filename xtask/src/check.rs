//! Everything that can be said of the project without running it.

use crate::{
    docs, layers, shape,
    tool::{Failure, cargo, cargo_command, has},
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
    note(lint(&["--lib", "--bins"], &[]));
    // Tests may sleep, spawn and read the environment: the bans of clippy.toml are for what ships.
    note(lint(
        &["--all-targets"],
        &["-A", "clippy::disallowed_methods"],
    ));
    note(documentation());
    note(docs::check());
    if has("cargo-deny") {
        note(cargo(&[
            "deny", "--locked", "check", "bans", "licenses", "sources",
        ]));
        note(advisories());
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

fn lint(targets: &[&str], levels: &[&str]) -> Result<(), Failure> {
    let mut command = vec!["clippy", "--workspace", "--quiet"];
    command.extend_from_slice(targets);
    command.extend_from_slice(&["--", "-D", "warnings"]);
    command.extend_from_slice(levels);
    cargo(&command)
}

/// What is known of our dependencies' weaknesses: asked of a database elsewhere, which is not always reached.
fn advisories() -> Result<(), Failure> {
    let known = cargo_command()
        .args(["deny", "--locked", "fetch", "db"])
        .output()
        .map_err(|error| Failure::Start("cargo deny fetch".into(), error))?;
    if !known.status.success() {
        println!("skipped: advisories (their database cannot be fetched: is the network there?)");
        return Ok(());
    }
    cargo(&["deny", "--locked", "check", "advisories"])
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
