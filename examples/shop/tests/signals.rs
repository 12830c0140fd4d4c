//! The program as the demo runs it: how it starts, ends and refuses.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Ends the program whatever becomes of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill().is_ok();
        let _reaped = self.0.wait().is_ok();
    }
}

fn start(args: &[&str]) -> (Running, u16) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shop"));
    let mut running = Running(command.args(args).stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(running.0.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let port = line
        .trim()
        .rsplit(' ')
        .next()
        .and_then(|port| port.parse().ok());
    (
        running,
        port.unwrap_or_else(|| panic!("no port in {line:?}")),
    )
}

#[test]
fn a_signal_ends_a_program_with_open_connections_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut running, port) = start(&["stock", "--port", "0"]);
        let mut client = BufReader::new(TcpStream::connect(("127.0.0.1", port)).unwrap());
        let mut said = String::new();
        client.read_line(&mut said).unwrap();
        assert_eq!(
            said, "220 stock leno-demo-payload\r\n",
            "the server speaks first"
        );
        kill_process(Pid::from_child(&running.0), signal).unwrap();
        said.clear();
        client.read_to_string(&mut said).unwrap();
        assert_eq!(said, "421 closing leno-demo-payload\r\n");
        assert_eq!(running.0.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_storefront_whose_peers_never_answer_serves_and_ends_at_a_signal() {
    // Connections to it are made by the system, and never accepted.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let silent = listener.local_addr().unwrap();
    let (mut running, port) = start(&[
        "storefront",
        "--port=0",
        &format!("--catalog=http://{silent}"),
        &format!("--cart=http://{silent}"),
        &format!("--reviews=http://{silent}"),
        &format!("--prices=ws://{silent}/feed"),
        &format!("--stock={silent}"),
    ]);
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    kill_process(Pid::from_child(&running.0), Signal::TERM).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_wrong_argument_and_a_taken_port_each_have_their_exit_code_and_say_why() {
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_shop"))
            .args(args)
            .output()
            .unwrap()
    };
    let wrong = run(&["legacy", "--url", "storefront"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("expected http://HOST[:PORT]/"));
    assert_eq!(run(&["--help"]).status.code(), Some(0));

    let (_running, port) = start(&["catalog", "--port", "0"]);
    let taken = run(&["catalog", "--port", &port.to_string()]);
    assert_eq!(taken.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&taken.stderr).contains(&format!("cannot listen on port {port}"))
    );
}
