//! Messages with file descriptors over a Unix stream socket.
//!
//! One message is a big-endian `u32` length, that many bytes, and up to 16 descriptors attached to its first byte.
//! Reads never ask for more than the message at hand, so the kernel cannot hand over the descriptors of two
//! messages at once. What a peer sends beyond the limits closes the descriptors it sent and is an error.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;

/// The largest message, without its length.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// The most descriptors of one message.
pub const MAX_DESCRIPTORS: usize = 16;

const HEADER: usize = 4;

/// A message as it was received.
#[derive(Debug)]
pub struct Message {
    /// Its content.
    pub bytes: Vec<u8>,
    /// The descriptors that came with it, in the order in which they were attached.
    pub fds: Vec<OwnedFd>,
}

/// Who is at the other end of a Unix socket, as the kernel recorded it when it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its process; 0 when it is in a PID namespace that is not ours to see.
    pub pid: i32,
}

/// A message half received. One for each connection; a `recv` that is cancelled goes on where it stopped.
#[derive(Debug, Default)]
pub struct RecvBuffer {
    header: [u8; HEADER],
    header_filled: usize,
    body: Option<Vec<u8>>,
    body_filled: usize,
    fds: Vec<OwnedFd>,
}

/// What one read led to.
enum Progress {
    More,
    Complete(Message),
    End,
}

impl RecvBuffer {
    /// Reads once, no further than the end of the message at hand.
    fn read_once(&mut self, socket: BorrowedFd<'_>) -> io::Result<Progress> {
        let target = match &mut self.body {
            None => self.header.get_mut(self.header_filled..),
            Some(body) => body.get_mut(self.body_filled..),
        };
        let read = receive(socket, target.unwrap_or_default(), &mut self.fds)?;
        if read == 0 {
            return if self.header_filled == 0 {
                Ok(Progress::End)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        if self.body.is_some() {
            self.body_filled += read;
        } else {
            self.header_filled += read;
            if self.header_filled == HEADER {
                self.body = Some(vec![0; body_length(self.header)?]);
            }
        }
        Ok(self.take_complete())
    }

    fn take_complete(&mut self) -> Progress {
        match self.body.take_if(|body| body.len() == self.body_filled) {
            None => Progress::More,
            Some(bytes) => {
                let fds = std::mem::take(&mut self.fds);
                *self = Self::default();
                Progress::Complete(Message { bytes, fds })
            }
        }
    }
}

fn body_length(header: [u8; HEADER]) -> io::Result<usize> {
    match usize::try_from(u32::from_be_bytes(header)) {
        Ok(length) if length <= MAX_MESSAGE => Ok(length),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the peer announced a message over {MAX_MESSAGE} bytes"),
        )),
    }
}

/// One `recvmsg`; descriptors are appended to `fds`, and closed when they are too many.
fn receive(socket: BorrowedFd<'_>, target: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(target)];
    let received = rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            fds.extend(sent);
        }
    }
    // Those that did not fit into `space` the kernel has not installed here at all.
    if fds.len() > MAX_DESCRIPTORS || received.flags.contains(ReturnFlags::CTRUNC) {
        fds.clear();
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the peer sent more than {MAX_DESCRIPTORS} descriptors with one message"),
        ));
    }
    Ok(received.bytes)
}

/// A message on its way out.
struct Outgoing<'a> {
    header: [u8; HEADER],
    bytes: &'a [u8],
    fds: &'a [BorrowedFd<'a>],
    sent: usize,
}

