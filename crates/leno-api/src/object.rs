//! Objects as JSON: the system's part of `metadata`, and small readers.

use std::{sync::Arc, time::SystemTime};

use leno_config::{Kind, PROVENANCE};
use leno_store::Entry;
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::status::ApiError;

/// An object on its way to a caller: parsed only when it is needed.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// As it is stored.
    Stored(Entry),
    /// As it was derived, its `resourceVersion` set.
    Derived(Arc<Value>),
}

impl Body {
    /// What a reader holds of it: a derived one is its collection's.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Stored(entry) => entry.value.len(),
            Self::Derived(_) => 0,
        }
    }

    /// The object with its `resourceVersion`.
    pub(crate) fn to_value(&self) -> Result<Value, ApiError> {
        match self {
            Self::Stored(entry) => {
                let mut value = stored(entry)?;
                set_revision(&mut value, entry.revision);
                Ok(value)
            }
            Self::Derived(value) => Ok(Value::clone(value)),
        }
    }
}

/// An object of a collection.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) body: Body,
}

/// What the store holds, parsed: without `resourceVersion`.
pub(crate) fn stored(entry: &Entry) -> Result<Value, ApiError> {
    serde_json::from_slice(&entry.value).map_err(|error| {
        ApiError::internal(format!("{} in the store is no object: {error}", entry.key))
    })
}

/// The object's `metadata`, made if there is none.
pub(crate) fn metadata(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object
        .as_object_mut()?
        .entry("metadata")
        .or_insert_with(|| json!({}))
        .as_object_mut()
}

pub(crate) fn set_revision(object: &mut Value, revision: u64) {
    if let Some(metadata) = metadata(object) {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
}

/// A text of `metadata`.
pub(crate) fn meta_text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Takes away what is the system's to say, or is computed when read.
pub(crate) fn strip(object: &mut Value) {
    if let Some(object) = object.as_object_mut() {
        object.shift_remove("status");
    }
    let Some(metadata) = metadata(object) else {
        return;
    };
    for field in [
        "resourceVersion",
        "uid",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
        "generateName",
    ] {
        metadata.shift_remove(field);
    }
}

/// Whether anything but `metadata` differs: what `generation` counts.
pub(crate) fn spec_differs(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
        return true;
    };
    let spec = |object: &Map<String, Value>| {
        let mut object = object.clone();
        object.shift_remove("metadata");
        object
    };
    spec(a) != spec(b)
}

/// Takes away what was said of where another `spec` was written. Whoever writes by hand (`kubectl edit`, `leno edit`, a
/// patch) hands the old annotations on with a new `spec`, of which they are not true.
pub(crate) fn forget_provenance(old: &Value, new: &mut Value) {
    if !spec_differs(old, new) {
        return;
    }
    let said = old.pointer("/metadata/annotations");
    let Some(annotations) = new.pointer_mut("/metadata/annotations") else {
        return;
    };
    let Some(annotations) = annotations.as_object_mut() else {
        return;
    };
    for name in PROVENANCE {
        let before = said.and_then(|said| said.get(name));
        if before.is_some() && annotations.get(name) == before {
            annotations.shift_remove(name);
        }
    }
    if annotations.is_empty()
        && let Some(metadata) = metadata(new)
    {
        metadata.shift_remove("annotations");
    }
}

/// RFC 3339 in UTC with whole seconds.
pub(crate) fn timestamp(now: SystemTime) -> String {
    let now = OffsetDateTime::from(now);
    now.replace_nanosecond(0)
        .unwrap_or(now)
        .format(&Rfc3339)
        .unwrap_or_default()
}

/// How long ago an RFC 3339 time was, as kubectl writes it: two units at most, fewer the longer it is.
pub(crate) fn age(since: &str, now: SystemTime) -> String {
    let Ok(since) = OffsetDateTime::parse(since, &Rfc3339) else {
        return "<unknown>".into();
    };
    let seconds = (OffsetDateTime::from(now) - since).whole_seconds().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let two = |first: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 {
            format!("{first}{unit}")
        } else {
            format!("{first}{unit}{rest}{small}")
        }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// A version 4 UUID (RFC 9562 5.4) of these random bits.
pub(crate) fn uuid(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    let mut text = String::with_capacity(36);
    for (index, digit) in hex.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

/// Five letters and digits for `generateName`, those Kubernetes uses: no vowels, so no words.
pub(crate) fn suffix(random: u128) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = random;
    (0..5)
        .filter_map(|_| {
            let index = usize::try_from(rest % 27).ok()?;
            rest /= 27;
            ALPHABET.get(index).map(|byte| char::from(*byte))
        })
        .collect()
}

/// The kind's list: `ServiceList`.
pub(crate) fn list_kind(kind: Kind) -> String {
    format!("{}List", kind.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let since = timestamp(start);
        assert_eq!(since, "2023-11-14T22:13:20Z");
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (40_000, "11h"),
            (180_000, "2d2h"),
            (700_000, "8d"),
            (70_000_000, "2y80d"),
            (300_000_000, "9y"),
        ] {
            assert_eq!(age(&since, start + Duration::from_secs(seconds)), text);
        }
        assert_eq!(
            age(&since, SystemTime::UNIX_EPOCH),
            "0s",
            "a clock that went back"
        );
        assert_eq!(age("yesterday", start), "<unknown>");
    }

    #[test]
    fn ids_are_version_4_uuids_and_suffixes_are_names() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(suffix(0), "bbbbb");
        assert_eq!(suffix(u128::MAX).len(), 5);
    }
}
