//! Whom a write would cut off, of those who called in the last ten minutes: said before it is in force.
//!
//! Who called is what agents reported, what comes of the write the compiler says, and whether somebody may call then
//! the proxies' own evaluator.
//! Invariant: at most [`MAX_WORKLOADS`] workloads are compiled and [`MAX_SENTENCES`] sentences made, whatever is asked;
//! what is beyond is said.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use leno_api::Proposed;
use leno_compile::{Foreseen, Input};
use leno_ir::{Mtls, MtlsMode, OwnWorkload};
use leno_policy::authorize;
use leno_types::{DnsLabel, Identity, ServiceName, WorkloadUid};

use super::Mesh;
use crate::telemetry::{OutsideCalls, Served};

/// Workloads that are looked at for one write, of those that it concerns and somebody called.
const MAX_WORKLOADS: usize = 256;
/// Of the workloads of one service, so many are looked at as callers of a service are concerned: they are told the same.
const REPLICAS: usize = 4;
/// Sentences of one answer.
const MAX_SENTENCES: usize = 8;
/// Callers that one sentence names.
const NAMED: usize = 8;

/// Callers by whom they called.
type Losses = BTreeMap<String, BTreeSet<String>>;

/// A caller of a workload, with the identity that it proved.
#[derive(Debug)]
struct Caller {
    name: String,
    identity: Option<Identity>,
}

impl Mesh {
    /// Whom these objects would cut off, a sentence for each service or port that somebody called.
    pub(crate) fn cut_off(&mut self, proposed: &[Proposed], now: Duration) -> Vec<String> {
        let callers = self.callers(now);
        let outsiders: BTreeSet<WorkloadUid> = {
            let recent = self.telemetry.outsiders.recent(now);
            recent.map(|((workload, ..), _)| *workload).collect()
        };
        let called: BTreeSet<WorkloadUid> = callers.keys().copied().chain(outsiders).collect();
        let proposed: Vec<Input> = proposed.iter().map(input).collect();
        let (foreseen, unseen) = self.compiler.foresee(proposed, &called, MAX_WORKLOADS);
        let mut losses = Losses::new();
        for of in &foreseen {
            let called = callers.get(&of.now.uid).map_or(&[][..], Vec::as_slice);
            denied(of, called, &mut losses);
        }
        let closed: BTreeMap<_, _> = foreseen.iter().flat_map(closed).collect();
        if !closed.is_empty() {
            self.refused(&closed, now, &mut losses);
        }
        sentences(&losses, unseen)
    }

    /// Who was served by which workloads; of the replicas of a service a few stand for all.
    fn callers(&self, now: Duration) -> BTreeMap<WorkloadUid, Vec<Caller>> {
        let mut callers: BTreeMap<WorkloadUid, Vec<Caller>> = BTreeMap::new();
        for of in self.telemetry.served(now) {
            let identity: Option<Identity> = of.source_identity.parse().ok();
            for uid in self.serving(&of) {
                callers.entry(uid).or_default().push(Caller {
                    name: called_as(of.source, identity.as_ref()),
                    identity: identity.clone(),
                });
            }
        }
        callers
    }

    /// The workloads that people mean by a destination.
    fn serving(&self, of: &Served<'_>) -> BTreeSet<WorkloadUid> {
        let identity: Option<Identity> = of.destination_identity.parse().ok();
        let namespace: Option<DnsLabel> =
            identity.and_then(|identity| identity.namespace()?.parse().ok());
        let name = namespace.and_then(|namespace| {
            let name = of.destination.parse().ok()?;
            Some(ServiceName::new(namespace, name))
        });
        name.map_or_else(BTreeSet::new, |name| self.compiler.serving(&name, REPLICAS))
    }

