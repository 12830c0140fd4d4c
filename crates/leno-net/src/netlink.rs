//! Blocking netlink: messages built by hand, answers parsed with nothing taken on trust.
//!
//! The kernel works synchronously: when `send` returns, every acknowledgement is already queued on the socket, so they are
//! read until nothing is left, and a missing one is an error. A socket belongs to the network namespace it was
//! opened in, wherever its thread goes later.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::sys;

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const EXCLUSIVE: u16 = 0x200;

/// Links, addresses and routes: protocol 0, which is the default.
pub(crate) const ROUTE: Option<Protocol> = None;
/// nftables.
pub(crate) const NETFILTER: Option<Protocol> = Some(rustix::net::netlink::NETFILTER);
/// Sockets and their owners.
pub(crate) const SOCKETS: Option<Protocol> = Some(rustix::net::netlink::SOCK_DIAG);

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// On an answer: attributes follow the acknowledgement.
const ACK_ATTRIBUTES: u16 = 0x200;
/// On a message of a dump: the list changed while it was read.
const DUMP_INTERRUPTED: u16 = 0x10;
const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const ERROR_TEXT: u16 = 1;
/// Larger than any answer asked for here; a longer one is an error, never cut.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// Messages to be sent at once.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    acknowledged: usize,
}

impl Batch {
    /// Appends a message: `fixed` is its family's header, `attributes` adds the rest.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.sequence += 1;
        self.acknowledged += usize::from(flags & ACK != 0);
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(fixed);
        pad(&mut self.bytes);
        attributes(&mut Attributes(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        patch(&mut self.bytes, start, &length.to_ne_bytes());
    }

    /// How many bytes it has so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// The attributes of a message under construction.
pub(crate) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.0.extend(value);
        self.close(start);
    }

