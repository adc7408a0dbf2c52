//! What is said to apt, and what it says.

use std::collections::BTreeSet;

use super::diff::PackageChange;
use crate::error::{Error, Kind, Result};

/// Options of every run. Nobody is there to answer a question; a configuration file of the
/// base that was changed by hand stays as it is.
pub(super) const OPTIONS: [&str; 18] = [
    "-y",
    "-q",
    "-o",
    "Dpkg::Use-Pty=0",
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    // One syncfs at publication does what dpkg would do file by file.
    "Dpkg::Options::=--force-unsafe-io",
    "-o",
    "APT::Update::Error-Mode=any",
    "-o",
    "APT::Cmd::Pattern-Only=true",
    "-o",
    "Acquire::Languages=none",
    "-o",
    "Acquire::Retries=2",
];

/// Refuses what apt could take for something else than the name of a package: it has
/// patterns, and endings that turn an installation into a removal.
pub(super) fn check_name(name: &str) -> Result<()> {
    let word = |text: &str| {
        text.len() > 1
            && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && !text.ends_with('-')
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
    };
    let (package, architecture) = name.split_once(':').unwrap_or((name, "any"));
    if word(package) && word(architecture) {
        return Ok(());
    }
    let shown: String = name.chars().take(60).collect();
    Err(Error::new(Kind::Usage, format!("{shown:?} cannot be the name of a package")))
}

/// The changes that `apt-get -s` announces.
pub fn foreseen(output: &[String]) -> Vec<PackageChange> {
    let mut list: Vec<PackageChange> = output.iter().filter_map(|l| announced(l)).collect();
    list.sort_by(|a, b| a.name.cmp(&b.name));
    list
}

/// `Inst NAME [OLD] (NEW ORIGIN:ARCHIVE, … [ARCHITECTURE])`, `Remv NAME [OLD]`, `Purg NAME [OLD]`.
fn announced(line: &str) -> Option<PackageChange> {
    let (verb, rest) = line.split_once(' ')?;
    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let before_new = rest.split('(').next().unwrap_or_default();
    let old = before_new.split_once('[').and_then(|(_, r)| r.split(']').next());
    let old = old.map(str::to_string);
    match verb {
        "Inst" => {
            let inside = rest.split_once('(')?.1.split(')').next()?;
            let (new, origins) = inside.split_once(' ').unwrap_or((inside, ""));
            let origins = origins.split('[').next().unwrap_or_default();
            // Debian names its archive so, Ubuntu its suite.
            let security = origins.split(',').map(str::trim).any(|origin| {
                origin.starts_with("Debian-Security:") || origin.ends_with("-security")
            });
            Some(PackageChange { name: name.into(), old, new: Some(new.into()), security })
        }
        "Remv" | "Purg" => {
            Some(PackageChange { name: name.into(), old, new: None, security: false })
        }
        _ => None,
    }
}

/// Names of packages whose new version comes from a security archive.
pub(super) fn security(changes: &[PackageChange]) -> BTreeSet<String> {
    changes.iter().filter(|c| c.security).map(|c| c.name.clone()).collect()
}

/// The package that apt did not find, if that is what went wrong.
pub fn unknown(output: &[String]) -> Option<Error> {
    let name = output.iter().find_map(|line| {
        let said = line.strip_prefix("E: ")?;
        said.strip_prefix("Unable to locate package ").or_else(|| {
            said.strip_prefix("Package '")?.strip_suffix("' has no installation candidate")
        })
    })?;
    let error = Error::new(
        Kind::NotFound,
        format!("there is no package {name} in the archives that the base uses"),
    );
    Some(error.hint("coloc base shell opens a shell in which apt-cache search looks for names"))
}

/// What to show of a line while apt works; None for what is only noise.
pub fn step(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["Unpacking", name, ..] => Some(format!("unpacking {name}")),
        ["Setting", "up", name, ..] => Some(format!("setting up {name}")),
        ["Removing", name, ..] => Some(format!("removing {name}")),
        ["Processing", "triggers", "for", name, ..] => Some(format!("triggers of {name}")),
        [get, _, _, _, name, _, version, ..]
            if get.starts_with("Get:") && !version.starts_with('[') && !version.ends_with(']') =>
        {
            Some(format!("downloading {name} {version}"))
        }
        _ => None,
    }
}

