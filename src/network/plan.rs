//! Numbers into addresses and names. Pure: nothing is looked at or touched here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::{Mode, Wish};
use crate::error::{Error, Kind, Result};
use crate::store::config::NetworkConfig;
use crate::store::{Layout, Name};

/// The network of one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Net {
    /// The name of its tables: no other store has it.
    pub table: String,
    /// The name of its bridge.
    pub bridge: String,
    /// What its containers' names end in.
    pub domain: String,
    /// The first address of its IPv4 range, and the length of the prefix.
    pub ipv4: (Ipv4Addr, u8),
    /// The same of IPv6; None if containers are to have none.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// Whether /etc/hosts may be told the names.
    pub hosts: bool,
    /// Whether the IPv4 range is the admin's word.
    given: bool,
    /// How other stores' admins know it.
    pub(super) store: String,
    hash: u32,
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = &'static str;

    fn try_from(text: String) -> std::result::Result<Self, Self::Error> {
        let bytes: Option<Vec<u8>> =
            text.split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
        bytes.and_then(|b| b.try_into().ok()).map(Mac).ok_or("a MAC has six bytes")
    }
}

impl Mac {
    /// The address that IPv6 gives a device by itself (RFC 4291, appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, g] = self.0.map(u16::from);
        Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            ((a ^ 2) << 8) | b,
            (c << 8) | 0xff,
            0xfe00 | d,
            (e << 8) | g,
        )
    }
}

/// FNV-1a: short, and the same in every build.
pub(super) fn hash(text: &str) -> u64 {
    let prime = 0x0100_0000_01b3;
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(prime))
}

/// A range such as `10.5.0.0/20`.
fn range<A: FromStr>(key: &str, text: &str, allowed: (u8, u8)) -> Result<(A, u8)> {
    let parsed = text.split_once('/').and_then(|(address, bits)| {
        let bits: u8 = bits.parse().ok()?;
        Some((address.parse().ok()?, bits)).filter(|_| bits >= allowed.0 && bits <= allowed.1)
    });
    parsed.ok_or_else(|| {
        Error::new(Kind::Usage, format!("network.{key} in coloc.json cannot be {text:?}"))
            .hint(format!("it is ADDRESS/BITS, with {} to {} bits", allowed.0, allowed.1))
    })
}

fn name(key: &str, text: &str, most: usize) -> Result<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    let good = (1..=most).contains(&text.len())
        && text.bytes().all(plain)
        && text.bytes().any(|b| b.is_ascii_alphanumeric())
        && !text.starts_with(['-', '.']);
    match good {
        true => Ok(text.to_string()),
        false => {
            Err(Error::new(Kind::Usage, format!("network.{key} in coloc.json cannot be {text:?}"))
                .hint(format!("it has 1 to {most} letters, digits, - and .")))
        }
    }
}

/// How many ranges there are to choose from: those of 4096 addresses in the upper half of 10.0.0.0/8.
const RANGES: u32 = 2048;
const RANGE_BITS: u8 = 20;

/// One of them, by a number of any size.
fn numbered(number: u32) -> (Ipv4Addr, u8) {
    (Ipv4Addr::from(0x0a80_0000 | ((number % RANGES) << (32 - RANGE_BITS))), RANGE_BITS)
}

/// Where a store is, in words that can stand in a rule of nft's; there they may be 128 bytes, with
/// a container's name.
fn place(layout: &Layout) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    match layout.root().to_str().filter(|p| p.len() <= 60 && p.bytes().all(plain)) {
        Some(path) => path.to_string(),
        None => layout.id(),
    }
}

