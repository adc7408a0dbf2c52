use super::*;
use std::os::unix::fs::symlink;

use crate::base::merged::{Merged, enter_namespace};

struct Trial {
    dir: PathBuf,
    /// For a layer in memory.
    room: Option<u64>,
}

impl Trial {
    fn new(name: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test must run as root");
        let dir = std::env::temp_dir().join(format!("coloc-next-{name}-{}", std::process::id()));
        crate::tree::remove(&dir).unwrap();
        let trial = Self { dir, room: None };
        for sub in ["n/tree/usr/bin", "n/tree/etc/gone", "n/tree/etc/kept", "staging"] {
            std::fs::create_dir_all(trial.dir.join(sub)).unwrap();
        }
        for (path, text) in [
            ("usr/bin/tool", "code"),
            ("usr/bin/edited", "12"),
            ("usr/bin/touched", "as it was"),
            ("usr/m.py", "python"),
            ("etc/removed", "x"),
            ("etc/gone/x", "x"),
            ("etc/kept/x", "x"),
        ] {
            super::super::publish::put(&trial.lower().join(path), text.as_bytes()).unwrap();
        }
        symlink("tool", trial.lower().join("usr/bin/link")).unwrap();
        symlink("tool", trial.lower().join("usr/bin/relinked")).unwrap();
        std::fs::hard_link(trial.lower().join("usr/bin/tool"), trial.lower().join("usr/tool2"))
            .unwrap();
        let entries = manifest::scan(&trial.lower()).unwrap();
        super::super::publish::put(
            &trial.dir.join("n/manifest"),
            manifest::text(&entries).as_bytes(),
        )
        .unwrap();
        trial
    }

    fn lower(&self) -> PathBuf {
        self.dir.join("n/tree")
    }

    /// Changes the merged tree by `work`, and makes the next generation.
    fn make(&self, work: impl FnOnce(&Path) + Send) -> (Changes, Vec<Entry>) {
        let staging = self.dir.join("staging");
        let (lower, next) = (self.lower(), self.dir.join("next"));
        let layer = std::thread::scope(|scope| {
            let body = || {
                enter_namespace().unwrap();
                let merged = Merged::mount(&lower, &staging, self.room).unwrap();
                work(merged.path());
                merged.unmount().unwrap()
            };
            scope.spawn(body).join().unwrap()
        });
        assert_eq!(staging.join("upper").exists(), self.room.is_none());
        let old = manifest_of(&self.dir.join("n")).unwrap();
        let changes = Changes::read(&lower, &layer.path, &old).unwrap();
        let linked = link_all(&lower, &next, &old).unwrap();
        let entries = materialise(linked, &changes, &lower, &layer.path, &old).unwrap();
        assert_eq!(entries, manifest::scan(&next).unwrap(), "the manifest is not the tree");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("coloc-next-"), "something is mounted on the host");
        (changes, entries)
    }

    fn inode(&self, path: &str) -> (u64, u64) {
        let inode = |p: PathBuf| std::fs::symlink_metadata(p).map_or(0, |m| m.ino());
        (inode(self.lower().join(path)), inode(self.dir.join("next").join(path)))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = crate::tree::remove(&self.dir);
    }
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

fn rewrite(path: &Path, text: &str) {
    let new = path.with_extension("new");
    super::super::publish::put(&new, text.as_bytes()).unwrap();
    std::fs::rename(&new, path).unwrap();
}

#[test]
fn unchanged_files_are_the_same_inode_and_n_is_untouched() {
    all_kinds_of_change(&Trial::new("all"));
}

#[test]
fn a_layer_in_memory_makes_the_same() {
    let mut trial = Trial::new("memory");
    trial.room = Some(16 << 20);
    all_kinds_of_change(&trial);
}

