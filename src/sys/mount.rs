//! The mount API by descriptors: mounts are made detached and put in place last
//! (open_tree(2), mount_setattr(2), move_mount(2), fsopen(2)).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, unmount,
};

use super::{Error, Named, Result};

/// Flags of a mount, as in mount_setattr(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attr(u64);

impl Attr {
    /// No flag.
    pub const NONE: Attr = Attr(0);
    /// Nobody writes through this mount.
    pub const RDONLY: Attr = Attr(0x1);
    /// Setuid bits and file capabilities do nothing.
    pub const NOSUID: Attr = Attr(0x2);
    /// Device nodes cannot be opened.
    pub const NODEV: Attr = Attr(0x4);
    /// Nothing can be executed.
    pub const NOEXEC: Attr = Attr(0x8);
    /// No symbolic link on this mount is followed.
    pub const NOSYMFOLLOW: Attr = Attr(0x20_0000);
    const IDMAP: u64 = 0x10_0000;

    /// Both sets of flags.
    pub const fn with(self, other: Attr) -> Attr {
        Attr(self.0 | other.0)
    }

    /// Whether all flags of `other` are in this set.
    pub const fn has(self, other: Attr) -> bool {
        self.0 & other.0 == other.0
    }
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn setattr(call: &str, mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated empty string, `attr` a mount_attr of the size given;
    // both live through the call, which only reads them.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const *attr,
            size_of::<MountAttr>(),
        )
    };
    if r == 0 { Ok(()) } else { Err(Error::last(format!("mount_setattr({call})"))) }
}

/// A detached copy of the mount at `dir` (a descriptor of a directory or file), its
/// submounts left out.
pub fn clone_at(dir: impl AsFd) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(dir, "", flags).named(|| "open_tree(OPEN_TREE_CLONE)".into())
}

/// As [`clone_at`], with everything that is mounted below.
pub fn clone_tree(dir: impl AsFd) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(dir, "", flags).named(|| "open_tree(OPEN_TREE_CLONE|AT_RECURSIVE)".into())
}

/// As [`clone_at`], of a path relative to the working directory.
pub fn clone_path(path: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(rustix::fs::CWD, path, flags)
        .named(|| format!("open_tree({path:?}, OPEN_TREE_CLONE)"))
}

/// Sets `set` on a mount and takes `clear` away, and on a detached mount also sets the id mapping
/// of `userns`; the mount and what is under it get private propagation. All or nothing.
pub fn prepare(
    mount: impl AsFd,
    set: Attr,
    clear: Attr,
    userns: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let idmap = if userns.is_some() { Attr::IDMAP } else { 0 };
    let attr = MountAttr {
        attr_set: set.0 | idmap,
        attr_clr: clear.0,
        propagation: libc::MS_PRIVATE,
        userns_fd: userns.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    setattr("MS_PRIVATE", mount.as_fd(), true, &attr)
}

/// Sets flags on one mount.
pub fn set(mount: impl AsFd, set: Attr) -> Result<()> {
    let attr = MountAttr { attr_set: set.0, attr_clr: 0, propagation: 0, userns_fd: 0 };
    setattr("set", mount.as_fd(), false, &attr)
}

/// Takes flags away from one mount. With locked flags the kernel answers EPERM.
pub fn clear(mount: impl AsFd, clear: Attr) -> Result<()> {
    let attr = MountAttr { attr_set: 0, attr_clr: clear.0, propagation: 0, userns_fd: 0 };
    setattr("clear", mount.as_fd(), false, &attr)
}

/// Attaches a detached mount on `target`, a descriptor of a directory or file.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).named(|| "move_mount".into())
}

/// Attaches a detached mount beneath `top`, the root of a mount: what is seen does not change
/// until that one is detached. EINVAL before Linux 6.5.
pub fn attach_beneath(mount: impl AsFd, top: impl AsFd) -> Result<()> {
    // rustix does not know the flag yet.
    let beneath = MoveMountFlags::from_bits_retain(0x200);
    let flags =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH | beneath;
    move_mount(mount, "", top, "", flags).named(|| "move_mount(MOVE_MOUNT_BENEATH)".into())
}

/// Detaches the very mount that `mount` is the root of, whatever its path leads to by now.
/// `own_fds` is this process's own /proc/self/fd, which becomes the working directory: the call
/// takes no descriptor, and the /proc in sight may be somebody else's.
pub fn detach(own_fds: impl AsFd, mount: impl AsFd) -> Result<()> {
    rustix::process::fchdir(own_fds).named(|| "fchdir(/proc/self/fd)".into())?;
    let number = mount.as_fd().as_raw_fd().to_string();
    unmount(number.as_str(), UnmountFlags::DETACH)
        .named(|| format!("umount2(fd {number}, MNT_DETACH)"))
}

/// Unmounts what is on `name` in the directory `above`, which becomes the working directory; false
/// if something still uses it. What a link there leads to is not meant.
pub fn unmount_idle(above: impl AsFd, name: &std::ffi::OsStr) -> Result<bool> {
    rustix::process::fchdir(above).named(|| "fchdir".into())?;
    match unmount(name, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::BUSY) => Ok(false),
        Err(e) => Err(e).named(|| format!("umount2({name:?})")),
    }
}

