//! How the control plane itself is, for `leno check`: its store's room, and which of its ceilings were met.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use leno_store::{Around, Store};

use crate::{documents::Vitals, metrics::Meters, times::rfc3339_of};

impl Meters {
    /// Those of the control plane's ceilings that were met since the start, by the name of their metric.
    fn ceilings_met(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            (
                "leno_api_watches_exceeded_total",
                count(&self.api.watches_exceeded),
            ),
            (
                "leno_api_bodies_exceeded_total",
                count(&self.api.bodies_exceeded),
            ),
            (
                "leno_api_answers_stalled_total",
                count(&self.api.answers_stalled),
            ),
            (
                "leno_controlplane_connections_stalled_total",
                count(&self.stalled),
            ),
            (
                "leno_controlplane_strangers_exceeded_total",
                count(&self.strangers_ended),
            ),
            (
                "leno_controlplane_metrics_readers_exceeded_total",
                count(&self.readers_ended),
            ),
            (
                "leno_store_watches_lagged_total",
                self.store.store().stats().lagged,
            ),
        ]
        .into_iter()
        .filter(|(_, met)| *met > 0)
    }

    /// How the control plane is, but for what the mesh itself knows.
    pub(crate) fn vitals(&self) -> Vitals {
        let store = self.store.store();
        Vitals {
            version: env!("CARGO_PKG_VERSION").into(),
            now: rfc3339_of(SystemTime::now()),
            stored_revision: store.revision(),
            store_free_bytes: store.free_bytes(),
            store_full: store.stats().full,
            ceilings: self
                .ceilings_met()
                .map(|(name, met)| (name.to_owned(), met))
                .collect(),
            ..Vitals::default()
        }
    }
}
