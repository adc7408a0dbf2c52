//! Whole adoptions of small trees: every class of path, the way back, a crash at each step, and
//! a member who changes things meanwhile.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::error::{Error, Result};
use crate::tree::copy::{self, Shift};
use crate::tree::manifest;

/// A small tree: `path` and content; `->x` is a link to x, a path that ends in `/` a directory.
type Files<'a> = &'a [(&'a str, &'a str)];

struct World {
    dir: PathBuf,
    shift: u32,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = crate::tree::remove(&self.dir);
    }
}

fn put(root: &Path, path: &str, content: &str) {
    let full = root.join(path.trim_end_matches('/'));
    std::fs::create_dir_all(full.parent().unwrap()).unwrap();
    if let Ok(meta) = std::fs::symlink_metadata(&full) {
        match meta.is_dir() {
            true if path.ends_with('/') => return,
            true => crate::tree::remove(&full).unwrap(),
            false => std::fs::remove_file(&full).unwrap(),
        }
    }
    match content.strip_prefix("->") {
        _ if path.ends_with('/') => std::fs::create_dir(&full).unwrap(),
        Some(target) => symlink(target, &full).unwrap(),
        None => {
            use std::io::Write;
            std::fs::File::create(&full).unwrap().write_all(content.as_bytes()).unwrap();
        }
    }
}

impl World {
    fn new(old: Files<'_>, new: Files<'_>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("coloc-adopt-{}-{n}", std::process::id()));
        let root = rustix::process::geteuid().is_root();
        let world = Self { dir, shift: if root { 1_000_000 } else { 0 } };
        for (name, files) in [("1", old), ("2", new)] {
            let tree = world.dir.join(name).join("tree");
            for dir in ["usr", "etc", "var"] {
                std::fs::create_dir_all(tree.join(dir)).unwrap();
            }
            for (path, content) in files {
                put(&tree, path, content);
            }
            world.publish(name);
        }
        let private = world.private();
        std::fs::create_dir_all(&private).unwrap();
        let (from, to) =
            (std::fs::File::open(world.tree("1")).unwrap(), std::fs::File::open(&private).unwrap());
        let (from, to) = (std::os::fd::OwnedFd::from(from), std::os::fd::OwnedFd::from(to));
        use std::os::fd::AsFd;
        copy::contents(from.as_fd(), to.as_fd(), Shift(world.shift), &|n| n == "usr").unwrap();
        world
    }

    fn publish(&self, generation: &str) {
        let entries = manifest::scan(&self.tree(generation)).unwrap();
        let path = self.dir.join(generation).join("manifest");
        crate::store::atomic::write(&path, manifest::text(&entries).as_bytes(), 0o600).unwrap();
    }

    fn tree(&self, generation: &str) -> PathBuf {
        self.dir.join(generation).join("tree")
    }

    fn private(&self) -> PathBuf {
        self.dir.join("private")
    }

    fn mine(&self, path: &str, content: &str) {
        put(&self.private(), path, content);
    }

    fn delete(&self, path: &str) {
        crate::tree::remove(&self.private().join(path)).unwrap();
    }

    fn read(&self, path: &str) -> Option<String> {
        let full = self.private().join(path);
        match std::fs::symlink_metadata(&full).ok()? {
            m if m.is_symlink() => Some(format!("->{}", full.read_link().unwrap().display())),
            m if m.is_dir() => Some("dir".into()),
            m if m.is_file() => {
                Some(String::from_utf8_lossy(&std::fs::read(&full).unwrap()).into())
            }
            _ => Some("special".into()),
        }
    }

    /// Runs `f` with the delta and the place of an adoption from one generation to another.
    fn with<T>(&self, from: u64, to: u64, f: impl FnOnce(&Delta, &Place<'_>) -> T) -> T {
        let generation = |n: u64| self.dir.join(n.to_string());
        let delta = delta(&generation(from), &generation(to)).unwrap();
        let (private, stage) = (self.private(), self.dir.join("adopt"));
        let place = Place {
            private: &private,
            shift: self.shift,
            stage: &stage,
            old_generation: from,
            new_generation: to,
        };
        f(&delta, &place)
    }

    fn adopt(&self, from: u64, to: u64) -> Applied {
        self.with(from, to, |delta, place| {
            let foretold = predict(delta, place).unwrap();
            let plan = plan(delta, place).unwrap();
            assert_eq!(load(place.stage).unwrap().as_ref(), Some(&plan));
            assert!(!plan.moved(place).unwrap());
            let applied = commit(&plan, place).unwrap();
            assert_eq!(foretold.notes, applied.notes);
            assert_eq!(foretold.inside, applied.inside);
            assert_eq!(foretold.conflicts, applied.conflicts);
            applied
        })
    }

    /// Everything in the private tree: mode, owner, content.
    fn snapshot(&self) -> BTreeMap<String, (u32, u32, String)> {
        let list = manifest::walk(&self.private()).unwrap();
        let shown = |(path, meta): (PathBuf, std::fs::Metadata)| {
            let path = path.to_string_lossy().into_owned();
            let content = self.read(&path).unwrap();
            (path, (meta.mode(), meta.uid(), content))
        };
        list.into_iter().map(shown).collect()
    }
}

