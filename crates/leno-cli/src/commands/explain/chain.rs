//! The chain of one refusal in words: caller, rule, backend, endpoints then and now, policy.

use leno_types::Refusal;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::ago;
use crate::{
    output::{items, text},
    run::humanize,
};

/// Everything about one refusal, a line each.
pub(super) fn lines(refusal: &Value, now: OffsetDateTime) -> Vec<String> {
    let sides: Vec<&Value> = items(refusal, "/sides").collect();
    let Some(spine) = sides.first().copied() else {
        return Vec::new();
    };
    let mut lines = vec![
        format!(
            "{}  {} {}: {}   {}",
            text(refusal, "/id"),
            text(spine, "/reason"),
            number(spine, "/status"),
            text(spine, "/text"),
            ago(text(spine, "/at"), now)
        ),
        way(spine),
    ];
    lines.extend(
        rule(spine.pointer("/rule")).map(|rule| match text(spine, "/rule/kind") {
            "AccessPolicy" => format!("policy   {rule}"),
            _ => format!("rule     {rule}{}", timeouts(spine)),
        }),
    );
    let allowing = items(spine, "/allowing").filter_map(|of| rule(Some(of)));
    lines.extend(allowing.map(|of| format!("policy   {of}: allows others only")));
    lines.extend(backend(spine));
    lines.extend(items(spine, "/endpoints").flat_map(|of| endpoint(of, spine, now)));
    lines.extend(items(spine, "/unready").map(|of| {
        let (name, host) = (text(of, "/name"), text(of, "/host"));
        let state = match text(of, "/health") {
            "unknown" => "its host is silent",
            _ => "its program is not ready (leno check says what its check met)",
        };
        format!("  {name} on {host}  now: {state}")
    }));
    let more = number(spine, "/more_endpoints");
    if more > 0 {
        lines.push(format!("  .. and {more} more"));
    }
    lines.extend(sides.iter().map(|side| said(side)));
    lines.extend(sides.iter().skip(1).filter_map(|side| {
        let rule = rule(side.pointer("/rule"))?;
        Some(format!("policy   {rule}"))
    }));
    lines
}

/// Who asked whom for what.
fn way(side: &Value) -> String {
    let mut line = format!("{} → {}", text(side, "/caller/name"), text(side, "/to"));
    match text(side, "/caller/identity") {
        "" => line.push_str("   the caller proved no identity"),
        identity => line.push_str(&format!("   as {identity}")),
    }
    if let (false, "outbound") = (text(side, "/host").is_empty(), text(side, "/direction")) {
        line.push_str(&format!("   on {}", text(side, "/host")));
    }
    line
}

/// What one side of the mesh says.
fn said(side: &Value) -> String {
    let who = match text(side, "/workload/name") {
        "" => text(side, "/host").to_owned(),
        name => format!("{name} on {}", text(side, "/host")),
    };
    let elapsed = side.pointer("/elapsed_ms").and_then(Value::as_u64);
    let after = elapsed.map_or(String::new(), |ms| format!(", after {ms} ms"));
    let revision = match text(side, "/config_version") {
        "" => String::new(),
        version => format!(", configuration {version}"),
    };
    format!("said by  {who}: {}{after}{revision}", text(side, "/detail"))
}

/// `Kind namespace/name field  file:line`.
pub(in crate::commands) fn rule(rule: Option<&Value>) -> Option<String> {
    let rule = rule.filter(|rule| rule.is_object())?;
    let field = text(rule, "/field");
    let mut line = format!(
        "{} {}/{} {}",
        text(rule, "/kind"),
        text(rule, "/namespace"),
        text(rule, "/name"),
        field.strip_prefix("spec.").unwrap_or(field)
    );
    if !text(rule, "/source").is_empty() {
        line.push_str(&format!("  {}", text(rule, "/source")));
    }
    match text(rule, "/now") {
        "" | "as then" => {}
        now => line.push_str(&format!("   now: {now}")),
    }
    Some(line)
}

fn timeouts(side: &Value) -> String {
    let of = |pointer: &str| side.pointer(pointer).and_then(Value::as_u64);
    let whole = of("/request_timeout_ms").map(|ms| format!("   timeout {ms} ms"));
    let each = of("/try_timeout_ms").map(|ms| format!("   for each try {ms} ms"));
    [whole, each].into_iter().flatten().collect()
}

