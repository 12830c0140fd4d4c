//! The environment, read once and whole: every problem is told, not only the first.
//!
//! Owns the list of variables ([`SETTINGS`]), from which the reference page is written too. Refuses a `LENO_` variable
//! that is not in it, since a setting that is misspelt would silently not hold.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::PathBuf,
    str::FromStr,
};

use leno_agent::{
    Config, Exclusions, Prefix, host,
    protocol::{Port, Start},
};
use leno_types::DnsLabel;

/// One variable.
struct Setting {
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
}

/// Every variable there is.
const SETTINGS: &[Setting] = &[
    Setting {
        name: "LENO_TOKEN_FILE",
        default: "none",
        meaning: "The file of the join token, used when the data directory holds no membership yet.",
    },
    Setting {
        name: "LENO_DATA_DIR",
        default: "/var/lib/leno/agent",
        meaning: "Where the membership is kept: key, certificate, mesh. Keep it on a volume, or every start needs a token.",
    },
    Setting {
        name: "LENO_RUN_DIR",
        default: "/run/leno",
        meaning: "Where the agent's socket is, and what a restarted proxy goes on with. A tmpfs.",
    },
    Setting {
        name: "LENO_HOST",
        default: "the hostname's first label",
        meaning: "This host's name in the mesh.",
    },
    Setting {
        name: "LENO_ADDRESSES",
        default: "all but loopback and link-local",
        meaning: "The addresses at which others reach this host, separated by commas.",
    },
    Setting {
        name: "LENO_HBONE_PORT",
        default: "15008",
        meaning: "The port of mutual TLS between proxies.",
    },
    Setting {
        name: "LENO_ADMIN_ADDR",
        default: "127.0.0.1:15000",
        meaning: "Where the proxy's admin pages are.",
    },
    Setting {
        name: "LENO_METRICS_ADDR",
        default: "0.0.0.0:15020",
        meaning: "Where Prometheus reads metrics.",
    },
    Setting {
        name: "LENO_READINESS_ADDR",
        default: "0.0.0.0:15021",
        meaning: "Where readiness is asked: /healthz/ready.",
    },
    Setting {
        name: "LENO_DNS_UPSTREAMS",
        default: "those of /etc/resolv.conf",
        meaning: "Resolvers for names outside the mesh, as ADDRESS:PORT, separated by commas.",
    },
    Setting {
        name: "LENO_ACCESS_LOG",
        default: "none",
        meaning: "The file to which the access log is written, JSON lines; /dev/stdout is one.",
    },
    Setting {
        name: "LENO_LOG_FORMAT",
        default: "json",
        meaning: "How the proxy's own log is written to standard error: json or text.",
    },
    Setting {
        name: "LENO_CAPTURE",
        default: "none",
        meaning: "namespace: this whole network namespace is one workload, and its connections are captured (needs CAP_NET_ADMIN). none: only programs started by leno run.",
    },
    Setting {
        name: "LENO_SERVICE",
        default: "none",
        meaning: "The service that the workload serves; without one it only calls. Like all that follow, only with LENO_CAPTURE=namespace.",
    },
    Setting {
        name: "LENO_SERVICE_ACCOUNT",
        default: "the service's name, else default",
        meaning: "The service account as which the workload calls.",
    },
    Setting {
        name: "LENO_NAMESPACE",
        default: "what the join token says",
        meaning: "The mesh's namespace to which the workload belongs.",
    },
    Setting {
        name: "LENO_VERSION",
        default: "none",
        meaning: "The workload's version: labels it, and makes a service NAME-VERSION beside NAME.",
    },
    Setting {
        name: "LENO_PORTS",
        default: "none",
        meaning: "What the workload serves, as SERVICE[:PROGRAM][/PROTOCOL], separated by commas: 80:8080/http,5432. It counts as healthy while the first one accepts.",
    },
    Setting {
        name: "LENO_PRESERVE_SOURCE",
        default: "false",
        meaning: "true: the program sees its callers' addresses, not the proxy's (interceptionMode TPROXY of Istio).",
    },
    Setting {
        name: "LENO_EXCLUDE_INBOUND_PORTS",
        default: "none",
        meaning: "Ports on which connections come in past the mesh, separated by commas: in clear, unseen, under no policy.",
    },
    Setting {
        name: "LENO_EXCLUDE_OUTBOUND_PORTS",
        default: "none",
        meaning: "Ports to which connections go out past the mesh, wherever they are.",
    },
    Setting {
        name: "LENO_EXCLUDE_OUTBOUND_IP_RANGES",
        default: "none",
        meaning: "Networks to which connections go out past the mesh, as ADDRESS/LENGTH, separated by commas.",
    },
    Setting {
        name: "LENO_EXCLUDE_OUTBOUND_UIDS",
        default: "none",
        meaning: "Users (numbers, separated by commas) whose programs' connections go out past the mesh, their DNS included.",
    },
];