    /// Text with a NUL at its end.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.0.extend(value.as_bytes());
        self.0.push(0);
        self.close(start);
    }

    pub(crate) fn u32_be(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub(crate) fn nested(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.open(kind | NESTED);
        inner(&mut Attributes(self.0));
        self.close(start);
    }

    /// Bytes as they are, without a header of their own: a struct in front of nested attributes.
    pub(crate) fn raw(&mut self, value: &[u8]) {
        self.0.extend(value);
        pad(self.0);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        patch(self.0, start, &length.to_ne_bytes());
        pad(self.0);
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn patch(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(target) = bytes.get_mut(at..at + value.len()) {
        target.copy_from_slice(value);
    }
}

/// A message received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    kind: u16,
    flags: u16,
    pub(crate) payload: &'a [u8],
}

/// What an `ERROR` message says: an acknowledgement has no errno.
fn acknowledgement(message: Received<'_>) -> Result<(), Refused> {
    let code =
        u32_at(message.payload, 0).map_or(libc::EPROTO, |code| code.cast_signed().saturating_neg());
    if code == 0 {
        return Ok(());
    }
    // With NETLINK_CAP_ACK the header, and nothing else, of the request follows; then the attributes.
    let text = (message.flags & ACK_ATTRIBUTES != 0)
        .then(|| message.payload.get(4 + HEADER..).unwrap_or_default())
        .and_then(|rest| attribute(rest, ERROR_TEXT))
        .map(|text| String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned());
    Err(Refused { errno: code, text })
}

/// The kernel's refusal of a message.
#[derive(Debug)]
pub(crate) struct Refused {
    errno: i32,
    text: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = io::Error::from_raw_os_error(self.errno);
        match &self.text {
            Some(text) => write!(f, "{error}: {text}"),
            None => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Refused {}

impl From<Refused> for io::Error {
    /// Keeps the errno where the kernel said no more than that.
    fn from(refused: Refused) -> Self {
        let plain = io::Error::from_raw_os_error(refused.errno);
        if refused.text.is_some() {
            io::Error::new(plain.kind(), refused)
        } else {
            plain
        }
    }
}

/// The errno behind an error of this module.
pub(crate) fn errno(error: &io::Error) -> Option<i32> {
    let refused = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Refused>());
    refused
        .map(|refused| refused.errno)
        .or_else(|| error.raw_os_error())
}

/// Splits what was received into messages; a length that does not fit ends it.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let message = Received {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            payload: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Splits attributes; a length that does not fit ends it.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a kind.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl AsFd for Netlink {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Netlink {
    /// Opens one in the calling thread's network namespace.
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
            sys::set_option(fd.as_fd(), libc::SOL_NETLINK, option, 1)?;
        }
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            fd,
            buffer: vec![0; RECEIVE_BUFFER],
        })
    }

    /// Sends messages and reads the answers; the first refusal is the error.
    pub(crate) fn send(&mut self, batch: &Batch) -> io::Result<()> {
        self.transmit(batch)?;
        let mut refused = None;
        let mut acknowledged = 0;
        while let Some(answer) = self.receive(RecvFlags::DONTWAIT)? {
            for message in messages(answer).filter(|message| message.kind == ERROR) {
                match acknowledgement(message) {
                    Ok(()) => acknowledged += 1,
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
        }
        match refused {
            Some(error) => Err(error.into()),
            None if acknowledged == batch.acknowledged => Ok(()),
            None => Err(io::Error::other(
                "the kernel did not acknowledge every netlink message",
            )),
        }
    }

    /// Sends one request and gives every message of the answer to `each`.
    ///
    /// A list that changed while it was read is `Interrupted`: ask again.
    pub(crate) fn ask(&mut self, batch: &Batch, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.transmit(batch)?;
        let mut interrupted = false;
        loop {
            let Some(answer) = self.receive(RecvFlags::DONTWAIT)? else {
                // Not a dump: the one answer has been read.
                return Ok(());
            };
            for message in messages(answer) {
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    ERROR => acknowledgement(message)?,
                    DONE if interrupted => return Err(io::ErrorKind::Interrupted.into()),
                    DONE => return Ok(()),
                    _ => each(message.payload),
                }
            }
        }
    }

    fn transmit(&self, batch: &Batch) -> io::Result<()> {
        let kernel = SocketAddrNetlink::new(0, 0);
        let sent = rustix::net::sendto(&self.fd, &batch.bytes, SendFlags::empty(), &kernel)?;
        if sent == batch.bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// The next datagram, or `None` when there is none.
    fn receive(&mut self, flags: RecvFlags) -> io::Result<Option<&[u8]>> {
        loop {
            match rustix::net::recv(&self.fd, &mut *self.buffer, flags | RecvFlags::TRUNC) {
                Ok((_, length)) => {
                    let answer = self.buffer.get(..length);
                    return answer
                        .map(Some)
                        .ok_or_else(|| io::Error::other("a netlink answer is too long"));
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn refusal() -> Vec<u8> {
        let mut answer = Batch::default();
        let mut fixed = (-libc::ENOENT).to_ne_bytes().to_vec();
        fixed.extend([0; HEADER]);
        answer.message(ERROR, ACK_ATTRIBUTES, &fixed, |to| {
            to.text(ERROR_TEXT, "no such chain")
        });
        answer.bytes
    }

    #[test]
    fn a_refusal_keeps_its_errno_and_the_kernels_words() {
        let bytes = refusal();
        let message = messages(&bytes).next().unwrap();
        let error = io::Error::from(acknowledgement(message).unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(errno(&error), Some(libc::ENOENT));
        assert!(error.to_string().ends_with(": no such chain"), "{error}");
    }

    #[test]
    fn cut_or_garbled_answers_never_panic_and_always_end() {
        let whole = refusal();
        for end in 0..whole.len() {
            for at in 0..end {
                for value in [0, 1, 3, 15, 16, 17, 0x7f, 0xff] {
                    let mut bytes = whole.get(..end).unwrap().to_vec();
                    *bytes.get_mut(at).unwrap() = value;
                    for message in messages(&bytes) {
                        drop(acknowledgement(message));
                        assert!(attributes(message.payload).count() <= bytes.len());
                    }
                }
            }
        }
    }

    #[test]
    fn a_message_says_its_length_and_is_padded() {
        let mut batch = Batch::default();
        batch.message(7, ACK, &[1, 2, 3, 4], |to| to.bytes(5, &[9]));
        batch.message(8, 0, &[], |_| {});
        let found: Vec<_> = messages(&batch.bytes)
            .map(|message| (message.kind, message.payload.to_vec()))
            .collect();
        assert_eq!(
            found,
            [(7, vec![1, 2, 3, 4, 5, 0, 5, 0, 9, 0, 0, 0]), (8, vec![])]
        );
        assert_eq!((batch.acknowledged, batch.len()), (1, 44));
    }
}
