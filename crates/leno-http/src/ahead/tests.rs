#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::VecDeque, task::Waker};

use tokio::io::AsyncReadExt;

use super::*;

/// Gives its pieces one read each, then the end; counts the reads.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    reads: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reads += 1;
        if let Some(mut piece) = self.pieces.pop_front() {
            let rest = piece.split_off(piece.len().min(buffer.remaining()));
            buffer.put_slice(&piece);
            if !rest.is_empty() {
                self.pieces.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn ahead(pieces: &[usize]) -> (ReadAhead<Pieces>, Vec<u8>) {
    let mut next = 0_u8;
    let mut byte = || {
        next = next.wrapping_add(1);
        next
    };
    let pieces: VecDeque<Vec<u8>> = pieces
        .iter()
        .map(|length| (0..*length).map(|_| byte()).collect())
        .collect();
    let whole = pieces.iter().flatten().copied().collect();
    (ReadAhead::new(Pieces { pieces, reads: 0 }), whole)
}

#[tokio::test]
async fn everything_comes_in_order_whatever_is_asked_for() {
    for asked in [1, 100, 4_096, 100_000] {
        let (mut ahead, whole) = ahead(&[10, 5_000, 70_000, 200_000, 1, 40_000]);
        let mut got = Vec::new();
        loop {
            let mut space = vec![0; asked];
            let count = ahead.read(&mut space).await.unwrap();
            if count == 0 {
                break;
            }
            got.extend_from_slice(&space[..count]);
        }
        assert_eq!(got, whole);
    }
}

#[tokio::test]
async fn a_burst_is_read_in_one_go() {
    let (mut ahead, whole) = ahead(&[20_000]);
    let mut got = vec![0; 20_000];
    for part in got.chunks_mut(4_096) {
        ahead.read_exact(part).await.unwrap();
    }
    assert_eq!((got, ahead.io.reads), (whole, 1));
}

#[tokio::test]
async fn what_was_taken_holds_no_memory() {
    let (mut ahead, whole) = ahead(&[64 * 1024, 64 * 1024, 100]);
    let mut got = Vec::new();
    ahead.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, whole);
    assert_eq!(ahead.held.capacity(), 0);
}

#[test]
fn nothing_is_read_where_nothing_is_asked_for() {
    let (mut ahead, _) = ahead(&[10]);
    let mut cx = Context::from_waker(Waker::noop());
    let read = Pin::new(&mut ahead).poll_read(&mut cx, &mut ReadBuf::new(&mut []));
    assert!(matches!(read, Poll::Ready(Ok(()))));
    assert_eq!(ahead.io.reads, 0);
}
