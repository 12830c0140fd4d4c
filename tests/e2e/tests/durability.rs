//! The control plane dies at any moment and starts again: what it acknowledged is there, whole; and when its virtual
//! addresses are all taken it says so, and gives nobody another's.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use leno_e2e::{SOON, api::call};
use leno_store::{Expect, Key, Options, SqliteStore, Store};
use leno_testkit::{Mesh, suite, until_ok};
use serde_json::{Value, json};

/// How often the control plane is killed.
const KILLS: u64 = 200;
/// Who applies at once.
const WRITERS: u64 = 2;
/// Objects of one batch.
const PARTS: [&str; 3] = ["a", "b", "c"];

struct Fixture {
    mesh: Mesh,
    socket: PathBuf,
}

fn start() -> Fixture {
    let mesh = Mesh::builder().start();
    let socket = mesh.host("cp").disk().join("default/admin.sock");
    Fixture { mesh, socket }
}

suite!(
    start,
    [
        nothing_acknowledged_is_lost_or_half_there_over_200_kills,
        when_every_virtual_address_is_taken_the_next_service_is_refused_by_name,
    ]
);

/// A headless service: it takes no address.
fn document(name: &str, number: u64) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "annotations": {"number": number.to_string()}},
        "spec": {"clusterIP": "None", "selector": {"app": "x"}, "ports": [{"port": 80}]},
    })
}

/// The number in each part of each writer's batches, all as of one revision; 0 where there is none.
fn snapshot(socket: &Path) -> Vec<Vec<u64>> {
    let path = "/api/v1/namespaces/default/services";
    let (status, list) = call(socket, "GET", path, &Value::Null).expect("an answer");
    assert_eq!(status, 200, "{list}");
    let items = list["items"].as_array().expect("items");
    let number = |name: String| {
        let found = items
            .iter()
            .find(|item| item["metadata"]["name"] == name.as_str());
        let text = found.map(|item| &item["metadata"]["annotations"]["number"]);
        text.map_or(0, |text| {
            text.as_str().expect("a number").parse().expect("a number")
        })
    };
    let of = |writer| {
        PARTS
            .iter()
            .map(|part| number(format!("w{writer}-{part}")))
            .collect()
    };
    (0..WRITERS).map(of).collect()
}

