//! A device of the host's, as a setting names it.

use std::fmt;
use std::path::{Path, PathBuf};

use super::item::plain;
use super::risk::{self, Risk};
use super::value::whole;

/// What device nodes are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceKind {
    /// The one at this path of the host's, and inside.
    Path(PathBuf),
    /// Those with these numbers.
    Numbers {
        /// Whether it is a block device.
        block: bool,
        /// The major number.
        major: u32,
        /// The minor number; every one if not given.
        minor: Option<u32>,
    },
}

/// A device of the host's that the container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Which.
    pub kind: DeviceKind,
    /// The word by which the admin says that they know the risk of it: `block` or `host`.
    pub consent: Option<&'static str>,
    /// What it may be opened for, as in a spec: `r`, `w` or `rw`.
    pub access: &'static str,
}

const CONSENTS: [&str; 2] = ["block", "host"];
const ACCESSES: [&str; 3] = ["rw", "r", "w"];

impl Device {
    /// Reads `/dev/PATH`, `c:MAJOR:MINOR` or `b:MAJOR:MINOR`, with options after commas; the minor
    /// can be `*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let kind = kind(parts.next().unwrap_or_default())?;
        let mut device = Self { kind, consent: None, access: "rw" };
        for option in parts {
            let known = |list: &[&'static str]| list.iter().find(|w| **w == option).copied();
            match (known(&CONSENTS), known(&ACCESSES)) {
                (Some(word), _) => device.consent = Some(word),
                (_, Some(word)) => device.access = word,
                _ => return Err(format!("{option:?} is no option of a device")),
            }
        }
        let risk = match &device.kind {
            DeviceKind::Path(path) => {
                let name = path.strip_prefix("/dev").unwrap_or(path);
                risk::by_name(&name.to_string_lossy())
            }
            DeviceKind::Numbers { block, major, minor } => risk::by_number(*block, *major, *minor),
        };
        match device.refused(risk) {
            None => Ok(device),
            Some((why, None)) => Err(format!("{} is not for containers: {why}", device.name())),
            Some((why, Some(word))) => {
                Err(format!("{} needs ',{word}' after it: {why}", device.name()))
            }
        }
    }

    /// Why it cannot be had for all that the admin has said, and which word is missing, if there
    /// is one for it.
    pub(super) fn refused(
        &self,
        risk: Option<Risk>,
    ) -> Option<(&'static str, Option<&'static str>)> {
        match risk? {
            Risk::Never(why) => Some((why, None)),
            Risk::Asked(word, why) => (self.consent != Some(word)).then_some((why, Some(word))),
        }
    }

    /// What it is, without its options: there is one of each.
    pub(super) fn name(&self) -> String {
        match &self.kind {
            DeviceKind::Path(path) => path.display().to_string(),
            DeviceKind::Numbers { block, major, minor } => {
                let minor = minor.map_or("*".to_string(), |n| n.to_string());
                format!("{}:{major}:{minor}", if *block { 'b' } else { 'c' })
            }
        }
    }
}

fn kind(what: &str) -> Result<DeviceKind, String> {
    if what.starts_with('/') {
        let path = plain(what)?;
        return match path.starts_with("/dev") && path != Path::new("/dev") {
            true => Ok(DeviceKind::Path(path)),
            false => Err(format!("{what} is not below /dev")),
        };
    }
    let mut parts = what.split(':');
    let kind = parts.next().unwrap_or_default();
    let number = |t: Option<&str>| t.and_then(whole).and_then(|n| u32::try_from(n).ok());
    let major = number(parts.next());
    let minor = parts.next();
    let minor = if minor == Some("*") { Some(None) } else { number(minor).map(Some) };
    match (kind, major, minor, parts.next()) {
        ("c" | "b", Some(major), Some(minor), None) => {
            Ok(DeviceKind::Numbers { block: kind == "b", major, minor })
        }
        _ => Err(format!("{what:?} is neither a path below /dev nor c:MAJOR:MINOR")),
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(word) = self.consent {
            write!(f, ",{word}")?;
        }
        if self.access == "rw" { Ok(()) } else { write!(f, ",{}", self.access) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_are_the_host_are_refused() {
        for text in [
            "/dev/net/tun",
            "/dev/sda1,block",
            "c:10:200",
            "c:10:229,r",
            "c:116:*",
            "b:8:1,block",
            "/dev/sdb,block,r",
            "/dev/watchdog,host",
            "c:4:1,host",
        ] {
            assert_eq!(Device::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "",
            "/dev",
            "/etc/passwd",
            "/dev/../etc",
            "/dev/mem",
            "/dev/mem,host",
            "/dev//mem",
            "/dev/console,host",
            "b:8:1",
            "b:8:1,host",
            "c:1:1",
            "c:1:*",
            "c:1:*,host",
            "c:1",
            "x:1:1",
            "c:1:1:1",
            "/dev/null,x",
            "/dev/null,",
            "c:-1:2",
            "c:*:1",
            "c:4:1",
            "/dev/watchdog",
            "/dev/nvme0",
        ] {
            assert!(Device::parse(bad).is_err(), "{bad}");
        }
        assert!(Device::parse("b:8:0").unwrap_err().contains("root of the host"));
        assert!(Device::parse("c:10:130").unwrap_err().contains(",host' after it: it resets"));
    }
}