/// What the proxy is told.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The agent's part.
    pub(crate) agent: Config,
    /// Where the join token is.
    pub(crate) token_file: Option<PathBuf>,
    /// How the log is written.
    pub(crate) log_format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Whether the namespace is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Capture {
    Namespace,
    None,
}

/// Everything that is wrong with the environment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the environment cannot be used:")?;
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// A word that is none of those there are.
#[derive(Debug, thiserror::Error)]
#[error("it is {0}")]
pub(crate) struct Words(&'static str);

impl FromStr for LogFormat {
    type Err = Words;

    fn from_str(text: &str) -> Result<Self, Words> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(Words("text or json")),
        }
    }
}

impl FromStr for Capture {
    type Err = Words;

    fn from_str(text: &str) -> Result<Self, Words> {
        match text {
            "namespace" => Ok(Self::Namespace),
            "none" => Ok(Self::None),
            _ => Err(Words("namespace or none")),
        }
    }
}

/// What `--help` shows.
pub(crate) fn help() -> String {
    let mut text =
        String::from("leno-proxy: agent and data plane of a mesh, configured by the environment\n");
    for Setting {
        name,
        default,
        meaning,
    } in SETTINGS
    {
        text.push_str(&format!("\n{name} (default: {default})\n    {meaning}\n"));
    }
    text
}

/// Reads the process's environment.
pub(crate) fn read() -> Result<Settings, Problems> {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the configuration module of leno-proxy"
    )]
    let variables = std::env::vars_os();
    from(variables.filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        name.starts_with("LENO_")
            .then(|| (name, value.to_string_lossy().into_owned()))
    }))
}

/// Reads variables, wherever they come from.
fn from(variables: impl Iterator<Item = (String, String)>) -> Result<Settings, Problems> {
    let mut reader = Reader {
        values: variables.collect(),
        problems: Vec::new(),
    };
    reader.refuse_unknown();
    let agent = agent(&mut reader);
    let token_file = reader.one("LENO_TOKEN_FILE");
    let log_format = reader.one("LENO_LOG_FORMAT").unwrap_or(LogFormat::Json);
    let sidecar = sidecar(&mut reader);
    match agent {
        Some(mut agent) if reader.problems.is_empty() => {
            if let Some((start, exclusions)) = sidecar {
                agent.sidecar = Some(start);
                agent.exclusions = exclusions;
            }
            Ok(Settings {
                agent,
                token_file,
                log_format,
            })
        }
        Some(_) | None => Err(Problems(reader.problems)),
    }
}

/// The agent's own; `None` when a problem was noted that leaves nothing to go on with.
fn agent(reader: &mut Reader) -> Option<Config> {
    let host = reader
        .one::<DnsLabel>("LENO_HOST")
        .or_else(|| reader.fallback("LENO_HOST", host::name().parse()));
    let addresses = reader.list::<IpAddr>("LENO_ADDRESSES");
    let addresses = addresses.or_else(|| reader.fallback("LENO_ADDRESSES", host::addresses()));
    let data_dir = reader.one::<PathBuf>("LENO_DATA_DIR");
    let run_dir = reader.one::<PathBuf>("LENO_RUN_DIR");
    let mut config = Config::new(
        host?,
        addresses?,
        data_dir.unwrap_or_else(|| "/var/lib/leno/agent".into()),
        run_dir.unwrap_or_else(|| "/run/leno".into()),
    );
    let set = |value: &mut SocketAddr, read: Option<SocketAddr>| *value = read.unwrap_or(*value);
    config.hbone_port = reader
        .one::<u16>("LENO_HBONE_PORT")
        .unwrap_or(config.hbone_port);
    set(&mut config.admin, reader.one("LENO_ADMIN_ADDR"));
    set(&mut config.metrics, reader.one("LENO_METRICS_ADDR"));
    set(&mut config.readiness, reader.one("LENO_READINESS_ADDR"));
    let (resolvers, search) = host::resolvers();
    config.dns_upstreams = reader.list("LENO_DNS_UPSTREAMS").unwrap_or(resolvers);
    config.dns_search = search;
    config.access_log = reader.one("LENO_ACCESS_LOG");
    Some(config)
}