/// Applies batches of three, each with the next number, and notes the last that was acknowledged.
fn write_for_ever(socket: &Path, writer: u64, acknowledged: &AtomicU64, over: &AtomicBool) {
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        let items: Vec<Value> = PARTS
            .iter()
            .map(|part| document(&format!("w{writer}-{part}"), number))
            .collect();
        match call(socket, "POST", "/leno/v1/apply", &json!({"items": items})) {
            Ok((200, _)) => acknowledged.store(number, Ordering::SeqCst),
            Ok((status, body)) => assert!(status >= 500, "{status}: {body}"),
            // It is down: not an instant of its life is to be missed, nor a core burnt.
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn nothing_acknowledged_is_lost_or_half_there_over_200_kills(fixture: &mut Fixture) {
    let over = Arc::new(AtomicBool::new(false));
    let acknowledged: Vec<Arc<AtomicU64>> = (0..WRITERS).map(|_| Arc::default()).collect();
    let writers: Vec<_> = (0..WRITERS)
        .zip(&acknowledged)
        .map(|(writer, acknowledged)| {
            let (socket, over) = (fixture.socket.clone(), Arc::clone(&over));
            let acknowledged = Arc::clone(acknowledged);
            thread::spawn(move || write_for_ever(&socket, writer, &acknowledged, &over))
        })
        .collect();
    let mut rounds_with_writes = 0;
    for round in 0..KILLS {
        let before: u64 = acknowledged
            .iter()
            .map(|of| of.load(Ordering::SeqCst))
            .sum();
        // From the first answer on at a moment of its own, spread over what a commit takes, and more.
        let life = Duration::from_micros(round * 7_919 % 40_000);
        let since = Instant::now();
        while since.elapsed() < life {
            thread::yield_now();
        }
        fixture.mesh.kill_control_plane();
        let known: Vec<u64> = acknowledged
            .iter()
            .map(|of| of.load(Ordering::SeqCst))
            .collect();
        rounds_with_writes += u64::from(known.iter().sum::<u64>() > before);
        fixture.mesh.start_control_plane();
        for (there, last) in snapshot(&fixture.socket).into_iter().zip(known) {
            // Writers go on meanwhile: there may be more than what was known, never less, and never half a batch.
            assert!(
                there.iter().all(|number| *number == there[0]) && there[0] >= last,
                "round {round}: {last} was acknowledged, there is {there:?}"
            );
        }
    }
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("only answers of its kind");
    }
    assert!(
        rounds_with_writes >= KILLS / 4,
        "changes were under way: {rounds_with_writes}"
    );
    for (there, last) in snapshot(&fixture.socket).into_iter().zip(&acknowledged) {
        assert!(last.load(Ordering::SeqCst) > 0 && there[0] >= last.load(Ordering::SeqCst));
    }
    with_store(fixture, |store| {
        store.check_integrity().expect("a sound file")
    });
}

/// What the store of a control plane says that does not run meanwhile.
fn with_store(fixture: &mut Fixture, f: impl FnOnce(&SqliteStore)) {
    fixture.mesh.stop_control_plane();
    let file = fixture.socket.with_file_name("store.db");
    f(&SqliteStore::open(&file, Options::default()).expect("the store opens"));
    fixture.mesh.start_control_plane();
}

/// The addresses that a service was given.
fn addresses(fixture: &Fixture, name: &str) -> Value {
    let path = format!("/api/v1/namespaces/default/services/{name}");
    let (status, object) = call(&fixture.socket, "GET", &path, &Value::Null).expect("an answer");
    assert_eq!(status, 200, "{object}");
    object["spec"]["clusterIPs"].clone()
}

fn when_every_virtual_address_is_taken_the_next_service_is_refused_by_name(fixture: &mut Fixture) {
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: x}}\n  ports: [{{port: 80}}]\n"
        )
    };
    fixture.mesh.apply(&service("first"), &[]).good();
    let first = addresses(fixture, "first");
    let number: Ipv4Addr = first[0].as_str().expect("one").parse().expect("IPv4 first");
    let [_, _, high, low] = number.octets();
    let taken = u16::from_be_bytes([high, low]);
    // As many services as there are pairs; all but one are only remembered by their addresses.
    with_store(fixture, |store| {
        let writes = (1..u16::MAX)
            .filter(|number| *number != taken)
            .map(|number| {
                let name = format!("s{number}");
                let key = Key::new(
                    "default".parse().expect("a name"),
                    "leno/vips",
                    "default",
                    name,
                );
                let record = json!({"number": number}).to_string().into_bytes();
                leno_store::Write::put(key, record, Expect::Any)
            });
        leno_runtime::block_on_local("store", store.commit(writes.collect())).expect("written");
    });
    let refused = fixture.mesh.apply(&service("one-too-many"), &[]);
    assert_ne!(refused.code, 0);
    for part in [
        "one-too-many",
        "all 65,534 virtual addresses",
        "delete services",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    // Who has one keeps it, who had one gets it back, and nobody gets another's.
    assert_eq!(addresses(fixture, "first"), first);
    fixture.mesh.apply(&service("s7"), &[]).good();
    assert_eq!(addresses(fixture, "s7")[0], "240.240.0.7");
    let stolen = service("thief").replace("spec:", "spec:\n  clusterIP: 240.240.0.8");
    let refused = fixture.mesh.apply(&stolen, &[]);
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("belongs to service default/s8"),
        "{}",
        refused.stderr
    );
    // A service without an address is none's loss.
    let headless = service("none").replace("spec:", "spec:\n  clusterIP: None");
    until_ok("it is taken", SOON, || {
        let output = fixture.mesh.apply(&headless, &[]);
        (output.code == 0).then_some(()).ok_or(output.stderr)
    });
}
