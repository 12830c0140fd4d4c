//! Header fields as they came: in order, with their case and their duplicates.
//!
//! Invariant of a parsed list: every name is a token and every value has no CR, LF or NUL (RFC 9110 5.1, 5.5).
//! [`Fields::push`] keeps that for what we add ourselves by refusing anything else.

use bytes::Bytes;

/// An ordered list of header or trailer fields; names compare without regard to ASCII case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    list: Vec<(Bytes, Bytes)>,
}

impl Fields {
    /// No fields.
    #[must_use]
    pub const fn new() -> Self {
        Self { list: Vec::new() }
    }

    /// No fields, with room for `count`.
    #[must_use]
    pub fn with_capacity(count: usize) -> Self {
        Self {
            list: Vec::with_capacity(count),
        }
    }

    /// Appends a field. One that is no legal name or value is dropped and `false` returned: what is written on a
    /// connection can never carry a second message (CR, LF).
    pub fn push(&mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) -> bool {
        let (name, value) = (name.into(), value.into());
        let legal = is_token(&name) && is_value(&value);
        if legal {
            self.list.push((name, value));
        }
        legal
    }

    /// Appends what a parser has already found legal.
    pub(crate) fn push_parsed(&mut self, name: Bytes, value: Bytes) {
        self.list.push((name, value));
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.list
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// The values of every field of this name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> {
        self.list
            .iter()
            .filter(move |(own, _)| own.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Whether a field of this name is there.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Removes every field of this name; says how many there were.
    pub fn remove(&mut self, name: &str) -> usize {
        let before = self.list.len();
        self.list
            .retain(|(own, _)| !own.eq_ignore_ascii_case(name.as_bytes()));
        before - self.list.len()
    }

    /// Replaces every field of this name by one, at the place of the first; appends it when there was none.
    /// An illegal name or value changes nothing and returns `false`.
    pub fn set(&mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) -> bool {
        let (name, value) = (name.into(), value.into());
        if !is_token(&name) || !is_value(&value) {
            return false;
        }
        let mut new = Some(value);
        self.list.retain_mut(|(own, old)| {
            if !own.eq_ignore_ascii_case(&name) {
                return true;
            }
            match new.take() {
                Some(value) => {
                    *old = value;
                    true
                }
                None => false,
            }
        });
        if let Some(value) = new {
            self.list.push((name, value));
        }
        true
    }

    /// Keeps the fields for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        self.list.retain(|(name, value)| keep(name, value));
    }

    /// Every field in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.list.iter().map(|(name, value)| (name, value))
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

/// RFC 9110 5.6.2.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, |byte| TCHAR[usize::from(byte)])
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
    all(bytes, is_value_byte)
}

/// One byte of a field's value.
pub(crate) const fn is_value_byte(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

#[cfg(test)]
mod tests;