/// Unmounts what is on top at `path`, a place where only root can put anything; false if something
/// still uses it.
pub fn unmount_path(path: &std::path::Path) -> Result<bool> {
    match unmount(path, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::BUSY) => Ok(false),
        Err(e) => Err(e).named(|| format!("umount2({path:?})")),
    }
}

/// Detaches what is on top at `path`, likewise, from whoever still uses it.
pub fn detach_top(path: &std::path::Path) -> Result<()> {
    unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .named(|| format!("umount2({path:?}, MNT_DETACH)"))
}

/// Detaches every mount that is on top of `path`, a place where only root can put anything.
pub fn detach_path(path: &std::path::Path) -> Result<()> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e).named(|| format!("umount2({path:?}, MNT_DETACH)")),
        }
    }
}

/// Makes a file system of type `kind` and gives it as a detached mount with flags `attr`.
/// An option without a value is a flag.
pub fn make(kind: &str, options: &[(&str, &str)], attr: Attr) -> Result<OwnedFd> {
    let call = || format!("fsopen({kind:?}, {options:?})");
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).named(call)?;
    for (key, value) in options {
        match *value {
            "" => fsconfig_set_flag(&context, *key).named(call)?,
            _ => fsconfig_set_string(&context, *key, *value).named(call)?,
        }
    }
    fsconfig_create(&context).named(call)?;
    let attr = MountAttrFlags::from_bits_retain(attr.0 as u32);
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attr)
        .named(|| format!("fsmount({kind:?})"))
}

/// Makes every mount of this mount namespace private, so that nothing done here is seen in
/// the one it was copied from.
pub fn make_all_private() -> Result<()> {
    use nix::mount::{MsFlags, mount};
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .named(|| "mount(\"/\", MS_REC|MS_PRIVATE)".into())
}

/// Makes every mount of this mount namespace shared, so that namespaces made from it can follow
/// what happens in it.
pub fn make_all_shared() -> Result<()> {
    use nix::mount::{MsFlags, mount};
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .named(|| "mount(\"/\", MS_REC|MS_SHARED)".into())
}

/// Makes the directory `root` the root of this mount namespace and detaches the old one
/// (the `pivot_root(".", ".")` of pivot_root(2)).
pub fn pivot(root: impl AsFd) -> Result<()> {
    rustix::process::fchdir(&root).named(|| "fchdir(new root)".into())?;
    rustix::process::pivot_root(".", ".").named(|| "pivot_root(\".\", \".\")".into())?;
    unmount(".", UnmountFlags::DETACH).named(|| "umount2(old root, MNT_DETACH)".into())?;
    rustix::process::chdir("/").named(|| "chdir(\"/\")".into())
}

/// Flags and identity of the mount that `fd` is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountOf {
    /// Device and inode of what `fd` refers to.
    pub file: (u64, u64),
    /// The flags that statvfs(3) tells of the mount.
    pub attr: Attr,
}

/// Looks at the file `fd` and the mount it is on.
pub fn look(fd: impl AsFd) -> Result<MountOf> {
    let stat = rustix::fs::fstat(&fd).named(|| "fstat".into())?;
    let vfs = rustix::fs::fstatvfs(&fd).named(|| "fstatvfs".into())?;
    Ok(MountOf { file: (stat.st_dev, stat.st_ino), attr: attr_of(&vfs) })
}

/// The flags of the mount that `path` leads to.
pub fn attr_at(path: &std::path::Path) -> Result<Attr> {
    Ok(attr_of(&rustix::fs::statvfs(path).named(|| format!("statvfs({path:?})"))?))
}

fn attr_of(vfs: &rustix::fs::StatVfs) -> Attr {
    use rustix::fs::StatVfsMountFlags as F;
    let mut attr = Attr::NONE;
    let flags = [(F::RDONLY, Attr::RDONLY), (F::NOSUID, Attr::NOSUID), (F::NODEV, Attr::NODEV)];
    for (vfs_flag, flag) in flags {
        if vfs.f_flag.contains(vfs_flag) {
            attr = attr.with(flag);
        }
    }
    attr
}

/// A file's identity, and the mount that it is seen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device, as stat(2) tells it, and inode.
    pub file: (u64, u64),
    /// The mount's number, as in /proc/PID/mountinfo.
    pub mount: u64,
}

/// Looks at `fd` without asking a server on the net or in user space.
pub fn stat(fd: impl AsFd) -> Result<Stat> {
    stat_at(fd, "", AtFlags::EMPTY_PATH)
}

/// As [`stat`], of the path `name` in `dir`, links followed, /proc's too.
pub fn stat_path(dir: impl AsFd, name: &str) -> Result<Stat> {
    stat_at(dir, name, AtFlags::empty())
}

fn stat_at(dir: impl AsFd, name: &str, flags: AtFlags) -> Result<Stat> {
    let mask = StatxFlags::INO | StatxFlags::MNT_ID;
    let found = statx(dir, name, flags | AtFlags::STATX_DONT_SYNC, mask)
        .named(|| format!("statx({name:?}, AT_STATX_DONT_SYNC)"))?;
    let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
    Ok(Stat { file: (device, found.stx_ino), mount: found.stx_mnt_id })
}

/// The magic number of the file system that `fd` is on (statfs(2)).
pub fn file_system(fd: impl AsFd) -> Result<i64> {
    Ok(rustix::fs::fstatfs(fd).named(|| "fstatfs".into())?.f_type)
}
