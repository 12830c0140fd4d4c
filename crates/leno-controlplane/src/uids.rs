//! Ids of workloads: eight random bytes, and eight that prove which agent they were given to.
//!
//! So an agent may bring back the ids it had, also to a control plane that has just started and knows nothing, and
//! none can claim another's.
//! Invariant: without the key, an id that [`UidMint::is_of`] accepts for an agent was minted for it.

use aws_lc_rs::hmac;
use leno_types::{DnsLabel, MeshName, WorkloadUid};

/// Makes and recognises ids of one mesh.
#[derive(Debug)]
pub struct UidMint {
    key: hmac::Key,
    mesh: MeshName,
}

impl UidMint {
    /// The mint with a key that must outlive the process.
    #[must_use]
    pub fn new(mesh: MeshName, key: &[u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            mesh,
        }
    }

    /// A new id for a workload of `agent`.
    #[must_use]
    pub fn mint(&self, agent: &DnsLabel, random: [u8; 8]) -> WorkloadUid {
        let proof = self.proof(agent, random);
        let mut bytes = [0; 16];
        let (head, tail) = bytes.split_at_mut(8);
        head.copy_from_slice(&random);
        tail.copy_from_slice(&proof);
        WorkloadUid::from_bytes(bytes)
    }

    /// Whether an id was given to `agent`.
    #[must_use]
    pub fn is_of(&self, uid: WorkloadUid, agent: &DnsLabel) -> bool {
        let Some((random, proof)) = uid.as_bytes().split_first_chunk::<8>() else {
            return false;
        };
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.proof(agent, *random), proof)
            .is_ok()
    }

    fn proof(&self, agent: &DnsLabel, random: [u8; 8]) -> [u8; 8] {
        let mut context = hmac::Context::with_key(&self.key);
        // Labels hold no slash, so the parts cannot run into each other.
        for part in [
            self.mesh.as_str().as_bytes(),
            b"/",
            agent.as_str().as_bytes(),
            b"/",
            &random,
        ] {
            context.update(part);
        }
        let mut proof = [0; 8];
        for (byte, tag) in proof.iter_mut().zip(context.sign().as_ref()) {
            *byte = *tag;
        }
        proof
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn an_id_is_its_agents_and_meshs_own() {
        let mint = UidMint::new("default".parse().unwrap(), &[7; 32]);
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let uid = mint.mint(&a, [1; 8]);
        assert!(mint.is_of(uid, &a));
        assert!(!mint.is_of(uid, &b));
        assert!(!mint.is_of(WorkloadUid::from_bytes([1; 16]), &a));
        let other = UidMint::new("other".parse().unwrap(), &[7; 32]);
        assert!(!other.is_of(uid, &a));
        assert!(UidMint::new("default".parse().unwrap(), &[7; 32]).is_of(uid, &a));
    }
}
