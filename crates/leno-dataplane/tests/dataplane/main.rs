//! The data plane between hosts of its own on loopback: real sockets, real TLS, real HTTP; only the redirect is played.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    unreachable_pub,
    reason = "a test may panic"
)]

mod apps;
mod bytes;
mod declared;
mod discovery;
mod host;
mod hostnames;
mod inbound;
mod neighbours;
mod overload;
mod requests;
mod resilience;
mod strict;

use std::time::Duration;

/// Runs a test on a thread of its own; nothing in it may wait for ever.
fn run(test: impl Future<Output = ()>) {
    leno_runtime::block_on_local("test", async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .expect("the test ends in time");
    });
}
