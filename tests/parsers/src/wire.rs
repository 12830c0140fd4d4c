//! Messages between processes, and the headers that applications pass on.

use std::{io::Write, os::unix::net::UnixStream, time::Duration};

use leno_ir::{Destination, Endpoints, Mesh, OwnWorkload};
use leno_net::fdpass;
use leno_telemetry::{
    LatencyHistogram,
    trace::{Context, TraceId},
};
use leno_wire::mesh as wire;
use prost::Message;

/// Any bytes, split anywhere, end in messages or an error.
pub(crate) fn fdpass(data: &[u8]) -> bool {
    // What does not fit into the socket's buffer would wait for a reader.
    let data = data.get(..32 * 1024).unwrap_or(data);
    let Ok((mut ours, theirs)) = UnixStream::pair() else {
        return false;
    };
    if ours.write_all(data).is_err()
        || theirs
            .set_read_timeout(Some(Duration::from_secs(1)))
            .is_err()
    {
        return false;
    }
    drop(ours);
    let mut messages = 0_usize;
    while let Ok(Some(message)) = fdpass::recv_blocking(&theirs) {
        assert!(message.bytes.len() <= fdpass::MAX_MESSAGE && message.fds.is_empty());
        messages += 1;
    }
    assert!(messages <= data.len() / 4);
    messages > 0
}

/// Refused, or read so that it is written back the same.
pub(crate) fn histogram(data: &[u8]) -> bool {
    let read = LatencyHistogram::decode(data);
    if let Ok(histogram) = &read {
        let again = LatencyHistogram::decode(&histogram.encode());
        assert_eq!(
            again.map(|again| again.encode()).ok(),
            Some(histogram.encode())
        );
        for q in [0.0, 0.5, 0.99, 1.0] {
            assert_eq!(histogram.quantile(q).is_none(), histogram.is_empty());
        }
        let mut twice = histogram.clone();
        twice.merge(histogram);
        assert!(twice.count() >= histogram.count());
    }
    read.is_ok()
}

macro_rules! round {
    ($type:ident, $bytes:expr) => {
        match wire::$type::decode($bytes).map(|message| $type::from_wire(&message)) {
            Ok(Ok(read)) => {
                assert_eq!($type::from_wire(&read.to_wire()).as_ref(), Ok(&read));
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    };
}

/// Refused, or read so that it is written back the same. The first byte is the type.
pub(crate) fn ir(data: &[u8]) -> bool {
    let Some((kind, bytes)) = data.split_first() else {
        return false;
    };
    match kind % 4 {
        0 => round!(Mesh, bytes),
        1 => round!(OwnWorkload, bytes),
        2 => round!(Destination, bytes),
        _ => round!(Endpoints, bytes),
    }
}

/// What is read is written back the same.
pub(crate) fn trace(data: &[u8]) -> bool {
    let mut read = false;
    if let Some(context) = Context::parse_traceparent(data) {
        read = true;
        let again = Context::parse_traceparent(&context.traceparent());
        assert_eq!(again, Some(context));
    }
    for header in ["b3", "x-b3-traceid"] {
        let Some(trace) = TraceId::of_request(|name| (name == header).then_some(data)) else {
            continue;
        };
        let written = trace.to_string();
        let again = TraceId::of_request(|name| (name == header).then_some(written.as_bytes()));
        assert_eq!(again, Some(trace));
        read = true;
    }
    read
}
