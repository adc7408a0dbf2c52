//! Ports that are somebody else's: programs of the host listen on them, or they lead to containers of
//! another store. A published one would take what is theirs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::plan::{Net, Proto, Publish};
use super::tool;
use crate::error::{Error, Kind, Result};

/// Refuses ports that lead to a container of another store, by the rules that the kernel has:
/// wherever that store is, they are what counts.
pub(super) fn elsewhere(net: &Net, wanted: &[Publish]) -> Result<()> {
    if wanted.is_empty() || !tool::there("nft") {
        return Ok(());
    }
    for table in tables(&tool::nft_list(&["tables"])?, net) {
        // It may go this moment, with that store's last container.
        let Ok(rules) = tool::nft_list(&["chain", "inet", &table, "published"]) else { continue };
        for (theirs, whose) in rules.iter().filter_map(led) {
            if let Some(port) = wanted.iter().find(|p| p.meets(&theirs)) {
                return Err(Error::new(
                    Kind::State,
                    format!("port {} of the host leads to {whose}", port.port),
                )
                .hint(
                    "choose another port, or --address; or unpublish it there, by coloc --root",
                ));
            }
        }
    }
    Ok(())
}

/// The tables of other stores.
fn tables(list: &[Value], net: &Net) -> Vec<String> {
    let table = |v: &Value| {
        let (family, name) = (v["table"]["family"].as_str()?, v["table"]["name"].as_str()?);
        let ours = name == "coloc" || name.starts_with("coloc-");
        (family == "inet" && ours && name != net.table).then(|| name.to_string())
    };
    list.iter().filter_map(table).collect()
}

/// Which port a rule leads away, and whose it is.
fn led(rule: &Value) -> Option<(Publish, String)> {
    let parts = rule["rule"]["expr"].as_array()?;
    let find = |field: &str| {
        let of = |part: &&Value| part["match"]["left"]["payload"]["field"] == field;
        parts.iter().find(of).map(|part| &part["match"])
    };
    let port = find("dport")?;
    let proto = match port["left"]["payload"]["protocol"].as_str()? {
        "udp" => Proto::Udp,
        _ => Proto::Tcp,
    };
    let address = find("daddr").and_then(|m| m["right"].as_str()?.parse().ok());
    let inside = parts.iter().find_map(|part| part["dnat"]["port"].as_u64())?;
    let number = |n: u64| u16::try_from(n).ok();
    let publish =
        Publish { address, port: number(port["right"].as_u64()?)?, inside: number(inside)?, proto };
    let whose = rule["rule"]["comment"].as_str().unwrap_or("a container of another store");
    Some((publish, whose.to_string()))
}

/// Whether a program of the host's listens where `publish` would lead away.
pub fn listening(publish: &Publish) -> bool {
    let files = match publish.proto {
        Proto::Tcp => ["tcp", "tcp6"],
        Proto::Udp => ["udp", "udp6"],
    };
    let read = |file: &str| std::fs::read_to_string(format!("/proc/net/{file}"));
    files.iter().any(|file| read(file).is_ok_and(|text| listens(&text, publish)))
}

/// The same by the text of /proc/net/tcp and its like.
fn listens(text: &str, publish: &Publish) -> bool {
    text.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (Some(local), Some(remote)) = (words.next(), words.next()) else { return false };
        // A socket that waits for others has no other end.
        let waits = remote.rsplit(':').next() == Some("0000");
        let state = if publish.proto == Proto::Tcp { "0A" } else { "07" };
        let Some((address, port)) = end(local) else { return false };
        let same = match publish.address {
            Some(wanted) => address == wanted || address.is_unspecified(),
            None => true,
        };
        waits && words.next() == Some(state) && port == publish.port && same
    })
}

/// `0100007F:0016`: words of the machine's own order, then the port.
fn end(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let word = |n: usize| {
        let digits = address.get(n * 8..n * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            let v6 = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
        }
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_of_other_stores_are_read_from_the_kernels_rules() {
        let at = |protocol: &str, field: &str, right: Value| json!({"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}});
        let rule = |parts: Vec<Value>| json!({"rule": {"comment": "a of /srv/b", "expr": parts}});
        let to = json!({"dnat": {"family": "ip", "addr": "192.0.2.9", "port": 80}});
        let all = rule(vec![at("tcp", "dport", json!(8080)), to.clone()]);
        let one =
            rule(vec![at("ip6", "daddr", json!("fd00::1")), at("udp", "dport", json!(53)), to]);
        let read = |rule: &Value| led(rule).map(|(p, whose)| format!("{p} {whose}"));
        assert_eq!(read(&all).unwrap(), "8080:80/tcp a of /srv/b");
        assert_eq!(read(&one).unwrap(), "[fd00::1]:53:80/udp a of /srv/b");
        assert_eq!(read(&json!({"chain": {}})), None);
        assert_eq!(read(&rule(vec![at("tcp", "dport", json!(70000))])), None);
    }

    #[test]
    fn listeners_are_told_from_connections() {
        let head = "  sl  local_address rem_address   st\n";
        let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
        let line = |port: u16, other: &str, state: &str| {
            format!("{head}   0: {loopback:08X}:{port:04X} {other} {state} 00000000:00000000\n")
        };
        let p = |text: &str| Publish::parse(text).unwrap();
        let waits = line(22, "00000000:0000", "0A");
        assert!(listens(&waits, &p("22:1")) && listens(&waits, &p("127.0.0.1:22:1")));
        assert!(!listens(&waits, &p("192.0.2.1:22:1")) && !listens(&waits, &p("23:1")));
        assert!(!listens(&waits, &p("22:1/udp")));
        assert!(!listens(&line(22, "0100007F:0050", "01"), &p("22:1")));
        let six = format!("{head}  0: {}:0016 {}:0000 0A x\n", "0".repeat(32), "0".repeat(32));
        assert!(listens(&six, &p("192.0.2.1:22:1")), "one for all addresses of both kinds");
        assert!(!listens("junk\n\n x", &p("22:1")));
    }
}
