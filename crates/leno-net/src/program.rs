//! Starts the user's program: its environment, user and capabilities, and nothing else of ours.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;

use crate::NetError;

/// What to start and as whom.
#[derive(Debug, Clone, Default)]
pub struct Spawn {
    /// Program and arguments; a program without a slash is looked for in PATH.
    pub argv: Vec<OsString>,
    /// Variables the program does not get.
    pub env_remove: Vec<String>,
    /// Variables the program gets besides, or instead.
    pub env_set: Vec<(String, String)>,
    /// User and group to become, with that user's further groups; `None` stays who we are.
    pub uid_gid: Option<(u32, u32)>,
    /// Leave only those capabilities that containers commonly have, without any that reaches past capture.
    pub drop_capabilities: bool,
}

/// A started program.
#[derive(Debug)]
pub struct Child {
    inner: std::process::Child,
}

impl Child {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.inner.id().cast_signed()
    }
    /// Waits until it ends.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.inner.wait()
    }
    /// Whether it has ended.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.inner.try_wait()
    }
    /// A descriptor that becomes readable when it ends.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Waits, without blocking the thread, until it ends.
    pub async fn exited(&mut self) -> io::Result<ExitStatus> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Sends it a signal, by number; one that has ended is no error.
    pub fn signal(&mut self, _signal: i32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Starts the program. It stays in the caller's process group, so that a terminal works, and is killed when the
/// *thread* that called this ends.
pub fn spawn(_spawn: &Spawn) -> Result<Child, NetError> {
    Err(NetError::io("spawn", io::Error::from(io::ErrorKind::Unsupported)))
}

/// Lets programs in this network namespace listen on ports below 1024 without a capability.
pub fn allow_low_ports() -> io::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
}
