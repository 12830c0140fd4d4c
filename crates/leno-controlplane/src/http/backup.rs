//! `GET /leno/v1/backup`: the whole control plane as one file, to its own machine only.

use std::{io, sync::Arc, time::SystemTime};

use axum::{
    Extension,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{StatusCode, header};
use tokio::sync::mpsc;

use super::{Answer, Context, Problem, local_only};
use crate::{backup, grpc::Connection, metrics::Meters, times::rfc3339_of};

/// Bytes sent at a time.
const CHUNK: usize = 64 << 10;
/// Chunks that wait for a slow reader; then the thread that makes them does.
const WAITING: usize = 8;

pub(super) async fn download(
    State(context): State<Context>,
    connection: Option<Extension<Connection>>,
) -> Answer<Response> {
    local_only(connection.as_deref())?;
    let Ok(alone) = Arc::clone(&context.backing_up).try_lock_owned() else {
        let message = "a backup is being made already: try again when it is done";
        return Err(Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TooManyRequests",
            message,
        ));
    };
    let (sender, mut chunks) = mpsc::channel(WAITING);
    let Meters { store, .. } = context.meters;
    let data_dir = context.data_dir;
    let make = move || {
        let pipe = io::BufWriter::with_capacity(CHUNK, Pipe(sender.clone()));
        let created = rfc3339_of(SystemTime::now());
        if let Err(error) = backup::write(store.plain(), &data_dir, created, pipe) {
            tracing::error!(%error, source = ?std::error::Error::source(&error), "there is no backup");
            // Who asked may have gone, which may be why.
            drop(sender.blocking_send(Err(io::Error::other(error))));
        }
        drop(alone);
    };
    std::thread::Builder::new()
        .name("backup".into())
        .spawn(make)
        .map_err(|error| failed(&error))?;
    // What keeps it from beginning is told as what it is; later there is only the end of the connection.
    let first = match chunks.recv().await {
        Some(Ok(first)) => first,
        Some(Err(error)) => return Err(failed(&error)),
        None => return Err(failed(&io::Error::other("nothing was written"))),
    };
    let rest = futures_util::stream::unfold(chunks, |mut chunks| async move {
        Some((chunks.recv().await?, chunks))
    });
    let first = futures_util::stream::iter([Ok(first)]);
    let body = Body::from_stream(futures_util::StreamExt::chain(first, rest));
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], body).into_response())
}

fn failed(error: &io::Error) -> Problem {
    let source = error.get_ref().and_then(|inner| inner.source());
    let message = match source {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "InternalError",
        format!("there is no backup: {message}"),
    )
}

/// A writer whose bytes are sent to the answer's body.
struct Pipe(mpsc::Sender<io::Result<Bytes>>);

impl io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "whoever asked for it has gone");
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
