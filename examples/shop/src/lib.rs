//! The shop that the demo runs: ordinary programs that know nothing of a mesh.
//!
//! Each program uses plain names, plain sockets and ordinary client libraries, and would run the same on any machine.
//! Invariant: a program never exits because a peer is away, and every payload it sends contains [`PAYLOAD`], so that
//! anyone with a packet capture can see where payloads cross a network in clear.

mod cart;
mod cart_client;
mod catalog;
mod cli;
mod grpc;
mod http_client;
mod http_server;
mod ledger;
mod legacy;
mod load;
mod net;
mod prices;
mod reviews;
mod stock;
mod storefront;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Program};
use crate::net::Listeners;

/// The text that every payload contains.
pub const PAYLOAD: &str = "leno-demo-payload";

/// Asks a program to end.
type Stop = CancellationToken;

/// Helper threads (name look-ups), and the stack of each.
const HELPER_THREADS: usize = net::LOOKUPS_AT_ONCE;
const HELPER_STACK: usize = 256 * 1024;

/// Runs `shop PROGRAM [options]` until SIGTERM or SIGINT; `args` is what follows the command's own name.
///
/// The exit code is 0 after a signal, 1 when the program could not start, 2 when the arguments are wrong.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let parsed = Cli::try_parse_from(std::iter::once(OsString::from("shop")).chain(args));
    let program = match parsed {
        Ok(cli) => cli.program,
        Err(error) => {
            // Where it cannot be printed, the exit code has to do.
            drop(error.print());
            return if error.use_stderr() {
                ExitCode::from(2)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let name = program.name();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(HELPER_THREADS)
        .thread_stack_size(HELPER_STACK)
        .build_local(LocalOptions::default());
    let ended = runtime.and_then(|runtime| {
        let ended = runtime.block_on(until_signal(program));
        // A name look-up that hangs must not hold up the end.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(name, format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs `program`; the first SIGTERM or SIGINT asks it to end.
async fn until_signal(program: Program) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stop = Stop::new();
    let mut running = std::pin::pin!(run(program, &stop));
    tokio::select! {
        ended = &mut running => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    running.await
}

async fn run(program: Program, stop: &Stop) -> io::Result<()> {
    let name = program.name();
    let listeners = match program.port() {
        None => Listeners::none(),
        Some(port) => {
            let bound = Listeners::bind(port).await;
            let listeners = bound.map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot listen on port {port}: {error} (another: --port N)"),
                )
            })?;
            say(name, format_args!("listening on port {}", listeners.port()));
            listeners
        }
    };
    match program {
        Program::Storefront(options) => {
            storefront::run(listeners, options.peers, options.rate, stop).await
        }
        Program::Catalog(options) => catalog::run(listeners, options.version, stop).await,
        Program::Cart(_) => cart::run(listeners, stop).await,
        Program::Reviews(_) => reviews::run(listeners, stop).await,
        Program::Prices(_) => prices::run(listeners, stop).await,
        Program::Stock(_) => stock::run(listeners, stop).await,
        Program::Ledger(options) => ledger::run(listeners, options.stock, options.rate, stop).await,
        Program::Legacy(options) => legacy::run(options.url, options.rate, stop).await,
    }
    Ok(())
}

/// One line on standard error, and no harm if nobody reads it.
fn say(program: &str, line: fmt::Arguments<'_>) {
    drop(writeln!(io::stderr(), "{program}: {line}"));
}

#[cfg(test)]
mod tests;
