//! The sets of the rules: who of the containers may send what, and to whom. Pure.
//!
//! A container that comes or goes is a matter of elements alone, but for its published ports. So
//! each set is here once, for the text of the rules and for the bytes by which a single element is
//! put in or taken out.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::plan::{Mac, Member};

/// The family of the table that a set is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Of what is routed.
    Inet,
    /// Of what passes from port to port.
    Bridge,
}

/// A set of a table, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) family: Family,
    pub(super) name: &'static str,
    /// What its elements are, as nft(8) says it.
    kind: &'static str,
    pub(super) elements: Vec<Element>,
}

/// An element: a value, or several in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Device(String),
    Mac(Mac),
    Four(Ipv4Addr),
    Six(Ipv6Addr),
    /// An address where a packet has it in its middle, for which nft has no type but a number.
    Raw(Ipv6Addr),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(name) => write!(f, "\"{name}\""),
            Self::Mac(mac) => write!(f, "{mac}"),
            Self::Four(address) => write!(f, "{address}"),
            Self::Six(address) => write!(f, "{address}"),
            Self::Raw(address) => write!(f, "{:#x}", u128::from(*address)),
        }
    }
}

impl Part {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Device(name) => {
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(libc::IFNAMSIZ, 0);
                bytes
            }
            Self::Mac(mac) => mac.0.to_vec(),
            Self::Four(address) => address.octets().to_vec(),
            Self::Six(address) | Self::Raw(address) => address.octets().to_vec(),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(Part::to_string).collect();
        f.write_str(&parts.join(" . "))
    }
}

impl Element {
    /// As the kernel has it: the parts in a row, each filled up to a multiple of four bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for part in &self.0 {
            all.extend(part.bytes());
            all.resize(all.len().next_multiple_of(4), 0);
        }
        all
    }
}

impl fmt::Display for Set {
    /// As it stands in its table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {} {{ {}; ", self.name, self.kind)?;
        // nft takes no empty list.
        if !self.elements.is_empty() {
            let all: Vec<String> = self.elements.iter().map(Element::to_string).collect();
            write!(f, "elements = {{ {} }} ", all.join(", "))?;
        }
        f.write_str("}")
    }
}

/// All sets, with what they hold for `members`; always the same ones in the same order.
pub(super) fn of(members: &[Member]) -> Vec<Set> {
    use Family::{Bridge, Inet};
    let some = |wanted: fn(&Member) -> bool| -> Vec<&Member> {
        members.iter().filter(|m| m.on_bridge() && wanted(m)).collect()
    };
    let (all, private) = (some(|_| true), some(Member::is_private));
    let near = some(Member::has_neighbours);
    vec![
        set(Inet, "neighbours4", "type ipv4_addr", &near, |m| four(m).map(|a| vec![a]).collect()),
        set(Inet, "neighbours6", "type ipv6_addr", &near, |m| {
            m.ipv6.map(|a| vec![Part::Six(a)]).into_iter().collect()
        }),
        set(Bridge, "ports", "type ifname", &all, |m| vec![vec![device(m)]]),
        set(Bridge, "private", "type ifname", &private, |m| vec![vec![device(m)]]),
        set(Bridge, "neighbours", "type ifname", &near, |m| vec![vec![device(m)]]),
        set(Bridge, "same", "type ifname . ifname", &private, |m| vec![vec![device(m), device(m)]]),
        set(Bridge, "mac", "type ifname . ether_addr", &all, |m| {
            vec![vec![device(m), Part::Mac(m.mac)]]
        }),
        set(Bridge, "ipv4", "type ifname . ipv4_addr", &private, |m| {
            four(m).map(|a| vec![device(m), a]).collect()
        }),
        set(Bridge, "ipv6", "type ifname . ipv6_addr", &private, |m| {
            sixes(m).map(|a| vec![device(m), Part::Six(a)]).collect()
        }),
        // The target of an advertisement, which the nft of Debian 12 has no name for.
        set(Bridge, "target", "typeof iifname . @th,64,128", &private, |m| {
            sixes(m).map(|a| vec![device(m), Part::Raw(a)]).collect()
        }),
    ]
}