fn backend(side: &Value) -> Option<String> {
    let backend = side.pointer("/backend").filter(|of| of.is_object())?;
    let (weight, of) = (number(backend, "/weight"), number(backend, "/of"));
    let share = weight.saturating_mul(100).checked_div(of).unwrap_or(0);
    let all = items(side, "/endpoints").count();
    // Whom a policy denies, the endpoint was reached for.
    let denied = text(side, "/reason") == Refusal::Denied.code();
    let usable = items(side, "/endpoints").filter(|of| is_usable(of) || denied && stood(of));
    let usable = usable.count();
    let more = number(side, "/more_endpoints");
    let of_all = match more {
        0 => format!("{usable} of {all} endpoints usable"),
        more => format!("{usable} of the {all} shown usable, {more} more"),
    };
    Some(format!(
        "backend  {}:{} {share}%: {of_all}",
        text(backend, "/service"),
        number(backend, "/port")
    ))
}

/// Whether it was one that is called.
fn stood(endpoint: &Value) -> bool {
    let absent = |pointer: &str| endpoint.pointer(pointer).is_none_or(Value::is_null);
    absent("/ejected") && absent("/unreachable") && text(endpoint, "/health") == "healthy"
}

/// Whether nothing spoke against it then, nor came of the try with it.
fn is_usable(endpoint: &Value) -> bool {
    stood(endpoint) && text(endpoint, "/tried").is_empty()
}

/// An endpoint as it was, and as it is.
fn endpoint(then: &Value, side: &Value, now: OffsetDateTime) -> Vec<String> {
    let address = match text(then, "/address") {
        "" => "does not serve this port",
        address => address,
    };
    let host = match text(then, "/registered/host") {
        "" => String::new(),
        host => format!(" on {host}"),
    };
    let mut lines = vec![format!(
        "  {address}  {}{host}  {}",
        text(then, "/name"),
        state(then)
    )];
    if !text(then, "/tried").is_empty() {
        lines.push(format!("    tried: {}", text(then, "/tried")));
    }
    lines.push(format!("    now: {}", standing(then, side, now)));
    lines
}

/// How it stands now: as the caller's proxy sees it, and as its own host says.
fn standing(then: &Value, side: &Value, now: OffsetDateTime) -> String {
    let uid = text(then, "/uid");
    let mut list = items(side, "/now/endpoints/endpoints");
    let current = list.find(|of| text(of, "/uid") == uid);
    let known = current.unwrap_or(then);
    let known_of = |pointer: &str| known.pointer(pointer).filter(|of| !of.is_null());
    let mut words = Vec::new();
    let asked = side.pointer("/now/endpoints").is_some_and(Value::is_object);
    match current {
        Some(current) => words.push(state(current)),
        None if asked => words.push("no endpoint of it any more".into()),
        None => {}
    }
    match known_of("/registered") {
        None => words.push("its program is gone".into()),
        Some(of) if of.pointer("/connected").and_then(Value::as_bool) != Some(true) => {
            words.push("its host is away".into());
        }
        Some(of) if of.pointer("/ready").and_then(Value::as_bool) != Some(true) => {
            let check = text(of, "/check");
            words.push(format!(
                "its program is not ready{}",
                if check.is_empty() {
                    String::new()
                } else {
                    format!(": {check}")
                }
            ));
        }
        Some(_) => words.push("its program is ready".into()),
    }
    words.push(certificate(
        text(known, "/registered/certificate_not_after"),
        now,
    ));
    words.retain(|word| !word.is_empty());
    words.join("; ")
}

fn certificate(until: &str, now: OffsetDateTime) -> String {
    let Ok(end) = OffsetDateTime::parse(until, &Rfc3339) else {
        // Its host has not said yet; that there is none is told by its own refusal.
        return String::new();
    };
    match u64::try_from((end - now).whole_seconds()) {
        Ok(left) => format!("certificate for {}", humanize(left)),
        Err(_) => format!("its certificate ended at {until}"),
    }
}

/// What speaks against an endpoint, or that nothing does.
pub(in crate::commands) fn state(endpoint: &Value) -> String {
    let mut words = Vec::new();
    let out = |pointer: &str| endpoint.pointer(pointer).filter(|of| of.is_object());
    if let Some(ejected) = out("/ejected") {
        let fault = text(ejected, "/fault");
        words.push(format!(
            "ejected {} ago, {} consecutive {}   back in {}",
            humanize(number(ejected, "/since_ms") / 1_000),
            number(ejected, "/failures"),
            if fault.is_empty() { "failures" } else { fault },
            humanize(number(ejected, "/left_ms") / 1_000)
        ));
    } else if let Some(out) = out("/unreachable") {
        words.push(format!(
            "not reached {} times, passed over for {} ms more",
            number(out, "/failures"),
            number(out, "/left_ms")
        ));
    } else if number(endpoint, "/failures") > 0 {
        words.push(format!(
            "{} failures in a row, {}",
            number(endpoint, "/failures"),
            text(endpoint, "/fault")
        ));
    }
    match text(endpoint, "/health") {
        "healthy" if words.is_empty() => words.push("healthy".into()),
        "healthy" => {}
        "unknown" => words.push("its host is silent".into()),
        _ => words.push("not ready".into()),
    }
    words.join("; ")
}

