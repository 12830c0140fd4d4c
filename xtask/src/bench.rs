//! `cargo xtask bench`: Leno's pair of proxies beside its peers', in one run, with the same backend and the same load.
//!
//! Everything happens in namespaces of the run's own (network, mounts, processes), which end with it. What counts is
//! the ratio of two systems in the same round: absolute figures belong to the machine.

mod arena;
mod control_plane;
mod load;
mod measure;
mod report;
mod systems;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use arena::Arena;
use load::{Load, SHAPES, Shape};
use measure::Cpu;
use report::{Outcome, Row};
use systems::{Plan, System};

use crate::tool::{Failure, cargo, cargo_command, root, status};

const USAGE: &str = "cargo xtask bench [OPTIONS]
cargo xtask bench control-plane [OPTIONS]
  --quick          two short rounds: a first impression within three minutes (after the build)
  --shape NAME     only this shape: h1-16, h1-1, h1-256, h1-close, body-1m; may be repeated
  --system NAME    only this system: haproxy, envoy, nginx, leno; may be repeated
  --rounds N       how often each system has its turn (default 5)
  --seconds N      how long a turn lasts (default 5)
  -o json FILE     writes the result as JSON
  -o markdown FILE writes the table into a page, such as docs/benchmarks.md, between its two marks
  --leno FILE      measures this binary instead of building one (profile dist); repeated, it compares several";

/// Set within the namespaces: the directory of the run.
const INSIDE: &str = "LENO_BENCH_DIR";

/// What the command line asks for.
struct Options {
    quick: bool,
    rounds: usize,
    seconds: u64,
    shapes: Vec<&'static Shape>,
    systems: Vec<String>,
    json: Option<PathBuf>,
    markdown: Option<PathBuf>,
    leno: Vec<PathBuf>,
}

/// Runs the benchmark: outside it builds and makes the namespaces, within them it measures.
pub(crate) fn run(args: &[&str]) -> Result<(), Failure> {
    if let ["--probe", url] = args {
        return load::probe(url);
    }
    if let ["control-plane", rest @ ..] = args {
        return control_plane::run(rest);
    }
    let options = parse(args)?;
    match env::var_os(INSIDE) {
        Some(dir) => inside(&options, Path::new(&dir)),
        None => outside(&options, args),
    }
}

fn parse(args: &[&str]) -> Result<Options, Failure> {
    let mut options = Options {
        quick: false,
        rounds: 5,
        seconds: 5,
        shapes: Vec::new(),
        systems: Vec::new(),
        json: None,
        markdown: None,
        leno: Vec::new(),
    };
    let number = |text: &str| {
        text.parse()
            .ok()
            .filter(|number| (1..=1_000).contains(number))
    };
    let mut rest = args;
    loop {
        rest = match rest {
            [] => break,
            ["--quick", rest @ ..] => {
                (options.quick, options.rounds, options.seconds) = (true, 2, 2);
                rest
            }
            ["--shape", name, rest @ ..] => {
                let shape = SHAPES.iter().find(|shape| shape.name == *name);
                options.shapes.push(shape.ok_or(Failure::Usage(USAGE))?);
                rest
            }
            ["--system", name, rest @ ..] => {
                options.systems.push((*name).to_owned());
                rest
            }
            ["--rounds", text, rest @ ..] => {
                options.rounds = number(text).ok_or(Failure::Usage(USAGE))?;
                rest
            }
            ["--seconds", text, rest @ ..] => {
                options.seconds = number(text).ok_or(Failure::Usage(USAGE))? as u64;
                rest
            }
            ["-o", "json", file, rest @ ..] => {
                options.json = Some(file.into());
                rest
            }
            ["-o", "markdown", file, rest @ ..] => {
                options.markdown = Some(file.into());
                rest
            }
            ["--leno", file, rest @ ..] => {
                options.leno.push(file.into());
                rest
            }
            _ => return Err(Failure::Usage(USAGE)),
        };
    }
    if options.shapes.is_empty() {
        options.shapes = SHAPES.iter().collect();
    }
    if options.systems.is_empty() {
        let peers: &[&str] = if options.quick {
            &["haproxy", "envoy", "leno"]
        } else {
            &["haproxy", "nginx", "envoy", "leno"]
        };
        options.systems = peers.iter().map(|&name| name.to_owned()).collect();
    }
    Ok(options)
}

/// Builds what is measured, and starts this program again within namespaces of its own.
fn outside(options: &Options, args: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let own = env::current_exe().map_err(|error| Failure::Start("this program".into(), error))?;
    command.arg(own).arg("bench").args(args);
    if options.leno.is_empty() && options.systems.iter().any(|name| name == "leno") {
        cargo(&["build", "--profile", "dist", "--package", "leno"])?;
        command
            .arg("--leno")
            .arg(target_directory()?.join("dist/leno"));
    }
    let dir = env::temp_dir().join(format!("leno-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|error| Failure::Io(dir.clone(), error))?;
    let outcome = status(command.env(INSIDE, &dir), "bench, in namespaces of its own");
    let removed = fs::remove_dir_all(&dir).map_err(|error| Failure::Io(dir, error));
    outcome.and(removed)
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|of| of.uid() == 0)
}

fn target_directory() -> Result<PathBuf, Failure> {
    let output = cargo_command()
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .output()
        .map_err(|error| Failure::Start("cargo metadata".into(), error))?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::Found(format!("cargo metadata is not understood: {error}")))?;
    let directory = metadata.get("target_directory").and_then(|of| of.as_str());
    directory
        .map(PathBuf::from)
        .ok_or_else(|| Failure::Found("cargo metadata names no target directory".into()))
}

