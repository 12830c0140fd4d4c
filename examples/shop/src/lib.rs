//! The shop that the demo runs: ordinary programs that know nothing of a mesh.
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs `shop PROGRAM [options]`; `args` is what follows the command's own name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    drop(args);
    ExitCode::SUCCESS
}
