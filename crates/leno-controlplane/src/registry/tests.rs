#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use super::*;

struct World {
    registry: Registry,
    now: Duration,
    sessions: u64,
}

fn label(text: &str) -> DnsLabel {
    text.parse().unwrap()
}

fn scope(services: &[&str]) -> AgentScope {
    AgentScope {
        any: false,
        namespace: label("shop"),
        account: None,
        services: services.iter().map(|service| label(service)).collect(),
        cidr: None,
    }
}

impl World {
    fn new() -> Self {
        let mint = UidMint::new(label("default"), &[1; 32]);
        Self {
            registry: Registry::new(mint, Duration::ZERO),
            now: Duration::ZERO,
            sessions: 0,
        }
    }

    fn open(&mut self, agent: &str, source: &str, claimed: &[&str]) -> SessionId {
        let hello = wire::Hello {
            host: agent.into(),
            addresses: claimed.iter().map(ToString::to_string).collect(),
            ..wire::Hello::default()
        };
        self.open_as(agent, source, &hello)
    }

    fn open_as(&mut self, agent: &str, source: &str, hello: &wire::Hello) -> SessionId {
        self.open_for(&["cart"], agent, source, hello)
    }

    fn open_for(
        &mut self,
        services: &[&str],
        agent: &str,
        source: &str,
        hello: &wire::Hello,
    ) -> SessionId {
        self.sessions += 1;
        let opening = Opening {
            session: self.sessions,
            agent: &label(agent),
            scope: scope(services),
            source: source.parse().unwrap(),
            hello,
            wall: SystemTime::UNIX_EPOCH,
        };
        let mut fx = Effects::default();
        self.registry.open(opening, self.now, &mut fx).unwrap();
        self.sessions
    }

    fn register(
        &mut self,
        session: SessionId,
        port: u32,
        uid: &str,
    ) -> Result<Arc<Program>, Refused> {
        let message = wire::Register {
            uid: uid.into(),
            service: "cart".into(),
            ports: vec![wire::Port {
                service_port: 80,
                workload_port: port,
                ..wire::Port::default()
            }],
            ready: true,
            ..wire::Register::default()
        };
        let random = (session * 100_000 + u64::from(port)).to_be_bytes();
        self.registry
            .register(session, &message, random, 0, &mut Effects::default())
    }

    /// Lets time pass in steps of a quarter second; the sessions of `alive` answer.
    fn pass(&mut self, seconds: f64, alive: &[SessionId]) -> Effects {
        let mut all = Effects::default();
        let until = self.now + Duration::from_secs_f64(seconds);
        while self.now < until {
            self.now += Duration::from_millis(250);
            let mut fx = Effects::default();
            self.registry.tick(self.now, &mut fx);
            for (session, _) in &fx.ping {
                if alive.contains(session) {
                    self.registry.heard(*session, self.now);
                }
            }
            all.ping.extend(fx.ping);
            all.end.extend(fx.end);
            all.changed.extend(fx.changed);
        }
        all
    }
}

#[test]
fn a_lease_lasts_as_long_as_pings_are_answered_and_six_seconds_longer() {
    let mut world = World::new();
    let (a, b) = (
        world.open("a", "10.0.0.1", &[]),
        world.open("b", "10.0.0.2", &[]),
    );
    let uid = world.register(a, 8080, "").unwrap().uid;
    for _ in 0..4 {
        let session = world.sessions;
        world
            .register(b, 9000 + u32::try_from(session).unwrap(), "")
            .ok();
        world.sessions += 1;
    }
    world.pass(60.0, &[a, b]);
    assert!(world.registry.workload(&uid).is_some());
    let fx = world.pass(5.5, &[b]);
    assert!(fx.end.is_empty() && world.registry.workload(&uid).is_some());
    let fx = world.pass(1.0, &[b]);
    assert_eq!(
        fx.end
            .iter()
            .map(|(session, _)| *session)
            .collect::<Vec<_>>(),
        [a]
    );
    assert!(fx.changed.contains_key(&uid) && world.registry.workload(&uid).is_none());
    assert_eq!(world.registry.counters().expired, 1);
}

#[test]
fn a_goodbye_ends_a_lease_at_once_and_a_handover_keeps_it() {
    let mut world = World::new();
    let a = world.open("a", "10.0.0.1", &[]);
    let uid = world.register(a, 8080, "").unwrap().uid;
    let mut fx = Effects::default();
    world.registry.goodbye(a, true, world.now, &mut fx);
    world.registry.closed(a);
    world.pass(20.0, &[]);
    assert!(world.registry.workload(&uid).is_some());
    let successor = world.open("a", "10.0.0.1", &[]);
    assert_eq!(
        world
            .register(successor, 8080, &uid.to_string())
            .unwrap()
            .uid,
        uid
    );
    world.registry.goodbye(successor, false, world.now, &mut fx);
    assert!(world.registry.is_empty() && fx.changed.contains_key(&uid));
}

