//! Starts the user's program: its environment, user and capabilities, and nothing else of ours.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, geteuid, getppid, kill_process, pidfd_open,
    set_parent_process_death_signal,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::{NetError, netns, sys};

/// What to start and as whom.
#[derive(Debug, Clone, Default)]
pub struct Spawn {
    /// Program and arguments; a program without a slash is looked for in PATH.
    pub argv: Vec<OsString>,
    /// Variables the program does not get.
    pub env_remove: Vec<String>,
    /// Variables the program gets besides, or instead.
    pub env_set: Vec<(String, String)>,
    /// User and group to become, with that user's further groups; `None` stays who we are.
    pub uid_gid: Option<(u32, u32)>,
    /// Leave only those capabilities that containers commonly have, without any that reaches past capture.
    pub drop_capabilities: bool,
}

/// What containers commonly keep, without CAP_NET_RAW (which alone suffices for a mark) and CAP_MKNOD.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::AUDIT_WRITE);

/// A started program. Dropping it does not end it; the end of the thread that started it does.
#[derive(Debug)]
pub struct Child {
    inner: std::process::Child,
}

impl Child {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.inner.id().cast_signed()
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.inner.wait()
    }

    /// How it ended, if it did.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.inner.try_wait()
    }

    /// A descriptor that becomes readable when it ends.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        let pid = Pid::from_raw(self.pid()).ok_or(io::ErrorKind::NotFound)?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }

    /// Waits, without blocking the thread, until it ends.
    pub async fn exited(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        let end = sys::watch(self.pidfd()?)?;
        loop {
            let mut ready = end.readable().await?;
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            ready.clear_ready();
        }
    }

    /// Sends it a signal, by number; one that has ended is no error.
    pub fn signal(&mut self, signal: i32) -> io::Result<()> {
        if self.try_wait()?.is_some() {
            return Ok(());
        }
        let signal = Signal::from_named_raw(signal).ok_or(io::ErrorKind::InvalidInput)?;
        let pid = Pid::from_raw(self.pid()).ok_or(io::ErrorKind::NotFound)?;
        // Not waited for yet, so the number is still its own.
        match kill_process(pid, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Starts the program. It stays in the caller's process group, so that a terminal works, and is killed when the
/// *thread* that called this ends.
pub fn spawn(spawn: &Spawn) -> Result<Child, NetError> {
    let (program, arguments) = spawn.argv.split_first().ok_or_else(|| {
        NetError::io(
            "start a program",
            io::Error::new(io::ErrorKind::InvalidInput, "none is named"),
        )
    })?;
    let become_user = spawn
        .uid_gid
        .filter(|ids| *ids != netns::own_ids())
        .map(|(uid, gid)| User::new(uid, gid));
    let drop_capabilities = spawn.drop_capabilities;
    let parent = rustix::process::getpid();

    let mut command = Command::new(program);
    command.args(arguments);
    for name in &spawn.env_remove {
        command.env_remove(name);
    }
    command.envs(spawn.env_set.iter().map(|(name, value)| (name, value)));
    sys::before_exec(&mut command, move || {
        if let Some(user) = &become_user {
            user.set_groups()?;
        }
        // Before the user changes: that takes the right to do it away.
        if drop_capabilities {
            limit_bounding_set()?;
        }
        if let Some(user) = &become_user {
            set_thread_res_uid(user.uid, user.uid, user.uid)?;
        }
        if drop_capabilities {
            limit_own_sets()?;
        }
        // Last: a change of user clears it. A parent of another PID namespace has no number here.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        match getppid() {
            Some(now) if now != parent => Err(Errno::SRCH.into()),
            _ => Ok(()),
        }
    });
    let inner = command
        .spawn()
        .map_err(|error| cannot_start(program, error))?;
    Ok(Child { inner })
}

/// The file that is meant by a program's name: itself if it has a slash, otherwise the first in the caller's PATH.
#[expect(
    clippy::disallowed_methods,
    reason = "PATH is the system's, not our configuration"
)]
pub(crate) fn find(program: &OsStr) -> Option<PathBuf> {
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(program));
    }
    // execvp(3)
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// That there is such a program, before anything is made for it. Whether it may be executed shows when it is.
///
/// # Errors
/// There is none.
pub fn look_for(program: &OsStr) -> Result<(), NetError> {
    match find(program) {
        // What may not be looked at may yet be there.
        Some(path) if path.try_exists().unwrap_or(true) => Ok(()),
        Some(_) | None => Err(NetError::ProgramNotFound {
            program: program.to_string_lossy().into_owned(),
        }),
    }
}

