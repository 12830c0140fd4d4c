//! What crosses between hosts, looked through for texts that must not be there in clear.
//!
//! A raw socket in the network's own namespace sees every frame that enters or leaves a host, since the other end of
//! each host's link is there. Frames are searched as they come; none is kept.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use leno_net::netns::NetNs;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, sockopt},
};

/// Larger than any frame, merged ones included.
const FRAME: usize = 256 * 1024;
/// Frames that wait to be looked at.
const BUFFER: usize = 64 * 1024 * 1024;
/// More frames than that holds, each of which counts for hundreds of bytes at least.
const QUEUE: usize = BUFFER / 256;
/// ETH_P_ALL, in network order (packet(7)).
const EVERY_PROTOCOL: u16 = 0x0003_u16.to_be();

#[derive(Default)]
struct Seen {
    frames: u64,
    found: HashMap<Vec<u8>, u64>,
    ends: HashMap<Vec<u8>, BTreeSet<(IpAddr, IpAddr)>>,
    ports: HashMap<(IpAddr, u16), u64>,
    dialled: HashMap<(IpAddr, u16), u64>,
}

/// The socket, and what was read from it.
struct Looker {
    socket: Arc<OwnedFd>,
    texts: Vec<Vec<u8>>,
    frame: Vec<u8>,
    seen: Seen,
}

/// A running capture.
pub struct Capture {
    looker: Arc<Mutex<Looker>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Begins to look for texts in every frame between hosts. To be called where the network was made.
    ///
    /// # Panics
    /// When the system does not let us.
    #[must_use]
    pub fn start(texts: &[&[u8]]) -> Self {
        let socket = rustix::net::socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Protocol::from_raw(u32::from(EVERY_PROTOCOL).try_into().expect("not zero")).into(),
        )
        .expect("a packet socket");
        // More than others may have where we may; the system's limit elsewhere.
        sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, BUFFER))
            .expect("a larger buffer");
        let socket = Arc::new(socket);
        let looker = Arc::new(Mutex::new(Looker {
            socket: Arc::clone(&socket),
            texts: texts.iter().map(|text| text.to_vec()).collect(),
            frame: vec![0; FRAME],
            seen: Seen::default(),
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, ended) = (Arc::clone(&looker), Arc::clone(&stop));
        let thread = std::thread::spawn(move || look(&socket, &theirs, &ended));
        Self {
            looker,
            stop,
            thread: Some(thread),
        }
    }

    /// The same in the network namespace of a process.
    ///
    /// # Panics
    /// When the system does not let us.
    #[must_use]
    #[track_caller]
    pub fn start_at(pid: i32, texts: &[&[u8]]) -> Self {
        let namespace = NetNs::of_pid(pid).expect("the process runs");
        let started = namespace.within(|| Ok(Self::start(texts)));
        started.expect("its namespace can be entered")
    }

    /// How many frames held the text, of those that crossed before this call.
    ///
    /// # Panics
    /// When nothing at all was captured: then it says nothing.
    #[must_use]
    #[track_caller]
    pub fn count(&self, text: &[u8]) -> u64 {
        let seen = &self.settled().seen;
        seen.found.get(text).copied().unwrap_or(0)
    }

    /// Between which addresses the text crossed, each as it went: from, to. What is no IP is not among them, but counted.
    #[must_use]
    #[track_caller]
    pub fn ends(&self, text: &[u8]) -> BTreeSet<(IpAddr, IpAddr)> {
        let seen = &self.settled().seen;
        seen.ends.get(text).cloned().unwrap_or_default()
    }

    /// What has been sent is in the socket's queue: all of that was looked at when this returns.
    fn settled(&self) -> MutexGuard<'_, Looker> {
        let mut looker = self.looker.lock().unwrap_or_else(PoisonError::into_inner);
        looker.read();
        looker
    }

    /// How many frames were seen.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.settled().seen.frames
    }

    /// How many frames went to an address and TCP port.
    #[must_use]
    pub fn to(&self, address: impl Into<IpAddr>, port: u16) -> u64 {
        let seen = &self.settled().seen;
        seen.ports
            .get(&(address.into(), port))
            .copied()
            .unwrap_or(0)
    }

    /// How many connections were begun to an address and TCP port (SYN without ACK): frames of those that were there
    /// before do not count.
    #[must_use]
    pub fn dialled(&self, address: impl Into<IpAddr>, port: u16) -> u64 {
        let seen = &self.settled().seen;
        seen.dialled
            .get(&(address.into(), port))
            .copied()
            .unwrap_or(0)
    }

    /// Panics when the text crossed in clear, or when nothing crossed at all.
    ///
    /// # Panics
    /// See above.
    #[track_caller]
    pub fn assert_no_cleartext(&self, text: &[u8]) {
        let count = self.count(text);
        assert!(
            self.frames() > 0,
            "nothing was captured, which proves nothing"
        );
        assert_eq!(
            count,
            0,
            "{:?} crossed between hosts in clear",
            String::from_utf8_lossy(text)
        );
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn look(socket: &OwnedFd, looker: &Mutex<Looker>, stop: &AtomicBool) {
    let wait = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(socket, PollFlags::IN)];
        if matches!(poll(&mut ready, Some(&wait)), Ok(1..)) {
            let mut looker = looker.lock().unwrap_or_else(PoisonError::into_inner);
            looker.read();
        }
    }
}

