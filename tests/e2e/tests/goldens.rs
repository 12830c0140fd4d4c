//! Leno's API answers as a real API server of Kubernetes answered to the same requests, but for what is listed.

use std::{path::Path, process::Command};

use leno_testkit::{Mesh, need, suite};

suite!(
    || Mesh::builder().option("watch-history", "100").start(),
    [answers_are_a_real_api_servers_but_for_what_is_listed_with_a_reason]
);

fn answers_are_a_real_api_servers_but_for_what_is_listed_with_a_reason(mesh: &mut Mesh) {
    let python = need!("python3");
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/compare.py");
    let mut command = Command::new(python);
    command
        .arg("-B")
        .arg(here)
        .arg("--socket")
        .arg(mesh.host("cp").disk().join("default/admin.sock"));
    let output = mesh.host("cp").run(&mut command).good();
    print!("{}", output.text());
}
