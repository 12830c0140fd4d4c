//! Which local users may run programs on a host, and as whom (section 2 of the control plane's design).
//!
//! Owns the words of `--allow-user USER[=ACCOUNT,..]`. Who a user is says the system (`SO_PEERCRED`), never the program.
//! Invariant: what is not named is not allowed; root and the agent's own user are not in here, they may do anything.

use std::{collections::BTreeSet, str::FromStr};

use leno_types::{DnsLabel, Identity};

/// A user, and the service accounts its programs may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunUser {
    /// Who.
    pub uid: u32,
    /// Which accounts, and services of the same names; `None` means every one that this host may run.
    pub accounts: Option<BTreeSet<DnsLabel>>,
}

/// Why a text names no user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunUserError {
    /// Neither a number nor a name of passwd(5).
    #[error("this machine has no user \"{0}\": give a name of /etc/passwd, or a uid")]
    User(String),
    /// Not a name of an account.
    #[error("\"{account}\" is no service account: {reason}")]
    Account {
        /// What was given.
        account: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl RunUser {
    /// Anything that the host may run.
    #[must_use]
    pub fn unlimited(uid: u32) -> Self {
        Self {
            uid,
            accounts: None,
        }
    }

    /// Reads `USER[=ACCOUNT,..]`; names are those of `passwd`, the text of passwd(5).
    fn parse(text: &str, passwd: &str) -> Result<Self, RunUserError> {
        let (user, accounts) = match text.split_once('=') {
            Some((user, accounts)) => (user, Some(accounts)),
            None => (text, None),
        };
        let named = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let uid = (fields.next() == Some(user)).then(|| fields.nth(1))??;
            uid.parse().ok()
        });
        let uid = match user.parse() {
            Ok(uid) => uid,
            Err(_) => named.ok_or_else(|| RunUserError::User(user.into()))?,
        };
        let account = |text: &str| {
            text.parse::<DnsLabel>()
                .map_err(|error| RunUserError::Account {
                    account: text.into(),
                    reason: error.to_string(),
                })
        };
        let accounts = accounts.map(|list| list.split(',').map(account).collect());
        Ok(Self {
            uid,
            accounts: accounts.transpose()?,
        })
    }
}

impl FromStr for RunUser {
    type Err = RunUserError;

    fn from_str(text: &str) -> Result<Self, RunUserError> {
        Self::parse(
            text,
            &std::fs::read_to_string("/etc/passwd").unwrap_or_default(),
        )
    }
}

/// What one user may run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Whatever the host may.
    All,
    /// These accounts, and services of the same names.
    Accounts {
        uid: u32,
        accounts: BTreeSet<DnsLabel>,
    },
}

impl Allowed {
    /// What `uid` may run; `own` is the agent's user. `None`: nothing at all.
    pub(crate) fn of(uid: u32, own: u32, users: &[RunUser]) -> Option<Self> {
        if uid == 0 || uid == own {
            return Some(Self::All);
        }
        let mut theirs = users.iter().filter(|user| user.uid == uid).peekable();
        theirs.peek()?;
        let mut accounts = BTreeSet::new();
        for user in theirs {
            match &user.accounts {
                None => return Some(Self::All),
                Some(more) => accounts.extend(more.iter().cloned()),
            }
        }
        Some(Self::Accounts { uid, accounts })
    }

    /// Whether a program may ask for this service and account; empty texts ask for none.
    ///
    /// # Errors
    /// What is allowed, and how to allow more, for people.
    pub(crate) fn may_ask(&self, service: &str, account: &str) -> Result<(), String> {
        let wanted = [("service", service), ("service account", account)];
        wanted
            .into_iter()
            .filter(|(_, name)| !name.is_empty())
            .try_for_each(|(what, name)| self.may_be(what, name))
    }

    /// Whether a program may be what the control plane says it is.
    ///
    /// # Errors
    /// As [`Self::may_ask`].
    pub(crate) fn may_run_as(&self, identity: &Identity) -> Result<(), String> {
        self.may_be(
            "service account",
            identity.service_account().unwrap_or_default(),
        )
    }

    fn may_be(&self, what: &str, name: &str) -> Result<(), String> {
        let Self::Accounts { uid, accounts } = self else {
            return Ok(());
        };
        if accounts.iter().any(|known| known.as_str() == name) {
            return Ok(());
        }
        let list: Vec<&str> = accounts.iter().map(DnsLabel::as_str).collect();
        let list = list.join(",");
        Err(format!(
            "user {uid} may not run {what} {name} here, only {list}: start the agent with --allow-user {uid}={list},{name}"
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const PASSWD: &str =
        "root:x:0:0::/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\nbad:x:many:1::/:/bin/sh\n";

    #[test]
    fn a_user_is_named_or_numbered_and_has_all_accounts_or_some() {
        let ann = RunUser::parse("ann=cart,web", PASSWD).unwrap();
        let accounts = ["cart", "web"].map(|name| name.parse().unwrap());
        assert_eq!((ann.uid, ann.accounts), (1000, Some(accounts.into())));
        assert_eq!(RunUser::parse("ann", PASSWD), Ok(RunUser::unlimited(1000)));
        assert_eq!(RunUser::parse("4242", PASSWD), Ok(RunUser::unlimited(4242)));
        for (wrong, said) in [
            ("anna", "no user \"anna\""),
            ("bad", "no user \"bad\""),
            ("", "no user \"\""),
            ("-1", "no user \"-1\""),
            ("ann=", "\"\" is no service account"),
            ("ann=cart,", "\"\" is no service account"),
            ("ann=Cart", "\"Cart\" is no service account"),
        ] {
            let error = RunUser::parse(wrong, PASSWD).unwrap_err().to_string();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }

    #[test]
    fn what_is_not_named_is_not_allowed() {
        let users = ["1000=cart,web", "1000=pay", "1001", "1002=cart", "1002"]
            .map(|text| RunUser::parse(text, PASSWD).unwrap());
        let of = |uid| Allowed::of(uid, 77, &users);
        for uid in [0, 77, 1001, 1002] {
            assert_eq!(of(uid), Some(Allowed::All), "{uid}");
        }
        assert_eq!(of(1003), None);
        let ann = of(1000).unwrap();
        assert_eq!(ann.may_ask("cart", ""), Ok(()));
        assert_eq!(ann.may_ask("cart", "pay"), Ok(()));
        assert_eq!(ann.may_ask("", ""), Ok(()));
        assert!(
            ann.may_ask("orders", "cart")
                .unwrap_err()
                .contains("service orders")
        );
        assert!(
            ann.may_ask("cart", "orders")
                .unwrap_err()
                .contains("1000=cart,pay,web,orders")
        );
        let identity = |text: &str| text.parse::<Identity>().unwrap();
        assert_eq!(
            ann.may_run_as(&identity("spiffe://m.leno/ns/a/sa/web")),
            Ok(())
        );
        ann.may_run_as(&identity("spiffe://m.leno/ns/a/sa/default"))
            .unwrap_err();
        ann.may_run_as(&identity("spiffe://m.leno/leno/user/web"))
            .unwrap_err();
    }
}
