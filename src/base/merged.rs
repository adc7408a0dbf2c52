//! Generation N with a scratch layer over it, and in it what tools need to run. All of it is
//! mounted in a mount namespace of the calling thread's own: nothing is ever mounted on the
//! host, and the kernel takes it apart when the thread ends, however that comes about.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::mount::{UnmountFlags, unmount};

use crate::error::{Context, Error, Kind, Result};
use crate::store::atomic;
use crate::sys::mount::{Attr, attach, clone_at, clone_path, make, make_all_private, set};
use crate::sys::path::{Links, open_dir, open_in};
use crate::sys::{Named, tty};
use crate::tree::inside::Inside;

/// No service is started in a base; what wanted to be is written down. `invoke-rc.d` and
/// `deb-systemd-invoke` call this with the service and the action, after options; an action in
/// parentheses is one that the runlevel would not have done.
const POLICY: &str = "#!/bin/sh\n\
    while case ${1-} in --*) ;; *) false ;; esac; do shift; done\n\
    action=${2#(}\n\
    case ${action%)} in start|stop|restart|try-restart|reload|force-reload)\n\
    echo \"${1%.service} ${action%)}\" >> /run/coloc/services ;;\n\
    esac\n\
    exit 101\n";

/// Where maintainer scripts look for it (its path is part of Debian's interface).
const POLICY_PATH: &str = "usr/sbin/policy-rc.d";

/// Device nodes that programs expect; no disk, no console.
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// The layer of a transaction that is over: plain files in the directory `path`.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) path: PathBuf,
    /// In memory, it is there for as long as this is open.
    _memory: Option<OwnedFd>,
}

/// The merged tree, mounted.
pub(super) struct Merged {
    path: PathBuf,
    /// The layer.
    upper: PathBuf,
    /// The root of the file system in memory.
    memory: Option<OwnedFd>,
    /// Below `path`, in the order they were made.
    mounted: Vec<&'static str>,
    /// A file that was made only to mount the policy on.
    placeholder: bool,
}

/// Gives the calling thread a mount namespace of its own.
pub(super) fn enter_namespace() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .named(|| "unshare(CLONE_NEWNS)".into())?;
    Ok(make_all_private()?)
}

/// Makes the directory `path` with exactly `mode`, and its parents.
fn make_dir(path: &Path, mode: u32) -> Result<()> {
    // The mask of whoever runs us must not show to the tools, some of which drop root.
    std::fs::create_dir_all(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)))
        .context(|| format!("cannot make {}", path.display()))
}

impl Merged {
    /// Mounts the tree `lower` with an empty layer over it. What that takes is made in
    /// `staging`, or with a `room` the layer in so many bytes of memory.
    pub(super) fn mount(lower: &Path, staging: &Path, room: Option<u64>) -> Result<Self> {
        // Tools run in another directory than we do.
        let staging = std::path::absolute(staging).context(|| "cannot tell where to work")?;
        let path = staging.join("merged");
        make_dir(&path, 0o755)?;
        let (memory, place) = match room {
            Some(bytes) => {
                let place = staging.join("memory");
                make_dir(&place, 0o700)?;
                let size = bytes.to_string();
                let options = [("mode", "0755"), ("size", size.as_str())];
                attach(make("tmpfs", &options, Attr::NODEV)?, open_dir(&place)?)?;
                (Some(open_dir(&place)?), place)
            }
            None => (None, staging),
        };
        let (upper, work) = (place.join("upper"), place.join("work"));
        for dir in [&upper, &work] {
            make_dir(dir, 0o755)?;
        }
        // The root directory's own mode and owner would be the layer's.
        super::next::copy_attributes(lower, &upper)?;
        // By descriptors: a path may be long, or have commas and colons in it.
        let dirs = [open_dir(lower)?, open_dir(&upper)?, open_dir(&work)?];
        let [lower, over, work] = dirs.each_ref().map(by_descriptor);
        let options = [
            ("lowerdir", lower.as_str()),
            ("upperdir", over.as_str()),
            ("workdir", work.as_str()),
            // The layer must be all there is to say of what changed: no references into N.
            ("redirect_dir", "off"),
            ("metacopy", "off"),
            ("index", "off"),
            // Nothing in here needs to survive a power cut before it is published.
            ("volatile", ""),
        ];
        let overlay = make("overlay", &options, Attr::NODEV)
            .context(|| "cannot mount an overlay over the generation")?;
        attach(overlay, open_dir(&path)?)?;
        Ok(Self { path, upper, memory, mounted: Vec::new(), placeholder: false })
    }

