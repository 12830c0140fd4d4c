//! Other people's informers, client-go's and kube-rs', keep their caches of services and routes while these change at
//! random, connections are cut, the control plane is killed and its log of changes moves past what they have seen.
//!
//! `LENO_INFORMERS_FOR=3600` in the environment makes it last for so many seconds.

mod history;
mod kube_rs;
mod programs;
mod relay;
mod writer;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use leno_e2e::SOON;
use leno_net::link;
use leno_testkit::{Mesh, allow_longer, leno_binary, program, skip, suite, until};

use crate::{
    programs::Informers,
    relay::Relay,
    writer::{HISTORY, Random, Writer, Writing, fill_the_log},
};

/// The program of client-go's informers, built by `.ci/run` where Go is.
const GO: &str = "leno-informers";
/// How long it lasts, unless asked otherwise.
const LASTS: Duration = Duration::from_secs(12);
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(4);

struct Fixture {
    mesh: Mesh,
    socket: PathBuf,
    /// As `leno user create` printed it.
    context: String,
    control_plane: SocketAddr,
}

/// The arena's own address on the hosts' bridge: the relay and kube-rs live there.
const OURS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 250);

fn start() -> Fixture {
    let mut mesh = Mesh::builder()
        .option("watch-history", &HISTORY.to_string())
        .start();
    mesh.network.add("clients");
    link::add_address("hosts", OURS.into(), 24).expect("an address of our own");
    let cp = mesh.host("cp");
    let context = mesh
        .leno(&["user", "create", "informers", "--role", "admin"])
        .good()
        .text();
    Fixture {
        socket: cp.disk().join("default/admin.sock"),
        control_plane: SocketAddr::new(cp.v4.into(), 15012),
        context,
        mesh,
    }
}

suite!(
    start,
    [
        what_is_lost_or_out_of_place_is_seen,
        a_context_is_what_other_peoples_clients_read,
        no_event_is_lost_or_invented_through_cuts_crashes_and_compactions,
    ]
);

fn what_is_lost_or_out_of_place_is_seen(_: &mut Fixture) {
    history::faults_are_seen();
}

/// The mesh in the server's path, the name of its certificate, the client's certificate: nothing is edited.
fn a_context_is_what_other_peoples_clients_read(fixture: &mut Fixture) {
    let printed = fixture.mesh.host("clients").disk().join("printed");
    let imported = fixture.mesh.host("clients").disk().join("imported");
    fs::write(&printed, &fixture.context).expect("the context is written");
    let mut import = Command::new(leno_binary());
    import.args(["context", "import", "-f"]).arg(&printed);
    import.env("LENO_CONFIG", &imported);
    fixture.mesh.host("clients").run(&mut import).good();
    let imported = fs::read_to_string(&imported).expect("the imported context");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for context in [&fixture.context, &imported] {
        runtime.block_on(async {
            let client = kube_rs::client(context).await;
            let version = client.apiserver_version().await.expect("a version");
            assert_eq!(version.major, "1");
            let services = Api::<Service>::default_namespaced(client);
            services.list(&Default::default()).await.expect("a list");
        });
    }
    let Some(go) = program(GO) else {
        skip!("client-go's part: {GO} is not built (it needs Go)");
    };
    let mut informers = Informers::new();
    let clients = fixture.mesh.host("clients");
    informers.start_go(&go, &clients, &fixture.context, false);
    informers.start_go(&go, &clients, &imported, true);
    informers.agree(&Writer::new(fixture.socket.clone(), 0));
}

/// What was done to the informers.
#[derive(Default)]
struct Disturbances {
    cuts: u64,
    crashes: u64,
    compactions: u64,
}

fn no_event_is_lost_or_invented_through_cuts_crashes_and_compactions(fixture: &mut Fixture) {
    let seconds = std::env::var("LENO_INFORMERS_FOR").ok();
    let asked = seconds.is_some();
    let lasts = seconds.map_or(LASTS, |seconds| {
        Duration::from_secs(seconds.parse().expect("LENO_INFORMERS_FOR is in seconds"))
    });
    // What has begun when the time is over is done to its end.
    allow_longer(lasts + lasts / 4);
    let many = if asked { 600 } else { 60 };
    let listener = std::net::TcpListener::bind((OURS, 0)).expect("a listener");
    let relay = Relay::start(listener, fixture.control_plane);
    let through = fixture.context.replace(
        &fixture.control_plane.to_string(),
        &relay.address.to_string(),
    );
    assert_ne!(through, fixture.context, "the context names the server");
    let mut informers = Informers::new();
    informers.start_rust(&through);
    let go = program(GO);
    if let Some(go) = &go {
        let clients = fixture.mesh.host("clients");
        informers.start_go(go, &clients, &through, false);
        informers.start_go(go, &clients, &through, true);
    }
    let mut writer = Writer::new(fixture.socket.clone(), 1);
    let mut done = Disturbances::default();
    let (begun, mut random) = (Instant::now(), Random(2));
    informers.agree(&writer);
    // Each at least once, and then at random, some of them before the informers have come back from the last.
    let mut next = vec![0, 2, 1, 0];
    while begun.elapsed() < lasts || !next.is_empty() {
        let (lists, compactions) = (informers.lists(), done.compactions);
        let writing = writer.start(PAUSE);
        for _ in 0..=random.below(4) {
            changes(&writing, random.below(many));
            let which = next.pop().unwrap_or_else(|| random.below(8));
            disturb(fixture, &relay, &mut done, which);
        }
        changes(&writing, random.below(many));
        writer = writing.stop();
        informers.agree(&writer);
        if done.compactions > compactions {
            let anew = |(name, before): (&String, &u64)| informers.lists()[name] > *before;
            assert!(
                lists.iter().all(anew),
                "a revision that is gone is listed anew"
            );
        }
    }
    let Disturbances {
        cuts,
        crashes,
        compactions,
    } = done;
    let ([events, again, lists, resumed, expired, failed], each) = informers.figures();
    println!(
        "in {:.0} s {} changes; {cuts} cuts, {crashes} crashes, {compactions} compactions, {} connections",
        begun.elapsed().as_secs_f64(),
        writer.changes(),
        relay.accepted(),
    );
    println!(
        "{events} events, {again} told again, {lists} lists, {resumed} watches resumed, {expired} expired, {failed} failures; 0 differences"
    );
    each.iter().for_each(|line| println!("  {line}"));
    assert!(expired > 0, "a compaction is met by somebody");
    if go.is_none() {
        skip!("client-go's part: {GO} is not built (it needs Go); kube-rs' passed");
    }
}

/// Waits until so many more changes are made: as long as they come, however slow the machine is.
fn changes(writing: &Writing, more: u64) {
    let mut made = writing.made();
    let enough = made + more;
    while made < enough {
        made = until("another change is made", SOON, || {
            Some(writing.made()).filter(|now| *now > made)
        });
    }
}

/// Does one of the things that informers are made for.
fn disturb(fixture: &mut Fixture, relay: &Relay, done: &mut Disturbances, which: u64) {
    match which {
        1 => {
            done.crashes += 1;
            fixture.mesh.kill_control_plane();
            fixture.mesh.start_control_plane();
        }
        2 => {
            done.compactions += 1;
            relay.close();
            fill_the_log(&fixture.socket, done.compactions);
            relay.open();
        }
        _ => {
            done.cuts += 1;
            relay.cut();
        }
    }
}
