//! What keeps apt and dpkg of a container off the shared `/usr`. Left alone they would stop
//! half-way, with packages neither old nor new; so they are stopped before they begin.

use crate::error::Result;
use crate::tree::inside::Inside;

const PATH: &str = "usr/lib/coloc/guard";

/// Lets through whoever can write to /usr: a transaction over the base, or an admin in a chroot.
/// For dpkg, what only finishes work on files that are there is let through too, and so is work
/// on another root directory.
const GUARD: &str = "#!/bin/sh\n\
    # Written by coloc when it publishes a generation of a base; apt and dpkg call it.\n\
    [ ! -w /usr ] && [ -z \"${DPKG_ROOT-}\" ] || exit 0\n\
    case ${DPKG_HOOK_ACTION-} in configure|triggers-only) exit 0 ;; esac\n\
    echo 'coloc: packages cannot be changed in here, as /usr is shared with others and read-only;' \\\n\
    \x20    'ask the admin of the host to put one into the base (coloc base install), or install' \\\n\
    \x20    'for yourself: in /usr/local, by pip, npm, cargo, ...' >&2\n\
    exit 1\n";

/// A generation from before the guard may be gone back to: then there is none to ask.
const APT: &str = "// Written by coloc: see /usr/lib/coloc/guard.\n\
    DPkg::Pre-Invoke { \"[ ! -x /usr/lib/coloc/guard ] || /usr/lib/coloc/guard\"; };\n";

const DPKG: &str = "# Written by coloc: see /usr/lib/coloc/guard.\n\
    pre-invoke=[ ! -x /usr/lib/coloc/guard ] || /usr/lib/coloc/guard\n";

/// Writes the guard into a tree with dpkg, and tells dpkg and apt of it.
pub(super) fn write(tree: &Inside) -> Result<()> {
    if tree.kind("usr/bin/dpkg")?.is_none() {
        return Ok(());
    }
    put(tree, PATH, GUARD, 0o755)?;
    put(tree, "etc/dpkg/dpkg.cfg.d/00coloc", DPKG, 0o644)?;
    if tree.kind("etc/apt")?.is_some() {
        put(tree, "etc/apt/apt.conf.d/00coloc", APT, 0o644)?;
    }
    Ok(())
}

fn put(tree: &Inside, path: &str, text: &str, mode: u32) -> Result<()> {
    let stat = tree.stat(path)?;
    let same = stat.is_some_and(|s| (s.st_mode, s.st_uid, s.st_gid) == (0o100_000 | mode, 0, 0));
    if same && tree.text(path)?.as_deref() == Some(text) {
        return Ok(());
    }
    if let Some((dir, _)) = path.rsplit_once('/') {
        tree.make_dir(dir)?;
    }
    tree.reset(path, text.as_bytes(), mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn only_a_tree_with_dpkg_is_guarded_and_once() {
        let dir = std::env::temp_dir().join(format!("coloc-guard-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("usr/bin")).unwrap();
        let tree = Inside::open(&dir).unwrap();
        write(&tree).unwrap();
        assert!(!dir.join(PATH).exists());
        tree.write("usr/bin/dpkg", b"", 0o755).unwrap();
        write(&tree).unwrap();
        assert!(dir.join("etc/dpkg/dpkg.cfg.d/00coloc").exists());
        assert!(!dir.join("etc/apt").exists());
        let before = std::fs::metadata(dir.join(PATH)).unwrap();
        write(&tree).unwrap();
        let after = std::fs::metadata(dir.join(PATH)).unwrap();
        assert_eq!((before.ino(), after.mode()), (after.ino(), 0o100_755));
        crate::tree::remove(&dir).unwrap();
    }

    #[test]
    fn the_guard_says_why_in_one_line_and_lets_finishing_through() {
        use std::process::Command;
        let run = |action: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", &GUARD.replace("-w /usr", "-w /nowhere")]);
            command.env("DPKG_HOOK_ACTION", action).output().unwrap()
        };
        for action in ["unpack", "install", "remove", "purge", ""] {
            let out = run(action);
            let text = String::from_utf8(out.stderr).unwrap();
            assert_eq!((out.status.code(), text.lines().count()), (Some(1), 1), "{text}");
            assert!(text.contains("coloc base install") && text.contains("/usr/local"));
        }
        for action in ["configure", "triggers-only"] {
            assert!(run(action).status.success());
        }
    }
}
