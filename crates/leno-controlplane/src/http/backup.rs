//! `GET /leno/v1/backup`: the whole control plane as one file, to its own machine only.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Extension,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{StatusCode, header};
use leno_store::Around;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{Answer, Context, Problem, local_only};
use crate::{backup, grpc::Connection, metrics::Meters, times::rfc3339_of};

/// Bytes sent at a time.
const CHUNK: usize = 64 << 10;
/// Chunks of a backup that wait for a slow reader; then the thread that makes them does.
const WAITING: usize = 8;
/// How long the reader of a backup may take nothing; then there is none, and somebody else may have one made.
const BACKUP_STALLED: Duration = Duration::from_secs(30);
/// How often is looked whether it takes more.
const LOOK: Duration = Duration::from_millis(5);

pub(super) async fn download(
    State(context): State<Context>,
    connection: Option<Extension<Connection>>,
) -> Answer<Response> {
    local_only(connection.as_deref(), "a backup is made")?;
    let Ok(alone) = Arc::clone(&context.backing_up).try_lock_owned() else {
        let message = "a backup is being made already: try again when it is done";
        return Err(Problem::too_many(message));
    };
    let (sender, mut chunks) = mpsc::channel(WAITING);
    let whole = Arc::new(AtomicBool::new(false));
    let Meters { store, .. } = context.meters;
    let (data_dir, done) = (context.data_dir, Arc::clone(&whole));
    let make = move || {
        let pipe = Pipe {
            chunks: sender.clone(),
            patience: BACKUP_STALLED,
        };
        let created = rfc3339_of(SystemTime::now());
        let pipe = io::BufWriter::with_capacity(CHUNK, pipe);
        match backup::write(store.store(), &data_dir, created, pipe) {
            Ok(()) => done.store(true, Ordering::SeqCst),
            Err(error) => {
                tracing::error!(%error, source = ?std::error::Error::source(&error), "there is no backup");
                // Where it does not fit, the end that is missing tells it.
                drop(sender.try_send(Err(io::Error::other(error))));
            }
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
    let body = futures_util::stream::iter([Ok(first)]).chain(rest(chunks, whole));
    let headers = [(header::CONTENT_TYPE, "application/x-tar")];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// What follows; an end that comes before all is written is an error, lest half a backup pass for one.
fn rest(
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    whole: Arc<AtomicBool>,
) -> impl Stream<Item = io::Result<Bytes>> {
    futures_util::stream::unfold(Some(chunks), move |chunks| {
        let whole = Arc::clone(&whole);
        async move {
            let mut chunks = chunks?;
            match chunks.recv().await {
                Some(Ok(chunk)) => Some((Ok(chunk), Some(chunks))),
                Some(Err(error)) => Some((Err(error), None)),
                None if whole.load(Ordering::SeqCst) => None,
                None => Some((Err(io::Error::other("the backup is not whole")), None)),
            }
        }
    })
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
struct Pipe {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    patience: Duration,
}

impl io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let begun = Instant::now();
        let mut chunk = Ok(Bytes::copy_from_slice(bytes));
        loop {
            chunk = match self.chunks.try_send(chunk) {
                Ok(()) => return Ok(bytes.len()),
                Err(TrySendError::Full(chunk)) => chunk,
                Err(TrySendError::Closed(_)) => {
                    let gone = "whoever asked for it has gone";
                    return Err(io::Error::new(io::ErrorKind::BrokenPipe, gone));
                }
            };
            if begun.elapsed() >= self.patience {
                let stalled = "whoever asked for it takes nothing";
                return Err(io::Error::new(io::ErrorKind::TimedOut, stalled));
            }
            std::thread::park_timeout(LOOK);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_given_up_and_sees_no_proper_end() {
        let (sender, chunks) = mpsc::channel(1);
        let mut pipe = Pipe {
            chunks: sender,
            patience: Duration::from_millis(20),
        };
        pipe.write_all(b"first").unwrap();
        let error = pipe.write_all(b"second").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(pipe);
        let seen: Vec<_> = rest(chunks, Arc::default()).collect().await;
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].as_deref().unwrap(), b"first");
        assert!(
            seen[1].is_err(),
            "half a backup does not end as a whole one"
        );
    }

    #[tokio::test]
    async fn a_whole_backup_ends_properly() {
        let (sender, chunks) = mpsc::channel(1);
        sender.send(Ok(Bytes::from_static(b"all"))).await.unwrap();
        drop(sender);
        let whole = Arc::new(AtomicBool::new(true));
        let seen: Vec<_> = rest(chunks, whole).collect().await;
        assert!(seen.len() == 1 && seen[0].is_ok());
    }
}