const BASE: Files<'_> = &[
    ("etc/taken.conf", "old\n"),
    ("etc/merged.conf", "a\nb\nc\nd\ne\nf\n"),
    ("etc/both.conf", "old\n"),
    ("etc/deleted.conf", "old\n"),
    ("etc/same.conf", "old\n"),
    ("etc/gone.conf", "old\n"),
    ("etc/gone-but-mine.conf", "old\n"),
    ("etc/gone.d/x", "old\n"),
    ("etc/gone-with-mine.d/x", "old\n"),
    ("etc/binary", "old\0"),
    ("etc/mode", "same\n"),
    ("etc/turns-dir", "old\n"),
    ("etc/turns-file/x", "old\n"),
    ("etc/systemd/system/multi-user.target.wants/a.service", "->/lib/a"),
    ("etc/systemd/system/multi-user.target.wants/off.service", "->/lib/off"),
    ("etc/systemd/system/masked.service", "->/lib/m"),
    ("etc/alternatives/vi", "->/usr/bin/vi1"),
    ("etc/ssh/ssh_host_x", "old\n"),
    ("etc/machine-id", ""),
    ("var/log/x.log", "old\n"),
    ("var/cache/debconf/config.dat", "Name: a\nValue: 1\n\nName: b\nValue: 1\n\n"),
    ("var/lib/apt/extended_states", "old\n"),
];

const NEXT: Files<'_> = &[
    ("etc/taken.conf", "new\n"),
    ("etc/merged.conf", "a\nb\nc\nd\ne\nNEW\n"),
    ("etc/both.conf", "new\n"),
    ("etc/deleted.conf", "new\n"),
    ("etc/same.conf", "new\n"),
    ("etc/binary", "new\0"),
    ("etc/mode", "same\n"),
    ("etc/turns-dir/x", "new\n"),
    ("etc/turns-file", "new\n"),
    ("etc/added.conf", "new\n"),
    ("etc/added-but-mine.conf", "new\n"),
    ("etc/added.d/deep/x", "new\n"),
    ("etc/systemd/system/multi-user.target.wants/a.service", "->/lib/a2"),
    ("etc/systemd/system/multi-user.target.wants/off.service", "->/lib/off2"),
    ("etc/systemd/system/multi-user.target.wants/added.service", "->/lib/added"),
    ("etc/systemd/system/masked.service", "->/lib/m2"),
    ("etc/alternatives/vi", "->/usr/bin/vi2"),
    ("etc/ssh/ssh_host_x", "new\n"),
    ("etc/machine-id", "x"),
    ("var/log/x.log", "new\n"),
    ("var/log/nginx/", ""),
    ("var/cache/debconf/config.dat", "Name: a\nValue: 2\n\nName: b\nValue: 2\n\nName: c\n\n"),
    ("var/lib/apt/extended_states", "new\n"),
];

