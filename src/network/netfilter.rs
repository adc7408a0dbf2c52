//! What of nftables is asked of the kernel itself: the number of its last change, and single elements
//! of sets, which are not worth a run of nft(8) at each start and stop.
//!
//! The messages are those of nfnetlink: `<linux/netfilter/nfnetlink.h>` and `nf_tables.h`. The crates
//! that speak it want libclang to be built, or the C library.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::sets::{Family, Set};
use crate::error::{Error, Result};
use crate::sys::Named;

const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
const END: u16 = libc::NFNL_MSG_BATCH_END as u16;
const BATCH_GENERATION: u16 = 1;

const NEW_ELEMENT: u16 = (SUBSYSTEM << 8) | libc::NFT_MSG_NEWSETELEM as u16;
const DELETE_ELEMENT: u16 = (SUBSYSTEM << 8) | libc::NFT_MSG_DELSETELEM as u16;
const NEW_GENERATION: u16 = (SUBSYSTEM << 8) | libc::NFT_MSG_NEWGEN as u16;
const GET_GENERATION: u16 = (SUBSYSTEM << 8) | libc::NFT_MSG_GETGEN as u16;

// Attributes: of an answer with the number, of a list of elements, of one of them, of its key.
const ID: u16 = 1;
const TABLE: u16 = 1;
const SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const KEY: u16 = 1;
const VALUE: u16 = 1;
const NESTED: u16 = 1 << 15;

/// An answer that carries an error, or 0.
const ERROR: u16 = libc::NLMSG_ERROR as u16;

fn socket() -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // The kernel has answered when it has taken a request; what is not there then never comes.
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// nftables' number of its last change in this network namespace; None if it cannot be had.
pub(super) fn generation() -> Option<u32> {
    let socket = socket().ok()?;
    socket.send(&message(GET_GENERATION, libc::NLM_F_REQUEST, 0, 0, &[]), 0).ok()?;
    let (answer, _) = socket.recv_from_full().ok()?;
    number(&answer)
}

/// Takes the elements of `gone` out of the sets of the store's tables and puts those of `come` in: all
/// of it or nothing, and nothing if anybody has changed a rule since nftables' number was `generation`.
/// If it is done, the number is the next one.
pub(super) fn change(table: &str, generation: u32, gone: &[Set], come: &[Set]) -> Result<()> {
    let request = batch(table, generation, gone, come)?;
    let socket = socket().named(|| "netlink socket".into())?;
    socket.send(&request, 0).named(|| "netlink request".into())?;
    let (answer, _) = socket.recv_from_full().named(|| "netlink answer".into())?;
    // Errors come in the order of the messages, and the last of those is the one to be answered:
    // whatever the first answer is, it is the verdict.
    match errno(&answer) {
        Some(0) => Ok(()),
        Some(e) => {
            let refused: io::Result<()> = Err(io::Error::from_raw_os_error(-e));
            Ok(refused.named(|| "elements of nftables".into())?)
        }
        None => Err(Error::failed("nftables has not answered")),
    }
}

fn batch(table: &str, generation: u32, gone: &[Set], come: &[Set]) -> Result<Vec<u8>> {
    let request = libc::NLM_F_REQUEST;
    let mut changes: Vec<(u16, i32, &Set)> =
        gone.iter().map(|set| (DELETE_ELEMENT, request, set)).collect();
    changes.extend(come.iter().map(|set| (NEW_ELEMENT, request | libc::NLM_F_CREATE, set)));
    if let Some((_, flags, _)) = changes.last_mut() {
        *flags |= libc::NLM_F_ACK;
    }
    // A batch is for the subsystem in the place of a family's data.
    let number = attribute(BATCH_GENERATION, &generation.to_be_bytes())?;
    let mut all = message(BEGIN, request, 0, SUBSYSTEM, &number);
    for (kind, flags, set) in changes {
        let family = match set.family {
            Family::Inet => libc::NFPROTO_INET,
            Family::Bridge => libc::NFPROTO_BRIDGE,
        };
        all.extend(message(kind, flags, family as u8, 0, &elements(table, set)?));
    }
    all.extend(message(END, request, 0, SUBSYSTEM, &[]));
    Ok(all)
}

/// The attributes of a change of `set`'s elements.
fn elements(table: &str, set: &Set) -> Result<Vec<u8>> {
    let text = |kind, text: &str| attribute(kind, &[text.as_bytes(), &[0]].concat());
    let mut list = Vec::new();
    for element in &set.elements {
        let key = attribute(KEY | NESTED, &attribute(VALUE, &element.bytes())?)?;
        list.extend(attribute(ELEMENT | NESTED, &key)?);
    }
    let list = attribute(ELEMENTS | NESTED, &list)?;
    Ok([text(TABLE, table)?, text(SET, set.name)?, list].concat())
}

/// A nlattr with `data`, filled up to a multiple of four bytes.
fn attribute(kind: u16, data: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(data.len() + 4)
        .map_err(|_| Error::failed("more elements than one message takes"))?;
    let mut all = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), data].concat();
    all.resize(all.len().next_multiple_of(4), 0);
    Ok(all)
}

/// A nlmsghdr and a nfgenmsg of version 0, with `attributes`.
fn message(kind: u16, flags: i32, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = (20 + attributes.len()) as u32;
    let [high, low] = resource.to_be_bytes();
    let parts: [&[u8]; 6] = [
        &length.to_ne_bytes(),
        &kind.to_ne_bytes(),
        &(flags as u16).to_ne_bytes(),
        // No number of the message's own, and from the kernel's point of view no port.
        &[0; 8],
        &[family, 0, high, low],
        attributes,
    ];
    parts.concat()
}

fn two(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The error in an answer of the kernel's, 0 if it has none; None if it is something else.
fn errno(answer: &[u8]) -> Option<i32> {
    match two(answer, 4)? == ERROR {
        true => Some(i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?)),
        false => None,
    }
}

/// The number in an answer of the kernel's.
fn number(answer: &[u8]) -> Option<u32> {
    if two(answer, 4)? != NEW_GENERATION {
        return None;
    }
    let mut at = 20;
    loop {
        let (length, kind) = (usize::from(two(answer, at)?), two(answer, at + 2)?);
        if kind == ID {
            return Some(u32::from_be_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?));
        }
        // Each begins at a multiple of four.
        at += length.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_answer_is_read_whatever_it_holds() {
        let mut answer = vec![0; 20];
        answer[4..6].copy_from_slice(&NEW_GENERATION.to_ne_bytes());
        for (kind, value) in [(3_u16, [7, 7, 7, 7]), (ID, [0, 0, 1, 2])] {
            answer.extend(8_u16.to_ne_bytes());
            answer.extend(kind.to_ne_bytes());
            answer.extend(value);
        }
        assert_eq!(number(&answer), Some(258));
        assert_eq!(number(&answer[..30]), None);
        assert_eq!(errno(&answer), None);
        answer[20] = 0;
        let _ = number(&answer);
        assert_eq!(number(&[]), None);
        let mut refused = message(ERROR, 0, 0, 0, &[0; 20]);
        refused[16..20].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        assert_eq!(errno(&refused), Some(-libc::ENOENT));
        assert_eq!(errno(&refused[..18]), None);
    }

    #[test]
    fn what_is_too_much_for_one_message_is_refused() {
        assert_eq!(attribute(KEY, &[1, 2, 3]).unwrap(), [7, 0, 1, 0, 1, 2, 3, 0]);
        assert!(attribute(KEY, &vec![0; 1 << 16]).is_err());
    }
}
