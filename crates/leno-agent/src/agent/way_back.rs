//! The way back of answers to callers' addresses, for programs that share this agent's network and are called from those.
//!
//! One for all of them: a sidecar's stands as long as its capture, a host's from the first such program to the end of the
//! last. A predecessor's is taken over.

use leno_net::capture::SourceAddresses;

use super::Agent;
use crate::{
    hosted::{Hosted, Unfit},
    protocol::{Network, Start},
    saved::SavedWorkload,
};

impl Agent {
    /// Installs it for a program on the host's network that needs it.
    pub(super) fn prepare_way_back(&mut self, start: &Start) -> Result<(), Unfit> {
        let on_host = matches!(start.network, Network::Host { .. });
        if on_host && start.preserve_source && self.way_back.is_none() {
            self.way_back = Some(SourceAddresses::install()?);
        }
        Ok(())
    }

    /// The same for a program that a predecessor served, so that it is there, or taken away with the others'.
    pub(super) fn take_up_way_back(&mut self, workload: &SavedWorkload) {
        if let Err(Unfit { message, .. }) = self.prepare_way_back(&workload.start) {
            tracing::error!(workload = workload.name, message, "it will not be called");
        }
    }

    /// Takes it away when the last program that needs it has ended.
    pub(super) fn end_way_back(&mut self) {
        let needs = |hosted: &Hosted| hosted.host.is_some() && hosted.start.preserve_source;
        if self.config.sidecar.is_some() || self.hosted.values().any(needs) {
            return;
        }
        if self.way_back.take().is_some()
            && let Err(error) = SourceAddresses::remove()
        {
            tracing::error!(%error, "the way back of answers to callers' addresses stays behind");
        }
    }

    /// Looks whether it is still there.
    pub(super) fn watch_way_back(&mut self) {
        match self.way_back.as_ref().map(SourceAddresses::restore) {
            Some(Ok(true)) => {
                self.rules_restored += 1;
                tracing::warn!(
                    "somebody removed the way back of answers to callers' addresses; it is restored"
                );
            }
            Some(Err(error)) => {
                tracing::error!(%error, "the way back of answers to callers' addresses cannot be restored");
            }
            Some(Ok(false)) | None => {}
        }
    }
}
