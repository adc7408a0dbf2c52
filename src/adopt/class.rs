//! What sort of thing a path is, and so by which rule it is merged.

/// By which rule a path is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The machine's own: left as it is.
    Own,
    /// Below a directory that is the machine's own: directories are all that comes and goes.
    OwnTree,
    /// One of the account files, which are merged together.
    Accounts,
    /// Records with a key, each merged on its own.
    Keyed(Keyed),
    /// Made by update-ca-certificates(8) out of [`CA_INPUTS`].
    CaGenerated,
    /// Made by ldconfig(8) out of [`LD_INPUTS`] and the libraries.
    LdCache,
    /// Goes with the package database, which is the base's.
    Base,
    /// Text line by line, all else as a whole.
    Generic,
}

/// How a file falls into records, and what tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyed {
    /// Lines of certificates' names; `!` before one deselects it.
    CaConf,
    /// Lines whose second word is a path: ucf(1).
    Ucf,
    /// Paragraphs with a name: debconf(7).
    Debconf,
}

/// What the bundle of CA certificates is made of, beside the base's `/usr`.
pub(super) const CA_INPUTS: [&str; 3] = [
    "etc/ca-certificates.conf",
    "etc/ca-certificates/update.d",
    "var/usrlocal/share/ca-certificates",
];

/// Where ldconfig looks up its directories.
pub(super) const LD_INPUTS: [&str; 2] = ["etc/ld.so.conf", "etc/ld.so.conf.d"];

/// The account files, in the order in which [`super::accounts`] has them.
pub(super) const ACCOUNTS: [&str; 6] =
    ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid"];

/// Files that systemd-update-done(8) leaves, with the time of `/usr`.
pub(super) const STAMPS: [&str; 2] = ["etc/.updated", "var/.updated"];

const OWN: [&str; 17] = [
    "etc/machine-id",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/mtab",
    "etc/adjtime",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dhcp/dhclient.leases",
];

const OWN_TREES: [&str; 7] = [
    "etc/ssl/private/",
    "var/log/",
    "var/cache/apt/",
    "var/lib/apt/lists/",
    "var/tmp/",
    "var/backups/",
    "home/",
];

/// The top-level directories that are not of the private tree.
const SHARED: [&str; 6] = ["usr", "proc", "sys", "dev", "run", "tmp"];

/// Whether `path` lies in a container's private tree.
pub(super) fn is_private(path: &str) -> bool {
    let top = path.split('/').next().unwrap_or(path);
    path != "." && !SHARED.contains(&top)
}

/// The rule for `path`.
pub(super) fn of(path: &str) -> Class {
    let host_key = path.starts_with("etc/ssh/ssh_host_");
    if OWN.contains(&path) || STAMPS.contains(&path) || host_key {
        return Class::Own;
    }
    if ACCOUNTS.contains(&path) {
        return Class::Accounts;
    }
    if OWN_TREES.iter().any(|tree| path.starts_with(tree)) {
        return Class::OwnTree;
    }
    match path {
        "etc/ca-certificates.conf" => Class::Keyed(Keyed::CaConf),
        "etc/ld.so.cache" => Class::LdCache,
        "var/lib/ucf/hashfile" | "var/lib/ucf/registry" => Class::Keyed(Keyed::Ucf),
        "var/lib/apt/extended_states" | "var/lib/dpkg" => Class::Base,
        _ if path.starts_with("etc/ssl/certs/") => Class::CaGenerated,
        _ if path.starts_with("var/cache/debconf/") && path.ends_with(".dat") => {
            Class::Keyed(Keyed::Debconf)
        }
        _ => Class::Generic,
    }
}

/// Where a member's links are choices (a unit disabled, masked, enabled; an alternative taken),
/// so that a difference is nothing to talk about.
pub(super) fn is_choice(path: &str) -> bool {
    let rc = path.strip_prefix("etc/rc").is_some_and(|rest| {
        let mut rest = rest.chars();
        rest.next().is_some_and(|c| c.is_ascii_alphanumeric()) && rest.as_str().starts_with(".d/")
    });
    let trees = [
        "etc/systemd/system/",
        "etc/systemd/user/",
        "etc/alternatives/",
        "etc/nginx/sites-enabled/",
        "etc/nginx/modules-enabled/",
        "var/lib/systemd/deb-systemd-",
    ];
    rc || trees.iter().any(|tree| path.starts_with(tree))
}

/// Where programs read every file there is, whatever its name. Elsewhere the readers of `*.d`
/// directories skip `.dpkg-dist` (run-parts, cron, sudo, apt, dpkg, logrotate, systemd, insserv,
/// grub-mkconfig) or take only one ending (`*.conf`, `*.sh`, `*.rules`).
const READ_WHOLE: [&str; 2] = ["etc/nginx/sites-enabled", "etc/network/interfaces.d"];

/// Where the base's version of `path` goes when the member's stays: a name that nothing reads.
/// `nth` counts up while names are taken.
pub(super) fn beside(path: &str, generation: u64, nth: u32) -> String {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = if READ_WHOLE.contains(&dir) { format!("{dir}.{name}") } else { path.to_string() };
    match nth {
        0 => format!("{stem}.dpkg-dist"),
        1 => format!("{stem}.{generation}.dpkg-dist"),
        n => format!("{stem}.{generation}.{n}.dpkg-dist"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_their_rules() {
        assert_eq!(of("etc/passwd"), Class::Accounts);
        assert_eq!(of("etc/passwd-"), Class::Own);
        assert_eq!(of("etc/ssh/ssh_host_rsa_key.pub"), Class::Own);
        assert_eq!(of("etc/ssl/certs/x.pem"), Class::CaGenerated);
        assert_eq!(of("var/log/nginx"), Class::OwnTree);
        assert_eq!(of("var/log"), Class::Generic);
        assert_eq!(of("etc/nginx/nginx.conf"), Class::Generic);
        assert!(is_private("etc") && is_private("bin") && !is_private("usr/bin"));
        assert!(!is_private(".") && !is_private("usr") && is_private("usrx"));
        assert!(
            is_choice("etc/rc2.d/S01x") && is_choice("etc/rcS.d/x") && !is_choice("etc/rc.d/x")
        );
    }

    #[test]
    fn the_base_s_version_goes_where_nothing_reads_it() {
        assert_eq!(beside("etc/a.conf", 7, 0), "etc/a.conf.dpkg-dist");
        assert_eq!(beside("etc/a.conf", 7, 1), "etc/a.conf.7.dpkg-dist");
        let site = beside("etc/nginx/sites-enabled/x", 7, 0);
        assert_eq!(site, "etc/nginx/sites-enabled.x.dpkg-dist");
        assert_eq!(beside("x", 7, 0), "x.dpkg-dist");
    }
}
