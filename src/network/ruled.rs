//! Which rules the kernel has: so that a start need not load those that are there.
//!
//! nftables counts its changes, whoever makes them. After rules were loaded the number is written
//! down with what they were for; as long as it is the same nobody has touched a rule on this host,
//! neither ours nor those of others that our openings are in. What is there for a container that has
//! stopped lets nothing through, and may stay until rules are loaded for another reason.

use std::path::PathBuf;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use serde::{Deserialize, Serialize};

use super::plan::{Member, Net, hash};
use super::rules;
use crate::error::Result;
use crate::store::{Layout, Name, atomic};

/// What was loaded, and when.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ruled {
    /// nftables' number.
    generation: u32,
    /// Of all that does not depend on members.
    frame: u64,
    members: Vec<Member>,
}

fn file(layout: &Layout) -> PathBuf {
    layout.network().join("ruled")
}

fn load(layout: &Layout) -> Option<Ruled> {
    atomic::read_json(&file(layout)).ok().flatten()
}

fn frame(net: &Net, loopback6: bool) -> u64 {
    hash(&rules::all(net, &[], loopback6))
}

impl Ruled {
    /// Whether all is there for `members`, and for nobody else a port of the host's.
    fn covers(&self, members: &[Member]) -> bool {
        members.iter().all(|m| self.members.contains(m))
            && self.members.iter().all(|m| m.publish.is_empty() || members.contains(m))
    }
}

/// Whether the kernel has the rules that `members` need.
pub(super) fn is_so(layout: &Layout, net: &Net, members: &[Member], loopback6: bool) -> bool {
    load(layout).is_some_and(|ruled| {
        ruled.covers(members)
            && ruled.frame == frame(net, loopback6)
            && generation() == Some(ruled.generation)
    })
}

/// Whether rules may still be there for `name`.
pub(super) fn knows(layout: &Layout, name: &Name) -> bool {
    load(layout).is_some_and(|ruled| ruled.members.iter().any(|m| m.name == *name))
}

/// Writes down that `members` have their rules, if the number is `generation` now: if it is another
/// one, somebody else has changed something meanwhile.
pub(super) fn remember(
    layout: &Layout,
    net: &Net,
    members: &[Member],
    loopback6: bool,
    expected: Option<u32>,
) -> Result<()> {
    match generation() {
        Some(generation) if Some(generation) == expected => {
            let ruled =
                Ruled { generation, frame: frame(net, loopback6), members: members.to_vec() };
            atomic::write_json_unsynced(&file(layout), &ruled, 0o600)
        }
        _ => {
            forget(layout);
            Ok(())
        }
    }
}

/// Has the next change load all rules.
pub(super) fn forget(layout: &Layout) {
    let _ = std::fs::remove_file(file(layout));
}

// <linux/netfilter/nfnetlink.h> and <linux/netfilter/nf_tables.h>.
const GET_GENERATION: u16 = 10 << 8 | 16;
const NEW_GENERATION: u16 = 10 << 8 | 15;
const ID: u16 = 1;

/// nftables' number of its last change in this network namespace; None if it cannot be had.
pub(super) fn generation() -> Option<u32> {
    let socket = Socket::new(NETLINK_NETFILTER).ok()?;
    socket.connect(&SocketAddr::new(0, 0)).ok()?;
    // A header of nlmsghdr, and a struct nfgenmsg of nothing.
    let mut request = Vec::with_capacity(20);
    request.extend(20_u32.to_ne_bytes());
    request.extend(GET_GENERATION.to_ne_bytes());
    request.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request.extend([0; 12]);
    socket.send(&request, 0).ok()?;
    let (answer, _) = socket.recv_from_full().ok()?;
    number(&answer)
}

/// The number in an answer of the kernel's.
fn number(answer: &[u8]) -> Option<u32> {
    let two = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if two(4)? != NEW_GENERATION {
        return None;
    }
    let mut at = 20;
    loop {
        let (length, kind) = (usize::from(two(at)?), two(at + 2)?);
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
    use crate::network::Mode;
    use crate::network::plan::{Mac, Publish};

    fn member(name: &str, publish: &[&str]) -> Member {
        Member {
            name: Name::parse("container", name).unwrap(),
            mode: Mode::Private { neighbours: false },
            device: format!("cl-{name}"),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            ipv4: None,
            ipv6: None,
            publish: publish.iter().map(|p| Publish::parse(p).unwrap()).collect(),
        }
    }

    #[test]
    fn rules_for_more_than_run_will_do_but_not_with_ports() {
        let (a, b, port) = (member("a", &[]), member("b", &[]), member("b", &["80:80/tcp"]));
        let ruled =
            |members: &[Member]| Ruled { generation: 1, frame: 2, members: members.to_vec() };
        let both = ruled(&[a.clone(), b.clone()]);
        assert!(both.covers(std::slice::from_ref(&a)) && both.covers(&[b.clone(), a.clone()]));
        assert!(!ruled(std::slice::from_ref(&a)).covers(&[a.clone(), b]));
        let open = ruled(&[a.clone(), port.clone()]);
        assert!(open.covers(&[port, a.clone()]) && !open.covers(&[a]));
    }

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
        answer[20] = 0;
        let _ = number(&answer);
        assert_eq!(number(&[]), None);
    }
}
