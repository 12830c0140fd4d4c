//! Whose socket is at the other end of a local connection: one exact `sock_diag` query, never a scan of `/proc`.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::netlink::{Batch, Netlink, SOCKETS, attribute, u32_at};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Two ports and two addresses.
const SOCKET_ID: usize = 36;

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
        Ok(Self(Netlink::open(SOCKETS)?))
    }

    /// The owner of the local TCP socket bound to `local` and connected to `remote` (as that socket sees it: the
    /// original destination of a captured connection). `None` when there is no such socket, or nobody holds it
    /// any more.
    pub fn owner_of(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> io::Result<Option<SocketOwner>> {
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the two addresses are of different families",
            ));
        }
        let id = socket_id(local, remote);
        let mut request = Batch::default();
        request.message(SOCK_DIAG_BY_FAMILY, 0, &query(local.is_ipv4(), &id), |_| {});
        let mut owner = None;
        match self.0.ask(&request, |answer| owner = parse(answer, &id)) {
            Ok(()) => Ok(owner),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// As [`OwnerQuery::owner_of`], with a query opened for this one question.
pub fn owner_of(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<SocketOwner>> {
    OwnerQuery::open()?.owner_of(local, remote)
}

/// Ports and addresses of `struct inet_diag_sockid`.
fn socket_id(local: SocketAddr, remote: SocketAddr) -> [u8; SOCKET_ID] {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96).to_be_bytes(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let (source, destination) = (octets(local.ip()), octets(remote.ip()));
    let bytes = local
        .port()
        .to_be_bytes()
        .into_iter()
        .chain(remote.port().to_be_bytes());
    let mut id = [0; SOCKET_ID];
    for (target, byte) in id.iter_mut().zip(bytes.chain(source).chain(destination)) {
        *target = byte;
    }
    id
}

/// `struct inet_diag_req_v2` for any link and any cookie.
fn query(v4: bool, id: &[u8; SOCKET_ID]) -> Vec<u8> {
    const INET: u8 = 2;
    const INET6: u8 = 10;
    const TCP: u8 = 6;
    let mut query = vec![if v4 { INET } else { INET6 }, TCP, 0, 0];
    query.extend(u32::MAX.to_ne_bytes());
    query.extend(id);
    query.extend([0; 4]);
    query.extend([u8::MAX; 8]);
    query
}

/// `struct inet_diag_msg`, if it is about the socket asked for.
fn parse(answer: &[u8], id: &[u8; SOCKET_ID]) -> Option<SocketOwner> {
    // Where no connection matches the kernel looks for a listener at the local address, which is somebody else's.
    if answer.get(4..4 + SOCKET_ID)? != id {
        return None;
    }
    let inode = u32_at(answer, 68)?;
    // Closed by its process: the kernel may say uid 0, which would be root's.
    if inode == 0 {
        return None;
    }
    let cgroup = attribute(answer.get(72..)?, INET_DIAG_CGROUP_ID);
    let cgroup_id = cgroup
        .and_then(|value| value.first_chunk())
        .map(|id| u64::from_ne_bytes(*id));
    Some(SocketOwner {
        uid: u32_at(answer, 64)?,
        inode,
        cgroup_id,
    })
}
