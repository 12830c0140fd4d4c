//! What a connection speaks, by its first bytes. Reads a slice, never a socket.
/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// The begin of an HTTP/1 request.
    Http1,
    /// The HTTP/2 preface (RFC 9113 3.4), in clear.
    Http2,
    /// A TLS ClientHello.
    Tls(ClientHello),
    /// Not to be told yet.
    NeedMore,
    /// None of these.
    Other,
}
/// What a ClientHello shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, lower case.
    pub sni: Option<String>,
    /// The ALPN protocols offered, in order.
    pub alpn: Vec<Vec<u8>>,
}
/// Why no ClientHello was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// More bytes are needed.
    #[error("the ClientHello is not complete yet")]
    NeedMore,
    /// No ClientHello.
    #[error("this is no ClientHello")]
    NotTls,
}
/// Says what the first bytes of a connection are. [`Sniff::NeedMore`] is only given while every byte so far fits.
#[must_use]
pub fn sniff(_bytes: &[u8]) -> Sniff { todo!() }
/// Reads the server name and the ALPN offers of a ClientHello, which may span records.
///
/// # Errors
/// [`HelloError`].
pub fn sni(_bytes: &[u8]) -> Result<ClientHello, HelloError> { todo!() }
