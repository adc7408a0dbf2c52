//! Limits that a container is born with: those of a process, and those of its user namespace.

use std::path::Path;

use oci_spec::runtime::{PosixRlimit, PosixRlimitType as Type};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::Named;

/// How much of something a process may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    resource: Resource,
    /// What counts; None for no limit.
    pub soft: Option<u64>,
    /// What it can be raised to.
    pub hard: Option<u64>,
}

/// The limits of a spec's list.
pub fn limits(list: &[PosixRlimit]) -> Vec<Limit> {
    let known = |n: u64| (n != u64::MAX).then_some(n);
    list.iter()
        .map(|l| Limit {
            resource: resource(l.typ()),
            soft: known(l.soft()),
            hard: known(l.hard()),
        })
        .collect()
}

fn resource(of: Type) -> Resource {
    match of {
        Type::RlimitCpu => Resource::Cpu,
        Type::RlimitFsize => Resource::Fsize,
        Type::RlimitData => Resource::Data,
        Type::RlimitStack => Resource::Stack,
        Type::RlimitCore => Resource::Core,
        Type::RlimitRss => Resource::Rss,
        Type::RlimitNproc => Resource::Nproc,
        Type::RlimitNofile => Resource::Nofile,
        Type::RlimitMemlock => Resource::Memlock,
        Type::RlimitAs => Resource::As,
        Type::RlimitLocks => Resource::Locks,
        Type::RlimitSigpending => Resource::Sigpending,
        Type::RlimitMsgqueue => Resource::Msgqueue,
        Type::RlimitNice => Resource::Nice,
        Type::RlimitRtprio => Resource::Rtprio,
        Type::RlimitRttime => Resource::Rttime,
    }
}

/// Puts this process under `limits`, for it and its children. Where even root may not raise one,
/// inside another container, it stays as low as it is.
pub fn apply(limits: &[Limit]) -> Result<()> {
    for limit in limits {
        let wanted = Rlimit { current: limit.soft, maximum: limit.hard };
        if setrlimit(limit.resource, wanted).is_ok() {
            continue;
        }
        let most = getrlimit(limit.resource).maximum;
        let lower = |a: Option<u64>| match (a, most) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let lowered = Rlimit { current: lower(limit.soft), maximum: lower(limit.hard) };
        setrlimit(limit.resource, lowered)
            .named(|| format!("setrlimit({:?}, {lowered:?})", limit.resource))?;
    }
    Ok(())
}

/// Reads the words `NAME=NUMBER` of an annotation.
pub fn of_user(words: &str) -> Result<Vec<(String, u32)>> {
    let pair = |word: &str| -> Option<(String, u32)> {
        let (name, number) = word.split_once('=')?;
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        plain.then_some(())?;
        Some((name.to_string(), number.parse().ok()?))
    };
    words
        .split_whitespace()
        .map(|word| {
            pair(word).ok_or_else(|| {
                Error::new(Kind::Damaged, format!("{word:?} in the spec is no limit of a user's"))
            })
        })
        .collect()
}

/// Sets what each user of this process's user namespace may have. What is made counts against
/// the same limits of the host's for the owner of the namespace too.
pub fn set_of_user(limits: &[(String, u32)]) -> Result<()> {
    let write = |proc: &str, name: &str, most: u32| {
        let path = Path::new(proc).join("sys/user").join(name);
        let file = std::fs::OpenOptions::new().write(true).open(path);
        file.and_then(|mut file| std::io::Write::write_all(&mut file, most.to_string().as_bytes()))
    };
    for (name, most) in limits {
        let wrote = match write("/proc", name, *most) {
            // This host is a container of coloc's, which keeps a bare one there for containers in it.
            Err(e) if e.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                write("/run/host/proc", name, *most).map_err(|_| e)
            }
            other => other,
        };
        match wrote {
            // A kernel without what is limited.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            other => other.context(|| format!("cannot write {most} to /proc/sys/user/{name}"))?,
        }
    }
    Ok(())
}

/// Every resource, by the name that [`Limit`] prints.
const ALL: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

impl std::str::FromStr for Limit {
    type Err = Error;

    /// Reads what [`Display`](std::fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| match text {
            "unlimited" => Some(None),
            number => number.parse().ok().map(Some),
        };
        let read = || {
            let (name, rest) = text.split_once(' ')?;
            let (soft, hard) = rest.split_once(':')?;
            let resource = ALL.into_iter().find(|r| name_of(*r) == name)?;
            Some(Self { resource, soft: number(soft)?, hard: number(hard)? })
        };
        read().ok_or_else(|| Error::new(Kind::Damaged, format!("{text:?} is no limit")))
    }
}

fn name_of(resource: Resource) -> String {
    format!("{resource:?}").to_ascii_lowercase()
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |n: Option<u64>| n.map_or("unlimited".into(), |n| n.to_string());
        write!(f, "{} {}:{}", name_of(self.resource), number(self.soft), number(self.hard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_an_annotation_are_read() {
        let pairs = of_user("max_a=1 max_b=22").unwrap();
        assert_eq!(pairs, [("max_a".into(), 1), ("max_b".into(), 22)]);
        for bad in ["max_a", "max_a=x", "../max_a=1", "=-1"] {
            assert!(of_user(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_limit_is_told_from_a_large_one() {
        use oci_spec::runtime::PosixRlimitBuilder as B;
        let files = B::default().typ(Type::RlimitNofile).soft(9u64).hard(u64::MAX).build().unwrap();
        let [limit] = limits(&[files])[..] else { unreachable!() };
        assert_eq!((limit.soft, limit.hard), (Some(9), None));
        assert_eq!(limit.to_string(), "nofile 9:unlimited");
        assert_eq!("nofile 9:unlimited".parse::<Limit>().unwrap(), limit);
        for bad in ["nofile", "nofile 9", "nofile x:9", "files 9:9", ""] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
    }
}
