//! Hosts: network namespaces on one bridge, each with an IPv4 and an IPv6 address.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    time::Duration,
};

use leno_net::{link, memory, netns, netns::NetNs};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::process::{Output, Process, directory};

const BRIDGE: &str = "hosts";
const LINK: &str = "eth0";
/// Commands that are waited for take at most so long.
const LONG: Duration = Duration::from_secs(60);

/// The bridge and everything on it.
pub struct Network {
    hosts: BTreeMap<String, Rc<Host>>,
    next: u8,
}

/// A machine of its own, as far as networks go.
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Which of the two it has.
    families: Families,
    namespace: NetNs,
}

/// Which addresses a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Families {
    Both,
    V6Only,
}

impl Network {
    /// The network that hosts of the mesh are in.
    pub const V4: &str = "10.77.0.0/24";
    /// The same of IPv6.
    pub const V6: &str = "fd77::/64";

    /// An empty network, in this thread's namespace.
    ///
    /// # Panics
    /// When the namespace does not let us.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes links")]
    pub fn new() -> Self {
        link::loopback_up().expect("lo up");
        link::create_bridge(BRIDGE).expect("a bridge");
        link::up(BRIDGE).expect("the bridge up");
        Self {
            hosts: BTreeMap::new(),
            next: 2,
        }
    }

    /// No hosts of its own: for a second mesh on hosts of the first one's network.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            hosts: BTreeMap::new(),
            next: 2,
        }
    }

    /// Takes a host of another network in.
    pub fn include(&mut self, host: &Rc<Host>) {
        self.hosts.insert(host.name.clone(), Rc::clone(host));
    }

    /// A new host inside the mesh's network.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn add(&mut self, name: &str) -> Rc<Host> {
        let number = self.next;
        self.next += 1;
        self.make(name, inside(number), Families::Both)
    }

    /// A new host inside the mesh's network that has an IPv6 address only: its IPv4 address is nobody's.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn add_ipv6_only(&mut self, name: &str) -> Rc<Host> {
        let number = self.next;
        self.next += 1;
        self.make(name, inside(number), Families::V6Only)
    }

    /// A new host outside of every network of the mesh.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn add_outside(&mut self, name: &str) -> Rc<Host> {
        let number = self.next;
        self.next += 1;
        let v4 = Ipv4Addr::new(198, 51, 100, number);
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into());
        self.make(name, (v4, v6), Families::Both)
    }

    /// A host that is there.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn host(&self, name: &str) -> Rc<Host> {
        Rc::clone(self.hosts.get(name).expect("a host of this name"))
    }

    /// Takes a host off the network, with its namespace and what it had in memory: a reboot. Its processes must have
    /// ended.
    ///
    /// # Panics
    /// When what it had in memory cannot be let go of.
    pub fn remove(&mut self, name: &str) {
        if let Some(host) = self.hosts.remove(name) {
            // Not mounted where all of the test's files are in memory.
            if rustix::mount::unmount(host.run_dir(), UnmountFlags::DETACH).is_err() {
                fs::remove_dir_all(host.run_dir()).expect("the host's run directory");
            }
            drop(link::delete(&format!("to-{name}")));
        }
    }

    /// A host in place of one that was removed, with the same addresses.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn add_again(&mut self, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Rc<Host> {
        self.make(name, (v4, v6), Families::Both)
    }

    fn make(&mut self, name: &str, (v4, v6): (Ipv4Addr, Ipv6Addr), families: Families) -> Rc<Host> {
        let namespace = std::thread::spawn(|| {
            netns::unshare_net().expect("a network namespace");
            link::loopback_up().expect("lo up");
            NetNs::current().expect("our own namespace")
        });
        let namespace = namespace.join().expect("the thread of a new namespace");
        let outer = format!("to-{name}");
        link::create_veth(&outer, LINK, &namespace).expect("a pair of links");
        link::set_master(&outer, BRIDGE).expect("the link in the bridge");
        link::up(&outer).expect("the link up");
        let addressed = namespace.within(|| {
            // Nobody else has these addresses: no second is lost to asking.
            fs::write(format!("/proc/sys/net/ipv6/conf/{LINK}/accept_dad"), "0")?;
            link::up(LINK)?;
            if families == Families::Both {
                link::add_address(LINK, v4.into(), 24)?;
            }
            link::add_address(LINK, v6.into(), 64)?;
            for other in [
                (IpAddr::from([10, 77, 0, 0]), 24),
                (IpAddr::from([198, 51, 100, 0]), 24),
                (Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0).into(), 64),
                (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).into(), 64),
            ] {
                if other.0.is_ipv4() && families == Families::V6Only {
                    continue;
                }
                match link::add_route(other, None, Some(LINK)) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error);
                    }
                    Ok(()) | Err(_) => {}
                }
            }
            Ok(())
        });
        addressed.expect("the host's addresses");
        let host = Rc::new(Host {
            name: name.to_owned(),
            v4,
            v6,
            families,
            namespace,
        });
        self.hosts.insert(name.to_owned(), Rc::clone(&host));
        run_dir_in_memory(&host.run_dir());
        host
    }
}