impl Looker {
    /// Looks at every frame that waits, or at as many as a queue can hold where they come without end.
    fn read(&mut self) {
        for _ in 0..QUEUE {
            let read = rustix::net::recv(&*self.socket, &mut self.frame[..], RecvFlags::DONTWAIT);
            let Ok((length, _)) = read else { return };
            let frame = self.frame.get(..length).unwrap_or_default();
            self.seen.note(frame, &self.texts);
        }
    }
}

impl Seen {
    fn note(&mut self, frame: &[u8], texts: &[Vec<u8>]) {
        self.frames += 1;
        if let Some((to, begins)) = tcp_destination(frame) {
            *self.ports.entry(to).or_default() += 1;
            if begins {
                *self.dialled.entry(to).or_default() += 1;
            }
        }
        for text in texts.iter().filter(|text| contains(frame, text)) {
            *self.found.entry(text.clone()).or_default() += 1;
            if let Some(ends) = ends(frame) {
                self.ends.entry(text.clone()).or_default().insert(ends);
            }
        }
    }
}

/// Where an IP packet in an Ethernet frame comes from, and where it goes.
fn ends(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let packet = frame.get(14..)?;
    let v4 = |at| Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into());
    let v6 = |at| Some(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into());
    match frame.get(12..14)? {
        [0x08, 0x00] => Some((v4(12)?, v4(16)?)),
        [0x86, 0xdd] => Some((v6(8)?, v6(24)?)),
        _ => None,
    }
}

/// Where a segment's header has its flags, and two of them (RFC 9293, section 3.1).
const TCP_FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Where a TCP segment goes, and whether it begins a connection: Ethernet, then IPv4 or IPv6 without extension headers.
fn tcp_destination(frame: &[u8]) -> Option<((IpAddr, u16), bool)> {
    let kind = frame.get(12..14)?;
    let packet = frame.get(14..)?;
    let (address, segment) = match kind {
        [0x08, 0x00] if packet.get(9) == Some(&6) => {
            let header = usize::from(packet.first()? & 0xf) * 4;
            let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (IpAddr::from(octets), packet.get(header..)?)
        }
        [0x86, 0xdd] if packet.get(6) == Some(&6) => {
            let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (IpAddr::from(octets), packet.get(40..)?)
        }
        _ => return None,
    };
    let port: [u8; 2] = segment.get(2..4)?.try_into().ok()?;
    let flags = *segment.get(TCP_FLAGS)?;
    let begins = flags & (SYN | ACK) == SYN;
    Some(((address, u16::from_be_bytes(port)), begins))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some((first, _)) = needle.split_first() else {
        return false;
    };
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        let tail = rest.get(at..).unwrap_or_default();
        if tail.starts_with(needle) {
            return true;
        }
        rest = tail.get(1..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_wherever_it_stands() {
        assert!(contains(b"aaab", b"aab"));
        assert!(contains(b"ab", b"ab"));
        assert!(!contains(b"aba", b"abb"));
        assert!(!contains(b"", b"a"));
        assert!(!contains(b"a", b""));
    }

    #[test]
    fn the_destination_of_a_segment_is_read() {
        let mut frame = vec![0; 14];
        frame[12] = 0x08;
        frame.extend([
            0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend([0x30, 0x39, 0x3a, 0xa0]);
        frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50]);
        let to = ([10, 0, 0, 2].into(), 15008);
        let with_flags = |flags: u8| [frame.as_slice(), &[flags]].concat();
        assert_eq!(tcp_destination(&with_flags(SYN)), Some((to, true)));
        assert_eq!(tcp_destination(&with_flags(ACK)), Some((to, false)));
        assert_eq!(tcp_destination(&with_flags(SYN | ACK)), Some((to, false)));
        let both = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        assert_eq!(ends(&frame), Some(both));
        assert_eq!(ends(&frame[..30]), None);
        assert_eq!(tcp_destination(&frame), None);
        assert_eq!(tcp_destination(&frame[..30]), None);
    }
}
