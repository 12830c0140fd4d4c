//! What follows when services come, go or become different: they are remembered, and have addresses.
//!
//! Owns which services are looked at. A change costs what it concerns: only services that the compiler says are
//! different, or whose document or record in the store is. All are looked at when the grace after a restart ends.
//! Invariant: every service has the addresses its document names, or a pair of its own; one that could not have what it
//! wants is looked at again as soon as something becomes free.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use leno_compile::Input;
use leno_config::{IpFamily, Kind};
use leno_store::{Expect, Key as StoreKey, Write};
use leno_types::ServiceName;

use super::{Mesh, sources::VIPS};
use crate::vips::Vip;

/// What a service was given.
struct Given {
    addresses: Vec<IpAddr>,
    /// Whether it is what it wants.
    wanted: bool,
}

impl Mesh {
    /// Services that are different, or of which something is due.
    pub(super) fn services_to_look_at(&mut self) -> BTreeSet<ServiceName> {
        let mut services = self.compiler.take_changed_services();
        services.append(&mut self.revisited);
        if std::mem::take(&mut self.services_due) {
            let there = self.compiler.services().map(|service| service.name.clone());
            services.extend(there.chain(self.addressed.keys().cloned()));
            // After a restart some are held for services that nobody came back for.
            services.extend(self.vips().held());
            services.extend(self.versions.all().cloned());
        }
        services
    }

    /// Does what follows from changes of these services.
    pub(super) fn follow_services(
        &mut self,
        mut services: BTreeSet<ServiceName>,
        now: u64,
        writes: &mut Vec<Write>,
    ) {
        let upkeep = std::mem::take(&mut self.upkeep_due);
        self.remember_services(&services, now, writes);
        self.apply_pending();
        // What is remembered, or forgotten, may have made others different.
        services.extend(self.compiler.take_changed_services());
        let mut free = self.address_services(&services, now, writes);
        if upkeep {
            let ended = self.vips().expire(now);
            free |= !ended.is_empty();
            for name in ended {
                self.write_vip(&name, writes);
            }
        }
        if free {
            let unsatisfied = std::mem::take(&mut self.unsatisfied);
            self.address_services(&unsatisfied, now, writes);
        }
        let namespaces = self.vips().namespaces();
        if namespaces != self.namespaces {
            self.namespaces = namespaces;
            let mesh = self.mesh_ir(now);
            self.pending.push(Input::Mesh(Arc::new(mesh)));
        }
        self.apply_pending();
    }

    /// Gives services their addresses, and takes them from those that ended; whether any became free.
    fn address_services(
        &mut self,
        services: &BTreeSet<ServiceName>,
        now: u64,
        writes: &mut Vec<Write>,
    ) -> bool {
        let mut free = false;
        for name in services {
            self.service_stale(name);
            let Some(service) = self.compiler.effective(name) else {
                free |= self.end_addresses(name, now, writes);
                continue;
            };
            let given = if service.headless {
                Given {
                    addresses: Vec::new(),
                    wanted: true,
                }
            } else {
                self.addresses_for(name, now)
            };
            if given.wanted {
                self.unsatisfied.remove(name);
            } else {
                self.unsatisfied.insert(name.clone());
            }
            if self.addressed.get(name) != Some(&given.addresses) {
                self.write_vip(name, writes);
                self.addressed.insert(name.clone(), given.addresses.clone());
                self.pending
                    .push(Input::Vips(name.clone(), given.addresses));
            }
        }
        free
    }

    /// There is no service of this name (any more); whether it had addresses.
    fn end_addresses(&mut self, name: &ServiceName, now: u64, writes: &mut Vec<Write>) -> bool {
        self.unsatisfied.remove(name);
        let had = self.addressed.remove(name).is_some();
        // In the grace after a restart the agents that serve it may only be late.
        let held = self.grace.is_none() && self.vips().get(name).is_some();
        if !had && !held {
            return false;
        }
        self.vips().release(name, now);
        self.write_vip(name, writes);
        self.pending.push(Input::Vips(name.clone(), Vec::new()));
        true
    }

    /// The addresses its document names, or a pair of its own.
    fn addresses_for(&mut self, name: &ServiceName, now: u64) -> Given {
        let key = (Kind::Service, name.namespace.clone(), name.name.clone());
        let applied = self
            .objects
            .get(&key)
            .and_then(|object| object.as_service());
        let applied = applied.map(|of| (of.cluster_ips.clone(), of.families.clone()));
        let mut vips = self.shared.vips();
        let (named, families) = applied.unwrap_or_default();
        let wanted = named.first().and_then(|address| Vip::of(*address));
        if let Some(vip) = wanted
            && vips.adopt(name, vip)
        {
            return Given {
                addresses: named,
                wanted: true,
            };
        }
        let allocated = vips.allocate(name, now);
        let satisfied = wanted.is_none() && allocated.is_ok();
        let addresses = match allocated {
            Ok(vip) => {
                let of = |family: &IpFamily| match family {
                    IpFamily::V4 => vip.v4(),
                    IpFamily::V6 => vip.v6(),
                };
                if families.is_empty() {
                    vip.addresses()
                } else {
                    families.iter().map(of).collect()
                }
            }
            Err(error) => {
                tracing::error!(service = %name, %error, "a service has no virtual address");
                Vec::new()
            }
        };
        Given {
            addresses,
            wanted: satisfied,
        }
    }

    fn write_vip(&self, name: &ServiceName, writes: &mut Vec<Write>) {
        let (namespace, service) = (name.namespace.as_str(), name.name.as_str());
        let key = StoreKey::new(self.settings.name.clone(), VIPS, namespace, service);
        writes.push(match self.vips().record(name) {
            Some(record) => {
                let value = serde_json::to_vec(&record).expect("numbers are JSON");
                Write::put(key, value, Expect::Any)
            }
            // What has rested is anybody's: a name that comes and goes leaves nothing behind.
            None => Write::delete(key, Expect::Any),
        });
    }

    /// Services as a map from name to virtual addresses.
    pub(crate) fn addressed(&self) -> &BTreeMap<ServiceName, Vec<IpAddr>> {
        &self.addressed
    }
}