/// A member who has changed one file of each sort.
fn lived_in() -> World {
    let world = World::new(BASE, NEXT);
    let mode = |path: &str| {
        std::fs::set_permissions(
            world.tree("2").join(path),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .unwrap();
    };
    mode("etc/mode");
    mode("etc/taken.conf");
    world.publish("2");
    world.mine("etc/merged.conf", "MINE\nb\nc\nd\ne\nf\n");
    world.mine("etc/both.conf", "mine\n");
    world.delete("etc/deleted.conf");
    world.mine("etc/same.conf", "new\n");
    world.mine("etc/gone-but-mine.conf", "mine\n");
    world.mine("etc/gone-with-mine.d/y", "mine\n");
    world.mine("etc/binary", "mine\0");
    world.delete("etc/systemd/system/multi-user.target.wants/off.service");
    world.mine("etc/systemd/system/masked.service", "->/dev/null");
    world.mine("etc/added-but-mine.conf", "mine\n");
    world.mine("etc/ssh/ssh_host_x", "mine\n");
    world.mine(
        "var/cache/debconf/config.dat",
        "Name: a\nValue: 9\n\nName: b\nValue: 1\n\nName: own\n\n",
    );
    world.mine("var/lib/apt/extended_states", "mine\n");
    world.mine("home/me/text", "mine\n");
    world
}

#[test]
fn each_sort_of_path_goes_its_way() {
    let world = lived_in();
    let applied = world.adopt(1, 2);
    let expected: Files<'_> = &[
        ("etc/taken.conf", "new\n"),
        ("etc/merged.conf", "MINE\nb\nc\nd\ne\nNEW\n"),
        ("etc/both.conf", "mine\n"),
        ("etc/both.conf.dpkg-dist", "new\n"),
        ("etc/same.conf", "new\n"),
        ("etc/gone-but-mine.conf", "mine\n"),
        ("etc/gone-with-mine.d/y", "mine\n"),
        ("etc/binary", "mine\0"),
        ("etc/binary.dpkg-dist", "new\0"),
        ("etc/turns-dir/x", "new\n"),
        ("etc/turns-file", "new\n"),
        ("etc/added.conf", "new\n"),
        ("etc/added-but-mine.conf", "mine\n"),
        ("etc/added-but-mine.conf.dpkg-dist", "new\n"),
        ("etc/added.d/deep/x", "new\n"),
        ("etc/systemd/system/multi-user.target.wants/a.service", "->/lib/a2"),
        ("etc/systemd/system/multi-user.target.wants/added.service", "->/lib/added"),
        ("etc/systemd/system/masked.service", "->/dev/null"),
        ("etc/alternatives/vi", "->/usr/bin/vi2"),
        ("etc/ssh/ssh_host_x", "mine\n"),
        ("etc/machine-id", ""),
        ("var/log/x.log", "old\n"),
        ("var/log/nginx", "dir"),
        (
            "var/cache/debconf/config.dat",
            "Name: a\nValue: 9\n\nName: b\nValue: 2\n\nName: c\n\nName: own\n\n",
        ),
        ("var/lib/apt/extended_states", "new\n"),
        ("home/me/text", "mine\n"),
    ];
    for (path, content) in expected {
        assert_eq!(world.read(path).as_deref(), Some(*content), "{path}");
    }
    let absent = [
        "etc/deleted.conf",
        "etc/deleted.conf.dpkg-dist",
        "etc/gone.conf",
        "etc/gone.d",
        "etc/gone-with-mine.d/x",
        "etc/systemd/system/multi-user.target.wants/off.service",
    ];
    for path in absent {
        assert_eq!(world.read(path), None, "{path}");
    }
    let conflicts: Vec<&str> = applied.conflicts.iter().map(|c| c.path.as_str()).collect();
    assert_eq!(conflicts, ["etc/added-but-mine.conf", "etc/binary", "etc/both.conf"]);
    assert_eq!(applied.inside, [Inside::DaemonReload]);
    assert_eq!(applied.notes.len(), 1, "{:?}", applied.notes);
    let meta = std::fs::metadata(world.private().join("etc/taken.conf")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o600, world.shift + own_uid()));
    let mode = std::fs::metadata(world.private().join("etc/mode")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[test]
fn the_way_back_ends_where_it_began() {
    let world = lived_in();
    // What the member made the same as the base cannot be told from the base's, and what the
    // package database's own state was is not asked for.
    world.mine("etc/same.conf", "old\n");
    world.mine("var/lib/apt/extended_states", "old\n");
    world.delete("etc/gone.d");
    world.delete("etc/gone-with-mine.d/x");
    let mut before = world.snapshot();
    let there = world.adopt(1, 2);
    assert_eq!(there.conflicts.len(), 3);
    let back = world.adopt(2, 1);
    assert!(back.conflicts.is_empty(), "{:?}", back.conflicts);
    let mut after = world.snapshot();
    // A file that both had deleted is new to the old generation.
    for path in ["etc/gone.d", "etc/gone.d/x", "etc/gone-with-mine.d/x"] {
        after.remove(path);
        before.remove(path);
    }
    assert_eq!(before, after);
}

#[test]
fn a_second_adoption_finds_nothing_to_do() {
    let world = lived_in();
    let first = world.adopt(1, 2);
    let before = world.snapshot();
    let second = world.adopt(1, 2);
    assert_eq!(before, world.snapshot());
    assert_eq!(first.conflicts, second.conflicts);
}

/// Stops after each step in turn and carries on: it ends as without a stop.
#[test]
fn a_crash_at_any_step_changes_nothing_in_the_end() {
    let world = lived_in();
    let whole = world.adopt(1, 2);
    let expected = world.snapshot();
    drop(world);
    let mut steps = 0;
    loop {
        let world = lived_in();
        let stopped = world.with(1, 2, |delta, place| {
            let plan = plan(delta, place).unwrap();
            let mut left = steps;
            let first = apply::run(&plan, place, &mut |step| match left {
                0 => Err(Error::failed(step)),
                _ => {
                    left -= 1;
                    Ok(())
                }
            });
            let plan = load(place.stage).unwrap().unwrap();
            let again = commit(&plan, place).unwrap();
            assert_eq!(again.conflicts, whole.conflicts, "step {steps}");
            assert_eq!(again.notes, whole.notes, "step {steps}");
            first.is_err()
        });
        assert_eq!(world.snapshot(), expected, "step {steps}");
        if !stopped {
            break;
        }
        steps += 1;
    }
    assert!(steps > 40, "{steps}");
}

#[test]
fn what_changes_after_the_plan_stays_and_is_seen() {
    let world = lived_in();
    world.with(1, 2, |delta, place| {
        let plan = plan(delta, place).unwrap();
        world.mine("etc/taken.conf", "mine, late\n");
        world.mine("etc/gone.conf", "mine, late\n");
        world.mine("etc/added.conf", "mine, late\n");
        world.delete("etc/merged.conf");
        world.mine("etc/alternatives/vi", "->/usr/bin/mine");
        assert!(plan.moved(place).unwrap());
        let applied = commit(&plan, place).unwrap();
        for path in ["etc/taken.conf", "etc/gone.conf", "etc/added.conf"] {
            assert_eq!(world.read(path).unwrap(), "mine, late\n", "{path}");
        }
        assert_eq!(world.read("etc/taken.conf.dpkg-dist").unwrap(), "new\n");
        assert_eq!(world.read("etc/added.conf.dpkg-dist").unwrap(), "new\n");
        assert_eq!(world.read("etc/merged.conf"), None);
        assert_eq!(world.read("etc/alternatives/vi").unwrap(), "->/usr/bin/mine");
        assert_eq!(applied.conflicts.len(), 5, "{:?}", applied.conflicts);
        // Carried out again, it says the same.
        let again = commit(&plan, place).unwrap();
        assert_eq!(again.conflicts, applied.conflicts);
    });
}

/// An in-place write in the moment between looking and exchanging is found and put back.
#[test]
fn what_came_out_is_looked_at() {
    let world = lived_in();
    world.with(1, 2, |delta, place| {
        let plan = plan(delta, place).unwrap();
        let written = std::cell::Cell::new(false);
        let mut open = std::fs::OpenOptions::new();
        let file = open.write(true).open(world.private().join("etc/taken.conf")).unwrap();
        let applied = apply::run(&plan, place, &mut |step| {
            if step == "adopt.exchanged" && !written.get() {
                use std::io::Write;
                // A process inside still has the old file open, whichever is being exchanged.
                written.set(world.read("etc/taken.conf").unwrap() == "new\n");
                if written.get() {
                    (&file).write_all(b"mine, very late\n").unwrap();
                }
            }
            Ok(())
        })
        .unwrap();
        assert!(written.get());
        assert_eq!(world.read("etc/taken.conf").unwrap(), "mine, very late\n");
        assert_eq!(world.read("etc/taken.conf.dpkg-dist").unwrap(), "new\n");
        assert_eq!(applied.conflicts.len(), 4);
    });
}

#[test]
fn hostile_shapes_are_survived() {
    let world = World::new(BASE, NEXT);
    let private = world.private();
    let outside = world.dir.join("outside");
    std::fs::create_dir_all(outside.join("deep")).unwrap();
    for path in ["etc/taken.conf", "etc/both.conf", "etc/gone.conf", "etc/alternatives/vi"] {
        world.delete(path);
    }
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&private.join("etc/taken.conf"), mode).unwrap();
    std::fs::create_dir(private.join("etc/both.conf")).unwrap();
    symlink(outside.join("target"), private.join("etc/gone.conf")).unwrap();
    std::fs::File::create(private.join("etc/alternatives/vi")).unwrap().set_len(1 << 40).unwrap();
    std::fs::File::create(private.join("etc/same.conf")).unwrap().set_len(1 << 40).unwrap();
    // A directory that is a link is not followed, neither out of the tree nor within it.
    world.delete("etc/systemd/system");
    symlink(&outside, private.join("etc/systemd/system")).unwrap();
    std::fs::rename(private.join("var/cache"), private.join("var/elsewhere")).unwrap();
    symlink("/var/elsewhere", private.join("var/cache")).unwrap();
    let applied = world.adopt(1, 2);
    assert_eq!(world.read("etc/taken.conf").unwrap(), "special");
    assert_eq!(world.read("etc/taken.conf.dpkg-dist").unwrap(), "new\n");
    assert_eq!(world.read("etc/both.conf").unwrap(), "dir");
    assert!(world.read("etc/gone.conf").unwrap().ends_with("target"));
    assert!(world.read("var/elsewhere/debconf/config.dat").unwrap().contains("Value: 1"));
    for link in ["/etc/systemd/system", "/var/cache"] {
        let note = format!("{link} is a link; what the base changes below it is not put in");
        assert!(applied.notes.contains(&note), "{:?}", applied.notes);
    }
    assert_eq!(manifest::walk(&outside).unwrap().len(), 2);
    assert!(applied.conflicts.iter().any(|c| c.path == "etc/same.conf"));
}