    /// Adds who came in plaintext to ports that will not take it.
    fn refused(
        &self,
        closed: &BTreeMap<(WorkloadUid, u16), String>,
        now: Duration,
        losses: &mut Losses,
    ) {
        let hosts = self.hosts_by_address();
        for ((workload, port, address), calls) in self.telemetry.outsiders.recent(now) {
            let Some(place) = closed.get(&(*workload, *port)) else {
                continue;
            };
            let host = hosts.get(address);
            let host = host.map_or(String::new(), |host| format!(" (host {host})"));
            let caller = format!("{address}{host}{}", did(&calls));
            let place = format!("{place} in plaintext");
            losses.entry(place).or_default().insert(caller);
        }
    }
}

fn input(of: &Proposed) -> Input {
    let (namespace, name) = (of.namespace.clone(), of.name.clone());
    Input::Object(of.kind, namespace, name, of.resource.clone())
}

/// The ports of a workload that take plaintext, and would not, with what people call them.
fn closed(of: &Foreseen) -> impl Iterator<Item = ((WorkloadUid, u16), String)> {
    let strict = |workload: &OwnWorkload, mtls: Option<&Mtls>| {
        mtls.unwrap_or(&workload.mtls).mode == MtlsMode::Strict
    };
    let then = move |port: u16| {
        let same = of.then.ports.iter().find(|of| of.port == port);
        strict(&of.then, same.and_then(|port| port.mtls.as_ref()))
    };
    of.now
        .ports
        .iter()
        .filter(move |port| !strict(&of.now, port.mtls.as_ref()) && then(port.port))
        .map(|port| {
            // Of a version's service and the service itself the shorter is what people call it.
            let services = port.services.iter().map(|of| of.service.name.as_str());
            let service = services.min_by_key(|name| name.len());
            let name = service.unwrap_or(&of.now.name);
            let place = format!("{}/{name}:{}", of.now.namespace, port.port);
            ((of.now.uid, port.port), place)
        })
}

/// Adds the callers of a workload that may call it at some port, and would not.
fn denied(of: &Foreseen, callers: &[Caller], losses: &mut Losses) {
    if of.now.access == of.then.access {
        return;
    }
    let mut ports: BTreeSet<u16> = of.now.ports.iter().map(|port| port.port).collect();
    if ports.is_empty() {
        // What is for any port.
        ports.insert(0);
    }
    let loses = |caller: &&Caller| {
        let may = |of: &OwnWorkload, port: u16| {
            authorize(&of.access, caller.identity.as_ref(), port).is_allowed()
        };
        ports
            .iter()
            .any(|port| may(&of.now, *port) && !may(&of.then, *port))
    };
    let name = match &of.now.service {
        Some(service) => service.to_string(),
        None => format!("{}/{}", of.now.namespace, of.now.name),
    };
    for caller in callers.iter().filter(loses) {
        losses
            .entry(name.clone())
            .or_default()
            .insert(caller.name.clone());
    }
}

