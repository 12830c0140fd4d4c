//! Running other programs, and where the project is.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Usage(&'static str),
    #[error("{0} cannot be started: {1}")]
    Start(String, io::Error),
    #[error("{0} failed")]
    Program(String),
    #[error("{0}")]
    Found(String),
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// The project's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The cargo that runs this.
pub(crate) fn cargo_command() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs cargo, showing what it says.
pub(crate) fn cargo(args: &[&str]) -> Result<(), Failure> {
    let mut command = cargo_command();
    command.args(args);
    status(&mut command, &format!("cargo {}", args.join(" ")))
}

/// Runs a command to its end; its failure is ours.
pub(crate) fn status(command: &mut Command, name: &str) -> Result<(), Failure> {
    eprintln!("xtask: {name}");
    let ended = command
        .status()
        .map_err(|error| Failure::Start(name.into(), error))?;
    ended
        .success()
        .then_some(())
        .ok_or_else(|| Failure::Program(name.into()))
}

/// Whether a program is on the path.
pub(crate) fn has(program: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}
