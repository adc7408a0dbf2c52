//! What goes over the socket. Every frame has a header of ten bytes: `colc`, the version, the
//! length of what follows; what follows is JSON.
//!
//! After the request the client sends frames of five bytes, see [`crate::runtime::near`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags};
use rustix::net::SendFlags;
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, Kind, Result};
use crate::request::Request;
use crate::sys::tty::Size;
use crate::sys::{Named, fdpass};

/// Both sides are one program; they differ only for a moment, while it is being updated.
pub const VERSION: u16 = 1;
/// No frame is longer.
pub const LIMIT: usize = 64 << 10;

const MAGIC: &[u8; 4] = b"colc";
const HEADER: usize = 10;

/// The request, and what its streams are.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// What is asked for.
    pub request: Request,
    /// Whether the member's input is a terminal.
    pub from_terminal: bool,
    /// Rows and columns of the terminal that is the member's output, if it is one.
    pub screen: Option<(u16, u16)>,
}

impl Ask {
    /// The size of the member's screen.
    pub fn size(&self) -> Option<Size> {
        let (rows, columns) = self.screen.filter(|(r, c)| *r > 0 && *c > 0)?;
        Some(Size { rows, columns })
    }

    /// Its size, if input and output are a terminal.
    pub fn terminal(&self) -> Option<Size> {
        self.size().filter(|_| self.from_terminal)
    }
}

/// What the server says when it hands over the socket on which programs inside ask for the
/// member's ssh agent. It is the only message of its with a descriptor.
pub const AGENT: &str = "agent";

/// How it went. `null` is the server's hello.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// The exit code.
    pub code: u8,
    /// What went wrong, for the client to print.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
}

/// A whole frame.
pub fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let body = serde_json::to_vec(value)
        .map_err(|e| Error::failed(format!("cannot write the request: {e}")))?;
    if body.len() > LIMIT {
        return Err(Error::new(Kind::Usage, "the command line is too long")
            .hint("give what is long by standard input, or in a file"));
    }
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(&VERSION.to_le_bytes());
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// The length that a header announces.
pub fn decode_header(header: [u8; HEADER]) -> Result<usize> {
    let [m0, m1, m2, m3, v0, v1, l0, l1, l2, l3] = header;
    if [m0, m1, m2, m3] != *MAGIC {
        return Err(Error::new(Kind::Usage, "this is not coloc's protocol"));
    }
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(Error::new(
            Kind::Unsupported,
            format!("the other side speaks version {version} of the protocol, this one {VERSION}"),
        )
        .hint("coloc was updated meanwhile; try again"));
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > LIMIT {
        return Err(Error::new(Kind::Usage, "the request is too long"));
    }
    Ok(length)
}

/// The value in the body of a frame.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|e| Error::new(Kind::Usage, format!("a message cannot be understood: {e}")))
}

