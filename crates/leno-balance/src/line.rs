//! Who may use a program next: places for requests at the same time, and a line of those that wait for one.
//!
//! The more important goes first; of equals each caller in turn, so that who asks much waits behind itself. What there
//! is no room for is refused at once; what is less important, or is one of its caller's many, makes room. A place that
//! was given is not taken back, and may be held for hours: so no caller ever has all, nor has what is of low priority.
//! Never reads a clock. Invariant: nothing waits that could be let in, so nothing is refused while there is a place.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
    time::{Duration, Instant},
};

use leno_types::Priority;

use crate::overload::{part, share};

/// For so many seconds after something more important was seen a margin is kept for it.
pub const MARGIN_TICKS: u8 = 10;

/// How large a line may become, and how old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineLimits {
    /// Places.
    pub places: usize,
    /// How many may wait.
    pub waiting: usize,
    /// How long one may wait,
    pub patience: Duration,
    /// and how long once the line has not been empty for that long: what is served then need not be late as well.
    pub standing_patience: Duration,
}

/// Places and who waits for one. `T` is what waits.
#[derive(Debug)]
pub struct Line<T> {
    limits: LineLimits,
    /// Places there are at present,
    places: usize,
    /// how many of them are anybody's, and how many of those one caller's: what is looked at each time.
    calm: (usize, usize),
    open: usize,
    /// How many of them each caller has.
    held: HashMap<u64, usize, BuildHasherDefault<AsItIs>>,
    waiting: usize,
    /// By priority.
    classes: [Class<T>; Priority::ALL.len()],
    /// Since when it has not been empty.
    since: Option<Instant>,
    tickets: u64,
}

#[derive(Debug)]
struct Class<T> {
    /// In turn; each has at least one that waits.
    callers: VecDeque<Caller<T>>,
    /// Ticks for which a margin is still kept for this priority.
    seen: u8,
}

#[derive(Debug)]
struct Caller<T> {
    key: u64,
    /// The oldest first.
    waiting: VecDeque<(Ticket, T)>,
}

/// Of so many places those that are anybody's, and of those one caller's.
fn calm(places: usize) -> (usize, usize) {
    let all = part(places, Priority::Low);
    (all, part(all, Priority::Low))
}

/// Keys are hashes already.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// By which one that waits is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    priority: Priority,
    caller: u64,
    number: u64,
}

/// What became of one that found no place.
#[derive(Debug, PartialEq, Eq)]
pub enum Queued<T> {
    /// It waits, until then at most; another had to go for it.
    Waits {
        /// To leave the line with.
        ticket: Ticket,
        /// Later it is not worth serving.
        until: Instant,
        /// Who had to go.
        pushed_out: Option<T>,
    },
    /// As many wait as may.
    Full,
    /// As many wait as may of its priority; there is room for what is more important.
    Margin,
}

impl<T> Line<T> {
    /// An empty line.
    #[must_use]
    pub fn new(limits: LineLimits) -> Self {
        Self {
            limits,
            places: limits.places,
            calm: calm(limits.places),
            open: 0,
            held: HashMap::default(),
            waiting: 0,
            classes: std::array::from_fn(|_| Class {
                callers: VecDeque::new(),
                seen: 0,
            }),
            since: None,
            tickets: 0,
        }
    }

    /// A place, while so many are free that it does not matter how important it is. A caller's key is a hash, of which
    /// others know nothing.
    pub fn begin_calm(&mut self, caller: u64) -> bool {
        let (all, one) = self.calm;
        if self.open >= all {
            return false;
        }
        let held = self.held.entry(caller).or_default();
        let free = *held < one;
        if free {
            *held += 1;
            self.open += 1;
        }
        free
    }

    /// A place, if there is one for this priority and this caller.
    pub fn begin(&mut self, priority: Priority, caller: u64) -> bool {
        self.class(priority).seen = MARGIN_TICKS;
        let free = self.is_open_to(priority) && self.may_have(priority, caller);
        if free {
            self.take(caller);
        }
        free
    }

    /// Gets in line at `now`.
    pub fn wait(&mut self, priority: Priority, caller: u64, now: Instant, what: T) -> Queued<T> {
        let mut pushed_out = None;
        if self.waiting >= self.may_wait(priority) {
            pushed_out = self.push_out(priority, caller);
            if pushed_out.is_none() {
                return if self.waiting >= self.limits.waiting {
                    Queued::Full
                } else {
                    Queued::Margin
                };
            }
        }
        let since = *self.since.get_or_insert(now);
        self.tickets += 1;
        let ticket = Ticket {
            priority,
            caller,
            number: self.tickets,
        };
        let callers = &mut self.class(priority).callers;
        match callers.iter_mut().find(|known| known.key == caller) {
            Some(known) => known.waiting.push_back((ticket, what)),
            None => callers.push_back(Caller {
                key: caller,
                waiting: VecDeque::from([(ticket, what)]),
            }),
        }
        self.waiting += 1;
        let LineLimits {
            patience,
            standing_patience,
            ..
        } = self.limits;
        let standing = (now + standing_patience).max(since + patience);
        Queued::Waits {
            ticket,
            until: standing.min(now + patience),
            pushed_out,
        }
    }

