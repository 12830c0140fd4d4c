//! How this host stands with its control plane: connected, without it for now, or no member of what answers there.
//!
//! Owns which of them a failure means, and what people are told to do about it.
//! Invariant: of a control plane that answers and says no it is never said that it is away.

use std::mem;

use leno_tls::{HandshakeError, VerifyError};
use tonic::{Code, Status};

use crate::{dial::DialError, protocol::Trouble};

/// What to do where the control plane knows this host no more.
const REVOKED: &str = "to let it in again: end the agent, leno leave, then leno join with a new token (leno token create)";
/// What to do where somebody else is at the control plane's address.
const ANOTHER: &str = "if it was made anew: end the agent, leno leave, then leno join with a token made there (leno token create)";

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It may come back by itself.
    Away(String),
    /// Somebody answers who is not the control plane that this host joined. Whoever it is has proved nothing: it may be
    /// gone in a moment.
    Another(String),
    /// The control plane itself says that this host is no member: only people can change that.
    Revoked(String),
}

/// How it stands.
#[derive(Debug, Default)]
pub(crate) enum Standing {
    /// Nothing was heard since the agent began.
    #[default]
    Unheard,
    /// A session stands: the control plane said welcome.
    Connected,
    /// There is none.
    Lost(Lost),
}

/// Whether whoever answered is another than was expected. Not one whose certificate has ended, or begins later: there a
/// clock may be wrong.
#[must_use]
pub fn is_another(error: &HandshakeError) -> bool {
    match error {
        HandshakeError::PeerIdentity { .. } | HandshakeError::PinMismatch { .. } => true,
        HandshakeError::PeerCertificate(fault) => !matches!(
            fault,
            VerifyError::Expired { .. } | VerifyError::NotYetValid { .. }
        ),
        _ => false,
    }
}

impl Lost {
    /// What a dial that failed means.
    pub(crate) fn of_dial(error: &DialError) -> Self {
        match error {
            DialError::Handshake { address, source } if is_another(source) => {
                Self::Another(format!(
                    "the control plane at {address} is another than the one that this host joined: {}",
                    with_cause(source)
                ))
            }
            DialError::Handshake { address, source } => Self::Away(format!(
                "{address} did not prove to be the control plane: {}",
                with_cause(source)
            )),
            other => Self::Away(with_cause(other)),
        }
    }

    /// What the end of a stream means.
    pub(crate) fn of_status(stream: &str, status: &Status) -> Self {
        match status.code() {
            Code::PermissionDenied => Self::Revoked(format!(
                "this host is a member of the mesh no more: the control plane says \"{}\"",
                status.message()
            )),
            code => Self::Away(format!("{stream} ended: {code:?}: {}", status.message())),
        }
    }

    /// What happened and what people are to do, where it does not pass by itself.
    pub(crate) fn for_people(&self) -> Option<(&str, &'static str)> {
        match self {
            Self::Away(_) => None,
            Self::Another(what) => Some((what, ANOTHER)),
            Self::Revoked(what) => Some((what, REVOKED)),
        }
    }
}

impl Standing {
    /// Whether this loss is news: it is of another kind than what was told last.
    pub(crate) fn is_new(&self, lost: &Lost) -> bool {
        match self {
            Self::Unheard | Self::Connected => true,
            Self::Lost(told) => mem::discriminant(told) != mem::discriminant(lost),
        }
    }

    /// What keeps this host from the control plane.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let (what, hint) = match self {
            Self::Connected => return None,
            Self::Unheard => (
                "it has not reached the control plane yet".into(),
                "look again in a few seconds",
            ),
            Self::Lost(Lost::Away(reason)) => (
                format!("the control plane is away: {reason}"),
                "what runs goes on with what it knows; it is tried again by itself",
            ),
            Self::Lost(Lost::Another(what)) => (what.clone(), ANOTHER),
            Self::Lost(Lost::Revoked(what)) => (what.clone(), REVOKED),
        };
        Some(Trouble {
            what,
            hint: hint.into(),
            lasting: self.refusal().is_some(),
        })
    }

    /// Why no program can be taken in, where waiting for it helps nothing.
    pub(crate) fn refusal(&self) -> Option<String> {
        let Self::Lost(lost) = self else { return None };
        let (what, hint) = lost.for_people()?;
        Some(format!("{what}\n  {hint}"))
    }
}

/// An error with what it comes from, where it does not say that itself.
fn with_cause(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    match error.source().map(ToString::to_string) {
        Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::SystemTime;

    use super::*;

    fn dial(fault: VerifyError) -> Lost {
        Lost::of_dial(&DialError::Handshake {
            address: "10.0.0.1:15012".parse().unwrap(),
            source: HandshakeError::PeerCertificate(fault),
        })
    }

    #[test]
    fn who_answers_and_says_no_is_not_away() {
        let revoked = Lost::of_status(
            "the session",
            &Status::permission_denied("b is no agent of this mesh"),
        );
        assert!(matches!(revoked, Lost::Revoked(_)), "{revoked:?}");
        let (what, hint) = revoked.for_people().unwrap();
        assert!(what.contains("b is no agent"), "{what}");
        assert!(
            hint.contains("leno leave") && hint.contains("leno join"),
            "{hint}"
        );
        let Lost::Another(what) = dial(VerifyError::UnknownIssuer) else {
            panic!("another authority");
        };
        assert!(
            what.contains("10.0.0.1:15012 is another") && what.contains("no root"),
            "{what}"
        );
    }

    #[test]
    fn what_may_pass_is_away() {
        let ended = Lost::of_status("the session", &Status::unavailable("shutting down"));
        assert!(matches!(ended, Lost::Away(_)), "{ended:?}");
        let expired = dial(VerifyError::Expired {
            not_after: SystemTime::UNIX_EPOCH,
        });
        let Lost::Away(why) = expired else {
            panic!("a clock may be wrong");
        };
        assert!(why.contains("expired"), "{why}");
    }

    #[test]
    fn a_loss_is_news_once_and_refuses_only_where_waiting_is_in_vain() {
        let away = || Lost::Away("no answer".into());
        let outside = || Lost::of_status("the session", &Status::permission_denied("gone"));
        let mut standing = Standing::default();
        assert!(standing.trouble().is_some() && standing.refusal().is_none());
        for (lost, is_new, refuses) in [
            (away(), true, false),
            (away(), false, false),
            (outside(), true, true),
            (outside(), false, true),
            (away(), true, false),
        ] {
            assert_eq!(standing.is_new(&lost), is_new, "{lost:?}");
            standing = Standing::Lost(lost);
            assert_eq!(standing.refusal().is_some(), refuses, "{standing:?}");
            assert_eq!(standing.trouble().map(|of| of.lasting), Some(refuses));
        }
        assert!(Standing::Connected.trouble().is_none());
        assert!(Standing::Connected.is_new(&away()));
    }
}
