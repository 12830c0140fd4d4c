//! Where an agent is reached, and where it was reached lately: addresses that stay the mesh's own.
//!
//! Owns how long an address rests. Whoever keeps an address calls on when its host is silent, and a stranger may answer
//! there: as long as the address is the mesh's, nothing goes to it but by mutual TLS (never fail open).
//! Invariant: the places of an agent stay until it is elsewhere, is revoked, or its record ends; those it had before
//! rest for an hour, as virtual addresses do, and are [`MAX_ADDRESSES`] at most, the youngest.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{registry::MAX_ADDRESSES, vips::QUARANTINE};

/// An agent's addresses, kept with its record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// Where it is reached, or was when its lease ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    now: Vec<IpAddr>,
    /// Where it was before, the youngest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    before: Vec<Left>,
}

/// An address that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Left {
    address: IpAddr,
    /// When, seconds since 1970.
    at: u64,
}

impl Left {
    fn rests(&self, now: u64) -> bool {
        now < self.at.saturating_add(QUARANTINE.as_secs())
    }
}

impl Places {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.now.is_empty() && self.before.is_empty()
    }

    /// Where it is reached, or was when its lease ended.
    #[must_use]
    pub fn now(&self) -> &[IpAddr] {
        &self.now
    }

    /// The agent is reached at `addresses`, and nowhere else; whether that is news.
    pub fn note(&mut self, addresses: &[IpAddr], now: u64) -> bool {
        if self.now == addresses {
            return false;
        }
        let was = std::mem::replace(&mut self.now, addresses.to_vec());
        self.before.retain(|left| left.rests(now));
        let left = was.into_iter().map(|address| Left { address, at: now });
        self.before.extend(left);
        self.before
            .retain(|left| !addresses.contains(&left.address));
        let over = self.before.len().saturating_sub(MAX_ADDRESSES);
        self.before.drain(..over);
        true
    }

    /// Every address that is still this agent's.
    pub fn claimed(&self, now: u64) -> impl Iterator<Item = IpAddr> {
        let rest = self.before.iter().filter(move |left| left.rests(now));
        self.now
            .iter()
            .copied()
            .chain(rest.map(|left| left.address))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const HOUR: u64 = 3600;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn claimed(places: &Places, now: u64) -> Vec<IpAddr> {
        places.claimed(now).collect()
    }

    #[test]
    fn the_last_place_of_an_agent_stays_its_own_and_one_it_left_rests_for_an_hour() {
        let mut places = Places::default();
        assert!(places.note(&[address(1)], 0) && !places.note(&[address(1)], 5));
        assert_eq!(claimed(&places, 1_000 * HOUR), [address(1)]);
        assert!(places.note(&[address(2)], 100));
        assert_eq!(claimed(&places, 99 + HOUR), [address(2), address(1)]);
        assert_eq!(claimed(&places, 100 + HOUR), [address(2)]);
        // It returns: the address is its own, once.
        assert!(places.note(&[address(1)], 200));
        assert_eq!(claimed(&places, 201), [address(1), address(2)]);
        // Nowhere, at a person's word.
        assert!(places.note(&[], 300));
        assert_eq!(claimed(&places, 301), [address(2), address(1)]);
        assert!(claimed(&places, 300 + HOUR).is_empty());
    }

    #[test]
    fn an_agent_that_moves_on_and_on_keeps_the_youngest() {
        let mut places = Places::default();
        for last in 0..100 {
            places.note(&[address(last)], last.into());
        }
        let kept = claimed(&places, 100);
        assert_eq!(kept.len(), MAX_ADDRESSES + 1);
        assert_eq!((kept[0], kept[1]), (address(99), address(83)));
    }

    #[test]
    fn places_are_read_as_they_were_written() {
        let mut places = Places::default();
        places.note(&[address(1)], 0);
        places.note(&[address(2)], 100);
        let text = serde_json::to_string(&places).unwrap();
        assert_eq!(serde_json::from_str::<Places>(&text).unwrap(), places);
        assert!(serde_json::from_str::<Places>("{}").unwrap().is_empty());
    }
}
