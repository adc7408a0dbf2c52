//! Making the host what the members' files say.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode as FileMode, OFlags};

use super::forward::{self, read, set};
use super::link::{self, Device, Links};
use super::plan::{Member, Net, Publish};
use super::tool::Loading;
use super::{Mode, Wish, names, netfilter, openings, ruled, rules, taken, tool};
use crate::error::{Context, Error, Kind, Result};
use crate::store::config::NetworkConfig;
use crate::store::lock::{self, Lock, Subject};
use crate::store::running::State;
use crate::store::{Layout, Name, atomic, journal};
use crate::sys::Named;
use crate::sys::net::Devices;

/// What a container's device is called in the container: the name that systemd-networkd knows.
const INSIDE: &str = "host0";

/// The network of one store.
#[derive(Debug)]
pub struct House<'a> {
    layout: &'a Layout,
    /// Its names and ranges.
    pub net: Net,
}

/// A container that is to be connected. As long as this is there nobody else changes the network.
#[derive(Debug)]
pub struct Admitted {
    /// What it has.
    pub member: Member,
    begun: Option<Begun>,
    lock: Lock,
    _others: Vec<Lock>,
}

/// A change of the network that is not finished.
#[derive(Debug)]
struct Begun {
    members: Vec<Member>,
    /// The rules, if they had to be loaded.
    loading: Option<Loading>,
    /// nftables' number before.
    generation: Option<u32>,
}

impl Admitted {
    /// Leaves it to the parent of this child, which has it too: no more of it is here then.
    pub fn leave_to_parent(self) {
        // What loads the rules is the parent's to wait for.
        std::mem::forget(self.begun);
        self._others.into_iter().chain([self.lock]).for_each(Lock::leave_to_other);
    }
}

impl Begun {
    fn private(&self) -> Vec<Member> {
        self.members.iter().filter(|m| m.is_private()).cloned().collect()
    }
}

/// Where the range is written down that was taken because the usual one was not free.
fn range_file(layout: &Layout) -> PathBuf {
    layout.state().join("network.json")
}

/// What there is of a network, and what is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// What is not as it should be.
    pub missing: Vec<String>,
    /// Chains of others that drop what containers send or get.
    pub closed: Vec<String>,
    /// Why there are no names.
    pub names: Option<String>,
}

impl<'a> House<'a> {
    /// The network of the store at `layout`, with the admin's settings.
    pub fn open(layout: &'a Layout, config: &NetworkConfig) -> Result<Self> {
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let chosen: Option<String> = atomic::read_json(&range_file(layout)).ok().flatten();
        Ok(Self { layout, net: Net::new(layout, config, machine.trim(), chosen.as_deref())? })
    }

    fn file(&self, name: &Name) -> PathBuf {
        self.layout.network().join(format!("{name}.json"))
    }

    /// What `name` has on the network now.
    pub fn member(&self, name: &Name) -> Option<Member> {
        atomic::read_json(&self.file(name)).ok().flatten()
    }

    /// What a container has, or would have if it started now.
    pub fn would_be(&self, wish: &Wish) -> Result<Member> {
        match self.member(&wish.name) {
            Some(member) => Ok(member),
            None => self.net.member(wish, ipv6_here()),
        }
    }

    /// Makes room for a container that is about to start: writes down what it is to have, and begins
    /// to make the bridge, the rules and its name so. The caller holds the container's lock, and calls
    /// [`leave`](Self::leave) if the start fails.
    pub fn admit(&self, wish: &Wish) -> Result<Admitted> {
        check_device(&wish.mode)?;
        let lock = lock::exclusive(self.layout, &Subject::Network)?;
        let dir = self.layout.network();
        std::fs::create_dir_all(&dir).context(|| format!("cannot make {}", dir.display()))?;
        // dnsmasq, which is nobody in particular, reads its files here.
        std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let mut others = Vec::new();
        let house = self.with_free_range(&mut others)?;
        let member = house.net.member(wish, ipv6_here())?;
        others.extend(house.ports(&member.publish)?);
        let mut members = house.members(Some(&member.name))?.0;
        members.push(member.clone());
        members.sort_by(|a, b| a.name.cmp(&b.name));
        atomic::write_json_unsynced(&house.file(&member.name), &member, 0o600)?;
        journal::step("network.admitted");
        let begun = house.begin(&lock, members).context(|| "cannot set up the network")?;
        Ok(Admitted { member, begun: Some(begun), lock, _others: others })
    }

