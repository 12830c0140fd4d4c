//! The query parameters of a request, parsed once. Unknown ones are left alone, as Kubernetes does; wrong ones are 400.

use std::time::Duration;

use axum::extract::Query;
use http::Uri;

use crate::{selector::Selector, status::ApiError};

/// What a list or watch starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Match {
    /// Not said.
    #[default]
    Unset,
    /// `resourceVersionMatch=NotOlderThan`
    NotOlderThan,
    /// `resourceVersionMatch=Exact`
    Exact,
}

/// What a row of a table carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    /// Nothing.
    None,
    /// The object's metadata.
    #[default]
    Metadata,
    /// The object.
    Object,
}

/// What becomes of fields that there are not, and of those that stand twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Validation {
    /// The write is refused; also where nothing is said, because a field that is ignored is a promise that is broken.
    #[default]
    Strict,
    /// They are left out, and named.
    Warn,
    /// They are left out.
    Ignore,
}

/// The parameters Leno knows.
#[derive(Debug, Default)]
pub(crate) struct Parameters {
    pub(crate) watch: bool,
    /// `None`: not said. Zero means "any".
    pub(crate) resource_version: Option<u64>,
    pub(crate) resource_version_match: Match,
    pub(crate) allow_bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) limit: Option<usize>,
    pub(crate) continue_from: Option<Continue>,
    pub(crate) selector: Selector,
    pub(crate) include: Include,
    pub(crate) dry_run: bool,
    pub(crate) validation: Validation,
}

/// Where the next page of a list begins: after this object, in the state of that revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Continue {
    pub(crate) revision: u64,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Continue {
    /// As text. A `_` is in no name.
    pub(crate) fn to_text(&self) -> String {
        format!("{}_{}_{}", self.revision, self.namespace, self.name)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '_');
        Some(Self {
            revision: parts.next()?.parse().ok()?,
            namespace: parts.next()?.into(),
            name: parts.next()?.into(),
        })
    }
}

impl Parameters {
    /// Reads the query of a request.
    pub(crate) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| ApiError::bad_request(format!("the query cannot be read: {error}")))?;
        let mut parameters = Self::default();
        for (name, value) in &pairs {
            parameters.set(name, value)?;
        }
        parameters.check()?;
        Ok(parameters)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), ApiError> {
        let wrong = |what: &str| {
            let value: String = value.chars().take(100).collect();
            ApiError::bad_request(format!("{name}=\"{value}\": {what}"))
        };
        let boolean = || match value {
            "" | "1" | "true" | "True" | "TRUE" | "t" | "T" => Ok(true),
            "0" | "false" | "False" | "FALSE" | "f" | "F" => Ok(false),
            _ => Err(wrong("use true or false")),
        };
        match name {
            "watch" => self.watch = boolean()?,
            "propagationPolicy" => crate::write::propagation(value)?,
            "allowWatchBookmarks" => self.allow_bookmarks = boolean()?,
            "sendInitialEvents" => self.send_initial_events = Some(boolean()?),
            "resourceVersion" if value.is_empty() => {}
            "resourceVersion" => {
                let version = value
                    .parse()
                    .map_err(|_| wrong("use a version that this server gave"))?;
                self.resource_version = Some(version);
            }
            "resourceVersionMatch" => {
                self.resource_version_match = match value {
                    "" => Match::Unset,
                    "NotOlderThan" => Match::NotOlderThan,
                    "Exact" => Match::Exact,
                    _ => return Err(wrong("use NotOlderThan or Exact")),
                }
            }
            "timeoutSeconds" => {
                let seconds: u32 = value.parse().map_err(|_| wrong("use seconds"))?;
                self.timeout = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
            }
            "limit" => {
                let limit: usize = value.parse().map_err(|_| wrong("use a number"))?;
                self.limit = (limit > 0).then_some(limit);
            }
            "continue" if value.is_empty() => {}
            "continue" => {
                let token = Continue::parse(value)
                    .ok_or_else(|| wrong("use a token that this server gave"))?;
                self.continue_from = Some(token);
            }
            "labelSelector" => self
                .selector
                .add_labels(value)
                .map_err(|error| wrong(&error))?,
            "fieldSelector" => self
                .selector
                .add_fields(value)
                .map_err(|error| wrong(&error))?,
            "includeObject" => {
                self.include = match value {
                    "" | "Metadata" => Include::Metadata,
                    "None" => Include::None,
                    "Object" => Include::Object,
                    _ => return Err(wrong("use None, Metadata or Object")),
                }
            }
            "dryRun" => match value {
                "" => {}
                "All" => self.dry_run = true,
                _ => return Err(wrong("use All")),
            },
            "fieldValidation" => {
                self.validation = match value {
                    "" | "Strict" => Validation::Strict,
                    "Warn" => Validation::Warn,
                    "Ignore" => Validation::Ignore,
                    _ => return Err(wrong("use Strict, Warn or Ignore")),
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ApiError> {
        let version = self.resource_version.is_some();
        if self.continue_from.is_some() && version {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        if self.watch && (self.limit.is_some() && self.continue_from.is_some()) {
            return Err(ApiError::bad_request("continue is not allowed with watch"));
        }
        if self.send_initial_events.is_some() && !self.watch {
            return Err(ApiError::bad_request(
                "sendInitialEvents is forbidden for list",
            ));
        }
        match self.resource_version_match {
            Match::Unset if self.send_initial_events.is_some() => Err(ApiError::bad_request(
                "sendInitialEvents requires resourceVersionMatch=NotOlderThan",
            )),
            Match::Exact if self.watch => Err(ApiError::bad_request(
                "resourceVersionMatch=Exact is forbidden for watch",
            )),
            Match::NotOlderThan if self.watch && self.send_initial_events.is_none() => {
                Err(ApiError::bad_request(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ))
            }
            Match::NotOlderThan | Match::Exact if !version && !self.watch => {
                Err(ApiError::bad_request(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ))
            }
            Match::Exact if self.resource_version == Some(0) => Err(ApiError::bad_request(
                "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
            )),
            _ => Ok(()),
        }
    }
}
