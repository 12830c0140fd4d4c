//! What was written, and whether what an informer was told is that: no event lost, none invented, none out of order.
//!
//! The writer is alone, so it knows every object's whole history; only the revision of a deletion is told to nobody
//! but watchers. An informer's view of an object is a position in that history, and every event must be the next one.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What happened to one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It was created or changed.
    Put { version: u64, dark: bool },
    /// It was deleted.
    Gone,
}

/// Objects of one kind: each one's steps.
pub(crate) type History = BTreeMap<String, Vec<Step>>;

/// A line that an informer's program reports.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Line {
    pub(crate) informer: String,
    pub(crate) op: String,
    pub(crate) key: String,
    pub(crate) version: String,
    pub(crate) text: String,
    pub(crate) items: BTreeMap<String, String>,
}

/// Where an informer is in an object's history.
#[derive(Clone, Copy, Debug)]
enum Position {
    /// It holds what this step made, or knows that this step removed it.
    At(usize),
    /// A list, told after it knew this many steps, did not have it.
    Absent { after: usize },
}

/// One informer's view.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) name: String,
    /// It sees dark objects only.
    pub(crate) dark: bool,
    pub(crate) events: u64,
    pub(crate) again: u64,
    pub(crate) lists: u64,
    pub(crate) resumed: u64,
    pub(crate) expired: u64,
    pub(crate) failed: u64,
    positions: BTreeMap<String, Position>,
    listing: Option<BTreeMap<String, u64>>,
    /// The version of the last event, from which a watch is resumed.
    last: u64,
    /// Everything up to here was told.
    high: u64,
    pub(crate) cache: Option<BTreeMap<String, u64>>,
    pub(crate) handled: Option<BTreeMap<String, u64>>,
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("no version: {text:?}"))
}

impl View {
    /// One that was told nothing yet.
    pub(crate) fn new(name: &str, dark: bool) -> Self {
        Self {
            name: name.into(),
            dark,
            ..Self::default()
        }
    }

    fn visible(&self, step: Step) -> Option<u64> {
        match step {
            Step::Put { version, dark } if dark || !self.dark => Some(version),
            _ => None,
        }
    }

    /// What it should hold in the end.
    pub(crate) fn meant(&self, history: &History) -> BTreeMap<String, u64> {
        let last = |(key, steps): (&String, &Vec<Step>)| {
            let version = steps.last().and_then(|step| self.visible(*step))?;
            Some((key.clone(), version))
        };
        history.iter().filter_map(last).collect()
    }

    /// What it was told there is.
    pub(crate) fn told(&self, history: &History) -> BTreeMap<String, u64> {
        let at = |(key, position): (&String, &Position)| match position {
            Position::At(at) => {
                let step = history.get(key)?.get(*at)?;
                Some((key.clone(), self.visible(*step)?))
            }
            Position::Absent { .. } => None,
        };
        self.positions.iter().filter_map(at).collect()
    }

    /// Takes the next line; why it should not have been.
    pub(crate) fn take(&mut self, line: &Line, history: &History) -> Result<(), String> {
        match line.op.as_str() {
            "begin" => self.listing = Some(BTreeMap::new()),
            "item" => {
                let version = number(&line.version)?;
                let listing = self.listing.as_mut().ok_or("an item outside of a list")?;
                if listing.insert(line.key.clone(), version).is_some() {
                    return Err("an item twice in a list".into());
                }
            }
            "listed" => self.listed(line, history)?,
            "watch" => {
                self.resumed += 1;
                if number(&line.version)? != self.last {
                    return Err(format!("resumed from elsewhere than {}", self.last));
                }
            }
            "bookmark" => {
                let version = number(&line.version)?;
                if version < self.high {
                    return Err(format!("a bookmark before {}", self.high));
                }
                (self.last, self.high) = (version, version);
            }
            "added" | "modified" | "deleted" | "put" => self.event(line, history)?,
            "error" if line.text.contains("Expired") => self.expired += 1,
            "error" | "failed" => self.failed += 1,
            "cache" => self.cache = Some(versions(&line.items)?),
            "handled" => self.handled = Some(versions(&line.items)?),
            other => return Err(format!("{other}: {}", line.text)),
        }
        Ok(())
    }

