//! The newest form of every resource of one mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use leno_ir::ResourceName;

use super::{Type, Version};

/// A resource as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its canonical name.
    pub name: Arc<str>,
    /// The digest of its bytes.
    pub version: Version,
    /// The message.
    pub body: Arc<[u8]>,
    /// Whether it says that nobody answers, which is not believed at once after a restart.
    pub nobody: bool,
}

impl Resource {
    fn new(name: Arc<str>, body: Arc<[u8]>) -> Self {
        Self {
            name,
            version: Version::of(&body),
            body,
            nobody: false,
        }
    }
}

/// The newest form of every resource of one mesh.
#[derive(Debug, Default)]
pub struct Catalog {
    resources: BTreeMap<(Type, Arc<str>), Arc<Resource>>,
    /// Virtual address to the canonical name of its service.
    virtual_addresses: BTreeMap<IpAddr, Arc<str>>,
    /// And back.
    addresses_of: BTreeMap<Arc<str>, BTreeSet<IpAddr>>,
}

impl Catalog {
    /// Sets or removes a resource; `addresses` are a service's virtual ones. Returns the names by which somebody may
    /// have asked for what changed; none when nothing did.
    pub fn set(
        &mut self,
        kind: Type,
        name: &str,
        body: Option<Arc<[u8]>>,
        addresses: &[IpAddr],
    ) -> Vec<Arc<str>> {
        let name: Arc<str> = name.into();
        let mut asked = vec![Arc::clone(&name)];
        let moved = kind == Type::Destination && self.set_addresses(&name, addresses, &mut asked);
        if let Ok(ResourceName::Host(address)) = name.parse() {
            asked.push(ResourceName::Address(address).to_string().into());
        }
        let key = (kind, Arc::clone(&name));
        let changed = match body {
            Some(body) => {
                let resource = Resource::new(Arc::clone(&name), body);
                let same = self
                    .resources
                    .get(&key)
                    .is_some_and(|known| known.version == resource.version);
                if !same {
                    self.resources.insert(key, Arc::new(resource));
                }
                !same
            }
            None => self.resources.remove(&key).is_some(),
        };
        if changed || moved { asked } else { Vec::new() }
    }

    /// Sets the endpoints of a service that has none; otherwise as [`Catalog::set`].
    pub fn set_nobody(&mut self, name: &str, body: Arc<[u8]>) -> Vec<Arc<str>> {
        let names = self.set(Type::Endpoints, name, Some(body), &[]);
        if let Some(resource) = self.resources.get_mut(&(Type::Endpoints, name.into())) {
            Arc::make_mut(resource).nobody = true;
        }
        names
    }

    /// Notes a service's virtual addresses; adds those that came or went, or are its own, to `asked`.
    fn set_addresses(
        &mut self,
        name: &Arc<str>,
        addresses: &[IpAddr],
        asked: &mut Vec<Arc<str>>,
    ) -> bool {
        let new: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        let old = self.addresses_of.remove(name).unwrap_or_default();
        let alias =
            |address: &IpAddr| -> Arc<str> { ResourceName::Address(*address).to_string().into() };
        asked.extend(old.union(&new).map(alias));
        for address in old.difference(&new) {
            if self.virtual_addresses.get(address) == Some(name) {
                self.virtual_addresses.remove(address);
            }
        }
        for address in &new {
            self.virtual_addresses.insert(*address, Arc::clone(name));
        }
        let moved = old != new;
        if !new.is_empty() {
            self.addresses_of.insert(Arc::clone(name), new);
        }
        moved
    }

    /// A resource by its canonical name.
    #[must_use]
    pub fn get(&self, kind: Type, name: &str) -> Option<&Arc<Resource>> {
        self.resources.get(&(kind, Arc::from(name)))
    }

    /// A resource by any name it may be asked for.
    #[must_use]
    pub fn resolve(&self, kind: Type, asked: &str) -> Option<&Arc<Resource>> {
        match asked.parse() {
            Ok(ResourceName::Address(address)) => {
                let host;
                let name = match self.virtual_addresses.get(&address) {
                    Some(name) => name.as_ref(),
                    None => {
                        host = ResourceName::Host(address).to_string();
                        &host
                    }
                };
                self.get(kind, name)
            }
            Ok(ResourceName::Service(_) | ResourceName::Host(_) | ResourceName::Hostname(_))
            | Err(_) => self.get(kind, asked),
        }
    }

    /// Every resource.
    pub fn all(&self) -> impl Iterator<Item = (Type, &Arc<Resource>)> {
        let resources = self.resources.iter();
        resources.map(|((kind, _), resource)| (*kind, resource))
    }

    /// How many resources of a type there are.
    #[must_use]
    pub fn count(&self, kind: Type) -> usize {
        self.resources.keys().filter(|(of, _)| *of == kind).count()
    }
}
