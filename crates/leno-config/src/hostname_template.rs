//! Templates of host names: `{{ .Name }}.{{ label "tier" }}.mesh.local`, parsed once.
//!
//! Owns the language: plain text, four properties of a service, and its labels. It computes nothing, so that a template
//! cannot fail but for a label that is not there and for a name that is none. Refuses what does not end in a domain that
//! is written out: by it a proxy tells names that may be the mesh's from all others.
//! Invariant: whatever a template gives is a host name below its domain, and none by which the mesh knows services.

use std::{collections::BTreeMap, fmt, str::FromStr};

use leno_types::{DnsLabel, HostName, HostNameError};

use crate::{finding::nearest, meta::is_qualified};

/// Characters of a template at most.
const LONGEST: usize = 512;
/// Domains whose names already mean something to every program of a mesh.
const RESERVED: &[&str] = &[
    "cluster.local",
    "localhost",
    "svc",
    "in-addr.arpa",
    "ip6.arpa",
];
/// What stands between `{{` and `}}`, as it is suggested.
const ACTIONS: &[&str] = &[".Name", ".DisplayName", ".Namespace", ".Mesh", "label"];
/// The label that [`Part::DisplayName`] means.
const DISPLAY_NAME: &str = "leno.dev/display-name";

/// A template of host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostnameTemplate {
    text: String,
    parts: Vec<Part>,
    domain: HostName,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Name,
    DisplayName,
    Namespace,
    Mesh,
    Label(String),
}

/// What a template is filled with.
#[derive(Clone, Copy, Debug)]
pub struct NamedService<'a> {
    /// The mesh.
    pub mesh: &'a DnsLabel,
    /// The service's namespace.
    pub namespace: &'a DnsLabel,
    /// Its name.
    pub name: &'a DnsLabel,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostnameTemplateError {
    /// Longer than any that makes a name.
    #[error("a template has at most {LONGEST} characters, this has {0}")]
    Length(usize),
    /// `{{` without `}}`.
    #[error("\"{0}\" is not closed: write {{{{ .Name }}}}")]
    Open(String),
    /// Neither a property nor `label`.
    #[error(
        "\"{0}\" is nothing that a template knows: there are .Name, .DisplayName, .Namespace, .Mesh and label \"KEY\""
    )]
    Unknown(String),
    /// What other meshes have.
    #[error("a mesh of Leno has no zones: leave .Zone out")]
    Zone,
    /// `label` without a label.
    #[error("\"{0}\" names no label: write label \"KEY\"")]
    Label(String),
    /// What is written out is no part of a host name.
    #[error("with every {{{{ }}}} filled in it is \"{name}\", which is no host name: {error}")]
    Name {
        /// The template, filled in.
        name: String,
        /// What is wrong with it.
        error: HostNameError,
    },
    /// It does not end in a domain.
    #[error(
        "must end in a domain of at least two labels, written out, such as .svc.mesh.local: a shorter name would mean a \
         service of a namespace"
    )]
    NoDomain,
    /// It ends in one that is taken.
    #[error("\"{0}\" is a domain of its own, whose names already mean something: end in another")]
    Reserved(HostName),
}

/// Why a service gets no name from a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unnamed {
    /// It does not have a label.
    #[error("it has no label \"{0}\"")]
    NoLabel(String),
    /// The template, filled in, is no host name.
    #[error("\"{name}\" is no host name: {error}")]
    Name {
        /// What came out.
        name: String,
        /// What is wrong with it.
        error: HostNameError,
    },
}

impl HostnameTemplate {
    /// The domain it ends in: all that it gives lies below.
    #[must_use]
    pub fn domain(&self) -> &HostName {
        &self.domain
    }

