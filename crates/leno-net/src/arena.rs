//! A PID namespace that dies with its parent: for the demo and for tests, where nothing may be left behind.
//!
//! The parent holds one end of a pipe, init the other. However the parent ends, kill -9 included, init reads the end of
//! the pipe and exits, and with the first process of a PID namespace the kernel kills all others.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use crate::sys::{self, Image};
use crate::{NetError, netns, program};

/// The environment variable with the number of the lifeline's descriptor.
pub const LIFELINE_VARIABLE: &str = "LENO_LIFELINE_FD";

const CAPABILITY: &str = "CAP_SYS_ADMIN";

/// A running arena. Dropping it ends everything in it.
#[derive(Debug)]
pub struct Arena {
    /// Its init, as the parent sees it.
    pub pid: i32,
    /// The end of the pipe whose closing ends the arena.
    pub lifeline: OwnedFd,
}

impl Arena {
    /// Ends everything in it and waits until it is gone; returns init's exit code, 128 + signal if it was killed.
    pub fn end(self) -> io::Result<i32> {
        let Self { pid, lifeline } = self;
        drop(lifeline);
        wait_for(pid)
    }

    /// Waits until init ends by itself; to be called once.
    pub fn wait(&self) -> io::Result<i32> {
        wait_for(self.pid)
    }
}

fn wait_for(pid: i32) -> io::Result<i32> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(exit_code(status)),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or_default())
}

/// Starts `argv` as init (pid 1) of new PID, mount and network namespaces, with `/proc` and `/sys` of their own.
///
/// With `as_user_root` they belong to a new user namespace in which the caller is root: what an ordinary user needs.
/// The whole environment is `env` and [`LIFELINE_VARIABLE`]. Init must call [`lifeline`] and [`reap_forever`].
pub fn spawn_init(
    argv: &[OsString],
    env: &[(OsString, OsString)],
    as_user_root: bool,
) -> Result<Arena, NetError> {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| NetError::io("make the arena's lifeline", error))?;
    let (failure, report) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| NetError::io("make a pipe", error))?;
    let image = image(argv, env, &theirs)?;
    let maps = as_user_root.then(|| {
        let (uid, gid) = netns::own_ids();
        [format!("0 {uid} 1"), format!("0 {gid} 1")]
    });
    let mut namespaces = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET;
    if maps.is_some() {
        namespaces |= libc::CLONE_NEWUSER;
    }
    let pid = sys::clone_into(namespaces, || {
        let (step, error) = become_init(maps.as_ref(), theirs.as_fd(), &image);
        tell(report.as_fd(), step, error);
        127
    });
    let pid = pid.map_err(|error| {
        // For root as well it means a limit on namespaces (namespaces(7)), not a disk.
        let limited = error.kind() == io::ErrorKind::StorageFull;
        if as_user_root || limited {
            netns::refused(&error)
        } else {
            NetError::step("make the arena's namespaces", CAPABILITY, error)
        }
    })?;
    drop(report);
    let arena = Arena {
        pid,
        lifeline: ours,
    };
    match hear(failure.as_fd()) {
        None => Ok(arena),
        Some((step, error)) => {
            // The child has ended; its status says nothing more.
            let _reaped = arena.end();
            Err(explain(step, error, argv))
        }
    }
}

/// A step of the child between clone and exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    MapUser = 1,
    Mounts,
    Proc,
    Sys,
    Lifeline,
    Exec,
}

/// Everything between clone and exec, without allocation; returns only what failed.
fn become_init(
    maps: Option<&[String; 2]>,
    lifeline: BorrowedFd<'_>,
    image: &Image,
) -> (Step, Errno) {
    let separate = || {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change(c"/", private)
    };
    // Each is tried only when all before it went well.
    let failed = maps
        .map_or(Ok(()), map_user)
        .map_err(|error| (Step::MapUser, error))
        .and_then(|()| separate().map_err(|error| (Step::Mounts, error)))
        .and_then(|()| mount(c"proc", c"/proc").map_err(|error| (Step::Proc, error)))
        .and_then(|()| mount_sys().map_err(|error| (Step::Sys, error)))
        .and_then(|()| {
            rustix::io::fcntl_setfd(lifeline, FdFlags::empty())
                .map_err(|error| (Step::Lifeline, error))
        });
    if let Err(failed) = failed {
        return failed;
    }
    (Step::Exec, image.execute())
}

fn map_user(maps: &[String; 2]) -> Result<(), Errno> {
    let [users, groups] = maps;
    let files = [
        (c"/proc/self/setgroups", "deny"),
        (c"/proc/self/uid_map", users.as_str()),
        (c"/proc/self/gid_map", groups.as_str()),
    ];
    files.into_iter().try_for_each(|(path, text)| {
        let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes()).map(drop)
    })
}

fn mount(kind: &std::ffi::CStr, target: &std::ffi::CStr) -> Result<(), Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(kind, target, kind, flags, None)
}

/// A `/sys` of the new network namespace; the cgroup hierarchies stay where they were, where that can be done.
fn mount_sys() -> Result<(), Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let cgroups = rustix::mount::open_tree(CWD, c"/sys/fs/cgroup", flags);
    mount(c"sysfs", c"/sys")?;
    if let Ok(cgroups) = cgroups {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        // Without it there are no cgroups in the arena, which then does without limits.
        let _optional =
            rustix::mount::move_mount(cgroups.as_fd(), c"", CWD, c"/sys/fs/cgroup", flags);
    }
    Ok(())
}

