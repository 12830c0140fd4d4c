//! The direction of dependencies: a crate depends only on crates listed before it. The list is the architecture's.
//! And what a module that decides must not reach for: clocks, randomness, files, sockets.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::tool::{Failure, cargo_command, root};

/// Every crate with its layer, in the order of ARCHITECTURE.md.
pub(crate) const ORDER: &[(&str, &str)] = &[
    ("types", "leno-types"),
    ("types", "leno-wire"),
    ("decisions", "leno-config"),
    ("decisions", "leno-ir"),
    ("decisions", "leno-compile"),
    ("decisions", "leno-policy"),
    ("decisions", "leno-balance"),
    ("mechanisms", "leno-runtime"),
    ("mechanisms", "leno-net"),
    ("mechanisms", "leno-tls"),
    ("mechanisms", "leno-http"),
    ("mechanisms", "leno-telemetry"),
    ("mechanisms", "leno-store"),
    ("mechanisms", "leno-api"),
    ("planes", "leno-dataplane"),
    ("planes", "leno-agent"),
    ("planes", "leno-controlplane"),
    ("planes", "leno-cli"),
    ("examples", "leno-shop"),
    ("bins", "leno"),
    ("bins", "leno-proxy"),
];
/// Of these, neither side may know the other.
const PROXY_SIDE: &[&str] = &["leno-dataplane", "leno-agent", "leno-proxy"];
const CONTROL_SIDE: &[&str] = &[
    "leno-controlplane",
    "leno-api",
    "leno-store",
    "leno-compile",
    "leno-config",
];
/// Libraries that one crate alone may use: the architecture's fences.
const FENCES: &[(&str, &[&str])] = &[
    ("rustls", &["leno-tls"]),
    ("tokio-rustls", &["leno-tls"]),
    ("rcgen", &["leno-tls"]),
    ("x509-parser", &["leno-tls"]),
    ("h2", &["leno-http", "leno-shop"]),
    ("rusqlite", &["leno-store"]),
    ("hickory-proto", &["leno-dataplane"]),
    ("ratatui", &["leno-cli"]),
    ("serde-saphyr", &["leno-config", "leno-cli"]),
];
/// The data path uses neither.
const BANNED: &[(&str, &[&str])] = &[
    ("leno-dataplane", &["hyper", "tonic", "axum"]),
    ("leno-http", &["hyper", "tonic", "axum"]),
];
/// Tools and tests may depend on anything.
const FREE: &[&str] = &[
    "xtask",
    "wire-codegen",
    "control-load",
    "leno-e2e",
    "leno-parsers",
    "leno-simulate",
    "leno-testkit",
];

/// Modules of the control plane that decide: time and randomness reach them as arguments, as they do the decision crates,
/// for which clippy-decisions.toml says so.
const DECIDING: &[&str] = &["distribution", "registry", "telemetry", "uids", "vips"];
/// What they name none of.
const AMBIENT: &[&str] = &[
    "SystemTime::now",
    "Instant::now",
    ".elapsed(",
    "fastrand::",
    "authority::random",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "tokio::",
];

/// Checks every crate of the workspace.
pub(crate) fn run() -> Result<(), Failure> {
    let mut found = violations(&dependencies()?);
    found.extend(ambient()?);
    if found.is_empty() {
        println!("layers: {} crates depend downwards only", ORDER.len());
        return Ok(());
    }
    Err(Failure::Found(format!(
        "the direction of dependencies is broken:\n  {}",
        found.join("\n  ")
    )))
}

/// Each crate's direct dependencies, those for tests left out.
fn dependencies() -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let mut command = cargo_command();
    let output = command
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output();
    let output = output.map_err(|error| Failure::Start("cargo metadata".into(), error))?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::Found(format!("cargo metadata: {error}")))?;
    let text = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let of = |package: &Value| {
        let dependencies = package
            .get("dependencies")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let normal =
            dependencies.filter(|dependency| dependency.get("kind").is_none_or(Value::is_null));
        (
            text(package, "name"),
            normal.map(|dependency| text(dependency, "name")).collect(),
        )
    };
    Ok(metadata
        .get("packages")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(of)
        .collect())
}

/// Where a module that decides looks at the world by itself.
fn ambient() -> Result<Vec<String>, Failure> {
    let src = root().join("crates/leno-controlplane/src");
    let mut files = Vec::new();
    for module in DECIDING {
        files.push(src.join(format!("{module}.rs")));
        sources(&src.join(module), &mut files)?;
    }
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).map_err(|error| Failure::Io(file.clone(), error))?;
        let shipped = text.split("#[cfg(test)]\nmod tests {").next();
        let named = |word: &&&str| shipped.is_some_and(|text| text.contains(**word));
        found.extend(AMBIENT.iter().filter(named).map(|word| {
            let file = file.display();
            format!("{file} decides, and must not use {word}: take it as an argument")
        }));
    }
    Ok(found)
}

/// The files of a module's directory, where it has one, tests left out.
fn sources(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    if !dir.is_dir() {
        return Ok(());
    }
    let entries = fs::read_dir(dir).map_err(|error| Failure::Io(dir.into(), error))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("tests.rs" | "tests") => {}
            _ if path.is_dir() => sources(&path, files)?,
            _ => files.push(path),
        }
    }
    Ok(())
}

fn violations(crates: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let place = |name: &str| ORDER.iter().position(|(_, of)| *of == name);
    let mut found = Vec::new();
    for (name, dependencies) in crates {
        if FREE.contains(&name.as_str()) {
            continue;
        }
        let Some(own) = place(name) else {
            found.push(format!(
                "{name} has no place in the list of xtask/src/layers.rs"
            ));
            continue;
        };
        for dependency in dependencies {
            if let Some(other) = place(dependency)
                && other >= own
            {
                found.push(format!(
                    "{name} ({}) must not know {dependency} ({})",
                    ORDER[own].0, ORDER[other].0
                ));
            }
            let crosses = |from: &[&str], to: &[&str]| {
                from.contains(&name.as_str()) && to.contains(&dependency.as_str())
            };
            if crosses(PROXY_SIDE, CONTROL_SIDE) || crosses(&["leno-controlplane"], PROXY_SIDE) {
                found.push(format!("{name} and {dependency} are of different planes"));
            }
            let fence = FENCES.iter().find(|(library, _)| library == dependency);
            if fence.is_some_and(|(_, allowed)| !allowed.contains(&name.as_str())) {
                found.push(format!("{name} must not use {dependency}: it is fenced in"));
            }
            if BANNED
                .iter()
                .any(|(of, banned)| of == name && banned.contains(&dependency.as_str()))
            {
                found.push(format!(
                    "{name} is on the data path and must not use {dependency}"
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, dependency: &str) -> Vec<String> {
        violations(&BTreeMap::from([(
            name.to_owned(),
            vec![dependency.to_owned()],
        )]))
    }

    #[test]
    fn a_crate_may_know_only_what_stands_before_it() {
        assert!(found("leno-tls", "leno-types").is_empty());
        assert_eq!(found("leno-types", "leno-tls").len(), 1);
        assert_eq!(found("leno-controlplane", "leno-agent").len(), 1);
        assert!(!found("leno-agent", "leno-store").is_empty());
        assert_eq!(found("leno-agent", "rustls").len(), 1);
        assert_eq!(found("leno-dataplane", "hyper").len(), 1);
        assert_eq!(found("leno-new", "leno-types").len(), 1);
    }
}
