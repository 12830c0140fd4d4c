//! What to do about a refusal: commands that exist, with the names that it is about.

use leno_types::Refusal;
use serde_json::Value;

use crate::output::{items, text};

/// What the commands are about.
struct About<'a> {
    refusal: &'a Value,
    side: &'a Value,
}

/// The next steps, the likeliest first, and the page that says more.
pub(super) fn steps(refusal: &Value) -> Vec<String> {
    let (nothing, refusal) = (Value::Null, &words(refusal));
    let side = refusal.pointer("/sides/0").unwrap_or(&nothing);
    let Ok(reason) = text(side, "/reason").parse::<Refusal>() else {
        return vec!["leno check".into()];
    };
    let mut steps = About { refusal, side }.commands(reason);
    steps.dedup();
    steps.push(format!("leno explain {}", reason.code()));
    steps
}

/// What proxies said, without what is no word of a command: people copy them, and run them as who may do more.
fn words(value: &Value) -> Value {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
    match value {
        Value::String(text) if !text.chars().all(legal) || text.starts_with('-') => "".into(),
        Value::Array(list) => list.iter().map(words).collect(),
        Value::Object(object) => {
            let fields = object.iter();
            Value::Object(fields.map(|(name, of)| (name.clone(), words(of))).collect())
        }
        other => other.clone(),
    }
}

impl About<'_> {
    /// No `_` arm: a new reason must choose what to do.
    fn commands(&self, reason: Refusal) -> Vec<String> {
        match reason {
            Refusal::NoHealthyUpstream => vec![
                self.get("service", self.service()),
                self.proxy("endpoints"),
                "leno status".into(),
            ],
            Refusal::UpstreamConnectFailure => {
                vec![self.logs(), "leno check".into(), self.proxy("endpoints")]
            }
            Refusal::UpstreamReset | Refusal::UpstreamProtocol => {
                vec![self.logs(), "leno check".into()]
            }
            Refusal::Overflow | Refusal::Overload => {
                vec!["leno top".into(), self.logs(), "leno check".into()]
            }
            Refusal::NoRoute => vec![self.routes(), self.caller_logs()],
            Refusal::NoBackend => vec!["leno check".into(), self.rule()],
            Refusal::UpstreamTimeout => vec![self.rule(), self.logs()],
            Refusal::ClientGone | Refusal::ClientProtocol | Refusal::HeadTooLarge => {
                vec![self.caller_logs()]
            }
            Refusal::Denied => self.denied(),
            Refusal::UnknownDestination => {
                vec!["leno get services -A".into(), "leno status".into()]
            }
            Refusal::DiscoveryTimeout => vec!["leno check".into(), "leno status".into()],
            Refusal::ServiceGone => vec!["leno get services -A".into()],
            Refusal::PeerIdentity | Refusal::TlsHandshake => {
                vec!["leno proxy certs".into(), self.logs(), "leno check".into()]
            }
            Refusal::PlaintextRefused => {
                vec![
                    "leno run -- PROGRAM".into(),
                    "leno get accesspolicies -A".into(),
                ]
            }
            Refusal::ForgedDestination => vec![self.proxy("endpoints"), "leno proxy status".into()],
            Refusal::Loop => vec!["leno get httproutes -A".into(), self.caller_logs()],
            Refusal::NoCertificate => vec![self.proxy("certs"), "leno status".into()],
            Refusal::StreamEnded => {
                vec!["leno get accesspolicies -A".into(), self.proxy("certs")]
            }
        }
    }

    fn denied(&self) -> Vec<String> {
        let sides = || items(self.refusal, "/sides");
        let policies = sides().filter_map(|side| side.pointer("/rule"));
        let allowing = sides().flat_map(|side| items(side, "/allowing"));
        let policies = policies.chain(allowing);
        let policies: Vec<&Value> = policies
            .filter(|rule| text(rule, "/kind") == "AccessPolicy")
            .collect();
        if !policies.is_empty() && policies.iter().all(|rule| is_gone(rule)) {
            // What is called now is decided without them.
            return vec!["leno explain".into(), "leno get accesspolicies -A".into()];
        }
        let policy = policies.into_iter().find(|rule| !is_gone(rule));
        let named =
            policy.map(|of| self.object("accesspolicy", text(of, "/namespace"), text(of, "/name")));
        let mut steps: Vec<String> = named.into_iter().collect();
        let identity = text(self.side, "/caller/identity");
        let account = identity.rsplit_once("/sa/").map(|(_, account)| account);
        let namespace = identity
            .split("/ns/")
            .nth(1)
            .and_then(|rest| rest.split('/').next());
        let (name, of) = name_of(self.service());
        if let (Some(account), Some(namespace), false) = (account, namespace, name.is_empty()) {
            steps.push(format!(
                "leno allow {namespace}/{account} {name}{of} --dry-run"
            ));
        }
        steps.push("leno get accesspolicies -A".into());
        steps
    }

    /// The service that was called, or sent to, as `namespace/name`.
    fn service(&self) -> &str {
        let sides = || items(self.refusal, "/sides");
        let all = |pointer: &'static str| sides().map(move |side| text(side, pointer));
        let mut known = all("/backend/service").chain(all("/called/service"));
        known
            .find(|service| !service.is_empty())
            .unwrap_or_default()
    }

    /// The log of who was called; of who was refused where that is unknown.
    fn logs(&self) -> String {
        match self.service() {
            "" => self.caller_logs(),
            service => format!("leno logs {} --since 1m", short(service)),
        }
    }

    fn caller_logs(&self) -> String {
        let (name, host) = (text(self.side, "/workload/name"), text(self.side, "/host"));
        match (name, host) {
            ("", "") => "leno check".into(),
            ("", host) => format!("leno logs {host} --since 1m --errors"),
            (name, _) => format!("leno logs {name} --since 1m --errors"),
        }
    }

    fn proxy(&self, what: &str) -> String {
        match text(self.side, "/host") {
            "" => format!("leno proxy {what}"),
            host => format!("leno proxy {what} {host}"),
        }
    }

    /// The object whose rule decided.
    fn rule(&self) -> String {
        let mut rules = items(self.refusal, "/sides").filter_map(|side| side.pointer("/rule"));
        let allowing = || self.side.pointer("/allowing/0");
        let Some(rule) = rules.find(|rule| rule.is_object()).or_else(allowing) else {
            return self.routes();
        };
        let kind = text(rule, "/kind").to_ascii_lowercase();
        self.object(&kind, text(rule, "/namespace"), text(rule, "/name"))
    }

    fn routes(&self) -> String {
        let (_, of) = name_of(self.service());
        format!("leno get httproutes{of} -o yaml")
    }

    fn get(&self, kind: &str, service: &str) -> String {
        match service.split_once('/') {
            Some((namespace, name)) => self.object(kind, namespace, name),
            None => format!("leno get {kind}s -A"),
        }
    }

    fn object(&self, kind: &str, namespace: &str, name: &str) -> String {
        format!("leno get {kind} {name}{} -o yaml", in_namespace(namespace))
    }
}

