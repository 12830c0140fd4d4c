//! What an agent may host: given with its join token, never by what it says of itself (CP5).

use std::{fmt, net::IpAddr, sync::Arc};

use leno_ir::Prefix;
use leno_types::{DnsLabel, ServiceName};
use serde::{Deserialize, Serialize};

use crate::documents::Scope;

/// What an agent may host. Its clones share what it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Scope", into = "Scope")]
pub struct AgentScope {
    /// Anything, at any address: the agent of the control plane's own machine, which only its owner can make.
    pub any: bool,
    /// The namespace.
    pub namespace: DnsLabel,
    /// The service account of whatever it hosts; otherwise the service's name.
    pub account: Option<DnsLabel>,
    /// The services; none: programs that only call.
    pub services: Arc<[DnsLabel]>,
    /// The network its addresses must be in.
    pub cidr: Option<Prefix>,
}

/// A registration that the scope does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wish} is outside of what this host's join token allows, which is {scope}: make a token that allows it (leno token create), or run it on another host"
)]
pub struct OutOfScope {
    wish: String,
    scope: String,
}

impl AgentScope {
    /// Everything.
    #[must_use]
    pub fn any(namespace: DnsLabel) -> Self {
        Self {
            any: true,
            namespace,
            account: None,
            services: Arc::default(),
            cidr: None,
        }
    }

    /// The account a program has: the one it asks for, if that is allowed.
    ///
    /// # Errors
    /// What is not allowed, with what is.
    pub fn authorise(
        &self,
        namespace: &DnsLabel,
        service: Option<&DnsLabel>,
        account: Option<&DnsLabel>,
    ) -> Result<DnsLabel, OutOfScope> {
        let default = match service {
            Some(service) => self.account.as_ref().unwrap_or(service).clone(),
            // A program that only calls has the least of identities.
            None => "default".parse().expect("a legal name"),
        };
        let account = account.unwrap_or(&default);
        if self.any {
            return Ok(account.clone());
        }
        if *namespace != self.namespace {
            return Err(self.refuse(format!("namespace {namespace}")));
        }
        if let Some(service) = service.filter(|service| !self.services.contains(service)) {
            return Err(self.refuse(format!("service {service}")));
        }
        let allowed = *account == default
            || self.account.as_ref() == Some(account)
            || (self.account.is_none() && self.services.contains(account));
        if !allowed {
            return Err(self.refuse(format!("service account {account}")));
        }
        Ok(account.clone())
    }

    /// The services, by their full names.
    pub fn service_names(&self) -> impl Iterator<Item = ServiceName> {
        let named = self.services.iter();
        named.map(|name| ServiceName::new(self.namespace.clone(), name.clone()))
    }

    /// Every name in it.
    pub(super) fn labels(&self) -> impl Iterator<Item = &DnsLabel> {
        let of_all = [&self.namespace].into_iter().chain(&self.account);
        of_all.chain(&*self.services)
    }

    /// Whether its hosts may have this address.
    #[must_use]
    pub fn allows_address(&self, address: IpAddr) -> bool {
        self.any || self.cidr.is_none_or(|cidr| cidr.contains(address))
    }

    /// As documents and the store write it.
    #[must_use]
    pub fn to_document(&self) -> Scope {
        Scope {
            any: self.any,
            namespace: self.namespace.to_string(),
            service_account: self.account.as_ref().map(DnsLabel::to_string),
            services: self.services.iter().map(DnsLabel::to_string).collect(),
            cidr: self.cidr.as_ref().map(Prefix::to_string),
        }
    }

    /// Reads what a document says.
    ///
    /// # Errors
    /// Which field is wrong, and why.
    pub fn from_document(scope: &Scope) -> Result<Self, String> {
        let label = |field: &str, text: &str| {
            let parsed = text.parse::<DnsLabel>();
            parsed.map_err(|error| format!("{field}: {error}"))
        };
        let namespace = match scope.namespace.as_str() {
            "" => "default",
            given => given,
        };
        Ok(Self {
            any: scope.any,
            namespace: label("namespace", namespace)?,
            account: scope
                .service_account
                .as_deref()
                .map(|text| label("serviceAccount", text))
                .transpose()?,
            services: scope
                .services
                .iter()
                .map(|text| label("services", text))
                .collect::<Result<_, _>>()?,
            cidr: scope
                .cidr
                .as_deref()
                .map(|text| text.parse().map_err(|error| format!("cidr: {error}")))
                .transpose()?,
        })
    }

    fn refuse(&self, wish: String) -> OutOfScope {
        OutOfScope {
            wish,
            scope: self.to_string(),
        }
    }
}

impl TryFrom<Scope> for AgentScope {
    type Error = String;

    fn try_from(scope: Scope) -> Result<Self, String> {
        Self::from_document(&scope)
    }
}

impl From<AgentScope> for Scope {
    fn from(scope: AgentScope) -> Self {
        scope.to_document()
    }
}

impl fmt::Display for AgentScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.any {
            return f.write_str("anything");
        }
        write!(f, "namespace {}", self.namespace)?;
        match &*self.services {
            [] => f.write_str(", programs that only call")?,
            [one] => write!(f, ", service {one}")?,
            many => {
                let names: Vec<&str> = many.iter().map(DnsLabel::as_str).collect();
                write!(f, ", services {}", names.join(", "))?;
            }
        }
        if let Some(account) = &self.account {
            write!(f, ", service account {account}")?;
        }
        if let Some(cidr) = self.cidr {
            write!(f, ", network {cidr}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn label(text: &str) -> DnsLabel {
        text.parse().unwrap()
    }

    fn cart() -> AgentScope {
        AgentScope {
            any: false,
            namespace: label("shop"),
            account: None,
            services: [label("cart")].into(),
            cidr: None,
        }
    }

    #[test]
    fn a_service_has_its_own_account_and_a_mere_caller_the_default_one() {
        let scope = cart();
        let shop = label("shop");
        let of = |service: Option<&str>, account: Option<&str>| {
            let (service, account) = (service.map(label), account.map(label));
            scope
                .authorise(&shop, service.as_ref(), account.as_ref())
                .ok()
        };
        assert_eq!(of(Some("cart"), None), Some(label("cart")));
        assert_eq!(of(None, None), Some(label("default")));
        assert_eq!(of(None, Some("cart")), Some(label("cart")));
        assert_eq!(of(Some("cart"), Some("payments")), None);
        assert_eq!(of(None, Some("payments")), None);
    }

    #[test]
    fn what_is_outside_is_refused_and_the_scope_named() {
        let error = cart()
            .authorise(&label("shop"), Some(&label("payments")), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("service payments"), "{error}");
        assert!(error.contains("namespace shop, service cart"), "{error}");
        assert!(cart().authorise(&label("other"), None, None).is_err());
        let any = AgentScope::any(label("default"));
        assert!(
            any.authorise(&label("other"), Some(&label("x")), None)
                .is_ok()
        );
    }

    #[test]
    fn a_scope_survives_its_document() {
        let scope = AgentScope {
            account: Some(label("robot")),
            cidr: Some("10.0.0.0/24".parse().unwrap()),
            ..cart()
        };
        assert_eq!(AgentScope::from_document(&scope.to_document()), Ok(scope));
    }
}