impl Net {
    /// The network of a store, as the admin's settings have it. What they leave open follows
    /// from the store's place and, for IPv6, from `machine`, a word of this host's own; or it is
    /// `chosen`, the IPv4 range that was taken because that one was not free.
    pub fn new(
        layout: &Layout,
        config: &NetworkConfig,
        machine: &str,
        chosen: Option<&str>,
    ) -> Result<Self> {
        let id = layout.id();
        let number = hash(&id);
        let bridge = match (&config.bridge, layout.is_default()) {
            // The kernel's limit is 15, and a dot would be a path in sysctl's eyes.
            (Some(given), _) if given.contains('.') => name("bridge", "", 15)?,
            (Some(given), _) => name("bridge", given, 15)?,
            (None, true) => "coloc0".into(),
            (None, false) => id.clone(),
        };
        let (first, bits) = match &config.ipv4 {
            Some(text) => range::<Ipv4Addr>("ipv4", text, (8, 28))?,
            None => chosen
                .and_then(|text| range("ipv4", text, (RANGE_BITS, RANGE_BITS)).ok())
                .unwrap_or_else(|| numbered(number as u32)),
        };
        let first = Ipv4Addr::from(u32::from(first) & (u32::MAX << (32 - bits)));
        let ipv6 = match config.ipv6.as_deref() {
            Some("none") => None,
            Some(text) => Some(range::<Ipv6Addr>("ipv6", text, (48, 112))?),
            None => {
                // RFC 4193: fd, 40 bits that nobody else has, and subnet 0.
                let own = u128::from(hash(&format!("{machine} {id}")) & 0xff_ffff_ffff);
                Some((Ipv6Addr::from((0xfd_u128 << 120) | (own << 80)), 64))
            }
        };
        let ipv6 = ipv6
            .map(|(a, bits)| (Ipv6Addr::from(u128::from(a) & (u128::MAX << (128 - bits))), bits));
        let domain = match &config.domain {
            Some(given) => name("domain", given, 60)?,
            None => id.clone(),
        };
        Ok(Self {
            table: id,
            bridge,
            domain,
            ipv4: (first, bits),
            ipv6,
            hosts: config.hosts,
            given: config.ipv4.is_some(),
            store: place(layout),
            hash: number as u32,
        })
    }

    /// The IPv4 ranges that it could have instead, in their order; none if the admin gave one.
    pub(super) fn other_ranges(&self) -> impl Iterator<Item = (Ipv4Addr, u8)> {
        let own = u32::from(self.ipv4.0) >> (32 - RANGE_BITS);
        let count = if self.given { 0 } else { RANGES };
        (1..count).map(move |n| numbered(own + n))
    }

    /// The host's IPv4 address on the bridge.
    pub fn gateway4(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.ipv4.0) + 1)
    }

    /// The host's IPv6 address on the bridge.
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.ipv6.map(|(first, _)| Ipv6Addr::from(u128::from(first) + 1))
    }

    /// The bridge's own hardware address; a bridge without one takes that of any port.
    pub fn bridge_mac(&self) -> Mac {
        self.mac(0xffff)
    }

    fn mac(&self, number: u16) -> Mac {
        let [a, b, c, _] = self.hash.to_be_bytes();
        let [x, y] = number.to_be_bytes();
        // 02: of no maker, given here.
        Mac([0x02, a, b, c, x, y])
    }

    /// What a container has by `wish`; `ipv6` tells whether this host speaks it.
    pub fn member(&self, wish: &Wish, ipv6: bool) -> Result<Member> {
        let number = u16::try_from(wish.slot).ok().filter(|n| *n < 0xffff);
        let number = number.ok_or_else(|| Error::failed("there are too many containers"))?;
        let mut member = Member {
            name: wish.name.clone(),
            mode: wish.mode.clone(),
            device: self.device(number),
            mac: self.mac(number),
            ipv4: None,
            ipv6: None,
            publish: wish.publish.clone(),
        };
        if !matches!(wish.mode, Mode::Private { .. }) {
            if let Some(port) = wish.publish.first() {
                return Err(no_ports(&wish.name, port));
            }
            return Ok(member);
        }
        let (first, bits) = self.ipv4;
        let all = 1u64 << (32 - bits);
        let host = u64::from(number) + 2;
        if host + 1 >= all {
            return Err(Error::new(
                Kind::State,
                format!(
                    "{first}/{bits} has no address for {}, which is number {number}",
                    wish.name
                ),
            )
            .hint("give containers a larger range: network.ipv4 in coloc.json"));
        }
        member.ipv4 = Some(Ipv4Addr::from(u32::from(first) + host as u32));
        member.ipv6 = self
            .ipv6
            .filter(|_| ipv6)
            .map(|(first, _)| Ipv6Addr::from(u128::from(first) + u128::from(host)));
        Ok(member)
    }

    /// The host's end of a container's cable: `cl-17`, or `cl1a2b3c4d-17` in another store.
    fn device(&self, number: u16) -> String {
        match self.table.strip_prefix("coloc-") {
            None => format!("cl-{number}"),
            Some(id) => format!("cl{id}-{number}"),
        }
    }

    /// A container's name for those who know other stores too.
    pub(super) fn name_of(&self, name: &Name) -> String {
        match self.store.as_str() {
            "/" => name.to_string(),
            store => format!("{name} of {store}"),
        }
    }

    /// A container's name in the domain.
    pub fn full_name(&self, name: &Name) -> String {
        format!("{name}.{}", self.domain)
    }
}

