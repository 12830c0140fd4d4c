//! The private fields between Leno proxies (decision 4): where a request goes, and from whom it comes.
//!
//! Every field whose name begins with `x-leno-` is private. What an application sends under such a name is taken out
//! on both sides; what a peer sends is believed only as far as its certificate and the connection allow. With them goes
//! `x-forwarded-client-cert`, in which other meshes' proxies say whom they proved: no proxy of this one makes it, so
//! whatever comes in it was made up by a caller.
//!
//! `x-leno-to: 1 ADDRESS:PORT SERVICE:PORT FLAGS`, `x-leno-from: 1 NAMESPACE WORKLOAD VERSION SERVICE`; `-` is empty.

use std::{cell::RefCell, fmt::Write, net::SocketAddr};

use http::{HeaderName, HeaderValue};
use leno_http::{CASE_FIELD, Fields};
use leno_ir::OwnWorkload;
use leno_types::{Identity, Refusal, ServiceName};

use crate::state::Labels;

/// Where a request goes.
pub(crate) const TO: &str = "x-leno-to";
/// Which workload it comes from.
pub(crate) const FROM: &str = "x-leno-from";
/// [`TO`] as it is sent.
pub(crate) static SENT_TO: HeaderName = HeaderName::from_static(TO);
/// [`FROM`] as it is sent.
pub(crate) static SENT_FROM: HeaderName = HeaderName::from_static(FROM);
/// Why the mesh refused; the only private field that callers in the mesh see.
pub(crate) const REFUSED: &str = "x-leno-refused";
/// The connection by which a proxy that shares its program's namespace sent a request: whoever accepts that very
/// connection as a new one is in a loop.
pub(crate) const HOP: &str = "x-leno-hop";

const PREFIX: &[u8] = b"x-leno-";
const CLIENT_CERT: &str = "x-forwarded-client-cert";
const VERSION: &str = "1";

/// Takes every private field out.
pub(crate) fn strip(fields: &mut Fields) {
    fields.retain(|name, _| !is_private(name));
}

/// Takes every private field out of a peer's request but the case of its names, which leno-http reads.
pub(crate) fn strip_but_case(fields: &mut Fields) {
    fields.retain(|name, _| !is_private(name) || is(name, CASE_FIELD));
}

/// Takes every private field out of a peer's response but the case of its names and the reason of a refusal.
pub(crate) fn strip_but_refused(fields: &mut Fields) {
    fields.retain(|name, _| !is_private(name) || is(name, CASE_FIELD) || is(name, REFUSED));
}

fn is(name: &[u8], field: &str) -> bool {
    name.eq_ignore_ascii_case(field.as_bytes())
}

pub(crate) fn is_private(name: &[u8]) -> bool {
    name.get(..PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
        || is(name, CLIENT_CERT)
}

/// Where a request goes, as its sender says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct To {
    /// The endpoint's address and the program's port there.
    pub(crate) address: SocketAddr,
    /// The service that was called, and its port; none for a direct call.
    pub(crate) service: Option<(ServiceName, u16)>,
    /// The application spoke HTTP/2.
    pub(crate) http2: bool,
    /// The sender can try another endpoint, when nothing of the request had an effect.
    pub(crate) can_retry: bool,
    /// Another endpoint was tried before.
    pub(crate) retried: bool,
}

impl To {
    /// As a field's value.
    pub(crate) fn write(&self) -> HeaderValue {
        let mut text = format!("{VERSION} {} ", self.address);
        let written = match &self.service {
            Some((service, port)) => write!(text, "{service}:{port} "),
            None => write!(text, "- "),
        };
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
        text.push(if self.http2 { 'b' } else { 'a' });
        if self.can_retry {
            text.push('r');
        }
        if self.retried {
            text.push('t');
        }
        value(text)
    }

