//! What tells one form of an output from another: the digest of its bytes.

use std::fmt;

use aws_lc_rs::digest;

/// 96 bits: nobody chooses the bytes to make two equal, and it is only compared within one key.
const BYTES: usize = 12;

/// The version of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version([u8; BYTES]);

impl Version {
    /// Of a message.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, body);
        let mut bytes = [0; BYTES];
        for (to, from) in bytes.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self(bytes)
    }

    /// As it is written; `None`: none is written so, whatever else it is.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let mut bytes = [0; BYTES];
        let digits: &[u8; 2 * BYTES] = text.as_bytes().try_into().ok()?;
        for (to, digits) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in digits {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                *to = *to << 4 | value;
            }
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_back_as_it_is_written_and_in_no_other_form() {
        let version = Version::of(b"one");
        let text = version.to_string();
        assert_eq!(text, "7692c3ad3540bb803c020b3a");
        assert_eq!(Version::read(&text), Some(version));
        assert_ne!(Version::of(b"two"), version);
        let others = [
            String::new(),
            "1".into(),
            text.to_uppercase(),
            format!("{text}0"),
            format!("+{}", text.get(1..).unwrap_or_default()),
            text.replace('a', "g"),
            "ä".repeat(12),
        ];
        for other in others {
            assert_eq!(Version::read(&other), None, "{other}");
        }
    }
}
