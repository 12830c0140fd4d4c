//! The join token: what a new host needs to trust its control plane and to be let in, as one line of text.
//!
//! `leno_jt1_` + base62 of the fields + six check digits (CRC-32, so that secret scanners and typing errors are told
//! apart from a wrong token before anything is sent). It carries where the control plane is, pins of the CA's public
//! keys, an id, a 256-bit secret and an end. The scope is not in it: the server keeps that.
//! Invariant: whatever `parse` accepts, `encode` writes back the same.

use std::{fmt, str::FromStr};

use crate::{HostPort, HostPortError, MeshName, NameError};

const PREFIX: &str = "leno_jt1_";
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const CHECK_DIGITS: usize = 6;
/// Longest token text that is looked at.
const MAX_TEXT: usize = 2048;
const MAX_ADDRESSES: usize = 16;
const MAX_PINS: usize = 4;

/// A join token. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Which token it is; no secret.
    pub id: String,
    /// Proves that its bearer was given it. Sent only after a pin matched.
    pub secret: [u8; 32],
    /// The mesh it lets into.
    pub mesh: MeshName,
    /// Where the control plane listens, best first.
    pub addresses: Vec<HostPort>,
    /// Pins of the CA's public keys, as leno-tls writes them.
    pub pins: Vec<String>,
    /// When it ends, seconds since 1970.
    pub expires: u64,
}

/// Why a text is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// Another beginning, or absurd length.
    #[error("this is no join token: one begins with leno_jt1_ (leno token create makes one)")]
    Shape,
    /// A later version's token.
    #[error("this join token was made by a later version of Leno: update this host's")]
    Newer,
    /// The check digits do not match.
    #[error(
        "the join token is altered or incomplete: copy all of it, or make another with leno token create"
    )]
    Altered,
    /// The check digits match and a field is still wrong.
    #[error("the join token's {0} cannot be read: make another with leno token create")]
    Field(&'static str),
}

/// How names end by which hosts that join call a control plane. No trust domain ends so.
pub const JOINING_SUFFIX: &str = ".mesh.leno";

/// The name by which hosts that join a mesh call its control plane.
#[must_use]
pub fn joining_name(mesh: &MeshName) -> String {
    format!("{mesh}{JOINING_SUFFIX}")
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .field("mesh", &self.mesh)
            .field("addresses", &self.addresses)
            .field("pins", &self.pins)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl JoinToken {
    /// The name by which the control plane is called (SNI) by who has nothing but this token: it serves several meshes,
    /// with a certificate for each.
    #[must_use]
    pub fn server_name(&self) -> String {
        joining_name(&self.mesh)
    }

    /// The token as one line. Texts longer than 255 bytes, and more than 255 of anything, are cut.
    #[must_use]
    pub fn encode(&self) -> String {
        // The leading one keeps leading zeros through the change of base.
        let mut bytes = vec![1];
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.expires.to_be_bytes());
        put_text(&mut bytes, &self.id);
        put_text(&mut bytes, self.mesh.as_str());
        put_list(&mut bytes, self.pins.iter().map(String::as_str));
        let addresses: Vec<String> = self.addresses.iter().map(HostPort::to_string).collect();
        put_list(&mut bytes, addresses.iter().map(String::as_str));
        let text = format!("{PREFIX}{}", to_base62(&bytes));
        let check = check_digits(&text);
        text + &check
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let text = text.trim();
        if text.len() > MAX_TEXT || !text.is_ascii() {
            return Err(JoinTokenError::Shape);
        }
        if !text.starts_with(PREFIX) {
            let later = text.strip_prefix("leno_jt").is_some_and(|rest| {
                rest.starts_with(|c: char| c.is_ascii_digit()) && rest.contains('_')
            });
            return Err(if later {
                JoinTokenError::Newer
            } else {
                JoinTokenError::Shape
            });
        }
        let split = text.len().saturating_sub(CHECK_DIGITS);
        let (signed, check) = text
            .split_at_checked(split)
            .ok_or(JoinTokenError::Altered)?;
        let digits = signed.strip_prefix(PREFIX).ok_or(JoinTokenError::Altered)?;
        if check_digits(signed) != check {
            return Err(JoinTokenError::Altered);
        }
        let bytes = from_base62(digits).ok_or(JoinTokenError::Altered)?;
        let token = read(&bytes)?;
        // One token, one text: what would be written otherwise was not written by us.
        if token.encode() == text {
            Ok(token)
        } else {
            Err(JoinTokenError::Field("form"))
        }
    }
}

