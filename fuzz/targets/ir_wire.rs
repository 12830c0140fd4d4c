//! What a control plane sends: refused, or read so that it is written back the same.
#![no_main]

use leno_ir::{Destination, Endpoints, Mesh, OwnWorkload};
use leno_wire::mesh as wire;
use libfuzzer_sys::fuzz_target;
use prost::Message;

macro_rules! round {
    ($type:ident, $bytes:expr) => {
        if let Ok(message) = wire::$type::decode($bytes)
            && let Ok(read) = $type::from_wire(&message)
        {
            assert_eq!($type::from_wire(&read.to_wire()).as_ref(), Ok(&read));
        }
    };
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => round!(Mesh, bytes),
        1 => round!(OwnWorkload, bytes),
        2 => round!(Destination, bytes),
        _ => round!(Endpoints, bytes),
    }
});