impl<'a> Outgoing<'a> {
    fn new(bytes: &'a [u8], fds: &'a [BorrowedFd<'a>]) -> io::Result<Self> {
        if bytes.len() > MAX_MESSAGE || fds.len() > MAX_DESCRIPTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a message has at most {MAX_MESSAGE} bytes and {MAX_DESCRIPTORS} descriptors"
                ),
            ));
        }
        let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Self {
            header: length.to_be_bytes(),
            bytes,
            fds,
            sent: 0,
        })
    }

    fn done(&self) -> bool {
        self.sent == HEADER + self.bytes.len()
    }

    /// One `sendmsg`. The descriptors go with the first byte, and only with it.
    fn send_once(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if self.sent == 0
            && !self.fds.is_empty()
            && !control.push(SendAncillaryMessage::ScmRights(self.fds))
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let header = self.header.get(self.sent..).unwrap_or_default();
        let bytes = self
            .bytes
            .get(self.sent.saturating_sub(HEADER)..)
            .unwrap_or_default();
        let parts = [IoSlice::new(header), IoSlice::new(bytes)];
        self.sent += rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// Sends one message, waiting as long as it takes.
pub fn send_blocking(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut outgoing = Outgoing::new(bytes, fds)?;
    while !outgoing.done() {
        retry(|| outgoing.send_once(socket.as_fd()))?;
    }
    Ok(())
}

/// Receives one message, waiting as long as it takes (or as the socket's read timeout says, after which the
/// connection is of no use any more). `None` when the peer closed between messages.
pub fn recv_blocking(socket: &UnixStream) -> io::Result<Option<Message>> {
    let mut buffer = RecvBuffer::default();
    loop {
        match retry(|| buffer.read_once(socket.as_fd()))? {
            Progress::More => {}
            Progress::Complete(message) => return Ok(Some(message)),
            Progress::End => return Ok(None),
        }
    }
}

/// Sends one message. Not to be cancelled: a message half sent makes the connection useless.
pub async fn send(
    socket: &tokio::net::UnixStream,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut outgoing = Outgoing::new(bytes, fds)?;
    while !outgoing.done() {
        socket
            .async_io(Interest::WRITABLE, || outgoing.send_once(socket.as_fd()))
            .await?;
    }
    Ok(())
}

/// Receives one message; may be cancelled and called again with the same buffer. `None` when the peer closed
/// between messages. After an error the connection is of no use any more.
pub async fn recv(
    socket: &tokio::net::UnixStream,
    buffer: &mut RecvBuffer,
) -> io::Result<Option<Message>> {
    loop {
        match socket
            .async_io(Interest::READABLE, || buffer.read_once(socket.as_fd()))
            .await?
        {
            Progress::More => {}
            Progress::Complete(message) => return Ok(Some(message)),
            Progress::End => return Ok(None),
        }
    }
}

/// Who is at the other end.
pub fn peer(socket: &tokio::net::UnixStream) -> io::Result<Peer> {
    peer_of(socket.as_fd())
}

/// As [`peer`], for a blocking socket.
pub fn peer_blocking(socket: &UnixStream) -> io::Result<Peer> {
    peer_of(socket.as_fd())
}

fn peer_of(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let libc::ucred { pid, uid, gid } = crate::sys::peer_credentials(socket)?;
    Ok(Peer { uid, gid, pid })
}

fn retry<T>(mut f: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match f() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    /// A pipe whose writing end is given away, to see who holds it.
    fn token() -> (std::fs::File, OwnedFd) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        (reader.into(), writer)
    }

    fn tell(fd: OwnedFd, text: &str) {
        std::fs::File::from(fd).write_all(text.as_bytes()).unwrap();
    }

    fn run(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future);
    }

    #[test]
    fn descriptors_arrive_with_their_message_however_many_are_queued() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut first, one) = token();
        let (mut second, two) = token();
        send_blocking(&ours, b"none", &[]).unwrap();
        send_blocking(&ours, b"one", &[one.as_fd()]).unwrap();
        send_blocking(&ours, b"", &[two.as_fd(), one.as_fd()]).unwrap();
        drop((one, two));
        drop(ours);

        let none = recv_blocking(&theirs).unwrap().unwrap();
        assert_eq!((none.bytes.as_slice(), none.fds.len()), (&b"none"[..], 0));
        let mut message = recv_blocking(&theirs).unwrap().unwrap();
        assert_eq!(
            (message.bytes.as_slice(), message.fds.len()),
            (&b"one"[..], 1)
        );
        tell(message.fds.pop().unwrap(), "1");
        let mut message = recv_blocking(&theirs).unwrap().unwrap();
        assert_eq!((message.bytes.len(), message.fds.len()), (0, 2));
        tell(message.fds.pop().unwrap(), "1 again");
        tell(message.fds.pop().unwrap(), "2");
        assert!(recv_blocking(&theirs).unwrap().is_none());
        let mut text = String::new();
        first.read_to_string(&mut text).unwrap();
        second.read_to_string(&mut text).unwrap();
        assert_eq!(text, "11 again2");
    }

    #[test]
    fn received_descriptors_are_closed_on_exec() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send_blocking(&ours, b"x", &[ours.as_fd()]).unwrap();
        let message = recv_blocking(&theirs).unwrap().unwrap();
        let flags = rustix::io::fcntl_getfd(message.fds.first().unwrap()).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn the_largest_message_passes_both_ways_without_blocking() {
        run(async {
            let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(MAX_MESSAGE).collect();
            let (_reader, fd) = token();
            let fds = [fd.as_fd(); MAX_DESCRIPTORS];
            let mut buffer = RecvBuffer::default();
            for _ in 0..5 {
                let (sent, received) =
                    tokio::join!(send(&ours, &bytes, &fds), recv(&theirs, &mut buffer));
                sent.unwrap();
                let message = received.unwrap().unwrap();
                assert!(message.bytes == bytes && message.fds.len() == MAX_DESCRIPTORS);
            }
            assert!(send(&ours, &[0; MAX_MESSAGE + 1], &[]).await.is_err());
            assert!(
                send(&ours, b"", &[fd.as_fd(); MAX_DESCRIPTORS + 1])
                    .await
                    .is_err()
            );
        });
    }

    #[test]
    fn a_cancelled_receive_goes_on_where_it_stopped() {
        run(async {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            theirs.set_nonblocking(true).unwrap();
            let theirs = tokio::net::UnixStream::from_std(theirs).unwrap();
            let mut buffer = RecvBuffer::default();
            for part in [&[0, 0][..], &[0, 3], b"ab"] {
                ours.write_all(part).unwrap();
                let cancelled = tokio::time::timeout(
                    std::time::Duration::from_millis(1),
                    recv(&theirs, &mut buffer),
                );
                assert!(cancelled.await.is_err());
            }
            ours.write_all(b"c").unwrap();
            assert_eq!(
                recv(&theirs, &mut buffer).await.unwrap().unwrap().bytes,
                b"abc"
            );
            ours.write_all(&[0]).unwrap();
            drop(ours);
            let cut = recv(&theirs, &mut buffer).await.unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        });
    }

    /// Sends bytes with descriptors as a peer might who does not keep to the rules.
    fn send_raw(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        rustix::net::sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
    }

    #[test]
    fn surplus_descriptors_are_an_error_and_closed() {
        for split in [false, true] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (mut reader, fd) = token();
            if split {
                send_raw(&ours, &[0, 0, 0, 2, b'a'], &[fd.as_fd(); 10]);
                send_raw(&ours, b"b", &[fd.as_fd(); 10]);
            } else {
                send_raw(&ours, &[0, 0, 0, 0], &[fd.as_fd(); 40]);
            }
            drop(fd);
            drop(ours);
            assert_eq!(
                recv_blocking(&theirs).unwrap_err().kind(),
                io::ErrorKind::InvalidData
            );
            drop(theirs);
            // The end of the pipe is read only when nobody holds the other one any more.
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn an_announced_length_over_the_limit_is_refused_before_anything_is_allocated() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert_eq!(
            recv_blocking(&theirs).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn the_peer_is_this_process() {
        run(async {
            let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
            assert!(ours.as_raw_fd() > 0);
            let expected = Peer {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                pid: std::process::id().cast_signed(),
            };
            assert_eq!(peer(&ours).unwrap(), expected);
        });
    }
}
