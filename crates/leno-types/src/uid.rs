//! The id of one running workload: 128 bits, written as one DNS label of 32 lower-case hex digits, and the SNI
//! by which a caller names it on a shared address.
//!
//! Owns how a workload's name comes of what was deployed and of its id (`cart-9f2c`), and back.

use std::{fmt, str::FromStr};

/// The id of one running workload, given by the control plane at registration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid([u8; 16]);

/// The text is not 32 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a workload id is 32 lower-case hex digits")]
pub struct UidError;

impl WorkloadUid {
    /// The id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// What a workload's name ends with, so that two instances of a program differ: `-9f2c`.
    #[must_use]
    pub fn name_end(&self) -> String {
        let [first, second, ..] = self.0;
        format!("-{first:02x}{second:02x}")
    }

    /// The first and the last id of those with which a workload of this name ends ([`WorkloadUid::name_end`]); `None`
    /// where it ends with none.
    #[must_use]
    pub fn range_of_name(workload: &str) -> Option<(Self, Self)> {
        let end = workload.get(workload.len().checked_sub(5)?..)?;
        let digits = end.strip_prefix('-')?;
        let of = |fill: &str| format!("{digits}{}", fill.repeat(28)).parse().ok();
        Some((of("0")?, of("f")?))
    }
}

/// What a workload of this name is an instance of: its name without [`WorkloadUid::name_end`].
#[must_use]
pub fn deployed_name(workload: &str) -> &str {
    match workload.rsplit_once('-') {
        Some((name, end)) if end.len() == 4 && end.bytes().all(is_digit) => name,
        _ => workload,
    }
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

impl FromStr for WorkloadUid {
    type Err = UidError;

    fn from_str(text: &str) -> Result<Self, UidError> {
        let digits: &[u8; 32] = text.as_bytes().try_into().map_err(|_| UidError)?;
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(UidError),
        };
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            let [high, low] = *pair;
            *byte = nibble(high)? << 4 | nibble(low)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_workloads_name_leads_back_to_what_was_deployed() {
        let uid = WorkloadUid::from_bytes([0xa5; 16]);
        for deployed in ["cart", "cart-v2", "db-2024"] {
            let name = format!("{deployed}{}", uid.name_end());
            assert_eq!(deployed_name(&name), deployed, "{name}");
            let (first, last) = WorkloadUid::range_of_name(&name).unwrap();
            assert!((first..=last).contains(&uid), "{name}");
            assert_eq!(
                (first.name_end(), last.name_end()),
                (uid.name_end(), uid.name_end())
            );
        }
        for other in ["cart", "cart-v2", "cart-A5A5", "cart-a5a5a", ""] {
            assert_eq!(deployed_name(other), other);
            assert_eq!(WorkloadUid::range_of_name(other), None);
        }
    }

    #[test]
    fn an_id_survives_text_and_nothing_else_is_one() {
        let uid = WorkloadUid::from_bytes([0xa5; 16]);
        assert_eq!(uid.to_string(), "a5".repeat(16));
        assert_eq!(uid.to_string().parse(), Ok(uid));
        for bad in [
            "",
            "a5",
            &"A5".repeat(16),
            &"g0".repeat(16),
            &"é5".repeat(8),
        ] {
            assert_eq!(bad.parse::<WorkloadUid>(), Err(UidError), "{bad}");
        }
    }
}