#[test]
fn an_agent_that_returns_keeps_its_ids_and_loses_what_it_does_not_name_again() {
    let mut world = World::new();
    let first = world.open("a", "10.0.0.1", &[]);
    let kept = world.register(first, 8080, "").unwrap().uid;
    let lost = world.register(first, 8081, "").unwrap().uid;
    world.registry.closed(first);
    world.pass(3.0, &[]);
    let second = world.open("a", "10.0.0.1", &[]);
    assert_eq!(
        world.register(second, 8080, &kept.to_string()).unwrap().uid,
        kept
    );
    world.pass(9.0, &[second]);
    assert!(world.registry.workload(&lost).is_some());
    world.pass(2.0, &[second]);
    assert!(world.registry.workload(&lost).is_none() && world.registry.workload(&kept).is_some());
}

#[test]
fn connections_that_break_keep_nothing_alive_that_has_ended() {
    let mut world = World::new();
    let mut session = world.open("a", "10.0.0.1", &[]);
    let kept = world.register(session, 8080, "").unwrap().uid;
    let lost = world.register(session, 8081, "").unwrap().uid;
    let mut lost_after = 0;
    for second in (2..60).step_by(2) {
        world.registry.closed(session);
        session = world.open("a", "10.0.0.1", &[]);
        let again = world.register(session, 8080, &kept.to_string());
        assert_eq!(again.unwrap().uid, kept);
        world.pass(2.0, &[session]);
        assert!(world.registry.workload(&kept).is_some());
        if world.registry.workload(&lost).is_some() {
            lost_after = second;
        }
    }
    assert!((8..=10).contains(&lost_after), "{lost_after}");
}

#[test]
fn who_comes_back_late_has_a_moment_to_name_its_own() {
    let mut world = World::new();
    let mut session = world.open("a", "10.0.0.1", &[]);
    let kept = world.register(session, 8080, "").unwrap().uid;
    // Never there for long enough to name it, and after ten seconds for once it is.
    for _ in 0..4 {
        world.registry.closed(session);
        world.pass(3.0, &[]);
        session = world.open("a", "10.0.0.1", &[]);
    }
    world.pass(0.5, &[session]);
    let again = world.register(session, 8080, &kept.to_string());
    assert_eq!(again.unwrap().uid, kept);
    world.pass(20.0, &[session]);
    assert!(world.registry.workload(&kept).is_some());
}

#[test]
fn an_id_of_another_agent_is_not_given_away() {
    let mut world = World::new();
    let (a, b) = (
        world.open("a", "10.0.0.1", &[]),
        world.open("b", "10.0.0.2", &[]),
    );
    let uid = world.register(a, 8080, "").unwrap().uid;
    let theirs = world.register(b, 8080, &uid.to_string()).unwrap();
    assert_ne!(theirs.uid, uid);
    // Also when the registry knows nothing, as after a restart.
    let mut fresh = World::new();
    let b = fresh.open("b", "10.0.0.2", &[]);
    assert_ne!(fresh.register(b, 8080, &uid.to_string()).unwrap().uid, uid);
    let a = fresh.open("a", "10.0.0.1", &[]);
    assert_eq!(fresh.register(a, 8080, &uid.to_string()).unwrap().uid, uid);
}

#[test]
fn when_too_many_vanish_at_once_they_stay_as_unknown() {
    let mut world = World::new();
    let sessions: Vec<SessionId> = (1..=10)
        .map(|n| world.open(&format!("h{n}"), &format!("10.0.0.{n}"), &[]))
        .collect();
    for session in &sessions {
        world.register(*session, 8080, "").unwrap();
    }
    let (silent, alive) = sessions.split_at(4);
    world.pass(20.0, alive);
    assert_eq!(world.registry.len(), 10);
    assert_eq!(
        world
            .registry
            .agents()
            .filter(|(_, agent)| agent.is_unknown())
            .count(),
        silent.len()
    );
    assert_eq!(world.registry.counters().kept_unknown, 4);
    // One comes back.
    world.open("h1", "10.0.0.1", &[]);
    assert!(!world.registry.agent(&label("h1")).unwrap().is_unknown());
    // Two of ten are few: they go.
    let mut world = World::new();
    let sessions: Vec<SessionId> = (1..=10)
        .map(|n| world.open(&format!("h{n}"), &format!("10.0.0.{n}"), &[]))
        .collect();
    for session in &sessions {
        world.register(*session, 8080, "").unwrap();
    }
    world.pass(20.0, &sessions[2..]);
    assert_eq!(world.registry.len(), 8);
}

