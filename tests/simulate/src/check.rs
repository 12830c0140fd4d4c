//! What must hold: of a mesh at any moment, and of a mesh that has come to rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use leno_agent::simulation::Wanted;
use leno_controlplane::{
    distribution::{Catalog, Type},
    simulation::Look,
};
use leno_types::{MeshName, WorkloadUid};

use crate::{host::Host, sim::Sim, site::Site};

/// Of one mesh: what is said of proxies is what they said.
pub(crate) fn at_any_moment(sim: &Sim, look: &Look, hosts: &[&Rc<Host>]) {
    if look.divergences > 0 {
        sim.wrong("the auditor found a divergence");
    }
    for status in &look.different_statuses {
        sim.wrong(format!(
            "a status is shown that is not so any more: {status}"
        ));
    }
    for (agent, sent) in &look.streams {
        let Some(host) = hosts.iter().find(|host| host.who.agent == *agent) else {
            sim.wrong(format!("{agent} is no host of this mesh"));
            continue;
        };
        for ((kind, name), (version, running, acked)) in sent {
            let claimed = [(*acked).then_some(version), Some(running)];
            for version in claimed.into_iter().flatten().filter(|of| !of.is_empty()) {
                if !host.has_acked(kind.url(), name, version) {
                    let kind = kind.name();
                    sim.wrong(format!(
                        "{} is said to run {kind} {name} in a version to which it never said so",
                        host.name()
                    ));
                }
            }
        }
    }
}

/// What a host is to hold.
fn expected(
    host: &Host,
    look: &Look,
    fresh: Catalog<'_>,
) -> BTreeMap<(String, String), (String, Vec<u8>)> {
    let mut resources = Vec::new();
    let of = fresh.resolve(Type::Mesh, "mesh");
    resources.extend(of.map(|of| (Type::Mesh, of)));
    let own = look.agents.get(&host.who.agent);
    for uid in own.into_iter().flat_map(|agent| agent.workloads.keys()) {
        let of = fresh.resolve(Type::OwnWorkload, &uid.to_string());
        resources.extend(of.map(|of| (Type::OwnWorkload, of)));
    }
    for (wanted, name) in host.wants() {
        let kind = match wanted {
            Wanted::Destination => Type::Destination,
            Wanted::Endpoints => Type::Endpoints,
        };
        resources.extend(fresh.resolve(kind, &name).map(|of| (kind, of)));
    }
    let all = resources.into_iter().map(|(kind, of)| {
        let key = (kind.url().to_owned(), of.name.to_string());
        (key, (of.version.to_string(), of.body.to_vec()))
    });
    all.collect()
}

/// Of one mesh that has come to rest.
pub(crate) fn at_rest(sim: &Sim, look: &Look, hosts: &[&Rc<Host>]) {
    let Some(fresh) = &look.fresh else {
        return sim.wrong("nothing was compiled afresh");
    };
    let fresh = Catalog::new(fresh);
    for ((kind, name), version) in &look.served {
        let fresh = fresh.resolve(*kind, name);
        if fresh.map(|of| of.version.to_string()).as_ref() != Some(version) {
            let kind = kind.name();
            sim.wrong(format!(
                "{kind} {name} is served, and is another when compiled afresh"
            ));
        }
    }
    for (kind, resource) in fresh.all() {
        let key = (kind, resource.name.to_string());
        if !look.served.contains_key(&key) {
            sim.wrong(format!("{} {} is not served", kind.name(), key.1));
        }
    }
    for host in hosts {
        members(sim, look, host);
        if host.powered.get() {
            holds(sim, look, fresh, host);
        }
    }
}

/// Who is in the registry is what runs.
fn members(sim: &Sim, look: &Look, host: &Host) {
    let leased = look.agents.get(&host.who.agent);
    let name = host.name();
    if !host.powered.get() {
        if let Some(agent) = leased.filter(|agent| !agent.unknown) {
            sim.wrong(format!(
                "{name} is off and has a lease, with {} workloads",
                agent.workloads.len()
            ));
        }
        return;
    }
    let Some(agent) = leased.filter(|agent| agent.connected) else {
        return sim.wrong(format!("{name} is not connected"));
    };
    let registered = agent.workloads.keys().copied().collect();
    if host.runs() != Some(registered) {
        sim.wrong(format!(
            "{name} runs {:?}, and registered are {:?}",
            host.runs(),
            agent.workloads.keys()
        ));
    }
}

