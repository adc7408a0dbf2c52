//! Which rules the kernel has: so that a container that comes or goes need not load all of them.
//!
//! nftables counts its changes, whoever makes them. After rules were loaded the number is written
//! down with what they were for; as long as it is the same nobody has touched a rule on this host,
//! neither ours nor those of others that our openings are in. Then what is left to do is to put a few
//! elements into sets or to take them out.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::netfilter::{self, generation};
use super::plan::{Member, Net, hash};
use super::{rules, sets};
use crate::error::Result;
use crate::store::{Layout, atomic};

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

/// Whether both have the same ports of the host's: those are rules, not elements.
fn same_ports(old: &[Member], new: &[Member]) -> bool {
    let with = |list: &[Member]| -> Vec<Member> {
        list.iter().filter(|m| !m.publish.is_empty()).cloned().collect()
    };
    with(old) == with(new)
}

/// Has the rules that the kernel has be for `members`, if a few elements are all that it takes. False
/// if they have to be loaded.
pub(super) fn follow(layout: &Layout, net: &Net, members: &[Member], loopback6: bool) -> bool {
    let Some(ruled) = load(layout) else { return false };
    if ruled.frame != frame(net, loopback6) || !same_ports(&ruled.members, members) {
        return false;
    }
    let (gone, come) = sets::between(&ruled.members, members);
    if gone.is_empty() && come.is_empty() {
        return generation() == Some(ruled.generation);
    }
    // Killed between the change and its note, all is loaded the next time.
    forget(layout);
    netfilter::change(&net.table, ruled.generation, &gone, &come).is_ok()
        && remember(layout, net, members, loopback6, Some(ruled.generation.wrapping_add(1))).is_ok()
}

/// Writes down that `members` have their rules, if nftables' number is `expected` now: if it is another
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Mode;
    use crate::network::plan::{Mac, Publish};
    use crate::store::Name;

    #[test]
    fn a_port_of_the_hosts_is_more_than_an_element() {
        let member = |name: &str, publish: &[&str]| Member {
            name: Name::parse("container", name).unwrap(),
            mode: Mode::Private { neighbours: false },
            device: format!("cl-{name}"),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            ipv4: None,
            ipv6: None,
            publish: publish.iter().map(|p| Publish::parse(p).unwrap()).collect(),
        };
        let (a, port) = (member("a", &[]), member("b", &["80:80/tcp"]));
        let both = [a.clone(), port.clone()];
        assert!(same_ports(&both, std::slice::from_ref(&port)));
        assert!(same_ports(&[a.clone(), member("b", &[])], std::slice::from_ref(&a)));
        assert!(!same_ports(&both, std::slice::from_ref(&a)) && !same_ports(&[], &both));
        assert!(!same_ports(&both, &[a, member("b", &["81:80/tcp"])]));
    }
}
