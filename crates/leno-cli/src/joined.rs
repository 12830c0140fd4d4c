//! What this host is: whether it has joined a mesh whose control plane runs elsewhere.

use std::path::Path;

use leno_agent::Membership;

use crate::places;

/// A membership that a token was spent for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) mesh: String,
    /// This host's name in the mesh.
    pub(crate) host: String,
    /// Where its control plane is.
    pub(crate) control_plane: String,
}

impl Joined {
    /// The membership of the usual places, of this user or of root; one that cannot be read is none.
    pub(crate) fn here() -> Option<Self> {
        Self::below(&places::data_dir()).or_else(|| Self::below(Path::new(places::ROOTS_DATA)))
    }

    /// That of a directory where `leno up` keeps everything, unless a control plane's state is there as well.
    pub(crate) fn below(data_dir: &Path) -> Option<Self> {
        if data_dir.join(places::CONTROL_PLANE).exists() {
            return None;
        }
        let membership = Membership::load(&data_dir.join("agent")).ok().flatten()?;
        Some(Self::of(&membership))
    }

    /// What a membership says.
    pub(crate) fn of(membership: &Membership) -> Self {
        let first = membership.control_planes.first();
        Self {
            mesh: membership.mesh.to_string(),
            host: membership.agent.to_string(),
            control_plane: first.map(ToString::to_string).unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            mesh,
            host,
            control_plane,
        } = self;
        write!(
            f,
            "this host is {host} of mesh \"{mesh}\", whose control plane is at {control_plane}"
        )
    }
}
