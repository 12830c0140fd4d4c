//! A multiplexed connection to an upstream.
//!
//! Invariant: at most as many streams are opened as the peer allows (MAX_CONCURRENT_STREAMS); none after its GOAWAY
//! or our own decision to close.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};

use super::http1::nobody;
use crate::{
    ClientError, Limits, RequestHead, ResponseHead, Tunnel,
    alive::{Silence, Watched},
    convert::{request_to_h2, response_from_h2},
    limits::count,
};

/// A cheap handle on a multiplexed connection; clones are the same connection. The connection ends when the last
/// handle and the last stream are gone.
#[derive(Clone, Debug)]
pub struct H2(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `None` once we open no further stream.
    send: RefCell<Option<SendRequest<Bytes>>>,
    ping: tokio::sync::Mutex<Option<h2::PingPong>>,
    /// The peer's settings were received: a ping after them was answered.
    settled: Cell<bool>,
    open: Cell<usize>,
    carry_case: Cell<bool>,
    keep_alive: Cell<bool>,
    limits: Rc<Limits>,
}

/// Counts one stream as open while it lives.
#[derive(Debug)]
pub(crate) struct OpenStream(Rc<Shared>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

/// A stream just opened.
pub(crate) struct Opened {
    pub(crate) response: ResponseFuture,
    pub(crate) send: h2::SendStream<Bytes>,
    pub(crate) open: OpenStream,
}

impl Shared {
    /// Whether the peer has been silent for too long.
    fn is_dead(
        &self,
        cx: &mut Context<'_>,
        silence: &mut Option<Silence>,
        heard: &Rc<Cell<bool>>,
    ) -> bool {
        if !self.keep_alive.get() {
            return false;
        }
        let silence = silence.get_or_insert_with(|| Silence::new(Rc::clone(heard), &self.limits));
        silence.poll(cx, self.open.get() > 0, |ask| {
            // Whoever holds it has a ping on its way.
            if let Ok(mut ping) = self.ping.try_lock()
                && let Some(ping) = &mut *ping
            {
                ask(ping);
            }
        })
    }
}

impl H2 {
    /// Sends our preface. The second value drives the connection: its owner spawns it.
    ///
    /// # Errors
    /// [`ClientError`] when the connection fails.
    pub async fn handshake<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
        io: IO,
        limits: Rc<Limits>,
    ) -> Result<(Self, impl Future<Output = ()> + 'static), ClientError> {
        let (io, heard) = Watched::new(io);
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.effective_connection_window())
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(limits.send_buffer)
            .max_concurrent_reset_streams(limits.reset_streams)
            .enable_push(false)
            .handshake(io)
            .await
            .map_err(ClientError::Http2)?;
        let shared = Rc::new(Shared {
            send: RefCell::new(Some(send)),
            ping: tokio::sync::Mutex::new(connection.ping_pong()),
            settled: Cell::new(false),
            open: Cell::new(0),
            carry_case: Cell::new(true),
            keep_alive: Cell::new(false),
            limits,
        });
        // Weak: the connection sees when nobody can open a stream any more, and ends.
        let weak: Weak<Shared> = Rc::downgrade(&shared);
        let driver = async move {
            let mut silence = None;
            let ended = poll_fn(|cx| {
                if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                    return Poll::Ready(Some(ended));
                }
                match weak.upgrade() {
                    Some(shared) if shared.is_dead(cx, &mut silence, &heard) => Poll::Ready(None),
                    _ => Poll::Pending,
                }
            });
            match ended.await {
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(%error, "an HTTP/2 connection failed"),
                None => {
                    count(|counters| &counters.h2_dead_peers);
                    tracing::debug!("the other end of an HTTP/2 connection answers no ping");
                }
            }
            if let Some(shared) = weak.upgrade() {
                shared.send.replace(None);
            }
        };
        Ok((Self(shared), driver))
    }

    /// Whether the peer allows one more stream now (MAX_CONCURRENT_STREAMS) and is not going away.
    #[must_use]
    pub fn has_capacity(&self) -> bool {
        let mut send = self.0.send.borrow_mut();
        let Some(send) = &mut *send else { return false };
        let allowed = send.current_max_send_streams();
        self.0.open.get() < allowed
            && matches!(
                send.poll_ready(&mut nobody()),
                std::task::Poll::Ready(Ok(()))
            )
    }

    /// How many streams the peer allows at the same time (MAX_CONCURRENT_STREAMS).
    #[must_use]
    pub fn stream_limit(&self) -> usize {
        let send = self.0.send.borrow();
        send.as_ref()
            .map_or(0, SendRequest::current_max_send_streams)
    }

    /// Streams open through this connection.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.0.open.get()
    }

    /// Whether it takes no further stream: GOAWAY, failed, or closed by us.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        match &mut *self.0.send.borrow_mut() {
            Some(send) => matches!(
                send.poll_ready(&mut nobody()),
                std::task::Poll::Ready(Err(_))
            ),
            None => true,
        }
    }

    /// Starts no further stream; the connection ends when the open ones have.
    pub fn close_gracefully(&self) {
        self.0.send.replace(None);
    }

    /// Opens a CONNECT or extended CONNECT stream.
    ///
    /// # Errors
    /// [`ClientError`]; an answer other than 2xx is no error: look at the head. The tunnel then carries its body.
    pub async fn tunnel(&self, head: RequestHead) -> Result<(ResponseHead, Tunnel), ClientError> {
        self.prepare(&head).await?;
        let Opened {
            response,
            send,
            open,
        } = self.send(&head, None, false)?;
        let response = response.await.map_err(|error| match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) if error.is_remote() => ClientError::Refused,
            _ if error.is_go_away() && error.is_remote() => ClientError::Refused,
            _ => ClientError::Http2(error),
        })?;
        let (head, _, receive) = response_from_h2(response).map_err(ClientError::Unsupported)?;
        Ok((head, Tunnel::new(receive, send, Some(open))))
    }

    /// Whether names keep their HTTP/1 case on this hop by means of [`crate::CASE_FIELD`] (default: yes).
    pub fn carry_case(&self, carry: bool) {
        self.0.carry_case.set(carry);
    }

    /// Whether a peer that is silent while streams are open is asked whether it is there (default: no, as programs
    /// may take it amiss). To be said before the connection is driven.
    pub fn keep_alive(&self, keep: bool) {
        self.0.keep_alive.set(keep);
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Extended CONNECT may only be sent once the peer's settings allow it (RFC 8441 3). They are the first thing it
    /// sends: what answers a ping came after them.
    pub(crate) async fn prepare(&self, head: &RequestHead) -> Result<(), ClientError> {
        if head.protocol.is_none() || self.speaks_extended_connect() {
            return Ok(());
        }
        let mut ping = self.0.ping.lock().await;
        if let Some(ping) = &mut *ping
            && !self.0.settled.get()
        {
            if let Err(error) = ping.send_ping(h2::Ping::opaque()) {
                tracing::trace!(%error, "what answers the ping on its way says as much");
            }
            poll_fn(|cx| ping.poll_pong(cx))
                .await
                .map_err(|_| ClientError::Refused)?;
            self.0.settled.set(true);
        }
        if self.speaks_extended_connect() {
            Ok(())
        } else {
            Err(ClientError::Unsupported(
                "the peer does not offer extended CONNECT",
            ))
        }
    }

    fn speaks_extended_connect(&self) -> bool {
        let send = self.0.send.borrow();
        send.as_ref()
            .is_some_and(SendRequest::is_extended_connect_protocol_enabled)
    }

    /// Opens a stream. [`ClientError::Refused`]: nothing was sent. The h2 crate says itself when it is going away.
    pub(crate) fn send(
        &self,
        head: &RequestHead,
        declared: Option<u64>,
        end: bool,
    ) -> Result<Opened, ClientError> {
        let mut send = self.0.send.borrow_mut();
        let send = send.as_mut().ok_or(ClientError::Refused)?;
        if self.0.open.get() >= send.current_max_send_streams() {
            return Err(ClientError::Refused);
        }
        let request = request_to_h2(head, declared, self.0.carry_case.get())
            .map_err(ClientError::Unsupported)?;
        let (response, send) = send
            .send_request(request, end)
            .map_err(|_| ClientError::Refused)?;
        self.0.open.set(self.0.open.get() + 1);
        Ok(Opened {
            response,
            send,
            open: OpenStream(self.0.clone()),
        })
    }
}
