//! Compares Leno with its peers.

use crate::tool::Failure;

pub(crate) fn run(_args: &[&str]) -> Result<(), Failure> {
    Err(Failure::Found("no benchmark yet".into()))
}
