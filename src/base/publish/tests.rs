use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use crate::store::atomic;
use crate::tree::manifest::verify;

fn put(tree: &Path, path: &str, text: &str) {
    let path = tree.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    atomic::write(&path, text.as_bytes(), 0o644).unwrap();
}

/// A small system with everything that publishing changes.
fn mini(name: &str) -> PathBuf {
    assert!(nix::unistd::geteuid().is_root(), "this test must run as root");
    let dir = std::env::temp_dir().join(format!("coloc-publish-{name}-{}", std::process::id()));
    crate::tree::remove(&dir).unwrap();
    let tree = dir.join("tree");
    for sub in ["usr/bin", "usr/sbin", "usr/lib", "usr/local/bin", "var/log/x", "dev/a", "etc"] {
        std::fs::create_dir_all(tree.join(sub)).unwrap();
    }
    for link in ["bin", "sbin", "lib"] {
        symlink(format!("usr/{link}"), tree.join(link)).unwrap();
    }
    put(&tree, "usr/local/bin/mine", "x");
    put(&tree, "var/lib/dpkg/status", STATUS);
    put(&tree, "var/lib/dpkg/status-old", "");
    put(&tree, "etc/ssh/ssh_host_rsa_key", "secret");
    put(&tree, "etc/ssl/private/k", "secret");
    put(&tree, "etc/machine-id", "0123\n");
    put(&tree, "etc/hosts", "10.0.0.1 builder\n");
    put(&tree, "etc/passwd", "root:x:0:0::/root:/bin/sh\nnet:x:998:998::/:/bin/false\n");
    put(&tree, "etc/group", "root:x:0:\nnet:x:998:\njournal:x:999:\n");
    put(&tree, "etc/shadow", "root:$y$abc:1::::::\n");
    put(&tree, "var/log/x/y.log", "host");
    put(&tree, "var/log/wtmp", "host");
    put(&tree, "usr/bin/tool", "code");
    std::os::unix::fs::chown(tree.join("usr/bin/tool"), Some(998), Some(999)).unwrap();
    std::fs::set_permissions(tree.join("usr/bin/tool"), std::fs::Permissions::from_mode(0o4755))
        .unwrap();
    dir
}

const STATUS: &str = "Package: b\nStatus: install ok installed\nArchitecture: all\nVersion: 2\n\n\
    Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
    Package: a\nStatus: hold ok installed\nArchitecture: amd64\nVersion: 1:1-1\n Package: x\n";