/// A member who replaces files and directories all the while: what they wrote last is there, and
/// nothing outside their tree is touched.
#[test]
fn a_race_loses_nothing() {
    for round in 0..8 {
        let world = lived_in();
        let private = world.private();
        let outside = world.dir.join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        let stop = AtomicBool::new(false);
        let last = std::thread::scope(|scope| {
            let member = scope.spawn(|| {
                let mut n = 0_u32;
                let etc = private.join("etc");
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    for name in ["taken.conf", "merged.conf", "gone.conf", "added.conf"] {
                        put(&private, "etc/tmp", &format!("mine {n}\n"));
                        std::fs::rename(etc.join("tmp"), etc.join(name)).unwrap();
                    }
                    let _ = std::fs::rename(etc.join("alternatives"), etc.join("alt"));
                    let _ = symlink(&outside, etc.join("alternatives"));
                    let _ = std::fs::remove_file(etc.join("alternatives"));
                    let _ = std::fs::rename(etc.join("alt"), etc.join("alternatives"));
                }
                n
            });
            world.with(1, 2, |delta, place| {
                std::thread::sleep(std::time::Duration::from_millis(round));
                let plan = plan(delta, place).unwrap();
                commit(&plan, place).unwrap();
            });
            stop.store(true, Ordering::Relaxed);
            member.join().unwrap()
        });
        for name in ["taken.conf", "merged.conf", "gone.conf", "added.conf"] {
            // A put-back brings back what it took out, or what was newer.
            let text = world.read(&format!("etc/{name}"));
            assert_eq!(text.as_deref(), Some(&*format!("mine {last}\n")), "{name}");
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}

/// A member who writes at each moment of a putting back: what they wrote last stays.
#[test]
fn the_newest_of_what_a_member_wrote_is_in_its_place() {
    for writes in 1..6 {
        let world = lived_in();
        let path = "etc/taken.conf";
        world.with(1, 2, |delta, place| {
            let plan = plan(delta, place).unwrap();
            let number = plan.actions.iter().position(|action| action.path == path).unwrap();
            let out = place.stage.join("new").join(number.to_string());
            let (mut is_out, mut done) = (false, 0);
            let mut member = |step: &str| {
                if step == "adopt.exchanged" && world.read(path).as_deref() == Some("new\n") {
                    is_out = true;
                    // They had it open.
                    let mut file = std::fs::OpenOptions::new().append(true).open(&out).unwrap();
                    std::io::Write::write_all(&mut file, b"more").unwrap();
                }
                if is_out && done < writes && matches!(step, "adopt.exchanged" | "adopt.returned") {
                    done += 1;
                    world.mine("etc/tmp", &format!("mine {done}\n"));
                    std::fs::rename(place.private.join("etc/tmp"), place.private.join(path))
                        .unwrap();
                }
                Ok(())
            };
            apply::run(&plan, place, &mut member).unwrap();
            assert_eq!(done, writes);
        });
        assert_eq!(world.read(path), Some(format!("mine {writes}\n")));
    }
}

#[test]
fn accounts_go_together_and_a_clash_puts_the_base_s_beside() {
    let old: Files<'_> = &[
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        ("etc/group", "root:x:0:\n"),
        ("etc/shadow", "root:*:1::::::\n"),
    ];
    let new: Files<'_> = &[
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\nn:x:110:110::/:/bin/sh\n"),
        ("etc/group", "root:x:0:\nn:x:110:\n"),
        ("etc/shadow", "root:*:1::::::\nn:!:1::::::\n"),
    ];
    let world = World::new(old, new);
    world.mine("etc/shadow", "root:$y$mine:1::::::\n");
    let before = world.snapshot();
    let applied = world.adopt(1, 2);
    assert!(applied.conflicts.is_empty());
    assert_eq!(world.read("etc/shadow").unwrap(), "root:$y$mine:1::::::\nn:!:1::::::\n");
    assert!(world.read("etc/passwd").unwrap().contains("\nn:x:110:"));
    world.adopt(2, 1);
    assert_eq!(world.snapshot(), before);
    world.mine("etc/group", "root:x:0:\nmine:x:110:\n");
    let applied = world.adopt(1, 2);
    assert!(applied.conflicts[0].what.contains("mine"), "{:?}", applied.conflicts);
    assert_eq!(world.read("etc/group").unwrap(), "root:x:0:\nmine:x:110:\n");
    assert!(!world.read("etc/passwd").unwrap().contains("n:x:110"));
    let refused = resolve(&world.private(), world.shift, &applied.conflicts[0], &Take::Base);
    assert!(refused.unwrap_err().to_string().contains("accounts"));
    resolve(&world.private(), world.shift, &applied.conflicts[0], &Take::Mine).unwrap();
    assert_eq!(world.read("etc/group.dpkg-dist"), None);
}

