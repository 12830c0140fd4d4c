//! The informers' programs, and what they report, line by line, to the view of each informer.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::Command,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use leno_e2e::SOON;
use leno_testkit::{Host, Process, until, until_ok};

use crate::{
    history::{Line, View, settled},
    kube_rs,
    writer::{Watched, Writer},
};

/// An informer comes back within this after its connection was cut several times: both libraries wait longer each time,
/// at most half a minute.
const BACK: Duration = Duration::from_secs(70);

/// All informers that run.
pub(crate) struct Informers {
    views: BTreeMap<String, View>,
    lines: Receiver<Line>,
    report: Sender<Line>,
    go: Vec<(UnixStream, Process)>,
    rust: Vec<tokio::sync::mpsc::UnboundedSender<()>>,
}

fn kind(name: &str) -> Watched {
    if name.contains("httproutes") {
        Watched::HttpRoutes
    } else {
        Watched::Services
    }
}

impl Informers {
    pub(crate) fn new() -> Self {
        let (report, lines) = channel();
        Self {
            views: BTreeMap::new(),
            lines,
            report,
            go: Vec::new(),
            rust: Vec::new(),
        }
    }

    fn expect(&mut self, name: String) {
        let view = View::new(&name, name.ends_with("shade=dark"));
        self.views.insert(name, view);
    }

    /// Starts client-go's in a process on a host; `streamed` caches begin with a stream of events, not with a list.
    pub(crate) fn start_go(
        &mut self,
        program: &Path,
        host: &Host,
        kubeconfig: &str,
        streamed: bool,
    ) {
        let name = if streamed {
            "client-go,streamed"
        } else {
            "client-go"
        };
        for of in ["services", "services,shade=dark", "httproutes"] {
            self.expect(format!("{name}/{of}"));
        }
        let stem = host.disk().join(name);
        let (context, socket) = (stem.with_extension("context"), stem.with_extension("sock"));
        fs::write(&context, kubeconfig).expect("the context is written");
        drop(fs::remove_file(&socket));
        let listener = UnixListener::bind(&socket).expect("a socket for the report");
        listener.set_nonblocking(true).expect("a socket's flag");
        let mut command = Command::new(program);
        command
            .arg("-kubeconfig")
            .arg(&context)
            .arg("-report")
            .arg(&socket)
            .args(["-name", name])
            .env("KUBE_FEATURE_WatchListClient", streamed.to_string());
        let process = host.spawn(&mut command);
        let (stream, _) = until_ok("the informers report", SOON, || listener.accept());
        stream.set_nonblocking(false).expect("a socket's flag");
        let reads = BufReader::new(stream.try_clone().expect("a second handle"));
        let report = self.report.clone();
        thread::spawn(move || {
            for line in reads.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("a line of the report");
                if report.send(line).is_err() {
                    return;
                }
            }
        });
        self.go.push((stream, process));
    }

    /// Starts kube-rs' in a thread.
    pub(crate) fn start_rust(&mut self, kubeconfig: &str) {
        for name in kube_rs::NAMES {
            self.expect(name.into());
        }
        let (commands, receiver) = tokio::sync::mpsc::unbounded_channel();
        kube_rs::start(kubeconfig.into(), self.report.clone(), receiver);
        self.rust.push(commands);
    }

    /// Takes what was reported so far; the history must be complete.
    fn take(&mut self, writer: &Writer) {
        let histories = writer.histories();
        let nothing = BTreeMap::new();
        for line in self.lines.try_iter() {
            let view = self
                .views
                .get_mut(&line.informer)
                .expect("a known informer");
            let history = histories.get(&kind(&line.informer)).unwrap_or(&nothing);
            if let Err(wrong) = view.take(&line, history) {
                let steps = history.get(&line.key);
                panic!("{}: {wrong}\n{line:?}\n{view:?}\n{steps:?}", line.informer);
            }
        }
    }

    /// While nobody writes: every informer comes to hold what a list says, and has missed nothing on the way.
    pub(crate) fn agree(&mut self, writer: &Writer) {
        let mut behind = String::new();
        let mut told = || {
            self.take(writer);
            let histories = writer.histories();
            let nothing = BTreeMap::new();
            let late = self.views.values().find(|view| {
                let history = histories.get(&kind(&view.name)).unwrap_or(&nothing);
                view.lists == 0 || view.told(history) != view.meant(history)
            });
            match late {
                Some(view) => Err(view.name.clone()),
                None => Ok(()),
            }
        };
        until_ok("every informer is told of everything", BACK, || {
            told().inspect_err(|name| behind.clone_from(name))
        });
        for of in Watched::ALL {
            let whole = View::default();
            let meant = whole.meant(writer.histories().get(&of).unwrap_or(&BTreeMap::new()));
            assert_eq!(writer.listed(of), meant, "a list of {of:?}");
        }
        until("every cache is as the list", SOON * 2, || {
            self.caches_agree(writer).then_some(())
        });
    }

    /// Asks every program for its caches, and compares.
    fn caches_agree(&mut self, writer: &Writer) -> bool {
        for view in self.views.values_mut() {
            (view.cache, view.handled) = (None, None);
        }
        for (stream, _) in &mut self.go {
            stream.write_all(b"cache\n").expect("the program reads");
        }
        for commands in &self.rust {
            commands.send(()).expect("the thread lives");
        }
        until("every program tells its caches", SOON * 2, || {
            self.take(writer);
            let all = self.views.values().all(|view| view.cache.is_some());
            all.then_some(())
        });
        let histories = writer.histories();
        let nothing = BTreeMap::new();
        self.views.values().all(|view| {
            let history = histories.get(&kind(&view.name)).unwrap_or(&nothing);
            let meant = view.meant(history);
            // Beside a status that changed later stands the version of that.
            let as_written = |held: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
                let of = |(key, version): (&String, &u64)| {
                    let steps = history.get(key).map_or(&[][..], Vec::as_slice);
                    (key.clone(), settled(steps, *version))
                };
                held.iter().map(of).collect()
            };
            view.cache.as_ref().map(as_written) == Some(meant.clone())
                && view
                    .handled
                    .as_ref()
                    .is_none_or(|handled| as_written(handled) == meant)
        })
    }

    /// How many complete lists each informer has had.
    pub(crate) fn lists(&self) -> BTreeMap<String, u64> {
        let of = |(name, view): (&String, &View)| (name.clone(), view.lists);
        self.views.iter().map(of).collect()
    }

    /// Events, those told again, lists, resumed watches, expired ones, failures: of all informers, and a line for each.
    pub(crate) fn figures(&self) -> ([u64; 6], Vec<String>) {
        let mut sums = [0; 6];
        let mut lines = Vec::new();
        for view in self.views.values() {
            let View {
                events,
                again,
                lists,
                resumed,
                expired,
                failed,
                ..
            } = *view;
            for (sum, of) in sums
                .iter_mut()
                .zip([events, again, lists, resumed, expired, failed])
            {
                *sum += of;
            }
            lines.push(format!(
                "{}: {events} events, {again} told again, {lists} lists, {resumed} watches resumed, {expired} expired, {failed} failures",
                view.name
            ));
        }
        (sums, lines)
    }
}
