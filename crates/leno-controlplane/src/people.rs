//! Who of a mesh's people may do what: their roles, as the store has them and as every request is judged by.
//!
//! A certificate says who somebody is, and nothing of what they may do: that is looked up for each request, so that a
//! role that was taken away is away. Owns the records and what is known of them.
//! Invariant: whoever is not on record may do nothing; nor may a certificate of before the record.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
    time::SystemTime,
};

use leno_api::Access;
use leno_store::Entry;
use leno_types::DnsLabel;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    authority::USER_TTL,
    documents::UserInfo,
    records::Record,
    times::{rfc3339, unix},
};

/// The collection of people in the store.
pub(crate) const USERS: &str = "leno/users";
/// Most people of a mesh whose certificates have not ended.
pub(crate) const MAX_USERS: usize = 1_024;

/// What somebody may do in a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Read.
    Viewer,
}

impl From<Role> for Access {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Viewer => Self::Viewer,
        }
    }
}

/// A person, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserRecord {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Seconds since 1970: a certificate of before counts no more.
    pub(crate) since: u64,
    /// When the last certificate was given.
    pub(crate) issued: u64,
}

impl Record for UserRecord {
    const COLLECTION: &'static str = USERS;
}

impl UserRecord {
    /// Whether every certificate it was given has ended.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        now > self.issued.saturating_add(USER_TTL.as_secs())
    }

    /// For people.
    pub(crate) fn info(&self) -> UserInfo {
        UserInfo {
            name: self.name.clone(),
            role: self.role,
            created: rfc3339(self.since),
            not_after: rfc3339(self.issued.saturating_add(USER_TTL.as_secs())),
            uncertified: self.issued < self.since,
        }
    }
}

/// The people of one mesh.
#[derive(Debug, Default)]
pub(crate) struct People {
    known: RwLock<BTreeMap<DnsLabel, UserRecord>>,
    /// The revision of the store whose changes of people are known.
    seen: watch::Sender<u64>,
}

impl People {
    /// What somebody may do with a certificate issued then.
    pub(crate) fn access(&self, name: &str, issued: SystemTime) -> Access {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        match known.get(name) {
            Some(record) if unix(issued) >= record.since => record.role.into(),
            _ => Access::None,
        }
    }

    /// Told of each revision of the store that changed somebody.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.seen.subscribe()
    }

    /// Takes in all that the store has at a revision.
    pub(crate) fn replace(&self, entries: &[Entry], revision: u64) {
        let read = |entry: &Entry| Some((entry.key.name.parse().ok()?, UserRecord::read(entry)?));
        *self.known.write().unwrap_or_else(PoisonError::into_inner) =
            entries.iter().filter_map(read).collect();
        self.seen.send_replace(revision);
    }

    /// Takes in one change; what cannot be read is nobody.
    pub(crate) fn change(&self, name: &str, entry: Option<&Entry>, revision: u64) {
        if let Ok(name) = name.parse::<DnsLabel>() {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            match entry.and_then(UserRecord::read) {
                Some(record) => known.insert(name, record),
                None => known.remove(&name),
            };
        }
        self.seen.send_replace(revision);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::Duration;

    use leno_store::Expect;

    use super::*;

    #[test]
    fn a_role_is_of_whoever_is_on_record_with_a_certificate_of_since_then() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mesh = "shop".parse().unwrap();
        let record = UserRecord {
            name: "ann".into(),
            role: Role::Viewer,
            since: 100,
            issued: 100,
        };
        let write = record.write(UserRecord::key(&mesh, "ann"), Expect::Any);
        let entry = Entry {
            key: write.key,
            value: write.value.unwrap().into(),
            revision: 7,
            created: 7,
        };
        let people = People::default();
        assert_eq!(people.access("ann", at(100)), Access::None);
        people.change("ann", Some(&entry), 7);
        assert_eq!(people.access("ann", at(100)), Access::Viewer);
        assert_eq!(people.access("ann", at(99)), Access::None);
        assert_eq!(people.access("bob", at(100)), Access::None);
        let unreadable = Entry {
            value: br#"{"name":"ann","role":"owner"}"#.as_slice().into(),
            ..entry.clone()
        };
        people.change("ann", Some(&unreadable), 8);
        assert_eq!(people.access("ann", at(100)), Access::None);
        people.replace(&[entry], 9);
        assert_eq!(
            (people.access("ann", at(100)), *people.changes().borrow()),
            (Access::Viewer, 9)
        );
        people.change("ann", None, 10);
        assert_eq!(people.access("ann", at(100)), Access::None);
    }

    #[test]
    fn somebody_is_over_when_the_last_certificate_is() {
        let record = UserRecord {
            name: "ann".into(),
            role: Role::Admin,
            since: 0,
            issued: 1_000,
        };
        assert!(!record.is_over(1_000 + USER_TTL.as_secs()));
        assert!(record.is_over(1_001 + USER_TTL.as_secs()));
    }
}
