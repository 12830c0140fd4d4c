//! Whose socket is at the other end of a local connection: one exact `sock_diag` query, never a scan of `/proc`.

use std::io;
use std::net::SocketAddr;

use crate::netlink::Netlink;

/// Who holds a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOwner {
    /// The user that made it.
    pub uid: u32,
    /// Its inode, as in `/proc/PID/fd`.
    pub inode: u32,
    /// The id of the cgroup (v2) it was made in, where the kernel says.
    pub cgroup_id: Option<u64>,
}

/// Asks for owners in the network namespace it was opened in.
#[derive(Debug)]
pub struct OwnerQuery(Netlink);

impl OwnerQuery {
    /// Opens it in the calling thread's network namespace. Needs no privilege.
    pub fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The owner of the local TCP socket bound to `local` and connected to `remote` (as that socket sees it: the
    /// original destination of a captured connection). `None` when there is no such socket any more.
    pub fn owner_of(&mut self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<SocketOwner>> {
        let _ = (local, remote, &self.0);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// As [`OwnerQuery::owner_of`], with a query opened for this one question.
pub fn owner_of(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<SocketOwner>> {
    OwnerQuery::open()?.owner_of(local, remote)
}
