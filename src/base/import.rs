//! A tree from a root file system that was made elsewhere.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Kind, Result};

/// Directories whose content belongs to a running system, not to a base.
const NOT_TAKEN: [&str; 5] = ["dev", "proc", "sys", "run", "lost+found"];

/// Copies the directory `from`, on one file system, or unpacks the tarball `from` into `tree`,
/// which is made if it is missing.
pub fn import(from: &Path, tree: &Path) -> Result<()> {
    let meta = std::fs::metadata(from).map_err(|e| {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Failed,
        };
        Error::new(kind, format!("cannot read {}: {}", from.display(), Error::from(e)))
    })?;
    make_dir(tree)?;
    if meta.is_dir() {
        copy(from, tree, meta.dev())
    } else if meta.is_file() {
        unpack(from, tree)
    } else {
        Err(Error::new(
            Kind::Usage,
            format!("{} is neither a directory nor a tarball", from.display()),
        ))
    }
}

fn make_dir(path: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o755).create(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.context(|| format!("cannot make {}", path.display())),
    }
}

fn copy(from: &Path, tree: &Path, device: u64) -> Result<()> {
    let whole = |path: &Path| {
        std::fs::canonicalize(path).context(|| format!("cannot read {}", path.display()))
    };
    let (from, tree) = (whole(from)?, whole(tree)?);
    if tree.starts_with(&from) {
        return Err(Error::new(
            Kind::Usage,
            format!("{} contains coloc's own store", from.display()),
        )
        .hint("make a tarball of it without the store, and import that"));
    }
    let cannot_read = || format!("cannot read {}", from.display());
    let mut command = Command::new("cp");
    command.args(["-a", "-x", "--reflink=auto", "-t"]).arg(&tree).arg("--");
    let mut any = false;
    for entry in std::fs::read_dir(&from).context(cannot_read)? {
        let entry = entry.context(cannot_read)?;
        let meta = entry.metadata().context(cannot_read)?;
        let name = entry.file_name();
        // cp -x stays on the file system of each argument, so a mount right here is ours to
        // leave out.
        if NOT_TAKEN.iter().any(|n| name == *n) || meta.dev() != device {
            if meta.is_dir() {
                make_dir(&tree.join(&name))?;
            }
            continue;
        }
        any = true;
        command.arg(entry.path());
    }
    match any {
        true => run(command, "cp", &from),
        false => Err(Error::new(Kind::Usage, format!("{} is empty", from.display()))),
    }
}

fn unpack(from: &Path, tree: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command
        .args(["--extract", "--preserve-permissions", "--numeric-owner", "--same-owner"])
        .args(["--xattrs", "--xattrs-include=security.capability", "--acls", "--anchored"]);
    for name in NOT_TAKEN {
        command.arg(format!("--exclude={name}/*")).arg(format!("--exclude=./{name}/*"));
    }
    // A name with a colon would be another machine's for tar.
    command.arg("--force-local").arg("--directory").arg(tree).arg("--file").arg(from);
    run(command, "tar", from)
}

fn run(mut command: Command, name: &str, from: &Path) -> Result<()> {
    let out = command
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .context(|| format!("cannot run {name}"))?;
    if out.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&out.stderr);
    let line = text.lines().next().unwrap_or("it failed without a word");
    // tar says first how little it could write, and why for the next file.
    let error = match text.contains("No space left on device") {
        true => std::io::Error::from_raw_os_error(libc::ENOSPC).into(),
        false => Error::failed(crate::tree::file::printable(line)),
    };
    Err(error.context(format!("cannot import {}", from.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    fn sample(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("coloc-import-{name}-{}", std::process::id()));
        tree::remove(&dir).unwrap();
        for sub in ["from/usr/bin", "from/dev/x", "from/etc"] {
            std::fs::create_dir_all(dir.join(sub)).unwrap();
        }
        std::fs::File::create(dir.join("from/usr/bin/a")).unwrap();
        std::os::unix::fs::symlink("usr/bin", dir.join("from/bin")).unwrap();
        dir
    }

    fn check(tree: &Path) {
        assert!(tree.join("usr/bin/a").is_file());
        assert!(std::fs::symlink_metadata(tree.join("bin")).unwrap().is_symlink());
        assert!(tree.join("dev").is_dir() && !tree.join("dev/x").exists());
    }

    #[test]
    fn a_directory_comes_without_its_devices() {
        let dir = sample("dir");
        import(&dir.join("from"), &dir.join("tree")).unwrap();
        check(&dir.join("tree"));
        let e = import(&dir, &dir.join("tree")).unwrap_err();
        assert!(e.to_string().contains("store"), "{e}");
        assert_eq!(import(&dir.join("no"), &dir.join("t")).unwrap_err().kind(), Kind::NotFound);
        tree::remove(&dir).unwrap();
    }

    #[test]
    fn a_tarball_does_too() {
        let dir = sample("tar");
        let tarball = dir.join("a:b.tar");
        let made = Command::new("tar")
            .arg("--force-local")
            .arg("-cf")
            .arg(&tarball)
            .arg("-C")
            .arg(dir.join("from"))
            .arg(".")
            .status()
            .unwrap();
        assert!(made.success());
        import(&tarball, &dir.join("tree")).unwrap();
        check(&dir.join("tree"));
        // What is no archive is an error that names it, never an empty base.
        let e = import(&dir.join("from/usr/bin/a"), &dir.join("other")).unwrap_err();
        assert!(e.to_string().contains("from/usr/bin/a"), "{e}");
        tree::remove(&dir).unwrap();
    }
}
