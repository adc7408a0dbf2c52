//! Network devices, by rtnetlink(7): a few requests, each answered by the kernel at once.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, MacVlanMode,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::plan::Mac;
use crate::error::{Context, Error, Kind, Result};
use crate::sys;
use crate::sys::net::Devices;

/// For how long a network namespace may go on after its last process.
const TAKEN_APART: Duration = Duration::from_secs(10);

/// The devices of one network namespace.
pub(super) struct Links {
    socket: Socket,
    sequence: u32,
}

/// What there is to know of a device of the host's.
pub(super) struct Found {
    /// Its hardware address.
    pub(super) mac: Vec<u8>,
    /// Whether it is a bridge.
    pub(super) bridge: bool,
    /// Whether it is a port of a bridge, or part of another device.
    pub(super) part: bool,
    /// Whether frames of Ethernet go out by it.
    pub(super) ethernet: bool,
}

/// What a container's device is made of.
pub(super) enum Device<'a> {
    /// One end of a cable, whose other end stays with the host and is a port of a bridge.
    Veth {
        /// The host's end.
        host: &'a str,
        /// The bridge's number.
        bridge: u32,
        /// What the host's end is for, for people: `ip link` shows it.
        alias: &'a str,
    },
    /// A device of its own on top of one of the host's.
    Macvlan {
        /// The number of the host's device.
        over: u32,
    },
}

impl Links {
    /// Those of the host.
    pub(super) fn of_host() -> Result<Self> {
        Self::new().context(|| "cannot open a netlink socket")
    }

    /// Those of another network namespace. A socket belongs to the namespace it was made in, so
    /// this process is there only while it makes one.
    pub(super) fn of(namespace: BorrowedFd<'_>) -> Result<Self> {
        sys::net::in_namespace(namespace, Self::new)?.context(|| "cannot open a netlink socket")
    }

    fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one request and waits for the kernel's word on it.
    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, flags | NLM_F_ACK).map(drop)
    }

    /// Sends one request and gives what the kernel tells, if it tells more than that it is done.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
                .map_err(|e| io::Error::other(e.to_string()))?;
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            match answer.payload {
                NetlinkPayload::Error(e) if e.code.is_none() => return Ok(None),
                NetlinkPayload::Error(e) => return Err(e.to_io()),
                NetlinkPayload::InnerMessage(told) => return Ok(Some(told)),
                _ => {}
            }
        }
    }

    /// What there is to know of the device `name`; None if there is no such device.
    pub(super) fn look(&mut self, name: &str) -> Option<Found> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.into())];
        let told = self.exchange(RouteNetlinkMessage::GetLink(link), 0).ok()??;
        let RouteNetlinkMessage::NewLink(link) = told else { return None };
        let ethernet = link.header.link_layer_type == LinkLayerType::Ether;
        let mut found = Found { mac: Vec::new(), bridge: false, part: false, ethernet };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::Address(address) => found.mac = address,
                LinkAttribute::Controller(_) => found.part = true,
                LinkAttribute::LinkInfo(info) => {
                    found.bridge = info.contains(&LinkInfo::Kind(InfoKind::Bridge));
                }
                _ => {}
            }
        }
        Some(found)
    }

    fn new_link(&mut self, message: LinkMessage) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes the bridge `name`; false if there is one.
    pub(super) fn add_bridge(&mut self, name: &str, mac: Mac) -> Result<bool> {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        match self.new_link(link) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(e) => Err(e).context(|| format!("cannot make the bridge {name}")),
        }
    }

    /// Brings a device up. The address of a macvlan is taken until the kernel has taken apart the
    /// network namespace of the container's last run, in its own time.
    pub(super) fn up(&mut self, index: u32) -> Result<()> {
        let begun = Instant::now();
        loop {
            let mut link = LinkMessage::default();
            link.header.index = index;
            link.header.flags = LinkFlags::Up;
            link.header.change_mask = LinkFlags::Up;
            match self.ask(RouteNetlinkMessage::SetLink(link), 0) {
                Err(e)
                    if e.raw_os_error() == Some(libc::EADDRINUSE)
                        && begun.elapsed() < TAKEN_APART =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                other => return other.context(|| "cannot bring a device up"),
            }
        }
    }

    /// Makes a container's device in `namespace`, where it is called `inside`.
    pub(super) fn add(
        &mut self,
        device: &Device<'_>,
        inside: &str,
        mac: Mac,
        namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let there = |attributes: Vec<LinkAttribute>| {
            let mut link = LinkMessage::default();
            link.attributes = vec![
                LinkAttribute::IfName(inside.into()),
                LinkAttribute::Address(mac.0.to_vec()),
                LinkAttribute::NetNsFd(namespace.as_raw_fd()),
            ];
            link.attributes.extend(attributes);
            link
        };
        match device {
            Device::Veth { host, bridge, alias } => {
                let mut link = LinkMessage::default();
                link.attributes = vec![
                    LinkAttribute::IfName((*host).into()),
                    LinkAttribute::IfAlias((*alias).into()),
                    LinkAttribute::Controller(*bridge),
                    LinkAttribute::LinkInfo(vec![
                        LinkInfo::Kind(InfoKind::Veth),
                        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(there(Vec::new())))),
                    ]),
                ];
                self.new_link(link)
            }
            Device::Macvlan { over } => self.new_link(there(vec![
                LinkAttribute::Link(*over),
                LinkAttribute::LinkInfo(vec![
                    LinkInfo::Kind(InfoKind::MacVlan),
                    LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)])),
                ]),
            ])),
        }
    }

    /// Has a port of a bridge get back what it sent, if a published port leads to where it came from.
    pub(super) fn hairpin(&mut self, index: u32) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ])];
        self.ask(RouteNetlinkMessage::NewLink(link), 0).context(|| "cannot set up a bridge's port")
    }

    /// Removes a device, and the other end of its cable; no error if it is not there.
    pub(super) fn remove(&mut self, name: &str) -> Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.into())];
        match self.ask(RouteNetlinkMessage::DelLink(link), 0) {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other.context(|| format!("cannot remove the device {name}")),
        }
    }

    /// Gives a device an address; no error if it has it. Nobody else can have it, so IPv6 need not
    /// look for a second before it is used.
    pub(super) fn address(&mut self, index: u32, address: IpAddr, bits: u8) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = bits;
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes =
            vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        if let IpAddr::V4(v4) = address {
            let host_part = u32::MAX.checked_shr(u32::from(bits)).unwrap_or(0);
            let all = std::net::Ipv4Addr::from(u32::from(v4) | host_part);
            message.attributes.push(AddressAttribute::Broadcast(all));
        }
        self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
            .context(|| format!("cannot set the address {address}"))
    }

    /// The route to everywhere.
    pub(super) fn default_route(&mut self, index: u32, gateway: IpAddr) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(gateway),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Boot,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        let via = match gateway {
            IpAddr::V4(a) => RouteAddress::Inet(a),
            IpAddr::V6(a) => RouteAddress::Inet6(a),
        };
        message.attributes = vec![RouteAttribute::Gateway(via), RouteAttribute::Oif(index)];
        self.ask(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            .context(|| format!("cannot set the route by {gateway}"))
    }

    /// Has answers for the host's own ::1 be taken from the device too: the kernel's route for it
    /// counts for `lo` alone. What comes from outside with that address is dropped before.
    pub(super) fn loopback_route(&mut self, index: u32) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: AddressFamily::Inet6,
            destination_prefix_length: 128,
            table: libc::RT_TABLE_LOCAL,
            protocol: RouteProtocol::Boot,
            scope: RouteScope::Universe,
            kind: RouteType::Local,
            ..RouteHeader::default()
        };
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet6(std::net::Ipv6Addr::LOCALHOST)),
            RouteAttribute::Oif(index),
            // After the kernel's own, by which the host reaches itself.
            RouteAttribute::Priority(4096),
        ];
        self.ask(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            .context(|| "cannot set the route for ::1")
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The number of the host's device `name`; None if there is none.
pub(super) fn index(name: &str) -> Option<u32> {
    Devices::here().ok()?.index(name)
}

/// The number of a device of the host's that the admin named.
pub(super) fn index_of(name: &str, what: &str) -> Result<u32> {
    index(name).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("this host has no {what} {name}"))
            .hint("ip link shows the devices there are")
    })
}

/// The number of `name` in the namespace whose `links` these are.
pub(super) fn index_in(namespace: BorrowedFd<'_>, name: &str) -> Result<u32> {
    let found = sys::net::in_namespace(namespace.as_fd(), || index(name))?;
    found.ok_or_else(|| Error::failed(format!("the device {name} is not in the container")))
}