fn read(bytes: &[u8]) -> Result<JoinToken, JoinTokenError> {
    let error = JoinTokenError::Field;
    let rest = bytes.strip_prefix(&[1]).ok_or(error("beginning"))?;
    let (secret, rest) = rest.split_first_chunk::<32>().ok_or(error("secret"))?;
    let (expires, rest) = rest.split_first_chunk::<8>().ok_or(error("end"))?;
    let (id, rest) = take_text(rest).ok_or(error("id"))?;
    let (mesh, rest) = take_text(rest).ok_or(error("mesh"))?;
    let (pins, rest) = take_list(rest, MAX_PINS).ok_or(error("pins"))?;
    let (addresses, rest) = take_list(rest, MAX_ADDRESSES).ok_or(error("addresses"))?;
    if !rest.is_empty() {
        return Err(error("end"));
    }
    Ok(JoinToken {
        id,
        secret: *secret,
        mesh: mesh.parse().map_err(|_: NameError| error("mesh"))?,
        addresses: addresses
            .iter()
            .map(|text| text.parse().map_err(|_: HostPortError| error("addresses")))
            .collect::<Result<_, _>>()?,
        pins,
        expires: u64::from_be_bytes(*expires),
    })
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let cut = text.floor_char_boundary(255);
    let text = text.get(..cut).unwrap_or_default();
    bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(text.as_bytes());
}

fn put_list<'a>(bytes: &mut Vec<u8>, list: impl ExactSizeIterator<Item = &'a str>) {
    let count = u8::try_from(list.len()).unwrap_or(u8::MAX);
    bytes.push(count);
    list.take(usize::from(count))
        .for_each(|text| put_text(bytes, text));
}

fn take_text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(text).ok()?.to_owned(), rest))
}

fn take_list(bytes: &[u8], most: usize) -> Option<(Vec<String>, &[u8])> {
    let (count, mut rest) = bytes.split_first()?;
    let count = usize::from(*count);
    if count > most {
        return None;
    }
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        let (text, tail) = take_text(rest)?;
        list.push(text);
        rest = tail;
    }
    Some((list, rest))
}

/// CRC-32 (ISO 3309) of what stands before, as six digits of base 62, most significant first.
fn check_digits(text: &str) -> String {
    let mut crc = u32::MAX;
    for byte in text.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let mut value = !crc;
    let mut digits = [0_u8; CHECK_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = digit_of(value % 62);
        value /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

fn digit_of(value: u32) -> u8 {
    usize::try_from(value)
        .ok()
        .and_then(|index| DIGITS.get(index))
        .copied()
        .unwrap_or(b'0')
}

fn to_base62(bytes: &[u8]) -> String {
    // Little-endian digits of the big number; quadratic, and a token is short.
    let mut digits: Vec<u8> = Vec::new();
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += u32::from(*digit) << 8;
            *digit = u8::try_from(carry % 62).unwrap_or(0);
            carry /= 62;
        }
        while carry > 0 {
            digits.push(u8::try_from(carry % 62).unwrap_or(0));
            carry /= 62;
        }
    }
    let text = digits.iter().rev();
    text.map(|digit| char::from(digit_of(u32::from(*digit))))
        .collect()
}

fn from_base62(text: &str) -> Option<Vec<u8>> {
    let mut bytes: Vec<u8> = Vec::new();
    for digit in text.bytes() {
        let value = DIGITS.iter().position(|known| *known == digit)?;
        let mut carry = u32::try_from(value).ok()?;
        for byte in &mut bytes {
            carry += u32::from(*byte) * 62;
            *byte = u8::try_from(carry & 0xFF).unwrap_or(0);
            carry >>= 8;
        }
        while carry > 0 {
            bytes.push(u8::try_from(carry & 0xFF).unwrap_or(0));
            carry >>= 8;
        }
    }
    bytes.reverse();
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            id: "k3x9".into(),
            secret: [0; 32],
            mesh: "default".parse().expect("valid"),
            addresses: vec![
                "10.0.0.1:15012".parse().expect("valid"),
                "[fd00::1]:15012".parse().expect("valid"),
                "cp.example.org:443".parse().expect("valid"),
            ],
            pins: vec!["ab".repeat(32)],
            expires: 1_800_000_000,
        }
    }

    #[test]
    fn a_token_survives_text() {
        let text = token().encode();
        assert!(text.starts_with(PREFIX), "{text}");
        assert!(text.len() < 400, "{}", text.len());
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!("  {text}\n").parse(), Ok(token()));
        assert!(!format!("{:?}", token()).contains("secret"));
    }

    #[test]
    fn one_changed_missing_or_added_character_is_noticed() {
        let text = token().encode();
        for at in PREFIX.len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
            let changed = String::from_utf8(bytes).expect("ascii");
            assert_eq!(
                changed.parse::<JoinToken>(),
                Err(JoinTokenError::Altered),
                "{at}"
            );
        }
        assert_eq!(
            text[..text.len() - 1].parse::<JoinToken>(),
            Err(JoinTokenError::Altered)
        );
        assert_eq!(
            format!("{text}0").parse::<JoinToken>(),
            Err(JoinTokenError::Altered)
        );
    }

    #[test]
    fn other_texts_are_told_apart() {
        for text in ["", "x", "leno_j", "ghp_123", &"a".repeat(5000), "é"] {
            assert_eq!(text.parse::<JoinToken>(), Err(JoinTokenError::Shape));
        }
        assert_eq!(
            "leno_jt2_abc".parse::<JoinToken>(),
            Err(JoinTokenError::Newer)
        );
        assert_eq!(
            "leno_jt1_".parse::<JoinToken>(),
            Err(JoinTokenError::Altered)
        );
    }
}
