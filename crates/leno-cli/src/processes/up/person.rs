//! The person behind sudo: a context of their own, with a certificate, written as them and never as root.
//!
//! Root follows no link and makes no file in a directory that another owns: the context is given to a process of that
//! user, which writes it as any command would.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use leno_controlplane::Role;

use crate::{
    client::Client,
    commands::certified,
    context::{self, Context},
    exit::CommandError,
};

/// A user's certificate lasts 12 hours; it is made anew long before.
pub(crate) const RENEWED_AFTER: Duration = Duration::from_secs(4 * 3600);

/// Who called sudo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) uid: u32,
    gid: u32,
    pub(crate) name: String,
    home: PathBuf,
}

impl Person {
    /// Who called sudo, if this is root and it was not root itself.
    #[expect(clippy::disallowed_methods, reason = "sudo(8) tells it no other way")]
    pub(crate) fn behind_sudo() -> Option<Self> {
        let uid: u32 = std::env::var("SUDO_UID").ok()?.parse().ok()?;
        if uid == 0 || leno_net::process::user() != 0 {
            return None;
        }
        parse(&fs::read_to_string("/etc/passwd").ok()?, uid)
    }

    /// Gives them a context with a new certificate.
    pub(crate) async fn give_context(
        &self,
        local: &Context,
        address: SocketAddr,
    ) -> Result<(), CommandError> {
        // A user's name need not be a label, its number is.
        let name = format!("uid-{}", self.uid)
            .parse()
            .map_err(CommandError::failed)?;
        let client = Client::new(local.clone());
        let (context, _) =
            certified(&client, &name, Some(Role::Admin), Some(address.into())).await?;
        self.save(&context::export(&context)?)
    }

    fn save(&self, document: &str) -> Result<(), CommandError> {
        let saved = || -> io::Result<String> {
            let mut child = Command::new("/proc/self/exe")
                .args(["context", "import", "-f", "-"])
                .uid(self.uid)
                .gid(self.gid)
                .env_clear()
                .env("HOME", &self.home)
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut input) = child.stdin.take() {
                input.write_all(document.as_bytes())?;
            }
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() {
                Ok(said)
            } else {
                Err(io::Error::other(
                    said.trim().trim_start_matches("leno: ").to_owned(),
                ))
            }
        };
        saved().map(drop).map_err(|error| {
            CommandError::failed(format!("no context was written for {}: {error}", self.name))
                .hint("sudo leno … speaks to the mesh all the same")
        })
    }
}

/// A line of passwd(5).
fn parse(passwd: &str, uid: u32) -> Option<Person> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, number, group, _, home, ..] = fields.as_slice() else {
            return None;
        };
        (number.parse() == Ok(uid)).then_some(())?;
        Some(Person {
            uid,
            gid: group.parse().ok()?,
            name: (*name).to_owned(),
            home: PathBuf::from(home),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_number_and_never_by_the_groups() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken:1000\nann:x:1000:100:Ann,,:/home/ann:/bin/bash\n";
        let ann = Person {
            uid: 1000,
            gid: 100,
            name: "ann".into(),
            home: "/home/ann".into(),
        };
        assert_eq!(parse(passwd, 1000), Some(ann));
        assert_eq!(parse(passwd, 100), None);
    }
}
