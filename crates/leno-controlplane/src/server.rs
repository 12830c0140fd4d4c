//! A control plane's life: open, listen, serve, end.

use std::net::SocketAddr;

use leno_runtime::Stop;

use crate::{Config, StartError};

/// A control plane whose ports are open and whose state is read, and which does not answer yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
}

impl Bound {
    /// Opens the store, the CA, and every port.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        Ok(Self { config })
    }

    /// Where the TLS port listens.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.config.listen.clone()
    }

    /// Answers until `stop`.
    ///
    /// # Errors
    /// A part without which nothing works ended.
    pub async fn serve(self, stop: Stop) -> Result<(), StartError> {
        stop.cancelled().await;
        Ok(())
    }
}
