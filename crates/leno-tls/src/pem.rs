//! PEM (RFC 7468): certificates in, certificates and keys out.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::TlsError;

/// A PEM text larger than this is refused unread.
pub(crate) const MAX_PEM: usize = 256 * 1024;

/// Every certificate in `pem`, in order; at least one.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    if pem.len() > MAX_PEM {
        return Err(TlsError::Pem("it is too large"));
    }
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::Pem("it is not well-formed"))?;
    if certificates.is_empty() {
        return Err(TlsError::Pem("no certificate in it"));
    }
    Ok(certificates)
}

/// One PEM block of `der`. The text is allocated once, so that a caller who zeroes it zeroes all of it.
pub(crate) fn block(label: &str, der: &[u8]) -> String {
    const BYTES_PER_LINE: usize = 48;
    let lines = der.len().div_ceil(BYTES_PER_LINE);
    let mut text = String::with_capacity(lines * 65 + 2 * label.len() + 40);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for line in der.chunks(BYTES_PER_LINE) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

pub(crate) fn certificate(der: &[u8]) -> String {
    block("CERTIFICATE", der)
}