const CERTS: [Files<'static>; 2] = [
    &[
        ("etc/ca-certificates.conf", "m/a.crt\nm/b.crt\n"),
        ("etc/ssl/certs/a.pem", "->/usr/share/a"),
        ("etc/ssl/certs/b.pem", "->/usr/share/b"),
        ("etc/ssl/certs/ca-certificates.crt", "a b\n"),
        ("etc/ld.so.conf", "include\n"),
        ("etc/ld.so.conf.d/libc.conf", "/usr/local/lib\n"),
        ("etc/ld.so.cache", "old\0"),
        ("var/usrlocal/lib/", ""),
        ("var/usrlocal/share/ca-certificates/", ""),
    ],
    &[
        ("etc/ca-certificates.conf", "m/a.crt\nm/c.crt\n"),
        ("etc/ssl/certs/a.pem", "->/usr/share/a"),
        ("etc/ssl/certs/c.pem", "->/usr/share/c"),
        ("etc/ssl/certs/ca-certificates.crt", "a c\n"),
        ("etc/ld.so.conf", "include\n"),
        ("etc/ld.so.conf.d/libc.conf", "/usr/local/lib\n"),
        ("etc/ld.so.cache", "new\0"),
        ("var/usrlocal/lib/", ""),
        ("var/usrlocal/share/ca-certificates/", ""),
    ],
];