    /// Whether the memory of the layer is as good as used up.
    pub(super) fn is_full(&self) -> Result<bool> {
        let Some(memory) = &self.memory else { return Ok(false) };
        let room = rustix::fs::fstatvfs(memory).named(|| "fstatvfs".into())?;
        Ok(room.f_bavail < room.f_blocks / 8)
    }

    /// The merged tree's root directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Mounts what tools need: /run, /tmp, /dev, the host's names of hosts, the caches of apt
    /// in `cache`, and the policy. /proc is of the run's own processes, so each run has its own.
    pub(super) fn furnish(&mut self, cache: &Path) -> Result<()> {
        let root = open_dir(&self.path)?;
        let options = [("mode", "0755")];
        self.put(&root, "run", make("tmpfs", &options, Attr::NOSUID.with(Attr::NODEV))?)?;
        self.fill_run()?;
        let options = [("mode", "1777")];
        self.put(&root, "tmp", make("tmpfs", &options, Attr::NOSUID.with(Attr::NODEV))?)?;
        let options = [("mode", "0755")];
        self.put(&root, "dev", make("tmpfs", &options, Attr::NOSUID.with(Attr::NOEXEC))?)?;
        fill_dev(&root, &self.path.join("dev"))?;
        // A copy: what a tool writes to it does not reach the host's.
        if self.path.join("run/host/hosts").exists() && regular(&root, "etc/hosts") {
            self.bind(&root, "run/host/hosts", "etc/hosts")?;
        }
        let tree = Inside::open(&self.path)?;
        if tree.kind("usr/sbin")?.is_some() {
            if tree.kind(POLICY_PATH)?.is_none() {
                self.placeholder = true;
                tree.write(POLICY_PATH, b"", 0o755)?;
            }
            if regular(&root, POLICY_PATH) {
                self.bind(&root, "run/coloc/policy-rc.d", POLICY_PATH)?;
            }
        }
        self.mount_caches(&root, &tree, cache)
    }

    /// What apt downloads belongs to the base, not to a generation: an index that did not
    /// change is not downloaded again.
    fn mount_caches(&mut self, root: &OwnedFd, tree: &Inside, cache: &Path) -> Result<()> {
        if tree.kind("etc/apt")?.is_none() {
            return Ok(());
        }
        let caches = [
            ("lists", "var/lib/apt/lists", ["", "partial"]),
            ("apt", "var/cache/apt", ["archives", "archives/partial"]),
        ];
        for (name, path, inner) in caches {
            let own = cache.join(name);
            make_dir(&own, 0o755)?;
            for dir in inner {
                make_dir(&own.join(dir), 0o755)?;
            }
            tree.make_dir(path)?;
            let mount = clone_at(open_dir(&own)?)?;
            set(&mount, Attr::NOSUID.with(Attr::NODEV))?;
            self.put(root, path, mount)?;
        }
        Ok(())
    }

    fn fill_run(&self) -> Result<()> {
        let run = self.path.join("run");
        for (dir, mode) in [("host", 0o755), ("coloc", 0o755), ("lock", 0o1777)] {
            make_dir(&run.join(dir), mode)?;
        }
        for name in ["resolv.conf", "hosts"] {
            // A host without one works without one.
            if let Ok(bytes) = std::fs::read(Path::new("/etc").join(name)) {
                atomic::write(&run.join("host").join(name), &bytes, 0o644)?;
            }
        }
        atomic::write(&run.join("coloc/services"), b"", 0o666)?;
        atomic::write(&run.join("coloc/policy-rc.d"), POLICY.as_bytes(), 0o755)
    }

    fn bind(&mut self, root: &OwnedFd, from: &str, path: &'static str) -> Result<()> {
        let from = open_in(root, from, Links::Refuse, OFlags::PATH, 0)?;
        self.put(root, path, clone_at(from)?)
    }

    fn put(&mut self, root: &OwnedFd, path: &'static str, mount: OwnedFd) -> Result<()> {
        let target = open_in(root, path, Links::Refuse, OFlags::PATH, 0)
            .context(|| format!("/{path} of the base"))?;
        attach(mount, target)?;
        self.mounted.push(path);
        Ok(())
    }