/// The cause in one line, for `leno check`: the rule with its place, the endpoint, what happened to it.
pub(in crate::commands) fn cause(refusal: &Value) -> Option<String> {
    let side = refusal.pointer("/sides/0")?;
    let rule = rule(side.pointer("/rule"));
    let tried = items(side, "/endpoints").find(|of| !is_usable(of));
    let endpoint = tried.map(|of| {
        let why = match text(of, "/tried") {
            "" => state(of),
            tried => tried.to_owned(),
        };
        format!("{} {}: {why}", text(of, "/address"), text(of, "/name"))
    });
    let said = items(refusal, "/sides")
        .last()
        .map(|side| text(side, "/detail"));
    let said = said.filter(|said| !said.is_empty()).map(ToOwned::to_owned);
    let parts: Vec<String> = [rule, endpoint, said].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_chain_names_rule_place_endpoint_then_and_now() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(1);
        let endpoint = |ejected: Value| {
            json!({"uid": "u", "name": "cart-v2", "address": "10.0.0.2:8080", "health": "healthy",
                "ejected": ejected, "tried": null, "registered": {"host": "b", "connected": true, "ready": true,
                "certificate_not_after": "1970-01-01T05:00:00Z"}})
        };
        let refusal = json!({"id": "7c2a", "sides": [{
            "id": "7c2a", "at": "1970-01-01T00:59:50Z", "reason": "UH", "status": 503, "text": "no healthy endpoint",
            "direction": "outbound", "host": "a", "detail": "nobody", "to": "default/cart:80",
            "caller": {"name": "web", "identity": "spiffe://d/ns/default/sa/web"},
            "rule": {"kind": "HTTPRoute", "namespace": "default", "name": "cart", "field": "spec.rules[0]", "source": "shop.yaml:14"},
            "backend": {"service": "default/cart-v2", "port": 80, "weight": 1, "of": 1},
            "endpoints": [endpoint(json!({"since_ms": 4_000, "left_ms": 26_000, "failures": 5, "fault": "503"}))],
            "now": {"endpoints": {"endpoints": [endpoint(Value::Null)]}},
        }]});
        let said = lines(&refusal, now).join("\n");
        for part in [
            "7c2a  UH 503: no healthy endpoint   10s ago",
            "web → default/cart:80   as spiffe://d/ns/default/sa/web   on a",
            "rule     HTTPRoute default/cart rules[0]  shop.yaml:14",
            "backend  default/cart-v2:80 100%: 0 of 1 endpoints usable",
            "10.0.0.2:8080  cart-v2 on b  ejected 4s ago, 5 consecutive 503   back in 26s",
            "now: healthy; its program is ready; certificate for 4h",
        ] {
            assert!(said.contains(part), "{part}\n{said}");
        }
        let cause = cause(&refusal).unwrap_or_default();
        assert!(
            cause.contains("shop.yaml:14") && cause.contains("10.0.0.2:8080"),
            "{cause}"
        );
    }

    #[test]
    fn what_a_peer_refused_was_usable_and_a_rule_that_is_gone_is_said_to_be() {
        let endpoint = json!({"uid": "u", "name": "cart-1", "address": "10.0.0.2:8080", "health": "healthy",
            "tried": "refused_by_peer"});
        let rule = json!({"kind": "AccessPolicy", "namespace": "shop", "name": "deny", "field": "spec.rules[0]",
            "now": "deleted"});
        let refusal = json!({"id": "7c2a", "sides": [{"id": "7c2a", "reason": "RBAC", "status": 403,
            "backend": {"service": "shop/cart", "port": 80, "weight": 1, "of": 1}, "rule": rule,
            "endpoints": [endpoint], "unready": [{"name": "cart-2", "host": "b", "health": "unhealthy"}]}]});
        let said = lines(&refusal, OffsetDateTime::UNIX_EPOCH).join("\n");
        for part in [
            "1 of 1 endpoints usable",
            "shop/deny rules[0]   now: deleted",
            "cart-2 on b  now: its program is not ready",
        ] {
            assert!(said.contains(part), "{part}\n{said}");
        }
        assert!(
            cause(&refusal)
                .unwrap_or_default()
                .contains("refused_by_peer")
        );
    }

    #[test]
    fn whatever_an_agent_says_is_shown_without_a_panic() {
        for odd in [
            json!({}),
            json!({"sides": [{}]}),
            json!({"sides": [1, "x", {"endpoints": [1, {}], "now": [], "rule": 7}]}),
        ] {
            drop(lines(&odd, OffsetDateTime::UNIX_EPOCH));
            drop(cause(&odd));
        }
    }
}
