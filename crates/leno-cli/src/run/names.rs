//! How the program finds names: by DNS, which is captured, and by nothing that goes past it.
//!
//! glibc may ask a daemon of the host by a Unix socket instead: systemd-resolved where `nsswitch.conf` says `resolve`, and
//! nscd where that runs. They ask from the host's network, and say that there is no such name, with which the search
//! ends. The program gets a view of its own of those two files, and of nothing else; where nothing is in the way, no mount
//! namespace is made at all.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use leno_net::mounts;

const SWITCH: &str = "/etc/nsswitch.conf";
const NSCD: &str = "/var/run/nscd/socket";
const NOTHING: &str = "/dev/null";

/// Has the program ask DNS; what is wrong, for people, where that cannot be.
pub(crate) fn ask_by_dns() -> Option<String> {
    let switch = fs::read_to_string(SWITCH).unwrap_or_default();
    let switch = by_dns(&switch);
    let nscd = is_socket(Path::new(NSCD));
    if switch.is_none() && !nscd {
        return None;
    }
    let covered = mounts::unshare_mounts().and_then(|()| {
        if nscd {
            mounts::cover(Path::new(NSCD), Path::new(NOTHING))?;
        }
        switch.map_or(Ok(()), |text| cover_switch(&text))
    });
    covered.err().map(|error| {
        format!(
            "this host's programs ask for names past DNS (by {}), and that cannot be changed for this one ({error}): it may \
             find no names of the mesh; write \"hosts: files dns\" in {SWITCH}, or call services by their addresses",
            if nscd { NSCD } else { SWITCH }
        )
    })
}

/// Whether `--network host` leaves the program with such a way past DNS: its view of the host's files is the host's.
pub(crate) fn asks_past_dns() -> Option<String> {
    let switch = fs::read_to_string(SWITCH).unwrap_or_default();
    let way = match by_dns(&switch) {
        Some(_) => SWITCH,
        None => is_socket(Path::new(NSCD)).then_some(NSCD)?,
    };
    Some(format!(
        "this host's programs ask for names past DNS (by {way}), which is not captured on its network: the program finds no \
         names of the mesh (call its services by their addresses, or leave --network host away)"
    ))
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

/// A mount keeps the file that it shows: its name is needed for a moment.
fn cover_switch(text: &str) -> io::Result<()> {
    let path = PathBuf::from(format!("/tmp/leno-run-{}-nsswitch", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&path)?;
    let covered = file
        .write_all(text.as_bytes())
        .and_then(|()| mounts::cover(Path::new(SWITCH), &path));
    fs::remove_file(&path)?;
    covered
}

/// The same file with `hosts` asking DNS and not systemd-resolved; `None` where it does that already (as glibc does
/// without such a line).
fn by_dns(switch: &str) -> Option<String> {
    let is_hosts = |line: &&str| line.trim_start().starts_with("hosts:");
    let line = switch.lines().find(is_hosts)?;
    let (_, said) = line.split_once(':')?;
    let said = said.split('#').next().unwrap_or_default();
    let (mut asked, mut dropped, mut inside) = (Vec::new(), false, false);
    let mut before_was_dropped = false;
    for word in said.split_whitespace() {
        let action = inside || word.starts_with('[');
        inside = action && !word.ends_with(']');
        if !action {
            before_was_dropped = word == "resolve";
            dropped |= before_was_dropped;
        }
        // What is to be done after its answer goes with it.
        if !before_was_dropped {
            asked.push(word);
        }
    }
    let has_dns = asked.contains(&"dns");
    if has_dns && !dropped {
        return None;
    }
    if !has_dns {
        asked.push("dns");
    }
    let own = format!("hosts: {}", asked.join(" "));
    let lines = switch.lines().map(|other| match other == line {
        true => own.as_str(),
        false => other,
    });
    Some(lines.flat_map(|line| [line, "\n"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_of_dns_where_they_would_be_asked_of_a_socket() {
        let hosts = |services: &str| {
            let text = format!("passwd: files\nhosts: {services}\nnetworks: files\n");
            let own = by_dns(&text)?;
            let rest = own.strip_prefix("passwd: files\nhosts: ");
            let rest = rest.and_then(|own| own.strip_suffix("\nnetworks: files\n"));
            Some(rest.unwrap_or(&own).to_owned())
        };
        for (said, expected) in [
            // Of Debian, Ubuntu, Fedora and Arch.
            ("files dns", None),
            ("files mdns4_minimal [NOTFOUND=return] dns", None),
            (
                "files myhostname resolve [!UNAVAIL=return] dns",
                Some("files myhostname dns"),
            ),
            (
                "mymachines resolve [!UNAVAIL=return] files myhostname dns",
                Some("mymachines files myhostname dns"),
            ),
            ("files resolve [ !UNAVAIL=return ] # dns", Some("files dns")),
            ("files", Some("files dns")),
        ] {
            assert_eq!(hosts(said).as_deref(), expected, "{said}");
        }
        assert_eq!(by_dns("passwd: files\n"), None);
    }
}
