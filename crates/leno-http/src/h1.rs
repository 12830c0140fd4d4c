//! HTTP/1 codec.
/// Why bytes are no HTTP/1 message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Breaks the grammar.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// Larger than its limit.
    #[error("the head is larger than its limit")]
    TooLarge,
    /// A transfer coding other than chunked.
    #[error("a transfer coding we do not speak")]
    UnknownCoding,
    /// A version other than 1.0 and 1.1.
    #[error("a version other than 1.0 and 1.1")]
    Version,
}
impl ParseError {
    /// The status a client gets for it.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::TooLarge => 431,
            Self::UnknownCoding => 501,
            Self::Version => 505,
        }
    }
}
