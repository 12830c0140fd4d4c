//! HTTP connections of programs, of callers from outside, and in tunnels of peers: of either version, request by request.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll};

use bytes::BytesMut;
use leno_http::{Corked, Incoming, ServerError, server};
use leno_runtime::Stop;
use leno_telemetry::counters::Limit;
use leno_types::Refusal;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    counters::{limit, refused},
    metadata,
    places::Places,
    state::Shared,
};

/// By whom what is malformed is refused, and under which id.
pub(crate) struct Label {
    pub(crate) by: Rc<str>,
    pub(crate) id: u64,
}

/// Serves an HTTP/1 connection until it is over; after `stop` it ends with the exchange at hand. What is malformed was
/// answered when it is given as the error; with `label` the answer says by whom.
pub(crate) async fn http1(
    shared: &Shared,
    stop: &Stop,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    prefix: BytesMut,
    label: Option<Label>,
    exchange: impl AsyncFn(Incoming<'_>),
) -> Result<(), ServerError> {
    let limits = Rc::clone(&shared.http);
    let mut connection = server::H1::new(stream, prefix.freeze(), limits);
    if let Some(Label { by, id }) = label {
        connection.label_refusals(metadata::REFUSED, by, id);
    }
    let mut stopping = pin!(stop.cancelled());
    let mut draining = false;
    loop {
        let outcome = {
            let mut next = pin!(connection.next());
            poll_fn(|cx| {
                if !draining && stopping.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                next.as_mut().poll(cx).map(Some)
            })
            .await
        };
        if outcome.is_none() {
            drop(outcome);
            draining = true;
            connection.drain();
            continue;
        }
        match outcome {
            Some(Ok(Some(incoming))) => exchange(incoming).await,
            Some(Err(error)) => return Err(error),
            Some(Ok(None)) | None => return Ok(()),
        }
    }
}

/// Answers what is no HTTP as [`http1`] answers what is malformed, and ends it.
pub(crate) async fn reject(
    shared: &Shared,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    prefix: BytesMut,
    label: Option<Label>,
) -> ServerError {
    let limits = Rc::clone(&shared.http);
    let mut connection = server::H1::new(stream, prefix.freeze(), limits);
    if let Some(Label { by, id }) = label {
        connection.label_refusals(metadata::REFUSED, by, id);
    }
    connection.reject().await
}

/// Serves an HTTP/2 connection in clear until it is over; after `stop` it drains. Each stream takes a place of its
/// workload's; one that finds none is refused, and had no effect.
pub(crate) async fn http2(
    shared: &Shared,
    stop: &Stop,
    places: &Places,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    prefix: BytesMut,
    task: &'static str,
    exchange: Rc<impl AsyncFn(Incoming<'static>) + 'static>,
) -> Result<(), ServerError> {
    let io = Corked::new(stream, &shared.corker);
    let limits = Rc::clone(&shared.http);
    let mut connection = server::H2::handshake(io, limits, prefix.freeze()).await?;
    connection.carry_case(false);
    let mut stopping = pin!(stop.cancelled());
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            () = &mut stopping, if !draining => {
                draining = true;
                connection.drain();
            }
            next = connection.next() => match next {
                None => return Ok(()),
                Some(Err(error)) => return Err(error),
                Some(Ok(incoming)) => {
                    let Some(place) = places.take() else {
                        refused(Refusal::Overflow);
                        incoming.reply.refuse_stream();
                        continue;
                    };
                    let exchange = Rc::clone(&exchange);
                    let work = async move {
                        let _place = place;
                        exchange(incoming).await;
                    };
                    if shared.scope.spawn(task, work).is_err() {
                        // The request was dropped with its task: its stream is reset.
                        limit(Limit::Tasks);
                    }
                }
            }
        }
    }
}
