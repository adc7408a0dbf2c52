//! What lists of settings are made of: published ports, mounts, rates; devices are in `device`. Each reads its
//! text and prints it again in one way.

use std::fmt;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use super::value::{size, whole};

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// tcp(7)
    Tcp,
    /// udp(7)
    Udp,
}

impl Protocol {
    /// The word of the setting.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the host's that leads into the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    /// The host's address; every one by default.
    pub address: Option<IpAddr>,
    /// The port on the host.
    pub host: u16,
    /// The port inside.
    pub inside: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl Publish {
    /// Reads `[ADDRESS:]PORT:PORT[/tcp|udp]`; an IPv6 address is in brackets.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(format!("{other:?} is neither tcp nor udp")),
        };
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port > 0 && whole(text).is_some() => Ok(port),
            _ => Err(format!("{text:?} is no port from 1 to 65535")),
        };
        let (rest, inside) = ports.rsplit_once(':').ok_or("a second port is missing")?;
        let (address, host) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((address, host)) => {
                let inner = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                let known = match inner {
                    Some(six) => six.parse().ok().filter(IpAddr::is_ipv6),
                    None => address.parse().ok().filter(IpAddr::is_ipv4),
                };
                (Some(known.ok_or_else(|| format!("{address:?} is no address"))?), host)
            }
        };
        Ok(Self { address, host: port(host)?, inside: port(inside)?, protocol })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V4(a)) => write!(f, "{a}:")?,
            Some(IpAddr::V6(a)) => write!(f, "[{a}]:")?,
            None => {}
        }
        write!(f, "{}:{}/{}", self.host, self.inside, self.protocol.word())
    }
}

/// How the ids on a mounted file system are seen inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountIds {
    /// Those of the host, all of which are nobody's inside.
    Host,
    /// As the container's ids with the same numbers.
    Container,
    /// One id of the host's, of user and group alike, as one inside; all others are nobody's.
    One {
        /// The host's.
        host: u32,
        /// The one inside.
        inside: u32,
    },
}

/// A directory or file of the host's that is mounted inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// On the host.
    pub source: PathBuf,
    /// Inside.
    pub target: PathBuf,
    /// Whether nothing can be written through it.
    pub read_only: bool,
    /// Whether no program on it can be executed.
    pub no_exec: bool,
    /// Whose files are seen as whose.
    pub ids: MountIds,
}

/// What a mount of a profile's must not cover, nor lie in: what coloc mounts, and what tells the
/// kernel what to do.
const OWN: [&str; 5] = ["/usr", "/proc", "/sys", "/dev", "/run/host"];

/// What of the host's is never handed into a container: with it root inside is not confined.
const NEVER: [&str; 3] = ["/proc", "/sys", "/dev"];

impl MountPoint {
    /// Reads `SOURCE:TARGET[:OPTION,…]`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':');
        let source = plain(parts.next().unwrap_or_default())?;
        let target = plain(parts.next().ok_or("the place inside is missing")?)?;
        if source == Path::new("/") || NEVER.iter().any(|p| source.starts_with(p)) {
            return Err(format!("{} of the host is not for containers", source.display()));
        }
        let covers = |own: &&&str| target.starts_with(own) || Path::new(own).starts_with(&target);
        if let Some(own) = OWN.iter().find(covers) {
            return Err(format!("{} inside is in the way of {own}", target.display()));
        }
        let mut mount =
            Self { source, target, read_only: false, no_exec: false, ids: MountIds::Host };
        for option in parts.next().into_iter().flat_map(|o| o.split(',')) {
            match option.split_once('=').unwrap_or((option, "")) {
                ("ro", "") => mount.read_only = true,
                ("rw", "") => mount.read_only = false,
                ("noexec", "") => mount.no_exec = true,
                ("idmap", "") if option == "idmap" => mount.ids = MountIds::Container,
                ("idmap", pair) => mount.ids = one_id(pair)?,
                _ => return Err(format!("{option:?} is no option of a mount")),
            }
        }
        Ok(mount)
    }
}

fn one_id(pair: &str) -> Result<MountIds, String> {
    let id = |text: &str| whole(text).and_then(|n| u32::try_from(n).ok());
    let ids = pair.split_once(':').and_then(|(a, b)| Some((id(a)?, id(b)?)));
    match ids {
        Some((0, _)) => Err("root's files of the host are nobody's to have".into()),
        Some((host, inside)) if inside < 65536 => Ok(MountIds::One { host, inside }),
        _ => Err(format!("{pair:?} is no pair of ids, the host's and the one inside")),
    }
}

impl fmt::Display for MountPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.read_only { "ro" } else { "rw" };
        write!(f, "{}:{}:{access}", self.source.display(), self.target.display())?;
        if self.no_exec {
            f.write_str(",noexec")?;
        }
        match self.ids {
            MountIds::Host => Ok(()),
            MountIds::Container => f.write_str(",idmap"),
            MountIds::One { host, inside } => write!(f, ",idmap={host}:{inside}"),
        }
    }
}

