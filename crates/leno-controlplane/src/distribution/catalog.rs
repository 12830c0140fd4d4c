//! By which names the resources of one mesh are asked for.
//!
//! The compiler keeps every output, encoded and by key; a name is read to its key, and nothing is kept beside it.
//! Invariant: a resource has one canonical name, and is found by that and by the addresses that mean it. The same written
//! differently is nobody's name: what changes is told under the canonical one.

use std::{net::IpAddr, sync::Arc};

use leno_compile::{Compiler, Kept, Key, Version};
use leno_ir::ResourceName;

use super::Type;

/// The name of the one resource of type Mesh.
const MESH: &str = "mesh";

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
    fn new(key: &Key, kept: &Kept) -> Self {
        Self {
            name: name_of(key),
            version: kept.version(),
            body: Arc::clone(kept.body()),
            nobody: kept.is_nobody(),
        }
    }
}

/// The newest form of every resource of one mesh.
#[derive(Clone, Copy, Debug)]
pub struct Catalog<'a>(&'a Compiler);

impl<'a> Catalog<'a> {
    /// Of what is compiled.
    #[must_use]
    pub fn new(compiler: &'a Compiler) -> Self {
        Self(compiler)
    }

    /// The resource of a key.
    #[must_use]
    pub fn get(self, key: &Key) -> Option<Resource> {
        Some(Resource::new(key, self.0.kept(key)?))
    }

    /// A resource by any name it may be asked for.
    #[must_use]
    pub fn resolve(self, kind: Type, asked: &str) -> Option<Resource> {
        let resource = self.get(&self.key(kind, asked)?)?;
        let canonical = match asked.parse() {
            // An address means what is found at it, under that one's name.
            Ok(ResourceName::Address(address)) => alias_of(address),
            _ => Arc::clone(&resource.name),
        };
        (*canonical == *asked).then_some(resource)
    }

    /// The key of what a name means.
    #[must_use]
    pub fn key(self, kind: Type, name: &str) -> Option<Key> {
        match (kind, name.parse()) {
            (Type::Mesh, _) => Some(Key::Mesh),
            (Type::OwnWorkload, _) => name.parse().ok().map(Key::OwnWorkload),
            (Type::Endpoints, Ok(ResourceName::Service(of))) => Some(Key::Endpoints(of)),
            (Type::Destination, Ok(ResourceName::Service(of))) => Some(Key::Destination(of)),
            (Type::Destination, Ok(ResourceName::Host(of))) => Some(Key::Host(of)),
            (Type::Destination, Ok(ResourceName::Hostname(of))) => Some(Key::Hostname(of)),
            (Type::Destination, Ok(of @ ResourceName::Address(_))) => self.0.resolve(&of),
            _ => None,
        }
    }

    /// Every resource.
    pub fn all(self) -> impl Iterator<Item = (Type, Resource)> + 'a {
        let all = self.0.all_kept();
        all.map(|(key, kept)| (type_of(&key), Resource::new(&key, kept)))
    }

    /// How many resources of a type there are.
    #[must_use]
    pub fn count(self, kind: Type) -> usize {
        let all = self.0.all_kept();
        all.filter(|(key, _)| type_of(key) == kind).count()
    }
}

/// The type under which a key's output is sent.
pub(crate) fn type_of(key: &Key) -> Type {
    match key {
        Key::Mesh => Type::Mesh,
        Key::OwnWorkload(_) => Type::OwnWorkload,
        Key::Destination(_) | Key::Host(_) | Key::Hostname(_) => Type::Destination,
        Key::Endpoints(_) => Type::Endpoints,
    }
}

/// The canonical name under which it is sent.
pub(crate) fn name_of(key: &Key) -> Arc<str> {
    let name = match key {
        Key::Mesh => return MESH.into(),
        Key::OwnWorkload(uid) => return uid.to_string().into(),
        Key::Destination(name) | Key::Endpoints(name) => ResourceName::Service(name.clone()),
        Key::Host(address) => ResourceName::Host(*address),
        Key::Hostname(name) => ResourceName::Hostname(name.clone()),
    };
    name.to_string().into()
}

/// The name by which an address is asked for.
pub(crate) fn alias_of(address: IpAddr) -> Arc<str> {
    ResourceName::Address(address).to_string().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use leno_compile::{Input, Remembered};
    use leno_ir::ServicePort;

    use super::*;

    fn compiler() -> Compiler {
        let mut compiler = Compiler::new("default.leno".parse().unwrap());
        let remembered = Remembered {
            ports: vec![ServicePort {
                port: 80,
                protocol: None,
                name: String::new(),
            }],
            own: true,
            since: None,
        };
        let name = || "shop/cart".parse().unwrap();
        let addresses = ["240.240.0.7", "2001:2::ab"].map(|address| address.parse().unwrap());
        compiler.apply(vec![
            Input::Remembered(name(), Some(Arc::new(remembered))),
            Input::Vips(name(), addresses.to_vec()),
        ]);
        compiler
    }

    #[test]
    fn a_resource_is_found_by_its_canonical_name_and_its_addresses_alone() {
        let compiler = compiler();
        let catalog = Catalog::new(&compiler);
        let found = |kind, asked| {
            let resource = catalog.resolve(kind, asked);
            resource.map(|resource| resource.name.to_string())
        };
        let service = Some("svc/shop/cart".to_owned());
        for asked in ["svc/shop/cart", "ip/240.240.0.7", "ip/2001:2::ab"] {
            assert_eq!(found(Type::Destination, asked), service, "{asked}");
        }
        assert_eq!(found(Type::Endpoints, "svc/shop/cart"), service);
        let others = [
            "svc/SHOP/cart",
            "svc/shop/cart/",
            "ip/240.240.0.8",
            "ip/2001:2:0::AB",
            "host/240.240.0.7",
            "name/cart.shop",
            "shop/cart",
            "mesh",
            "",
        ];
        for other in others {
            assert_eq!(found(Type::Destination, other), None, "{other}");
            assert_eq!(found(Type::Endpoints, other), None, "{other}");
        }
        assert_eq!(found(Type::Endpoints, "ip/240.240.0.7"), None);
    }

    #[test]
    fn endpoints_say_when_nobody_serves_a_service() {
        let compiler = compiler();
        let of = |key| Catalog::new(&compiler).get(&key).unwrap();
        let (destination, endpoints) = (
            of(Key::Destination("shop/cart".parse().unwrap())),
            of(Key::Endpoints("shop/cart".parse().unwrap())),
        );
        assert!(endpoints.nobody && !destination.nobody);
        assert_eq!(endpoints.version, Version::of(&endpoints.body));
        let all: Vec<_> = Catalog::new(&compiler).all().collect();
        assert_eq!(
            all,
            [
                (Type::Destination, destination),
                (Type::Endpoints, endpoints)
            ]
        );
        assert_eq!(Catalog::new(&compiler).count(Type::OwnWorkload), 0);
    }
}