#[test]
fn generated_files_come_from_the_base_if_they_are_made_of_the_same() {
    let world = World::new(CERTS[0], CERTS[1]);
    let before = world.snapshot();
    let applied = world.adopt(1, 2);
    assert!(applied.inside.is_empty(), "{:?}", applied.inside);
    assert_eq!(world.read("etc/ssl/certs/c.pem").unwrap(), "->/usr/share/c");
    assert_eq!(world.read("etc/ssl/certs/b.pem"), None);
    assert_eq!(world.read("etc/ssl/certs/ca-certificates.crt").unwrap(), "a c\n");
    assert_eq!(world.read("etc/ld.so.cache").unwrap(), "new\0");
    world.adopt(2, 1);
    assert_eq!(world.snapshot(), before);
}

#[test]
fn generated_files_are_made_inside_if_the_member_added_to_them() {
    let cases: [(&str, &str, &[Inside]); 5] = [
        ("etc/ca-certificates.conf", "m/a.crt\n!m/b.crt\n", &[Inside::CaCertificates]),
        ("var/usrlocal/share/ca-certificates/own.crt", "x", &[Inside::CaCertificates]),
        ("etc/ssl/certs/ca-certificates.crt", "own\n", &[Inside::CaCertificates]),
        ("var/usrlocal/lib/libown.so.1", "x", &[Inside::Ldconfig]),
        ("etc/ld.so.conf.d/own.conf", "/opt/lib\n", &[Inside::Ldconfig]),
    ];
    for (path, content, inside) in cases {
        let world = World::new(CERTS[0], CERTS[1]);
        world.mine(path, content);
        assert_eq!(world.adopt(1, 2).inside, inside, "{path}");
        let certs = inside[0] == Inside::CaCertificates;
        assert_eq!(world.read("etc/ssl/certs/b.pem").is_some(), certs, "{path}");
        assert_eq!(world.read("etc/ld.so.cache").unwrap() == "new\0", certs, "{path}");
    }
    // What lies behind a link is not looked at, so it may be of the member's.
    let world = World::new(CERTS[0], CERTS[1]);
    std::fs::rename(world.private().join("var/usrlocal"), world.private().join("var/l")).unwrap();
    world.mine("var/usrlocal", "->l");
    assert_eq!(world.adopt(1, 2).inside, [Inside::Ldconfig, Inside::CaCertificates]);
}

