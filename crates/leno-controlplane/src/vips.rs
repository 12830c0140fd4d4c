//! Virtual addresses of services: one of version 4 and one of version 6, from 240.240.0.0/16 and 2001:2::/48.
//!
//! Owns which service has which pair. Never talks to the store: the caller writes the [`VipRecord`]s that change.
//! A pair rests for an hour after its service's end, so that a client's cached answer meets nobody else.
//! Invariant: no two services hold the same pair; a service that returns within the rest has its old one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Bound,
    time::Duration,
};

use leno_ir::Prefix;
use leno_types::{DnsLabel, ServiceName};
use serde::{Deserialize, Serialize};

/// How long a pair rests after its service's end.
pub const QUARANTINE: Duration = Duration::from_secs(3600);
/// How long a pair that was offered to a document is kept for it before it must be in the store.
const OFFER: u64 = 60;
/// First and last number of a pair: the network's own address and the broadcast address are left out.
const FIRST: u16 = 1;
const LAST: u16 = u16::MAX - 1;
const V4: Ipv4Addr = Ipv4Addr::new(240, 240, 0, 0);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0);

/// The network of virtual addresses of version 4.
#[must_use]
pub fn prefix_v4() -> Prefix {
    Prefix::new(V4.into(), 16)
}

/// The network of virtual addresses of version 6.
#[must_use]
pub fn prefix_v6() -> Prefix {
    Prefix::new(V6.into(), 48)
}

/// A service's pair of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip(u16);

impl Vip {
    /// The address of version 4.
    #[must_use]
    pub fn v4(self) -> IpAddr {
        Ipv4Addr::from(u32::from(V4) | u32::from(self.0)).into()
    }

    /// The address of version 6.
    #[must_use]
    pub fn v6(self) -> IpAddr {
        Ipv6Addr::from(u128::from(V6) | u128::from(self.0)).into()
    }

    /// Both, version 4 first.
    #[must_use]
    pub fn addresses(self) -> Vec<IpAddr> {
        vec![self.v4(), self.v6()]
    }

    /// The pair that an address belongs to.
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        let number = match address {
            IpAddr::V4(v4) => {
                let [a, b, high, low] = v4.octets();
                ([a, b] == [240, 240]).then(|| u16::from_be_bytes([high, low]))?
            }
            IpAddr::V6(v6) => {
                let [head @ .., last] = v6.segments();
                (head == [0x2001, 2, 0, 0, 0, 0, 0]).then_some(last)?
            }
        };
        (FIRST..=LAST).contains(&number).then_some(Self(number))
    }
}

/// What the store keeps of a pair, under the service's namespace and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipRecord {
    /// The pair's number.
    pub number: u16,
    /// When its service ended, seconds since 1970; none while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<u64>,
}

/// Why a service gets no pair.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VipError {
    /// Every pair is held or rests.
    #[error(
        "all 65,534 virtual addresses are in use or rest: delete services, or wait an hour after deleting some"
    )]
    Exhausted,
    /// Another service has the address.
    #[error("{address} belongs to service {holder}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: ServiceName,
    },
    /// The two addresses are not of one pair, or lie outside the ranges.
    #[error("{0} is no virtual address of this mesh: leave clusterIP out to be given one")]
    Foreign(IpAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// Its service exists.
    Held,
    /// Offered to a document that is being written, until then.
    Offered { until: u64 },
    /// Its service ended.
    Rests { since: u64 },
}

/// Which service has which pair.
#[derive(Debug, Default)]
pub struct Vips {
    by_service: BTreeMap<ServiceName, (u16, Hold)>,
    by_number: BTreeMap<u16, ServiceName>,
    /// Pairs that documents which are being written name themselves, for whom and until when.
    claims: BTreeMap<u16, (ServiceName, u64)>,
}

impl Vips {
    /// Takes in what the store kept. A pair that rests gives way to whoever holds it since.
    pub fn load(&mut self, service: ServiceName, record: VipRecord) {
        let hold = match record.released {
            Some(since) => Hold::Rests { since },
            None => Hold::Held,
        };
        let free = match hold {
            Hold::Held => self.is_free(record.number),
            Hold::Offered { .. } | Hold::Rests { .. } => {
                !self.by_number.contains_key(&record.number)
            }
        };
        if (FIRST..=LAST).contains(&record.number) && free {
            self.insert(service, record.number, hold);
        }
    }