    /// Leaves the line; what waited is given back, unless it was let in or pushed out before.
    pub fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let callers = &mut self.class(ticket.priority).callers;
        let at = callers.iter().position(|of| of.key == ticket.caller)?;
        let waiting = &mut callers.get_mut(at)?.waiting;
        let nth = waiting.iter().position(|(of, _)| *of == ticket)?;
        let (_, what) = waiting.remove(nth)?;
        if waiting.is_empty() {
            callers.remove(at);
        }
        self.gone();
        Some(what)
    }

    /// A caller's place is free again. To be followed by [`Self::let_in`] until nobody comes.
    pub fn end(&mut self, caller: u64) {
        self.open = self.open.saturating_sub(1);
        if let Entry::Occupied(mut held) = self.held.entry(caller) {
            if *held.get() > 1 {
                *held.get_mut() -= 1;
            } else {
                held.remove();
            }
        }
    }

    /// Lets the next one in, if there is a place for it.
    pub fn let_in(&mut self) -> Option<T> {
        if self.waiting == 0 {
            return None;
        }
        for priority in Priority::ALL.iter().rev().copied() {
            if !self.is_open_to(priority) {
                return None;
            }
            let waiting = &self.classes[priority as usize].callers;
            // Who has as many as it may waits for one of its own; the next in turn does not.
            let may_have = |of: &Caller<T>| self.may_have(priority, of.key);
            let Some(at) = waiting.iter().position(may_have) else {
                continue;
            };
            let callers = &mut self.class(priority).callers;
            let mut caller = callers.remove(at)?;
            let (_, what) = caller.waiting.pop_front()?;
            let key = caller.key;
            if !caller.waiting.is_empty() {
                callers.push_back(caller);
            }
            self.gone();
            self.take(key);
            return Some(what);
        }
        None
    }

    /// Time passes, to be said once a second; [`Self::let_in`] may let more in.
    pub fn tick(&mut self) {
        for class in &mut self.classes {
            class.seen = class.seen.saturating_sub(1);
        }
    }

    /// There are other places than was said, but never more.
    pub fn set_places(&mut self, places: usize) {
        self.places = places.clamp(1, self.limits.places.max(1));
        self.calm = calm(self.places);
    }

    /// How many have a place.
    #[must_use]
    pub const fn open(&self) -> usize {
        self.open
    }

    /// How many wait.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether something more important was seen lately.
    fn is_outranked(&self, priority: Priority) -> bool {
        let mut higher = Priority::ALL.iter().filter(|of| **of > priority);
        higher.any(|of| self.classes[*of as usize].seen > 0)
    }

    /// How many of this priority may wait now.
    fn may_wait(&self, priority: Priority) -> usize {
        if self.is_outranked(priority) {
            part(self.limits.waiting, priority)
        } else {
            self.limits.waiting
        }
    }

    /// Whether there is a place for this priority.
    fn is_open_to(&self, priority: Priority) -> bool {
        let places = match priority {
            _ if self.is_outranked(priority) => part(self.places, priority),
            // Nobody gets back from them what they hold, so that some is never theirs.
            Priority::Low => part(self.places, Priority::Default),
            Priority::Default | Priority::High => self.places,
        };
        self.open < places
    }

    /// Whether this caller may have one more place: of those of its priority the same share again.
    fn may_have(&self, priority: Priority, caller: u64) -> bool {
        let held = self.held.get(&caller).copied().unwrap_or(0);
        share(priority) == 100 || held < part(part(self.places, priority), priority)
    }

    fn take(&mut self, caller: u64) {
        self.open += 1;
        *self.held.entry(caller).or_default() += 1;
    }

    /// Makes room: the newest of the caller with the most that wait, of the lowest priority. Of the newcomer's own
    /// priority only from who would still have as many.
    fn push_out(&mut self, priority: Priority, caller: u64) -> Option<T> {
        for of in Priority::ALL.iter().copied().filter(|of| *of <= priority) {
            let callers = &mut self.class(of).callers;
            let own = callers.iter().find(|known| known.key == caller);
            let own = own.map_or(0, |known| known.waiting.len());
            let most = (0..callers.len())
                .max_by_key(|at| callers.get(*at).map_or(0, |known| known.waiting.len()));
            let Some((at, most)) = most.and_then(|at| callers.get_mut(at).map(|of| (at, of)))
            else {
                continue;
            };
            if of == priority && (most.key == caller || most.waiting.len() <= own + 1) {
                continue;
            }
            let (_, what) = most.waiting.pop_back()?;
            if most.waiting.is_empty() {
                callers.remove(at);
            }
            self.gone();
            return Some(what);
        }
        None
    }

    fn gone(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            self.since = None;
        }
    }

    fn class(&mut self, priority: Priority) -> &mut Class<T> {
        &mut self.classes[priority as usize]
    }
}

#[cfg(test)]
mod tests;