fn all_kinds_of_change(trial: &Trial) {
    let before = manifest::scan(&trial.lower()).unwrap();
    let (changes, _) = trial.make(|tree| {
        append(&tree.join("usr/bin/edited"), "3");
        rewrite(&tree.join("usr/bin/touched"), "as it was");
        rewrite(&tree.join("usr/m.py"), "python");
        std::fs::remove_file(tree.join("etc/removed")).unwrap();
        crate::tree::remove(&tree.join("etc/gone")).unwrap();
        // A new directory where another was: nothing of the old one shows.
        crate::tree::remove(&tree.join("etc/kept")).unwrap();
        std::fs::create_dir(tree.join("etc/kept")).unwrap();
        rewrite(&tree.join("etc/kept/y"), "y");
        std::fs::remove_file(tree.join("usr/bin/relinked")).unwrap();
        symlink("edited", tree.join("usr/bin/relinked")).unwrap();
        rewrite(&tree.join("usr/one"), "both");
        std::fs::hard_link(tree.join("usr/one"), tree.join("usr/two")).unwrap();
        nix::unistd::mkfifo(&tree.join("usr/fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::os::unix::fs::lchown(tree.join("usr/bin/relinked"), Some(7), Some(8)).unwrap();
        std::os::unix::fs::chown(tree.join("usr/one"), Some(3), Some(4)).unwrap();
        let file = std::fs::File::open(tree.join("usr/one")).unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(0o4711)).unwrap();
        let mut capability = 0x0200_0001_u32.to_le_bytes().to_vec();
        capability.extend_from_slice(&[1; 16]);
        let path = tree.join("usr/one");
        lsetxattr(&path, manifest::CAPABILITY, &capability, XattrFlags::empty()).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(9, 5)).unwrap();
        let mode = std::fs::Permissions::from_mode(0o750);
        std::fs::set_permissions(tree.join("usr/bin"), mode).unwrap();
    });
    assert!(!changes.is_empty());
    assert_eq!(manifest::scan(&trial.lower()).unwrap(), before);
    for same in ["usr/bin/tool", "usr/tool2", "usr/bin/link", "usr/bin/touched"] {
        let (old, new) = trial.inode(same);
        assert_eq!(old, new, "{same}");
    }
    for other in ["usr/bin/edited", "usr/m.py", "usr/bin/relinked", "usr/bin"] {
        let (old, new) = trial.inode(other);
        assert!(new != 0 && old != new, "{other}");
    }
    assert_eq!(trial.inode("usr/one").1, trial.inode("usr/two").1);
    for gone in ["etc/removed", "etc/gone", "etc/kept/x"] {
        assert_eq!(trial.inode(gone).1, 0, "{gone}");
    }
    let next = trial.dir.join("next");
    assert_eq!(std::fs::read_to_string(next.join("usr/bin/edited")).unwrap(), "123");
    let one = std::fs::metadata(next.join("usr/one")).unwrap();
    assert_eq!((one.mode() & 0o7777, one.uid(), one.gid()), (0o4711, 3, 4));
    assert_eq!((one.mtime(), one.mtime_nsec()), (9, 5));
    assert!(xattr(&next.join("usr/one"), manifest::CAPABILITY).unwrap().is_some());
    let link = std::fs::symlink_metadata(next.join("usr/bin/relinked")).unwrap();
    assert_eq!((link.uid(), link.gid()), (7, 8));
    assert!(std::fs::symlink_metadata(next.join("usr/fifo")).unwrap().file_type().is_fifo());
    let meta = std::fs::metadata(next.join("usr/bin")).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o750);
    for path in ["", "usr/bin", "etc/kept", "usr/bin/edited"] {
        let left = names(&next.join(path)).unwrap();
        assert!(left.iter().all(|n| !n.as_bytes().starts_with(OVERLAY)), "{path}: {left:?}");
    }
}

#[test]
fn what_comes_back_to_what_it_was_is_no_change() {
    let trial = Trial::new("same");
    let (changes, entries) = trial.make(|tree| {
        rewrite(&tree.join("usr/bin/tool"), "code");
        std::fs::remove_file(tree.join("usr/tool2")).unwrap();
        std::fs::hard_link(tree.join("usr/bin/tool"), tree.join("usr/tool2")).unwrap();
        rewrite(&tree.join("etc/scratch"), "");
        std::fs::remove_file(tree.join("etc/scratch")).unwrap();
    });
    assert!(changes.is_empty());
    let files = |list: &[Entry]| -> Vec<Entry> {
        list.iter().filter(|e| e.kind != "dir").cloned().collect()
    };
    let was = manifest::read(&trial.dir.join("n")).unwrap();
    assert_eq!(files(&entries), files(&was));
}

#[test]
fn a_damaged_file_is_mended_not_linked() {
    let trial = Trial::new("mended");
    // In place, with the same size: only its bytes tell.
    let path = trial.lower().join("usr/bin/touched");
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"A", 0).unwrap();
    let (changes, _) = trial.make(|tree| rewrite(&tree.join("usr/bin/touched"), "as it was"));
    assert!(!changes.is_empty());
    let (old, new) = trial.inode("usr/bin/touched");
    assert_ne!(old, new);
}

#[test]
fn names_that_parted_are_parted() {
    let trial = Trial::new("parted");
    trial.make(|tree| {
        rewrite(&tree.join("usr/bin/tool"), "other");
        std::fs::remove_file(tree.join("usr/bin/link")).unwrap();
        std::fs::hard_link(tree.join("usr/bin/tool"), tree.join("usr/bin/link")).unwrap();
    });
    let (old, new) = trial.inode("usr/tool2");
    assert_eq!(old, new);
    assert_eq!(trial.inode("usr/bin/tool").1, trial.inode("usr/bin/link").1);
    assert_ne!(trial.inode("usr/bin/tool").1, new);
}