    /// Whether no service that exists has the pair.
    fn is_free(&self, number: u16) -> bool {
        let holder = self.by_number.get(&number);
        let hold = holder.and_then(|holder| self.by_service.get(holder));
        !matches!(hold, Some((_, Hold::Held)))
    }

    /// What the store should keep of a service's pair; `None`: nothing.
    #[must_use]
    pub fn record(&self, service: &ServiceName) -> Option<VipRecord> {
        let (number, hold) = *self.by_service.get(service)?;
        let released = match hold {
            Hold::Held => None,
            Hold::Rests { since } => Some(since),
            Hold::Offered { .. } => return None,
        };
        Some(VipRecord { number, released })
    }

    /// The namespaces of all that have a pair, resting ones too.
    #[must_use]
    pub fn namespaces(&self) -> BTreeSet<DnsLabel> {
        let mut namespaces = BTreeSet::new();
        let mut next = self.by_service.keys().next();
        while let Some(service) = next {
            let namespace = service.namespace.clone();
            namespaces.insert(namespace.clone());
            // From one namespace to the next, not from service to service: no label sorts behind this one.
            let last = "z".repeat(63).parse().ok();
            let last = last.map(|last| ServiceName::new(namespace, last));
            next = last.and_then(|last| self.after(&last));
        }
        namespaces
    }

    fn after(&self, name: &ServiceName) -> Option<&ServiceName> {
        let bounds = (Bound::Excluded(name), Bound::Unbounded);
        let mut behind = self.by_service.range::<ServiceName, _>(bounds);
        behind.next().map(|(service, _)| service)
    }

    /// Whether there is something whose time may be over.
    #[must_use]
    pub fn may_expire(&self) -> bool {
        let mut holds = self.by_service.values();
        !self.claims.is_empty() || holds.any(|(_, hold)| *hold != Hold::Held)
    }

    /// The services that hold a pair.
    #[must_use]
    pub fn held(&self) -> Vec<ServiceName> {
        let held = |(service, (_, hold)): (&ServiceName, &(u16, Hold))| {
            (*hold == Hold::Held).then(|| service.clone())
        };
        self.by_service.iter().filter_map(held).collect()
    }

    /// The pair of a service that exists.
    #[must_use]
    pub fn get(&self, service: &ServiceName) -> Option<Vip> {
        match self.by_service.get(service) {
            Some((number, Hold::Held)) => Some(Vip(*number)),
            _ => None,
        }
    }

    /// The pair for a service that begins to exist: its old one if that still rests.
    ///
    /// # Errors
    /// When there is none left.
    pub fn allocate(&mut self, service: &ServiceName, now: u64) -> Result<Vip, VipError> {
        let vip = self.find(service, now)?;
        self.insert(service.clone(), vip.0, Hold::Held);
        Ok(vip)
    }

    /// The pair that a document about to be written may name. It is kept for it for a minute.
    ///
    /// # Errors
    /// When there is none left.
    pub fn offer(&mut self, service: &ServiceName, now: u64) -> Result<Vip, VipError> {
        let vip = self.find(service, now)?;
        if self.get(service).is_none() {
            let until = now.saturating_add(OFFER);
            self.insert(service.clone(), vip.0, Hold::Offered { until });
        }
        Ok(vip)
    }

    /// Whether a document may name these addresses.
    ///
    /// # Errors
    /// When one is another's, or no pair's.
    pub fn check(
        &self,
        service: &ServiceName,
        addresses: &[IpAddr],
        now: u64,
    ) -> Result<Option<Vip>, VipError> {
        let mut pair = None;
        for address in addresses {
            let vip = Vip::of(*address).ok_or(VipError::Foreign(*address))?;
            if pair.is_some_and(|known| known != vip) {
                return Err(VipError::Foreign(*address));
            }
            if let Some(holder) = self.holder(vip, now).filter(|holder| *holder != service) {
                return Err(VipError::Taken {
                    address: *address,
                    holder: holder.clone(),
                });
            }
            pair = Some(vip);
        }
        Ok(pair)
    }

    /// Keeps a pair that is free for a minute for a document that names it: two that are written together, or at the
    /// same time, must not both be told that it is theirs.
    pub fn claim(&mut self, service: &ServiceName, vip: Vip, now: u64) {
        if self.get(service) != Some(vip) {
            let until = now.saturating_add(OFFER);
            self.claims.insert(vip.0, (service.clone(), until));
        }
    }

