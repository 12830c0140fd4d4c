//! leno.dev/v1alpha1 `HostnameGenerator`: further names for services, made from a template.

use std::collections::BTreeSet;

use leno_types::DnsLabel;

use crate::{
    Finding, HostnameGenerator, Meta, ServiceSelector,
    fields::{Findings, Object},
    hostname_template::HostnameTemplate,
    meta::labels,
    schema::hostname_generator as schema,
};

/// Namespaces that one generator names.
pub(crate) const MAX_NAMESPACES: usize = 256;

/// Reads a HostnameGenerator.
pub(crate) fn read(
    meta: Option<Meta>,
    root: &mut Object<'_>,
    findings: &mut Findings,
) -> Option<HostnameGenerator> {
    let mut spec = root.required_object("spec", findings)?;
    spec.only(&schema::SPEC, findings);
    let template = template(&spec, findings);
    let services = selector(&mut spec, findings);
    Some(HostnameGenerator {
        meta: meta?,
        services: services?,
        template: template?,
    })
}

fn template(spec: &Object<'_>, findings: &mut Findings) -> Option<HostnameTemplate> {
    let text = spec.required_text("template", findings)?;
    match text.parse::<HostnameTemplate>() {
        Ok(template) => Some(template),
        Err(error) => {
            let finding = Finding::new(spec.path("template"), error.to_string());
            findings.add(finding.with_suggestion(error.suggestion()));
            None
        }
    }
}

fn selector(spec: &mut Object<'_>, findings: &mut Findings) -> Option<ServiceSelector> {
    let mut selector = spec.required_object("selector", findings)?;
    selector.only(&schema::SELECTOR, findings);
    if !selector.has("service") {
        let reason = "is required: the services that get a name, `{}` for every one";
        findings.note(&selector.path("service"), reason);
    }
    let mut service = selector.object("service", findings)?;
    service.only(&schema::SERVICE, findings);
    let written = service.has("namespaces");
    let namespaces: BTreeSet<DnsLabel> = service
        .parsed_list("namespaces", MAX_NAMESPACES, findings)
        .into_iter()
        .collect();
    if written && namespaces.is_empty() {
        let reason = "names none: leave `namespaces` out for every one";
        findings.note(&service.path("namespaces"), reason);
    }
    Some(ServiceSelector {
        labels: labels(&service, "matchLabels", findings),
        namespaces,
    })
}
