//! Answers on their way to who asked: handed on piece by piece as they are taken, each within its caller's share.
//!
//! An answer is kept until it is taken, for as long as its caller likes; but it takes up room, of which its caller and
//! mesh have a share. When room is wanted, answers of which nothing was taken for [`UNTAKEN`] lose theirs, and break
//! off when somebody takes more. Connections that take nothing at all are their listener's affair.
//!
//! Invariant: bytes that wait are counted, up to the last piece.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering},
};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::{Method, header};
use http_body_util::BodyExt;
use leno_types::DnsLabel;
use tokio::time::{Duration, Instant};

use crate::{
    Access, Caller, Counters, Limits,
    shares::{Full, Place, Shares},
    status::ApiError,
    turns::Turns,
};

/// An answer of which nothing was taken for so long may make room for others.
pub(crate) const UNTAKEN: Duration = Duration::from_secs(30);
/// Bytes of an answer that are handed on at once.
const PIECE: usize = 64 << 10;
/// What an answer takes up beside its bytes.
const OVERHEAD: usize = 4 << 10;

/// All answers that are not taken yet.
#[derive(Debug)]
pub struct Answers {
    shares: Arc<Shares>,
    pub(crate) turns: Arc<Turns>,
    counters: Arc<Counters>,
    open: Mutex<Vec<Weak<Untaken>>>,
}

/// What is left of one.
type Untaken = Mutex<Option<Rest>>;