/// A caller as people see it, with the word that allows or denies it where that is another.
fn called_as(source: &str, identity: Option<&Identity>) -> String {
    let is_version_of = |account: &str| {
        let rest = source.strip_prefix(account);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    match identity.and_then(Identity::service_account) {
        Some(account) if !is_version_of(account) => {
            format!("{source} (service account {account})")
        }
        Some(_) | None => source.to_owned(),
    }
}

fn did(calls: &OutsideCalls) -> String {
    match (calls.calls, calls.refused) {
        (0, 0) => ": connected".into(),
        (0, refused) => format!(": {refused} refused"),
        (1, 0) => ": 1 call".into(),
        (calls, 0) => format!(": {calls} calls"),
        (calls, refused) => format!(": {calls} calls, {refused} refused"),
    }
}

fn sentences(losses: &Losses, unseen: usize) -> Vec<String> {
    let sentence = |(place, callers): (&String, &BTreeSet<String>)| {
        let named: Vec<&str> = callers.iter().map(String::as_str).take(NAMED).collect();
        let more = match callers.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = named.join(", ");
        format!("cuts off, of those who called {place} in the last ten minutes: {named}{more}")
    };
    let mut all: Vec<String> = losses.iter().take(MAX_SENTENCES).map(sentence).collect();
    let more = losses.len().saturating_sub(MAX_SENTENCES);
    if more > 0 {
        all.push(format!("cuts callers of {more} more off"));
    }
    if unseen > 0 {
        all.push(format!(
            "may cut more off: callers of {MAX_WORKLOADS} programs were looked at, and {unseen} more were called"
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;

    use leno_compile::{Compiler, Place, Program, RegisteredPort, WorkloadRecord};
    use leno_config::{Kind, admit};
    use serde_json::{Value, json};

    use super::*;

    const WEB: WorkloadUid = WorkloadUid::from_bytes([7; 16]);

    /// A mesh in which shop/web listens on 8080 and 8081.
    fn mesh() -> Compiler {
        let port = |workload_port| RegisteredPort {
            service_port: Some(workload_port),
            workload_port,
            protocol: None,
            published: Some(workload_port),
        };
        let program = Program {
            uid: WEB,
            agent: "a".parse().unwrap(),
            namespace: "shop".parse().unwrap(),
            name: "web-1".into(),
            service_account: "web".parse().unwrap(),
            service: Some("web".parse().unwrap()),
            version: Some("v2".parse().unwrap()),
            ports: Box::new([port(8080), port(8081)]),
        };
        let place = Place {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            hbone_port: 15008,
        };
        let record = WorkloadRecord {
            program: Arc::new(program),
            place: Arc::new(place),
            versioned: true,
            health: leno_ir::Health::Healthy,
            ready: true,
        };
        let mut compiler = Compiler::new("d.leno".parse().unwrap());
        compiler.apply(vec![Input::Workload(WEB, Some(record))]);
        compiler
    }

    fn policy(kind: Kind, name: &str, spec: Value) -> Input {
        let value = json!({"apiVersion": "leno.dev/v1alpha1", "kind": kind.kind(),
            "metadata": {"name": name, "namespace": "shop"}, "spec": spec});
        let resource = Arc::new(admit(kind, value).unwrap().resource);
        let name = name.parse().unwrap();
        Input::Object(kind, "shop".parse().unwrap(), name, Some(resource))
    }

    /// What the ports of web lose by it.
    fn closes(compiler: &mut Compiler, policy: Input) -> Vec<String> {
        let foreseen = compiler.foresee(vec![policy], &BTreeSet::from([WEB]), 8).0;
        foreseen.iter().flat_map(closed).map(|of| of.1).collect()
    }

    #[test]
    fn ports_that_close_are_told_and_no_others() {
        let of = |spec| policy(Kind::AuthenticationPolicy, "new", spec);
        let strict = || json!({"mode": "STRICT"});
        let all = ["shop/web:8080", "shop/web:8081"];
        let web = || json!([{"kind": "Service", "name": "web"}]);
        for target in [
            json!({"selector": {"matchLabels": {"app": "web", "version": "v2"}}, "mtls": strict()}),
            json!({"targetRefs": web(), "mtls": strict()}),
            json!({"targetRefs": [{"kind": "Namespace"}], "mtls": strict()}),
            json!({"targetRefs": [{"kind": "Mesh"}], "mtls": strict()}),
        ] {
            assert_eq!(closes(&mut mesh(), of(target.clone())), all, "{target}");
        }
        let other = json!({"selector": {"matchLabels": {"app": "cart"}}, "mtls": strict()});
        assert!(closes(&mut mesh(), of(other)).is_empty());
        let port = json!({"targetRefs": web(), "portLevelMtls": {"8081": strict()}});
        assert_eq!(closes(&mut mesh(), of(port)), all[1..]);
        // What is closed already, or kept open by what is narrower, closes nothing.
        let mut closed = mesh();
        closed.apply(vec![policy(
            Kind::AuthenticationPolicy,
            "old",
            json!({"targetRefs": web(), "portLevelMtls": {"8080": strict(), "8081": {"mode": "PERMISSIVE"}}}),
        )]);
        let whole = json!({"targetRefs": [{"kind": "Mesh"}], "mtls": strict()});
        assert!(closes(&mut closed, of(whole)).is_empty());
        // The end of an exception closes, too.
        let mut open = mesh();
        let exception = json!({"targetRefs": web(), "mtls": {"mode": "PERMISSIVE"}});
        let whole = json!({"targetRefs": [{"kind": "Mesh"}], "mtls": strict()});
        open.apply(vec![
            policy(Kind::AuthenticationPolicy, "open", exception),
            of(whole),
        ]);
        let (kind, shop) = (Kind::AuthenticationPolicy, "shop".parse().unwrap());
        let gone = Input::Object(kind, shop, "open".parse().unwrap(), None);
        assert_eq!(closes(&mut open, gone), all);
    }

    /// Who of front, back and somebody without a certificate may not call web any more.
    fn lost(compiler: &mut Compiler, policy: Input) -> Vec<String> {
        let caller = |name: &str| Caller {
            name: name.into(),
            identity: format!("spiffe://d.leno/ns/shop/sa/{name}").parse().ok(),
        };
        let legacy = Caller {
            name: "legacy".into(),
            identity: None,
        };
        let callers = [caller("front"), caller("back"), legacy];
        let mut losses = Losses::new();
        for of in compiler.foresee(vec![policy], &BTreeSet::from([WEB]), 8).0 {
            denied(&of, &callers, &mut losses);
        }
        let lost = losses.remove("shop/web").unwrap_or_default();
        assert!(losses.is_empty(), "{losses:?}");
        lost.into_iter().collect()
    }

    #[test]
    fn callers_that_lose_by_a_policy_are_told_and_nobody_else() {
        let of = |name: &str, action: &str, who: &[&str]| {
            let who: Vec<String> = who.iter().map(|who| format!("shop/{who}")).collect();
            let spec = json!({"targetRefs": [{"kind": "Service", "name": "web"}], "action": action,
                "rules": [{"from": [{"serviceAccounts": who}]}]});
            policy(Kind::AccessPolicy, name, spec)
        };
        let compiler = &mut mesh();
        let deny = of("deny", "Deny", &["front"]);
        assert_eq!(lost(compiler, deny), ["front"]);
        let allow = of("a", "Allow", &["front"]);
        assert_eq!(lost(compiler, allow.clone()), ["back", "legacy"]);
        compiler.apply(vec![allow]);
        let beside = of("b", "Allow", &["back"]);
        assert!(lost(compiler, beside).is_empty(), "whoever another allows");
        let instead = of("a", "Allow", &["back"]);
        assert_eq!(lost(compiler, instead), ["front"], "in its own place");
        let (kind, shop) = (Kind::AccessPolicy, "shop".parse().unwrap());
        let gone = Input::Object(kind, shop, "a".parse().unwrap(), None);
        assert!(lost(compiler, gone).is_empty(), "then everybody may");
    }

    #[test]
    fn a_caller_is_told_with_the_word_that_means_it() {
        let of = |account: &str| {
            let text = format!("spiffe://d.leno/ns/default/sa/{account}");
            text.parse::<Identity>().unwrap()
        };
        let told = |source, account| called_as(source, Some(&of(account)));
        assert_eq!(told("front", "front"), "front");
        assert_eq!(told("catalog-v1", "catalog"), "catalog-v1");
        assert_eq!(told("curl", "default"), "curl (service account default)");
        assert_eq!(called_as("legacy", None), "legacy");
    }

    #[test]
    fn many_losses_are_a_few_sentences_that_say_how_many_there_are() {
        let callers: BTreeSet<String> = (0..NAMED + 3).map(|of| format!("c{of:02}")).collect();
        let losses: Losses = (0..MAX_SENTENCES + 5)
            .map(|of| (format!("shop/s{of:02}"), callers.clone()))
            .collect();
        let told = sentences(&losses, 7);
        assert_eq!(told.len(), MAX_SENTENCES + 2);
        assert_eq!(
            told[0],
            "cuts off, of those who called shop/s00 in the last ten minutes: c00, c01, c02, c03, c04, c05, c06, c07 and 3 more"
        );
        assert_eq!(told[MAX_SENTENCES], "cuts callers of 5 more off");
        assert!(told[MAX_SENTENCES + 1].contains("7 more were called"));
        assert!(sentences(&Losses::new(), 0).is_empty());
    }
}
