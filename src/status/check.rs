//! What `coloc check` says: rows, and how a container's own are read from the kernel's words.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// What became of one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Worth knowing; nothing is wrong.
    Note,
    /// Not as it should be.
    Bad,
    /// It could not be looked at, which is not the same.
    Unknown,
}

impl Verdict {
    /// The word in tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Bad => "BAD",
            Self::Unknown => "unknown",
        }
    }

    /// Whether monitoring should say something.
    pub fn is_alarm(self) -> bool {
        matches!(self, Self::Bad | Self::Unknown)
    }
}

/// One look.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What was looked at.
    pub what: &'static str,
    /// What became of it.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Check {
    /// A row without a hint.
    pub fn new(what: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { what, verdict, found: found.into(), hint: None }
    }

    /// Good if `holds`, else bad with `hint`.
    pub fn that(what: &'static str, holds: bool, found: impl Into<String>, hint: &str) -> Self {
        match holds {
            true => Self::new(what, Verdict::Good, found),
            false => Self::new(what, Verdict::Bad, found).hint(hint),
        }
    }

    /// With what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Started before this version of coloc, or by another profile, or its root undid something.
const RESTART: &str = "restart it: what it was started with is not what it would be now";

fn field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}

/// The filter of system calls, from /proc/PID/status.
pub fn seccomp(status: &str) -> Check {
    let (mode, filters) = (field(status, "Seccomp"), field(status, "Seccomp_filters"));
    let found = match mode {
        Some("2") => format!("{} filter", filters.unwrap_or("a")),
        _ => "none".into(),
    };
    Check::that("system calls", mode == Some("2"), found, RESTART)
}

/// The capabilities, from /proc/PID/status: `bound` has the names that may be there, and
/// `numbers` tells the number of a name.
pub fn capabilities(status: &str, bound: &[String], numbers: &dyn Fn(&str) -> Option<u8>) -> Check {
    const WHAT: &str = "capabilities";
    let set = |key| field(status, key).and_then(|v| u64::from_str_radix(v, 16).ok());
    let (Some(bnd), Some(inh), Some(amb)) = (set("CapBnd"), set("CapInh"), set("CapAmb")) else {
        return Check::new(WHAT, Verdict::Unknown, "the kernel does not say");
    };
    let may = bound.iter().filter_map(|n| numbers(n)).fold(0u64, |set, n| set | (1 << n));
    let found = format!("bounding {bnd:x}, ambient {amb:x}, inheritable {inh:x}");
    Check::that(WHAT, bnd & !may == 0 && amb == 0 && inh == 0, found, RESTART)
}

/// The id maps, from /proc/PID/uid_map and gid_map.
pub fn ids(uid_map: &str, gid_map: &str, (start, count): (u32, u32)) -> Check {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let want = format!("0 {start} {count}");
    let holds = words(uid_map) == want && words(gid_map) == want;
    let found = format!("uids {}, gids {}", words(uid_map), words(gid_map));
    Check::that("ids", holds, found, "stop it: its ids are not those on record")
}

/// The namespaces: `pairs` has a kind with its number inside and on the host; `shared` is the
/// one that may be the host's.
pub fn namespaces(pairs: &[(&str, Option<u64>, Option<u64>)], shared: Option<&str>) -> Check {
    const WHAT: &str = "namespaces";
    if pairs.iter().any(|(_, inside, host)| inside.is_none() || host.is_none()) {
        return Check::new(WHAT, Verdict::Unknown, "the kernel does not say");
    }
    let same: Vec<&str> =
        pairs.iter().filter(|(_, inside, host)| inside == host).map(|(kind, ..)| *kind).collect();
    let own = pairs.len() - same.len();
    let found = match same.is_empty() {
        true => format!("{own} of its own"),
        false => format!("{own} of its own; the host's: {}", same.join(", ")),
    };
    Check::that(WHAT, same.iter().all(|s| Some(*s) == shared), found, RESTART)
}

/// The masks: `wanted` are the paths that are to be covered and that this kernel has, `mounts`
/// where something is mounted.
pub fn masks(wanted: &[PathBuf], mounts: &BTreeSet<PathBuf>) -> Check {
    let bare: Vec<String> =
        wanted.iter().filter(|p| !mounts.contains(*p)).map(|p| p.display().to_string()).collect();
    let found = match bare.is_empty() {
        true => format!("{} covered", wanted.len()),
        false => format!("not covered: {}", bare.join(" ")),
    };
    let hint = "its root has uncovered them, or it was started before; a restart covers them";
    Check::that("/proc and /sys", bare.is_empty(), found, hint)
}

