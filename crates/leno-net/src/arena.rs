//! A PID namespace that dies with its parent: for the demo and for tests, where nothing may be left behind.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;

use crate::NetError;

/// The environment variable with the number of the lifeline's descriptor.
pub const LIFELINE_VARIABLE: &str = "LENO_LIFELINE_FD";

/// A running arena. Dropping it ends everything in it.
#[derive(Debug)]
pub struct Arena {
    /// Its init, as the parent sees it.
    pub pid: i32,
    /// The end of the pipe whose closing ends the arena.
    pub lifeline: OwnedFd,
}

impl Arena {
    /// Ends everything in it and waits until it is gone; returns init's exit code, 128 + signal if it was killed.
    pub fn end(self) -> io::Result<i32> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Waits until init ends by itself.
    pub fn wait(&self) -> io::Result<i32> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Starts `argv` as init (pid 1) of new PID, mount and network namespaces, with `/proc` and `/sys` of their own.
///
/// With `as_user_root` they belong to a new user namespace in which the caller is root: what an ordinary user needs.
/// The environment is `env` and [`LIFELINE_VARIABLE`]. Init must call [`lifeline`] and [`reap_forever`].
pub fn spawn_init(argv: &[OsString], env: &[(OsString, OsString)], as_user_root: bool) -> Result<Arena, NetError> {
    let _ = (argv, env, as_user_root);
    Err(NetError::io("spawn_init", io::Error::from(io::ErrorKind::Unsupported)))
}

/// In init: the lifeline left by [`spawn_init`]. To be called once.
pub fn lifeline() -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// In init: reaps whatever ends, until process `main` does (its exit code is returned), or the lifeline is cut (then this
/// process exits, and the kernel kills all others).
pub fn reap_forever(lifeline: OwnedFd, main: Option<i32>) -> io::Result<i32> {
    let _ = (lifeline, main);
    Err(io::ErrorKind::Unsupported.into())
}

/// In init: kills every other process of the PID namespace.
pub fn kill_all() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
