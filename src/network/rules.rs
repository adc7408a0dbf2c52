//! The rules of nftables that a store's containers need, as one text for `nft -f`. Pure.
//!
//! Two tables, each named as the store: `inet` for what is routed, `bridge` for what passes
//! from port to port. Loading the text replaces both at once, or fails and changes nothing.

use std::fmt::Write;
use std::net::IpAddr;

use super::plan::{Member, Net, Publish};
use super::sets::{self, Family};

/// Set on packets that a published port sends from one container to another. Where the kernel has
/// packets of a bridge pass the rules of routed ones (br_netfilter, which Docker switches on), such
/// a packet never leaves the bridge, and the `bridge` table could not tell it from any other.
/// Nobody inside can set it: a mark does not pass from one network namespace to another.
const SENT_BACK: &str = "0x00c01000";

/// How many connections that a container began the host keeps in mind; it has one table for all, of
/// 262144 or less, and with it full nobody gets a new one.
const FLOWS: u32 = 16384;

/// Text that removes both tables, whether they are there or not.
pub(super) fn none(table: &str) -> String {
    let mut text = String::new();
    for family in ["inet", "bridge"] {
        // `add` first: to delete what is not there is an error.
        let _ = writeln!(text, "add table {family} {table}\ndelete table {family} {table}");
    }
    text
}

/// Text that puts both tables there with what `members` have; `loopback6` tells whether ports can
/// lead there from ::1. If not, who asks there is refused at once and asks 127.0.0.1.
pub(super) fn all(net: &Net, members: &[Member], loopback6: bool) -> String {
    let mut text = none(&net.table);
    text.push_str(&routed(net, members, loopback6));
    text.push_str(&bridged(net, members));
    text
}

/// The sets of one table, a line for each.
fn declared(members: &[Member], family: Family) -> String {
    sets::of(members)
        .iter()
        .filter(|set| set.family == family)
        .fold(String::new(), |text, set| format!("{text}  {set}\n"))
}

/// One line that sends a port of the host's to a container.
fn sent(publish: &Publish, to: IpAddr) -> Option<String> {
    let (family, address) = match to {
        IpAddr::V4(a) => ("ip", a.to_string()),
        IpAddr::V6(a) => ("ip6", format!("[{a}]")),
    };
    let at = match publish.address {
        Some(at) if at.is_ipv4() != to.is_ipv4() => return None,
        Some(at) => format!("{family} daddr {at} "),
        None => String::new(),
    };
    let (proto, port, inside) = (publish.proto.word(), publish.port, publish.inside);
    Some(format!(
        "meta nfproto {} {at}{proto} dport {port} dnat {family} to {address}:{inside}",
        if to.is_ipv4() { "ipv4" } else { "ipv6" },
    ))
}

fn published(net: &Net, members: &[Member]) -> String {
    let mut text = String::new();
    for member in members {
        for publish in &member.publish {
            for line in member.addresses().into_iter().filter_map(|to| sent(publish, to)) {
                let _ = writeln!(text, "    {line} comment \"{}\"", net.name_of(&member.name));
            }
        }
    }
    text
}

fn routed(net: &Net, members: &[Member], loopback6: bool) -> String {
    let Net { table, bridge, .. } = net;
    let (first4, bits4) = net.ipv4;
    let masquerade6 = net.ipv6.map_or(String::new(), |(first, bits)| {
        format!(
            "    ip6 saddr ::1 oifname \"{bridge}\" masquerade\n    \
             ip6 saddr {first}/{bits} ip6 daddr {first}/{bits} ct status dnat masquerade\n    \
             ip6 saddr {first}/{bits} oifname != \"{bridge}\" masquerade\n"
        )
    });
    format!(
        "table inet {table} {{
{sets}  set flows4 {{ type ipv4_addr; size 65536; flags dynamic; }}
  set flows6 {{ type ipv6_addr; size 65536; flags dynamic; }}
  chain published {{
{published}  }}
  chain arriving {{
    type nat hook prerouting priority -100; policy accept;
    fib daddr type local jump published
  }}
  chain leaving {{
    type nat hook output priority -100; policy accept;
{not_six}    fib daddr type local jump published
  }}
  # Who comes by a published port from the loopback or from beside it is answered by way of the host.
  chain hidden {{
    type nat hook postrouting priority 100; policy accept;
    ip saddr 127.0.0.0/8 oifname \"{bridge}\" masquerade
    ip saddr {first4}/{bits4} ip daddr {first4}/{bits4} ct status dnat masquerade
    ip saddr {first4}/{bits4} oifname != \"{bridge}\" masquerade
{masquerade6}  }}
  # The bridge may route the loopback's addresses, for published ports; nobody else may send to them.
  chain early {{
    type filter hook prerouting priority -300; policy accept;
    iifname \"{bridge}\" ip daddr 127.0.0.0/8 drop
  }}
  # Once the kernel has told new connections from others, and before it keeps them in mind.
  chain few {{
    type filter hook prerouting priority -150; policy accept;
    iifname \"{bridge}\" ct state new add @flows4 {{ ip saddr ct count over {FLOWS} }} drop
    iifname \"{bridge}\" ct state new add @flows6 {{ ip6 saddr ct count over {FLOWS} }} drop
  }}
  chain marking {{
    type filter hook prerouting priority -90; policy accept;
    iifname \"{bridge}\" ct status dnat meta mark set meta mark | {SENT_BACK}
  }}
  chain passing {{
    type filter hook forward priority 0; policy accept;
    iifname != \"{bridge}\" oifname != \"{bridge}\" accept
    ct state established,related accept
    ct status dnat accept
    iifname \"{bridge}\" oifname != \"{bridge}\" accept
    iifname \"{bridge}\" ip saddr @neighbours4 ip daddr @neighbours4 accept
    iifname \"{bridge}\" ip6 saddr @neighbours6 ip6 daddr @neighbours6 accept
    drop
  }}
}}
",
        sets = declared(members, Family::Inet),
        published = published(net, members),
        not_six = if loopback6 { "" } else { "    ip6 daddr ::1 return\n" },
    )
}

/// What a container sends has its own addresses in it, and goes to the host, or to a neighbour
/// if both are to have neighbours.
fn bridged(net: &Net, members: &[Member]) -> String {
    let table = &net.table;
    format!(
        "table bridge {table} {{
{sets}  chain arriving {{
    type filter hook prerouting priority -300; policy accept;
    iifname @ports iifname . ether saddr != @mac drop
    iifname @private jump own
  }}
  chain own {{
    ether type ip iifname . ip saddr != @ipv4 drop
    ether type arp iifname . arp saddr ether != @mac drop
    ether type arp arp saddr ip 0.0.0.0 accept
    ether type arp iifname . arp saddr ip != @ipv4 drop
    ether type ip6 icmpv6 type {{ nd-router-advert, nd-redirect }} drop
    icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @target drop
    ether type ip6 ip6 saddr :: meta l4proto ipv6-icmp accept
    ether type ip6 iifname . ip6 saddr != @ipv6 drop
    ether type {{ ip, arp, ip6 }} accept
    drop
  }}
  chain passing {{
    type filter hook forward priority -200; policy accept;
    meta mark & {SENT_BACK} == {SENT_BACK} accept
    iifname . oifname @same drop
    iifname @neighbours oifname @neighbours accept
    iifname @private drop
    oifname @private drop
  }}
}}
",
        sets = declared(members, Family::Bridge),
    )
}
