//! Network and user namespaces of the calling thread.
//!
//! Invariant: nothing here leaves a thread in a namespace its caller did not ask for; when the way back is
//! barred the process aborts.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::thread::{CapabilitySet, LinkNameSpaceType, UnshareFlags};

use crate::{NetError, sys};

/// A network namespace, held open.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl NetNs {
    /// That of the calling thread.
    pub fn current() -> io::Result<Self> {
        Ok(Self(File::open("/proc/thread-self/ns/net")?.into()))
    }

    /// That of process `pid`. Needs the right to trace it: the same user, or `CAP_SYS_PTRACE`.
    pub fn of_pid(pid: i32) -> io::Result<Self> {
        Ok(Self(File::open(format!("/proc/{pid}/ns/net"))?.into()))
    }

    /// Moves the calling thread into it. Needs `CAP_SYS_ADMIN` in both user namespaces.
    pub fn enter(&self) -> io::Result<()> {
        Ok(rustix::thread::move_into_link_name_space(
            self.0.as_fd(),
            Some(LinkNameSpaceType::Network),
        )?)
    }

    /// Runs `f` inside and returns to the present namespace, also after an error or a panic.
    ///
    /// For short work without `await`: the whole thread is moved. If the way back fails the process aborts, since
    /// every socket made afterwards would belong to the wrong network.
    pub fn within<T>(&self, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _back = Back(Self::current()?);
        self.enter()?;
        f()
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for NetNs {
    /// A descriptor that was passed on; `enter` fails if it is not a network namespace.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// Returns to a namespace when dropped.
struct Back(NetNs);

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(error) = self.0.enter() {
            tracing::error!(%error, "cannot return to the previous network namespace: aborting rather than going on in the wrong one");
            std::process::abort();
        }
    }
}

/// Which namespaces to make along with a user namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// A network namespace.
    pub net: bool,
    /// A mount namespace.
    pub mount: bool,
    /// A PID namespace, for children: the next child is its init.
    pub pid: bool,
}

impl Namespaces {
    fn flags(self) -> UnshareFlags {
        let mut flags = UnshareFlags::empty();
        flags.set(UnshareFlags::NEWNET, self.net);
        flags.set(UnshareFlags::NEWNS, self.mount);
        flags.set(UnshareFlags::NEWPID, self.pid);
        flags
    }
}

/// Moves the calling thread into a new, empty network namespace. Needs `CAP_SYS_ADMIN`.
pub fn unshare_net() -> io::Result<()> {
    sys::unshare(UnshareFlags::NEWNET)
}

/// Moves this process into a new user namespace, in which its user and group are what they were, and a new
/// network namespace owned by it. For an ordinary user; the caller must have a single thread.
///
/// Until the next exec the process holds every capability there; the program it becomes has none.
pub fn unshare_user_and_net() -> Result<(), NetError> {
    let (uid, gid) = own_ids();
    unshare_user(
        Namespaces {
            net: true,
            ..Namespaces::default()
        },
        (uid, uid),
        (gid, gid),
    )
}

/// As `unshare_user_and_net`, but with the caller as user and group 0 inside and a choice of namespaces.
pub fn unshare_user_as_root_with(namespaces: Namespaces) -> Result<(), NetError> {
    let (uid, gid) = own_ids();
    unshare_user(namespaces, (0, uid), (0, gid))
}

/// Whether this thread may make namespaces, links and rules: `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`, effective in
/// its own user namespace.
#[must_use]
pub fn has_admin_capability() -> bool {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

pub(crate) fn own_ids() -> (u32, u32) {
    (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    )
}

fn unshare_user(namespaces: Namespaces, uid: (u32, u32), gid: (u32, u32)) -> Result<(), NetError> {
    sys::unshare(UnshareFlags::NEWUSER | namespaces.flags()).map_err(|error| refused(&error))?;
    // setgroups must be denied before an unprivileged process may write gid_map (user_namespaces(7)).
    std::fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| std::fs::write("/proc/self/uid_map", format!("{} {} 1", uid.0, uid.1)))
        .and_then(|()| std::fs::write("/proc/self/gid_map", format!("{} {} 1", gid.0, gid.1)))
        .map_err(|error| refused(&error))
}

/// Why a user namespace was refused, by what the system's settings say now.
pub(crate) fn refused(error: &io::Error) -> NetError {
    explain_refusal(error, |setting| {
        let path = format!("/proc/sys/{}", setting.replace('.', "/"));
        std::fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    })
}

