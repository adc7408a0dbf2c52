//! `home=shared`: the owner's home on the host, in the container.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Container, Store, run, sh, turn};

/// A host user of this test alone, with a home.
struct Person {
    name: String,
    home: PathBuf,
}

impl Person {
    fn new(word: &str, home: Option<&Path>) -> Self {
        let name = format!("{word}{}", std::process::id());
        let home = home.map_or_else(|| PathBuf::from("/home").join(&name), Path::to_path_buf);
        let _turn = turn();
        sh(&format!("useradd -m -d {} {name}", home.display())).ok();
        Self { name, home }
    }

    fn uid(&self) -> u32 {
        nix::unistd::User::from_name(&self.name).unwrap().unwrap().uid.as_raw()
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _turn = turn();
        sh(&format!("userdel -f -r {}", self.name));
    }
}

fn owner(path: impl AsRef<Path>) -> u32 {
    std::fs::symlink_metadata(path).unwrap().uid()
}

#[test]
fn the_owner_is_one_person_and_nobody_else_is_anybody() {
    let person = Person::new("colochome", None);
    let (home, uid) = (&person.home, person.uid());
    std::fs::write(home.join("mine"), "host\n").unwrap();
    std::os::unix::fs::chown(home.join("mine"), Some(uid), Some(uid)).unwrap();
    std::fs::write(home.join("roots"), "secret\n").unwrap();
    std::fs::set_permissions(home.join("roots"), PermissionsExt::from_mode(0o600)).unwrap();
    for (dir, id) in [("root", 0), ("own", uid)] {
        std::fs::create_dir(home.join(dir)).unwrap();
        let file = home.join(dir).join("busybox");
        std::fs::copy("/usr/bin/busybox", &file).unwrap();
        std::os::unix::fs::chown(&file, Some(id), Some(id)).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o4755)).unwrap();
    }
    let store = Store::mini("home", 4);
    let c = Container::create(&store, "one", &["--init", "builtin", "--owner", &person.name]);
    // Off until the admin says so, and until the next start.
    c.ok("start", &[]);
    let at = home.display();
    assert_ne!(c.run("exec", &["--", "cat", &format!("{at}/mine")]).code, 0);
    assert!(c.ok("set", &["home=shared"]).contains("from its next start on"));
    assert_ne!(c.run("exec", &["--", "cat", &format!("{at}/mine")]).code, 0);
    c.ok("restart", &["--timeout", "2"]);
    assert!(c.ok("plan", &[]).contains(&format!("uid {uid} as")));
    let own = |script: &str| c.run("exec", &["--", "sh", "-c", script]);
    assert_eq!(own("cat ~/mine && echo inside > ~/new && ls -ln ~/mine | cut -c1-3").code, 0);
    assert_eq!(own("test -O ~/mine && busybox id -u").code, 0);
    let inside: u32 = own("id -u").ok().trim().parse().unwrap();
    assert_eq!((owner(home.join("new")), owner(home.join("mine"))), (uid, uid));
    let seen = |path: &str| c.root_sh(&format!("busybox stat -c %u {at}/{path}")).ok();
    assert_eq!(seen("mine").trim(), inside.to_string());
    assert_eq!(seen("roots").trim(), "65534");
    // Root inside is root over the owner's files and over nobody's else.
    for attempt in [
        "cat HOME/roots",
        "echo x >> HOME/roots",
        "busybox chown 0 HOME/mine",
        "busybox chown 0 HOME/roots",
        "busybox chmod 777 HOME/roots",
        "echo x > HOME/by-root",
        "busybox mknod HOME/null c 1 3",
        "busybox mount -o remount,bind,suid,dev HOME",
        "busybox umount HOME && test -e HOME/mine",
    ] {
        let out = c.root_sh(&attempt.replace("HOME", &at.to_string()));
        assert_ne!(out.code, 0, "{attempt}: {}", out.text());
    }
    c.ok("restart", &["--timeout", "2"]);
    // A setuid file of the host's gives nothing inside; one that is made inside, only its owner.
    assert_eq!(own("~/root/busybox id -u").ok().trim(), inside.to_string());
    let by_root = c.root_sh(&format!("{at}/own/busybox id -u"));
    assert_eq!(by_root.ok().trim(), "0");
    own("busybox cp /usr/bin/busybox ~/made && busybox chmod 4755 ~/made").ok();
    assert_eq!(owner(home.join("made")), uid);
    c.ok("set", &["home=private"]);
    c.ok("restart", &["--timeout", "2"]);
    assert_ne!(own("cat ~/mine").code, 0);
}

#[test]
fn only_a_home_of_one_person_is_shared() {
    let store = Store::mini("nohome", 6);
    let person = Person::new("colocnoh", None);
    let make = |word, owners: &[&str]| {
        let mut args = vec!["--init", "builtin"];
        owners.iter().for_each(|o| args.extend(["--owner", *o]));
        Container::create(&store, word, &args)
    };
    let group = format!("@{}", person.name);
    for (word, owners) in
        [("none", vec![]), ("group", vec![group.as_str()]), ("both", vec![&person.name, "colocit"])]
    {
        crate::common::host_user();
        let c = make(word, &owners);
        let said = c.run("set", &["home=shared"]).fails(4);
        assert!(said.contains("not one user"), "{said}");
    }
    let c = make("change", &[&person.name]);
    c.ok("set", &["home=shared"]);
    let said = c.run("set", &[&format!("owners={},colocit", person.name)]).fails(4);
    assert!(said.contains("not one user"), "{said}");
    assert_eq!(c.status()["owners"].as_array().unwrap().len(), 1);
    let set_home = |home: &Path| {
        let _turn = turn();
        let mut usermod = Command::new("usermod");
        run({
            usermod.arg("-d").arg(home).arg(&person.name);
            usermod
        })
        .ok();
    };
    for home in ["/", "/root", "/etc/x", "/usr/local", "/var/lib/x", "/home", "/tmp/x"] {
        set_home(Path::new(home));
        let said = c.run("set", &["home=shared"]).fails(4);
        assert!(said.contains("no home of a person"), "{home}: {said}");
        c.run("start", &[]).fails(4);
    }
    // A link on the way, and a home that is somebody else's.
    let link = person.home.with_extension("link");
    symlink("/etc", &link).unwrap();
    set_home(&link);
    let said = c.run("start", &[]).fails(1);
    assert!(said.contains("a link is in its path"), "{said}");
    std::fs::remove_file(&link).unwrap();
    std::fs::create_dir(&link).unwrap();
    let said = c.run("start", &[]).fails(4);
    assert!(said.contains("belongs to uid 0"), "{said}");
    std::fs::remove_dir(&link).unwrap();
    set_home(&person.home);
    // Whatever the member puts in its place leads nowhere.
    let place = c.private(person.home.to_str().unwrap().trim_start_matches('/'));
    std::fs::remove_dir_all(&place).unwrap();
    symlink("/etc", &place).unwrap();
    let said = c.run("start", &[]).fails(4);
    assert!(said.contains("is not a directory"), "{said}");
    std::fs::remove_file(&place).unwrap();
    c.ok("start", &[]);
    assert!(c.root_sh(&format!("ls -A {}", person.home.display())).code == 0);
}
