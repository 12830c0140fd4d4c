//! One registration, parsed: what a program may be called, where it listens.

use leno_compile::{Program, RegisteredPort};
use leno_types::{DnsLabel, MAX_WORKLOAD_PORTS, WorkloadUid, ports};
use leno_wire::agent as wire;

use super::{AgentScope, scope::OutOfScope};

/// Why a registration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The agent may not host it.
    #[error(transparent)]
    Scope(#[from] OutOfScope),
    /// Another workload has what it needs.
    #[error("{0}")]
    Conflict(String),
    /// A ceiling.
    #[error("{0}")]
    Limit(String),
    /// A field that cannot be.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// Why, and what would be right.
        reason: String,
    },
}

impl Refused {
    /// The code on the wire.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Scope(_) => "scope",
            Self::Conflict(_) => "conflict",
            Self::Limit(_) => "limit",
            Self::Invalid { .. } => "invalid",
        }
    }
}

/// A registration whose every field is legal and allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) uid: Option<WorkloadUid>,
    pub(super) namespace: DnsLabel,
    pub(super) service: Option<DnsLabel>,
    pub(super) account: DnsLabel,
    pub(super) version: Option<DnsLabel>,
    pub(super) ports: Vec<RegisteredPort>,
    /// The name asked for, without an id; may be empty.
    pub(super) name: String,
    pub(super) ready: bool,
}

impl Registration {
    pub(super) fn parse(message: &wire::Register, scope: &AgentScope) -> Result<Self, Refused> {
        let label = |field, text| label(field, text, scope);
        let namespace =
            label("namespace", &message.namespace)?.unwrap_or_else(|| scope.namespace.clone());
        let service = label("service", &message.service)?;
        let account = label("service_account", &message.service_account)?;
        let version = label("version", &message.version)?;
        if let (Some(service), Some(version)) = (&service, &version) {
            // Also derives a service of this name.
            label("version", &format!("{service}-{version}"))?;
        }
        let account = scope.authorise(&namespace, service.as_ref(), account.as_ref())?;
        if message.ports.len() > MAX_WORKLOAD_PORTS {
            let count = message.ports.len();
            return Err(Refused::Limit(format!(
                "a workload has at most {MAX_WORKLOAD_PORTS} ports, this has {count}"
            )));
        }
        let mut ports: Vec<RegisteredPort> = Vec::new();
        for message in &message.ports {
            let port = parse_port(message)?;
            if ports.iter().any(|known| collide(known, &port)) {
                return Err(Refused::Conflict(format!(
                    "port {} is named twice",
                    port.workload_port
                )));
            }
            ports.push(port);
        }
        Ok(Self {
            // An id that is none is as good as none: the program gets a new one.
            uid: message.uid.parse().ok(),
            namespace,
            service,
            account,
            version,
            ports,
            name: message.name.clone(),
            ready: message.ready,
        })
    }

    /// What is registered, under an id.
    pub(super) fn program(self, uid: WorkloadUid, agent: DnsLabel) -> Program {
        Program {
            uid,
            agent,
            name: self.unique_name(uid).into(),
            namespace: self.namespace,
            service_account: self.account,
            service: self.service,
            version: self.version,
            ports: self.ports.into(),
        }
    }

    /// Its name in the mesh: the one asked for or the service's, and the end of its id.
    fn unique_name(&self, uid: WorkloadUid) -> String {
        let suffix = uid.name_end();
        let legal = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
        let asked: String = self
            .name
            .to_ascii_lowercase()
            .chars()
            .map(|c| if legal(c) { c } else { '-' })
            .take(58)
            .collect();
        let asked = asked.strip_suffix(&suffix).unwrap_or(&asked);
        let asked = asked.trim_matches('-');
        let service = self.service.as_ref().map(DnsLabel::as_str);
        let base = if asked.is_empty() {
            service.unwrap_or("program")
        } else {
            asked
        };
        let base: String = base.chars().take(58).collect();
        format!("{}{suffix}", base.trim_end_matches('-'))
    }
}

fn collide(one: &RegisteredPort, other: &RegisteredPort) -> bool {
    (one.workload_port == other.workload_port && one.service_port == other.service_port)
        || (one.published.is_some() && one.published == other.published)
        || (one.service_port.is_some() && one.service_port == other.service_port)
}

/// What the agent's scope names is taken from there: it is kept once for all its workloads.
fn label(field: &'static str, text: &str, scope: &AgentScope) -> Result<Option<DnsLabel>, Refused> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(known) = scope.labels().find(|known| known.as_str() == text) {
        return Ok(Some(known.clone()));
    }
    text.parse().map(Some).map_err(|error| Refused::Invalid {
        field,
        reason: format!("{error}"),
    })
}

fn parse_port(message: &wire::Port) -> Result<RegisteredPort, Refused> {
    let invalid = |field, reason| Refused::Invalid { field, reason };
    let number = |field, number: u32| {
        u16::try_from(number).map_err(|_| invalid(field, format!("{number} is no port")))
    };
    let workload_port = number("ports.workload_port", message.workload_port)?;
    if workload_port == 0 {
        return Err(invalid("ports.workload_port", "0 is no port".into()));
    }
    let published = Some(number("ports.published", message.published)?).filter(|port| *port != 0);
    for (field, port) in [
        ("ports.workload_port", Some(workload_port)),
        ("ports.published", published),
    ] {
        if let Some(port) = port.filter(|port| ports::is_reserved(*port)) {
            let reason = format!("{port} is one of Leno's own: choose another");
            return Err(invalid(field, reason));
        }
    }
    let protocol = match message.app_protocol.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|error: leno_types::AppProtocolError| {
                    invalid("ports.app_protocol", error.to_string())
                })?,
        ),
    };
    let service_port = number("ports.service_port", message.service_port)?;
    Ok(RegisteredPort {
        service_port: Some(service_port).filter(|port| *port != 0),
        workload_port,
        protocol,
        published,
    })
}
