#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, path::Path};

use super::*;

fn read(variables: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    from(variables).map_err(|Problems(problems)| problems)
}

#[test]
fn an_empty_environment_is_an_agent_that_captures_nothing() {
    let settings = read(&[("LENO_HOST", "")]).unwrap();
    assert!(settings.agent.sidecar.is_none());
    assert_eq!(settings.agent.hbone_port, 15008);
    assert_eq!(settings.log_format, LogFormat::Json);
}

#[test]
fn a_sidecar_is_described_whole() {
    let settings = read(&[
        ("LENO_CAPTURE", "namespace"),
        ("LENO_SERVICE", "cart"),
        ("LENO_VERSION", "v2"),
        ("LENO_PORTS", "80:8080/http, 5432"),
        ("LENO_ADDRESSES", "10.0.0.1,fd00::1"),
        ("LENO_ADMIN_ADDR", "127.0.0.1:0"),
        ("LENO_EXCLUDE_INBOUND_PORTS", "9100"),
        ("LENO_EXCLUDE_OUTBOUND_PORTS", "25, 587"),
        (
            "LENO_EXCLUDE_OUTBOUND_IP_RANGES",
            "169.254.169.254/32,fd00::/8",
        ),
        ("LENO_EXCLUDE_OUTBOUND_UIDS", "101"),
    ])
    .unwrap();
    assert_eq!(settings.agent.addresses.len(), 2);
    assert_eq!(settings.agent.admin.port(), 0);
    let exclusions = &settings.agent.exclusions;
    assert_eq!(exclusions.inbound_ports, [9100]);
    assert_eq!(exclusions.outbound_ports, [25, 587]);
    assert_eq!(exclusions.outbound_users, [101]);
    let networks: Vec<_> = exclusions
        .outbound_networks
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(networks, ["169.254.169.254/32", "fd00::/8"]);
    let start = settings.agent.sidecar.unwrap();
    assert_eq!(
        (start.service.as_str(), start.version.as_str()),
        ("cart", "v2")
    );
    let ports: Vec<_> = start
        .ports
        .iter()
        .map(|port| (port.service_port, port.workload_port))
        .collect();
    assert_eq!(ports, [(80, 8080), (5432, 5432)]);
}

#[test]
fn every_problem_is_told_at_once() {
    let problems = read(&[
        ("LENO_HBONE_PORT", "70000"),
        ("LENO_ADDRESSES", "10.0.0.1,nowhere"),
        ("LENO_CAPTURE", "all"),
        ("LENO_SERVICE", "Cart"),
        ("LENO_METRIC_ADDR", "0.0.0.0:1"),
        ("LENO_ZZZZZZZZZZZZ", "1"),
        ("LENO_LOG_FORMAT", "xml"),
    ])
    .unwrap_err();
    for expected in [
        "LENO_METRIC_ADDR: there is no such variable; did you mean LENO_METRICS_ADDR?",
        "LENO_ZZZZZZZZZZZZ: there is no such variable; the variables there are stand in docs/reference/leno-proxy.md",
        "LENO_LOG_FORMAT: \"xml\": it is text or json",
        "LENO_CAPTURE: \"all\": it is namespace or none",
    ] {
        assert!(
            problems.iter().any(|problem| problem == expected),
            "{problems:?}"
        );
    }
    for name in ["LENO_HBONE_PORT", "LENO_ADDRESSES", "LENO_SERVICE"] {
        let told = |problem: &String| problem.starts_with(&format!("{name}: \""));
        assert_eq!(
            problems.iter().filter(|problem| told(problem)).count(),
            1,
            "{problems:?}"
        );
    }
}

#[test]
fn a_workload_without_capture_is_a_mistake_not_a_silence() {
    let problems = read(&[("LENO_SERVICE", "cart"), ("LENO_PORTS", "80")]).unwrap_err();
    assert_eq!(
        problems,
        [
            "LENO_SERVICE: it needs LENO_CAPTURE=namespace",
            "LENO_PORTS: it needs LENO_CAPTURE=namespace"
        ]
    );
}

#[test]
fn what_stands_as_default_is_the_default() {
    let agent = read(&[]).unwrap().agent;
    let values = [
        ("LENO_DATA_DIR", agent.data_dir.display().to_string()),
        ("LENO_RUN_DIR", agent.run_dir.display().to_string()),
        ("LENO_HBONE_PORT", agent.hbone_port.to_string()),
        ("LENO_ADMIN_ADDR", agent.admin.to_string()),
        ("LENO_METRICS_ADDR", agent.metrics.to_string()),
        ("LENO_READINESS_ADDR", agent.readiness.to_string()),
    ];
    for (name, value) in values {
        let setting = SETTINGS.iter().find(|setting| setting.name == name);
        assert_eq!(setting.unwrap().default, value, "{name}");
    }
}

/// The page's table; `UPDATE_GOLDEN=1` writes it.
#[test]
fn the_reference_page_says_what_the_code_does() {
    const BEGIN: &str = "<!-- settings -->\n";
    const END: &str = "<!-- end of settings -->\n";
    let mut table = String::from("| variable | default | meaning |\n|---|---|---|\n");
    for Setting {
        name,
        default,
        meaning,
    } in SETTINGS
    {
        table.push_str(&format!("| `{name}` | {default} | {meaning} |\n"));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/leno-proxy.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert_eq!(written, table, "rewrite it: cargo xtask golden");
    }
}