fn set(
    family: Family,
    name: &'static str,
    kind: &'static str,
    members: &[&Member],
    parts: fn(&Member) -> Vec<Vec<Part>>,
) -> Set {
    let elements = members.iter().flat_map(|m| parts(m)).map(Element).collect();
    Set { family, name, kind, elements }
}

fn device(m: &Member) -> Part {
    Part::Device(m.device.clone())
}

fn four(m: &Member) -> impl Iterator<Item = Part> {
    m.ipv4.map(Part::Four).into_iter()
}

/// Its own address, and the one that its device has by itself.
fn sixes(m: &Member) -> impl Iterator<Item = Ipv6Addr> {
    m.ipv6.map(|own| [own, m.mac.link_local()]).into_iter().flatten()
}

/// What has to be taken out of the sets, and what put in, to get from `old` members to `new` ones.
/// Sets without a change are left out.
pub(super) fn between(old: &[Member], new: &[Member]) -> (Vec<Set>, Vec<Set>) {
    let (old, new) = (of(old), of(new));
    let only = |these: &[Set], those: &[Set]| -> Vec<Set> {
        let rest = these.iter().zip(those).map(|(this, that)| {
            let missing = |e: &&Element| !that.elements.contains(e);
            Set { elements: this.elements.iter().filter(missing).cloned().collect(), ..*this }
        });
        rest.filter(|set| !set.elements.is_empty()).collect()
    };
    (only(&old, &new), only(&new, &old))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Mode;
    use crate::store::Name;

    fn member(name: &str, number: u8, neighbours: bool) -> Member {
        Member {
            name: Name::parse("container", name).unwrap(),
            mode: Mode::Private { neighbours },
            device: format!("cl-{name}"),
            mac: Mac([2, 0, 0, 0, 0, number]),
            ipv4: Some(Ipv4Addr::new(10, 0, 0, number)),
            ipv6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number))),
            publish: Vec::new(),
        }
    }

    #[test]
    fn text_and_bytes_of_an_element_say_the_same() {
        let sets = of(&[member("a", 7, true)]);
        let of = |name: &str| sets.iter().find(|set| set.name == name).unwrap();
        let mac = of("mac");
        let words = "elements = { \"cl-a\" . 02:00:00:00:00:07 }";
        assert_eq!(mac.to_string(), format!("set mac {{ type ifname . ether_addr; {words} }}"));
        let mut bytes = b"cl-a".to_vec();
        bytes.resize(16, 0);
        assert_eq!(mac.elements[0].bytes(), [&bytes[..], &[2, 0, 0, 0, 0, 7, 0, 0]].concat());
        assert_eq!(of("ipv4").elements[0].bytes(), [&bytes[..], &[10, 0, 0, 7]].concat());
        let six = "fd00::7".parse::<Ipv6Addr>().unwrap().octets();
        let target = &of("target").elements;
        assert_eq!(target[0].bytes(), [&bytes[..], &six].concat());
        assert_eq!(target[0].to_string(), "\"cl-a\" . 0xfd000000000000000000000000000007");
        assert_eq!(target.len(), 2);
        assert_eq!(Set { elements: vec![], ..mac.clone() }.to_string().matches("elem").count(), 0);
    }

    #[test]
    fn only_what_changes_is_put_in_or_taken_out() {
        let (a, b) = (member("a", 1, false), member("b", 2, true));
        let both = [a.clone(), b.clone()];
        assert_eq!(between(&both, &both), (vec![], vec![]));
        let (gone, come) = between(&both, std::slice::from_ref(&a));
        assert!(come.is_empty() && gone.len() == 10);
        let said: Vec<String> = gone.iter().map(Set::to_string).collect();
        assert!(!said.join("").contains("cl-a"), "{said:?}");
        // One that has neighbours from now on is in three more sets, and in the others as before.
        let (gone, come) = between(&both, &[member("a", 1, true), b]);
        let names: Vec<_> = come.iter().map(|set| set.name).collect();
        assert_eq!((gone.len(), names), (0, vec!["neighbours4", "neighbours6", "neighbours"]));
    }
}