    /// A list is complete: it must have been the truth at its revision.
    fn listed(&mut self, line: &Line, history: &History) -> Result<(), String> {
        let listing = self.listing.take().ok_or("the end of no list")?;
        let revision = if line.version.is_empty() {
            None // kube-rs does not tell
        } else {
            Some(number(&line.version)?)
        };
        self.lists += 1;
        for (key, steps) in history {
            let item = listing.get(key).copied();
            let at = match item {
                Some(version) => Position::At(place(steps, version).ok_or("never written")?),
                None => Position::Absent {
                    after: match self.positions.get(key) {
                        Some(Position::At(at)) => *at + 1,
                        Some(Position::Absent { after }) => *after,
                        None => 0,
                    },
                },
            };
            if let (Position::At(at), Some(Position::At(before))) = (at, self.positions.get(key))
                && at < *before
            {
                return Err(format!("{key}: a list goes back in time"));
            }
            if let Some(revision) = revision {
                self.was_true(key, steps, at, revision)?;
            }
            self.positions.insert(key.clone(), at);
        }
        if let Some(key) = listing.keys().find(|key| !history.contains_key(*key)) {
            return Err(format!("a list has {key}, which nobody wrote"));
        }
        let newest = listing.values().copied().max().unwrap_or(0);
        self.last = revision.unwrap_or(newest);
        self.high = self.high.max(self.last);
        Ok(())
    }

    fn was_true(
        &self,
        key: &str,
        steps: &[Step],
        at: Position,
        revision: u64,
    ) -> Result<(), String> {
        let then = steps
            .iter()
            .rposition(|step| matches!(step, Step::Put { version, .. } if *version <= revision));
        let right = match (at, then) {
            (Position::At(at), then) => then == Some(at),
            (Position::Absent { .. }, None) => true,
            (Position::Absent { .. }, Some(then)) => {
                steps
                    .get(then)
                    .is_some_and(|step| self.visible(*step).is_none())
                    || matches!(steps.get(then + 1), Some(Step::Gone))
            }
        };
        if right {
            return Ok(());
        }
        Err(format!(
            "{key}: a list of revision {revision} has {at:?}, but then it was at {then:?} of {steps:?}"
        ))
    }

    fn event(&mut self, line: &Line, history: &History) -> Result<(), String> {
        let version = number(&line.version)?;
        let steps = history.get(&line.key).ok_or("nobody wrote it")?;
        let before = self.positions.get(&line.key).copied();
        self.last = version;
        if version <= self.high {
            return self.again(line, steps, before, version);
        }
        self.high = version;
        // A change of its status alone is told at a revision of its own, with the object as it was written last.
        let written = match line.op.as_str() {
            "deleted" => version,
            _ => settled(steps, version),
        };
        let held = match before {
            Some(Position::At(at)) => steps.get(at).and_then(|step| self.visible(*step)),
            _ => None,
        };
        if written < version && held == Some(written) {
            self.again += 1;
            return Ok(());
        }
        self.events += 1;
        let (at, what) = self.next(steps, before, written)?;
        let fits = line.op == what || (line.op == "put" && what != "deleted");
        if !fits {
            return Err(format!("it is told as {}, but was {what}", line.op));
        }
        self.positions.insert(line.key.clone(), Position::At(at));
        Ok(())
    }

    /// Told what it knows: a status that changed, which is no step of ours, or what follows the old version that a
    /// watch was resumed from because such an event was the last it had seen.
    fn again(
        &mut self,
        line: &Line,
        steps: &[Step],
        before: Option<Position>,
        version: u64,
    ) -> Result<(), String> {
        self.again += 1;
        let known = match before {
            Some(Position::At(at)) => at + 1,
            Some(Position::Absent { after }) => after,
            None => 0,
        };
        let put = place(steps, settled(steps, version)).is_some_and(|at| at < known);
        if put || (line.op == "deleted" && known > 0) {
            return Ok(());
        }
        Err(format!("told late: it was at {} already", self.high))
    }