#[test]
fn our_own_standstill_is_not_their_silence() {
    let mut world = World::new();
    let a = world.open("a", "10.0.0.1", &[]);
    world.register(a, 8080, "").unwrap();
    world.pass(2.0, &[a]);
    world.now += Duration::from_secs(600);
    let fx = world.pass(4.0, &[a]);
    assert!(fx.end.is_empty());
    assert_eq!(world.registry.len(), 1);
}

#[test]
fn a_registration_outside_the_scope_is_refused_by_name() {
    let mut world = World::new();
    let a = world.open("a", "10.0.0.1", &[]);
    let message = wire::Register {
        service: "payments".into(),
        ..wire::Register::default()
    };
    let refused = world
        .registry
        .register(a, &message, [0; 8], 0, &mut Effects::default());
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), "scope");
    assert!(refused.to_string().contains("payments") && refused.to_string().contains("cart"));
    assert_eq!(world.registry.counters().refused, 1);
}

#[test]
fn two_programs_of_one_host_cannot_be_published_on_one_port() {
    let mut world = World::new();
    let a = world.open("a", "10.0.0.1", &[]);
    // Each listens in a network namespace of its own.
    world.register(a, 8080, "").unwrap();
    world.register(a, 8080, "").unwrap();
    let published = wire::Register {
        ports: vec![wire::Port {
            workload_port: 80,
            published: 8000,
            ..wire::Port::default()
        }],
        ..wire::Register::default()
    };
    let mut fx = Effects::default();
    assert!(
        world
            .registry
            .register(a, &published, [1; 8], 0, &mut fx)
            .is_ok()
    );
    let refused = world
        .registry
        .register(a, &published, [2; 8], 0, &mut fx)
        .unwrap_err();
    assert_eq!(
        (refused.code(), refused.to_string().contains("8000")),
        ("conflict", true)
    );
    let reserved = wire::Register {
        ports: vec![wire::Port {
            workload_port: 15008,
            ..wire::Port::default()
        }],
        ..wire::Register::default()
    };
    let refused = world
        .registry
        .register(a, &reserved, [0; 8], 0, &mut Effects::default());
    assert_eq!(refused.unwrap_err().code(), "invalid");
}

#[test]
fn an_address_counts_once_it_is_proven() {
    let mut world = World::new();
    let a = world.open("a", "10.0.0.1", &["10.0.0.1", "fd00::1"]);
    let uid = world.register(a, 8080, "").unwrap().uid;
    let addresses = |world: &World| {
        world
            .registry
            .agent(&label("a"))
            .unwrap()
            .place
            .addresses
            .clone()
    };
    let v4: IpAddr = "10.0.0.1".parse().unwrap();
    let v6: IpAddr = "fd00::1".parse().unwrap();
    assert_eq!(addresses(&world), [v4]);
    assert_eq!(world.registry.unproven(&label("a")), [v6]);
    let mut fx = Effects::default();
    world.registry.prove(&label("a"), v6, &mut fx);
    assert_eq!(addresses(&world), [v4, v6]);
    assert!(fx.changed.contains_key(&uid) && fx.members);
    world
        .registry
        .prove(&label("a"), "10.0.0.9".parse().unwrap(), &mut fx);
    assert_eq!(addresses(&world), [v4, v6]);
}

#[test]
fn a_host_that_comes_back_as_another_agent_leaves_no_ghost() {
    let hello = |host: &str, port: u32| wire::Hello {
        host: host.into(),
        hbone_port: port,
        ..wire::Hello::default()
    };
    let mut world = World::new();
    let old = world.open_as("b", "10.0.0.2", &hello("b", 0));
    let dead = world.register(old, 8080, "").unwrap().uid;
    // While the old one is connected it is another: two agents of one machine do not end each other.
    world.open_as("b-1111", "10.0.0.2", &hello("b", 0));
    assert!(world.registry.workload(&dead).is_some());
    world.registry.closed(old);
    // Neither does another machine, nor another agent beside it, end it.
    for (name, source, host, port) in [
        ("c", "10.0.0.3", "b", 0),
        ("d", "10.0.0.2", "d", 0),
        ("e", "10.0.0.2", "b", 15_108),
    ] {
        world.open_as(name, source, &hello(host, port));
        assert!(world.registry.workload(&dead).is_some(), "{name}");
    }
    // What a host says of itself is no proof: whoever has another token is another.
    world.open_for(&["pay"], "f", "10.0.0.2", &hello("b", 0));
    assert!(world.registry.workload(&dead).is_some());
    // It comes back under another name within the six seconds that it has to come back in.
    let session = world.open_as("b-2222", "10.0.0.2", &hello("b", 0));
    assert!(world.registry.workload(&dead).is_none());
    assert_eq!(world.registry.counters().superseded, 1);
    // Its program brings the id along that it had, which is not this agent's: it is one workload, under a new one.
    let alive = world.register(session, 8080, &dead.to_string()).unwrap();
    assert_ne!(alive.uid, dead);
    assert_eq!(world.registry.len(), 1);
}

