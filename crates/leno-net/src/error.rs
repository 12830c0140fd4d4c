//! What can go wrong with namespaces, capture and programs, said so that a person knows what to do next.

use std::io;

/// A failure of a set-up step, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// This system does not let an ordinary user make a user namespace.
    #[error("this system does not allow you a user namespace ({cause}); {advice}")]
    UserNamespace {
        /// Which setting forbids it.
        cause: String,
        /// How to allow it, or go without.
        advice: String,
    },
    /// A step needs a capability that this process does not have.
    #[error(
        "not permitted to {what}: it needs {capability}; run as root, or add that capability to the service or container"
    )]
    Permission {
        /// The step, as an infinitive: "make a network namespace".
        what: String,
        /// The capability or capabilities missing.
        capability: &'static str,
    },
    /// The kernel has not what a step needs.
    #[error("the kernel cannot {what}: {source}; {advice}")]
    Unsupported {
        /// The step.
        what: String,
        /// What would help.
        advice: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// More of something than Leno puts into one table.
    #[error("{given} {what} are more than the {limit} that fit")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many were asked for.
        given: usize,
        /// The ceiling.
        limit: usize,
    },
    /// The program to start does not exist.
    #[error("there is no program {program:?} (looked for as given, or in PATH)")]
    ProgramNotFound {
        /// As it was given.
        program: String,
    },
    /// The program to start may not be executed.
    #[error("{program:?} may not be run by this user, or is not executable (chmod +x)")]
    ProgramNotExecutable {
        /// As it was given.
        program: String,
    },
    /// Any other failure of a step.
    #[error("cannot {what}: {source}")]
    Io {
        /// The step, as an infinitive.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl NetError {
    /// A failed step, told apart by what the kernel said: missing permission names `capability`.
    pub(crate) fn step(
        what: impl Into<String>,
        capability: &'static str,
        source: io::Error,
    ) -> Self {
        let what = what.into();
        if source.kind() == io::ErrorKind::PermissionDenied {
            Self::Permission { what, capability }
        } else {
            Self::Io { what, source }
        }
    }

    /// A failed step that needs no capability.
    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what: what.into(),
            source: source.into(),
        }
    }
}
