//! Where a mesh's API is: the words for it, and whether two of them mean one place.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::places;

/// Where a mesh's API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// The control plane's socket on this machine.
    Unix { socket: PathBuf, path: String },
    /// Its TLS port.
    Https {
        host: String,
        port: u16,
        path: String,
    },
}

impl Server {
    /// As it is written in a file.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("unix:") {
            let (socket, path) = rest.rsplit_once(':')?;
            return Some(Self::Unix {
                socket: socket.into(),
                path: path.into(),
            });
        }
        let rest = text.strip_prefix("https://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            Some(_) | None => (authority, 443),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some(Self::Https {
            host: host.into(),
            port,
            path: path.into(),
        })
    }

    /// Whether both lead to one control plane: on this machine there is one behind TLS, at whatever port.
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        let loopback = |server: &Self| {
            matches!(server, Self::Https { host, .. }
                if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
        };
        self == other || loopback(self) && loopback(other)
    }

    /// Where the control plane behind a socket keeps its state, if that is not where `leno up` does without being told.
    pub(crate) fn state_elsewhere(&self) -> Option<&Path> {
        let Self::Unix { socket, .. } = self else {
            return None;
        };
        let state = socket.parent()?;
        let usual = places::data_dir().join(places::CONTROL_PLANE);
        (state != usual && state.join("meshes").exists()).then_some(state)
    }

    /// As it is written into a file.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Unix { socket, path } => format!("unix:{}:{path}", socket.display()),
            Self::Https { host, port, path } if host.contains(':') => {
                format!("https://[{host}]:{port}{path}")
            }
            Self::Https { host, port, path } => format!("https://{host}:{port}{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn servers_survive_text() {
        for text in [
            "unix:/run/x.sock:/meshes/default",
            "https://10.0.0.1:15012/meshes/demo",
            "https://[fd00::1]:15012/meshes/a",
        ] {
            assert_eq!(
                Server::parse(text).map(|server| server.text()).as_deref(),
                Some(text)
            );
        }
        assert_eq!(Server::parse("http://a/"), None);
    }

    #[test]
    fn a_context_gives_way_to_one_of_the_same_place_only() {
        let same = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| Server::parse(text).unwrap());
            one.is_same_place(&other)
        };
        let own = "unix:/run/x.sock:/meshes/default";
        assert!(same(own, own));
        let here = "https://127.0.0.1:15012/meshes/default";
        assert!(same(here, "https://127.0.0.1:16012/meshes/default"));
        let there = "https://10.0.0.1:15012/meshes/default";
        for other in [own, here, "https://10.0.0.2:15012/meshes/default"] {
            assert!(!same(there, other), "{other}");
        }
        assert!(!same(own, here), "one of one's own beside root's");
    }
}