/// Sends a frame, with descriptors.
pub fn send(socket: &OwnedFd, frame: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let (header, mut rest) = frame.split_at(HEADER.min(frame.len()));
    fdpass::send(socket, header, fds)?;
    while !rest.is_empty() {
        match rustix::net::send(socket, rest, SendFlags::NOSIGNAL) {
            Ok(n) => rest = &rest[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Ok(Err(e).named(|| "send".into())?),
        }
    }
    Ok(())
}

/// Sends a small frame to somebody who may not read it: they do not hold us up.
pub fn tell(socket: &OwnedFd, frame: &[u8]) {
    let _ = rustix::net::send(socket, frame, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// Receives a frame within `limit`, and the descriptors that came with its first byte; None if
/// the other end is gone before that byte.
pub fn receive(socket: &OwnedFd, limit: Duration) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let until = Instant::now() + limit;
    let mut fds = Vec::new();
    let mut header = [0; HEADER];
    if !fill(socket, &mut header, &mut fds, until)? {
        return Ok(None);
    }
    let mut body = vec![0; decode_header(header)?];
    if !fill(socket, &mut body, &mut fds, until)? {
        return Err(half());
    }
    Ok(Some((body, fds)))
}

fn half() -> Error {
    Error::new(Kind::Usage, "half a request arrived")
}

/// Fills `bytes`; false if nothing came at all. Descriptors may come once.
fn fill(
    socket: &OwnedFd,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    until: Instant,
) -> Result<bool> {
    let mut have = 0;
    while have < bytes.len() {
        let left = until.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
        let mut ready = [PollFd::new(socket, PollFlags::IN)];
        match poll(&mut ready, Some(&wait)) {
            Ok(0) => return Err(Error::new(Kind::Usage, "no whole request came in time")),
            Ok(_) => {}
            Err(_) => continue,
        }
        let (n, more) = fdpass::receive_into(socket, &mut bytes[have..])?;
        if !more.is_empty() && !fds.is_empty() {
            return Err(Error::new(Kind::Usage, "descriptors came twice"));
        }
        fds.extend(more);
        match (n, have) {
            (0, 0) => return Ok(false),
            (0, _) => return Err(half()),
            _ => have += n,
        }
    }
    Ok(true)
}

/// The three streams of a member, looked at without asking whoever serves the file: only what
/// bytes come out of and go into.
pub fn streams(fds: Vec<OwnedFd>) -> Result<[OwnedFd; 3]> {
    let streams: [OwnedFd; 3] = fds
        .try_into()
        .map_err(|fds: Vec<_>| Error::new(Kind::Usage, format!("{} streams, not 3", fds.len())))?;
    for (fd, what) in streams.iter().zip(["input", "output", "error output"]) {
        check_stream(fd.as_fd()).map_err(|e| e.context(format!("standard {what}")))?;
    }
    Ok(streams)
}

fn check_stream(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd).named(|| "fcntl(F_GETFL)".into())?;
    if flags.contains(OFlags::PATH) {
        return Err(Error::new(Kind::Usage, "it is not open, but a path (O_PATH)"));
    }
    // Of a file of FUSE this is what the kernel remembers, and so it cannot wait for ever.
    let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(fd, "", how, StatxFlags::TYPE)
        .named(|| "statx".into())
        .context(|| "cannot tell what it is")?;
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile | FileType::Fifo | FileType::Socket | FileType::CharacterDevice => {
            Ok(())
        }
        FileType::Directory => Err(Error::new(Kind::Usage, "it is a directory")),
        // What signalfd, epoll and their kin are.
        _ => Err(Error::new(Kind::Usage, "it is no file, pipe, socket or terminal")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn stream() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn ask() -> Ask {
        Ask { request: Request::List { json: true }, from_terminal: true, screen: Some((24, 80)) }
    }

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn open_fds() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    const SOON: Duration = Duration::from_millis(300);

    #[test]
    fn a_request_arrives_as_it_was_sent() {
        let (a, b) = stream();
        let fd = null();
        send(&a, &encode(&ask()).unwrap(), &[fd.as_fd(), fd.as_fd(), fd.as_fd()]).unwrap();
        let (body, fds) = receive(&b, SOON).unwrap().unwrap();
        assert_eq!(decode::<Ask>(&body).unwrap(), ask());
        streams(fds).unwrap();
        drop(a);
        assert!(receive(&b, SOON).unwrap().is_none());
    }

    #[test]
    fn nothing_half_and_too_much_are_refused_in_time() {
        let frame = encode(&ask()).unwrap();
        for part in [0, 1, 9, 10, frame.len() - 1] {
            let (a, b) = stream();
            rustix::io::write(&a, &frame[..part]).unwrap();
            let begun = Instant::now();
            assert!(receive(&b, SOON).is_err(), "{part}");
            assert!(begun.elapsed() < SOON * 4);
        }
        let (a, b) = stream();
        rustix::io::write(&a, &frame[..12]).unwrap();
        drop(a);
        assert!(receive(&b, SOON).is_err());
        let (a, b) = stream();
        let mut huge = frame[..HEADER].to_vec();
        huge[6..10].copy_from_slice(&(1u32 << 30).to_le_bytes());
        rustix::io::write(&a, &huge).unwrap();
        assert!(receive(&b, SOON).unwrap_err().to_string().contains("too long"));
        let (a, b) = stream();
        rustix::io::write(&a, b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(receive(&b, SOON).unwrap_err().to_string().contains("protocol"));
    }

    #[test]
    fn no_other_number_of_descriptors_and_none_is_kept() {
        let fd = null();
        let many = |n| std::iter::repeat_n(fd.as_fd(), n).collect::<Vec<_>>();
        for n in [0, 1, 2, 4, 16] {
            let (a, b) = stream();
            send(&a, &encode(&ask()).unwrap(), &many(n)).unwrap();
            let (_, fds) = receive(&b, SOON).unwrap().unwrap();
            assert!(streams(fds).is_err(), "{n}");
        }
        // Twice: with the header, and with the body.
        let (a, b) = stream();
        let frame = encode(&ask()).unwrap();
        fdpass::send(&a, &frame[..HEADER], &many(3)).unwrap();
        fdpass::send(&a, &frame[HEADER..], &many(3)).unwrap();
        assert!(receive(&b, SOON).is_err());
    }

    #[test]
    fn two_hundred_descriptors_leave_none_open() {
        let (a, b) = stream();
        let fd = null();
        let iov = [std::io::IoSlice::new(b"colc")];
        let raw: Vec<_> = std::iter::repeat_n(std::os::fd::AsRawFd::as_raw_fd(&fd), 200).collect();
        let rights = [nix::sys::socket::ControlMessage::ScmRights(&raw)];
        let none = nix::sys::socket::MsgFlags::empty();
        nix::sys::socket::sendmsg::<()>(
            std::os::fd::AsRawFd::as_raw_fd(&a),
            &iov,
            &rights,
            none,
            None,
        )
        .unwrap();
        let before = open_fds();
        assert!(receive(&b, SOON).is_err());
        // Other tests open some of their own beside us, but not two hundred.
        assert!(open_fds() < before + 100);
    }

    #[test]
    fn a_stream_is_what_bytes_flow_through() {
        let file =
            |path: &str, flags| rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
        let refused = |fd: OwnedFd| check_stream(fd.as_fd()).unwrap_err().to_string();
        assert!(refused(file("/", OFlags::RDONLY)).contains("directory"));
        assert!(refused(file("/", OFlags::PATH)).contains("O_PATH"));
        assert!(refused(file("/dev/null", OFlags::PATH)).contains("O_PATH"));
        check_stream(file("/dev/null", OFlags::RDWR).as_fd()).unwrap();
        check_stream(file("/proc/self/stat", OFlags::RDONLY).as_fd()).unwrap();
        check_stream(stream().0.as_fd()).unwrap();
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        assert!(refused(event).contains("no file"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(header) = bytes.get(..HEADER) {
                let _ = decode_header(header.try_into().unwrap());
            }
            let _ = decode::<Ask>(&bytes);
            let _ = decode::<Reply>(&bytes);
        }
    }
}
