//! Keeps the case of HTTP/1 field names over an HTTP/2 hop, where names are lower case (RFC 9113 8.2.1).
//!
//! Names are written `Title-Case` after an HTTP/2 hop, with the few customary exceptions of [`irregular_of`]. A head in
//! which that would change a name says so in [`CASE_FIELD`]: an optional leading `-` (lower case is the rule here),
//! then the names that follow neither, one for every occurrence, the last standing for all that follow. Fields of the
//! mesh's own do not count: no application sees them.

use bytes::{BufMut, Bytes, BytesMut};

use crate::Fields;

/// The private field that carries the case of HTTP/1 field names over an HTTP/2 hop. Whoever owns a connection to an
/// application strips it from what comes from there.
pub const CASE_FIELD: &str = "x-leno-case";

/// How the names of the mesh's own fields begin.
const PRIVATE: &[u8] = b"x-leno-";

/// More than this is not carried: names are case-insensitive, nobody needs it.
const MAX: usize = 2 * 1024;

/// Names that are customarily not in Title-Case, of so many bytes.
const fn irregular_of(length: usize) -> &'static [&'static str] {
    match length {
        2 => &["TE", "b3"],
        3 => &["DNT"],
        4 => &["ETag"],
        // W3C Trace Context 3.2.1: senders should use lower case.
        7 => &["baggage"],
        10 => &["tracestate"],
        11 => &["traceparent"],
        16 => &["WWW-Authenticate", "X-XSS-Protection"],
        17 => &["Sec-WebSocket-Key"],
        20 => &["Sec-WebSocket-Accept"],
        21 => &["Sec-WebSocket-Version"],
        22 => &["Sec-WebSocket-Protocol"],
        _ => &[],
    }
}

/// The field's value for an HTTP/1 head; `None` for the usual head, which is as it will be restored anyway.
pub(crate) fn describe(fields: &Fields) -> Option<Bytes> {
    if names(fields).all(is_title) {
        return None;
    }
    let mut odd = 0_usize;
    let mut lower = 0_usize;
    let mut title = 0_usize;
    for name in names(fields) {
        match (is_lower(name), is_title(name)) {
            (true, true) => {}
            (true, false) => lower += 1,
            (false, true) => title += 1,
            (false, false) => odd += 1,
        }
    }
    if odd == 0 && lower == 0 {
        return None;
    }
    let lower_rules = lower > title;
    let regular = |name: &[u8]| {
        if lower_rules {
            is_lower(name)
        } else {
            is_title(name)
        }
    };
    let mut value = BytesMut::new();
    if lower_rules {
        value.put_u8(b'-');
    }
    let mut named: Vec<&[u8]> = Vec::new();
    for name in names(fields) {
        if regular(name) || named.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            continue;
        }
        named.push(name);
        let mut same: Vec<&[u8]> = fields
            .iter()
            .map(|(other, _)| other)
            .filter(|other| other.eq_ignore_ascii_case(name))
            .collect();
        while let [.., before, last] = same.as_slice()
            && before == last
        {
            same.pop();
        }
        for occurrence in same {
            if !value.is_empty() {
                value.put_u8(b',');
            }
            value.put_slice(occurrence);
        }
        if value.len() > MAX {
            return None;
        }
    }
    Some(value.freeze())
}

/// The names of which an application sees the case.
fn names(fields: &Fields) -> impl Iterator<Item = &[u8]> {
    let is_private = |name: &[u8]| {
        let start = name.get(..PRIVATE.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(PRIVATE))
    };
    let all = fields.iter().map(|(name, _)| name);
    all.filter(move |name| !is_private(name))
}

/// Gives the names of a head that came over HTTP/2 their HTTP/1 case.
#[derive(Debug, Default)]
pub(crate) struct Restore<'v> {
    lower: bool,
    /// Lower-case name to be matched, as it is to be written; used ones are emptied except the last of a name.
    names: Vec<&'v [u8]>,
}

impl<'v> Restore<'v> {
    /// Reads the field's value, which a peer wrote: what is no token list is ignored.
    pub(crate) fn new(value: Option<&'v [u8]>) -> Self {
        let Some(value) = value.filter(|value| value.len() <= MAX) else {
            return Self::default();
        };
        let (lower, list) = match value.strip_prefix(b"-") {
            Some(list) => (true, list),
            None => (false, value),
        };
        let names = list
            .split(|byte| *byte == b',')
            .filter(|name| crate::fields::is_token(name))
            .collect();
        Self { lower, names }
    }

    /// Writes `name` in its case.
    pub(crate) fn write(&mut self, name: &[u8], out: &mut BytesMut) {
        let mut matching = self
            .names
            .iter_mut()
            .filter(|own| own.eq_ignore_ascii_case(name));
        if let Some(first) = matching.next() {
            out.put_slice(first);
            if matching.next().is_some() {
                *first = b"";
            }
            return;
        }
        if self.lower {
            return out.put_slice(name);
        }
        write_title(name, out);
    }
}

fn irregular(name: &[u8]) -> Option<&'static str> {
    let mut those = irregular_of(name.len()).iter().copied();
    those.find(|own| own.as_bytes().eq_ignore_ascii_case(name))
}

fn write_title(name: &[u8], out: &mut BytesMut) {
    if let Some(own) = irregular(name) {
        return out.put_slice(own.as_bytes());
    }
    let begun = out.len();
    out.put_slice(name);
    let mut start = true;
    // The rest is lower case: it came over HTTP/2.
    for byte in out.get_mut(begun..).unwrap_or_default() {
        if start {
            byte.make_ascii_uppercase();
        }
        start = *byte == b'-';
    }
}

fn is_lower(name: &[u8]) -> bool {
    !name.iter().any(u8::is_ascii_uppercase)
}

fn is_title(name: &[u8]) -> bool {
    if let Some(own) = irregular(name) {
        return own.as_bytes() == name;
    }
    // Looks at every byte whatever it finds: nearly every name is as it should be, and branches cost more.
    let mut before = b'-';
    name.iter().fold(true, |so_far, byte| {
        let is_small = byte & 0x20 != 0;
        let is_first = std::mem::replace(&mut before, *byte) == b'-';
        so_far & !(byte.is_ascii_alphabetic() & (is_small == is_first))
    })
}

#[cfg(test)]
mod tests;