    /// From a field's value; `None` when it is none of ours.
    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(value).ok()?.split(' ');
        if parts.next() != Some(VERSION) {
            return None;
        }
        let address = parts.next()?.parse().ok()?;
        let service = match parts.next()? {
            "-" => None,
            text => {
                let (service, port) = text.rsplit_once(':')?;
                Some((service.parse().ok()?, port.parse().ok()?))
            }
        };
        // Further flags of a later version change nothing here.
        let flags = parts.next()?;
        Some(Self {
            address,
            service,
            http2: flags.contains('b'),
            can_retry: flags.contains('r'),
            retried: flags.contains('t'),
        })
    }
}

/// The `x-leno-to` fields that one peer is sent: a handful, so a list.
#[derive(Default)]
pub(crate) struct ToCache(RefCell<Vec<(ToKey, HeaderValue)>>);

type ToKey = (SocketAddr, Option<(ServiceName, u16)>, [bool; 3]);

impl ToCache {
    /// The field's value, made once.
    pub(crate) fn field(
        &self,
        address: SocketAddr,
        service: Option<(&ServiceName, u16)>,
        flags: [bool; 3],
        make: impl FnOnce() -> HeaderValue,
    ) -> HeaderValue {
        /// So many are remembered.
        const CEILING: usize = 16;
        let mut known = self.0.borrow_mut();
        let found = known.iter().find(|((to, of, known), _)| {
            *to == address
                && *known == flags
                && of.as_ref().map(|(name, port)| (name, *port)) == service
        });
        if let Some((_, value)) = found {
            return value.clone();
        }
        let value = make();
        if known.len() >= CEILING {
            known.clear();
        }
        let service = service.map(|(name, port)| (name.clone(), port));
        known.push(((address, service, flags), value.clone()));
        value
    }
}