    /// Waits until all is there that [`admit`](Self::admit) has begun; only then may the container be
    /// connected.
    pub fn complete(&self, admitted: &mut Admitted) -> Result<()> {
        let Admitted { begun, lock, .. } = admitted;
        let begun = begun.as_mut().map_or(Ok(()), |begun| self.end(lock, begun));
        begun.context(|| "cannot set up the network")?;
        journal::step("network.settled");
        Ok(())
    }

    /// Lets the next one in, and has the host know the container's name.
    pub fn announce(&self, admitted: Admitted) {
        let private = admitted.member.is_private();
        drop(admitted);
        if private {
            self.tell_host();
        }
    }

    /// This network with a range of addresses that nobody else has on this host. One that is in use
    /// stays, as does one that the admin gave; in the place of another the next free one is taken,
    /// and written down. `locks` gets what keeps another store from taking the same.
    fn with_free_range(&self, locks: &mut Vec<Lock>) -> Result<Self> {
        let mut house = Self { layout: self.layout, net: self.net.clone() };
        if link::index(&self.net.bridge).is_some() {
            return Ok(house);
        }
        locks.push(lock::exclusive(&Layout::new("/"), &Subject::Ranges)?);
        let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
        let Some(device) = clash(&routes, self.net.ipv4) else { return Ok(house) };
        let free = self.net.other_ranges().find(|range| clash(&routes, *range).is_none());
        let (first, bits) = self.net.ipv4;
        house.net.ipv4 = free.ok_or_else(|| {
            Error::new(
                Kind::State,
                format!("{first}/{bits}, which containers are to have, is the network of {device}"),
            )
            .hint("choose another range in coloc.json: \"network\": {\"ipv4\": \"10.5.0.0/20\"}")
        })?;
        let (first, bits) = house.net.ipv4;
        atomic::write_json(&range_file(self.layout), &format!("{first}/{bits}"), 0o644)?;
        Ok(house)
    }

    /// Takes the host's ports for `list`, if no other store has one of them; the rules have to be
    /// there before the lock is dropped.
    fn ports(&self, list: &[Publish]) -> Result<Option<Lock>> {
        if list.is_empty() {
            return Ok(None);
        }
        let lock = lock::exclusive(&Layout::new("/"), &Subject::Ports)?;
        taken::elsewhere(&self.net, list)?;
        Ok(Some(lock))
    }

    /// Refuses ports that lead to a container of another store.
    pub fn check_ports(&self, list: &[Publish]) -> Result<()> {
        taken::elsewhere(&self.net, list)
    }

    /// Puts a container's device into the network namespace of `pid`, with its addresses, before
    /// anything of the container runs.
    pub fn connect(&self, member: &Member, pid: i32) -> Result<()> {
        self.try_connect(member, pid).context(|| "cannot connect it to the network")
    }

    fn try_connect(&self, member: &Member, pid: i32) -> Result<()> {
        let path = format!("/proc/{pid}/ns/net");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::open(&path, flags, FileMode::empty())
            .named(|| format!("open({path:?})"))?;
        let mut host = Links::of_host()?;
        match &member.mode {
            Mode::Private { .. } => {
                let index = self.cable(&mut host, member, &self.net.bridge, &namespace)?;
                host.hairpin(index)?;
                host.up(index)?;
            }
            Mode::Bridge(bridge) => {
                let index = self.cable(&mut host, member, bridge, &namespace)?;
                host.up(index)?;
            }
            Mode::Macvlan(over) => {
                let device = Device::Macvlan { over: find(&member.mode, over)? };
                let added = host.add(&device, INSIDE, member.mac, namespace.as_fd());
                added.map_err(|e| no_device(e, "macvlan"))?;
            }
        }
        self.configure(member, &namespace)
    }

