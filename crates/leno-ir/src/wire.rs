//! To and from the wire. Reading refuses what cannot be honoured; writing cannot fail.
//!
//! Owns the translation of what every message is made of: texts, ports, protocols, provenance. Each module has the
//! messages of one part of the intermediate representation. Invariant: what is written is read back the same.

mod access;
mod destination;
mod mesh;
mod mtls;
mod route;

use std::{fmt::Display, str::FromStr};

use leno_types::AppProtocol;
use leno_wire::mesh as wire;

use crate::Provenance;

/// Why a resource from the control plane cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field whose text or number is not what the field means.
    #[error("{field}: {reason}")]
    Field {
        /// The field, as named in the protobuf file.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A choice this build does not know.
    #[error("{0} holds a value that this proxy does not know: it is older than its control plane")]
    Unknown(&'static str),
}

fn parse<T>(field: &'static str, text: &str) -> Result<T, WireError>
where
    T: FromStr<Err: Display>,
{
    text.parse().map_err(|error: T::Err| WireError::Field {
        field,
        reason: error.to_string(),
    })
}

fn parse_all<T>(field: &'static str, texts: &[String]) -> Result<Vec<T>, WireError>
where
    T: FromStr<Err: Display>,
{
    texts.iter().map(|text| parse(field, text)).collect()
}

fn port(field: &'static str, number: u32) -> Result<u16, WireError> {
    let port = optional_port(field, number)?;
    port.ok_or_else(|| no_port(field, number))
}

fn optional_port(field: &'static str, number: u32) -> Result<Option<u16>, WireError> {
    let port = u16::try_from(number).map_err(|_| no_port(field, number))?;
    Ok(Some(port).filter(|port| *port != 0))
}

fn no_port(field: &'static str, number: u32) -> WireError {
    WireError::Field {
        field,
        reason: format!("{number} is no port"),
    }
}

/// Every message of a list, read; the first that cannot be is the error.
fn all<M, T>(
    messages: &[M],
    read: impl Fn(&M) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    messages.iter().map(read).collect()
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn protocol_to_wire(protocol: Option<AppProtocol>) -> i32 {
    let protocol = match protocol {
        None => wire::AppProtocol::Detect,
        Some(AppProtocol::Http) => wire::AppProtocol::Http,
        Some(AppProtocol::Http2) => wire::AppProtocol::Http2,
        Some(AppProtocol::Grpc) => wire::AppProtocol::Grpc,
        Some(AppProtocol::Tls) => wire::AppProtocol::Tls,
        Some(AppProtocol::Tcp) => wire::AppProtocol::Tcp,
    };
    protocol.into()
}

fn protocol_from_wire(number: i32) -> Result<Option<AppProtocol>, WireError> {
    Ok(
        match wire::AppProtocol::try_from(number).map_err(|_| WireError::Unknown("protocol"))? {
            wire::AppProtocol::Detect => None,
            wire::AppProtocol::Http => Some(AppProtocol::Http),
            wire::AppProtocol::Http2 => Some(AppProtocol::Http2),
            wire::AppProtocol::Grpc => Some(AppProtocol::Grpc),
            wire::AppProtocol::Tls => Some(AppProtocol::Tls),
            wire::AppProtocol::Tcp => Some(AppProtocol::Tcp),
        },
    )
}

fn provenance_to_wire(provenance: &Provenance) -> wire::Provenance {
    let Provenance {
        kind,
        namespace,
        name,
        uid,
        generation,
        field_path,
        source,
    } = provenance.clone();
    wire::Provenance {
        kind,
        namespace,
        name,
        uid,
        generation,
        field_path,
        source,
    }
}

fn provenance_from_wire(message: &wire::Provenance) -> Provenance {
    let wire::Provenance {
        kind,
        namespace,
        name,
        uid,
        generation,
        field_path,
        source,
    } = message.clone();
    Provenance {
        kind,
        namespace,
        name,
        uid,
        generation,
        field_path,
        source,
    }
}