/// What a host holds is what a fresh, full compilation says.
fn holds(sim: &Sim, look: &Look, fresh: Catalog<'_>, host: &Host) {
    let (held, mut expected) = (host.held(), expected(host, look, fresh));
    sim.count("compared", expected.len() as u64);
    let name = host.name();
    for (key, resource) in held {
        let what = format!("{} {}", key.0.rsplit('.').next().unwrap_or_default(), key.1);
        let content = resource.resource.map(|of| of.value).unwrap_or_default();
        match expected.remove(&key) {
            None => sim.wrong(format!("{name} holds {what}, which it is not to hold")),
            Some((version, body)) if version != resource.version || body != content => {
                sim.wrong(format!(
                    "{name} holds {what} at {}, and it is {version}",
                    resource.version
                ));
            }
            Some(_) => {}
        }
    }
    for (kind, missing) in expected.keys() {
        sim.wrong(format!("{name} misses {kind} {missing}"));
    }
}

/// How long a workload that is gone may be in the registry: as long as a successor of its agent is waited for, then its
/// lease, or the time to name workloads again; and what messages take.
const GHOST: Duration = Duration::from_secs(45);

/// How long a host that is connected may hold one as an endpoint after that: what messages take on a slow network.
const HELD: Duration = Duration::from_secs(30);

/// Workloads that are gone, and since when it is known; by mesh.
#[derive(Default)]
pub(crate) struct Ghosts {
    registered: BTreeMap<(MeshName, WorkloadUid), Duration>,
    /// As endpoints, by host.
    held: BTreeMap<(MeshName, String, WorkloadUid), Duration>,
}

impl Ghosts {
    /// Looks at one mesh.
    pub(crate) fn look(&mut self, sim: &Sim, mesh: &MeshName, look: &Look, hosts: &[&Rc<Host>]) {
        let now = sim.now();
        let powered = hosts.iter().filter(|host| host.powered.get());
        let alive: BTreeSet<WorkloadUid> = powered.flat_map(|host| host.known()).collect();
        let of_agents = |unknown: bool| {
            let agents = look.agents.values().filter(move |of| of.unknown == unknown);
            agents.flat_map(|agent| agent.workloads.keys().copied())
        };
        // What is kept as unknown is no endpoint that is believed in.
        let ghosts: BTreeSet<WorkloadUid> = of_agents(false)
            .filter(|uid| !alive.contains(uid))
            .collect();
        self.registered
            .retain(|(of, uid), _| of != mesh || ghosts.contains(uid));
        for uid in ghosts {
            let since = self.registered.entry((mesh.clone(), uid));
            let since = *since.or_insert_with(|| {
                sim.count("ghost", 1);
                now
            });
            if now.saturating_sub(since) > GHOST {
                sim.wrong(format!(
                    "{uid} of mesh {mesh} is registered, and gone since {since:?}"
                ));
            }
        }
        let excused: BTreeSet<WorkloadUid> = of_agents(true).chain(alive).collect();
        for host in hosts {
            self.look_at(sim, host, &excused);
        }
    }

    /// Looks at the endpoints that a host holds.
    fn look_at(&mut self, sim: &Sim, host: &Host, excused: &BTreeSet<WorkloadUid>) {
        let (now, name) = (sim.now(), host.who.agent.to_string());
        let (up, held) = host.endpoints().unwrap_or_default();
        let ghosts: BTreeSet<WorkloadUid> = held.difference(excused).copied().collect();
        self.held
            .retain(|(mesh, of, uid), _| *mesh != host.mesh || *of != name || ghosts.contains(uid));
        for uid in ghosts {
            let since = self.held.entry((host.mesh.clone(), name.clone(), uid));
            let since = *since.or_insert_with(|| {
                sim.count("ghost held", 1);
                now
            });
            // On a new connection it may be told anew for as long as it is registered.
            let since = since.max(up);
            if now.saturating_sub(since) > GHOST + HELD {
                let name = host.name();
                sim.wrong(format!(
                    "{name} holds {uid} as an endpoint, and it is gone since {since:?}"
                ));
            }
        }
    }
}

/// What is in a mesh, if there is a control plane to ask.
pub(crate) async fn look(site: &Site, mesh: &MeshName, afresh: bool) -> Option<Look> {
    let life = site.life()?;
    crate::link::while_alive(&life, life.plane.look(mesh, afresh))
        .await
        .flatten()
}
