//! How a mesh's workloads are called, and who may speak of them.
//!
//! Owns the programs that are gone, for late reports of them; those that are there are the registry's. Refuses an edge
//! whose reporting side its agent does not host: what one host says of another's traffic is not believed.
//! Invariant: at most as many are kept as there are workloads, and [`SPARE`] more.

use std::{collections::BTreeMap, sync::Arc};

use leno_compile::Program;
use leno_types::{DnsLabel, TrustDomain, WorkloadUid, deployed_name};
use leno_wire::agent::EdgeDelta;

use crate::{registry::Registry, telemetry};

/// Programs that are gone, beside as many as there are workloads.
const SPARE: usize = 4_096;
/// Where a proxy counts what is beyond its own ceiling on edges.
const OTHER: &str = "other";

/// Programs that are gone, or had another name.
#[derive(Debug, Default)]
pub(super) struct Former(BTreeMap<WorkloadUid, Arc<Program>>);

impl Former {
    /// A program is gone, and so many are there. Once too many are gone they are forgotten.
    pub(super) fn insert(&mut self, program: Arc<Program>, there: usize) {
        self.0.insert(program.uid, program);
        if self.0.len() > there.saturating_add(SPARE) {
            self.0.clear();
        }
    }
}

/// Names of workloads.
pub(super) struct WorkloadNames<'a> {
    pub(super) registry: &'a Registry,
    pub(super) former: &'a Former,
    pub(super) domain: &'a TrustDomain,
}

impl WorkloadNames<'_> {
    /// Programs of a name, those that are there first; nearly always it is one. A name ends as its program's id begins.
    fn named(&self, name: &str) -> impl Iterator<Item = &Program> {
        let range = WorkloadUid::range_of_name(name);
        let all = [self.registry.programs(), &self.former.0];
        let all = all.into_iter().zip(std::iter::repeat(range));
        let near = all.filter_map(|(programs, range)| {
            let (first, last) = range?;
            Some(programs.range(first..=last))
        });
        let near = near.flatten().map(|(_, program)| &**program);
        near.filter(move |program| *program.name == *name)
    }

    /// Whether the side that an edge was seen from is a workload of this agent, with its identity or none.
    pub(super) fn may_report(&self, agent: &DnsLabel, edge: &EdgeDelta) -> bool {
        let (workload, identity, peer) = match edge.reporter {
            0 => (
                &edge.source_workload,
                &edge.source_identity,
                &edge.destination_workload,
            ),
            1 => (
                &edge.destination_workload,
                &edge.destination_identity,
                &edge.source_workload,
            ),
            _ => return false,
        };
        let is_its = |identity: &str, program: &Program| {
            identity.is_empty() || identity == program.identity(self.domain).as_str()
        };
        let of_agent = (self.named(workload))
            .any(|program| program.agent == *agent && is_its(identity, program));
        let nobody = || edge.source_identity.is_empty() && edge.destination_identity.is_empty();
        of_agent || (workload == OTHER && peer == OTHER && nobody())
    }
}

impl telemetry::Names for WorkloadNames<'_> {
    fn display(&self, workload: &str) -> Option<String> {
        self.named(workload).next().map(display_name)
    }
}

/// What people call a program: its service or what was deployed, with its version.
fn display_name(program: &Program) -> String {
    let base = match &program.service {
        Some(service) => service.as_str(),
        None => deployed_name(&program.name),
    };
    match &program.version {
        Some(version) => format!("{base}-{version}"),
        None => base.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::{Duration, SystemTime};

    use leno_wire::agent as wire;

    use super::*;
    use crate::{
        registry::{AgentScope, Effects, Opening},
        telemetry::Names as _,
        uids::UidMint,
    };

    #[test]
    fn a_program_is_reported_by_its_agent_alone_also_when_it_is_gone() {
        let label = |text: &str| text.parse::<DnsLabel>().unwrap();
        let mint = UidMint::new(label("default"), &[1; 32]);
        let mut registry = Registry::new(mint, Duration::ZERO);
        let mut former = Former::default();
        let domain = "default.leno".parse().unwrap();
        let opening = Opening {
            session: 1,
            agent: &label("a"),
            scope: AgentScope::any(label("shop")),
            source: "10.0.0.1".parse().unwrap(),
            hello: &wire::Hello::default(),
            wall: SystemTime::UNIX_EPOCH,
        };
        let mut fx = Effects::default();
        registry.open(opening, Duration::ZERO, &mut fx).unwrap();
        let cart = |version: &str| wire::Register {
            service: "cart".into(),
            version: version.into(),
            ..wire::Register::default()
        };
        // Ids that begin alike, so that both have one name.
        let one = registry.register(1, &cart("v1"), [7; 8], 0, &mut fx);
        let two = registry.register(1, &cart("v2"), [7; 8], 0, &mut fx);
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(one.name == two.name && one.uid != two.uid);
        let edge = |identity: &str| EdgeDelta {
            source_workload: one.name.to_string(),
            source_identity: identity.into(),
            ..EdgeDelta::default()
        };
        let own = "spiffe://default.leno/ns/shop/sa/cart";
        let told = |registry: &Registry, former: &Former| {
            let names = WorkloadNames {
                registry,
                former,
                domain: &domain,
            };
            let may =
                |agent: &str, identity: &str| names.may_report(&label(agent), &edge(identity));
            (
                names.display(&one.name),
                may("a", own),
                may("a", ""),
                may("b", own),
                may("a", "spiffe://default.leno/ns/shop/sa/pay"),
            )
        };
        let shown = |version: &str| Some(format!("cart-{version}"));
        let first = told(&registry, &former);
        assert!(first.0 == shown("v1") || first.0 == shown("v2"));
        assert_eq!(
            (first.1, first.2, first.3, first.4),
            (true, true, false, false)
        );
        for gone in [one.uid, two.uid] {
            let mut fx = Effects::default();
            registry.deregister(1, gone, &mut fx);
            former.insert(fx.changed.remove(&gone).unwrap(), registry.len());
            let late = told(&registry, &former);
            assert!(late.0.is_some());
            assert_eq!((late.1, late.2, late.3, late.4), (true, true, false, false));
        }
        // Once too many are gone they are forgotten.
        for number in 0..=SPARE {
            let mut other = (*one).clone();
            let mut uid = [0; 16];
            uid[8..].copy_from_slice(&number.to_be_bytes());
            other.uid = WorkloadUid::from_bytes(uid);
            former.insert(Arc::new(other), registry.len());
        }
        assert_eq!(told(&registry, &former).0, None);
    }
}