    /// The name that it gives to a service. Letters of labels become lower case, as DNS has them alike.
    ///
    /// # Errors
    /// A label is not there, or what comes out is no host name.
    pub fn fill(&self, service: NamedService<'_>) -> Result<HostName, Unnamed> {
        let mut name = String::new();
        for part in &self.parts {
            let labelled = |key: &str| {
                service
                    .labels
                    .get(key)
                    .map(|value| value.to_ascii_lowercase())
            };
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Name => name.push_str(service.name.as_str()),
                Part::DisplayName => match labelled(DISPLAY_NAME) {
                    Some(label) => name.push_str(&label),
                    None => name.push_str(service.name.as_str()),
                },
                Part::Namespace => name.push_str(service.namespace.as_str()),
                Part::Mesh => name.push_str(service.mesh.as_str()),
                Part::Label(key) => match labelled(key) {
                    Some(label) => name.push_str(&label),
                    None => return Err(Unnamed::NoLabel(key.clone())),
                },
            }
        }
        name.parse().map_err(|error| Unnamed::Name { name, error })
    }
}

impl HostnameTemplateError {
    /// The nearest text that would be right.
    pub(crate) fn suggestion(&self) -> Option<String> {
        match self {
            Self::Unknown(word) => nearest(word, ACTIONS)
                .or_else(|| nearest(&format!(".{word}"), ACTIONS))
                .map(|near| match near.as_str() {
                    "label" => "label \"KEY\"".into(),
                    _ => near,
                }),
            Self::Name { name, .. } => {
                let lower = name.to_ascii_lowercase();
                let helps = lower != *name && lower.parse::<HostName>().is_ok();
                helps.then_some(lower)
            }
            _ => None,
        }
    }
}

impl FromStr for HostnameTemplate {
    type Err = HostnameTemplateError;

    fn from_str(text: &str) -> Result<Self, HostnameTemplateError> {
        if text.len() > LONGEST {
            return Err(HostnameTemplateError::Length(text.len()));
        }
        let parts = parts(text)?;
        // Every value that it may be filled with begins and ends with a letter or digit, as this one.
        let filled = parts.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            _ => "x",
        });
        let name: String = filled.collect();
        let example: HostName = match name.parse() {
            Ok(example) => example,
            Err(error) => return Err(HostnameTemplateError::Name { name, error }),
        };
        let end = match parts.last() {
            Some(Part::Text(end)) => end.split_once('.'),
            _ => None,
        };
        let domain = end.and_then(|(_, domain)| domain.parse::<HostName>().ok());
        let domain = domain.filter(|domain| domain.labels().count() >= 2);
        let domain = domain.ok_or(HostnameTemplateError::NoDomain)?;
        if RESERVED.iter().any(|reserved| example.is_within(reserved)) {
            return Err(HostnameTemplateError::Reserved(domain));
        }
        Ok(Self {
            text: text.into(),
            parts,
            domain,
        })
    }
}

impl fmt::Display for HostnameTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Text and what stands in braces, in turn.
fn parts(text: &str) -> Result<Vec<Part>, HostnameTemplateError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        if !before.is_empty() {
            parts.push(Part::Text(before.into()));
        }
        let Some((inside, after)) = after.split_once("}}") else {
            return Err(HostnameTemplateError::Open(shown(&format!("{{{{{after}"))));
        };
        parts.push(action(inside.trim())?);
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.into()));
    }
    Ok(parts)
}