#[test]
fn stamps_follow_usr_where_they_were_its() {
    let world = World::new(&[("etc/x", "")], &[("etc/x", "")]);
    let usr = |n: &str| std::fs::metadata(world.tree(n).join("usr")).unwrap().modified().unwrap();
    let set = |time| {
        world.mine("etc/.updated", "");
        let file = std::fs::File::options().write(true).open(world.private().join("etc/.updated"));
        file.unwrap().set_times(std::fs::FileTimes::new().set_modified(time)).unwrap();
    };
    let get =
        || std::fs::metadata(world.private().join("etc/.updated")).unwrap().modified().unwrap();
    set(usr("1"));
    assert_eq!(world.adopt(1, 2).changed, 1);
    assert_eq!(get(), usr("2"));
    set(std::time::UNIX_EPOCH);
    world.adopt(1, 2);
    assert_eq!(get(), std::time::UNIX_EPOCH);
}

/// coloc's own edit of these two files at creation is no conflict.
#[test]
fn the_system_id_range_is_no_conflict() {
    let conf = |extra: &str| {
        format!("# ids\nFIRST_SYSTEM_UID=100\nLAST_SYSTEM_UID=999\n\n# home\nDHOME=/home\n{extra}")
    };
    let (old, new) = (conf(""), conf("# more\nNEW=1\n"));
    let world = World::new(&[("etc/adduser.conf", &old)], &[("etc/adduser.conf", &new)]);
    let own = |text: &str| text.replace("UID=100", "UID=500").replace("UID=999", "UID=899");
    world.mine("etc/adduser.conf", &own(&old));
    assert!(world.adopt(1, 2).conflicts.is_empty());
    assert_eq!(world.read("etc/adduser.conf").unwrap(), own(&new));
    world.adopt(2, 1);
    assert_eq!(world.read("etc/adduser.conf").unwrap(), own(&old));
}

#[test]
fn conflicts_are_shown_and_end() -> Result<()> {
    let world = lived_in();
    let list = world.adopt(1, 2).conflicts;
    let private = world.private();
    assert_eq!(unresolved(&private, &list), list);
    let find = |path: &str| list.iter().find(|c| c.path == path).unwrap();
    let both = find("etc/both.conf");
    let (mine, base) = texts(&private, both)?;
    let shown = difference(both, &mine, &base).unwrap();
    assert!(shown.contains("-mine\n+new\n") && shown.contains("/etc/both.conf"), "{shown}");
    resolve(&private, world.shift, both, &Take::Text(b"agreed\n".to_vec()))?;
    assert_eq!(world.read("etc/both.conf").unwrap(), "agreed\n");
    let binary = find("etc/binary");
    let (mine, base) = texts(&private, binary)?;
    assert!(difference(binary, &mine, &base).is_none());
    resolve(&private, world.shift, binary, &Take::Base)?;
    assert_eq!(world.read("etc/binary").unwrap(), "new\0");
    resolve(&private, world.shift, find("etc/added-but-mine.conf"), &Take::Mine)?;
    assert_eq!(world.read("etc/added-but-mine.conf").unwrap(), "mine\n");
    assert!(unresolved(&private, &list).is_empty());
    let again = resolve(&private, world.shift, both, &Take::Mine).unwrap_err();
    assert_eq!(again.kind(), crate::error::Kind::NotFound);
    Ok(())
}

#[test]
fn an_unresolved_conflict_follows_the_base() {
    let world = lived_in();
    world.adopt(1, 2);
    let tree = world.tree("3");
    let mut third = NEXT.to_vec();
    third.iter_mut().filter(|(p, _)| *p == "etc/both.conf").for_each(|f| f.1 = "newer\n");
    for (path, content) in third {
        put(&tree, path, content);
    }
    std::fs::create_dir_all(tree.join("usr")).unwrap();
    world.publish("3");
    let applied = world.adopt(2, 3);
    assert_eq!(world.read("etc/both.conf").unwrap(), "mine\n");
    assert_eq!(world.read("etc/both.conf.dpkg-dist").unwrap(), "newer\n");
    assert_eq!(applied.conflicts.len(), 1);
    // What the member wrote over the base's version is not overwritten.
    world.mine("etc/both.conf.dpkg-dist", "scribbled\n");
    world.adopt(3, 2);
    assert_eq!(world.read("etc/both.conf.dpkg-dist").unwrap(), "scribbled\n");
    assert_eq!(world.read("etc/both.conf.2.dpkg-dist").unwrap(), "new\n");
}