#[test]
fn a_tree_becomes_a_generation_and_again() {
    let dir = mini("all");
    let published = publish(&dir).unwrap();
    let tree = dir.join("tree");
    let read = |path: &str| std::fs::read_to_string(tree.join(path)).unwrap();
    let target = |path: &str| std::fs::read_link(tree.join(path)).unwrap();
    assert_eq!(packages(&dir).unwrap(), [("a".into(), "1:1-1".into()), ("b".into(), "2".into())]);
    assert_eq!(published.packages, 2);
    assert_eq!(target("var/lib/dpkg"), Path::new("../../usr/lib/sysimage/dpkg"));
    assert_eq!(read("var/lib/dpkg/status"), STATUS);
    assert_eq!(target("usr/local"), Path::new("../var/usrlocal"));
    assert_eq!(read("usr/local/bin/mine"), "x");
    assert_eq!(target("etc/resolv.conf"), Path::new("../run/host/resolv.conf"));
    assert_eq!((read("etc/machine-id"), read("etc/hostname")), (String::new(), String::new()));
    assert_eq!(read("etc/shadow"), "root:*:1::::::\n");
    assert!(read("etc/hosts").starts_with("127.0.0.1\tlocalhost\n"));
    assert_eq!(read("var/log/wtmp"), "");
    for gone in ["etc/ssh/ssh_host_rsa_key", "etc/ssl/private/k", "dev/a", "var/log/x/y.log"] {
        assert!(!tree.join(gone).exists(), "{gone}");
    }
    assert!(tree.join("var/log/x").is_dir());
    assert_eq!(std::fs::metadata(tree.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    let tool = std::fs::metadata(tree.join("usr/bin/tool")).unwrap();
    assert_eq!(tool.uid(), published.moved_ids["net"]);
    assert_eq!(tool.gid(), published.moved_ids["journal"]);
    assert!(tool.uid() < 500 && tool.gid() < 500);
    assert_eq!(tool.mode() & 0o7777, 0o4755);
    assert_eq!(verify(&dir).unwrap(), []);
    let again = publish(&dir).unwrap();
    assert!(again.moved_ids.is_empty());
    assert_eq!((again.files, again.bytes), (published.files, published.bytes));
    crate::tree::remove(&dir).unwrap();
}

#[test]
fn each_difference_has_its_name() {
    let dir = mini("verify");
    put(&dir.join("tree"), "usr/share/odd\tna\nme", "1");
    for name in ["content", "mode", "owner", "inode", "kind", "missing"] {
        put(&dir.join("tree"), &format!("usr/share/{name}"), "1234");
    }
    let share = dir.join("tree/usr/share");
    symlink("a", share.join("link")).unwrap();
    publish(&dir).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(share.join("content"))
        .and_then(|mut f| std::io::Write::write_all(&mut f, b"4321"))
        .unwrap();
    std::fs::set_permissions(share.join("mode"), PermissionsExt::from_mode(0o4755)).unwrap();
    std::os::unix::fs::chown(share.join("owner"), Some(7), None).unwrap();
    put(&share, "inode", "1234");
    std::fs::remove_file(share.join("kind")).unwrap();
    std::fs::create_dir(share.join("kind")).unwrap();
    std::fs::remove_file(share.join("missing")).unwrap();
    std::fs::remove_file(share.join("link")).unwrap();
    symlink("b", share.join("link")).unwrap();
    put(&share, "new", "");
    std::fs::remove_file(share.join("odd\tna\nme")).unwrap();
    let found = verify(&dir).unwrap();
    let has = |path: &str, what: &str| {
        let path = format!("usr/share/{path}");
        assert!(found.iter().any(|d| d.path == path && d.what.starts_with(what)), "{found:#?}");
    };
    for name in ["content", "mode", "owner", "inode", "kind", "missing", "new"] {
        has(name, name);
    }
    has("link", "link target: is b, was a");
    has("odd\\tna\\nme", "missing");
    // The link's own inode is new too; nothing else is told.
    assert!(found.len() <= 11, "{found:#?}");
    put(&dir, "manifest", "coloc-manifest 1\nx\n");
    assert_eq!(verify(&dir).unwrap_err().kind(), Kind::Damaged);
    crate::tree::remove(&dir).unwrap();
}

#[test]
fn what_is_no_merged_usr_is_refused_untouched() {
    let dir = mini("unmerged");
    std::fs::remove_file(dir.join("tree/bin")).unwrap();
    std::fs::create_dir(dir.join("tree/bin")).unwrap();
    let e = publish(&dir).unwrap_err();
    assert!(e.to_string().contains("/bin"), "{e}");
    assert!(e.hint_text().is_some_and(|h| h.contains("usrmerge")));
    assert!(dir.join("tree/etc/ssh/ssh_host_rsa_key").exists());
    crate::tree::remove(&dir).unwrap();
}

#[test]
fn a_link_in_the_tree_leads_nowhere_else() {
    let dir = mini("links");
    let outside = dir.join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    put(&outside, "ssh_host_key", "the host's");
    crate::tree::remove(&dir.join("tree/etc/ssh")).unwrap();
    symlink(&outside, dir.join("tree/etc/ssh")).unwrap();
    std::fs::remove_file(dir.join("tree/etc/hosts")).unwrap();
    symlink(outside.join("ssh_host_key"), dir.join("tree/etc/hosts")).unwrap();
    publish(&dir).unwrap();
    assert_eq!(std::fs::read_to_string(outside.join("ssh_host_key")).unwrap(), "the host's");
    crate::tree::remove(&dir).unwrap();
}

#[test]
fn mountinfo_paths_are_read() {
    assert_eq!(unescape(br"/a\040b\134c\0"), b"/a b\\c\\0");
}
