//! Where everything lies. `--root DIR` puts all of it under another directory.

use std::path::{Path, PathBuf};

use super::Name;

/// Makes a directory and those that lead to it, which root alone can change, whatever the umask is:
/// else the store would be refused as one that others could put aside.
pub fn make_all(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)
}

/// The places of one store.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The store under `root`; `/` is the host's own.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory that everything is under.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the host's own store.
    pub fn is_default(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A word that no other store on this host has: names cgroups and units.
    pub fn id(&self) -> String {
        use std::os::unix::ffi::OsStrExt;
        if self.is_default() {
            return "coloc".into();
        }
        // FNV-1a: short, and the same in every build.
        let hash =
            self.root.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
                (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("coloc-{:08x}", hash as u32)
    }

    /// The admin's settings.
    pub fn etc(&self) -> PathBuf {
        self.root.join("etc/coloc")
    }

    /// The config file.
    pub fn config(&self) -> PathBuf {
        self.etc().join("coloc.json")
    }

    /// The state directory, 0700.
    pub fn state(&self) -> PathBuf {
        self.root.join("var/lib/coloc")
    }

    /// What is true only until the next boot.
    pub fn run(&self) -> PathBuf {
        self.root.join("run/coloc")
    }

    /// All bases.
    pub fn bases(&self) -> PathBuf {
        self.state().join("bases")
    }

    /// One base.
    pub fn base(&self, name: &Name) -> PathBuf {
        self.bases().join(name.as_str())
    }

    /// One generation of a base.
    pub fn generation(&self, base: &Name, generation: u64) -> PathBuf {
        self.base(base).join("generations").join(generation.to_string())
    }

    /// All containers.
    pub fn containers(&self) -> PathBuf {
        self.state().join("containers")
    }

    /// Containers that are being made or taken apart. No container has this name, and it lies where
    /// they do, as [`containers`](Self::containers) is a mount: nothing is renamed into another one.
    pub fn container_staging(&self) -> PathBuf {
        self.containers().join(".staging")
    }

    /// One container.
    pub fn container(&self, name: &Name) -> PathBuf {
        self.containers().join(name.as_str())
    }

    /// The record of a container.
    pub fn record(&self, name: &Name) -> PathBuf {
        self.container(name).join("container.json")
    }

    /// The private tree of a container.
    pub fn private(&self, name: &Name) -> PathBuf {
        self.container(name).join("private")
    }

    /// An adoption under way. What is renamed into the private tree has to be on its file system,
    /// and a subvolume counts as one.
    pub fn adopt(&self, name: &Name) -> PathBuf {
        let dir = self.container(name);
        let disk = dir.join("disk");
        if disk.is_dir() { disk.join("adopt") } else { dir.join("adopt") }
    }

    /// What a container's init wrote to its console.
    pub fn console_log(&self, name: &Name) -> PathBuf {
        self.container(name).join("console.log")
    }

    /// The events journal of a container.
    pub fn events(&self, name: &Name) -> PathBuf {
        self.container(name).join("events.jsonl")
    }

    /// The events journal of the host.
    pub fn host_events(&self) -> PathBuf {
        self.state().join("events.jsonl")
    }

    /// Which generation each member saw when they last logged in to a container.
    pub fn seen(&self, name: &Name) -> PathBuf {
        self.container(name).join("seen.json")
    }

    /// Claims on id ranges.
    pub fn ids(&self) -> PathBuf {
        self.state().join("ids")
    }

    /// Work begun and not finished.
    pub fn journal(&self) -> PathBuf {
        self.state().join("journal")
    }

    /// Bases' trees that are being made or taken apart.
    pub fn staging(&self) -> PathBuf {
        self.state().join("staging")
    }

    /// Running state of one container.
    pub fn run_of(&self, name: &Name) -> PathBuf {
        self.run().join("containers").join(name.as_str())
    }

    /// What is on the network.
    pub fn network(&self) -> PathBuf {
        self.run().join("network")
    }

    /// Where the host's programs find the sockets of containers.
    pub fn sockets(&self) -> PathBuf {
        self.run().join("sockets")
    }

    /// The broker's socket.
    pub fn socket(&self) -> PathBuf {
        self.run().join("coloc.sock")
    }

    /// Makes the directories in /run as `coloc init` does, whatever the umask is.
    pub fn make_run(&self) -> std::io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let run = self.run();
        for (dir, mode) in [(run.join("containers"), 0o700), (self.locks(), 0o700), (run, 0o755)] {
            make_all(&dir)?;
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// All lock files.
    pub fn locks(&self) -> PathBuf {
        self.run().join("locks")
    }
}