    /// Takes what a stored document names; what another already holds stays with that one.
    pub fn adopt(&mut self, service: &ServiceName, vip: Vip) -> bool {
        let free = self.is_free(vip.0) || self.by_number.get(&vip.0) == Some(service);
        if free {
            if let Some(holder) = self.by_number.get(&vip.0).cloned() {
                self.remove(&holder);
            }
            self.insert(service.clone(), vip.0, Hold::Held);
        }
        free
    }

    /// Begins the rest of a pair whose service has ended.
    pub fn release(&mut self, service: &ServiceName, now: u64) {
        if let Some((_, hold @ Hold::Held)) = self.by_service.get_mut(service) {
            *hold = Hold::Rests { since: now };
        }
    }

    /// Forgets what has rested long enough; tells of which services.
    pub fn expire(&mut self, now: u64) -> Vec<ServiceName> {
        self.claims.retain(|_, (_, until)| now < *until);
        let over = |hold: &Hold| is_over(*hold, now);
        let ended: Vec<ServiceName> = self
            .by_service
            .iter()
            .filter(|(_, (_, hold))| over(hold))
            .map(|(service, _)| service.clone())
            .collect();
        for service in &ended {
            self.remove(service);
        }
        ended
    }

    fn holder(&self, vip: Vip, now: u64) -> Option<&ServiceName> {
        let holder = self.by_number.get(&vip.0).filter(|service| {
            let held = self.by_service.get(*service);
            held.is_some_and(|(_, hold)| !is_over(*hold, now))
        });
        let claim = self.claims.get(&vip.0).filter(|(_, until)| now < *until);
        holder.or(claim.map(|(service, _)| service))
    }

    /// The service's own, or the first free number from where its name hashes to: so that a lost record is found
    /// again, and a name keeps its address on every machine.
    fn find(&self, service: &ServiceName, now: u64) -> Result<Vip, VipError> {
        if let Some((number, _)) = self.by_service.get(service) {
            return Ok(Vip(*number));
        }
        let span = u64::from(LAST - FIRST) + 1;
        let start = hash(service) % span;
        (0..span)
            .map(|step| u16::try_from((start + step) % span).unwrap_or(0) + FIRST)
            .map(Vip)
            .find(|vip| self.holder(*vip, now).is_none())
            .ok_or(VipError::Exhausted)
    }

    fn insert(&mut self, service: ServiceName, number: u16, hold: Hold) {
        if let Some(previous) = self.by_number.get(&number).cloned()
            && previous != service
        {
            self.remove(&previous);
        }
        self.remove(&service);
        self.claims.remove(&number);
        self.by_number.insert(number, service.clone());
        self.by_service.insert(service, (number, hold));
    }

    fn remove(&mut self, service: &ServiceName) {
        if let Some((number, _)) = self.by_service.remove(service) {
            self.by_number.remove(&number);
        }
    }
}

fn is_over(hold: Hold, now: u64) -> bool {
    match hold {
        Hold::Held => false,
        Hold::Offered { until } => now >= until,
        Hold::Rests { since } => now >= since.saturating_add(QUARANTINE.as_secs()),
    }
}