/// A service's name, and how commands say its namespace.
/// Whether nobody is judged by it any more.
fn is_gone(rule: &Value) -> bool {
    text(rule, "/now") == "deleted"
}

fn name_of(service: &str) -> (&str, String) {
    match service.split_once('/') {
        Some((namespace, name)) => (name, in_namespace(namespace)),
        None => (service, String::new()),
    }
}

fn in_namespace(namespace: &str) -> String {
    match namespace {
        "" | "default" => String::new(),
        other => format!(" -n {other}"),
    }
}

fn short(service: &str) -> &str {
    service.strip_prefix("default/").unwrap_or(service)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use clap::Parser;
    use serde_json::json;

    use super::{super::pages::Topic, *};

    #[test]
    fn what_a_proxy_says_becomes_no_part_of_a_command_unless_it_is_a_name() {
        for name in [
            "p\nleno delete mesh",
            "p; reboot",
            "$(reboot)",
            "p --all",
            "--all",
            "p\u{202e}",
        ] {
            let refusal = json!({"sides": [{"reason": "RBAC", "host": name, "workload": {"name": name},
                "caller": {"identity": format!("spiffe://d/ns/{name}/sa/{name}")},
                "rule": {"kind": "AccessPolicy", "namespace": name, "name": name}}]});
            for step in steps(&refusal) {
                assert!(!step.contains(name), "{step}");
            }
        }
    }

    /// As much as can be known of one, and as little.
    fn refusals(reason: Refusal) -> [Value; 3] {
        let side = |namespace: &str, kind: &str| {
            json!({"reason": reason.code(), "host": "a", "workload": {"name": "web-1"},
            "caller": {"identity": "spiffe://d/ns/shop/sa/web"},
            "backend": {"service": format!("{namespace}/cart")},
            "rule": {"kind": kind, "namespace": namespace, "name": "cart", "field": "spec.rules[0]"}})
        };
        [
            json!({"sides": [{"reason": reason.code()}]}),
            json!({"sides": [side("default", "HTTPRoute")]}),
            json!({"sides": [side("shop", "AccessPolicy")]}),
        ]
    }

    #[test]
    fn every_reason_has_steps_that_are_commands_and_a_page() {
        for reason in Refusal::ALL.iter().copied() {
            for refusal in refusals(reason) {
                let steps = steps(&refusal);
                let page = steps.last().unwrap().strip_prefix("leno explain ");
                let page = page.and_then(Topic::of);
                assert_eq!(page, Some(Topic::Refusal(reason)), "{steps:?}");
                assert!(steps.len() > 1, "{reason}");
                for step in steps {
                    let parsed = crate::Cli::try_parse_from(step.split(' '));
                    assert!(parsed.is_ok(), "{reason}: {step}: {:?}", parsed.err());
                }
            }
        }
    }

    #[test]
    fn a_denied_caller_could_be_allowed_and_sees_who_denied_it() {
        let said = steps(&refusals(Refusal::Denied)[2]).join(" | ");
        assert!(
            said.contains("leno allow shop/web cart -n shop --dry-run"),
            "{said}"
        );
        assert!(
            said.contains("leno get accesspolicy cart -n shop -o yaml"),
            "{said}"
        );
    }

    #[test]
    fn a_policy_that_is_gone_is_not_where_to_look() {
        let mut refusal = refusals(Refusal::Denied)[2].clone();
        refusal["sides"][0]["rule"]["now"] = json!("deleted");
        let said = steps(&refusal).join(" | ");
        assert!(
            !said.contains("get accesspolicy ") && !said.contains("leno allow"),
            "{said}"
        );
    }
}