fn cannot_start(program: &OsStr, error: io::Error) -> NetError {
    // A directory of PATH that may not be searched makes "not found" into "permission denied".
    let nowhere = find(program).is_none();
    let program = program.to_string_lossy().into_owned();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => NetError::ProgramNotFound { program },
        Some(libc::EACCES) if nowhere => NetError::ProgramNotFound { program },
        Some(libc::EACCES) => NetError::ProgramNotExecutable { program },
        _ => NetError::step(
            format!("start {program:?} with its user and capabilities"),
            "root's capabilities",
            error,
        ),
    }
}

/// A user to become.
struct User {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl User {
    fn new(uid: u32, gid: u32) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let groups = groups_of(uid, gid, &read("/etc/passwd"), &read("/etc/group"));
        Self {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            groups: groups.into_iter().map(Gid::from_raw).collect(),
        }
    }

    fn set_groups(&self) -> io::Result<()> {
        set_thread_groups(&self.groups)?;
        Ok(set_thread_res_gid(self.gid, self.gid, self.gid)?)
    }
}

/// `gid` and the groups that list the user by name, from the text of passwd(5) and group(5).
fn groups_of(uid: u32, gid: u32, passwd: &str, group: &str) -> Vec<u32> {
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    let listed = group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let number: u32 = fields.nth(2)?.parse().ok()?;
        let member = fields.next()?.split(',').any(|member| Some(member) == name);
        (member && number != gid).then_some(number)
    });
    std::iter::once(gid).chain(listed).collect()
}

/// Takes everything but `KEPT` out of the bounding set, which limits what any later program can get.
fn limit_bounding_set() -> io::Result<()> {
    let permitted = capabilities(None)?;
    if !permitted.effective.contains(CapabilitySet::SETPCAP) && !geteuid().is_root() {
        // An ordinary user, whose programs get nothing by exec; nothing to take away, and no right to.
        return Ok(());
    }
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if KEPT.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Past the last capability that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn limit_own_sets() -> io::Result<()> {
    clear_ambient_capability_set()?;
    let present = capabilities(None)?;
    let kept = present.permitted & KEPT;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// Lets programs in this network namespace listen on ports below 1024 without a capability.
pub fn allow_low_ports() -> io::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_groups_that_list_it_and_its_own_once() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\nanna:x:1001:100::/:/bin/sh\n";
        let group =
            "wheel:x:10:root,ann\nusers:x:100:ann\naudio:x:29:anna\nbroken\ndocker:x:999:bob,ann\n";
        assert_eq!(groups_of(1000, 100, passwd, group), [100, 10, 999]);
        assert_eq!(groups_of(4242, 7, passwd, group), [7]);
        assert_eq!(groups_of(4242, 7, "", ""), [7]);
    }

    #[test]
    fn what_is_kept_reaches_past_no_capture() {
        for forbidden in [
            CapabilitySet::NET_ADMIN,
            CapabilitySet::NET_RAW,
            CapabilitySet::SYS_ADMIN,
            CapabilitySet::SYS_PTRACE,
            CapabilitySet::SYS_MODULE,
            CapabilitySet::MKNOD,
            CapabilitySet::BPF,
        ] {
            assert!(!KEPT.intersects(forbidden));
        }
    }
}
