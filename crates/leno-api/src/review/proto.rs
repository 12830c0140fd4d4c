//! A review in Kubernetes' protobuf, which current clients send where they can: read into what it is as JSON.
//!
//! Only reviews come in this form; bodies of objects are refused (415). Field numbers are those of
//! `k8s.io/api/authorization/v1/generated.proto` and of `runtime.Unknown`, in which the message stands after four bytes.
//! Invariant: a field is read within its message, so nothing that is claimed is believed beyond what was sent.

use serde_json::{Map, Value, json};

use crate::target::Review;

/// How such bodies begin.
const MAGIC: &[u8] = b"k8s\0";
/// `runtime.Unknown.raw`
const RAW: u64 = 2;
/// `spec` of a review.
const SPEC: u64 = 2;

/// The review; `None` when the bytes are none.
pub(super) fn review(review: Review, bytes: &[u8]) -> Option<Value> {
    let unknown = bytes.strip_prefix(MAGIC)?;
    let raw = messages(unknown)?
        .into_iter()
        .find(|(field, _)| *field == RAW)?
        .1;
    let mut spec = Map::new();
    let specs = messages(raw)?
        .into_iter()
        .filter(|(field, _)| *field == SPEC);
    for (field, value) in specs
        .map(|(_, spec)| messages(spec))
        .collect::<Option<Vec<_>>>()?
        .concat()
    {
        match (review, field) {
            (Review::Rules, 1) => {
                spec.insert("namespace".into(), text(value)?.into());
            }
            (Review::Access, 1) => {
                let names = [
                    "namespace",
                    "verb",
                    "group",
                    "version",
                    "resource",
                    "subresource",
                    "name",
                ];
                spec.insert("resourceAttributes".into(), attributes(value, &names)?);
            }
            (Review::Access, 2) => {
                spec.insert(
                    "nonResourceAttributes".into(),
                    attributes(value, &["path", "verb"])?,
                );
            }
            _ => {}
        }
    }
    Some(json!({"spec": spec}))
}

fn text(value: &[u8]) -> Option<String> {
    std::str::from_utf8(value).ok().map(Into::into)
}

/// A message of texts, by their names.
fn attributes(message: &[u8], names: &[&str]) -> Option<Value> {
    let mut map = Map::new();
    for (field, value) in messages(message)? {
        let index = usize::try_from(field).ok()?.checked_sub(1)?;
        if let Some(name) = names.get(index) {
            map.insert((*name).into(), text(value)?.into());
        }
    }
    Some(map.into())
}

/// The fields of a message that have a length; numbers are passed over.
fn messages(mut bytes: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut list = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        match key & 7 {
            0 => drop(varint(&mut bytes)?),
            1 => bytes = bytes.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                list.push((key >> 3, value));
                bytes = rest;
            }
            5 => bytes = bytes.get(4..)?,
            _ => return None,
        }
    }
    Some(list)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        let length = u8::try_from(value.len()).unwrap();
        [&[number << 3 | 2, length][..], value].concat()
    }

    fn body(spec: &[u8]) -> Vec<u8> {
        let review = [field(1, b""), field(2, spec)].concat();
        [MAGIC.to_vec(), field(1, b"types"), field(2, &review)].concat()
    }

    #[test]
    fn a_review_is_read_as_it_is_in_json() {
        let attributes = [field(1, b"shop"), field(2, b"list"), field(5, b"services")].concat();
        assert_eq!(
            review(Review::Access, &body(&field(1, &attributes))).unwrap(),
            json!({"spec": {"resourceAttributes":
                {"namespace": "shop", "verb": "list", "resource": "services"}}})
        );
        let path = [field(1, b"/version"), field(2, b"get")].concat();
        assert_eq!(
            review(Review::Access, &body(&field(2, &path))).unwrap(),
            json!({"spec": {"nonResourceAttributes": {"path": "/version", "verb": "get"}}})
        );
        assert_eq!(
            review(Review::Rules, &body(&field(1, b"shop"))).unwrap(),
            json!({"spec": {"namespace": "shop"}})
        );
    }

    #[test]
    fn what_is_cut_off_or_claims_more_is_none() {
        let whole = body(&field(1, &field(1, b"shop")));
        for end in 0..whole.len() {
            // A message may end between two fields; nothing may be made up.
            if let Some(value) = review(Review::Access, &whole[..end]) {
                assert_eq!(value, json!({"spec": {}}), "{end}");
            }
        }
        assert_eq!(
            review(
                Review::Access,
                b"k8s\0\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
            ),
            None
        );
        assert_eq!(review(Review::Access, b"{}"), None);
    }
}