/// Ports lead only to where coloc gives the addresses.
pub fn no_ports(name: &Name, port: &Publish) -> Error {
    Error::new(Kind::State, format!("{port} of {name} cannot be published"))
        .hint("only a container with network=private has ports of the host's")
}

/// What a container has on the network while it runs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Member {
    /// The container.
    pub name: Name,
    /// How it is connected.
    pub mode: Mode,
    /// The host's end of its cable.
    pub device: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// Its other address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Which ports of the host lead to it.
    #[serde(default)]
    pub publish: Vec<Publish>,
}

impl Member {
    /// Whether it is on coloc's own bridge.
    pub fn is_private(&self) -> bool {
        matches!(self.mode, Mode::Private { .. })
    }

    /// Whether it has a cable to a bridge, whoever made that.
    pub fn on_bridge(&self) -> bool {
        !matches!(self.mode, Mode::Macvlan(_))
    }

    /// Whether it is among those that reach each other.
    pub fn has_neighbours(&self) -> bool {
        self.mode == Mode::Private { neighbours: true }
    }

    /// All of its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.ipv4.map(IpAddr::from).into_iter().chain(self.ipv6.map(IpAddr::from)).collect()
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proto {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

impl Proto {
    /// As nft(8) and people call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the host that leads to a port of a container: `[ADDRESS:]PORT:INSIDE[/udp]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Publish {
    /// The one address of the host's that it is for; all of them, if not given.
    pub address: Option<IpAddr>,
    /// The host's port.
    pub port: u16,
    /// The container's port.
    pub inside: u16,
    /// The protocol.
    pub proto: Proto,
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(a)) => write!(f, "[{a}]:")?,
            Some(IpAddr::V4(a)) => write!(f, "{a}:")?,
            None => {}
        }
        write!(f, "{}:{}/{}", self.port, self.inside, self.proto.word())
    }
}

impl From<Publish> for String {
    fn from(p: Publish) -> Self {
        p.to_string()
    }
}

impl TryFrom<String> for Publish {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

/// Splits `PORT[/PROTO]`.
fn protocol(text: &str) -> Option<(&str, Option<Proto>)> {
    match text.split_once('/') {
        None => Some((text, None)),
        Some((rest, "tcp")) => Some((rest, Some(Proto::Tcp))),
        Some((rest, "udp")) => Some((rest, Some(Proto::Udp))),
        Some(_) => None,
    }
}

fn port(text: &str) -> Option<u16> {
    // parse() would take a sign.
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && *n != 0)
}

