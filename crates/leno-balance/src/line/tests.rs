#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test needs a time to begin with, and may panic"
)]

use proptest::prelude::*;

use super::*;

const LIMITS: LineLimits = LineLimits {
    places: 10,
    waiting: 20,
    patience: Duration::from_secs(5),
    standing_patience: Duration::from_millis(500),
};

/// Somebody's request: its priority, its caller, its number.
type Asked = (Priority, u64, u32);

struct Fixture {
    line: Line<Asked>,
    /// Whose the places are, the oldest first.
    places: VecDeque<u64>,
    now: Instant,
    number: u32,
}

impl Fixture {
    fn new() -> Self {
        Self {
            line: Line::new(LIMITS),
            places: VecDeque::new(),
            now: Instant::now(),
            number: 0,
        }
    }

    /// Asks for a place; `None`: it has one.
    fn ask(&mut self, priority: Priority, caller: u64) -> Option<Queued<Asked>> {
        self.number += 1;
        if self.line.begin_calm(caller) || self.line.begin(priority, caller) {
            self.places.push_back(caller);
            return None;
        }
        let what = (priority, caller, self.number);
        Some(self.line.wait(priority, caller, self.now, what))
    }

    /// The oldest place is given back.
    fn end(&mut self) {
        if let Some(caller) = self.places.pop_front() {
            self.line.end(caller);
        }
    }

    fn let_in(&mut self) -> Option<Asked> {
        let what = self.line.let_in()?;
        self.places.push_back(what.1);
        Some(what)
    }

    fn ask_times(&mut self, times: u32, priority: Priority, caller: u64) {
        for _ in 0..times {
            self.ask(priority, caller);
        }
    }
}

fn waits<T>(queued: Option<Queued<T>>) -> (Ticket, Instant, Option<T>) {
    match queued.unwrap() {
        Queued::Waits {
            ticket,
            until,
            pushed_out,
        } => (ticket, until, pushed_out),
        Queued::Full | Queued::Margin => panic!("it does not wait"),
    }
}

#[test]
fn no_caller_ever_has_all_places_and_low_priority_never_has_the_last() {
    let mut fixture = Fixture::new();
    fixture.ask_times(25, Priority::Low, 1);
    // The line is its own, of ten places five.
    assert_eq!((fixture.line.open(), fixture.line.waiting()), (5, 20));
    assert_eq!(fixture.ask(Priority::Low, 1), Some(Queued::Full));
    for _ in 0..4 {
        assert_eq!(fixture.ask(Priority::Low, 2), None);
    }
    let (.., pushed_out) = waits(fixture.ask(Priority::Low, 2));
    assert_eq!(pushed_out, Some((Priority::Low, 1, 25)));
    // Whoever holds the others for hours: a member that was never seen before has one at once.
    assert_eq!(fixture.ask(Priority::Default, 3), None);
    assert_eq!(fixture.line.open(), 10);
}

#[test]
fn a_margin_is_kept_for_the_more_important_while_some_of_it_is_seen() {
    let mut fixture = Fixture::new();
    fixture.ask_times(5, Priority::Low, 1);
    fixture.ask_times(3, Priority::Low, 2);
    assert_eq!(fixture.ask(Priority::Default, 3), None);
    fixture.ask_times(30, Priority::Low, 1);
    // Of 20 that may wait 70 %.
    assert_eq!((fixture.line.open(), fixture.line.waiting()), (9, 14));
    assert_eq!(fixture.ask(Priority::Low, 1), Some(Queued::Margin));
    assert_eq!(fixture.ask(Priority::Default, 3), None);
    // Four end: seven are left, which is what the low ones may have.
    for _ in 0..3 {
        fixture.end();
        assert_eq!(fixture.let_in(), None);
    }
    fixture.end();
    assert!(fixture.let_in().is_some());
    assert_eq!(fixture.let_in(), None);
    for _ in 0..MARGIN_TICKS {
        assert_eq!(fixture.let_in(), None);
        fixture.line.tick();
    }
    let mut more = 0;
    while fixture.let_in().is_some() {
        more += 1;
    }
    assert_eq!((more, fixture.line.open()), (2, 9));
}

#[test]
fn the_more_important_goes_first_and_pushes_the_less_important_out() {
    let mut fixture = Fixture::new();
    fixture.ask_times(25, Priority::Low, 1);
    fixture.ask_times(4, Priority::Low, 9);
    assert_eq!(fixture.ask(Priority::Default, 2), None);
    for number in 0..19 {
        let (.., pushed_out) = waits(fixture.ask(Priority::Default, 2));
        // The newest goes first.
        assert_eq!(pushed_out, Some((Priority::Low, 1, 25 - number)));
    }
    let (.., pushed_out) = waits(fixture.ask(Priority::High, 3));
    assert_eq!(pushed_out.unwrap().0, Priority::Low);
    fixture.end();
    assert_eq!(fixture.let_in().unwrap().0, Priority::High);
    fixture.end();
    // High ones were seen: of ten places nine are for the others.
    assert_eq!(fixture.let_in(), None);
    fixture.end();
    assert_eq!(fixture.let_in().unwrap().0, Priority::Default);
}