#[test]
fn nobody_ends_an_agent_that_expects_its_successor() {
    let mut world = World::new();
    let old = world.open("b", "10.0.0.2", &[]);
    let uid = world.register(old, 8080, "").unwrap().uid;
    let mut fx = Effects::default();
    world.registry.goodbye(old, true, world.now, &mut fx);
    let hello = wire::Hello {
        host: "b".into(),
        ..wire::Hello::default()
    };
    world.open_as("neighbour", "10.0.0.2", &hello);
    assert!(world.registry.workload(&uid).is_some());
    assert_eq!(world.registry.counters().superseded, 0);
}

#[test]
fn a_newer_session_replaces_the_older_whose_goodbye_is_not_heard() {
    let mut world = World::new();
    let old = world.open("a", "10.0.0.1", &[]);
    let uid = world.register(old, 8080, "").unwrap().uid;
    let new = world.open("a", "10.0.0.1", &[]);
    world
        .registry
        .goodbye(old, false, world.now, &mut Effects::default());
    world.registry.closed(old);
    assert!(world.registry.workload(&uid).is_some());
    assert_eq!(
        world.registry.agent(&label("a")).unwrap().session,
        Some(new)
    );
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Open(u8),
        Register(usize, u8),
        Deregister(usize, usize),
        Goodbye(usize, bool),
        Close(usize),
        Pass(u8, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        let which = 0..8_usize;
        prop_oneof![
            (0..4_u8).prop_map(Step::Open),
            (which.clone(), 0..3_u8).prop_map(|(session, port)| Step::Register(session, port)),
            (which.clone(), which.clone())
                .prop_map(|(session, workload)| Step::Deregister(session, workload)),
            (which.clone(), any::<bool>())
                .prop_map(|(session, handover)| Step::Goodbye(session, handover)),
            which.prop_map(Step::Close),
            (0..9_u8, any::<bool>()).prop_map(|(seconds, alive)| Step::Pass(seconds, alive)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Whatever happens: every workload has one agent, every session is its agent's only one, and what came or
        /// went was told.
        #[test]
        fn the_registry_stays_whole(steps in prop::collection::vec(step(), 1..60)) {
            let mut world = World::new();
            let mut sessions: Vec<SessionId> = Vec::new();
            let pick = |list: &[SessionId], at: usize| list.get(at % list.len().max(1)).copied().unwrap_or(0);
            for step in steps {
                let before: BTreeSet<WorkloadUid> = world.registry.programs.keys().copied().collect();
                let mut fx = Effects::default();
                match step {
                    Step::Open(agent) => {
                        let session = world.open(&format!("h{agent}"), &format!("10.0.0.{agent}"), &[]);
                        sessions.push(session);
                    }
                    Step::Register(session, port) => {
                        let message = wire::Register { service: "cart".into(), name: format!("p{port}"), ..wire::Register::default() };
                        let random = u64::from(port).to_be_bytes();
                        let session = pick(&sessions, session);
                        world.registry.register(session, &message, random, 0, &mut fx).ok();
                    }
                    Step::Deregister(session, at) => {
                        let uid = before.iter().nth(at % before.len().max(1)).copied();
                        if let Some(uid) = uid {
                            world.registry.deregister(pick(&sessions, session), uid, &mut fx);
                        }
                    }
                    Step::Goodbye(session, handover) => {
                        let now = world.now;
                        world.registry.goodbye(pick(&sessions, session), handover, now, &mut fx);
                    }
                    Step::Close(session) => world.registry.closed(pick(&sessions, session)),
                    Step::Pass(seconds, alive) => {
                        let alive = if alive { sessions.clone() } else { Vec::new() };
                        fx = world.pass(f64::from(seconds), &alive);
                    }
                }
                let after: BTreeSet<WorkloadUid> = world.registry.programs.keys().copied().collect();
                for uid in before.symmetric_difference(&after) {
                    prop_assert!(fx.changed.contains_key(uid), "{uid} came or went untold");
                }
                let of_agents: Vec<WorkloadUid> = world.registry.agents.values().flat_map(|agent| agent.workloads.keys().copied()).collect();
                prop_assert_eq!(of_agents.len(), after.len());
                for uid in of_agents {
                    prop_assert!(world.registry.workload(&uid).is_some());
                }
                for (session, name) in &world.registry.sessions {
                    prop_assert_eq!(world.registry.agents[name].session, Some(*session));
                }
            }
            // In the end nobody answers, and nobody stays but who is kept as unknown.
            world.pass(60.0, &[]);
            prop_assert!(world.registry.agents().all(|(_, agent)| agent.is_unknown()));
            world.pass(3_700.0, &[]);
            prop_assert!(world.registry.is_empty() && world.registry.agents.is_empty());
        }
    }
}