fn action(inside: &str) -> Result<Part, HostnameTemplateError> {
    match inside {
        ".Name" => return Ok(Part::Name),
        ".DisplayName" => return Ok(Part::DisplayName),
        ".Namespace" => return Ok(Part::Namespace),
        ".Mesh" => return Ok(Part::Mesh),
        ".Zone" => return Err(HostnameTemplateError::Zone),
        _ => {}
    }
    let after = inside.strip_prefix("label");
    let Some(key) = after.filter(|key| !key.starts_with(|next: char| next.is_alphanumeric()))
    else {
        let word = inside.split_whitespace().next().unwrap_or(inside);
        return Err(HostnameTemplateError::Unknown(shown(word)));
    };
    let quoted = |quote: char| key.trim().strip_prefix(quote)?.strip_suffix(quote);
    match quoted('"')
        .or_else(|| quoted('`'))
        .filter(|key| is_qualified(key))
    {
        Some(key) => Ok(Part::Label(key.into())),
        None => Err(HostnameTemplateError::Label(shown(inside))),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn fill(template: &str, labels: &[(&str, &str)]) -> Result<String, Unnamed> {
        let label = |text: &str| text.parse::<DnsLabel>().unwrap();
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()));
        let (mesh, namespace, name) = (label("default"), label("shop"), label("cart"));
        let filled = template
            .parse::<HostnameTemplate>()
            .unwrap()
            .fill(NamedService {
                mesh: &mesh,
                namespace: &namespace,
                name: &name,
                labels: &labels.collect(),
            });
        filled.map(|name| name.to_string())
    }

    #[test]
    fn a_template_is_filled_with_what_a_service_is_called_and_labelled() {
        let all = "{{ .Name }}-x.{{.Namespace}}.{{ .Mesh}}.svc.mesh.local";
        assert_eq!(
            fill(all, &[]).unwrap(),
            "cart-x.shop.default.svc.mesh.local"
        );
        let label = "{{ label \"a/tier\" }}.{{ label `team` }}.example.com";
        let labels = [("a/tier", "Front"), ("team", "b.c")];
        assert_eq!(fill(label, &labels).unwrap(), "front.b.c.example.com");
        let display = "{{ .DisplayName }}.mesh.local";
        assert_eq!(fill(display, &[]).unwrap(), "cart.mesh.local");
        assert_eq!(
            fill(display, &[(DISPLAY_NAME, "basket")]).unwrap(),
            "basket.mesh.local"
        );
        assert_eq!(fill("shop.example.com", &[]).unwrap(), "shop.example.com");
    }

    #[test]
    fn a_service_that_does_not_fit_is_told_why() {
        let template = "{{ label \"tier\" }}.mesh.local";
        assert_eq!(fill(template, &[]), Err(Unnamed::NoLabel("tier".into())));
        for value in ["a_b", "", "a..b", &"a".repeat(64)] {
            let filled = fill(template, &[("tier", value)]);
            assert!(
                matches!(filled, Err(Unnamed::Name { .. })),
                "{value}: {filled:?}"
            );
        }
    }

    #[test]
    fn what_is_no_template_is_refused_with_what_to_write() {
        let cases = [
            (
                "{{ .Nam }}.mesh.local",
                "\".Nam\" is nothing",
                Some(".Name"),
            ),
            (
                "{{ Name }}.mesh.local",
                "\"Name\" is nothing",
                Some(".Name"),
            ),
            ("{{ .Zone }}.mesh.local", "no zones", None),
            (
                "{{ labels \"a\" }}.mesh.local",
                "\"labels\" is nothing",
                Some("label \"KEY\""),
            ),
            ("{{ label a }}.mesh.local", "names no label", None),
            ("{{ label \"a b\" }}.mesh.local", "names no label", None),
            ("{{ .Name.mesh.local", "is not closed", None),
            ("{{ .Name }}", "must end in a domain", None),
            ("{{ .Name }}.mesh", "must end in a domain", None),
            ("{{ .Name }}.x.{{ .Mesh }}", "must end in a domain", None),
            ("", "1 to 253 characters", None),
            (
                "{{ .Name }}.Mesh.local",
                "no host name",
                Some("x.mesh.local"),
            ),
            ("{{ .Name }}..local", "no host name", None),
            (".mesh.local", "no host name", None),
            ("{{ .Name }}.mesh.local.", "no host name", None),
            ("{{ .Name }} .mesh.local", "no host name", None),
            (
                "{{ .Name }}.svc.cluster.local",
                "\"svc.cluster.local\" is a domain",
                None,
            ),
            (
                "{{ .Name }}.cluster.local",
                "\"cluster.local\" is a domain",
                None,
            ),
            ("{{ .Name }}.shop.svc", "\"shop.svc\" is a domain", None),
            (
                "{{ .Name }}.a.localhost",
                "\"a.localhost\" is a domain",
                None,
            ),
        ];
        for (text, reason, suggestion) in cases {
            let error = text.parse::<HostnameTemplate>().unwrap_err();
            assert!(error.to_string().contains(reason), "{text}: {error}");
            assert_eq!(error.suggestion().as_deref(), suggestion, "{text}");
        }
        let long = format!("{}.mesh.local", "{{ .Name }}".repeat(60));
        assert!(matches!(
            long.parse::<HostnameTemplate>(),
            Err(HostnameTemplateError::Length(_))
        ));
    }
}
