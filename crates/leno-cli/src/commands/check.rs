//! `leno check`: is the mesh healthy, and what to do if not.

mod objects;

use clap::Args;
use serde_json::{Value, json};

use crate::{
    client::Client,
    context,
    exit::Outcome,
    joined::Joined,
    output::{Format, items, print, print_value, text},
};

/// Check that the mesh is healthy, and say what to do if not.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// How to print it
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,
}

/// One thing that was looked at.
struct Finding {
    category: &'static str,
    what: String,
    /// What is wrong, and what to do; `None` when it is well.
    trouble: Option<(String, &'static str)>,
}

fn well(category: &'static str, what: impl Into<String>) -> Finding {
    Finding {
        category,
        what: what.into(),
        trouble: None,
    }
}

fn ill(
    category: &'static str,
    what: impl Into<String>,
    why: impl Into<String>,
    hint: &'static str,
) -> Finding {
    Finding {
        category,
        what: what.into(),
        trouble: Some((why.into(), hint)),
    }
}

/// Runs every check; exit code 3 when one found something.
pub(crate) async fn check(name: Option<&str>, args: &CheckArgs) -> Outcome {
    let mut findings = this_host();
    match context::load(name) {
        Ok(context) => {
            findings.push(well("api", format!("context \"{}\"", context.name)));
            mesh(&Client::new(context), &mut findings).await;
        }
        Err(error) => findings.push(match Joined::here() {
            Some(joined) => well("api", format!("{joined}; there is no context here")),
            None => ill(
                "api",
                "a context is there",
                error.what,
                "leno up starts a mesh and writes one",
            ),
        }),
    }
    let failed = findings
        .iter()
        .filter(|finding| finding.trouble.is_some())
        .count();
    show(&findings, args.output)?;
    Ok(if failed == 0 { 0 } else { 3 })
}

fn show(findings: &[Finding], format: Format) -> Result<(), crate::exit::CommandError> {
    if matches!(format, Format::Json | Format::Yaml) {
        let one = |finding: &Finding| {
            let (problem, hint) = finding
                .trouble
                .as_ref()
                .map(|(why, hint)| (why.as_str(), *hint))
                .unzip();
            json!({"category": finding.category, "check": finding.what, "ok": finding.trouble.is_none(), "problem": problem, "hint": hint})
        };
        return print_value(&findings.iter().map(one).collect(), format);
    }
    let mut category = "";
    for finding in findings {
        if finding.category != category {
            category = finding.category;
            print(&format!("{category}\n{}", "-".repeat(category.len())));
        }
        match &finding.trouble {
            None => print(&format!("✔ {}", finding.what)),
            Some((why, hint)) => print(&format!("✘ {}\n    {why}\n    {hint}", finding.what)),
        }
    }
    Ok(())
}

/// What programs need of this machine.
fn this_host() -> Vec<Finding> {
    let namespaces = "programs can be given a network namespace";
    let root = leno_net::netns::has_admin_capability();
    let allowed = std::fs::read_to_string("/proc/sys/user/max_user_namespaces")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(0);
    let mut findings = vec![if root || allowed > 0 {
        well("this host", namespaces)
    } else {
        ill(
            "this host",
            namespaces,
            "user namespaces are forbidden (user.max_user_namespaces is 0)",
            "as root: sysctl -w user.max_user_namespaces=10000; or run leno as root",
        )
    }];
    findings.push(if leno_net::link::ipv6_enabled() {
        well("this host", "IPv4 and IPv6")
    } else {
        well(
            "this host",
            "IPv4 only: IPv6 is switched off, names have no AAAA",
        )
    });
    let agents = crate::places::agent_sockets();
    let agent = agents
        .iter()
        .find(|path| std::os::unix::net::UnixStream::connect(path).is_ok());
    findings.push(match agent {
        Some(path) => well(
            "this host",
            format!("the agent answers at {}", path.display()),
        ),
        None => match Joined::here() {
            Some(joined) => ill(
                "this host",
                "its agent answers",
                joined.to_string(),
                "leno agent starts it",
            ),
            None => well(
                "this host",
                "no agent runs here: programs here are in no mesh",
            ),
        },
    });
    findings
}

/// What the control plane says of the mesh.
async fn mesh(client: &Client, findings: &mut Vec<Finding>) {
    let status = match client.get("/leno/v1/status").await {
        Ok(status) => status,
        Err(error) => {
            let error = crate::exit::CommandError::from(error);
            findings.push(ill(
                "control plane",
                "the control plane answers",
                error.what,
                "start it: leno up, or leno control-plane",
            ));
            return;
        }
    };
    findings.push(well(
        "control plane",
        format!(
            "the control plane answers (version {}, mesh {})",
            text(&status, "/version"),
            client.mesh()
        ),
    ));
    for finding in items(&status, "/findings").filter_map(Value::as_str) {
        findings.push(ill(
            "control plane",
            "nothing wants a person's attention",
            finding,
            "leno status -o json has the details",
        ));
    }
    objects::objects(client, findings).await;
    let Ok(proxies) = client.get("/leno/v1/proxies").await else {
        return;
    };
    for proxy in items(&proxies, "") {
        let host = text(proxy, "/host");
        if proxy.get("connected").and_then(Value::as_bool) != Some(true) {
            findings.push(ill("proxies", format!("{host} is connected"), "it is away; its workloads are not offered to others", "is the host up, is its agent running (leno agent), does it reach the control plane's port 15012?"));
            continue;
        }
        for nack in items(proxy, "/nacks") {
            let why = format!(
                "it refuses {} {}: {}",
                text(nack, "/type"),
                text(nack, "/resource"),
                text(nack, "/reason")
            );
            findings.push(ill(
                "proxies",
                format!("{host} runs what it was given"),
                why,
                "is it of an older version? leno proxy status",
            ));
        }
        for workload in
            items(proxy, "/workloads").filter(|workload| text(workload, "/health") == "unhealthy")
        {
            let name = text(workload, "/name");
            findings.push(ill(
                "workloads",
                format!("{name} on {host} is healthy"),
                "its check fails",
                "look at the program's own output; leno run --check says how it is checked",
            ));
        }
        findings.push(well(
            "proxies",
            format!("{host} is connected and runs what it was given"),
        ));
    }
}
