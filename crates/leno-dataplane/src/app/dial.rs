//! Dialling the programs of this host: by which socket, at which of their addresses, and from which.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, Instant},
};

use leno_net::{capture::SOURCE_MARK, socket};
use tokio::{
    net::TcpStream,
    time::{timeout, timeout_at},
};

use super::{AppError, AppPort, Dialled};
use crate::{
    AppDial, Event, pool,
    state::{Local, Shared},
};

impl AppPort {
    /// Whether it is time to tell the operator: a stream of bytes has no answer that could say it.
    fn may_tell(&self, now: Instant) -> bool {
        const EVERY: Duration = Duration::from_secs(60);
        let due = self.told.get().is_none_or(|told| now >= told + EVERY);
        if due {
            self.told.set(Some(now));
        }
        due
    }
}

impl Local {
    /// Connects to the program, from `source` where one is given: at its own address first; loopback second where its
    /// namespace is its own.
    ///
    /// # Errors
    /// What the last address answered.
    pub(crate) async fn dial_app(
        self: &Rc<Self>,
        shared: &Shared,
        address: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<(TcpStream, Dialled), AppError> {
        let port = self.app_port(shared, address.port());
        let mut candidates = candidates(self.app.dial(), address.ip());
        // One family cannot speak to the other.
        candidates.retain(|ip| source.is_none_or(|source| source.is_ipv4() == ip.is_ipv4()));
        let good = port.good.get();
        // Stable: the others keep their order.
        candidates.sort_by_key(|ip| Some(*ip) != good);
        let mut last = io::Error::from(io::ErrorKind::NotConnected);
        for ip in candidates {
            match self
                .dial_one(shared, SocketAddr::new(ip, address.port()), source)
                .await
            {
                Ok(stream) => {
                    port.good.set(Some(ip));
                    let dialled = Dialled::new(self, &stream);
                    return Ok((stream, dialled));
                }
                Err(error) => last = error,
            }
        }
        let number = address.port();
        let Some(from) = source else {
            let port = number;
            return Err(AppError::Connect { port, source: last });
        };
        if port.may_tell(Instant::now()) {
            let program = self.name();
            tracing::warn!(
                %program, port = number, error = %last,
                "calls are refused: a program does not accept from its caller's address {from}, which is to be \
                 preserved; does it listen for that family?"
            );
        }
        Err(AppError::ConnectFrom {
            port: number,
            from,
            source: last,
        })
    }

    /// The workload's address of a family.
    fn own_address(&self, family: IpAddr) -> Option<IpAddr> {
        let info = self.info()?;
        let mut own = info.own.addresses.iter();
        own.find(|own| own.is_ipv4() == family.is_ipv4()).copied()
    }

    /// The address as which the program is to see a caller, where it is to see one: the caller's own. On loopback that is
    /// this host, and the workload's own address says so: what comes from 127.0.0.1 a program may trust as itself. Where
    /// it has none of that family nothing is dialled ([`not_loopback`]).
    pub(crate) fn source_of(&self, caller: SocketAddr) -> Option<IpAddr> {
        if !self.app.preserves_source() {
            return None;
        }
        let caller = caller.ip().to_canonical();
        match caller.is_loopback() {
            true => self.own_address(caller).or(Some(caller)),
            false => Some(caller),
        }
    }

    async fn dial_one(
        &self,
        shared: &Shared,
        address: SocketAddr,
        source: Option<IpAddr>,
    ) -> io::Result<TcpStream> {
        not_loopback(source)?;
        let v6 = address.is_ipv6();
        let socket = match (self.app.dial(), source) {
            (AppDial::Marked, None) => socket::stream_socket(v6, shared.config.mark)?,
            (AppDial::Marked, Some(_)) => socket::transparent_socket(v6, SOURCE_MARK)?,
            (AppDial::Handed, _) => self.socket(shared, v6).await?,
        };
        let connecting = async {
            match source {
                None => socket::connect(socket, address).await,
                Some(source) => socket::connect_from(socket, source, address).await,
            }
        };
        let limit = shared.config.limits.connect_timeout;
        let stream = match timeout(limit, connecting).await {
            Ok(connected) => connected?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        // From the program's own address the kernel may choose the program's own port: TCP then meets itself.
        if stream.local_addr()? == address {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(stream)
    }

    /// A socket from the stock; asks for more when it runs low.
    async fn socket(&self, shared: &Shared, v6: bool) -> io::Result<OwnedFd> {
        let deadline = Instant::now() + shared.config.limits.socket_timeout;
        loop {
            let (socket, left) = {
                let mut stock = self.app.stock[usize::from(v6)].borrow_mut();
                (stock.pop(), stock.len())
            };
            let wanted = shared.config.limits.app_sockets;
            let demanded = &self.app.demanded[usize::from(v6)];
            if left <= wanted / 2 && !demanded.replace(true) {
                shared.outbox.push(Event::NeedSockets {
                    uid: self.uid,
                    v6,
                    count: wanted.saturating_sub(left).max(1),
                });
            }
            match socket {
                Some(socket) => return Ok(socket),
                None => {
                    let arrived = self.app.arrived.notified();
                    if timeout_at(deadline.into(), arrived).await.is_err() {
                        // Asked once more next time: the agent may have missed it.
                        demanded.set(false);
                        let why = "no socket of the program's namespace came in time";
                        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                    }
                }
            }
        }
    }
}

/// Refuses to speak to a program as itself.
fn not_loopback(source: Option<IpAddr>) -> io::Result<()> {
    if source.is_some_and(|source| source.is_loopback()) {
        let why =
            "its caller is on this host's loopback, and the workload has no address of that family";
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, why));
    }
    Ok(())
}

/// Goes on to what nobody registered in a captured namespace, from its caller's address where the workload there asks
/// for that.
pub(crate) async fn pass_on(
    shared: &Shared,
    caller: SocketAddr,
    to: SocketAddr,
) -> io::Result<TcpStream> {
    let limit = shared.config.limits.connect_timeout;
    // The one workload that the namespace is; whether its address is known yet does not matter.
    let whole = shared.locals.borrow().values().find_map(|local| {
        let marked = local.app.dial() == AppDial::Marked;
        marked.then(|| local.source_of(caller)).flatten()
    });
    let Some(source) = whole else {
        return pool::dial(to, shared.config.mark, limit).await;
    };
    not_loopback(Some(source))?;
    let socket = socket::transparent_socket(to.is_ipv6(), SOURCE_MARK)?;
    match timeout(limit, socket::connect_from(socket, source, to)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Whether a program here is at the other end of a connection from a caller's address: then what the proxy accepted from
/// the same address and port is not that connection coming back, but one that the caller itself made.
pub(super) fn is_answered(program: SocketAddr, caller: SocketAddr) -> bool {
    let mapped = |of: SocketAddr| match of.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), of.port()),
        IpAddr::V6(_) => of,
    };
    // Programs listen for both families on one socket, too.
    [(program, caller), (mapped(program), mapped(caller))]
        .into_iter()
        .any(|(own, other)| matches!(socket::owner_of(own, other), Ok(Some(_))))
}

/// The addresses a program may be bound to, in the order they are tried.
fn candidates(dial: AppDial, address: IpAddr) -> Vec<IpAddr> {
    let (v4, v6) = (
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    );
    match (dial, address) {
        (AppDial::Marked, _) => vec![address],
        (AppDial::Handed, IpAddr::V4(_)) => vec![address, v4, v6],
        (AppDial::Handed, IpAddr::V6(_)) => vec![address, v6, v4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_program_is_spoken_to_as_itself() {
        for loopback in ["127.0.0.1", "127.8.8.8", "::1"] {
            let source = loopback.parse().ok();
            assert!(
                source.is_some() && not_loopback(source).is_err(),
                "{loopback}"
            );
        }
        assert!(not_loopback(None).is_ok());
        assert!(not_loopback("192.0.2.7".parse().ok()).is_ok());
    }
}