#[derive(Debug)]
struct Rest {
    bytes: Bytes,
    since: Instant,
    _places: Vec<Place>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Answers {
    /// As many as these limits say.
    #[must_use]
    pub fn new(limits: &Limits, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            shares: Shares::new(limits.answers),
            turns: Turns::new(Arc::clone(&counters)),
            counters,
            open: Mutex::default(),
        })
    }

    /// Room for an answer of so many bytes.
    pub(crate) fn room(&self, mesh: &DnsLabel, caller: &str, size: usize) -> Result<Place, Full> {
        self.make_room(|| {
            let mut place = self.shares.take(mesh, caller)?;
            place.grow(size.saturating_add(OVERHEAD)).map(|()| place)
        })
    }

    /// So much more room for one that is being made.
    pub(crate) fn more_room(&self, place: &mut Place, size: usize) -> Result<(), Full> {
        self.make_room(|| place.grow(size))
    }

    /// What is said where there is none.
    pub(crate) fn refused(&self, full: Full) -> ApiError {
        let exceeded = &self.counters.requests_exceeded;
        exceeded.fetch_add(1, Ordering::Relaxed);
        ApiError::too_many(format!(
            "too many bytes of answers are not taken: {full}; try again later"
        ))
    }

    /// What `take` gives; where there is no room, once more without the answers that nobody takes.
    pub(crate) fn make_room<T>(
        &self,
        mut take: impl FnMut() -> Result<T, Full>,
    ) -> Result<T, Full> {
        take().or_else(|full| {
            self.end_untaken(Instant::now());
            take().map_err(|_| full)
        })
    }

    fn end_untaken(&self, now: Instant) {
        for answer in locked(&self.open).iter().filter_map(Weak::upgrade) {
            let mut answer = locked(&answer);
            let rest = answer.take_if(|rest| now.duration_since(rest.since) >= UNTAKEN);
            if rest.is_some() {
                let stalled = &self.counters.answers_stalled;
                stalled.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Hands an answer on as it is taken, and keeps its places until then. A stream without an end takes care of itself.
    pub(crate) async fn hand_on(&self, response: Response, places: Vec<Place>) -> Response {
        let Some(size) = size(&response) else {
            return response;
        };
        let (mut parts, body) = response.into_parts();
        let bytes = match body.collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => return ApiError::internal(error.to_string()).into_response(),
        };
        parts.headers.insert(header::CONTENT_LENGTH, size.into());
        let answer = Arc::new(Mutex::new(Some(Rest {
            bytes,
            since: Instant::now(),
            _places: places,
        })));
        let mut open = locked(&self.open);
        // Those that were taken make room here whenever the list would grow.
        if open.len() == open.capacity() {
            open.retain(|answer| answer.strong_count() > 0);
        }
        open.push(Arc::downgrade(&answer));
        let pieces = stream::unfold(answer, |answer| async move {
            let piece = piece(&answer)?;
            Some((piece, answer))
        });
        Response::from_parts(parts, Body::from_stream(pieces))
    }
}

/// The next piece; an error where the rest made room.
fn piece(answer: &Untaken) -> Option<io::Result<Bytes>> {
    let mut answer = locked(answer);
    let Some(rest) = answer.as_mut() else {
        return Some(Err(io::ErrorKind::TimedOut.into()));
    };
    // Only who has taken the last piece asks for the next, so its places are held until here.
    if rest.bytes.is_empty() {
        return None;
    }
    rest.since = Instant::now();
    let piece = rest.bytes.len().min(PIECE);
    // A copy: a piece that waits in a connection's buffers must not keep the whole answer once that made room.
    Some(Ok(Bytes::copy_from_slice(&rest.bytes.split_to(piece))))
}

/// How large an answer is that has a size.
pub(crate) fn size(response: &Response) -> Option<usize> {
    let size = response.body().size_hint().exact()?;
    usize::try_from(size).ok().filter(|size| *size > 0)
}

/// For routes beside the API's: what they answer to somebody of a mesh waits for its turn and takes up that one's share,
/// as the API's does.
pub async fn hold(State(answers): State<Arc<Answers>>, request: Request, next: Next) -> Response {
    let mut path = request.uri().path().split('/').skip(2);
    let mesh: Option<DnsLabel> = path.next().and_then(|mesh| mesh.parse().ok());
    let caller = request.extensions().get::<Caller>().cloned();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let somebody = mesh.zip(caller);
    let somebody = somebody.filter(|(mesh, caller)| reads && caller.access(mesh) != Access::None);
    let Some((mesh, caller)) = somebody else {
        return next.run(request).await;
    };
    // A view of all of a mesh is made as one piece.
    answers.turns.line(&mesh, &caller.name).turn().await;
    let response = next.run(request).await;
    let Some(size) = size(&response) else {
        return response;
    };
    match answers.room(&mesh, &caller.name, size) {
        Ok(place) => answers.hand_on(response, vec![place]).await,
        Err(full) => answers.refused(full).into_response(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const SIZE: usize = PIECE + 10;

    fn answers(room: usize) -> (Arc<Answers>, Arc<Counters>) {
        let (one, counters) = (room * (SIZE + OVERHEAD + 1), Arc::<Counters>::default());
        let limits = Limits {
            answers: crate::Share {
                all: one,
                mesh: one,
                caller: one,
            },
            ..Limits::default()
        };
        (Answers::new(&limits, Arc::clone(&counters)), counters)
    }

    async fn answer(answers: &Answers) -> Result<Body, Full> {
        let place = answers.room(&"shop".parse().unwrap(), "ada", SIZE)?;
        let response = Response::new(Body::from(vec![b'x'; SIZE]));
        Ok(answers.hand_on(response, vec![place]).await.into_body())
    }

    async fn next(body: &mut Body) -> Option<Result<usize, axum::Error>> {
        let frame = body.frame().await?;
        Some(frame.map(|frame| frame.data_ref().map_or(0, Bytes::len)))
    }

    #[tokio::test]
    async fn an_answer_has_its_room_until_its_last_piece_is_taken() {
        let (answers, _) = answers(1);
        let mut body = answer(&answers).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), PIECE);
        assert_eq!(next(&mut body).await.unwrap().unwrap(), 10);
        // HTTP/2 asks for more once that is on its way: what waits in its buffers is counted.
        assert!(answer(&answers).await.is_err());
        assert!(next(&mut body).await.is_none());
        drop(body);
        assert!(answer(&answers).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_takes_make_room_and_break_off() {
        let (answers, counters) = answers(2);
        let mut untaken = answer(&answers).await.unwrap();
        assert!(next(&mut untaken).await.unwrap().is_ok());
        tokio::time::advance(UNTAKEN / 2).await;
        let mut taken = answer(&answers).await.unwrap();
        assert!(answer(&answers).await.is_err(), "both are taken");
        tokio::time::advance(UNTAKEN / 2).await;
        let third = answer(&answers).await.unwrap();
        assert_eq!(counters.answers_stalled.load(Ordering::Relaxed), 1);
        assert!(
            next(&mut untaken).await.unwrap().is_err(),
            "half is no whole"
        );
        assert!(next(&mut taken).await.unwrap().is_ok());
        drop((third, taken, untaken));
        assert_eq!(answers.shares.taken_in_all(), 0);
    }
}
