//! What files say, and what is said about files: each `testdata/**/*.yaml` or `.json` beside its `.golden`.
//! `UPDATE_GOLDEN=1 cargo test -p leno-config` rewrites them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use leno_config::{admit, parse_documents};

fn inputs(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending != "golden"))
        .collect();
    files.sort();
    files
}

fn render(path: &Path) -> String {
    let file = path.file_name().unwrap().to_str().unwrap();
    let text = fs::read_to_string(path).unwrap();
    let mut out = String::new();
    match parse_documents(file, &text) {
        Err(findings) => {
            for finding in findings {
                writeln!(out, "{finding}").unwrap();
            }
        }
        Ok(documents) => {
            for document in documents {
                let admitted = admit(document.kind, document.with_source()).unwrap();
                let place = format!("{}:{}", document.file, document.line);
                let namespace = document.namespace.as_deref().unwrap_or("-");
                writeln!(
                    out,
                    "# {place} {} {namespace} {}",
                    document.kind, document.name
                )
                .unwrap();
                let value = serde_json::to_string_pretty(&admitted.value).unwrap();
                writeln!(out, "{value}\n{:#?}\n", admitted.resource).unwrap();
                // Defaults are the server's: a second reading changes nothing.
                let again = admit(document.kind, admitted.value.clone()).unwrap();
                assert_eq!(again, admitted, "{place}");
            }
        }
    }
    out
}

fn check(folder: &str, at_least: usize, right: bool) {
    let files = inputs(folder);
    assert!(files.len() >= at_least, "{} of {at_least}", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let now = render(&path);
        assert_eq!(now.starts_with('#'), right, "{}:\n{now}", path.display());
        let golden = path.with_extension("golden");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &now).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != now {
            wrong.push(format!("{}:\n{now}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn right_documents_are_read_with_their_defaults() {
    check("documents", 10, true);
}

#[test]
fn wrong_documents_are_refused_with_line_field_reason_and_nearest_name() {
    check("errors", 25, false);
}