/// FNV-1a: stable over builds and machines.
fn hash(service: &ServiceName) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in service.to_string().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::collections::BTreeSet;

    use super::*;

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    #[test]
    fn pairs_are_unique_inside_the_ranges_and_survive_the_store() {
        let mut vips = Vips::default();
        let mut seen = BTreeSet::new();
        for number in 0..2_000 {
            let service = name(&format!("shop/s{number}"));
            let vip = vips.allocate(&service, 0).unwrap();
            assert!(prefix_v4().contains(vip.v4()) && prefix_v6().contains(vip.v6()));
            assert_eq!(
                (Vip::of(vip.v4()), Vip::of(vip.v6())),
                (Some(vip), Some(vip))
            );
            assert!(seen.insert(vip));
            assert_eq!(vips.allocate(&service, 9).unwrap(), vip);
        }
        let mut again = Vips::default();
        for number in 0..2_000 {
            let service = name(&format!("shop/s{number}"));
            again.load(service.clone(), vips.record(&service).unwrap());
            assert_eq!(again.get(&service), vips.get(&service));
        }
    }

    #[test]
    fn a_pair_rests_an_hour_and_returns_to_its_service_only() {
        let mut vips = Vips::default();
        let cart = vips.allocate(&name("shop/cart"), 0).unwrap();
        vips.release(&name("shop/cart"), 100);
        assert_eq!(vips.get(&name("shop/cart")), None);
        assert!(matches!(
            vips.check(&name("shop/thief"), &[cart.v4()], 200),
            Err(VipError::Taken { .. })
        ));
        assert_eq!(vips.namespaces().len(), 1, "what rests is still ours");
        assert!(vips.expire(100 + 3599).is_empty());
        assert_eq!(vips.allocate(&name("shop/cart"), 3600).unwrap(), cart);
        vips.release(&name("shop/cart"), 4000);
        assert_eq!(vips.expire(4000 + 3600), [name("shop/cart")]);
        assert!(vips.namespaces().is_empty());
        assert_eq!(
            vips.check(&name("shop/new"), &[cart.v6()], 7700),
            Ok(Some(cart))
        );
    }

    #[test]
    fn a_pair_that_rests_gives_way_to_who_holds_it_whatever_the_store_tells_first() {
        let rests = VipRecord {
            number: 5,
            released: Some(0),
        };
        let held = VipRecord {
            released: None,
            ..rests
        };
        let (a, b) = (name("shop/a"), name("shop/b"));
        for order in [[(&a, rests), (&b, held)], [(&b, held), (&a, rests)]] {
            let mut vips = Vips::default();
            for (service, record) in order {
                vips.load(service.clone(), record);
            }
            assert_eq!((vips.get(&b), vips.record(&a)), (Some(Vip(5)), None));
        }
    }

    #[test]
    fn an_offer_is_kept_a_minute_and_becomes_its_documents() {
        let mut vips = Vips::default();
        let offered = vips.offer(&name("shop/cart"), 0).unwrap();
        assert_eq!(vips.offer(&name("shop/cart"), 1).unwrap(), offered);
        assert_eq!(vips.record(&name("shop/cart")), None);
        assert!(vips.adopt(&name("shop/cart"), offered));
        assert_eq!(vips.get(&name("shop/cart")), Some(offered));
        assert!(!vips.adopt(&name("shop/other"), offered));
        vips.offer(&name("shop/never"), 0).unwrap();
        assert_eq!(vips.expire(60), [name("shop/never")]);
    }

    #[test]
    fn of_two_documents_that_name_one_pair_the_second_is_refused() {
        let mut vips = Vips::default();
        let (a, b) = (name("shop/a"), name("shop/b"));
        let vip = vips.check(&a, &[Vip(9).v4()], 0).unwrap().unwrap();
        vips.claim(&a, vip, 0);
        let refused = vips.check(&b, &[vip.v6()], 0).unwrap_err();
        assert!(refused.to_string().contains("shop/a"), "{refused}");
        assert_eq!(vips.check(&a, &[vip.v4()], 1), Ok(Some(vip)), "its own");
        // Nor is it offered to anybody: one whose name leads there gets another.
        let near = (0..).map(|number| name(&format!("shop/s{number}")));
        let leads_there = |of: &ServiceName| vips.find(of, OFFER) == Ok(vip);
        let same = near.take(1 << 20).find(leads_there).unwrap();
        assert_ne!(vips.find(&same, 0), Ok(vip));
        // A document that was not written after all keeps nothing for long.
        assert_eq!(vips.check(&b, &[vip.v6()], OFFER), Ok(Some(vip)));
        assert!(vips.adopt(&a, vip));
        vips.claim(&a, vip, 0);
        assert!(vips.claims.is_empty(), "what it has it need not claim");
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        let vips = Vips::default();
        let (one, two) = (Vip(1), Vip(2));
        for bad in [
            vec!["10.0.0.1".parse().unwrap()],
            vec!["240.240.0.0".parse().unwrap()],
            vec![one.v4(), two.v6()],
        ] {
            let answer = vips.check(&name("a/b"), &bad, 0);
            assert!(matches!(answer, Err(VipError::Foreign(_))), "{bad:?}");
        }
    }

    #[test]
    fn when_all_are_held_the_next_is_refused_and_resting_ones_are_not_given_away() {
        let mut vips = Vips::default();
        for number in FIRST..=LAST {
            let record = VipRecord {
                number,
                released: None,
            };
            vips.load(name(&format!("n/s{number}")), record);
        }
        assert_eq!(vips.allocate(&name("n/x"), 0), Err(VipError::Exhausted));
        vips.release(&name("n/s7"), 0);
        assert_eq!(vips.allocate(&name("n/x"), 3599), Err(VipError::Exhausted));
        assert_eq!(vips.allocate(&name("n/x"), 3600), Ok(Vip(7)));
    }
}
