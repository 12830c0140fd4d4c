//! The client's side of delta ADS (xDS transport protocol, "incremental"), as a state machine without I/O.
//!
//! Owns what was asked for and what is held, with versions, so that a reconnect asks only for what changed. A
//! resource that cannot be used is refused by name; the others of its response are applied, and the last good one
//! stays.
//! Invariant: what is held was readable when it came.

use std::collections::{BTreeMap, BTreeSet};

use leno_ir::{Destination, Endpoints, Mesh, OwnWorkload, ResourceName, WireError};
use leno_types::{ServiceName, WorkloadUid};
use leno_wire::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status},
    mesh as wire, type_url,
};
use prost::Message;

/// gRPC's INVALID_ARGUMENT, the code of a NACK.
const INVALID_ARGUMENT: i32 = 3;
/// So much of what is wrong is told in a NACK.
const MAX_NACK_TEXT: usize = 2_000;

/// One of the resource types Leno's proxies use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Type {
    Mesh,
    OwnWorkload,
    Destination,
    Endpoints,
}

impl Type {
    const ALL: [Self; 4] = [
        Self::Mesh,
        Self::OwnWorkload,
        Self::Destination,
        Self::Endpoints,
    ];

    pub(crate) const fn url(self) -> &'static str {
        match self {
            Self::Mesh => type_url::MESH,
            Self::OwnWorkload => type_url::OWN_WORKLOAD,
            Self::Destination => type_url::DESTINATION,
            Self::Endpoints => type_url::ENDPOINTS,
        }
    }

    fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|of| of.url() == url)
    }

    /// The must-have set is subscribed to as a whole (CP8).
    const fn is_wildcard(self) -> bool {
        matches!(self, Self::Mesh | Self::OwnWorkload)
    }
}

/// What a response changes.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Mesh(Mesh),
    Workload(OwnWorkload),
    WorkloadGone(WorkloadUid),
    Destination {
        name: ResourceName,
        aliases: Vec<ResourceName>,
        answer: Option<Destination>,
    },
    Endpoints {
        service: ServiceName,
        answer: Option<Endpoints>,
    },
}

/// Everything asked for and held.
#[derive(Debug, Default)]
pub(crate) struct AdsClient {
    types: BTreeMap<Type, Held>,
    version: String,
    nacks: u64,
}

#[derive(Debug, Default)]
struct Held {
    subscribed: BTreeSet<String>,
    resources: BTreeMap<String, Resource>,
}

impl Held {
    /// Whether a resource is what some name that is asked for means.
    fn asks_for(&self, resource: &Resource) -> bool {
        let mut names = resource.aliases.iter().chain([&resource.name]);
        names.any(|name| self.subscribed.contains(name))
    }
}

impl AdsClient {
    /// The version of the last response.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Resources held.
    pub(crate) fn held(&self) -> usize {
        self.types.values().map(|held| held.resources.len()).sum()
    }

    /// Responses of which something was refused.
    pub(crate) fn nacks(&self) -> u64 {
        self.nacks
    }

