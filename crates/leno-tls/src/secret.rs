//! Text that must not be seen, such as the PEM of a private key.
//!
//! Invariant: `Debug` prints nothing of it, and its memory is zeroed when the last owner drops it.

use std::fmt;

use zeroize::Zeroizing;

/// Secret text. It is read with [`Secret::expose`] alone, so that each use can be found.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text itself: for writing it to a file of mode 0600 or to a peer that must have it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}
