//! Messages on the agent's socket: any bytes, split anywhere, end in messages or an error.
#![no_main]

use std::{io::Write, os::unix::net::UnixStream, time::Duration};

use leno_net::fdpass;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // What does not fit into the socket's buffer would wait for a reader.
    let data = data.get(..32 * 1024).unwrap_or(data);
    let Ok((mut ours, theirs)) = UnixStream::pair() else {
        return;
    };
    if ours.write_all(data).is_err()
        || theirs
            .set_read_timeout(Some(Duration::from_secs(1)))
            .is_err()
    {
        return;
    }
    drop(ours);
    let mut messages = 0_usize;
    while let Ok(Some(message)) = fdpass::recv_blocking(&theirs) {
        assert!(message.bytes.len() <= fdpass::MAX_MESSAGE && message.fds.is_empty());
        messages += 1;
    }
    assert!(messages <= data.len() / 4);
});