/// Starts the systems, measures shape by shape, says what came out.
fn inside(options: &Options, dir: &Path) -> Result<(), Failure> {
    let arena = Arena::make(dir)?;
    let plan = Plan::prepare(&arena, &root().join("bench"))?;
    let (mut systems, missing) = start(options, &plan)?;
    for reason in &missing {
        eprintln!("bench: {reason}");
    }
    let mut rows = Vec::new();
    for shape in &options.shapes {
        rows.extend(measure_shape(options, shape, &mut systems)?);
    }
    let lacking = missing.len();
    let report = report::Report {
        rows,
        versions: systems.iter().map(System::version).collect(),
        missing,
        rounds: options.rounds,
        seconds: options.seconds,
    };
    println!("{}", report.text());
    if let Some(file) = &options.json {
        let text = format!("{:#}\n", report.json());
        fs::write(file, text).map_err(|error| Failure::Io(file.clone(), error))?;
    }
    if let Some(file) = &options.markdown {
        let failed = |error| Failure::Io(file.clone(), error);
        let page = fs::read_to_string(file).map_err(failed)?;
        let page = report.fill(&page).ok_or_else(|| {
            Failure::Found(format!("{} lacks the marks of a table", file.display()))
        })?;
        fs::write(file, page).map_err(failed)?;
    }
    match lacking {
        0 => Ok(()),
        _ => Err(Failure::Found(format!(
            "{lacking} of the systems were not measured: see above"
        ))),
    }
}

/// Every system that can be had, and why the others cannot.
fn start<'a>(
    options: &Options,
    plan: &Plan<'a>,
) -> Result<(Vec<System<'a>>, Vec<String>), Failure> {
    let (mut systems, mut missing) = (Vec::new(), Vec::new());
    let mut note = |name: &str, started: Result<System<'a>, Failure>| match started {
        Ok(system) => systems.push(system),
        Err(failure) => missing.push(format!("{name} is not measured: {failure}")),
    };
    for name in &options.systems {
        match name.as_str() {
            "haproxy" => note(name, plan.haproxy()),
            "nginx" => note(name, plan.nginx()),
            "envoy" => note(name, plan.envoy()),
            "leno" => {
                for (at, binary) in options.leno.iter().enumerate() {
                    let name = if at == 0 {
                        "leno".to_owned()
                    } else {
                        format!("leno-{}", at + 1)
                    };
                    let offset = u16::try_from(at * 100).unwrap_or_default();
                    note(&name, plan.leno(&name, binary, offset));
                }
            }
            _ => return Err(Failure::Usage(USAGE)),
        }
    }
    if systems.is_empty() {
        return Err(Failure::Found(missing.join("\n")));
    }
    Ok((systems, missing))
}

/// One shape: a warm-up each, rounds in which each has its turn, then the syscalls in a turn of their own.
fn measure_shape(
    options: &Options,
    shape: &'static Shape,
    systems: &mut [System<'_>],
) -> Result<Vec<Row>, Failure> {
    let turn = Duration::from_secs(options.seconds);
    let short = Duration::from_secs(if options.quick { 1 } else { 2 });
    let mut rows: Vec<Row> = systems
        .iter()
        .map(|system| Row::new(shape.name, &system.name))
        .collect();
    for system in systems.iter_mut() {
        system.load(shape, short)?;
    }
    for round in 1..=options.rounds {
        for (system, row) in systems.iter_mut().zip(&mut rows) {
            let outcome = one_turn(system, shape, turn)?;
            eprintln!(
                "bench: {:9} round {round} {:8} {:7.1} µs/request {:9.0}/s",
                shape.name,
                system.name,
                outcome.cpu.per_request(outcome.load.requests),
                outcome.load.requests as f64 / turn.as_secs_f64(),
            );
            row.turns.push(outcome);
        }
    }
    for (system, row) in systems.iter_mut().zip(&mut rows) {
        let pids = system.proxies();
        row.memory = measure::memory(&pids, system.instances);
        let counting = measure::Syscalls::count(&pids);
        let load = system.load(shape, short)?;
        row.syscalls = counting.finish(load.requests);
    }
    Ok(rows)
}

fn one_turn(system: &mut System<'_>, shape: &Shape, turn: Duration) -> Result<Outcome, Failure> {
    let pids = system.proxies();
    let before = Cpu::of(&pids);
    let load = system.load(shape, turn)?;
    let cpu = Cpu::of(&pids).since(before);
    if load.requests == 0 {
        return Err(Failure::Found(format!(
            "{} answered nothing in shape {}: {load:?}",
            system.name, shape.name
        )));
    }
    Ok(Outcome { load, cpu })
}

impl Load {
    /// Requests that did not end well.
    fn failures(&self) -> u64 {
        self.errors + self.refused
    }
}
