//! The parts of the documentation that the code says already: written by `cargo xtask docs`, held equal by its test.
//!
//! A page has a mark for each such part; what stands between `<!-- code: SOURCE NAMES.. -->` and `<!-- end -->` is
//! made from the doc comments and values in that source. Only text is read: nothing needs to be built, but for the
//! command line's reference, which is what `leno --help` says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::tool::{Failure, cargo, root};

mod metrics;
mod source;

/// Rewrites every page, the command line's reference included.
pub(crate) fn run() -> Result<(), Failure> {
    for page in pages()? {
        let (old, new) = both(&page)?;
        if old != new {
            fs::write(&page, new).map_err(|error| Failure::Io(page.clone(), error))?;
            println!("docs: {} rewritten", page.display());
        }
    }
    let page = root().join(COMMANDS);
    let text = commands()?;
    fs::write(&page, text).map_err(|error| Failure::Io(page, error))
}

/// Says which pages are behind the code.
pub(crate) fn check() -> Result<(), Failure> {
    let mut behind = Vec::new();
    for page in pages()? {
        let (old, new) = both(&page)?;
        if old != new {
            behind.push(page.display().to_string());
        }
    }
    let page = root().join(COMMANDS);
    if fs::read_to_string(&page).unwrap_or_default() != commands()? {
        behind.push(page.display().to_string());
    }
    if behind.is_empty() {
        println!("docs: every page says what the code does");
        return Ok(());
    }
    Err(Failure::Found(format!(
        "behind the code (cargo xtask docs rewrites them):\n  {}",
        behind.join("\n  ")
    )))
}

/// Every Markdown page of the project's documentation.
fn pages() -> Result<Vec<PathBuf>, Failure> {
    let mut pages = vec![root().join("README.md")];
    for dir in ["docs", "docs/reference", "docs/refusals"] {
        let dir = root().join(dir);
        let entries = fs::read_dir(&dir).map_err(|error| Failure::Io(dir.clone(), error))?;
        let files = entries.flatten().map(|entry| entry.path());
        pages.extend(files.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    pages.sort();
    Ok(pages)
}

/// A page as it is, and as it should be.
fn both(page: &Path) -> Result<(String, String), Failure> {
    let old = fs::read_to_string(page).map_err(|error| Failure::Io(page.into(), error))?;
    let new =
        filled(&old).map_err(|reason| Failure::Found(format!("{}: {reason}", page.display())))?;
    Ok((old, new))
}

const MARK: &str = "<!-- code: ";
const MARK_END: &str = " -->\n";
const END: &str = "<!-- end -->\n";

/// The page with each of its marked parts made anew.
fn filled(page: &str) -> Result<String, String> {
    let (mut text, mut rest) = (String::new(), page);
    while let Some((before, after)) = rest.split_once(MARK) {
        let (mark, after) = after
            .split_once(MARK_END)
            .ok_or("a mark does not end its line")?;
        let (_, after) = after.split_once(END).ok_or("a mark has no end")?;
        let mut words = mark.split_whitespace();
        let file = words.next().ok_or("a mark names no source")?;
        let path = root().join(file);
        let code = fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
        let names: Vec<&str> = words.collect();
        let made = source::table(&code, &names).map_err(|reason| format!("{file}: {reason}"))?;
        text.push_str(&format!("{before}{MARK}{mark}{MARK_END}{made}{END}"));
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

const COMMANDS: &str = "docs/reference/commands.md";

/// What the command line says of itself.
fn commands() -> Result<String, Failure> {
    cargo(&["build", "--quiet", "--package", "leno"])?;
    let mut page = String::from(
        "# Commands\n\nWritten by `cargo xtask docs` from what the commands say of themselves.\n",
    );
    describe(&[], &mut page)?;
    Ok(page)
}

/// One command and those below it.
fn describe(path: &[&str], page: &mut String) -> Result<(), Failure> {
    let name = format!("leno {}", path.join(" "));
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let output = Command::new(target.join("debug/leno"))
        .args(path)
        .arg("--help")
        // What this shell has set must not show as a default.
        .env_clear()
        .output()
        .map_err(|error| Failure::Start(name.clone(), error))?;
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let help: String = help.lines().fold(String::new(), |mut text, line| {
        text.push_str(line.trim_end());
        text.push('\n');
        text
    });
    page.push_str(&format!(
        "\n## {}\n\n```\n{}\n```\n",
        name.trim_end(),
        help.trim_end()
    ));
    let list = help.split_once("Commands:\n").map_or("", |(_, list)| list);
    let list = list.split("\n\n").next().unwrap_or_default();
    let below = list
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| *word != "help");
    for word in below {
        describe(&[path, &[word]].concat(), page)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_say_what_the_code_does() {
        for page in pages().expect("readable") {
            let (old, new) = both(&page).expect("its marks can be filled");
            assert!(
                old == new,
                "{} is behind the code: cargo xtask docs rewrites it",
                page.display()
            );
        }
    }

    #[test]
    fn every_refusal_has_a_page_that_says_what_to_do_and_no_page_is_of_none() {
        let code = fs::read_to_string(root().join("crates/leno-types/src/refusal.rs"))
            .expect("the refusals");
        let refusals = source::refusals(&code);
        assert!(refusals.len() > 20, "{}", refusals.len());
        let dir = root().join("docs/refusals");
        for refusal in &refusals {
            let page = fs::read_to_string(dir.join(format!("{}.md", refusal.code)))
                .unwrap_or_else(|error| panic!("{}: {error}", refusal.code));
            let title = format!("# {}: {}\n", refusal.code, refusal.text);
            assert!(page.starts_with(&title), "{}: {title}", refusal.code);
            assert!(page.contains("\n## What to do\n"), "{}", refusal.code);
            assert!(
                page.contains(&format!("Status {}", refusal.status)),
                "{}",
                refusal.code
            );
        }
        let pages = fs::read_dir(dir).expect("the pages").flatten().count();
        assert_eq!(pages, refusals.len() + 1, "one for each, and the list");
    }

    #[test]
    fn every_crate_has_its_place_in_the_architecture() {
        let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the page");
        for entry in fs::read_dir(root().join("crates"))
            .expect("crates")
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(page.contains(&format!("`{name}`")), "{name} is not named");
        }
    }

    #[test]
    fn the_layers_of_the_architecture_are_those_that_are_checked() {
        let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the page");
        let places: Vec<Option<usize>> = crate::layers::ORDER
            .iter()
            .filter(|(layer, _)| !matches!(*layer, "bins" | "examples"))
            .map(|(_, name)| page.find(&format!("| `{name}` |")))
            .collect();
        assert!(
            places.iter().all(Option::is_some) && places.is_sorted(),
            "{places:?}"
        );
    }
}
