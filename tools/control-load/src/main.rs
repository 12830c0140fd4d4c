//! `cargo xtask bench control-plane`: a control plane in a process of its own, and in this one thousands of agents that
//! speak to it by mutual TLS and gRPC, each with its own certificate and address.
//!
//! Owns what is measured and how. Never looks into the control plane: only at what it answers, and at /proc.

mod host;
mod load;
mod plane;
mod report;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use leno_runtime::block_on_local;

/// What the command line asks for.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench control-plane")]
struct Arguments {
    /// The binary that is measured
    #[arg(long)]
    leno: PathBuf,
    /// Services
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Endpoints: workloads that serve one of them
    #[arg(long, default_value_t = 100_000)]
    endpoints: usize,
    /// Agents
    #[arg(long, default_value_t = 5_000)]
    proxies: usize,
    /// Writes the result as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Writes the table into a page, between its two marks
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// How large the mesh is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) services: usize,
    pub(crate) endpoints: usize,
    pub(crate) proxies: usize,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the control plane: {0}")]
    Plane(String),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("the control plane refuses: {0}")]
    Status(Box<tonic::Status>),
    #[error("a connection: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("a request: {0}")]
    Request(#[from] hyper::Error),
    #[error("a request: {0}")]
    Http(#[from] http::Error),
    #[error("{0}")]
    Tasks(#[from] leno_runtime::Full),
    #[error("{0}")]
    Page(String),
}

impl Failure {
    fn tls(error: impl std::fmt::Display) -> Self {
        Self::Tls(error.to_string())
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("control-load: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<(), Failure> {
    leno_net::process::allow_open_files()?;
    let size = Size {
        services: arguments.services,
        endpoints: arguments.endpoints,
        proxies: arguments.proxies,
    };
    let each = size.endpoints.checked_div(size.proxies).unwrap_or(0);
    if size.services < 100 || size.proxies < 100 || !(1..=512).contains(&each) {
        return Err(Failure::Page(
            "give 100 services and 100 proxies or more, and 1 to 512 endpoints for each proxy"
                .into(),
        ));
    }
    if size.endpoints < size.services.saturating_mul(load::HOSTS_OF_A_TOKEN) {
        // Some services would be served by nobody, and who calls them would be waited for.
        let least = format!(
            "give at least {} endpoints for each service",
            load::HOSTS_OF_A_TOKEN
        );
        return Err(Failure::Page(least));
    }
    let directory = tempfile::tempdir()?;
    let work = load::run(&arguments.leno, directory.path(), size);
    let found = block_on_local("control-load", work)?;
    let page = report::markdown(size, &found);
    println!("{page}");
    if let Some(path) = &arguments.json {
        std::fs::write(path, report::json(size, &found).to_string())?;
    }
    if let Some(path) = &arguments.markdown {
        report::insert(path, &page)?;
    }
    Ok(())
}