    /// The next event of an object: the step it is, and how it is told.
    fn next(
        &self,
        steps: &[Step],
        before: Option<Position>,
        version: u64,
    ) -> Result<(usize, &'static str), String> {
        let shown = |at: usize| steps.get(at).and_then(|step| self.visible(*step));
        let (mut at, was) = match before {
            Some(Position::At(at)) => (at + 1, shown(at).is_some()),
            None => (0, false),
            // Somewhere after `after` it was absent, and then came what is told now.
            Some(Position::Absent { after }) => {
                let at = place(steps, version).filter(|at| *at >= after);
                let at = at.ok_or("told of an absent object what nobody wrote since")?;
                if at > 0 && shown(at - 1).is_some() {
                    return Err("an event before it was lost".into());
                }
                (at, false)
            }
        };
        while !was && at < steps.len() && shown(at).is_none() {
            at += 1;
        }
        let Some(step) = steps.get(at) else {
            return Err("told of more than was written".into());
        };
        match (self.visible(*step), *step) {
            (Some(meant), _) if meant == version => {
                Ok((at, if was { "modified" } else { "added" }))
            }
            (Some(meant), _) => Err(format!("told of {version}, but {meant} is next")),
            // It left the view by a change, whose version is told.
            (None, Step::Put { version: meant, .. }) if meant != version => {
                Err(format!("left the view at {meant}"))
            }
            (None, _) => Ok((at, "deleted")),
        }
    }
}

/// The version at which the object was written that there was at `version`; `version` itself where there was none.
pub(crate) fn settled(steps: &[Step], version: u64) -> u64 {
    let written = steps.iter().filter_map(|step| match step {
        Step::Put { version, .. } => Some(*version),
        Step::Gone => None,
    });
    let before = written.filter(|of| *of <= version);
    before.max().unwrap_or(version)
}

fn place(steps: &[Step], version: u64) -> Option<usize> {
    steps
        .iter()
        .position(|step| matches!(step, Step::Put { version: of, .. } if *of == version))
}

fn versions(items: &BTreeMap<String, String>) -> Result<BTreeMap<String, u64>, String> {
    items
        .iter()
        .map(|(key, version)| Ok((key.clone(), number(version)?)))
        .collect()
}

/// What the verdicts above are worth: each fault that there could be is seen.
pub(crate) fn faults_are_seen() {
    let put = |version, dark| Step::Put { version, dark };
    let steps = vec![
        put(2, true),
        put(3, false),
        Step::Gone,
        put(6, true),
        put(8, true),
    ];
    let history = History::from([("a/b".to_owned(), steps)]);
    let line = |told: &str| {
        let (op, version) = told.split_once(' ').expect("an operation and a version");
        Line {
            op: op.into(),
            version: version.into(),
            key: if matches!(op, "listed" | "begin" | "watch" | "bookmark") {
                String::new()
            } else {
                "a/b".into()
            },
            ..Line::default()
        }
    };
    let takes = |dark: bool, lines: &[&str]| {
        let mut view = View::new("", dark);
        lines
            .iter()
            .try_for_each(|told| view.take(&line(told), &history))
            .map(|()| view.told(&history) == view.meant(&history))
    };
    let empty = ["begin 0", "listed 1"];
    let with = |more: &[&'static str]| [&empty[..], more].concat();
    let whole = [
        "added 2",
        "modified 3",
        "deleted 4",
        "added 6",
        "modified 8",
    ];
    assert_eq!(takes(false, &with(&whole)), Ok(true));
    assert_eq!(
        takes(
            true,
            &with(&["added 2", "deleted 3", "added 6", "modified 8"])
        ),
        Ok(true)
    );
    assert_eq!(
        takes(false, &with(&whole[..4])),
        Ok(false),
        "the last is lost"
    );
    for lost in 0..4 {
        let mut told = whole.to_vec();
        told.remove(lost);
        assert!(takes(false, &with(&told)).is_err(), "{told:?}");
    }
    for (dark, wrong) in [
        (false, &["added 3"][..]),
        (false, &["modified 2"]),
        (false, &["added 2", "bookmark 3", "modified 3"]),
        (false, &["added 2", "watch 1"]),
        (false, &["added 2", "begin 0", "listed 2"]),
        (false, &["added 2", "begin 0", "item 2", "listed 3"]),
        (true, &["added 2", "deleted 4"]),
        (true, &["added 2", "modified 3"]),
    ] {
        assert!(takes(dark, &with(wrong)).is_err(), "{wrong:?}");
    }
}