/// The bytes that a change downloads at most, by apt-get's `Need to get 1 B/22.2 MB of archives.`
pub fn to_get(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("Need to get ")?.strip_suffix(" of archives.")?;
    let (number, unit) = rest.rsplit('/').next()?.split_once(' ')?;
    let scale = match unit {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    Some((number.parse::<f64>().ok()? * scale) as u64)
}

/// How many packages a change is about, by apt-get's summary of it.
pub fn total(line: &str) -> Option<usize> {
    let rest = line.strip_suffix(" not upgraded.")?;
    let (changed, _) = rest.rsplit_once(" and ")?;
    let counts = changed.split(", ").map(|part| part.split(' ').next()?.parse::<usize>().ok());
    counts.sum()
}

/// A line that tells of an index that could not be had: an apt that is too old to know the
/// option goes on with the one from before.
pub(super) fn lost_index(line: &str) -> bool {
    line.starts_with("W: Failed to fetch") || line.starts_with("W: Some index files failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_read() {
        let output: Vec<String> = [
            "NOTE: This is only a simulation!",
            "Inst libssl3 [3.0.15-1~deb12u1] (3.0.17-1~deb12u2 Debian-Security:12/oldstable-security [amd64])",
            "Inst hello (2.10-3 Debian:12.11/oldstable [amd64])",
            "Inst tzdata [1] (2 Debian:12.11/oldstable, Debian:12-updates/oldstable-updates [all]) []",
            "Inst base-files [12] (13 Ubuntu:22.04/jammy-updates, Ubuntu:22.04/jammy-security [amd64])",
            "Remv nano [7.2-1] [x:amd64 ]",
            "Purg libc6:i386 [2.36]",
            "Conf hello (2.10-3 Debian:12.11/oldstable [amd64])",
        ]
        .map(str::to_string)
        .to_vec();
        let list = foreseen(&output);
        let shown: Vec<String> = list
            .iter()
            .map(|c| format!("{} {:?} {:?} {}", c.name, c.old, c.new, c.security))
            .collect();
        assert_eq!(
            shown,
            [
                "base-files Some(\"12\") Some(\"13\") true",
                "hello None Some(\"2.10-3\") false",
                "libc6:i386 Some(\"2.36\") None false",
                "libssl3 Some(\"3.0.15-1~deb12u1\") Some(\"3.0.17-1~deb12u2\") true",
                "nano Some(\"7.2-1\") None false",
                "tzdata Some(\"1\") Some(\"2\") false",
            ]
        );
        assert_eq!(security(&list).len(), 2);
    }

    #[test]
    fn names_are_names() {
        for good in ["g++", "libstdc++6", "python3.11", "libc6:i386", "0ad"] {
            check_name(good).unwrap();
        }
        for bad in ["", "-y", "nano-", "a", "nano/sid", "nano=1", "n*", "A", "x:y:z", "a b", "~i"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_unknown_package_is_named() {
        let lines = ["Reading...", "E: Unable to locate package nosuch"].map(str::to_string);
        let e = unknown(&lines).unwrap();
        assert!(e.to_string().contains("nosuch"), "{e}");
        assert_eq!(e.kind(), Kind::NotFound);
        let lines = ["E: Package 'gone' has no installation candidate".to_string()];
        assert!(unknown(&lines).unwrap().to_string().contains("gone"));
        assert!(unknown(&["E: Broken packages".to_string()]).is_none());
    }

    #[test]
    fn sizes_and_numbers_are_read() {
        for (line, bytes) in [
            ("Need to get 22.2 MB of archives.", Some(22_200_000)),
            ("Need to get 512 B/3456 kB of archives.", Some(3_456_000)),
            ("Need to get 0 B/1.5 GB of archives.", Some(1_500_000_000)),
            ("Need to get some of archives.", None),
            ("Need to get -1 MB of archives.", Some(0)),
        ] {
            assert_eq!(to_get(line), bytes, "{line}");
        }
        for (line, count) in [
            ("24 upgraded, 1 newly installed, 2 to remove and 7 not upgraded.", Some(27)),
            (
                "0 upgraded, 1 newly installed, 3 downgraded, 0 to remove and 0 not upgraded.",
                Some(4),
            ),
            ("x upgraded, 1 newly installed and 0 not upgraded.", None),
            ("Setting up x (1) ...", None),
        ] {
            assert_eq!(total(line), count, "{line}");
        }
    }

    #[test]
    fn steps_are_short() {
        let get =
            "Get:3 http://mirror.example.org/debian bookworm/main amd64 hello amd64 2.10-3 [53 kB]";
        assert_eq!(step(get).unwrap(), "downloading hello 2.10-3");
        assert_eq!(step("Setting up hello (2.10-3) ...").unwrap(), "setting up hello");
        assert!(step("Reading package lists...").is_none());
        let index = "Get:1 http://mirror.example.org/debian bookworm/main amd64 Packages [8793 kB]";
        assert!(step(index).is_none());
    }
}
