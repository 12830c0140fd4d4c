//! Other people's programs, at the ends of what is tested.

use std::{
    collections::HashMap,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{LazyLock, Mutex, PoisonError},
};

/// A directory of programs that come first: a Python environment's.
const STRANGERS: &str = "LENO_STRANGERS";
/// Where servers are, which an ordinary user's PATH may leave out.
const SYSTEM: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Where a program is.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let own = env::var_os(STRANGERS).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let known = env::split_paths(&path).collect::<Vec<_>>();
    own.into_iter()
        .chain(known)
        .chain(SYSTEM.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The Python interpreter.
#[must_use]
pub fn python() -> Option<PathBuf> {
    program("python3").or_else(|| program("python"))
}

static MODULES: LazyLock<Mutex<HashMap<String, bool>>> = LazyLock::new(Mutex::default);

/// The Python that has this module.
#[must_use]
pub fn module_of_python(module: &str) -> Option<PathBuf> {
    let python = python()?;
    let mut known = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    let has = *known
        .entry(module.to_owned())
        .or_insert_with(|| imports(&python, module));
    has.then_some(python)
}

fn imports(python: &Path, module: &str) -> bool {
    Command::new(python)
        .args(["-c", &format!("import {module}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
