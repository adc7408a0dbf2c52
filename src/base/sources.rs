//! Which mirrors to build from: the host's own, since they are near and known to work here.

use std::process::{Command, Stdio};

/// Suites of Ubuntu; everything else counts as Debian's.
const UBUNTU: [&str; 12] = [
    "trusty", "xenial", "bionic", "focal", "jammy", "mantic", "noble", "oracular", "plucky",
    "questing", "resolute", "devel",
];

/// Suites that have neither updates nor security: they are always new.
const ROLLING: [&str; 5] = ["sid", "unstable", "experimental", "rc-buggy", "devel"];

/// The sources.list lines for `suite` by the host's mirrors; none when the host has no mirror
/// of that distribution.
pub(super) fn of_host(suite: &str, components: &str) -> Vec<String> {
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
    let out = Command::new("apt-get")
        .args(["indextargets", "--format", format, "Created-By: Packages"])
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    // A host without apt has no mirror to offer; mmdebstrap then takes the official one.
    let text = out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    lines(&text, suite, components)
}

/// The archive that a base of `suite` would come from; None if this host's apt knows none.
pub fn archive(suite: &str) -> Option<String> {
    let line = of_host(suite, "main").into_iter().next()?;
    line.split(' ').nth(1).map(String::from)
}

/// The host and port that `address` is asked at; None for one that is not on the net, or that apt
/// goes to in a way of its own.
pub fn server(address: &str) -> Option<(String, u16)> {
    let (scheme, rest) = address.split_once("://")?;
    let usual = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let place = rest.split('/').next()?;
    let place = place.rsplit_once('@').map_or(place, |(_, after)| after);
    let (host, port) = match place.strip_prefix('[') {
        Some(v6) => v6.split_once(']')?,
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let port = if port.is_empty() { usual } else { port.strip_prefix(':')?.parse().ok()? };
    (!host.is_empty()).then(|| (host.to_string(), port))
}

/// The proxy by which apt goes to `address`, if it does.
pub fn proxy(address: &str) -> Option<String> {
    let scheme = address.split("://").next()?;
    let set = |text: String| Some(text.trim().to_string()).filter(|t| !t.is_empty());
    let own = set(std::env::var(format!("{scheme}_proxy")).unwrap_or_default());
    let out = Command::new("apt-config")
        .args(["shell", "P", &format!("Acquire::{scheme}::Proxy")])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let said = text.trim().strip_prefix("P='").and_then(|t| t.strip_suffix('\''));
    let said = said.and_then(|t| set(t.to_string()));
    said.or(own).filter(|p| p != "DIRECT" && p != "false")
}

/// Pure part of [`of_host`]; `targets` has lines of `URI RELEASE COMPONENT`.
fn lines(targets: &str, suite: &str, components: &str) -> Vec<String> {
    let family = if UBUNTU.contains(&suite) { "ubuntu" } else { "debian" };
    let known: Vec<(&str, &str)> = targets
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.trim_end_matches('/'), words.next()?))
        })
        .collect();
    let last = |uri: &str| uri.rsplit('/').next().unwrap_or_default().to_string();
    let plain = |release: &str| {
        !["-security", "-updates", "-backports", "-proposed"].iter().any(|s| release.ends_with(s))
    };
    let archive = known.iter().find(|(uri, release)| last(uri) == family && plain(release));
    let Some((archive, _)) = archive else { return Vec::new() };
    let line = |uri: &str, suite: &str| format!("deb {uri} {suite} {components}");
    let mut out = vec![line(archive, suite)];
    if ROLLING.contains(&suite) {
        return out;
    }
    // A private mirror may lack these, so they are used only where the host uses them.
    if known.iter().any(|(uri, release)| uri == archive && release.ends_with("-updates")) {
        out.push(line(archive, &format!("{suite}-updates")));
    }
    let security = known.iter().find(|(uri, release)| {
        let end = last(uri);
        release.ends_with("-security")
            && (end == format!("{family}-security") || (family == "ubuntu" && end == family))
    });
    if let Some((uri, _)) = security {
        out.push(line(uri, &format!("{suite}-security")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "http://packages.example.org/tool/ stable main\n\
        http://mirror.example.org/debian/ bookworm-updates main\n\
        http://mirror.example.org/debian/ bookworm main\n\
        http://mirror.example.org/debian-security/ bookworm-security main\n";

    #[test]
    fn the_hosts_mirrors_serve_other_suites_too() {
        assert_eq!(
            lines(DEBIAN, "trixie", "main"),
            [
                "deb http://mirror.example.org/debian trixie main",
                "deb http://mirror.example.org/debian trixie-updates main",
                "deb http://mirror.example.org/debian-security trixie-security main",
            ]
        );
        assert_eq!(lines(DEBIAN, "sid", "main"), ["deb http://mirror.example.org/debian sid main"]);
    }

    #[test]
    fn a_mirror_is_asked_at_its_host_and_port() {
        for (address, want) in [
            ("http://mirror.example.org/debian", Some(("mirror.example.org", 80))),
            ("https://u:p@mirror.example.org:8443/debian", Some(("mirror.example.org", 8443))),
            ("http://[2001:db8::1]:3142/debian", Some(("2001:db8::1", 3142))),
            ("http://[2001:db8::1]", Some(("2001:db8::1", 80))),
            ("http://mirror.example.org:x/debian", None),
            ("file:///srv/mirror", None),
            ("cdrom:", None),
            ("http:///debian", None),
        ] {
            let want = want.map(|(host, port)| (host.to_string(), port));
            assert_eq!(server(address), want, "{address}");
        }
    }

    #[test]
    fn no_mirror_of_that_distribution_is_no_line() {
        assert!(lines(DEBIAN, "noble", "main").is_empty());
        assert!(lines("", "trixie", "main").is_empty());
        assert!(lines("x\n\n", "trixie", "main").is_empty());
    }

    #[test]
    fn ubuntu_keeps_security_in_an_archive_of_the_same_name() {
        let host = "http://archive.ubuntu.com/ubuntu noble main\n\
                    http://security.ubuntu.com/ubuntu noble-security main\n";
        assert_eq!(
            lines(host, "jammy", "main universe"),
            [
                "deb http://archive.ubuntu.com/ubuntu jammy main universe",
                "deb http://security.ubuntu.com/ubuntu jammy-security main universe",
            ]
        );
    }
}
