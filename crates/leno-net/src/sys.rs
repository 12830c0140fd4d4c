//! All unsafe code of Leno: the system calls that have no safe wrapper.
//!
//! Each function is safe to call as documented; each `unsafe` block says why.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::thread::UnshareFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `setsockopt` with an `int`.
#[expect(
    unsafe_code,
    reason = "neither std nor rustix sets SO_MARK or netlink options"
)]
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `fd` is open for the call, and the kernel reads `length` bytes of `value`, which lives through it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How many messages the kernel threw away since the socket was made (`SO_MEMINFO`, linux/sock_diag.h).
#[expect(unsafe_code, reason = "neither std nor rustix asks for SO_MEMINFO")]
pub(crate) fn dropped_messages(fd: BorrowedFd<'_>) -> io::Result<u32> {
    /// `SK_MEMINFO_DROPS` is the last of them.
    const VARIABLES: usize = 9;
    let mut variables = [0_u32; VARIABLES];
    let mut length = size_of_val(&variables) as libc::socklen_t;
    // SAFETY: `fd` is open for the call, and the kernel writes at most `length` bytes of `variables`, which lives
    // through it, as `length` does.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut variables).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(variables[VARIABLES - 1])
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Who is at the other end of a Unix socket (`SO_PEERCRED`, unix(7)). The process is 0 when it is in a PID namespace
/// that is not ours to see.
#[expect(
    unsafe_code,
    reason = "rustix takes the process for a number other than 0, and reports another's namespace as a failure"
)]
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `fd` is open for the call, and the kernel writes at most `length` bytes, the size of `credentials`, of
    // which every bit pattern is a value.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(credentials)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Moves the calling thread into new namespaces. The descriptor table is never unshared.
#[expect(
    unsafe_code,
    reason = "rustix marks unshare unsafe because of UnshareFlags::FILES"
)]
pub(crate) fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    let namespaces = namespaces & !UnshareFlags::FILES;
    // SAFETY: the only unsound flag, FILES, is masked out above: all threads keep seeing one descriptor table.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }?;
    Ok(())
}

/// Takes over a descriptor that a parent left open for this process under an agreed number.
///
/// The number must come from the parent, and this must be called once for it: the result closes it.
#[expect(
    unsafe_code,
    reason = "a descriptor handed over by number has no owner yet"
)]
pub(crate) fn adopt_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a borrow of any number is only used for one fcntl, which answers EBADF when it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: it is open (checked above), and by contract nothing else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A descriptor that a task can wait for to become readable.
#[expect(
    unsafe_code,
    reason = "tokio's safe constructor is deprecated: it trusts any AsRawFd"
)]
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd keeps the same open descriptor for as long as it lives, and the AsyncFd owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Runs `hook` in the child between fork and exec.
///
/// `hook` must only make system calls: no allocation, no locks, no panic.
#[expect(
    unsafe_code,
    reason = "std has no other way to drop capabilities in the child only"
)]
pub(crate) fn before_exec(
    command: &mut Command,
    hook: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: by contract `hook` is async-signal-safe.
    unsafe { command.pre_exec(hook) };
}

/// Program, arguments and environment as `execve` wants them; made before the fork, since nothing may be allocated after.
pub(crate) struct Image {
    _strings: Vec<CString>,
    path: CString,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
}

impl Image {
    /// `path` executed with `arguments` (the first is the program's name for itself) and `environment` (`NAME=value`).
    pub(crate) fn new(path: CString, arguments: Vec<CString>, environment: Vec<CString>) -> Self {
        let pointers = |strings: &[CString]| {
            strings
                .iter()
                .map(|text| text.as_ptr())
                .chain(std::iter::once(std::ptr::null()))
                .collect::<Vec<_>>()
        };
        let (argument_pointers, environment_pointers) =
            (pointers(&arguments), pointers(&environment));
        let mut strings = arguments;
        strings.extend(environment);
        Self {
            _strings: strings,
            path,
            arguments: argument_pointers,
            environment: environment_pointers,
        }
    }

    /// Replaces this process; returns only the reason why that failed.
    #[expect(
        unsafe_code,
        reason = "exec without allocation, for use after clone_into"
    )]
    pub(crate) fn execute(&self) -> rustix::io::Errno {
        // SAFETY: the path and both arrays end with NUL, and what they point to is owned by `self`.
        unsafe {
            libc::execve(
                self.path.as_ptr(),
                self.arguments.as_ptr(),
                self.environment.as_ptr(),
            )
        };
        rustix::io::Errno::from_io_error(&io::Error::last_os_error())
            .unwrap_or(rustix::io::Errno::NOEXEC)
    }
}

/// Makes a child process in new namespaces and runs `child` in it, whose exit code is what that returns.
///
/// `child` sees a copy of this process with one thread: it must only make system calls; no allocation, no locks,
/// no panic.
#[expect(
    unsafe_code,
    reason = "only clone makes a process that is the first of its PID namespace"
)]
pub(crate) fn clone_into(namespaces: i32, child: impl FnOnce() -> i32) -> io::Result<i32> {
    let flags = libc::c_long::from(namespaces | libc::SIGCHLD);
    let none: libc::c_long = 0;
    // Not clone3: seccomp filters cannot look into its arguments, so containers answer ENOSYS to all of it.
    // SAFETY: without CLONE_VM and with no stack given this is fork, which takes no pointers. The child, by
    // contract, makes only system calls.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => exit_now(child()),
        pid => i32::try_from(pid).map_err(io::Error::other),
    }
}

/// Ends this process at once, without destructors.
#[expect(
    unsafe_code,
    reason = "std::process::exit runs handlers that belong to the parent"
)]
fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// An `ioctl` that answers with a new descriptor: `SIOCGSKNS` of a socket, `NS_GET_USERNS` of a namespace.
#[expect(unsafe_code, reason = "neither std nor rustix has these")]
pub(crate) fn related_descriptor(fd: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<OwnedFd> {
    // SAFETY: `fd` is open for the call, and these requests take no argument.
    let number = unsafe { libc::ioctl(fd.as_raw_fd(), request) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for this call, so nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The user who owns a user namespace (`NS_GET_OWNER_UID`, ioctl_ns(2)).
#[expect(unsafe_code, reason = "neither std nor rustix has it")]
pub(crate) fn owner_of_user_namespace(fd: BorrowedFd<'_>) -> io::Result<u32> {
    const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;
    let mut uid: libc::uid_t = u32::MAX;
    // SAFETY: `fd` is open for the call, and the kernel writes one `uid_t`.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_OWNER_UID, &raw mut uid) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(uid)
}
