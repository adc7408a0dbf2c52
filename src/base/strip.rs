//! What belongs to one machine and so must not be in a base: ids, keys, passwords, names,
//! traces of the host it was built on. Each container gets its own.

use rustix::fs::FileType;

use crate::error::Result;
use crate::tree::inside::Inside;

/// Removed, whatever they are.
const REMOVED: [&str; 17] = [
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
    "root/.bash_history",
    "root/.ssh/id_rsa",
    "root/.ssh/id_ed25519",
    "root/.ssh/id_ecdsa",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    // How mmdebstrap ran: dpkg without sync is not for a system with a power cord.
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "var/cache/ldconfig/aux-cache",
];

/// Directories whose content goes.
const EMPTIED: [&str; 6] = [
    "etc/ssl/private",
    "var/backups",
    "var/log/journal",
    "var/tmp",
    "var/lib/systemd/coredump",
    "var/crash",
];

/// Files that go: directory, start and end of the name.
const MATCHING: [(&str, &str, &str); 5] = [
    ("etc/ssh", "ssh_host_", ""),
    ("var/cache/apt", "", ".bin"),
    ("var/cache/apt/archives", "", ".deb"),
    ("var/cache/debconf", "", "-old"),
    ("usr/lib/sysimage/dpkg", "", "-old"),
];

/// Mount points of a running system.
const MOUNT_POINTS: [(&str, u32); 5] =
    [("dev", 0o755), ("proc", 0o555), ("sys", 0o555), ("run", 0o755), ("tmp", 0o1777)];

const HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\t\tlocalhost ip6-localhost ip6-loopback\n\
    ff02::1\t\tip6-allnodes\n\
    ff02::2\t\tip6-allrouters\n";

/// Strips the tree. The password hashes are not among it: see [`super::ids`].
pub(super) fn strip(tree: &Inside) -> Result<()> {
    for (path, mode) in MOUNT_POINTS {
        // A link here would be resolved in the container, where it means nothing good.
        if tree.kind(path)?.is_some_and(|kind| kind != FileType::Directory) {
            tree.remove(path)?;
        }
        tree.make_dir(path)?;
        tree.empty(path)?;
        tree.set_mode(path, mode)?;
    }
    for path in REMOVED {
        tree.remove(path)?;
    }
    for path in EMPTIED {
        tree.empty(path)?;
    }
    lists(tree)?;
    // pam_env reads it at each login, and says so where it is missing.
    if tree.kind("etc/default")?.is_some() && tree.kind("etc/default/locale")?.is_none() {
        tree.reset("etc/default/locale", b"", 0o644)?;
    }
    for (dir, start, end) in MATCHING {
        for name in tree.names(dir)? {
            if name.starts_with(start) && name.ends_with(end) {
                tree.remove(&format!("{dir}/{name}"))?;
            }
        }
    }
    logs(tree, "var/log")?;
    tree.reset("etc/machine-id", b"", 0o444)?;
    tree.reset("etc/hostname", b"", 0o644)?;
    tree.reset("etc/hosts", HOSTS.as_bytes(), 0o644)?;
    tree.symlink("../run/host/resolv.conf", "etc/resolv.conf")
}

/// Removes apt's indexes. The directory for those half loaded stays, as dpkg looks for it.
fn lists(tree: &Inside) -> Result<()> {
    const LISTS: &str = "var/lib/apt/lists";
    if tree.kind(LISTS)?.is_none() {
        return Ok(());
    }
    for name in tree.names(LISTS)?.iter().filter(|name| *name != "partial") {
        tree.remove(&format!("{LISTS}/{name}"))?;
    }
    tree.make_dir("var/lib/apt/lists/partial")?;
    tree.empty("var/lib/apt/lists/partial")
}

/// Removes files below `dir`; the three that login programs write to only if they are there
/// stay, empty, and so do directories, which services do not make again.
fn logs(tree: &Inside, dir: &str) -> Result<()> {
    let mut todo = vec![dir.to_string()];
    while let Some(dir) = todo.pop() {
        for name in tree.names(&dir)? {
            let path = format!("{dir}/{name}");
            match tree.kind(&path)? {
                Some(FileType::Directory) => todo.push(path),
                Some(FileType::RegularFile)
                    if matches!(name.as_str(), "btmp" | "wtmp" | "lastlog") =>
                {
                    tree.write(&path, b"", 0o664)?;
                }
                Some(_) => tree.remove(&path)?,
                None => {}
            }
        }
    }
    Ok(())
}