/// Which of the known settings forbids user namespaces. The first that is set so is named.
fn explain_refusal(error: &io::Error, setting: impl Fn(&str) -> Option<String>) -> NetError {
    const KNOWN: [(&str, &str, &str); 4] = [
        (
            "kernel.unprivileged_userns_clone",
            "0",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            "user.max_user_namespaces",
            "0",
            "sudo sysctl -w user.max_user_namespaces=15000",
        ),
        (
            "user.max_net_namespaces",
            "0",
            "sudo sysctl -w user.max_net_namespaces=15000",
        ),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    for (name, forbidding, command) in KNOWN {
        if setting(name).as_deref() == Some(forbidding) {
            return NetError::UserNamespace {
                cause: format!("{name} is {forbidding}"),
                advice: format!("allow it with `{command}`, or run as root"),
            };
        }
    }
    match error.raw_os_error() {
        Some(libc::EINVAL) => NetError::UserNamespace {
            cause: "the calling process has more than one thread, or shares its file system view"
                .to_owned(),
            advice: "make it before any thread is started".to_owned(),
        },
        Some(libc::ENOSPC | libc::EUSERS) => NetError::UserNamespace {
            cause: "the limit on namespaces, or on their nesting, is reached".to_owned(),
            advice: "raise user.max_user_namespaces with sysctl, or run as root".to_owned(),
        },
        Some(libc::EPERM | libc::EACCES) => NetError::UserNamespace {
            cause:
                "a seccomp filter, a security module or a chroot forbids it; containers commonly do"
                    .to_owned(),
            advice:
                "run as root, or start the container with a seccomp profile that allows unshare"
                    .to_owned(),
        },
        Some(libc::ENOSYS) => NetError::UserNamespace {
            cause: "the kernel was built without user namespaces".to_owned(),
            advice: "run as root".to_owned(),
        },
        _ => NetError::UserNamespace {
            cause: error.to_string(),
            advice: "run as root".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn message(errno: i32, setting: Option<(&str, &str)>) -> String {
        let error = io::Error::from_raw_os_error(errno);
        explain_refusal(&error, |name| {
            setting
                .filter(|(known, _)| *known == name)
                .map(|(_, value)| value.to_owned())
        })
        .to_string()
    }

    #[test]
    fn a_refusal_names_the_setting_that_forbids_and_the_command_that_allows() {
        for (name, value) in [
            ("kernel.unprivileged_userns_clone", "0"),
            ("user.max_user_namespaces", "0"),
            ("kernel.apparmor_restrict_unprivileged_userns", "1"),
        ] {
            let text = message(libc::EPERM, Some((name, value)));
            assert!(text.contains(&format!("{name} is {value}")), "{text}");
            assert!(text.contains(&format!("`sudo sysctl -w {name}=")), "{text}");
        }
        assert!(message(libc::EPERM, Some(("user.max_user_namespaces", "9"))).contains("seccomp"));
        assert!(message(libc::EINVAL, None).contains("more than one thread"));
        assert!(message(libc::ENOSPC, None).contains("user.max_user_namespaces"));
    }

    #[test]
    fn within_returns_after_an_error_and_after_a_panic() {
        if !has_admin_capability() {
            return leno_testkit::skipped("making a network namespace needs CAP_SYS_ADMIN");
        }
        let inode = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let work = move || {
            unshare_net().unwrap();
            let (inner, inside) = (NetNs::current().unwrap(), inode());
            unshare_net().unwrap();
            let outside = inode();
            assert_ne!(inside, outside);
            assert_eq!(inner.within(|| Ok(inode())).unwrap(), inside);
            assert!(
                inner
                    .within(|| -> io::Result<()> { Err(io::ErrorKind::Other.into()) })
                    .is_err()
            );
            assert_eq!(inode(), outside);
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                inner.within(|| -> io::Result<()> { std::panic::resume_unwind(Box::new(())) })
            }));
            assert!(panicked.is_err());
            assert_eq!(inode(), outside);
        };
        let thread = std::thread::Builder::new()
            .name("namespaces".into())
            .spawn(work)
            .unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn what_is_no_namespace_is_not_entered() {
        let file = File::open("/proc/self/status").unwrap();
        assert!(NetNs::from(OwnedFd::from(file)).enter().is_err());
    }
}
