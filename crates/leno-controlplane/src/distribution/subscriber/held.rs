//! How far one resource is at one proxy.
//!
//! Most run in the version that was sent last, and nothing is kept of them but that. Invariant: what is acknowledged
//! runs.

use crate::distribution::Version;

/// How far a resource is at a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State<'a> {
    /// Sent, no answer yet.
    Pending,
    /// It runs.
    Acked,
    /// Refused; the version before it runs on.
    Nacked(&'a str),
}

/// A resource at a proxy.
#[derive(Clone, Debug)]
pub struct Held {
    version: Option<Version>,
    /// Came with the stream's beginning: the proxy has it from before.
    pub(super) resumed: bool,
    /// `None`: the version sent last was acknowledged.
    unacked: Option<Box<Unacked>>,
}

#[derive(Clone, Debug)]
struct Unacked {
    running: Option<Version>,
    refused: Option<Box<str>>,
}

impl Held {
    /// What a proxy has from before, in the version that it says. One that no control plane gives (`None`) is another
    /// than every version there is, so that the resource is sent to it again.
    pub(super) fn brought(version: Option<Version>) -> Self {
        Self {
            version,
            resumed: true,
            unacked: None,
        }
    }

    /// What is sent to a proxy that held this before.
    pub(super) fn sent(version: Version, before: Option<&Self>) -> Self {
        let unacked = Unacked {
            running: before.and_then(Self::running),
            refused: None,
        };
        Self {
            version: Some(version),
            resumed: false,
            unacked: Some(Box::new(unacked)),
        }
    }

    /// It runs.
    pub(super) fn acknowledge(&mut self) {
        self.unacked = None;
    }

    /// It does not; what ran before runs on.
    pub(super) fn refuse(&mut self, reason: Box<str>) {
        let running = self.running();
        let refused = Some(reason);
        self.unacked = Some(Box::new(Unacked { running, refused }));
    }

    /// Whether it was sent last, or brought along, in this version.
    #[must_use]
    pub fn is(&self, version: Version) -> bool {
        self.version == Some(version)
    }

    /// The version sent last; none if the proxy brought along one that no control plane gives.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// The version that runs; none when none does, or none that a control plane gives.
    #[must_use]
    pub fn running(&self) -> Option<Version> {
        match &self.unacked {
            None => self.version,
            Some(unacked) => unacked.running,
        }
    }

    /// What the proxy says of it.
    #[must_use]
    pub fn state(&self) -> State<'_> {
        match &self.unacked {
            None => State::Acked,
            Some(unacked) => match &unacked.refused {
                None => State::Pending,
                Some(reason) => State::Nacked(reason),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_kept_of_what_runs_is_its_name_and_version() {
        assert_eq!(size_of::<(Arc<str>, Held)>(), 40);
    }

    #[test]
    fn what_ran_before_runs_on_until_what_was_sent_is_acknowledged() {
        let (one, two) = (Version::of(b"one"), Version::of(b"two"));
        let mut held = Held::sent(one, None);
        assert_eq!((held.state(), held.running()), (State::Pending, None));
        held.acknowledge();
        assert_eq!((held.state(), held.running()), (State::Acked, Some(one)));
        let mut held = Held::sent(two, Some(&held));
        assert_eq!((held.state(), held.running()), (State::Pending, Some(one)));
        held.refuse("no".into());
        assert_eq!(
            (held.state(), held.running()),
            (State::Nacked("no"), Some(one))
        );
        assert!(held.is(two) && held.version() == Some(two));
        let again = Held::sent(two, Some(&held));
        assert_eq!(
            (again.state(), again.running()),
            (State::Pending, Some(one))
        );
    }
}
