//! Header fields as they came: in order, with their case and their duplicates.
//!
//! Invariant of a parsed list: every name is a token and every value has no CR, LF or NUL (RFC 9110 5.1, 5.5).
//! [`Fields::push`] keeps that for what we add ourselves by refusing anything else.

use std::fmt;

use bytes::Bytes;

/// Room that is made at once, for most heads.
const FIELDS: usize = 16;
/// The same in bytes, for what is added to one.
const ADDED: usize = 256;

/// An ordered list of header or trailer fields; names compare without regard to ASCII case.
///
/// Slices of one head as it was received and of what was added since: to read, keep and drop a field costs no count
/// of references, which each field of its own would.
#[derive(Clone, Default)]
pub struct Fields {
    /// As it was received.
    head: Bytes,
    /// What was added.
    added: Vec<u8>,
    list: Vec<Field>,
}

#[derive(Clone, Copy)]
struct Field {
    name: Span,
    value: Span,
}

/// Where bytes are: what was added is counted on from the end of the head.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn new(start: usize, length: usize) -> Self {
        // Heads are bounded by `Limits::head_bytes`.
        let offset = |offset| u32::try_from(offset).unwrap_or(u32::MAX);
        Self {
            start: offset(start),
            end: offset(start + length),
        }
    }

    fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

impl Fields {
    /// No fields.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            head: Bytes::new(),
            added: Vec::new(),
            list: Vec::new(),
        }
    }

    /// No fields, with room for `count` of `bytes` together.
    pub(crate) fn with_capacity(count: usize, bytes: usize) -> Self {
        Self {
            head: Bytes::new(),
            added: Vec::with_capacity(bytes),
            list: Vec::with_capacity(count),
        }
    }

    /// No fields yet, of a head that was received.
    pub(crate) fn of(head: &Bytes) -> Self {
        Self {
            head: head.clone(),
            ..Self::new()
        }
    }

    /// Appends a field. One that is no legal name or value is dropped and `false` returned: what is written on a
    /// connection can never carry a second message (CR, LF).
    pub fn push(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> bool {
        let (name, value) = (name.as_ref(), value.as_ref());
        let legal = is_token(name) && is_value(value);
        if legal {
            self.push_legal(name, &[value]);
        }
        legal
    }

    /// Appends what was found legal already, the value in pieces.
    pub(crate) fn push_legal(&mut self, name: &[u8], value: &[&[u8]]) {
        if self.added.capacity() == 0 {
            self.added.reserve(ADDED);
            self.list.reserve(FIELDS);
        }
        let start = self.head.len() + self.added.len();
        self.added.extend_from_slice(name);
        value
            .iter()
            .for_each(|piece| self.added.extend_from_slice(piece));
        let name = Span::new(start, name.len());
        let end = self.head.len() + self.added.len();
        let value = Span::new(name.end as usize, end - name.end as usize);
        self.list.push(Field { name, value });
    }

    /// Appends slices of the head that a parser has found legal.
    pub(crate) fn push_parsed(&mut self, name: &[u8], value: &[u8]) {
        if self.list.is_empty() {
            self.list.reserve(FIELDS);
        }
        let of = |part: &[u8]| Span::new(place_of(&self.head, part).unwrap_or(0), part.len());
        self.list.push(Field {
            name: of(name),
            value: of(value),
        });
    }

    fn bytes(&self, span: Span) -> &[u8] {
        let (start, end) = (span.start as usize, span.end as usize);
        let found = match start.checked_sub(self.head.len()) {
            None => self.head.get(start..end),
            Some(start) => self.added.get(start..end - self.head.len()),
        };
        found.unwrap_or_default()
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let is = |field: &&Field| {
            field.name.len() == name.len()
                && self.bytes(field.name).eq_ignore_ascii_case(name.as_bytes())
        };
        let found = self.list.iter().find(is)?;
        Some(self.bytes(found.value))
    }

    /// The same to be kept: without a copy where it was received.
    #[must_use]
    pub fn get_shared(&self, name: &str) -> Option<Bytes> {
        self.get(name).map(|value| self.share(value))
    }

    /// A part of these fields to be kept.
    pub(crate) fn share(&self, part: &[u8]) -> Bytes {
        match place_of(&self.head, part) {
            Some(start) => self.head.slice(start..start + part.len()),
            None => Bytes::copy_from_slice(part),
        }
    }

    /// Whether a field of this name is there.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Removes every field of this name; says how many there were.
    pub fn remove(&mut self, name: &str) -> usize {
        let before = self.len();
        self.retain(|own, _| !own.eq_ignore_ascii_case(name.as_bytes()));
        before - self.len()
    }

    /// Keeps the fields for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let mut list = std::mem::take(&mut self.list);
        list.retain(|field| keep(self.bytes(field.name), self.bytes(field.value)));
        self.list = list;
    }

    /// Every field in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.list
            .iter()
            .map(|field| (self.bytes(field.name), self.bytes(field.value)))
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fields {}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |(name, value): (&[u8], &[u8])| {
            let (name, value) = (name.escape_ascii(), value.escape_ascii());
            (name.to_string(), value.to_string())
        };
        f.debug_map().entries(self.iter().map(text)).finish()
    }
}

/// Where `part` is within `whole`, if it is a part of it.
fn place_of(whole: &[u8], part: &[u8]) -> Option<usize> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    (start + part.len() <= whole.len()).then_some(start)
}

/// RFC 9110 5.6.2.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, |byte| TCHAR[usize::from(byte)])
}

/// How many bytes from the start could be a token.
pub(crate) fn token_length(bytes: &[u8]) -> usize {
    let end = bytes.iter().position(|byte| !TCHAR[usize::from(*byte)]);
    end.unwrap_or(bytes.len())
}

/// Whether every byte is `legal`. Looks at all of them whatever it finds: without an early end it takes many at once,
/// and what is read is legal nearly always.
fn all(bytes: &[u8], legal: impl Fn(u8) -> bool) -> bool {
    bytes
        .iter()
        .fold(true, |so_far, byte| so_far & legal(*byte))
}

/// [`is_tchar`] of every byte there is.
const TCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = is_tchar(byte);
        byte += 1;
    }
    table
};

/// RFC 9110 5.6.2, one character of a token.
pub(crate) const fn is_tchar(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*'
        | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// RFC 9110 7.8: what Upgrade and `:protocol` may name, a token with or without a version.
pub(crate) fn is_protocol(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_tchar(*byte) || *byte == b'/')
}

/// RFC 9110 5.5: visible characters, space, tab and obs-text.
pub(crate) fn is_value(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let plain = words
        .iter()
        .fold(true, |plain, word| plain & !has_control(*word));
    (plain || all(words.as_flattened(), is_value_byte)) && all(rest, is_value_byte)
}

/// Whether one of eight bytes is below a space, or DEL.
fn has_control(bytes: [u8; 8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let word = u64::from_ne_bytes(bytes);
    let del = word ^ (ONES * 0x7f);
    let below = word.wrapping_sub(ONES * 0x20) & !word;
    (below | (del.wrapping_sub(ONES) & !del)) & HIGH != 0
}

/// One byte of a field's value.
pub(crate) const fn is_value_byte(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

#[cfg(test)]
mod tests;
