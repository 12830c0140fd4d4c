//! What a caller may ask for: addresses at which nobody is, without number.

use std::{ops::Range, thread};

use leno_e2e::{SOON, memory_of};
use leno_testkit::{Member, Mesh, suite, until};

/// A caller on a, in a mesh that claims 65,536 addresses at which nobody is.
struct Fixture {
    mesh: Mesh,
    caller: Member,
}

fn start() -> Fixture {
    let mut mesh = Mesh::builder().option("prefix", "10.99.0.0/16").start();
    let a = mesh.join("a");
    let caller = mesh.run(&a).start();
    Fixture { mesh, caller }
}

suite!(
    start,
    [addresses_without_number_are_refused_and_cost_a_proxy_nothing]
);

impl Fixture {
    /// Calls each of these addresses once.
    fn dial(&self, addresses: Range<u16>) {
        const CALLERS: u16 = 8;
        thread::scope(|scope| {
            for caller in 0..CALLERS {
                let connector = self.caller.connector();
                let own = addresses
                    .clone()
                    .skip(caller.into())
                    .step_by(CALLERS.into());
                scope.spawn(move || {
                    for last in own {
                        let [third, fourth] = last.to_be_bytes();
                        let to = format!("10.99.{third}.{fourth}");
                        let mut wire = connector.connect(&to, 80).expect("a connection");
                        let answer =
                            wire.ask("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
                        let refused = answer.field("x-leno-refused").unwrap_or_default();
                        assert!(refused.starts_with("UD; "), "{to}: {}", answer.head);
                    }
                });
            }
        });
    }
}

/// Three times as many as are known at once (docs/limits.md, `destinations`); all 65,536 take a minute unoptimised.
fn addresses_without_number_are_refused_and_cost_a_proxy_nothing(fixture: &mut Fixture) {
    const KNOWN: u16 = 4_096;
    const STEP: u16 = KNOWN / 4;
    let pid = fixture.mesh.agent("a").pid();
    // The first of them read the code of it in, and fill what is remembered of addresses, refusals and lines.
    fixture.dial(0..KNOWN);
    let (before, metrics) = (memory_of(pid), fixture.mesh.metrics("a").len());
    fixture.dial(KNOWN..2 * KNOWN);
    // What is being answered, and what the allocator gives back late, comes and goes by some MiB; what is kept, stays.
    let held = (2 * KNOWN..3 * KNOWN).step_by(STEP.into()).map(|first| {
        fixture.dial(first..first + STEP);
        memory_of(pid)
    });
    let grown = held.min().expect("it was measured").saturating_sub(before);
    assert!(grown < 2 << 20, "{grown} bytes for {} addresses", 3 * KNOWN);
    // Nor is each of them a series.
    let now = fixture.mesh.metrics("a");
    assert!(
        now.len() < 2 * metrics,
        "{metrics} bytes became {}",
        now.len()
    );
    let counted = |name: &str, labels: &[&str]| {
        until("it is counted", SOON, || {
            let count = fixture.mesh.metric("a", name, labels);
            (count >= f64::from(2 * KNOWN)).then_some(())
        });
    };
    counted("leno_limit_reached_total", &["limit=\"destinations\""]);
    let nowhere = "destination_service=\"BlackHoleCluster\"";
    counted("istio_requests_total", &[nowhere, "response_flags=\"UD\""]);
}