/// The kernel, by its version and its own name for it.
pub fn kernel(version: (u32, u32), release: String) -> Check {
    const WHAT: &str = "kernel";
    match version {
        v if v >= (6, 5) => Check::new(WHAT, Verdict::Good, release),
        v if v >= (6, 1) => Check::new(
            WHAT,
            Verdict::Note,
            format!("{release}: containers are frozen for a swap of /usr"),
        )
        .hint("nothing has to be done; from Linux 6.5 on it is not needed (Debian 12: backports)"),
        v if v >= (5, 15) => Check::new(WHAT, Verdict::Note, release)
            .hint("it has what coloc needs; coloc is tested with Linux 6.1 and newer"),
        _ => Check::new(WHAT, Verdict::Bad, release).hint("coloc needs Linux 5.15, better 6.1"),
    }
}

/// The limits of its cgroups: each pair has what is set, and what is to be; None is no limit.
pub fn limits(found: String, pairs: &[(Option<u64>, Option<u64>)]) -> Check {
    const WHAT: &str = "limits";
    if pairs.iter().any(|(set, want)| set.is_some() && set != want) {
        return Check::new(WHAT, Verdict::Bad, found).hint(RESTART);
    }
    match pairs.iter().all(|(set, want)| set == want) {
        true => Check::new(WHAT, Verdict::Good, found),
        false => Check::new(WHAT, Verdict::Note, found)
            .hint("this host's cgroups pass a controller on to nobody"),
    }
}

/// What each user inside may have: `wanted` by name, and what is set, None where the kernel has no
/// such limit.
pub fn user_limits(wanted: &[(&str, u32)], found: &[Option<u32>]) -> Check {
    let higher: Vec<&str> = wanted
        .iter()
        .zip(found)
        .filter(|((_, most), set)| set.is_some_and(|set| set > *most))
        .map(|((name, _), _)| *name)
        .collect();
    let said = match higher.is_empty() {
        true => format!("{} of namespaces and the like", wanted.len()),
        false => format!("higher: {}", higher.join(" ")),
    };
    Check::that("user limits", higher.is_empty(), said, RESTART)
}

/// How many watchers of files a user of the host's can have, and how many terminals there can be.
pub fn shared_limits(watchers: Option<u64>, terminals: Option<u64>) -> Check {
    const WHAT: &str = "shared limits";
    let words = |n: Option<u64>| n.map_or("unknown".into(), |n| n.to_string());
    let found = format!("inotify instances {}, terminals {}", words(watchers), words(terminals));
    match watchers >= Some(1024) && terminals >= Some(1 << 20) {
        true => Check::new(WHAT, Verdict::Good, found),
        false => Check::new(WHAT, Verdict::Note, found).hint(
            "a container could use up what others need: \
             sysctl fs.inotify.max_user_instances=1024 kernel.pty.max=1048576",
        ),
    }
}

/// Whether a program says which devices may be opened; None where the kernel has none such.
pub fn devices(confined: Option<bool>) -> Check {
    const WHAT: &str = "devices";
    match confined {
        Some(true) => Check::new(WHAT, Verdict::Good, "a list of those that may be opened"),
        Some(false) => Check::new(WHAT, Verdict::Bad, "no list").hint(RESTART),
        None => Check::new(WHAT, Verdict::Note, "this kernel has no list for a cgroup"),
    }
}

const MODULE: &str = "security module";

/// What could confine containers here: `apparmor` and `selinux` are in the kernel, `parser` is
/// the program that loads AppArmor profiles.
pub fn security_module(apparmor: bool, parser: bool, selinux: bool) -> Check {
    match (apparmor, parser, selinux) {
        (true, true, _) => Check::new(MODULE, Verdict::Good, "AppArmor"),
        (true, false, _) => Check::new(MODULE, Verdict::Note, "AppArmor, but no apparmor_parser")
            .hint("containers go without its profile: apt-get install apparmor"),
        (false, _, true) => Check::new(MODULE, Verdict::Note, "SELinux")
            .hint("a container gets the label that its profile has: oci.process.selinuxLabel"),
        (false, _, false) => Check::new(MODULE, Verdict::Note, "none on this host")
            .hint("the other walls stand; for one more: apt-get install apparmor, and reboot"),
    }
}

/// The AppArmor label of an init, from /proc/PID/attr; `want` is its profile.
pub fn label(label: Option<&str>, want: &str) -> Check {
    match label.map(|l| l.trim_end_matches(['\0', '\n'])) {
        None | Some("") => Check::new(MODULE, Verdict::Unknown, "AppArmor does not say"),
        Some(label) => {
            let holds = label == format!("{want} (enforce)");
            Check::that(MODULE, holds, format!("AppArmor: {label}"), RESTART)
        }
    }
}

