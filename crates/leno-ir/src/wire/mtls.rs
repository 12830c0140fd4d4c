//! What workloads and ports do with plaintext.

use leno_wire::mesh as wire;

use super::{provenance_from_wire, provenance_to_wire};
use crate::{Mtls, MtlsMode};

pub(super) fn mode_to_wire(mode: MtlsMode) -> i32 {
    let mode = match mode {
        MtlsMode::Permissive => wire::MtlsMode::Permissive,
        MtlsMode::Strict => wire::MtlsMode::Strict,
    };
    mode.into()
}

/// `None` for a mode that this build does not know.
pub(super) fn mode_from_wire(number: i32) -> Option<MtlsMode> {
    match wire::MtlsMode::try_from(number).ok()? {
        wire::MtlsMode::Permissive => Some(MtlsMode::Permissive),
        wire::MtlsMode::Strict => Some(MtlsMode::Strict),
        wire::MtlsMode::Disable => None,
    }
}

pub(super) fn port_to_wire(mtls: &Mtls) -> wire::PortMtls {
    wire::PortMtls {
        mode: mode_to_wire(mtls.mode),
        provenance: mtls.provenance.as_ref().map(provenance_to_wire),
    }
}

/// A mode that this build does not know refuses plaintext: that widens nothing.
pub(super) fn port_from_wire(message: &wire::PortMtls) -> Mtls {
    Mtls {
        mode: mode_from_wire(message.mode).unwrap_or(MtlsMode::Strict),
        provenance: message.provenance.as_ref().map(provenance_from_wire),
    }
}
