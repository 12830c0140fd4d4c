//! The application protocols Leno negotiates (RFC 7301).

/// What two sides agreed to speak inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `leno/1`: HTTP/2 on the wire, with requests as requests.
    Leno1,
    /// `h2`: HBONE between proxies (`CONNECT` only), HTTP/2 to the control plane.
    H2,
    /// `http/1.1`: the control plane's API.
    Http11,
    /// Nothing was negotiated.
    None,
}

impl Alpn {
    /// The protocol's name on the wire; `None` for [`Alpn::None`].
    #[must_use]
    pub const fn wire(self) -> Option<&'static [u8]> {
        match self {
            Self::Leno1 => Some(b"leno/1"),
            Self::H2 => Some(b"h2"),
            Self::Http11 => Some(b"http/1.1"),
            Self::None => None,
        }
    }

    pub(crate) fn offer(protocols: &[Self]) -> Vec<Vec<u8>> {
        let names = protocols.iter().filter_map(|alpn| alpn.wire());
        names.map(<[u8]>::to_vec).collect()
    }

    /// rustls only ever agrees to what was offered, so a name not known here cannot be negotiated.
    pub(crate) fn negotiated(name: Option<&[u8]>) -> Self {
        [Self::Leno1, Self::H2, Self::Http11]
            .into_iter()
            .find(|alpn| alpn.wire() == name)
            .unwrap_or(Self::None)
    }
}
