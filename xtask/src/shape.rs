//! How long files may be: above six hundred lines a reason stands in the list here.

use std::{fs, path::Path};

use crate::tool::{Failure, root};

const LONGEST: usize = 600;
/// Files that may be longer, and why.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// Checks every Rust file that is neither a test nor generated.
pub(crate) fn run() -> Result<(), Failure> {
    let mut long = Vec::new();
    for dir in ["bins", "crates", "examples", "xtask"] {
        walk(&root().join(dir), &mut long)?;
    }
    if long.is_empty() {
        println!("shape: no file is longer than {LONGEST} lines without a reason");
        return Ok(());
    }
    Err(Failure::Found(format!(
        "longer than {LONGEST} lines (split them, or give a reason in xtask/src/shape.rs):\n  {}",
        long.join("\n  ")
    )))
}

fn walk(dir: &Path, long: &mut Vec<String>) -> Result<(), Failure> {
    let entries = fs::read_dir(dir).map_err(|error| Failure::Io(dir.into(), error))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if path.is_dir() {
            if !matches!(name, "tests" | "generated" | "target" | "testdata") {
                walk(&path, long)?;
            }
            continue;
        }
        if !name.ends_with(".rs") || name == "tests.rs" || name.ends_with("_tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(|error| Failure::Io(path.clone(), error))?;
        let lines = text.lines().count();
        let excused = EXCEPTIONS.iter().any(|(of, _)| path.ends_with(of));
        if lines > LONGEST && !excused {
            long.push(format!("{} ({lines})", path.display()));
        }
    }
    Ok(())
}