/// The workload that the whole namespace is.
fn sidecar(reader: &mut Reader) -> Option<(Start, Exclusions)> {
    let capture = reader
        .one::<Capture>("LENO_CAPTURE")
        .unwrap_or(Capture::None);
    let mut label = |name| reader.one::<DnsLabel>(name).map(|label| label.to_string());
    let service = label("LENO_SERVICE");
    let service_account = label("LENO_SERVICE_ACCOUNT");
    let namespace = label("LENO_NAMESPACE");
    let version = label("LENO_VERSION");
    let ports = reader.list::<Port>("LENO_PORTS");
    let preserve_source = reader.one::<bool>("LENO_PRESERVE_SOURCE");
    let exclusions = Exclusions {
        inbound_ports: ports_of(reader, "LENO_EXCLUDE_INBOUND_PORTS"),
        outbound_ports: ports_of(reader, "LENO_EXCLUDE_OUTBOUND_PORTS"),
        outbound_networks: reader
            .list::<Prefix>("LENO_EXCLUDE_OUTBOUND_IP_RANGES")
            .unwrap_or_default(),
        outbound_users: reader
            .list::<u32>("LENO_EXCLUDE_OUTBOUND_UIDS")
            .unwrap_or_default(),
    };
    if service.is_none() && ports.is_some() {
        reader.problem(
            "LENO_PORTS",
            "the ports need LENO_SERVICE, the name that others call",
        );
    }
    if capture == Capture::None {
        for name in [
            "LENO_SERVICE",
            "LENO_SERVICE_ACCOUNT",
            "LENO_NAMESPACE",
            "LENO_VERSION",
            "LENO_PORTS",
            "LENO_PRESERVE_SOURCE",
            "LENO_EXCLUDE_INBOUND_PORTS",
            "LENO_EXCLUDE_OUTBOUND_PORTS",
            "LENO_EXCLUDE_OUTBOUND_IP_RANGES",
            "LENO_EXCLUDE_OUTBOUND_UIDS",
        ] {
            if reader.values.contains_key(name) {
                reader.problem(name, "it needs LENO_CAPTURE=namespace");
            }
        }
        return None;
    }
    let start = Start {
        uid: None,
        namespace: namespace.unwrap_or_default(),
        program: service.clone().unwrap_or_else(|| "namespace".into()),
        service: service.unwrap_or_default(),
        service_account: service_account.unwrap_or_default(),
        version: version.unwrap_or_default(),
        ports: ports.unwrap_or_default(),
        network: leno_agent::protocol::Network::Own,
        preserve_source: preserve_source.unwrap_or(false),
        sockets: Vec::new(),
    };
    Some((start, exclusions))
}

fn ports_of(reader: &mut Reader, name: &'static str) -> Vec<u16> {
    let ports = reader.list::<NonZeroU16>(name).unwrap_or_default();
    ports.into_iter().map(NonZeroU16::get).collect()
}

/// Reads values and notes what is wrong with them.
struct Reader {
    values: BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Reader {
    /// A value; `None` where there is none, or a wrong one, which is noted. An empty one counts as none.
    fn one<T: FromStr<Err: fmt::Display>>(&mut self, name: &'static str) -> Option<T> {
        let text = self.values.get(name).filter(|text| !text.is_empty())?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let problem = format!("\"{text}\": {error}");
                self.problem(name, &problem);
                None
            }
        }
    }

    /// Values separated by commas.
    fn list<T: FromStr<Err: fmt::Display>>(&mut self, name: &'static str) -> Option<Vec<T>> {
        let text = self.values.get(name).filter(|text| !text.is_empty())?;
        let (mut values, mut wrong) = (Vec::new(), Vec::new());
        for part in text.split(',').map(str::trim) {
            match part.parse() {
                Ok(value) => values.push(value),
                Err(error) => wrong.push(format!("\"{part}\": {error}")),
            }
        }
        wrong.iter().for_each(|problem| self.problem(name, problem));
        Some(values)
    }

    /// What is found out where nobody says it; noted when it cannot be.
    fn fallback<T, E: fmt::Display>(&mut self, name: &str, found: Result<T, E>) -> Option<T> {
        // A wrong value is noted already.
        if self.values.get(name).is_some_and(|text| !text.is_empty()) {
            return None;
        }
        found
            .map_err(|error| self.problem(name, &format!("it must be given: {error}")))
            .ok()
    }

    fn problem(&mut self, name: &str, problem: &str) {
        self.problems.push(format!("{name}: {problem}"));
    }

    fn refuse_unknown(&mut self) {
        let known = |name: &str| SETTINGS.iter().any(|setting| setting.name == name);
        let unknown: Vec<String> = self
            .values
            .keys()
            .filter(|name| !known(name))
            .cloned()
            .collect();
        for name in unknown {
            let hint = nearest(&name).map_or_else(
                || "the variables there are stand in docs/reference/leno-proxy.md".into(),
                |near| format!("did you mean {near}?"),
            );
            self.problem(&name, &format!("there is no such variable; {hint}"));
        }
    }
}

/// The variable that was probably meant.
fn nearest(name: &str) -> Option<&'static str> {
    let distances = SETTINGS
        .iter()
        .map(|setting| (distance(name, setting.name), setting.name));
    let (distance, nearest) = distances.min()?;
    (distance <= 4).then_some(nearest)
}

/// How many characters to add, drop or change (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, left) in from.bytes().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(to.bytes()) {
            let change = diagonal + usize::from(left != right);
            diagonal = *cell;
            *cell = change.min(diagonal + 1).min(before + 1);
            before = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