    /// The names and versions held, by type.
    pub(crate) fn versions(&self) -> BTreeMap<&'static str, BTreeMap<String, String>> {
        let of = |(of, held): (&Type, &Held)| {
            let versions = held
                .resources
                .iter()
                .map(|(name, resource)| (name.clone(), resource.version.clone()));
            (of.url(), versions.collect())
        };
        self.types.iter().map(of).collect()
    }

    /// The description of a workload of this host, if it has come.
    pub(crate) fn own_workload(&self, uid: WorkloadUid) -> Option<OwnWorkload> {
        let resource = self
            .types
            .get(&Type::OwnWorkload)?
            .resources
            .get(&uid.to_string())?;
        match read(Type::OwnWorkload, resource) {
            Ok(Change::Workload(own)) => Some(own),
            Ok(_) | Err(_) => None,
        }
    }

    /// What to send first on a new stream: every type, its subscriptions, and the versions held.
    pub(crate) fn connect(&self, node: &Node) -> Vec<DeltaDiscoveryRequest> {
        let request = |of: Type| {
            let held = self.types.get(&of);
            let mut subscribe: Vec<String> = held
                .map(|held| held.subscribed.iter().cloned().collect())
                .unwrap_or_default();
            if of.is_wildcard() {
                subscribe.push("*".into());
            }
            let versions = held.into_iter().flat_map(|held| &held.resources);
            DeltaDiscoveryRequest {
                node: Some(node.clone()),
                type_url: of.url().into(),
                resource_names_subscribe: subscribe,
                initial_resource_versions: versions
                    .map(|(name, of)| (name.clone(), of.version.clone()))
                    .collect(),
                ..DeltaDiscoveryRequest::default()
            }
        };
        Type::ALL.into_iter().map(request).collect()
    }

    /// Asks for a resource; `None` when it already is.
    pub(crate) fn subscribe(&mut self, of: Type, name: &str) -> Option<DeltaDiscoveryRequest> {
        self.types
            .entry(of)
            .or_default()
            .subscribed
            .insert(name.to_owned())
            .then(|| DeltaDiscoveryRequest {
                type_url: of.url().into(),
                resource_names_subscribe: vec![name.to_owned()],
                ..DeltaDiscoveryRequest::default()
            })
    }

    /// Asks no longer for a resource, and drops it.
    pub(crate) fn unsubscribe(&mut self, of: Type, name: &str) -> Option<DeltaDiscoveryRequest> {
        let held = self.types.entry(of).or_default();
        held.resources.retain(|canonical, resource| {
            let by_alias = resource
                .aliases
                .iter()
                .any(|alias| alias != name && held.subscribed.contains(alias));
            let asked = (canonical != name && held.subscribed.contains(canonical)) || by_alias;
            asked || !(canonical == name || resource.aliases.iter().any(|alias| alias == name))
        });
        held.subscribed.remove(name).then(|| DeltaDiscoveryRequest {
            type_url: of.url().into(),
            resource_names_unsubscribe: vec![name.to_owned()],
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Takes a response in: what it changes, and the ACK or NACK to send.
    pub(crate) fn handle(
        &mut self,
        response: DeltaDiscoveryResponse,
    ) -> (Vec<Change>, DeltaDiscoveryRequest) {
        let mut answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        let Some(of) = Type::of(&response.type_url) else {
            self.nacks += 1;
            answer.error_detail = Some(nack(format!(
                "{}: this proxy knows no such type",
                response.type_url
            )));
            return (Vec::new(), answer);
        };
        let held = self.types.entry(of).or_default();
        let (mut changes, mut refused) = (Vec::new(), Vec::new());
        for resource in response.resources {
            // It was on its way when it was no longer asked for: nobody would ever change it, or take it away.
            if !of.is_wildcard() && !held.asks_for(&resource) {
                continue;
            }
            match read(of, &resource) {
                Ok(change) => {
                    changes.push(change);
                    held.resources.insert(resource.name.clone(), resource);
                }
                Err(error) => refused.push(format!("{}: {error}", resource.name)),
            }
        }
        for name in response.removed_resources {
            held.resources.remove(&name);
            match absent(of, &name) {
                Some(change) => changes.push(change),
                None => refused.push(format!("{name}: no name of this type")),
            }
        }
        if refused.is_empty() {
            self.version = response.system_version_info;
        } else {
            self.nacks += 1;
            answer.error_detail = Some(nack(refused.join("; ")));
        }
        (changes, answer)
    }

    /// What is held, to be written down: one message for each type.
    pub(crate) fn save(&self) -> Vec<DeltaDiscoveryResponse> {
        let message = |(of, held): (&Type, &Held)| DeltaDiscoveryResponse {
            system_version_info: self.version.clone(),
            type_url: of.url().into(),
            resources: held.resources.values().cloned().collect(),
            // The subscriptions travel in a field that a saved message has no other use for.
            removed_resources: held.subscribed.iter().cloned().collect(),
            ..DeltaDiscoveryResponse::default()
        };
        self.types.iter().map(message).collect()
    }

    /// Takes back what [`Self::save`] gave; what this build cannot read is left out, to be asked for again.
    pub(crate) fn restore(&mut self, saved: Vec<DeltaDiscoveryResponse>) -> Vec<Change> {
        let mut changes = Vec::new();
        for message in saved {
            let Some(of) = Type::of(&message.type_url) else {
                continue;
            };
            self.version = message.system_version_info;
            let held = self.types.entry(of).or_default();
            held.subscribed.extend(message.removed_resources);
            for resource in message.resources {
                if let Ok(change) = read(of, &resource) {
                    changes.push(change);
                    held.resources.insert(resource.name.clone(), resource);
                }
            }
        }
        changes
    }
}

fn nack(mut message: String) -> Status {
    if message.len() > MAX_NACK_TEXT {
        let end = (0..=MAX_NACK_TEXT)
            .rev()
            .find(|end| message.is_char_boundary(*end))
            .unwrap_or(0);
        message.truncate(end);
    }
    Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    }
}

/// Why a resource is refused.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("it has no content")]
    Empty,
    #[error("its content is of type {0}")]
    OtherType(String),
    #[error("its content is no protobuf message: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error(transparent)]
    Content(#[from] WireError),
    #[error("its name is not one of this type")]
    Name,
}

fn read(of: Type, resource: &Resource) -> Result<Change, ReadError> {
    let content = resource.resource.as_ref().ok_or(ReadError::Empty)?;
    if content.type_url != of.url() {
        return Err(ReadError::OtherType(content.type_url.clone()));
    }
    let bytes = content.value.as_slice();
    Ok(match of {
        Type::Mesh => Change::Mesh(Mesh::from_wire(&wire::Mesh::decode(bytes)?)?),
        Type::OwnWorkload => {
            Change::Workload(OwnWorkload::from_wire(&wire::OwnWorkload::decode(bytes)?)?)
        }
        Type::Destination => Change::Destination {
            name: resource.name.parse().map_err(|_| ReadError::Name)?,
            aliases: resource
                .aliases
                .iter()
                .filter_map(|alias| alias.parse().ok())
                .collect(),
            answer: Some(Destination::from_wire(&wire::Destination::decode(bytes)?)?),
        },
        Type::Endpoints => {
            let endpoints = Endpoints::from_wire(&wire::Endpoints::decode(bytes)?)?;
            Change::Endpoints {
                service: endpoints.service.clone(),
                answer: Some(endpoints),
            }
        }
    })
}

fn absent(of: Type, name: &str) -> Option<Change> {
    match of {
        Type::Mesh => None,
        Type::OwnWorkload => name.parse().ok().map(Change::WorkloadGone),
        Type::Destination => {
            let name = name.parse().ok()?;
            Some(Change::Destination {
                name,
                aliases: Vec::new(),
                answer: None,
            })
        }
        Type::Endpoints => match name.parse().ok()? {
            ResourceName::Service(service) => Some(Change::Endpoints {
                service,
                answer: None,
            }),
            ResourceName::Address(_) | ResourceName::Host(_) | ResourceName::Hostname(_) => None,
        },
    }
}

#[cfg(test)]
mod tests;
