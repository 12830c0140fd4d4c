//! An output as the compiler keeps it: its bytes, and beside them the little that is asked of it at every push.
//!
//! Invariant: what is beside the bytes says what is in them, so that nothing is decoded to find out whom it concerns.

use std::{collections::BTreeSet, net::IpAddr};

use leno_config::Kind;
use leno_ir::{Destination, Feature, OwnWorkload, Provenance};

use crate::{Kept, Output, known::ObjectName};

/// A kept output.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) kept: Kept,
    /// `None`: nothing of it; so it is for most workloads.
    found: Option<Box<Found>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    objects: Box<[(Kind, ObjectName)]>,
    vips: Box<[IpAddr]>,
    needs: Box<[Feature]>,
}

impl Entry {
    pub(crate) fn new(output: &Output, kept: Kept) -> Self {
        let found = match output {
            Output::Destination(Destination::Service(service)) => {
                let routes = service.routes.iter().map(|route| &route.provenance);
                let objects = routes.filter_map(|of| object(Kind::HttpRoute, of));
                Found {
                    objects: once_each(objects),
                    vips: service.vips.clone().into(),
                    ..Found::default()
                }
            }
            Output::OwnWorkload(workload) => Found {
                objects: once_each(policies(workload)),
                needs: workload.needs().into_iter().collect(),
                ..Found::default()
            },
            Output::Destination(Destination::Host(_) | Destination::Hostname(_))
            | Output::Endpoints(_)
            | Output::Mesh(_) => Found::default(),
        };
        let found = (found != Found::default()).then(|| Box::new(found));
        Self { kept, found }
    }

    /// The objects whose rules it carries, each once.
    pub(crate) fn objects(&self) -> &[(Kind, ObjectName)] {
        self.found.as_ref().map_or(&[], |found| &found.objects)
    }

    /// The virtual addresses that it gives to its service.
    pub(crate) fn vips(&self) -> &[IpAddr] {
        self.found.as_ref().map_or(&[], |found| &found.vips)
    }

    /// What a proxy must understand to let anybody in.
    pub(crate) fn needs(&self) -> &[Feature] {
        self.found.as_ref().map_or(&[], |found| &found.needs)
    }
}

fn once_each(objects: impl Iterator<Item = (Kind, ObjectName)>) -> Box<[(Kind, ObjectName)]> {
    let objects: BTreeSet<_> = objects.collect();
    objects.into_iter().collect()
}

fn policies(workload: &OwnWorkload) -> impl Iterator<Item = (Kind, ObjectName)> {
    let rules = workload.access.iter().map(|rule| &rule.provenance);
    let rules = rules.filter_map(|of| object(Kind::AccessPolicy, of));
    let ports = workload.ports.iter().filter_map(|port| port.mtls.as_ref());
    let modes = ports.chain([&workload.mtls]);
    let modes = modes.filter_map(|mtls| mtls.provenance.as_ref());
    rules.chain(modes.filter_map(|of| object(Kind::AuthenticationPolicy, of)))
}

fn object(kind: Kind, of: &Provenance) -> Option<(Kind, ObjectName)> {
    let namespace = of.namespace.parse().ok()?;
    let name = of.name.parse().ok()?;
    Some((kind, ObjectName::new(namespace, name)))
}
