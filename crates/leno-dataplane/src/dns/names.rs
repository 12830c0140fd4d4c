//! What a name that a program asks for may mean, in the order in which that is tried. Pure.
//!
//! `cart`, `cart.NS` of one's own namespace, `cart.NS.svc` and `cart.NS.svc.cluster.local` can mean nothing but a service
//! of the mesh. `cart.NS` of another namespace looks like any domain (`example.com`); so do names below a domain in which
//! a template (HostnameGenerator) names services, and what only the host's search list made of a name.

use std::collections::VecDeque;

use leno_ir::ResourceName;
use leno_types::{DnsLabel, HostName, ServiceName, parse_service_host};

/// What the name of a question is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// Of these the first that there is, otherwise nothing of the mesh's.
    Perhaps(VecDeque<Meaning>),
    /// This host itself (RFC 6761 6.3).
    Localhost,
}

/// One thing that a name may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A service.
    Service(ServiceName, Reading),
    /// Whatever service has the name by a template.
    Hostname(HostName),
}

/// How a name was read as a service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It can be nothing else.
    Certain,
    /// `cart.NS`, of another namespace than one's own.
    Namespace,
    /// Without what the search list has put behind it.
    Searched,
    /// The control plane says that it is this service's by a template.
    Given,
}

impl Meaning {
    /// The name by which the control plane is asked about it.
    pub(crate) fn asked(&self) -> ResourceName {
        match self {
            Self::Service(service, _) => ResourceName::Service(service.clone()),
            Self::Hostname(name) => ResourceName::Hostname(name.clone()),
        }
    }
}

/// Reads a name as a workload of `namespace` means it; `may_name` tells whether a template may make a name.
pub(crate) fn read_name(
    name: &str,
    namespace: &DnsLabel,
    search: &[String],
    may_name: impl Fn(&HostName) -> bool,
) -> Named {
    let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if lower == "localhost" || lower.ends_with(".localhost") {
        return Named::Localhost;
    }
    if let Some(service) = parse_service_host(&lower, namespace) {
        let labels = lower.split('.').count();
        let reading = if labels == 2 && service.namespace != *namespace {
            Reading::Namespace
        } else {
            Reading::Certain
        };
        return Named::Perhaps([Meaning::Service(service, reading)].into());
    }
    let given = |text: &str| {
        let name = text.parse::<HostName>().ok()?;
        may_name(&name).then_some(Meaning::Hostname(name))
    };
    let short = search.iter().find_map(|domain| {
        let short = lower.strip_suffix(domain.as_str())?.strip_suffix('.')?;
        Some(short).filter(|short| !short.is_empty())
    });
    let service = short.and_then(|short| parse_service_host(short, namespace));
    let service = service.map(|service| Meaning::Service(service, Reading::Searched));
    // The service first: what `cart` means no template changes, even one for names below a domain of the search list.
    let given = [Some(&*lower), short]
        .into_iter()
        .flatten()
        .filter_map(given);
    Named::Perhaps(service.into_iter().chain(given).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_name_is_the_meshs_only_where_it_can_mean_nothing_else() {
        let here: DnsLabel = "shop".parse().unwrap();
        let search = ["corp.example".to_owned()];
        let read = |name: &str| read_name(name, &here, &search, |_| false);
        let service = |text: &str, reading| {
            Named::Perhaps([Meaning::Service(text.parse().unwrap(), reading)].into())
        };
        for name in ["cart", "CART.", "cart.shop", "cart.shop.svc.cluster.local."] {
            assert_eq!(read(name), service("shop/cart", Reading::Certain), "{name}");
        }
        assert_eq!(
            read("cart.bank.svc"),
            service("bank/cart", Reading::Certain)
        );
        assert_eq!(
            read("example.com."),
            service("com/example", Reading::Namespace)
        );
        assert_eq!(
            read("cart.corp.example"),
            service("shop/cart", Reading::Searched)
        );
        let nothing = || Named::Perhaps(VecDeque::new());
        assert_eq!(read("www.example.com"), nothing());
        assert_eq!(read("localhost."), Named::Localhost);
        assert_eq!(read("."), nothing());
    }

    #[test]
    fn a_name_below_a_templates_domain_may_be_a_services() {
        let here: DnsLabel = "shop".parse().unwrap();
        let search = ["mesh.local".to_owned(), "corp.example".to_owned()];
        let read = |name: &str| {
            read_name(name, &here, &search, |name| {
                name.above().any(|domain| domain == "mesh.local")
            })
        };
        let given = |name: &str| Meaning::Hostname(name.parse().unwrap());
        // What `cart` means no template changes.
        let both = [
            Meaning::Service("shop/cart".parse().unwrap(), Reading::Searched),
            given("cart.mesh.local"),
        ];
        assert_eq!(read("Cart.Mesh.local."), Named::Perhaps(both.into()));
        let searched = Named::Perhaps([given("cart.mesh.local")].into());
        assert_eq!(read("cart.mesh.local.corp.example"), searched);
        assert_eq!(read("a_b.mesh.local"), Named::Perhaps(VecDeque::new()));
        // The mesh's own names mean what they always mean.
        let own = Meaning::Service("local/mesh".parse().unwrap(), Reading::Namespace);
        assert_eq!(read("mesh.local"), Named::Perhaps([own].into()));
    }
}
