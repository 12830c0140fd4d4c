//! Runs the tests, and says what was skipped and why: a test that could not run never counts as passed.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    process::Command,
};

use crate::tool::{Failure, cargo, cargo_command, has, root, status};

/// Every test. `names` narrows it to tests whose name contains one of them.
pub(crate) fn run(names: &[&str]) -> Result<(), Failure> {
    let skips = env::temp_dir().join(format!("leno-skips-{}", std::process::id()));
    // What the end-to-end tests start is the real binaries, as a user would build them.
    cargo(&["build", "--package", "leno", "--package", "leno-proxy"])?;
    let mut command = cargo_command();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .env("LENO_SKIPPED", &skips);
    if !names.is_empty() {
        command.arg("--").args(names);
    }
    let outcome = status(&mut command, "cargo test --workspace");
    let skipped = fs::read_to_string(&skips).unwrap_or_default();
    if !skipped.is_empty() {
        // A test may say so more than once.
        let lines: BTreeSet<&str> = skipped.lines().collect();
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (test, reason) in lines.iter().filter_map(|line| line.split_once('\t')) {
            reasons.entry(reason).or_default().push(test);
        }
        // The standard harness has no word for a test that finds out by itself that it cannot run, and says ok.
        println!(
            "skipped {} tests, none of which passed, whatever is said of them above:",
            lines.len()
        );
        for (reason, tests) in reasons {
            println!("  {reason}: {}", tests.join(", "));
        }
        fs::remove_file(&skips).map_err(|error| Failure::Io(skips, error))?;
    }
    outcome
}

/// Lives simulated worlds through; the build is optimized, for they are many.
pub(crate) fn simulate(args: &[&str]) -> Result<(), Failure> {
    let mut command = cargo_command();
    command.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "leno-simulate",
        "--",
    ]);
    command.args(args);
    status(&mut command, "cargo run --package leno-simulate")
}

/// Rewrites what golden tests expect; the difference is then read by a person.
pub(crate) fn golden() -> Result<(), Failure> {
    let mut command = cargo_command();
    command
        .args([
            "test",
            "--package",
            "leno-config",
            "--package",
            "leno-compile",
            "--package",
            "leno-proxy",
        ])
        .env("UPDATE_GOLDEN", "1");
    status(&mut command, "cargo test with UPDATE_GOLDEN=1")
}

/// Runs each fuzz target for a while.
pub(crate) fn fuzz(args: &[&str]) -> Result<(), Failure> {
    let seconds: u64 = args
        .first()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    if !has("cargo-fuzz") {
        return Err(Failure::Found(
            "cargo-fuzz is not installed: cargo install cargo-fuzz".into(),
        ));
    }
    let output = Command::new("cargo")
        .args(["fuzz", "list"])
        .current_dir(root())
        .output();
    let output = output.map_err(|error| Failure::Start("cargo fuzz list".into(), error))?;
    for target in String::from_utf8_lossy(&output.stdout).lines() {
        // What is found goes beside the committed corpus, not into it.
        let (found, corpus) = (
            format!("fuzz/found/{target}"),
            format!("fuzz/corpus/{target}"),
        );
        let dir = root().join(&found);
        fs::create_dir_all(&dir).map_err(|error| Failure::Io(dir, error))?;
        let limits = [
            format!("-max_total_time={seconds}"),
            "-timeout=10".into(),
            "-rss_limit_mb=2048".into(),
        ];
        let mut command = Command::new("cargo");
        // Stable compilers take the sanitizer flags only when told to.
        command
            .args(["fuzz", "run", target, &found, &corpus, "--"])
            .args(limits)
            .env("RUSTC_BOOTSTRAP", "1");
        status(
            command.current_dir(root()),
            &format!("cargo fuzz run {target}"),
        )?;
    }
    Ok(())
}