/// The SELinux label of an init; `want` is the one that it was given.
pub fn context(label: Option<&str>, want: &str) -> Check {
    match label.map(|l| l.trim_end_matches(['\0', '\n'])) {
        None | Some("") => Check::new(MODULE, Verdict::Unknown, "SELinux does not say"),
        Some(label) => Check::that(MODULE, label == want, format!("SELinux: {label}"), RESTART),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tinit\nCapInh:\t0000000000000000\nCapBnd:\t0000000000000005\n\
        CapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    #[test]
    fn a_filter_and_bounds_are_read_from_status() {
        let numbers = |name: &str| ["A", "B", "C"].iter().position(|n| *n == name).map(|n| n as u8);
        let bound = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(seccomp(STATUS).verdict, Verdict::Good);
        assert_eq!(seccomp("Seccomp:\t0\n").verdict, Verdict::Bad);
        assert_eq!(capabilities(STATUS, &bound(&["A", "C"]), &numbers).verdict, Verdict::Good);
        assert_eq!(capabilities(STATUS, &bound(&["A"]), &numbers).verdict, Verdict::Bad);
        assert_eq!(capabilities("", &[], &numbers).verdict, Verdict::Unknown);
        let ambient = STATUS.replace("CapAmb:\t0000000000000000", "CapAmb:\t0000000000000001");
        let check = capabilities(&ambient, &bound(&["A", "C"]), &numbers);
        assert_eq!(check.verdict, Verdict::Bad);
    }

    #[test]
    fn ids_and_namespaces_have_to_be_its_own() {
        let map = "         0     100000      65536\n";
        assert_eq!(ids(map, map, (100_000, 65536)).verdict, Verdict::Good);
        assert_eq!(ids(map, "0 0 4294967295\n", (100_000, 65536)).verdict, Verdict::Bad);
        let own = [("user", Some(1), Some(2)), ("net", Some(3), Some(3))];
        assert_eq!(namespaces(&own, Some("net")).verdict, Verdict::Good);
        assert_eq!(namespaces(&own, None).verdict, Verdict::Bad);
        assert_eq!(namespaces(&[("user", None, Some(2))], None).verdict, Verdict::Unknown);
    }

    #[test]
    fn a_mask_that_is_gone_is_named() {
        let wanted = [PathBuf::from("/proc/keys"), PathBuf::from("/sys/firmware")];
        let mut mounts: BTreeSet<PathBuf> = wanted.iter().cloned().collect();
        assert_eq!(masks(&wanted, &mounts).verdict, Verdict::Good);
        mounts.remove(&wanted[0]);
        let check = masks(&wanted, &mounts);
        assert_eq!((check.verdict, &*check.found), (Verdict::Bad, "not covered: /proc/keys"));
    }

    #[test]
    fn numbers_that_all_share_are_to_be_high() {
        assert_eq!(shared_limits(Some(1024), Some(1 << 20)).verdict, Verdict::Good);
        for few in [shared_limits(Some(128), Some(1 << 20)), shared_limits(Some(1024), None)] {
            assert!(few.verdict == Verdict::Note && few.hint.is_some(), "{few:?}");
        }
    }

    #[test]
    fn kernels_that_lack_a_call_are_bad() {
        let verdict = |version| kernel(version, "x".into()).verdict;
        assert_eq!(verdict((5, 14)), Verdict::Bad);
        assert_eq!(verdict((5, 15)), Verdict::Note);
        assert_eq!(verdict((6, 1)), Verdict::Note);
        assert_eq!(verdict((6, 12)), Verdict::Good);
    }

    #[test]
    fn a_limit_that_is_another_is_told_from_one_that_cannot_be() {
        let verdict = |pairs: &[_]| limits("x".into(), pairs).verdict;
        assert_eq!(verdict(&[(Some(1), Some(1)), (None, None)]), Verdict::Good);
        assert_eq!(verdict(&[(Some(1), Some(1)), (None, Some(2))]), Verdict::Note);
        assert_eq!(verdict(&[(Some(3), Some(1)), (None, Some(2))]), Verdict::Bad);
        let wanted = [("a", 5), ("b", 6)];
        assert_eq!(user_limits(&wanted, &[Some(5), None]).verdict, Verdict::Good);
        let check = user_limits(&wanted, &[Some(5), Some(7)]);
        assert_eq!((check.verdict, &*check.found), (Verdict::Bad, "higher: b"));
    }

    #[test]
    fn a_label_has_to_be_the_containers_own_and_enforced() {
        let verdict = |text| label(text, "coloc_a").verdict;
        assert_eq!(verdict(Some("coloc_a (enforce)\n")), Verdict::Good);
        assert_eq!(verdict(Some("coloc_a (complain)\n")), Verdict::Bad);
        assert_eq!(verdict(Some("coloc_ab (enforce)\n")), Verdict::Bad);
        assert_eq!(verdict(Some("unconfined\n")), Verdict::Bad);
        assert_eq!(verdict(None), Verdict::Unknown);
        assert_eq!(security_module(true, true, false).verdict, Verdict::Good);
        assert!(security_module(true, false, false).hint.is_some());
        let verdict = |text| context(text, "u:r:t:s0").verdict;
        assert_eq!(verdict(Some("u:r:t:s0\0")), Verdict::Good);
        assert_eq!(verdict(Some("u:r:t:s0:c1")), Verdict::Bad);
        assert_eq!(verdict(None), Verdict::Unknown);
        assert_eq!(security_module(false, true, false).verdict, Verdict::Note);
    }
}