#[test]
fn callers_take_turns_and_who_asks_most_makes_room() {
    let mut fixture = Fixture::new();
    fixture.ask_times(30, Priority::Default, 1);
    assert_eq!((fixture.line.open(), fixture.line.waiting()), (9, 20));
    assert_eq!(fixture.ask(Priority::Default, 2), None);
    let (.., pushed_out) = waits(fixture.ask(Priority::Default, 2));
    assert_eq!(pushed_out, Some((Priority::Default, 1, 29)));
    // Who has the most waits behind itself.
    assert_eq!(fixture.ask(Priority::Default, 1), Some(Queued::Full));
    fixture.ask_times(30, Priority::Default, 2);
    let mut turns = Vec::new();
    while fixture.line.waiting() > 0 {
        fixture.end();
        turns.push(fixture.let_in().unwrap().1);
    }
    let of_two = turns.iter().filter(|caller| **caller == 2).count();
    assert_eq!(of_two, 10, "{turns:?}");
    assert!(
        turns.chunks(2).all(|pair| pair == [1, 2]),
        "in turn: {turns:?}"
    );
}

#[test]
fn a_line_that_stands_is_waited_in_less_long_than_a_fresh_one() {
    let mut fixture = Fixture::new();
    fixture.ask_times(9, Priority::Default, 1);
    fixture.ask_times(1, Priority::Default, 2);
    let begun = fixture.now;
    let (ticket, until, _) = waits(fixture.ask(Priority::Default, 1));
    assert_eq!(until - begun, LIMITS.patience);
    for (later, patience) in [(4_000, 1_000), (4_700, 500), (60_000, 500)] {
        fixture.now = begun + Duration::from_millis(later);
        let (later, until, _) = waits(fixture.ask(Priority::Default, 1));
        assert_eq!(until - fixture.now, Duration::from_millis(patience));
        assert!(fixture.line.leave(later).is_some());
    }
    assert!(fixture.line.leave(ticket).is_some());
    assert_eq!(fixture.line.leave(ticket), None);
    // Empty once, it is fresh again.
    let (_, until, _) = waits(fixture.ask(Priority::Default, 1));
    assert_eq!(until - fixture.now, LIMITS.patience);
}

#[test]
fn fewer_places_are_kept_to_and_more_than_the_ceiling_never_come() {
    let mut fixture = Fixture::new();
    fixture.line.set_places(2);
    fixture.ask_times(5, Priority::Default, 1);
    assert_eq!((fixture.line.open(), fixture.line.waiting()), (2, 3));
    fixture.line.set_places(usize::MAX);
    while fixture.let_in().is_some() {}
    fixture.ask_times(9, Priority::Default, 1);
    // Nine are the most for one.
    assert_eq!((fixture.line.open(), fixture.line.waiting()), (9, 5));
}

/// A program that serves ten at once, each for about a second; time goes on in milliseconds.
struct Simulated {
    served: Vec<(Asked, Duration)>,
    refused: Vec<Asked>,
}

/// So many of each a second, for as long.
fn simulate(per_second: &[(Priority, u64, u64)], seconds: u64) -> Simulated {
    let mut fixture = Fixture::new();
    let begin = fixture.now;
    let mut ends: Vec<Instant> = Vec::new();
    // Between a half and one and a half seconds.
    let mut state = 1_u64;
    let mut takes = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        Duration::from_millis(500 + (state >> 33) % 1_000)
    };
    let mut waiting: Vec<(Ticket, Instant, Instant, Asked)> = Vec::new();
    let (mut served, mut refused) = (Vec::new(), Vec::new());
    for millis in 0..seconds * 1_000 {
        fixture.now = begin + Duration::from_millis(millis);
        let now = fixture.now;
        ends.retain(|end| {
            let over = *end <= now;
            if over {
                fixture.end();
            }
            !over
        });
        if millis % 1_000 == 0 {
            fixture.line.tick();
        }
        while let Some(next) = fixture.let_in() {
            let at = waiting.iter().position(|(.., of)| *of == next).unwrap();
            let (_, since, ..) = waiting.swap_remove(at);
            served.push((next, now - since));
            ends.push(now + takes());
        }
        waiting.retain(|(ticket, _, until, asked)| {
            let late = now >= *until;
            if late {
                assert!(fixture.line.leave(*ticket).is_some());
                refused.push(*asked);
            }
            !late
        });
        for (priority, caller, rate) in per_second {
            if millis * rate / 1_000 == (millis + 1) * rate / 1_000 {
                continue;
            }
            let queued = fixture.ask(*priority, *caller);
            let asked = (*priority, *caller, fixture.number);
            match queued {
                None => {
                    served.push((asked, Duration::ZERO));
                    ends.push(now + takes());
                }
                Some(Queued::Waits {
                    ticket,
                    until,
                    pushed_out,
                }) => {
                    waiting.push((ticket, now, until, asked));
                    if let Some(out) = pushed_out {
                        waiting.retain(|(.., of)| *of != out);
                        refused.push(out);
                    }
                }
                Some(Queued::Full | Queued::Margin) => refused.push(asked),
            }
        }
    }
    Simulated { served, refused }
}

