//! The chunked coding: the same body however the bytes are split.
#![no_main]

use bytes::BytesMut;
use leno_http::{
    Limits,
    h1::{ChunkStep, ChunkedDecoder},
};
use libfuzzer_sys::fuzz_target;

/// The body, and whether it ended; `None` when it is malformed.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<(Vec<u8>, bool)> {
    let limits = Limits::default();
    let (mut decoder, mut buffer, mut body) =
        (ChunkedDecoder::default(), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.step(&mut buffer, &limits) {
                Ok(ChunkStep::Data(data)) => body.extend_from_slice(&data),
                Ok(ChunkStep::NeedMore) => break,
                Ok(ChunkStep::Done(_)) => return Some((body, true)),
                Err(_) => return None,
            }
        }
    }
    Some((body, false))
}

fuzz_target!(|data: &[u8]| {
    let whole = decode(std::iter::once(data));
    let split = decode(data.chunks(1));
    // A body that ends well ends well by bytes. Errors may be seen earlier or later.
    if let (Some(whole), Some(split)) = (whole, split) {
        assert_eq!(whole, split);
    }
});
