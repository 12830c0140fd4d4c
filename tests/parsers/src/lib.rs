//! Every parser of what a peer or a user sends, as a fuzzer calls it: bytes in, whether anything was read out, and a panic
//! where that is not what must hold of it.
//!
//! `fuzz/targets` are wrappers around these functions, and `tests/replay.rs` feeds them the corpora of `fuzz/corpus` on a
//! stable compiler, with every run of the tests. Where only the crate itself can call its parser, the function stands in
//! its module `fuzzing`.

mod config;
mod control;
mod http;
mod names;
mod wire;

/// Names the targets once, for the fuzzer and for the replay.
macro_rules! targets {
    ($($(#[$about:meta])* $name:ident = $body:path;)*) => {
        /// Every target by its name: that of its wrapper and of its corpus.
        pub const TARGETS: &[(&str, fn(&[u8]) -> bool)] = &[$((stringify!($name), $name),)*];

        $($(#[$about])*
        pub fn $name(data: &[u8]) -> bool {
            $body(data)
        })*
    };
}

targets! {
    /// What `Accept` says about the form of an answer.
    accept = leno_api::fuzzing::accept;
    /// JSON as clients send it.
    admit = config::admitted;
    /// What an agent hears in discovery.
    agent_discovery = leno_agent::fuzzing::discovery;
    /// What `leno run` and the agent say to each other.
    agent_message = leno_agent::fuzzing::message;
    /// A patch of each kind: its first byte says which, then object and patch, a line each.
    api_patch = leno_api::fuzzing::patch;
    /// A path of the API.
    api_path = leno_api::fuzzing::path;
    /// The query of a request to the API.
    api_query = leno_api::fuzzing::query;
    /// Trust bundles and keys as PEM.
    bundle = config::bundle;
    /// A certificate, DER.
    certificate = leno_tls::fuzzing::certificate;
    /// The chunked coding.
    chunked = http::chunked;
    /// A command line, an argument a line.
    command_line = leno_cli::fuzzing::command_line;
    /// A file of contexts.
    contexts = leno_cli::fuzzing::contexts;
    /// A certificate request, DER.
    csr = leno_tls::fuzzing::request;
    /// What a connection speaks, by its first bytes.
    detect = http::detect;
    /// A DNS query, and as it comes over TCP.
    dns = leno_dataplane::fuzzing::dns;
    /// Documents as people write them.
    documents = config::documents;
    /// Messages on the agent's socket.
    fdpass = wire::fdpass;
    /// A request head of HTTP/1.
    h1_request = http::h1_request;
    /// A response head of HTTP/1.
    h1_response = http::h1_response;
    /// Heads of HTTP/2: the first line is `METHOD TARGET [PROTOCOL]`, then a field a line.
    h2_head = leno_http::fuzzing::http2_head;
    /// A latency histogram from an agent.
    histogram = wire::histogram;
    /// A template of host names, then a label a line, `KEY=VALUE`.
    hostname_template = names::hostname_template;
    /// What a control plane sends.
    ir_wire = wire::ir;
    /// A join token.
    join_token = names::join_token;
    /// The private fields between proxies.
    metadata = leno_dataplane::fuzzing::metadata;
    /// Names and numbers that arrive as text.
    names = names::names;
    /// What an agent says in its session, each message after its length.
    session = control::session;
    /// What an agent asks for in discovery, each message after its length.
    subscriptions = control::subscriptions;
    /// A request for a join token, JSON.
    token_request = control::token_request;
    /// Trace headers.
    trace = wire::trace;
}
