//! HTTP to an application behind a peer that is not Leno: within CONNECT streams of HBONE (ALPN `h2`).

use std::{cell::RefCell, net::SocketAddr, rc::Rc};

use http::{HeaderName, HeaderValue};
use leno_http::{ClientError, RequestHead, Tunnel, Upstream, client};
use leno_types::Refusal;

use crate::{metadata, state::Shared};

/// HTTP connections within one mesh connection, by the address they lead to.
#[derive(Default)]
pub(crate) struct Foreign {
    idle: RefCell<Vec<(SocketAddr, client::H1)>>,
    shared: RefCell<Vec<(SocketAddr, client::H2)>>,
}

/// Why no tunnel could be opened. Nothing was sent into it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// The stream was not taken.
    #[error(transparent)]
    Stream(#[from] ClientError),
    /// The peer refused, for a reason.
    #[error("the peer answered {status}{}", .reason.map(|reason| format!(" ({})", reason.text())).unwrap_or_default())]
    Refused {
        /// With which status.
        status: u16,
        /// Why, where it said so.
        reason: Option<Refusal>,
    },
    /// There is no room for a further task.
    #[error("too many connections")]
    Overflow,
}

/// Opens a stream of bytes to `to`, through a mesh connection.
///
/// # Errors
/// [`TunnelError`].
pub(crate) async fn tunnel(
    h2: &client::H2,
    to: SocketAddr,
    private: Vec<(HeaderName, HeaderValue)>,
) -> Result<Tunnel, TunnelError> {
    let mut head = RequestHead::connect(to.to_string());
    head.private = private;
    let (head, tunnel) = h2.tunnel(head).await?;
    if (200..300).contains(&head.status) {
        return Ok(tunnel);
    }
    let reason = head.fields.get(metadata::REFUSED);
    Err(TunnelError::Refused {
        status: head.status,
        reason: reason.and_then(metadata::read_refused),
    })
}

impl Foreign {
    /// An HTTP connection to `to` of the given version.
    ///
    /// # Errors
    /// [`TunnelError`].
    pub(crate) async fn upstream(
        &self,
        shared: &Shared,
        h2: &client::H2,
        to: SocketAddr,
        http2: bool,
    ) -> Result<Upstream, TunnelError> {
        if http2 {
            return self.shared(shared, h2, to).await.map(Upstream::H2);
        }
        let kept = {
            let mut idle = self.idle.borrow_mut();
            let at = idle.iter().position(|(of, _)| *of == to);
            at.map(|at| idle.swap_remove(at).1)
        };
        if let Some(h1) = kept.filter(client::H1::is_reusable) {
            return Ok(Upstream::H1(h1));
        }
        let tunnel = tunnel(h2, to, Vec::new()).await?;
        Ok(Upstream::H1(client::H1::new(
            tunnel,
            Rc::clone(&shared.http),
        )))
    }

    /// Keeps an HTTP/1 connection for the next exchange.
    pub(crate) fn keep(&self, shared: &Shared, to: SocketAddr, h1: client::H1) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < shared.config.limits.app_idle_connections {
            idle.push((to, h1));
        }
    }

    async fn shared(
        &self,
        shared: &Shared,
        h2: &client::H2,
        to: SocketAddr,
    ) -> Result<client::H2, TunnelError> {
        let open = {
            let mut open = self.shared.borrow_mut();
            open.retain(|(_, inner)| !inner.is_closing());
            let usable = open
                .iter()
                .find(|(of, inner)| *of == to && inner.has_capacity());
            usable.map(|(_, inner)| inner.clone())
        };
        if let Some(inner) = open {
            return Ok(inner);
        }
        let tunnel = tunnel(h2, to, Vec::new()).await?;
        let (inner, driver) = client::H2::handshake(tunnel, Rc::clone(&shared.http)).await?;
        inner.carry_case(false);
        shared
            .background
            .spawn("hbone-http", driver)
            .map_err(|_| TunnelError::Overflow)?;
        self.shared.borrow_mut().push((to, inner.clone()));
        Ok(inner)
    }
}
