//! What the passing of time does to leases.

use std::{sync::Arc, time::Duration};

use leno_types::DnsLabel;

use super::{
    AT_ONCE, Agent, Effects, Lease, PING_EVERY, Registry, STALLED, SUSPICIOUS, UNKNOWN_KEPT,
};

impl Registry {
    /// Time has passed.
    pub fn tick(&mut self, now: Duration, fx: &mut Effects) {
        let gap = now.saturating_sub(self.last_tick);
        self.last_tick = now;
        if gap > STALLED {
            // We stood still (a suspended laptop, a stopped process): their silence was ours.
            for agent in self.agents.values_mut() {
                agent.heard = agent.heard.saturating_add(gap).min(now);
            }
        }
        self.ping(now, fx);
        self.forget_unconfirmed(now, fx);
        self.expire(now, fx);
    }

    fn ping(&mut self, now: Duration, fx: &mut Effects) {
        for agent in self.agents.values_mut() {
            if let Some(session) = agent.session
                && now.saturating_sub(agent.pinged) >= PING_EVERY
            {
                agent.pinged = now;
                agent.sequence = agent.sequence.wrapping_add(1);
                fx.ping.push((session, agent.sequence));
            }
        }
    }

    /// Ends workloads that their agent did not name again after a reconnect: they ended meanwhile.
    fn forget_unconfirmed(&mut self, now: Duration, fx: &mut Effects) {
        for agent in self.agents.values_mut() {
            if agent.session.is_none() || agent.confirm_by.is_none_or(|by| now < by) {
                continue;
            }
            let programs = &mut self.programs;
            agent.workloads.retain(|uid, workload| {
                let stays = workload.name_by.is_none_or(|by| now < by);
                if !stays {
                    programs.remove(uid);
                    fx.changed.insert(*uid, Arc::clone(&workload.program));
                }
                stays
            });
            agent.confirm_by = (agent.workloads.values())
                .filter_map(|workload| workload.name_by)
                .min();
        }
    }

    fn expire(&mut self, now: Duration, fx: &mut Effects) {
        while self
            .lately
            .front()
            .is_some_and(|(at, _)| now.saturating_sub(*at) > AT_ONCE)
        {
            self.lately.pop_front();
        }
        let over = |agent: &Agent| now > agent.ends();
        let ended: Vec<DnsLabel> = self
            .agents
            .iter()
            .filter(|(_, agent)| over(agent))
            .map(|(name, _)| name.clone())
            .collect();
        if ended.is_empty() {
            return;
        }
        let mass = self.is_mass(now);
        for name in ended {
            let Some(agent) = self.agents.get_mut(&name) else {
                continue;
            };
            if let Some(session) = agent.session.take() {
                self.sessions.remove(&session);
                fx.end.push((session, "no answer to a PING for 6 s"));
            }
            let count = agent.workloads.len();
            if mass && count > 0 && agent.lease == Lease::Live {
                agent.lease = Lease::Unknown {
                    until: now.saturating_add(UNKNOWN_KEPT),
                };
                self.counters.kept_unknown = self.counters.kept_unknown.saturating_add(1);
                fx.changed.extend(agent.programs());
            } else {
                self.counters.expired = self.counters.expired.saturating_add(1);
                self.lately.push_back((now, count));
                self.remove(&name, fx);
            }
        }
    }

    /// Whether more than 30 % of all workloads are vanishing, and not of one agent alone: then it is rather us, or
    /// the network between, that fails.
    fn is_mass(&self, now: Duration) -> bool {
        let silent = self.agents.values().filter(|agent| match agent.lease {
            Lease::Live => now.saturating_sub(agent.heard) > SUSPICIOUS,
            Lease::HandedOver { .. } => false,
            Lease::Unknown { .. } => true,
        });
        let (mut agents, mut workloads) = (0_usize, 0_usize);
        for agent in silent {
            agents += 1;
            workloads += agent.workloads.len();
        }
        let gone: usize = self.lately.iter().map(|(_, count)| count).sum();
        let vanishing = workloads + gone;
        let all = self.programs.len() + gone;
        agents + self.lately.len() >= 2 && vanishing * 10 > all * 3
    }
}
