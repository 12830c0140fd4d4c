//! Who changed what: the line of each change, and of what was refused.
//!
//! A line is begun before its change is stored and ended after, so that there is one also where the caller is gone
//! before the answer. Where lines are kept is whoever serves the API's ([`Audit`]).
//! Invariant: no change of an object is stored without a line.

use std::sync::Arc;

use leno_types::DnsLabel;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use crate::Caller;

/// Room for the lines of changes that are begun, until their outcome is noted: given back when dropped. None where
/// nothing is kept.
pub type Begun = Option<OwnedSemaphorePermit>;

/// Why changes cannot be written down, and what to do: they are then not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// Lines wait for the disk.
    #[error("{0}")]
    Waits(String),
    /// Too many are begun at once.
    #[error("{0}")]
    Busy(String),
}

/// Where lines are kept.
pub trait Audit: Send + Sync {
    /// Makes room for the lines of so many changes of this mesh.
    ///
    /// # Errors
    /// Why they cannot be written down.
    fn ready(&self, mesh: &DnsLabel, changes: usize) -> Result<Begun, Unready>;

    /// Keeps a line of what nobody was asked about before: a refusal, a host that joined.
    fn note(&self, line: AuditLine);

    /// Keeps a line of a change that was made because [`Audit::ready`] had made room for it: it is not lost.
    fn account(&self, line: AuditLine);
}

/// Keeps nothing: where no change is anybody's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unaudited;

impl Audit for Unaudited {
    fn ready(&self, _: &DnsLabel, _: usize) -> Result<Begun, Unready> {
        Ok(None)
    }

    fn note(&self, _: AuditLine) {}

    fn account(&self, _: AuditLine) {}
}

/// What was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditObject {
    /// Its kind, such as `Service` or `Token`.
    pub kind: String,
    /// Its namespace; empty where it has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditOutcome {
    /// It is stored, as this revision.
    Done(u64),
    /// It was refused.
    Refused {
        /// The HTTP status.
        code: u16,
        /// What the caller was told.
        message: String,
    },
    /// Its caller left before the answer: it may be stored.
    Unsure,
}

/// One change, or one that was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditLine {
    /// The mesh.
    pub mesh: DnsLabel,
    /// Who.
    pub who: String,
    /// Where from: an address, or `admin socket`.
    pub from: String,
    /// What was done: `created`, `configured`, `deleted`, ..
    pub verb: String,
    /// To what.
    pub object: AuditObject,
    /// What was there; never a secret.
    pub before: Option<Value>,
    /// What is there now; never a secret.
    pub after: Option<Value>,
    /// What became of it.
    pub outcome: AuditOutcome,
}

impl AuditLine {
    /// A line of what a caller is about to do.
    #[must_use]
    pub fn new(caller: &Caller, mesh: &DnsLabel, verb: &str, object: AuditObject) -> Self {
        Self {
            mesh: mesh.clone(),
            who: caller.name.clone(),
            from: caller.from.clone(),
            verb: verb.into(),
            object,
            before: None,
            after: None,
            outcome: AuditOutcome::Unsure,
        }
    }
}

/// Changes that are about to be stored in one transaction. Dropped without an outcome, they are noted as unsure.
pub struct Intent {
    audit: Arc<dyn Audit>,
    keep: fn(&dyn Audit, AuditLine),
    lines: Vec<AuditLine>,
}

impl Intent {
    /// Of these changes, in the order of their writes; [`Audit::ready`] made room for them.
    #[must_use]
    pub fn new(audit: &Arc<dyn Audit>, lines: Vec<AuditLine>) -> Self {
        Self {
            audit: Arc::clone(audit),
            keep: |audit, line| audit.account(line),
            lines,
        }
    }

    /// Of a change that is made whether it can be written down or not.
    #[must_use]
    pub fn unasked(audit: &Arc<dyn Audit>, line: AuditLine) -> Self {
        Self {
            audit: Arc::clone(audit),
            keep: |audit, line| audit.note(line),
            lines: vec![line],
        }
    }

    /// They are stored, the last as this revision: their lines are kept before anything else is done.
    pub fn stored(mut self, last: u64) {
        let count = self.lines.len() as u64;
        let first = last.saturating_add(1).saturating_sub(count);
        for (line, revision) in self.lines.iter_mut().zip(first..) {
            line.outcome = AuditOutcome::Done(revision);
        }
    }

    /// They were not stored.
    pub fn forget(mut self) {
        self.lines.clear();
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        for line in std::mem::take(&mut self.lines) {
            (self.keep)(&*self.audit, line);
        }
    }
}
