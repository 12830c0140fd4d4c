//! What is said about objects: `Accepted` and `ResolvedRefs`, in the words of the Gateway API, and `Generated` (CP12).

use leno_config::{AccessPolicy, HostnameGenerator, HttpRoute, Meta, ParentRef};

use crate::{
    Condition, Dangling, GeneratorNames, MAX_GENERATORS, Services,
    references::{of_policy as dangling_of_policy, of_route as dangling_of_route},
};

fn condition(
    meta: &Meta,
    parent: Option<&ParentRef>,
    r#type: &'static str,
    faults: &[&Dangling],
) -> Condition {
    let messages: Vec<String> = faults
        .iter()
        .map(|fault| fault.finding.to_string())
        .collect();
    Condition {
        parent: parent.cloned(),
        r#type,
        status: faults.is_empty(),
        reason: faults.first().map_or(r#type, |fault| fault.reason),
        message: messages.join("; "),
        observed_generation: meta.generation,
    }
}

/// A service that was applied is accepted.
pub(crate) fn of_service(meta: &Meta) -> Vec<Condition> {
    vec![condition(meta, None, "Accepted", &[])]
}

/// Both conditions for each parent of a route.
pub(crate) fn of_route(route: &HttpRoute, services: &impl Services) -> Vec<Condition> {
    let dangling = dangling_of_route(route, services);
    let of = |parent: Option<&ParentRef>| -> Vec<&Dangling> {
        let of = dangling.iter();
        of.filter(|fault| fault.parent.as_ref() == parent).collect()
    };
    let (meta, backends) = (&route.meta, of(None));
    let mut conditions = Vec::new();
    for parent in &route.parents {
        let parent = Some(parent);
        conditions.push(condition(meta, parent, "Accepted", &of(parent)));
        conditions.push(condition(meta, parent, "ResolvedRefs", &backends));
    }
    conditions
}

/// A policy is accepted; a service that it protects may not be there (yet).
pub(crate) fn of_policy(policy: &AccessPolicy, services: &impl Services) -> Vec<Condition> {
    let dangling = dangling_of_policy(policy, services);
    vec![
        condition(&policy.meta, None, "Accepted", &[]),
        of_references(&policy.meta, &dangling),
    ]
}

/// Whether everything is there that an object refers to.
pub(crate) fn of_references(meta: &Meta, dangling: &[Dangling]) -> Condition {
    let dangling: Vec<&Dangling> = dangling.iter().collect();
    condition(meta, None, "ResolvedRefs", &dangling)
}

/// A generator is accepted, unless too many are older; whether every service that it selects has its name is said with
/// what the others lack.
pub(crate) fn of_generator(
    generator: &HostnameGenerator,
    in_force: bool,
    names: &GeneratorNames,
) -> Vec<Condition> {
    let of = |r#type, failed: Option<(&'static str, String)>, fine: String| Condition {
        parent: None,
        r#type,
        status: failed.is_none(),
        reason: failed.as_ref().map_or(r#type, |(reason, _)| *reason),
        message: failed.map_or(fine, |(_, message)| message),
        observed_generation: generator.meta.generation,
    };
    if !in_force {
        let message = format!(
            "{MAX_GENERATORS} older ones are there, which is as many as are in force: delete one"
        );
        let failed = Some(("TooMany", message));
        return vec![of("Accepted", failed, String::new())];
    }
    let (all, has) = (names.services, names.names);
    let have = format!("{has} of {all} services have a name");
    let failed = match names.reason {
        None if all == 0 => Some(("NoService", "it selects no service".to_owned())),
        None => None,
        Some(reason) => {
            let mut lacking = names.lacking.clone();
            let more = all.saturating_sub(has).saturating_sub(lacking.len());
            if more > 0 {
                lacking.push(format!("and {more} more"));
            }
            Some((reason, format!("{have}; {}", lacking.join("; "))))
        }
    };
    vec![
        of("Accepted", None, String::new()),
        of("Generated", failed, have),
    ]
}
