//! Every check there is: a closed set, so that each has an id, a category, and a place in docs/reference/check.md.
//!
//! The doc comment of a check is its text there: what is looked at, then what to do when it is not so.

macro_rules! checks {
    ($($(#[doc = $doc:literal])* $variant:ident = $id:literal, $category:literal;)*) => {
        /// One thing that is looked at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Check { $($(#[doc = $doc])* $variant,)* }

        impl Check {
            /// Every check there is.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What is looked at, and what to do when it is not so.
            pub(crate) const fn text(self) -> &'static str { match self { $(Self::$variant => concat!($($doc,)*),)* } }

            /// Its stable name: in JSON, and the heading in the page.
            pub(crate) const fn id(self) -> &'static str { match self { $(Self::$variant => $id,)* } }

            /// Under which heading it is shown.
            pub(super) const fn category(self) -> &'static str { match self { $(Self::$variant => $category,)* } }
        }
    };
}

checks! {
    /// Programs can be given a network namespace of their own. As root: `sysctl -w user.max_user_namespaces=10000`, or run Leno as root.
    Namespaces = "host-namespaces", "this host";
    /// No security module forbids ordinary users' namespaces to do anything (Ubuntu's AppArmor does). As root: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run Leno as root.
    UserNamespaces = "host-user-namespaces", "this host";
    /// Which IP versions there are. Without IPv6, names of the mesh have no AAAA, and that is all.
    IpVersions = "host-ip-versions", "this host";
    /// The kernel's table of connections has room. When it is full, new connections are dropped without a word: raise `net.netfilter.nf_conntrack_max`.
    Conntrack = "host-conntrack", "this host";
    /// A process may have enough files open: every connection is one. Raise `LimitNOFILE` of the unit, or `ulimit -Hn`.
    OpenFiles = "host-open-files", "this host";
    /// There is memory left. Proxies shed what is less important when it runs out: end something, or give the machine more.
    Memory = "host-memory", "this host";
    /// The disk that keeps Leno's state has room. Without it the control plane refuses changes (traffic goes on): free some.
    Disk = "host-disk", "this host";
    /// The state directory is its owner's alone: keys are in it. `chmod 700` it.
    StatePrivate = "host-state-private", "this host";
    /// Keys of programs are kept in memory (tmpfs), never on a disk. Set `--run-dir` to a directory on tmpfs, such as `/run/leno`.
    KeysInMemory = "host-keys-in-memory", "this host";
    /// Control groups (v2) are there, which `leno run --network host` needs. Boot with the unified hierarchy, or do without that option.
    ControlGroups = "host-control-groups", "this host";
    /// There is a resolver for names outside the mesh. Name one in `/etc/resolv.conf`, or with `--dns`.
    Resolver = "host-resolver", "this host";
    /// The agent of this host answers. `leno agent` starts it.
    AgentAnswers = "agent-answers", "agent";
    /// The agent has a session with its control plane. It says itself what keeps it from one, and what to do.
    AgentConnected = "agent-connected", "agent";
    /// For how long the programs of this host go on without a control plane: until the first of their certificates ends, which are renewed at half their life (`--workload-ttl`).
    AgentAway = "agent-away", "agent";
    /// The agent's own certificate (30 days) is renewed daily. An agent that did not reach its control plane for two weeks is told here: find out why before it ends.
    AgentCertificate = "agent-certificate", "agent";
    /// The ports that Leno listens on are free. End their holder, or choose others; each has an option.
    Ports = "before-ports", "before a mesh is here";
    /// No firewall drops what other hosts send to Leno's ports. Let them in; the rule is shown.
    Firewall = "before-firewall", "before a mesh is here";
    /// Docker is here, whose containers have networks of their own. Run `leno-proxy` in a container's network.
    Docker = "before-docker", "before a mesh is here";
    /// This host is not a member of a mesh already. `leno leave` gives a membership up.
    Membership = "before-membership", "before a mesh is here";
    /// There is a context: a way to a mesh. `leno up` writes one, `leno context import` takes one.
    ContextHere = "context-here", "context";
    /// The file with the contexts is its owner's alone: keys are in it. `chmod 600` it.
    ContextPrivate = "context-private", "context";
    /// The certificate in the context is valid. Have a new one made: `leno user create` on the control plane's machine, then `leno context import`.
    ContextCertificate = "context-certificate", "context";
    /// The control plane answers. Start it, let its port through, or choose another context.
    ControlPlaneAnswers = "control-plane-answers", "control plane";
    /// The control plane says everything that is asked of it here. If not, it is of another version.
    ControlPlaneComplete = "control-plane-complete", "control plane";
    /// The control plane is of this command's version. Another one works; what only the newer knows is not shown.
    ControlPlaneVersion = "control-plane-version", "control plane";
    /// Its clock and this machine's agree. Certificates are judged by clocks: set the wrong one right (NTP).
    ControlPlaneClock = "control-plane-clock", "control plane";
    /// For how long it may stay away: until the first certificate of a program ends. `--workload-ttl` sets their life.
    ControlPlaneAway = "control-plane-away", "control plane";
    /// The intermediate certificate, which renews itself, has time left. If not, its log says why it is not renewed.
    Intermediate = "control-plane-intermediate", "control plane";
    /// The root certificate (10 years) has time left. Nothing of the mesh is trusted after it.
    Root = "control-plane-root", "control plane";
    /// The store's disk has room. Free some: changes are refused before it is full, traffic goes on.
    StoreRoom = "control-plane-store-room", "control plane";
    /// The store takes what is written. Since the control plane started none was refused for a full disk.
    StoreWritten = "control-plane-store-written", "control plane";
    /// What is stored is compiled. Behind for long: the control plane's machine is too busy.
    Compiled = "control-plane-compiled", "control plane";
    /// Samples compiled afresh equal what proxies were told. If not, it is a fault of Leno, which it mended: report it.
    Divergence = "control-plane-divergence", "control plane";
    /// No ceiling of the control plane was met since it started. Who met it was refused, others were served: see docs/limits.md.
    Ceilings = "control-plane-ceilings", "control plane";
    /// Objects can be read. If not, the role of the context does not reach that far.
    ObjectsReadable = "objects-readable", "objects";
    /// Every object is accepted. Mend what its condition names.
    ObjectsAccepted = "objects-accepted", "objects";
    /// What objects refer to is there. Mend the reference, or start what it names.
    ObjectsResolved = "objects-resolved", "objects";
    /// Every proxy that an object concerns runs it. `leno proxy status` shows which do not.
    ObjectsProgrammed = "objects-programmed", "objects";
    /// Every service that a HostnameGenerator means has its name. `leno get services -A -o wide` shows which names there are.
    ObjectsGenerated = "objects-generated", "objects";
    /// Every host is connected. Is it up, does its agent run, does it reach port 15012 of the control plane?
    ProxyConnected = "proxy-connected", "proxies";
    /// Every proxy runs what it was given. One that refuses something is often of an older version.
    ProxyAccepts = "proxy-accepts", "proxies";
    /// Every proxy understands what protects its workloads. One that does not lets nobody in to them, rather than somebody whom
    /// a rule keeps out: update Leno on its host.
    ProxyUnderstands = "proxy-understands", "proxies";
    /// Every host answers at all addresses that it claims. Is a firewall in the way of port 15008?
    ProxyAddresses = "proxy-addresses", "proxies";
    /// Every proxy is of the control plane's version. One version apart works: upgrade it when you can.
    ProxyVersion = "proxy-version", "proxies";
    /// Every program's certificate is renewed in time. Its agent's log says why one is not.
    ProxyCertificates = "proxy-certificates", "proxies";
    /// Every program is ready. Look at its own output; `leno run --check` says how it is checked.
    WorkloadReady = "workload-ready", "workloads";
    /// Every route leads to programs that are ready. Start one, or take it out of the route (`leno split`).
    RouteServed = "route-served", "routes";
    /// Calls succeed. `leno top` shows them live; `leno explain CODE` says what a reason means.
    CallsSucceed = "calls-succeed", "calls";
    /// Nobody calls in plaintext where the mesh takes mutual TLS only. Bring the caller in (`leno run`), or let plaintext in at that port (`leno mtls permissive SERVICE --port PORT`); `leno mtls` shows who calls.
    PlaintextCallers = "plaintext-callers", "calls";
}