impl Publish {
    /// Reads `[ADDRESS:]PORT:INSIDE[/tcp|/udp]`; an IPv6 address stands in brackets.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = (|| {
            let (rest, proto) = protocol(text)?;
            let (rest, inside) = rest.rsplit_once(':')?;
            let (address, outside) = match rest.rsplit_once(':') {
                None => (None, rest),
                Some((address, outside)) => {
                    let v6 = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                    let address = match v6 {
                        Some(v6) => IpAddr::V6(v6.parse().ok()?),
                        None => IpAddr::V4(address.parse().ok()?),
                    };
                    (Some(address).filter(|a| !a.is_unspecified()), outside)
                }
            };
            let proto = proto.unwrap_or(Proto::Tcp);
            Some(Self { address, port: port(outside)?, inside: port(inside)?, proto })
        })();
        parsed.ok_or_else(|| {
            Error::new(Kind::Usage, format!("{text:?} is no port to publish"))
                .hint("it is [ADDRESS:]PORT:INSIDE[/udp], such as 8080:80 or 192.0.2.1:5353:53/udp")
        })
    }

    /// Reads what tells a published port of the host's: `PORT[/udp]`.
    pub fn parse_outside(text: &str) -> Result<(u16, Option<Proto>)> {
        let parsed = protocol(text).and_then(|(rest, proto)| Some((port(rest)?, proto)));
        parsed.ok_or_else(|| {
            Error::new(Kind::Usage, format!("{text:?} is no port of the host's"))
                .hint("it is PORT or PORT/udp, as coloc publish --list shows it")
        })
    }

    /// Whether both want the same port of the same address.
    pub fn meets(&self, other: &Self) -> bool {
        let same_address = match (self.address, other.address) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        self.port == other.port && self.proto == other.proto && same_address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(root: &str, config: &NetworkConfig) -> Result<Net> {
        Net::new(&Layout::new(root), config, "machine", None)
    }

    #[test]
    fn another_range_can_be_chosen_but_not_in_the_place_of_the_admins() {
        let (layout, config) = (Layout::new("/srv/x"), NetworkConfig::default());
        let with = |chosen: &str| Net::new(&layout, &config, "machine", Some(chosen)).unwrap().ipv4;
        let usual = net("/srv/x", &config).unwrap();
        let others: Vec<_> = usual.other_ranges().collect();
        assert_eq!(others.len(), 2047);
        assert!(!others.contains(&usual.ipv4));
        assert_eq!(with(&format!("{}/{}", others[5].0, others[5].1)), others[5]);
        for bad in ["", "10.0.0.0/8", "x"] {
            assert_eq!(with(bad), usual.ipv4, "{bad}");
        }
        let given = NetworkConfig { ipv4: Some("192.0.2.0/28".into()), ..config };
        let net = Net::new(&layout, &given, "machine", Some("10.128.0.0/20")).unwrap();
        assert_eq!((net.ipv4.1, net.other_ranges().count()), (28, 0));
    }

    fn wish(slot: u32) -> Wish {
        let name = Name::parse("container", "alice").unwrap();
        Wish { name, slot, mode: Mode::Private { neighbours: false }, publish: Vec::new() }
    }

    #[test]
    fn stores_do_not_meet() {
        let default = NetworkConfig::default();
        let (a, b) = (net("/", &default).unwrap(), net("/srv/second", &default).unwrap());
        assert_eq!((a.table.as_str(), a.bridge.as_str()), ("coloc", "coloc0"));
        assert!(b.bridge.len() <= 15 && b.bridge != a.bridge && b.table != a.table);
        assert_ne!(a.ipv4, b.ipv4);
        assert_ne!(a.ipv6, b.ipv6);
        assert_ne!(a.domain, b.domain);
        let (x, y) = (a.member(&wish(7), true).unwrap(), b.member(&wish(4000), true).unwrap());
        assert_ne!(x.mac, y.mac);
        assert_eq!(x.device, "cl-7");
        assert!(y.device.len() <= 15, "{}", y.device);
    }

    #[test]
    fn a_range_of_the_admins_is_used_and_has_an_end() {
        let config = NetworkConfig {
            ipv4: Some("192.0.2.77/28".into()),
            ipv6: Some("none".into()),
            ..NetworkConfig::default()
        };
        let net = net("/", &config).unwrap();
        assert_eq!(net.gateway4().to_string(), "192.0.2.65");
        let first = net.member(&wish(0), true).unwrap();
        assert_eq!(first.addresses(), ["192.0.2.66".parse::<IpAddr>().unwrap()]);
        let last = net.member(&wish(12), true).unwrap();
        assert_eq!(last.ipv4.unwrap().to_string(), "192.0.2.78");
        assert_eq!(net.member(&wish(13), true).unwrap_err().kind(), Kind::State);
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let with = |change: &dyn Fn(&mut NetworkConfig)| {
            let mut config = NetworkConfig::default();
            change(&mut config);
            net("/", &config)
        };
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/2", "x/20", "::/20"] {
            assert!(with(&|c| c.ipv4 = Some(bad.into())).is_err(), "{bad}");
        }
        for bad in ["fd00::", "fd00::/8", "fd00::/128", "yes"] {
            assert!(with(&|c| c.ipv6 = Some(bad.into())).is_err(), "{bad}");
        }
        for bad in ["", "a b", "a/b", "a\"b", "sixteen-letters-", "-x", "a.b"] {
            assert!(with(&|c| c.bridge = Some(bad.into())).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_read_as_they_are_written() {
        for (text, shown) in [
            ("8080:80", "8080:80/tcp"),
            ("53:5353/udp", "53:5353/udp"),
            ("192.0.2.1:1:2", "192.0.2.1:1:2/tcp"),
            ("[fd00::1]:1:2/udp", "[fd00::1]:1:2/udp"),
            ("0.0.0.0:1:2", "1:2/tcp"),
        ] {
            assert_eq!(Publish::parse(text).unwrap().to_string(), shown);
        }
        for bad in
            ["", "80", "0:80", "80:0", "65536:1", "+1:2", "1:2/sctp", "x:1:2", "::1:1:2", "1:2/"]
        {
            assert_eq!(Publish::parse(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
        assert_eq!(Publish::parse_outside("53/udp").unwrap(), (53, Some(Proto::Udp)));
        assert!(Publish::parse_outside("53:53").is_err());
    }

    #[test]
    fn one_address_meets_all_addresses() {
        let meets =
            |a: &str, b: &str| Publish::parse(a).unwrap().meets(&Publish::parse(b).unwrap());
        assert!(meets("80:1", "192.0.2.1:80:2"));
        assert!(meets("192.0.2.1:80:1", "192.0.2.1:80:2"));
        assert!(!meets("192.0.2.2:80:1", "192.0.2.1:80:2"));
        assert!(!meets("80:1", "80:1/udp"));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(
            v4 in any::<Option<[u8; 4]>>(), v6 in any::<Option<[u8; 16]>>(),
            ports in (1u16.., 1u16..), udp in any::<bool>(),
        ) {
            let address = v4.map(IpAddr::from).or(v6.map(IpAddr::from));
            let address = address.filter(|a| !a.is_unspecified());
            let proto = if udp { Proto::Udp } else { Proto::Tcp };
            let publish = Publish { address, port: ports.0, inside: ports.1, proto };
            prop_assert_eq!(Publish::parse(&publish.to_string()).unwrap(), publish);
        }

        #[test]
        fn numbers_give_addresses_of_their_own(a in 0u32..4000, b in 0u32..4000) {
            let net = net("/srv/x", &NetworkConfig::default()).unwrap();
            let (x, y) = (net.member(&wish(a), true).unwrap(), net.member(&wish(b), true).unwrap());
            prop_assert_eq!(a == b, x.ipv4 == y.ipv4);
            prop_assert_eq!(a == b, x.ipv6 == y.ipv6);
            prop_assert_eq!(a == b, x.mac == y.mac);
            prop_assert_eq!(a == b, x.device == y.device);
            prop_assert!(x.ipv4 != Some(net.gateway4()) && x.mac != net.bridge_mac());
        }
    }
}
