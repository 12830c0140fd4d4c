//! A program's own view of a few files: a mount namespace in which something else stands over them.

use std::io;
use std::path::Path;

use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

use crate::sys;

/// Moves this process into a mount namespace of its own: what is mounted outside later is seen in it, nothing the other way
/// round. Needs `CAP_SYS_ADMIN`, as the process has in a user namespace of its own; it must have a single thread.
pub fn unshare_mounts() -> io::Result<()> {
    sys::unshare(UnshareFlags::NEWNS)?;
    let down_only = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change(c"/", down_only)?)
}

/// Has `path` show what is at `with`, for this mount namespace alone.
pub fn cover(path: &Path, with: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount_bind(with, path)?)
}
