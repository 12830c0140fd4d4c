#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test needs a time to begin with"
)]
use proptest::prelude::*;

use super::*;

fn uid(n: u8) -> WorkloadUid {
    WorkloadUid::from_bytes([n; 16])
}

fn endpoint(n: u8, health: Health) -> Endpoint {
    Endpoint {
        uid: uid(n),
        name: format!("cart-{n}"),
        namespace: "shop".into(),
        identity: "spiffe://default.leno/ns/shop/sa/cart".parse().unwrap(),
        version: String::new(),
        service: "shop/cart".into(),
        addresses: vec![[10, 0, 0, n].into()],
        hbone_port: 15008,
        ports: Vec::new(),
        health,
    }
}

fn balancer(healths: &[Health]) -> Balancer {
    let mut balancer = Balancer::new();
    let endpoints: Vec<Endpoint> = healths
        .iter()
        .zip(1..)
        .map(|(health, n)| endpoint(n, *health))
        .collect();
    balancer.update(&endpoints);
    balancer
}

fn lcg(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

fn any_endpoint(_: &Endpoint) -> bool {
    true
}

#[test]
fn the_faster_of_two_gets_most_requests() {
    let (mut balancer, mut random, now) = (balancer(&[Health::Healthy; 2]), lcg(1), Instant::now());
    for (n, millis) in [(1, 1), (2, 50)] {
        balancer.started(uid(n));
        balancer.finished(
            uid(n),
            now,
            Outcome::Success,
            Some(Duration::from_millis(millis)),
        );
    }
    let fast = (0..100)
        .filter(|_| {
            balancer
                .pick(now, &mut random, &any_endpoint, &[])
                .unwrap()
                .endpoint
                .uid
                == uid(1)
        })
        .count();
    assert_eq!(fast, 100);
}

#[test]
fn equals_share_alike_soon_after_one_of_them_began_slowly() {
    let (mut balancer, mut random, mut now) =
        (balancer(&[Health::Healthy; 2]), lcg(7), Instant::now());
    balancer.started(uid(1));
    balancer.finished(
        uid(1),
        now,
        Outcome::Success,
        Some(Duration::from_millis(60)),
    );
    let mut counts = [0u32; 2];
    for request in 0..2_000 {
        now += Duration::from_millis(25);
        let chosen = balancer
            .pick(now, &mut random, &any_endpoint, &[])
            .unwrap()
            .endpoint
            .uid;
        balancer.started(chosen);
        // A third more or less, as equals differ.
        let latency = Duration::from_micros(1_000 + 350 * (random() % 2));
        balancer.finished(chosen, now, Outcome::Success, Some(latency));
        if request >= 600 {
            counts[usize::from(chosen == uid(2))] += 1;
        }
    }
    assert!(counts.iter().all(|count| *count > 560), "{counts:?}");
}

#[test]
fn an_endpoint_that_refuses_connections_is_passed_over_at_once_and_tried_again_later() {
    let (mut balancer, mut random, now) = (balancer(&[Health::Healthy; 2]), lcg(2), Instant::now());
    balancer.started(uid(1));
    assert_eq!(
        balancer.finished(uid(1), now, Outcome::ConnectFailure, None),
        None
    );
    assert!((0..50).all(|_| {
        balancer
            .pick(now, &mut random, &any_endpoint, &[])
            .unwrap()
            .endpoint
            .uid
            == uid(2)
    }));
    let later = now + UNREACHABLE;
    assert!((0..50).any(|_| {
        balancer
            .pick(later, &mut random, &any_endpoint, &[])
            .unwrap()
            .endpoint
            .uid
            == uid(1)
    }));
}

#[test]
fn five_failures_in_a_row_eject_for_thirty_seconds_and_the_next_time_for_sixty() {
    let (mut balancer, mut now) = (balancer(&[Health::Healthy; 2]), Instant::now());
    for hold in [30, 60] {
        for failure in 1..=CONSECUTIVE_FAILURES {
            balancer.started(uid(1));
            let ejection =
                balancer.finished(uid(1), now, Outcome::Failure(Fault::Status(503)), None);
            let expected = Ejection {
                uid: uid(1),
                hold: Duration::from_secs(hold),
                failures: 5,
            };
            assert_eq!(
                ejection,
                (failure == CONSECUTIVE_FAILURES).then_some(expected)
            );
        }
        now += Duration::from_secs(hold);
    }
}

#[test]
fn a_success_between_failures_forgives_them() {
    let (mut balancer, now) = (balancer(&[Health::Healthy]), Instant::now());
    for round in 0..20 {
        let outcome = if round % 4 == 3 {
            Outcome::Success
        } else {
            Outcome::Failure(Fault::Status(503))
        };
        assert_eq!(balancer.finished(uid(1), now, outcome, None), None);
    }
}

#[test]
fn the_unhealthy_are_a_last_resort_and_those_already_tried_the_very_last() {
    let (mut balancer, mut random, now) = (
        balancer(&[Health::Unhealthy, Health::Healthy]),
        lcg(3),
        Instant::now(),
    );
    let first = balancer.pick(now, &mut random, &any_endpoint, &[]).unwrap();
    assert!((first.endpoint.uid, first.forced) == (uid(2), false));
    let second = balancer
        .pick(now, &mut random, &any_endpoint, &[uid(2)])
        .unwrap();
    assert!((second.endpoint.uid, second.forced) == (uid(1), true));
    assert!(
        balancer
            .pick(now, &mut random, &any_endpoint, &[uid(1), uid(2)])
            .is_some()
    );
    assert!(balancer.pick(now, &mut random, &|_| false, &[]).is_none());
}

proptest! {
    #[test]
    fn while_any_endpoint_is_usable_one_is_offered_and_open_counts_never_go_wrong(
        steps in proptest::collection::vec((1u8..5, 0u8..4, 0u64..40_000), 1..300), seed in any::<u64>(),
    ) {
        let (mut balancer, mut random, mut now) = (balancer(&[Health::Healthy; 4]), lcg(seed), Instant::now());
        for (n, outcome, millis) in steps {
            now += Duration::from_millis(millis);
            let pick = balancer.pick(now, &mut random, &any_endpoint, &[]);
            prop_assert!(pick.is_some());
            balancer.started(uid(n));
            let outcome = [Outcome::Success, Outcome::Failure(Fault::Status(503)), Outcome::ConnectFailure, Outcome::Cancelled][usize::from(outcome)];
            balancer.finished(uid(n), now, outcome, Some(Duration::from_millis(u64::from(n))));
            let states = balancer.states(now);
            prop_assert!(states.iter().all(|state| state.pending == 0));
            prop_assert!(states.iter().filter(|state| state.ejected.is_some()).count() <= 2);
        }
    }
}
