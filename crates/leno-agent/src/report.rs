//! What this proxy saw, for the control plane and for Prometheus.

use std::{path::Path, time::Instant};

use leno_dataplane::Event;
use leno_wire::agent as wire;

/// Collects what the data plane tells.
pub(crate) struct Reporter;

impl Reporter {
    pub(crate) fn new(_access_log: Option<&Path>) -> Self {
        Self
    }

    pub(crate) fn take(&mut self, _event: Event) {}

    pub(crate) fn report(
        &mut self,
        _now: Instant,
        _version: &str,
        _certificates: Vec<wire::CertificateState>,
    ) -> Option<wire::Report> {
        None
    }

    pub(crate) fn prometheus(&self, _nacks: u64, _held: usize) -> String {
        String::new()
    }
}