    /// A cable between the container and `bridge`; gives the number of the host's end.
    fn cable(
        &self,
        host: &mut Links,
        member: &Member,
        bridge: &str,
        namespace: &OwnedFd,
    ) -> Result<u32> {
        // Of a container that died a moment ago: the kernel takes devices apart in its own time.
        host.remove(&member.device)?;
        let device = Device::Veth {
            host: &member.device,
            bridge: link::index_of(bridge, "bridge")?,
            alias: &self.net.full_name(&member.name),
        };
        host.add(&device, INSIDE, member.mac, namespace.as_fd())
            .map_err(|e| no_device(e, "veth"))?;
        journal::step("network.connected");
        link::index(&member.device).ok_or_else(|| Error::failed("its cable has gone"))
    }

    fn configure(&self, member: &Member, namespace: &OwnedFd) -> Result<()> {
        let index = link::index_in(namespace.as_fd(), INSIDE)?;
        let mut inside = Links::of(namespace.as_fd())?;
        if let Some(address) = member.ipv4 {
            inside.address(index, address.into(), self.net.ipv4.1)?;
        }
        if let (Some(address), Some((_, bits))) = (member.ipv6, self.net.ipv6) {
            inside.address(index, address.into(), bits)?;
        }
        inside.up(index)?;
        if member.ipv4.is_some() {
            inside.default_route(index, self.net.gateway4().into())?;
        }
        if let (Some(_), Some(gateway)) = (member.ipv6, self.net.gateway6()) {
            inside.default_route(index, gateway.into())?;
        }
        Ok(())
    }

    /// Takes a container that has ended off the network; no error if it is not on it.
    pub fn leave(&self, name: &Name) -> Result<()> {
        if !self.file(name).exists() {
            return Ok(());
        }
        let lock = lock::exclusive(self.layout, &Subject::Network)?;
        self.remove(name)?;
        journal::step("network.left");
        let (members, _) = self.members(None)?;
        self.settle(&lock, members).context(|| "cannot clean up the network")?;
        drop(lock);
        self.tell_host();
        Ok(())
    }

