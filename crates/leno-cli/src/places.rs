//! Where things are: `/var/lib/leno` and `/run/leno` for root, the XDG directories for others.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the configuration module of the command line"
)]

use std::{
    env,
    path::{Path, PathBuf},
};

/// Where root's state is kept.
pub(crate) const ROOTS_DATA: &str = "/var/lib/leno";

/// Where `leno up` keeps its control plane's state, below its data directory.
pub(crate) const CONTROL_PLANE: &str = "control-plane";

/// Where root's agent listens.
const ROOTS_AGENT: &str = "/run/leno/agent.sock";

/// Whether root has an agent here, and this is somebody else.
pub(crate) fn roots_agent_is_here() -> bool {
    !is_root() && Path::new(ROOTS_AGENT).exists()
}

/// Where state is kept.
pub(crate) fn data_dir() -> PathBuf {
    if is_root() {
        return ROOTS_DATA.into();
    }
    xdg("XDG_DATA_HOME", ".local/share").join("leno")
}

/// Where sockets are, and what does not outlive a reboot.
pub(crate) fn run_dir() -> PathBuf {
    if is_root() {
        return "/run/leno".into();
    }
    match env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir).join("leno"),
        None => env::temp_dir().join(format!("leno-{}", leno_net::process::user())),
    }
}

/// Where contexts are kept.
pub(crate) fn config_file() -> PathBuf {
    if let Some(path) = env::var_os("LENO_CONFIG").filter(|path| !path.is_empty()) {
        return path.into();
    }
    xdg("XDG_CONFIG_HOME", ".config").join("leno/config")
}

/// The sockets at which an agent may listen, the likeliest first.
pub(crate) fn agent_sockets() -> Vec<PathBuf> {
    if let Some(path) = env::var_os("LENO_AGENT_SOCKET").filter(|path| !path.is_empty()) {
        return vec![path.into()];
    }
    let mut places = vec![run_dir().join("agent.sock"), PathBuf::from(ROOTS_AGENT)];
    places.dedup();
    places
}

fn is_root() -> bool {
    leno_net::process::user() == 0
}

fn xdg(variable: &str, below_home: &str) -> PathBuf {
    match env::var_os(variable).filter(|dir| !dir.is_empty()) {
        Some(dir) => dir.into(),
        None => PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/".into())).join(below_home),
    }
}

/// What begins a command that speaks to the agent whose sockets are there: nothing, where it looks by itself.
pub(crate) fn agent_of(run_dir: &Path) -> String {
    match agent_sockets().contains(&run_dir.join("agent.sock")) {
        true => String::new(),
        false => format!("LENO_AGENT_SOCKET={}/agent.sock ", run_dir.display()),
    }
}

/// What ends a command about what is kept there: nothing, where it looks by itself.
pub(crate) fn data_of(directory: &Path) -> String {
    match directory == data_dir() {
        true => String::new(),
        false => format!(" --data-dir {}", directory.display()),
    }
}

/// Whether people want no colours (<https://no-color.org>).
pub(crate) fn no_colour() -> bool {
    env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
