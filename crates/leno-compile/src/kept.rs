//! An output as it is kept: the very bytes that proxies are sent, a fifth of what it takes to hold it in parts.
//!
//! A mesh has some for each of its workloads, and what is asked of them often stands beside them (`entry`).
//! Invariant: two are equal exactly where the outputs are, as encoding is deterministic and gives back what it was given.

use std::sync::Arc;

use leno_ir::{Destination, Endpoints, Mesh, OwnWorkload};
use leno_wire::mesh as wire;
use prost::Message;

use crate::{Output, Version};

/// An encoded output. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    what: What,
    version: Version,
    body: Arc<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Destination,
    Endpoints,
    /// The endpoints of a service that has none.
    Nobody,
    OwnWorkload,
    Mesh,
}

impl Kept {
    /// The message of its resource type, encoded.
    #[must_use]
    pub fn body(&self) -> &Arc<[u8]> {
        &self.body
    }

    /// Which form of it this is.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it says that nobody serves a service.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        self.what == What::Nobody
    }

    /// The output again. `None` is for what no wire carries, which no proxy would take either; none is made.
    #[must_use]
    pub fn output(&self) -> Option<Output> {
        let body = &*self.body;
        match self.what {
            What::Destination => {
                let message = wire::Destination::decode(body).ok()?;
                let destination = Destination::from_wire(&message).ok()?;
                Some(Output::Destination(destination))
            }
            What::Endpoints | What::Nobody => {
                let message = wire::Endpoints::decode(body).ok()?;
                Some(Output::Endpoints(Endpoints::from_wire(&message).ok()?))
            }
            What::OwnWorkload => {
                let message = wire::OwnWorkload::decode(body).ok()?;
                Some(Output::OwnWorkload(OwnWorkload::from_wire(&message).ok()?))
            }
            What::Mesh => {
                let message = wire::Mesh::decode(body).ok()?;
                Some(Output::Mesh(Mesh::from_wire(&message).ok()?))
            }
        }
    }
}

impl From<&Output> for Kept {
    fn from(output: &Output) -> Self {
        let (what, body) = match output {
            Output::Destination(of) => (What::Destination, of.to_wire().encode_to_vec()),
            Output::Endpoints(of) => {
                let what = match of.endpoints.is_empty() {
                    true => What::Nobody,
                    false => What::Endpoints,
                };
                (what, of.to_wire().encode_to_vec())
            }
            Output::OwnWorkload(of) => (What::OwnWorkload, of.to_wire().encode_to_vec()),
            Output::Mesh(of) => (What::Mesh, of.to_wire().encode_to_vec()),
        };
        Self {
            what,
            version: Version::of(&body),
            body: body.into(),
        }
    }
}