    fn remove(&self, name: &Name) -> Result<()> {
        // The file goes last: as long as it is there, somebody comes back for the device.
        if let Some(member) = self.member(name) {
            Links::of_host()?.remove(&member.device)?;
        }
        let path = self.file(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Everybody who is on the network but `except`, by name; and how many were taken off it because
    /// they do not run any more. The caller holds the network's lock.
    fn members(&self, except: Option<&Name>) -> Result<(Vec<Member>, usize)> {
        let (mut list, mut gone) = (Vec::new(), 0);
        let devices = Devices::here()?;
        for name in self.names() {
            if Some(&name) == except {
                continue;
            }
            match self.member(&name).filter(|m| m.name == name) {
                Some(member) if self.is_there(&member, &devices)? => list.push(member),
                _ => {
                    self.remove(&name)?;
                    gone += 1;
                }
            }
        }
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((list, gone))
    }

    fn names(&self) -> Vec<Name> {
        let entries = std::fs::read_dir(self.layout.network()).into_iter().flatten().flatten();
        let name = |entry: std::fs::DirEntry| {
            let file = entry.file_name();
            Name::parse("container", file.to_str()?.strip_suffix(".json")?).ok()
        };
        entries.filter_map(name).collect()
    }

    /// Whether a member runs or is at work. Its device goes with its last process.
    fn is_there(&self, member: &Member, devices: &Devices) -> Result<bool> {
        if devices.index(&member.device).is_some() {
            return Ok(true);
        }
        if State::alive(self.layout, &member.name).is_some() {
            return Ok(true);
        }
        // Whoever starts or stops it has its lock.
        let free = lock::try_exclusive(self.layout, &Subject::Container(member.name.clone()))?;
        Ok(free.is_none())
    }

    /// Takes off the network what an earlier command, killed in the middle, has left on it.
    pub fn recover(&self) -> Result<()> {
        if !self.layout.network().exists() {
            // After a reboot nothing is left but what is on disk.
            if names::in_hosts_file(&self.net) {
                self.tell_host();
            }
            return Ok(());
        }
        let all = self.names();
        let devices = Devices::here()?;
        let off = |name: &Name| {
            self.member(name).is_none_or(|m| {
                devices.index(&m.device).is_none() && State::alive(self.layout, name).is_none()
            })
        };
        let idle = all.is_empty() && link::index(&self.net.bridge).is_some();
        if !idle && !all.iter().any(off) {
            return Ok(());
        }
        let Some(lock) = lock::try_exclusive(self.layout, &Subject::Network)? else {
            return Ok(());
        };
        let (members, gone) = self.members(None)?;
        if gone == 0 && !idle {
            return Ok(());
        }
        self.settle(&lock, members)?;
        drop(lock);
        self.tell_host();
        Ok(())
    }

    /// Everybody on the network, by name.
    pub fn all(&self) -> Vec<Member> {
        let mut list: Vec<Member> =
            self.names().iter().filter_map(|name| self.member(name)).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// Puts everything there anew, after somebody has flushed the rules for instance. Gives the
    /// number of containers on the network.
    pub fn reload(&self) -> Result<usize> {
        let lock = lock::exclusive(self.layout, &Subject::Network)?;
        let (members, _) = self.members(None)?;
        names::forget(self.layout);
        ruled::forget(self.layout);
        let count = members.len();
        self.settle(&lock, members)?;
        drop(lock);
        self.tell_host();
        Ok(count)
    }

    /// Changes which ports lead to a container that runs; the caller holds its lock.
    pub fn publish(&self, name: &Name, list: &[Publish]) -> Result<()> {
        let Some(mut member) = self.member(name) else { return Ok(()) };
        if let (false, Some(port)) = (member.is_private(), list.first()) {
            return Err(super::plan::no_ports(name, port));
        }
        let lock = lock::exclusive(self.layout, &Subject::Network)?;
        let _ports = self.ports(list)?;
        member.publish = list.to_vec();
        atomic::write_json_unsynced(&self.file(name), &member, 0o600)?;
        let (members, _) = self.members(None)?;
        self.settle(&lock, members)
    }

    /// Changes whether a container that runs has neighbours; the caller holds its lock.
    pub fn neighbours(&self, name: &Name, on: bool) -> Result<()> {
        let Some(mut member) = self.member(name) else { return Ok(()) };
        if member.mode == (Mode::Private { neighbours: !on }) {
            let lock = lock::exclusive(self.layout, &Subject::Network)?;
            member.mode = Mode::Private { neighbours: on };
            atomic::write_json_unsynced(&self.file(name), &member, 0o600)?;
            let (members, _) = self.members(None)?;
            self.settle(&lock, members)?;
        }
        Ok(())
    }

    /// Makes bridge, rules and names what `members` need, but for the host's own knowledge of names.
    /// Each part can be done again. `lock` is the network's.
    fn settle(&self, lock: &Lock, members: Vec<Member>) -> Result<()> {
        self.end(lock, &mut self.begin(lock, members)?)
    }

    /// The first part of it: what does not have to wait for the rules. Those come before devices:
    /// nothing is connected that is not guarded.
    fn begin(&self, lock: &Lock, members: Vec<Member>) -> Result<Begun> {
        let mut begun = Begun { members, loading: None, generation: None };
        let loopback6 = loopback6_works();
        if !begun.members.is_empty()
            && !ruled::follow(self.layout, &self.net, &begun.members, loopback6)
        {
            ruled::forget(self.layout);
            begun.generation = netfilter::generation();
            let text = rules::all(&self.net, &begun.members, loopback6);
            begun.loading = Some(Loading::begin(lock, &text)?);
        }
        let private = begun.private();
        if private.is_empty() {
            begun.loading.take().map_or(Ok(()), Loading::end)?;
            journal::step("network.ruled");
            self.close(lock, begun.members.is_empty())?;
            return Ok(begun);
        }
        self.bridge()?;
        names::update(self.layout, &self.net, &private)?;
        Ok(begun)
    }

    /// The second part: returns when the rules are there.
    fn end(&self, lock: &Lock, begun: &mut Begun) -> Result<()> {
        let Some(loading) = begun.loading.take() else { return Ok(()) };
        loading.end()?;
        journal::step("network.ruled");
        let changes = 1 + openings::open(lock, &self.net)?;
        let expected = begun.generation.map(|number| number.wrapping_add(changes));
        ruled::remember(self.layout, &self.net, &begun.members, loopback6_works(), expected)
    }

    fn tell_host(&self) {
        let private = || self.all().into_iter().filter(Member::is_private).collect();
        names::tell_host(&self.net, private);
    }

    /// Takes away what only private members need, and with `all` the rest.
    fn close(&self, lock: &Lock, all: bool) -> Result<()> {
        names::end(self.layout, &self.net);
        ruled::forget(self.layout);
        if !tool::there("nft") {
            return Ok(());
        }
        let bridge = self.is_our_bridge();
        if bridge {
            openings::close(lock, &self.net)?;
        }
        forward::off(self.layout, &self.net.table)?;
        if all {
            tool::nft_load(lock, &rules::none(&self.net.table))?;
        }
        // Last: as long as it is there without a member, somebody comes back for the rest.
        if bridge {
            Links::of_host()?.remove(&self.net.bridge)?;
        }
        Ok(())
    }

    fn is_our_bridge(&self) -> bool {
        let found = Links::of_host().ok().and_then(|mut links| links.look(&self.net.bridge));
        found.is_some_and(|f| f.bridge && f.mac == self.net.bridge_mac().0)
    }

    fn bridge(&self) -> Result<()> {
        let Net { bridge, ipv4: (_, bits), .. } = &self.net;
        let mut host = Links::of_host()?;
        let made = host.add_bridge(bridge, self.net.bridge_mac())?;
        if !made && !self.is_our_bridge() {
            return Err(Error::new(
                Kind::State,
                format!("there is a device {bridge}, and coloc did not make it"),
            )
            .hint("choose another name in coloc.json: \"network\": {\"bridge\": \"NAME\"}"));
        }
        let index = link::index_of(bridge, "bridge")?;
        self.kernel_settings()?;
        host.address(index, self.net.gateway4().into(), *bits)?;
        host.up(index)?;
        if let (Some((_, bits)), Some(gateway), true) =
            (self.net.ipv6, self.net.gateway6(), ipv6_here())
        {
            host.address(index, IpAddr::from(gateway), bits)?;
            host.loopback_route(index)?;
        }
        Ok(())
    }

    /// Settings of the kernel's: packets are passed on, and what a container sends changes no
    /// setting of the host's.
    fn kernel_settings(&self) -> Result<()> {
        let own = |family: &str, key: &str| format!("{family}/conf/{}/{key}", self.net.bridge);
        // For published ports on the loopback; our rules keep everybody else off it.
        set(&own("ipv4", "route_localnet"), "1")?;
        set(&own("ipv4", "send_redirects"), "0")?;
        let six = self.net.ipv6.is_some() && ipv6_here();
        forward::on(self.layout, six)?;
        if !six {
            return Ok(());
        }
        set(&own("ipv6", "disable_ipv6"), "0")?;
        set(&own("ipv6", "accept_ra"), "0")
    }

    /// resolv.conf of a container; `bridged` tells whether it is on coloc's own bridge.
    pub fn resolv_conf(&self, bridged: bool) -> String {
        match bridged {
            true => names::resolv_conf(self.layout, &self.net),
            false => names::reachable_resolvers(),
        }
    }

    /// What systemd-networkd inside has to know, so that it leaves the device as it is.
    pub fn networkd(&self, member: &Member) -> String {
        let mut text = format!(
            "# Made by coloc: what the host has set up.\n[Match]\nName={INSIDE}\n\n[Network]\n\
             DHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=ipv6\nKeepConfiguration=yes\n"
        );
        let (bits4, bits6) = (self.net.ipv4.1, self.net.ipv6.map_or(64, |(_, bits)| bits));
        for address in member.addresses() {
            let (bits, gateway) = match address {
                IpAddr::V4(_) => (bits4, Some(self.net.gateway4().into())),
                IpAddr::V6(_) => (bits6, self.net.gateway6().map(IpAddr::from)),
            };
            text.push_str(&format!("Address={address}/{bits}\n"));
            if let Some(gateway) = gateway {
                text.push_str(&format!("Gateway={gateway}\n"));
            }
        }
        text
    }

    /// Looks whether all that `member` needs is there.
    pub fn look(&self, member: &Member) -> Result<Look> {
        let mut found = Look::default();
        if !matches!(member.mode, Mode::Macvlan(_)) && link::index(&member.device).is_none() {
            found.missing.push(format!("its device {}", member.device));
        }
        for family in ["inet", "bridge"] {
            if tool::nft_list(&["table", family, &self.net.table]).is_err() {
                found.missing.push(format!("the nftables table {family} {}", self.net.table));
            }
        }
        if member.is_private() {
            let chains = openings::look(&self.net)?.into_iter();
            let shut = chains.filter(|(c, ours)| !openings::is_open(c, &self.net, ours.len()));
            found.closed = shut.filter(|(c, _)| c.drops).map(|(c, _)| c.words()).collect();
            found.names = names::trouble(self.layout);
        }
        Ok(found)
    }
}

/// Whether nftables is there to be asked.
pub fn has_nft() -> bool {
    tool::there("nft")
}

/// Whether dnsmasq is there to be started.
pub fn has_dnsmasq() -> bool {
    tool::there("dnsmasq")
}

fn no_device(e: std::io::Error, kind: &str) -> Error {
    match e.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::EINVAL) => {
            Error::new(Kind::Unsupported, format!("the kernel makes no device of kind {kind} here"))
                .hint(format!("load its module: modprobe {kind}"))
        }
        Some(libc::EBUSY) => in_use("the device"),
        _ => e.into(),
    }
}

/// The number of the admin's bridge or device, if it is one that can be used so.
fn find(mode: &Mode, name: &str) -> Result<u32> {
    let bridge = matches!(mode, Mode::Bridge(_));
    let index = link::index_of(name, if bridge { "bridge" } else { "device" })?;
    let Some(found) = Links::of_host()?.look(name) else { return Ok(index) };
    if bridge && !found.bridge {
        return Err(Error::new(Kind::Usage, format!("{name} is no bridge"))
            .hint("bridge link shows bridges; for another device: network=macvlan=NAME"));
    }
    if !bridge && found.part {
        return Err(in_use(name));
    }
    if !bridge && !found.ethernet {
        return Err(Error::new(Kind::Usage, format!("{name} is no Ethernet device"))
            .hint("ip link shows those that are, as link/ether"));
    }
    Ok(index)
}

fn in_use(name: &str) -> Error {
    Error::new(Kind::State, format!("{name} is part of a bridge, or of another device, already"))
        .hint("connect the container to that bridge: network=bridge=NAME")
}

/// Refuses a mode that names a device which is not there, or cannot be used so.
pub fn check_device(mode: &Mode) -> Result<()> {
    match mode {
        Mode::Private { .. } => Ok(()),
        Mode::Bridge(name) | Mode::Macvlan(name) => find(mode, name).map(drop),
    }
}

/// Whether this host speaks IPv6.
fn ipv6_here() -> bool {
    Path::new("/proc/net/if_inet6").exists() && read("ipv6/conf/all/disable_ipv6") == "0"
}

/// Whether a published port can be reached by ::1. Where packets of a bridge pass the rules of routed
/// ones, the answer has that address before the kernel looks whether it came from outside.
fn loopback6_works() -> bool {
    let text = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-ip6tables");
    text.unwrap_or_default().trim() != "1"
}

/// The device whose network `range` would cut into, by /proc/net/route: one that is on the same
/// cable, or any route to a part of the range.
fn clash(routes: &str, (first, bits): (Ipv4Addr, u8)) -> Option<String> {
    let mask_of = |bits: u32| u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    let ours = mask_of(u32::from(bits));
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |n: usize| u32::from_str_radix(fields.get(n)?, 16).ok().map(u32::from_be);
        let (to, gateway, mask) = (number(1)?, number(2)?, number(7)?);
        let meets = (to ^ u32::from(first)) & mask & ours == 0;
        let counts = mask != 0 && (gateway == 0 || mask & ours == ours);
        (meets && counts).then(|| fields[0].to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_is_there_is_seen() {
        // Destination and mask are in network order, written as the machine reads them.
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n\
            eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
            vpn0\t0000000A\t01FE000A\t0003\t0\t0\t0\t000000FF\n\
            vpn0\t0020050A\t01FE000A\t0003\t0\t0\t0\t00F0FFFF\n";
        let clash = |range: &str, bits| clash(text, (range.parse().unwrap(), bits));
        if cfg!(target_endian = "little") {
            assert_eq!(clash("192.0.2.0", 28).as_deref(), Some("eth0"));
            assert_eq!(clash("192.0.0.0", 16).as_deref(), Some("eth0"));
            assert_eq!(clash("10.5.32.0", 20).as_deref(), Some("vpn0"));
            assert_eq!(clash("10.6.0.0", 20), None, "a route to all of 10/8 is for the rest of it");
            assert_eq!(clash("172.16.0.0", 20), None);
        }
    }
}