/// An absolute path of plain words, without a colon or comma, which lists need.
pub(super) fn plain(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let words = path.components().skip(1).all(|c| matches!(c, Component::Normal(_)));
    let clean = !text.contains([',', ':', ' ', '\0', '\n']);
    if path.is_absolute() && words && clean && !text.contains("/./") && !text.ends_with("/.") {
        // Components, so that two slashes and one are the same.
        return Ok(path.components().collect());
    }
    Err(format!("{text:?} is no absolute path of plain words"))
}

/// A limit on what goes to or comes from a disk in a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// The disk: a path below /dev, or `MAJOR:MINOR`.
    pub device: String,
    /// Bytes or operations.
    pub most: u64,
}

impl Rate {
    /// Reads `DEVICE:RATE`, in bytes with a unit or in operations.
    pub fn parse(text: &str, bytes: bool) -> Result<Self, String> {
        let (device, most) = text.rsplit_once(':').ok_or("a colon and the rate are missing")?;
        let numbers = |t: &str| t.split_once(':').and_then(|(a, b)| Some((whole(a)?, whole(b)?)));
        let device = match device.starts_with('/') {
            true => {
                let path = plain(device)?;
                if !path.starts_with("/dev/") {
                    return Err(format!("{device} is not below /dev"));
                }
                path.display().to_string()
            }
            false if numbers(device).is_some() => device.to_string(),
            false => return Err(format!("{device:?} is neither below /dev nor MAJOR:MINOR")),
        };
        let number = if bytes { size(most) } else { whole(most) };
        match number.filter(|n| *n > 0) {
            Some(most) => Ok(Self { device, most }),
            None => Err(format!("{most:?} is no rate")),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.device, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `read` takes each of `good` and what that is printed as for the same, and none of `bad`.
    fn one_way<T: fmt::Display + fmt::Debug + PartialEq>(
        read: impl Fn(&str) -> Result<T, String>,
        good: &[(&str, &str)],
        bad: &[&str],
    ) {
        for (text, want) in good {
            let value = read(text).unwrap();
            assert_eq!(value.to_string(), *want);
            assert_eq!(read(want).unwrap(), value);
        }
        for text in bad {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_read_and_printed_in_one_way() {
        let good = [
            ("8080:80", "8080:80/tcp"),
            ("8080:80/udp", "8080:80/udp"),
            ("192.0.2.1:53:53/udp", "192.0.2.1:53:53/udp"),
            ("[2001:db8::1]:80:80", "[2001:db8::1]:80:80/tcp"),
        ];
        let bad = [
            "",
            "80",
            "0:80",
            "80:0",
            "80:65536",
            "+80:80",
            "80:80/sctp",
            "a:80:80",
            "1.2.3:80:80",
            "::1:80:80",
            "80:80:",
        ];
        one_way(Publish::parse, &good, &bad);
    }

    #[test]
    fn mounts_are_read_and_printed_in_one_way() {
        let good = [
            ("/srv/a:/mnt/a", "/srv/a:/mnt/a:rw"),
            ("/srv//a/:/mnt/a:ro", "/srv/a:/mnt/a:ro"),
            ("/srv/a:/mnt:ro,idmap", "/srv/a:/mnt:ro,idmap"),
            ("/srv/a:/mnt:idmap=1001:1000,noexec", "/srv/a:/mnt:rw,noexec,idmap=1001:1000"),
        ];
        let bad = [
            "",
            "/srv/a",
            "srv:/mnt",
            "/srv/../etc:/mnt",
            "/:/mnt",
            "/proc:/mnt",
            "/dev/sda:/mnt",
            "/srv:/",
            "/srv:/usr",
            "/srv:/usr/share/x",
            "/srv:/proc/x",
            "/srv:/run",
            "/a:/b:",
            "/a:/b:suid",
            "/a:/b:idmap=",
            "/a:/b:idmap=0:0",
            "/a:/b:idmap=5:70000",
            "/a:/b:ro=1",
            "/a/./b:/c",
            "/a b:/c",
        ];
        one_way(MountPoint::parse, &good, &bad);
    }

    #[test]
    fn rates_have_a_disk() {
        assert_eq!(Rate::parse("/dev/sda:10M", true).unwrap().to_string(), "/dev/sda:10485760");
        assert_eq!(Rate::parse("8:0:500", false).unwrap().to_string(), "8:0:500");
        for bad in ["10M", "sda:10M", "/etc/x:1M", "/dev/sda:", "/dev/sda:0", "8:10M", ":5"] {
            assert!(Rate::parse(bad, true).is_err(), "{bad}");
        }
        assert!(Rate::parse("/dev/sda:10M", false).is_err());
    }
}
