//! Ports on which programs of the host listen: a published one would take what is theirs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::plan::{Proto, Publish};

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