/// The `x-leno-from` field of a workload.
pub(crate) fn from_field(own: &OwnWorkload) -> HeaderValue {
    let or_dash = |text: &str| {
        if text.is_empty() || text.contains(' ') {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    let service = own.service.as_ref().map(ToString::to_string);
    value(format!(
        "{VERSION} {} {} {} {}",
        own.namespace,
        or_dash(&own.name),
        or_dash(&own.version),
        or_dash(service.as_deref().unwrap_or_default()),
    ))
}

/// Of the names of the mesh none has a byte that no field may have; one that had would be said by nobody.
fn value(text: String) -> HeaderValue {
    text.try_into()
        .unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// The names of a caller: as it says, where its certificate agrees on the namespace; otherwise what the certificate
/// alone shows.
pub(crate) fn caller_labels(value: Option<&[u8]>, identity: &Identity) -> Labels {
    value
        .and_then(|value| read_from(value, identity))
        .unwrap_or_else(|| Labels {
            workload: identity.service_account().unwrap_or("unknown").into(),
            namespace: identity.namespace().unwrap_or("unknown").into(),
            version: "unknown".into(),
            service: "unknown".into(),
        })
}

fn read_from(value: &[u8], identity: &Identity) -> Option<Labels> {
    /// A workload's name in a metric has no more bytes.
    const LONGEST: usize = 253;
    let mut parts = std::str::from_utf8(value).ok()?.split(' ');
    if parts.next() != Some(VERSION) {
        return None;
    }
    let namespace = parts
        .next()
        .filter(|namespace| identity.namespace() == Some(*namespace))?;
    let workload = parts
        .next()
        .filter(|name| !name.is_empty() && name.len() <= LONGEST)?;
    let version = parts.next().filter(|version| version.len() <= LONGEST)?;
    let service = parts.next()?.parse::<ServiceName>().ok();
    Some(Labels {
        workload: workload.into(),
        namespace: namespace.into(),
        version: if version == "-" { "" } else { version }.into(),
        service: service.map_or_else(|| "unknown".into(), |service| service.host().into()),
    })
}

/// The value of `x-leno-refused`: the reason, who refused, and the id by which it is found again. Requests get the
/// same from leno-http ([`leno_http::Reply::label_refusals`]).
pub(crate) fn refused_field(reason: Refusal, by: &str, id: u64) -> String {
    format!("{}; by={by}; id={id:016x}", reason.code())
}

/// The reason in an `x-leno-refused` field.
pub(crate) fn read_refused(value: &[u8]) -> Option<Refusal> {
    let text = std::str::from_utf8(value).ok()?;
    text.split(';').next()?.trim().parse().ok()
}

/// The same, with the id under which the peer tells of it.
pub(crate) fn read_refusal(value: &[u8]) -> Option<(Refusal, Option<u64>)> {
    let reason = read_refused(value)?;
    let text = std::str::from_utf8(value).ok()?;
    let mut fields = text.split(';').map(str::trim);
    let id = fields.find_map(|field| u64::from_str_radix(field.strip_prefix("id=")?, 16).ok());
    Some((reason, id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn where_a_request_goes_survives_the_field_and_nothing_else_is_read() {
        for text in [
            "1 10.0.0.5:8080 shop/cart:80 a",
            "1 [2001:db8::1]:8080 - br",
            "1 10.0.0.5:8080 shop/cart:80 br",
            "1 10.0.0.5:8080 shop/cart:80 at",
        ] {
            let to = To::read(text.as_bytes()).unwrap();
            assert_eq!(to.write(), text);
        }
        for bad in [
            "",
            "1",
            "2 10.0.0.5:8080 - a",
            "1 10.0.0.5 - a",
            "1 cart:80 - a",
            "1 10.0.0.5:99999 - a",
            "1 10.0.0.5:8080 shop/cart a",
            "1 10.0.0.5:8080 Shop/cart:80 a",
            "1 10.0.0.5:8080 -",
        ] {
            assert_eq!(To::read(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(To::read(&[0xff; 64]), None);
    }

    #[test]
    fn private_fields_are_taken_out_in_any_case_and_order() {
        let mut fields = Fields::new();
        for name in ["A", "X-Leno-To", "x-leno-", "X-LENO-REFUSED", "x-len", "b"] {
            assert!(fields.push(name, "v"));
        }
        assert!(fields.push("X-Forwarded-Client-Cert", "By=spiffe://d/ns/shop/sa/web"));
        let mut kept = fields.clone();
        strip(&mut fields);
        let names: Vec<_> = fields.iter().map(|(name, _)| name.to_vec()).collect();
        assert_eq!(names, [&b"A"[..], b"x-len", b"b"]);
        assert!(kept.push("x-leno-CASE", "v"));
        let mut cased = kept.clone();
        strip_but_refused(&mut kept);
        assert_eq!(kept.len(), 5);
        strip_but_case(&mut cased);
        assert_eq!(cased.len(), 4);
    }

    #[test]
    fn a_caller_is_believed_only_within_the_namespace_of_its_certificate() {
        let identity: Identity = "spiffe://d/ns/shop/sa/web".parse().unwrap();
        let told = caller_labels(Some(b"1 shop web-1 v2 shop/web"), &identity);
        assert_eq!((&*told.workload, &*told.version), ("web-1", "v2"));
        assert_eq!(&*told.service, "web.shop.svc.cluster.local");
        let lied = caller_labels(Some(b"1 bank vault v1 bank/vault"), &identity);
        assert_eq!((&*lied.workload, &*lied.namespace), ("web", "shop"));
        assert_eq!(&*caller_labels(None, &identity).namespace, "shop");
    }

    #[test]
    fn a_refusal_is_read_back_from_its_field() {
        let text = refused_field(Refusal::Denied, "cart-1", 255);
        assert_eq!(text, "RBAC; by=cart-1; id=00000000000000ff");
        assert_eq!(read_refused(text.as_bytes()), Some(Refusal::Denied));
        assert_eq!(read_refused(b"nonsense; id=1"), None);
    }
}