    /// A new pty of the tree's own.
    pub(super) fn open_pty(&self) -> Result<tty::Pty> {
        Ok(tty::open_pty(open_dir(&self.path)?)?)
    }

    /// What the policy wrote down: services with actions, each once.
    pub(super) fn services(&self) -> Vec<String> {
        let root = open_dir(&self.path);
        let bytes = root.map(|r| crate::tree::file::read(r, "run/coloc/services", 1 << 20));
        let bytes = bytes.ok().and_then(Result::ok).unwrap_or_default();
        let text = crate::tree::file::printable(&String::from_utf8_lossy(&bytes));
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines() {
            if !line.trim().is_empty() && !lines.iter().any(|l| l == line) {
                lines.push(line.to_string());
            }
        }
        lines
    }

    /// Unmounts what [`Merged::furnish`] mounted. Nothing runs in the tree any more.
    pub(super) fn clear(&mut self) -> Result<()> {
        while let Some(path) = self.mounted.pop() {
            let full = self.path.join(path);
            // Detached: /dev has mounts of its own below it.
            unmount(&full, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                .named(|| format!("umount2({full:?}, MNT_DETACH)"))?;
        }
        if std::mem::take(&mut self.placeholder) {
            Inside::open(&self.path)?.remove(POLICY_PATH)?;
        }
        Ok(())
    }

    /// Unmounts the tree, so that the layer is plain directories again.
    pub(super) fn unmount(mut self) -> Result<Layer> {
        self.clear()?;
        unmount(&self.path, UnmountFlags::NOFOLLOW)
            .named(|| format!("umount2({:?})", self.path))
            .context(|| "something still holds the tree")?;
        let Some(memory) = self.memory else {
            return Ok(Layer { path: self.upper, _memory: None });
        };
        // It ends with its last descriptor. Only this thread sees where it is mounted.
        if let Some(place) = self.upper.parent() {
            unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                .named(|| format!("umount2({place:?}, MNT_DETACH)"))?;
        }
        let path = PathBuf::from(by_descriptor(&memory)).join("upper");
        Ok(Layer { path, _memory: Some(memory) })
    }
}

fn by_descriptor(fd: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Whether `path` is a regular file, and reached over no link.
fn regular(root: &OwnedFd, path: &str) -> bool {
    let found = open_in(root, path, Links::Refuse, OFlags::PATH, 0);
    let stat = found.ok().and_then(|fd| rustix::fs::fstat(fd).ok());
    stat.is_some_and(|s| {
        rustix::fs::FileType::from_raw_mode(s.st_mode) == rustix::fs::FileType::RegularFile
    })
}

fn fill_dev(root: &OwnedFd, dev: &Path) -> Result<()> {
    for name in NODES {
        // The host's own nodes: a nested host may not make any.
        let node = clone_path(&format!("/dev/{name}"))?;
        let kind = rustix::fs::fstat(&node).named(|| format!("fstat({name})"))?.st_mode;
        if !rustix::fs::FileType::from_raw_mode(kind).is_char_device() {
            return Err(Error::new(Kind::Unsupported, format!("/dev/{name} is no device")));
        }
        let path = format!("dev/{name}");
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let target = File::from(open_in(root, &path, Links::Refuse, flags, 0o666)?);
        attach(node, target)?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777)] {
        make_dir(&dev.join(name), mode)?;
    }
    let options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let pts = make("devpts", &options, Attr::NOSUID.with(Attr::NOEXEC))?;
    attach(pts, open_dir(dev.join("pts"))?)?;
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, target) in links {
        std::os::unix::fs::symlink(target, dev.join(name))
            .context(|| format!("cannot make /dev/{name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_forbids_and_writes_down_what_acts() {
        let dir = std::env::temp_dir().join(format!("coloc-policy-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let services = dir.join("services");
        let script = POLICY.replace("/run/coloc/services", &services.display().to_string());
        let ask = |args: &[&str]| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", &script, "policy-rc.d"]).args(args).status().unwrap().code()
        };
        for args in [
            ["--quiet", "nginx", "restart"].as_slice(),
            &["cron.service", "start"],
            &["cron", "(start)", "2"],
            &["nginx", "status"],
            &["--list"],
            &["x"],
        ] {
            assert_eq!(ask(args), Some(101), "{args:?}");
        }
        let text = std::fs::read_to_string(services).unwrap();
        assert_eq!(text, "nginx restart\ncron start\ncron start\n");
        crate::tree::remove(&dir).unwrap();
    }
}