/// A link of the member's to what comes in the same adoption: were it followed, a second
/// adoption would find a directory where the first found a file.
#[test]
fn a_link_in_the_place_of_a_directory_is_not_followed() {
    let old: Files<'_> = &[("etc/a", "x"), ("etc/d", "x"), ("etc/e/y", "x")];
    let new: Files<'_> = &[("etc/a/", ""), ("etc/d/x", "new"), ("etc/e/y", "new")];
    let world = World::new(old, new);
    for (path, content) in [("etc/d", "->a"), ("etc/e", "->/var/e"), ("var/e/y", "x")] {
        world.delete(path);
        world.mine(path, content);
    }
    for _ in 0..2 {
        let applied = world.adopt(1, 2);
        let told = applied.notes.iter().filter(|n| n.contains("what the base changes below it"));
        assert_eq!(told.count(), 2, "{:?}", applied.notes);
        for (path, content) in [
            ("etc/a", Some("dir")),
            ("etc/a/x", None),
            ("etc/d", Some("->a")),
            ("var/e/y", Some("x")),
        ] {
            assert_eq!(world.read(path).as_deref(), content, "{path}");
        }
    }
}

/// One of few shapes for each of few paths.
fn tree() -> impl Strategy<Value = Vec<(String, String)>> {
    let shape = prop_oneof![
        3 => "[ab]\n[cd]\n[ef]\n".prop_map(Some),
        1 => "->[ab]".prop_map(Some),
        1 => Just(None),
        1 => Just(Some("/".to_string())),
        1 => Just(Some("x".to_string())),
    ];
    proptest::collection::vec(shape, 5).prop_map(|shapes| {
        let paths = ["etc/a", "etc/b", "etc/d", "etc/d/x", "var/c"];
        let mut list = Vec::new();
        for (path, shape) in paths.into_iter().zip(shapes) {
            match shape.as_deref() {
                // Below a file there is nothing.
                _ if path == "etc/d/x" && !list.iter().any(|(p, _)| p == "etc/d/") => {}
                Some("/") => list.push((format!("{path}/"), String::new())),
                Some(text) => list.push((path.to_string(), text.to_string())),
                None => {}
            }
        }
        list
    })
}

fn files(list: &[(String, String)]) -> Vec<(&str, &str)> {
    list.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect()
}

/// So many cases, if `PROPTEST_CASES` does not ask for others.
fn cases(few: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(few),
    }
}

proptest! {
    #![proptest_config(cases(150))]

    /// Any three trees: nothing of the member's own is lost, a second time finds nothing to do,
    /// and a crash does not show.
    #[test]
    fn any_three_trees(old in tree(), new in tree(), mine in tree(), crash in 0..30usize) {
        let make = || {
            let world = World::new(&files(&old), &files(&new));
            for path in ["etc/a", "etc/b", "etc/d", "var/c"] {
                world.delete(path);
            }
            for (path, content) in &mine {
                world.mine(path, content);
            }
            world
        };
        let world = make();
        let before = world.snapshot();
        world.adopt(1, 2);
        let after = world.snapshot();
        for (path, content) in &mine {
            let was_base = old.iter().any(|o| o == &(path.clone(), content.clone()));
            if !was_base && !path.ends_with('/') && !content.contains('\n') {
                // These are never merged, so they must be as they were.
                let was = before.get(path).map(|f| &f.2);
                prop_assert_eq!(after.get(path).map(|f| &f.2), was, "{}", path);
            }
        }
        world.adopt(1, 2);
        prop_assert_eq!(&after, &world.snapshot());

        let crashed = make();
        crashed.with(1, 2, |delta, place| {
            let plan = plan(delta, place).unwrap();
            let mut left = crash;
            let _ = apply::run(&plan, place, &mut |step| {
                left = left.checked_sub(1).ok_or_else(|| Error::failed(step))?;
                Ok(())
            });
            commit(&plan, place).unwrap();
        });
        prop_assert_eq!(&after, &crashed.snapshot());
    }
}
