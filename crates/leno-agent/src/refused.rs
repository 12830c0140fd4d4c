//! Which programs were refused, so that people are told of each once: one that runs on asks again every two seconds.
//!
//! Invariant: at most [`MOST`] are remembered, each with the last words that it was given. One that had to be forgotten
//! for a newer is told of again, which is all that comes of it.

use std::collections::VecDeque;

/// Programs that are remembered; the one that was refused first makes room.
const MOST: usize = 256;

/// By process, 0 where it cannot be seen.
#[derive(Default)]
pub(crate) struct Refused {
    last: VecDeque<(i32, String)>,
    forgotten: u64,
}

impl Refused {
    /// Whether this is another refusal than the process's last.
    pub(crate) fn is_new(&mut self, pid: i32, message: &str) -> bool {
        if let Some((_, last)) = self.last.iter_mut().find(|(of, _)| *of == pid) {
            let is_new = last != message;
            if is_new {
                message.clone_into(last);
            }
            return is_new;
        }
        if self.last.len() >= MOST {
            self.last.pop_front();
            self.forgotten += 1;
        }
        self.last.push_back((pid, message.to_owned()));
        true
    }

    /// How many had to make room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// It was taken in: what comes later is news.
    pub(crate) fn forget(&mut self, pid: i32) {
        self.last.retain(|(of, _)| *of != pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_news_once_for_each_program_and_reason_until_it_was_taken_in() {
        let mut refused = Refused::default();
        assert!(refused.is_new(7, "outside the scope"));
        assert!(!refused.is_new(7, "outside the scope"));
        assert!(refused.is_new(8, "outside the scope"));
        assert!(refused.is_new(7, "revoked"));
        assert!(!refused.is_new(7, "revoked"));
        refused.forget(7);
        assert!(refused.is_new(7, "revoked"));
    }

    #[test]
    fn no_more_are_remembered_than_the_ceiling_says() {
        let mut refused = Refused::default();
        for pid in 0..2_000 {
            assert!(refused.is_new(pid, "no"));
        }
        assert_eq!(refused.last.len(), MOST);
        assert_eq!(refused.forgotten(), 2_000 - MOST as u64);
        assert!(!refused.is_new(1_999, "no"));
        assert!(refused.is_new(0, "no"));
    }
}