impl Simulated {
    fn of(&self, priority: Priority, caller: u64) -> (Vec<Duration>, usize) {
        let same = |asked: &Asked| (asked.0, asked.1) == (priority, caller);
        let mut waited: Vec<Duration> = self
            .served
            .iter()
            .filter(|(asked, _)| same(asked))
            .map(|(_, waited)| *waited)
            .collect();
        waited.sort_unstable();
        let refused = self.refused.iter().filter(|asked| same(asked)).count();
        (waited, refused)
    }
}

#[test]
fn under_three_times_what_a_program_can_do_the_important_feels_nothing() {
    let simulated = simulate(&[(Priority::Default, 1, 6), (Priority::Low, 2, 24)], 60);
    let (waited, refused) = simulated.of(Priority::Default, 1);
    assert_eq!((waited.len(), refused), (360, 0));
    let p99 = waited[waited.len() * 99 / 100];
    assert!(p99 <= Duration::from_millis(150), "{p99:?}");
    // What the margin leaves is the others'.
    let (waited, refused) = simulated.of(Priority::Low, 2);
    assert!(waited.len() >= 90 && refused >= 900, "{}", waited.len());
}

#[test]
fn what_is_served_from_a_line_that_stands_did_not_wait_for_long() {
    let simulated = simulate(&[(Priority::Default, 1, 30)], 60);
    let (waited, _) = simulated.of(Priority::Default, 1);
    // As many as without a bound: of its nine places none is idle.
    assert!(waited.len() >= 500, "{}", waited.len());
    let late = |waited: &&Duration| **waited > LIMITS.standing_patience;
    // Those of the first seconds, when it was not yet known that the line would stand.
    assert!(waited.iter().filter(late).count() <= 60);
}

#[test]
fn a_flood_of_one_caller_takes_nothing_from_another_of_the_same_priority() {
    let simulated = simulate(
        &[(Priority::Default, 1, 100), (Priority::Default, 2, 4)],
        60,
    );
    let (waited, refused) = simulated.of(Priority::Default, 2);
    // Its share is more than it asks for; a few come while nothing ends for long.
    assert!(refused <= 8 && waited.len() >= 230, "{refused}");
    let p99 = waited[waited.len() * 99 / 100];
    assert!(p99 <= Duration::from_millis(600), "{p99:?}");
}

fn priority() -> impl Strategy<Value = Priority> {
    prop::sample::select(Priority::ALL)
}

proptest! {
    #[test]
    fn places_and_line_keep_to_their_ceilings_and_nobody_waits_beside_a_free_place(
        steps in prop::collection::vec((0u8..10, priority(), 0u64..4, 0u64..700), 1..300),
    ) {
        let mut fixture = Fixture::new();
        let mut tickets: Vec<Ticket> = Vec::new();
        for (kind, priority, caller, millis) in steps {
            fixture.now += Duration::from_millis(millis);
            match kind {
                0..=5 => {
                    if let Some(Queued::Waits { ticket, until, .. }) = fixture.ask(priority, caller) {
                        prop_assert!(until > fixture.now && until <= fixture.now + LIMITS.patience);
                        tickets.push(ticket);
                    }
                }
                6..=7 => fixture.end(),
                8 => fixture.line.tick(),
                _ => {
                    let before = fixture.line.waiting();
                    let left = tickets.pop().and_then(|ticket| fixture.line.leave(ticket));
                    prop_assert_eq!(fixture.line.waiting(), before - usize::from(left.is_some()));
                }
            }
            let mut last = Priority::High;
            while let Some((of, ..)) = fixture.let_in() {
                prop_assert!(of <= last, "the more important first");
                last = of;
            }
            prop_assert!(fixture.line.open() <= LIMITS.places);
            prop_assert_eq!(fixture.line.held.values().sum::<usize>(), fixture.line.open());
            prop_assert!(!fixture.line.held.values().any(|held| *held == 0));
            prop_assert!(fixture.line.waiting() <= LIMITS.waiting);
            let held: usize = fixture.line.classes.iter().flat_map(|class| &class.callers)
                .map(|caller| caller.waiting.len()).sum();
            prop_assert_eq!(held, fixture.line.waiting());
            prop_assert_eq!(fixture.line.since.is_some(), held > 0);
            // With places for anybody free, nobody waits.
            let one = part(part(LIMITS.places, Priority::Low), Priority::Low);
            prop_assert!(held == 0 || fixture.line.open() >= one);
        }
    }
}