fn tell(report: BorrowedFd<'_>, step: Step, error: Errno) {
    let [a, b, c, d] = error.raw_os_error().to_ne_bytes();
    // Whoever started us has gone if this fails, and nobody is left to be told.
    let _unheard = rustix::io::write(report, &[step as u8, a, b, c, d]);
}

/// What the child could not do; `None` once it has become its program.
fn hear(failure: BorrowedFd<'_>) -> Option<(Step, io::Error)> {
    let mut bytes = [0; 5];
    let read = loop {
        match rustix::io::read(failure, &mut bytes) {
            Err(Errno::INTR) => {}
            result => break result,
        }
    };
    if read != Ok(bytes.len()) {
        return None;
    }
    let [step, a, b, c, d] = bytes;
    let steps = [
        Step::MapUser,
        Step::Mounts,
        Step::Proc,
        Step::Sys,
        Step::Lifeline,
        Step::Exec,
    ];
    let step = steps.into_iter().find(|known| *known as u8 == step)?;
    Some((
        step,
        io::Error::from_raw_os_error(i32::from_ne_bytes([a, b, c, d])),
    ))
}

fn explain(step: Step, error: io::Error, argv: &[OsString]) -> NetError {
    const MASKED: &str =
        "inside a container, let it see /proc and /sys unmasked, or run it privileged";
    match step {
        Step::MapUser => netns::refused(&error),
        Step::Mounts => NetError::step("separate the arena's mounts", CAPABILITY, error),
        Step::Proc => NetError::Unsupported {
            what: "mount /proc in the arena".to_owned(),
            advice: MASKED,
            source: error,
        },
        Step::Sys => NetError::Unsupported {
            what: "mount /sys in the arena".to_owned(),
            advice: MASKED,
            source: error,
        },
        Step::Lifeline => NetError::io("hand the lifeline to the arena", error),
        Step::Exec => {
            let program = argv
                .first()
                .map(|program| program.to_string_lossy().into_owned())
                .unwrap_or_default();
            match error.kind() {
                io::ErrorKind::NotFound => NetError::ProgramNotFound { program },
                io::ErrorKind::PermissionDenied => NetError::ProgramNotExecutable { program },
                _ => NetError::io(format!("start {program:?}"), error),
            }
        }
    }
}

fn image(
    argv: &[OsString],
    env: &[(OsString, OsString)],
    lifeline: &OwnedFd,
) -> Result<Image, NetError> {
    let text = |text: &OsStr| {
        CString::new(text.as_bytes())
            .map_err(|error| NetError::io("start the arena with a NUL in its arguments", error))
    };
    let program = argv.first().ok_or_else(|| NetError::ProgramNotFound {
        program: String::new(),
    })?;
    let found = program::find(program).ok_or_else(|| NetError::ProgramNotFound {
        program: program.to_string_lossy().into_owned(),
    })?;
    let arguments = argv
        .iter()
        .map(|argument| text(argument))
        .collect::<Result<Vec<_>, _>>()?;
    let lifeline = OsString::from(lifeline.as_raw_fd().to_string());
    let lifeline = (OsString::from(LIFELINE_VARIABLE), lifeline);
    let variables = env
        .iter()
        .filter(|(name, _)| name != LIFELINE_VARIABLE)
        .chain(std::iter::once(&lifeline));
    let environment = variables
        .map(|(name, value)| {
            text(&OsString::from_vec(
                [name.as_bytes(), b"=", value.as_bytes()].concat(),
            ))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Image::new(text(found.as_os_str())?, arguments, environment))
}

/// In init: the lifeline left by [`spawn_init`]. To be called once.
#[expect(
    clippy::disallowed_methods,
    reason = "the environment is how exec tells a descriptor's number"
)]
pub fn lifeline() -> io::Result<OwnedFd> {
    let number = std::env::var(LIFELINE_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok());
    let number = number.filter(|number| *number > 2).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("{LIFELINE_VARIABLE} is not set: this is no arena"),
        )
    })?;
    sys::adopt_descriptor(number)
}

/// In init: reaps whatever ends, until process `main` does, whose exit code is returned. When the lifeline is cut
/// this process exits at once, and the kernel kills all others.
///
/// It reaps every child: nothing else in this process may wait for one.
pub fn reap_forever(lifeline: OwnedFd, main: Option<i32>) -> io::Result<i32> {
    std::thread::Builder::new()
        .name("lifeline".to_owned())
        .spawn(move || {
            wait_for_end(&lifeline);
            std::process::exit(0);
        })?;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid.as_raw_nonzero().get()) == main => {
                return Ok(exit_code(status));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) if main.is_some() => return Err(Errno::CHILD.into()),
            // Nobody is left who could leave an orphan behind.
            Err(Errno::CHILD) => std::thread::park(),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Blocks until the other end of the lifeline is closed.
pub fn wait_for_end(lifeline: &OwnedFd) {
    let mut byte = [0];
    loop {
        match rustix::io::read(lifeline, &mut byte) {
            Ok(0) => return,
            Ok(_) | Err(Errno::INTR) => {}
            // A lifeline that cannot be read cannot be relied on either.
            Err(_) => return,
        }
    }
}

/// In init: kills every other process of the PID namespace. Refused anywhere else.
#[expect(
    clippy::disallowed_methods,
    reason = "the lifeline's variable tells an arena from any other init"
)]
pub fn kill_all() -> io::Result<()> {
    if rustix::process::getpid() != Pid::INIT || std::env::var_os(LIFELINE_VARIABLE).is_none() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "only the init of an arena may end it",
        ));
    }
    match rustix::process::kill_process_group(Pid::INIT, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
