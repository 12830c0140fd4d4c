//! How often what is known is compiled and shown, and who waits for it.
//!
//! One event costs as much as all that it makes due: a list of endpoints is made whole for one that came. So the work
//! is given a share of the time, and what comes meanwhile is done together: a burst costs what its end costs, a few
//! times, not the sum of all its steps.
//! Invariant: who reads after a change was acknowledged is answered from after it, and waits for no more than the work
//! and its pace.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Mesh;

/// Work that took so long rests for this many times as long: it has a third of the time, while it takes an eighth of a
/// second or less.
const REST: u32 = 2;
/// Longest rest: as long as time passes unseen. Work that takes longer has more of the time, for changes must show.
const LONGEST: Duration = Duration::from_millis(250);

/// When a piece of work may be done again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    rests_until: Duration,
}

impl Pace {
    /// Whether it may be done.
    pub(super) fn allows(self, now: Duration) -> bool {
        now >= self.rests_until
    }

    /// It was done, from `began` to `ended`.
    pub(super) fn worked(&mut self, began: Duration, ended: Duration) {
        let took = ended.saturating_sub(began);
        self.rests_until = ended.saturating_add(took.saturating_mul(REST).min(LONGEST));
    }

    fn until(self) -> Duration {
        self.rests_until
    }
}

/// Somebody who waits until what has happened so far is shown.
struct Reader {
    /// The revision of the store that is to be seen.
    revision: u64,
    compiled: bool,
    told: oneshot::Sender<()>,
}

/// Who waits.
#[derive(Default)]
pub(super) struct Readers(Vec<Reader>);

impl Readers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of `revision` is compiled.
    pub(super) fn compiled(&mut self, revision: u64) {
        for reader in &mut self.0 {
            reader.compiled |= reader.revision <= revision;
        }
    }

    /// What is compiled is shown.
    pub(super) fn shown(&mut self) {
        for reader in self.0.extract_if(.., |reader| reader.compiled) {
            // Who gave up waiting reads what there is.
            let _gone = reader.told.send(());
        }
    }
}

impl Mesh {
    /// Tells when what has happened so far, and everything up to `revision` in the store, is shown.
    pub(crate) fn tell_when_shown(&mut self, revision: u64, told: oneshot::Sender<()>) {
        self.readers.0.push(Reader {
            revision,
            compiled: false,
            told,
        });
    }

    /// Whether something is to be compiled.
    pub(super) fn is_compile_due(&self) -> bool {
        let services = self.services_due || self.upkeep_due || !self.revisited.is_empty();
        self.mesh_due || services || !self.pending.is_empty()
    }

    /// When there is something to do although nothing happens.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let compile = self.is_compile_due().then(|| self.compiling.until());
        let publish = self.publish_due.then(|| self.next_publication());
        compile.into_iter().chain(publish).min()
    }

    /// Others see it later than somebody who waits for it.
    pub(super) fn next_publication(&self) -> Duration {
        let usual = match self.published {
            Duration::ZERO => Duration::ZERO,
            last => last.saturating_add(super::distribute::PUBLISH_EVERY),
        };
        let rested = self.publishing.until();
        match self.readers.is_empty() {
            true => rested.max(usual),
            false => rested,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn work_has_a_third_of_the_time_and_rests_no_longer_than_a_tick() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        assert!(pace.allows(Duration::ZERO));
        pace.worked(ms(10), ms(13));
        assert!(!pace.allows(ms(18)) && pace.allows(ms(19)));
        pace.worked(ms(100), ms(5_000));
        assert!(!pace.allows(ms(5_249)) && pace.allows(ms(5_250)));
    }

    #[test]
    fn a_reader_is_told_once_what_it_knows_of_is_compiled_and_shown() {
        let mut readers = Readers::default();
        let (told, mut hears) = oneshot::channel();
        let reader = |revision, told| Reader {
            revision,
            compiled: false,
            told,
        };
        readers.0.push(reader(7, told));
        readers.compiled(6);
        readers.shown();
        assert!(hears.try_recv().is_err(), "its write is not in it");
        readers.compiled(7);
        assert!(hears.try_recv().is_err(), "nobody sees it");
        readers.shown();
        assert!(hears.try_recv().is_ok() && readers.is_empty());
    }
}
