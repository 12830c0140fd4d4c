//! Tests that could not run: never counted as passed, always with a reason.

use std::{
    fs::OpenOptions,
    io::Write,
    sync::{Mutex, PoisonError},
};

/// Where `cargo xtask test` gathers what was skipped.
const FILE: &str = "LENO_SKIPPED";

static CURRENT: Mutex<Option<(String, Option<String>)>> = Mutex::new(None);

/// Skips the rest of a test: `skip!("curl is not installed")`.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::skipped(&format!($($reason)*));
        return;
    }};
}

/// A program that a test needs, or the test is skipped: `let curl = need!("curl");`.
#[macro_export]
macro_rules! need {
    ($name:expr) => {
        match $crate::program($name) {
            Some(path) => path,
            None => $crate::skip!("{} is not installed", $name),
        }
    };
}

/// A Python with a module that a test needs, or the test is skipped.
#[macro_export]
macro_rules! need_python {
    ($module:expr) => {
        match $crate::module_of_python($module) {
            Some(path) => path,
            None => $crate::skip!("Python's module {} is not installed", $module),
        }
    };
}

/// Writes down that the current test is skipped. See [`skip!`](macro@crate::skip).
pub fn skipped(reason: &str) {
    let reason = reason.replace(['\n', '\t'], " ");
    eprintln!("skipped: {}: {reason}", current_test());
    note(&current_test(), &reason);
    if let Some((_, skip)) = &mut *lock() {
        *skip = Some(reason);
    }
}

/// Appends one line to the list of what was skipped, where one is kept.
pub(crate) fn note(test: &str, reason: &str) {
    let Some(path) = std::env::var_os(FILE).filter(|path| !path.is_empty()) else {
        return;
    };
    let file = OpenOptions::new().create(true).append(true).open(path);
    let line = format!("{test}\t{reason}\n");
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .expect("the list of skipped tests can be written");
}

/// The name of the test that runs now.
#[must_use]
pub fn current_test() -> String {
    if let Some((name, _)) = &*lock() {
        return name.clone();
    }
    std::thread::current().name().unwrap_or("?").to_owned()
}

pub(crate) fn begin(name: &str) {
    *lock() = Some((name.to_owned(), None));
}

/// Runs one test of a binary with a harness of its own; why it was skipped, if it was.
pub fn noting_skips(name: &str, test: impl FnOnce()) -> Option<String> {
    begin(name);
    test();
    end()
}

/// Ends a test; why it was skipped, if it was.
pub(crate) fn end() -> Option<String> {
    lock().take().and_then(|(_, skip)| skip)
}

fn lock() -> std::sync::MutexGuard<'static, Option<(String, Option<String>)>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}
