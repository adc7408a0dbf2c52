//! Messages with descriptors over a Unix socket (unix(7), SCM_RIGHTS).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

use super::{Error, Named, Result};

/// The most descriptors that one message carries.
pub const MAX_FDS: usize = 16;
/// The most bytes that one message carries.
pub const MAX_BYTES: usize = 4096;

/// Two connected ends that keep message boundaries and tell when the other end is gone.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .named(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)".into())
}

/// Sends one message.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::new("sendmsg(too many descriptors)", libc::EINVAL));
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })
    .named(|| "sendmsg".into())?;
    Ok(())
}

/// Receives one message; an empty one without descriptors means that the other end is gone.
/// A message or descriptor list that was too long is an error, never cut short.
pub fn receive(socket: impl AsFd) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MAX_BYTES];
    let (n, fds) = receive_into(socket, &mut bytes)?;
    bytes.truncate(n);
    Ok((bytes, fds))
}

/// [`receive`] into `bytes`; of a stream as much as is there, and no more than one message's
/// descriptors. On an error every descriptor that came is closed.
pub fn receive_into(socket: impl AsFd, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        recvmsg(&socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    let got = match got {
        // The other end went with a message of ours unread: it is gone all the same.
        Err(rustix::io::Errno::CONNRESET) => return Ok((0, Vec::new())),
        other => other.named(|| "recvmsg".into())?,
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(list) = message {
            fds.extend(list);
        }
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Error::new("recvmsg(message cut short)", libc::EMSGSIZE));
    }
    Ok((got.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_descriptor_arrives_and_the_end_is_seen() {
        let (a, b) = pair().unwrap();
        let file = std::fs::File::open("/proc/self/comm").unwrap();
        send(&a, b"x", &[file.as_fd()]).unwrap();
        let (bytes, mut fds) = receive(&b).unwrap();
        assert_eq!(bytes, b"x");
        let mut text = String::new();
        std::fs::File::from(fds.remove(0)).read_to_string(&mut text).unwrap();
        assert!(!text.is_empty());
        drop(a);
        assert!(receive(&b).unwrap().0.is_empty());
    }
}