/// As `/run` is: what a running agent keeps is on no disk.
fn run_dir_in_memory(dir: &Path) {
    fs::create_dir_all(dir).expect("the host's run directory");
    if !memory::is_in_memory(dir).expect("its file system") {
        let options = Some(c"mode=0755,size=64m");
        rustix::mount::mount("tmpfs", dir, "tmpfs", MountFlags::empty(), options).expect("a tmpfs");
    }
}

/// The addresses of a host of this number in the mesh's network.
fn inside(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into());
    (Ipv4Addr::new(10, 77, 0, number), v6)
}

impl Host {
    /// Its addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        match self.families {
            Families::Both => vec![self.v4.into(), self.v6.into()],
            Families::V6Only => vec![self.v6.into()],
        }
    }

    /// A directory of its own, which outlives a reboot.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        let dir = directory().join(&self.name);
        fs::create_dir_all(&dir).expect("the host's directory");
        dir
    }

    /// What its processes keep while they run: in memory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.disk().join("run")
    }

    /// Starts a process on the host, outside of the mesh.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn spawn(&self, command: &mut Command) -> Process {
        let name = format!("{}: {}", self.name, shown(command));
        let started = Process::start(&name, command, |command| {
            self.namespace.within(|| command.spawn())
        });
        started.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Runs a command on the host, outside of the mesh, to its end.
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> Output {
        self.spawn(command).output(LONG)
    }

    /// Runs a command given as words.
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    #[track_caller]
    pub fn exec(&self, words: &[&str]) -> Output {
        self.run(&mut words_to_command(words))
    }

    /// Runs `f` in the host's network namespace.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn within<T>(&self, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.namespace.within(f)
    }

    /// Connects from the host.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let within = Duration::from_secs(5);
        let stream = self.within(|| TcpStream::connect_timeout(&to, within))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    }

    /// Listens on the host.
    ///
    /// # Errors
    /// Those of the listener.
    pub fn listen(&self, on: SocketAddr) -> io::Result<TcpListener> {
        self.within(|| TcpListener::bind(on))
    }
}

/// Runs a command in a namespace to its end.
pub(crate) fn run_in(
    name: &str,
    namespace: &NetNs,
    command: &mut Command,
    within: Duration,
) -> Output {
    spawn_in(name, namespace, command).output(within)
}

/// Starts a command in a namespace.
#[track_caller]
pub(crate) fn spawn_in(name: &str, namespace: &NetNs, command: &mut Command) -> Process {
    let name = format!("{name}: {}", shown(command));
    let started = Process::start(&name, command, |command| {
        namespace.within(|| command.spawn())
    });
    started.unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(crate) fn words_to_command(words: &[&str]) -> Command {
    let (program, arguments) = words.split_first().expect("a command has a program");
    let mut command = Command::new(crate::program(program).unwrap_or_else(|| program.into()));
    command.args(arguments);
    command
}

pub(crate) fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let words = command
        .get_args()
        .map(|word| word.to_string_lossy().into_owned());
    let text: Vec<String> = std::iter::once(program).chain(words).collect();
    text.join(" ").chars().take(100).collect()
}
