//! What came out: one table with the targets beside it, one JSON document.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    Failure, Size,
    load::{Compiled, Found, Times},
};

/// Between these is what was measured.
const MARKS: (&str, &str) = (
    "<!-- control plane measured -->",
    "<!-- end of what was measured of the control plane -->",
);

/// One line: what, how much, what it is to be, whether it is.
type Line = (String, String, &'static str, bool);

fn lines(found: &Found) -> Vec<Line> {
    let times = |times: &Times| {
        let (p50, p99) = (times.quantile(0.5), times.quantile(0.99));
        (format!("{p50:.1} ms, {p99:.1} ms"), p99 < 1_000.0)
    };
    let (quiet, quiet_ok) = times(&found.quiet);
    let (churned, churned_ok) = times(&found.churned);
    let line = |what: &str, much: String, target, holds| (what.to_owned(), much, target, holds);
    let flat = flatness(&found.compiled);
    vec![
        line(
            "from an acknowledged write to the last ACK of those it concerns: p50, p99",
            quiet,
            "p99 < 1 s",
            quiet_ok,
        ),
        line(
            &format!(
                "the same while {:.0} endpoints change in a second",
                found.churn_rate
            ),
            churned,
            "p99 < 1 s",
            churned_ok,
        ),
        line(
            "messages, bytes to proxies that a write does not concern",
            format!("{}, {}", found.foreign_messages, found.foreign_bytes),
            "0",
            found.foreign_messages == 0,
        ),
        line(
            "bytes to a new proxy that uses three services",
            format!("{} ({:.0} ms)", found.newcomer_bytes, found.newcomer_ms),
            "<= 64 KiB",
            found.newcomer_bytes <= 64 << 10,
        ),
        line(
            "memory of the control plane: resident, of it anonymous",
            format!(
                "{:.0} MB, {:.0} MB",
                found.memory.rss_mb, found.memory.anon_mb
            ),
            "< 500 MB",
            found.memory.rss_mb < 500.0,
        ),
        line(
            "the same after all that follows, and a restart",
            format!(
                "{:.0} MB, {:.0} MB",
                found.memory_after.rss_mb, found.memory_after.anon_mb
            ),
            "< 500 MB",
            found.memory_after.rss_mb < 500.0,
        ),
        line(
            &format!(
                "CPU at {:.0} endpoint changes in a second",
                found.churn_rate
            ),
            format!(
                "{:.2} cores (the load itself: {:.2})",
                found.churn_cores, found.churn_load_cores
            ),
            "< 1 core",
            found.churn_cores < 1.0,
        ),
        line(
            "CPU when nothing changes (all are asked for a sign of life every 2 s)",
            format!("{:.2} cores", found.idle_cores),
            "",
            true,
        ),
        line(
            "killed and started: listens, half are back, all are back, all workloads are named",
            format!(
                "{:.1} s, {:.1} s, {:.1} s, {:.1} s",
                found.restart_listens,
                found.restart_half,
                found.restart_all,
                found.restart_registered
            ),
            "",
            true,
        ),
        line(
            "resources sent to all who came back",
            found.restart_resources.to_string(),
            "",
            true,
        ),
        line(
            "a change's time in the compiler, most to least over the sizes below",
            format!("{flat:.2}"),
            "flat",
            flat < 3.0,
        ),
    ]
}

/// How much more a change costs in one size than in another.
fn flatness(compiled: &[Compiled]) -> f64 {
    let costs = compiled.iter().map(|of| of.compiler_us);
    let (least, most) = costs.fold((f64::MAX, 0.0_f64), |(least, most), cost| {
        (least.min(cost), most.max(cost))
    });
    most / least.max(1.0)
}

fn first_line(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().ok();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// The machine and the size.
fn about(size: Size) -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let commit = first_line("git", &["rev-parse", "--short=12", "HEAD"]);
    let kernel = first_line("uname", &["-r"]);
    format!(
        "{} services, {} endpoints, {} proxies: each a TLS 1.3 connection with its own certificate and gRPC streams, \
         from one process beside the control plane's. {processors} processors, Linux {kernel}, commit {commit}.",
        size.services, size.endpoints, size.proxies
    )
}

/// The tables.
pub(crate) fn markdown(size: Size, found: &Found) -> String {
    let mut page = about(size);
    page.push_str(&format!(
        " All joined and served within {:.0} s.\n\n| what | measured | target | holds |\n|---|--:|--:|---|\n",
        found.join_seconds
    ));
    for (what, much, target, holds) in lines(found) {
        let holds = match (target, holds) {
            ("", _) => "",
            (_, true) => "yes",
            (_, false) => "**no**",
        };
        page.push_str(&format!("| {what} | {much} | {target} | {holds} |\n"));
    }
    page.push_str(
        "\n| services | endpoints | a change in the compiler, µs | CPU of the control plane for it, ms | at its proxies, ms: p50, p99 |\n|--:|--:|--:|--:|--:|\n",
    );
    for of in &found.compiled {
        page.push_str(&format!(
            "| {} | {} | {:.0} | {:.1} | {:.1}, {:.1} |\n",
            of.services,
            of.endpoints,
            of.compiler_us,
            of.process_ms,
            of.times.quantile(0.5),
            of.times.quantile(0.99)
        ));
    }
    page
}

/// The same for programs.
pub(crate) fn json(size: Size, found: &Found) -> Value {
    let times = |times: &Times| json!({"p50": times.quantile(0.5), "p99": times.quantile(0.99)});
    let compiled = found.compiled.iter().map(|of| {
        json!({
            "services": of.services, "endpoints": of.endpoints, "compiler_us": of.compiler_us,
            "process_ms": of.process_ms, "convergence_ms": times(&of.times),
        })
    });
    json!({
        "about": about(size),
        "services": size.services, "endpoints": size.endpoints, "proxies": size.proxies,
        "convergence_ms": times(&found.quiet),
        "convergence_under_churn_ms": times(&found.churned),
        "foreign": {"messages": found.foreign_messages, "bytes": found.foreign_bytes},
        "newcomer": {"bytes": found.newcomer_bytes, "ms": found.newcomer_ms},
        "memory_mb": {"rss": found.memory.rss_mb, "anonymous": found.memory.anon_mb},
        "memory_after_mb": {"rss": found.memory_after.rss_mb, "anonymous": found.memory_after.anon_mb},
        "cores": {"idle": found.idle_cores, "churn": found.churn_cores, "load": found.churn_load_cores, "changes_per_second": found.churn_rate},
        "restart_s": {
            "listens": found.restart_listens, "half": found.restart_half, "all": found.restart_all,
            "registered": found.restart_registered, "resources": found.restart_resources,
        },
        "compiled": compiled.collect::<Vec<_>>(),
    })
}

/// Writes the tables into a page, between its marks.
pub(crate) fn insert(path: &Path, tables: &str) -> Result<(), Failure> {
    let page = fs::read_to_string(path)?;
    let parts = page.split_once(MARKS.0).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(MARKS.1)?;
        Some((before, after))
    });
    let Some((before, after)) = parts else {
        return Err(Failure::Page(format!(
            "{} has no marks {} and {}",
            path.display(),
            MARKS.0,
            MARKS.1
        )));
    };
    let page = format!("{before}{}\n\n{tables}\n{}{after}", MARKS.0, MARKS.1);
    Ok(fs::write(path, page)?)
}
