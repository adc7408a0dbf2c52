//! The supervisor's half of a start; see [`super::protocol`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

pub use super::aside::Helper;
use super::cgroup::{Cgroups, Doors};
use super::child;
use super::limits;
use super::locked;
use super::plan::{Handed, Ids, Plan};
use super::protocol::{Channel, Message, Side};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::clone::{self, Child};
use crate::sys::mount::{self, Attr};
use crate::sys::path::open_dir;
use crate::sys::{self, Named, fdpass, process};

/// A container that runs.
#[derive(Debug)]
pub struct Started {
    /// Its init.
    pub init: Child,
    /// The master of its console.
    pub console: OwnedFd,
    /// Its slave, held open so that the master outlives programs that let go of the console.
    pub slave: OwnedFd,
    /// The socket on which its init says that it is up.
    pub notify: OwnedFd,
    /// The process that locked its mounts, which ends meanwhile.
    pub helper: Helper,
}

/// What is the caller's to do in the course of a start. After an error nothing runs.
pub struct Calls<'a> {
    /// While the child makes its mounts: its network namespace is there.
    pub connect: &'a mut dyn FnMut(&Child) -> Result<()>,
    /// When everything but init is there: write down what runs.
    pub record: &'a mut dyn FnMut(&Child) -> Result<()>,
}

/// Starts a container by `plan` in `cgroups`.
///
/// `scratch` is a directory to mount on in a mount namespace of our own.
pub fn start(plan: &Plan, cgroups: &Cgroups, scratch: &Path, calls: Calls<'_>) -> Result<Started> {
    super::enter::refuse_unsealed()?;
    let (ours, theirs) = fdpass::pair()?;
    let mut flags = clone::NEWUSER | clone::NEWNS | clone::NEWPID | clone::NEWUTS | clone::NEWIPC;
    if plan.own_network {
        flags |= clone::NEWNET;
    }
    let payload = open_dir(&cgroups.payload)?;
    let mut theirs = Some((theirs, Doors::open(&cgroups.v1)?));
    limits::apply(&plan.limits)?;
    let mut ours = Some(ours);
    // Whoever makes a user namespace is charged for what is made in it. Not root, of whom there is
    // one for all containers and the host's own services.
    let init = process::as_user(plan.ids.0, || {
        clone::spawn(flags, Some(payload.as_fd()), || {
            // With a copy of this end the child would never hear that its supervisor died.
            drop(ours.take());
            match theirs.take() {
                Some((socket, v1)) => child::run(plan, v1, Channel::new(socket, Side::Child)),
                None => 1,
            }
        })
    })
    .context(|| "cannot make its namespaces")
    .map_err(name_missing_feature)?;
    drop(theirs);
    let ours = ours.take().ok_or_else(|| Error::failed("the socket to the child has gone"))?;
    let mut channel = Channel::new(ours, Side::Parent);
    match converse(plan, scratch, &init, &mut channel, calls) {
        Ok(([console, slave, notify], helper)) => {
            Ok(Started { init, console, slave, notify, helper })
        }
        Err(e) => {
            let _ = process::signal(&init.pidfd, libc::SIGKILL);
            let _ = process::wait(init.pidfd.as_fd());
            Err(e)
        }
    }
}

fn name_missing_feature(e: Error) -> Error {
    let text = e.to_string();
    if text.contains("No space left") {
        e.hint("the kernel's limit on namespaces is reached: sysctl user.max_user_namespaces")
    } else if text.contains("not permitted") {
        e.hint("user namespaces are switched off here: sysctl user.max_user_namespaces")
    } else {
        e
    }
}

fn converse(
    plan: &Plan,
    scratch: &Path,
    init: &Child,
    channel: &mut Channel,
    calls: Calls<'_>,
) -> Result<([OwnedFd; 3], Helper)> {
    map_ids(init.pid, plan.ids)?;
    channel.say(Message::Mapped, &[])?;
    channel.hear(Message::Ready)?;
    plan.hooks.run("createRuntime", Some(init.pid))?;
    let (handed, helper) = prepare(plan, init.pid, scratch)?;
    let fds: Vec<BorrowedFd<'_>> = handed.iter().map(|fd| fd.as_fd()).collect();
    channel.say(Message::Mounts, &fds)?;
    drop(handed);
    let connected = (calls.connect)(init);
    // Of a child that has failed first, that is the reason for both.
    let built = channel.hear(Message::Built)?;
    connected?;
    let built = <[OwnedFd; 3]>::try_from(built)
        .map_err(|_| Error::failed("the child did not hand over its console"))?;
    look_from_outside(plan, init.pid)?;
    (calls.record)(init)?;
    channel.say(Message::Go, &[])?;
    channel.hear_end()?;
    Ok((built, helper))
}

/// Writes the maps (user_namespaces(7)): they can be written once, and only so by root.
fn map_ids(pid: i32, (start, count): (u32, u32)) -> Result<()> {
    use std::io::Write;
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{file}");
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut f| f.write_all(format!("0 {start} {count}\n").as_bytes()))
            .context(|| format!("cannot map ids {start}-{}", start + count - 1))?;
    }
    Ok(())
}

/// Everything that the child gets as descriptors, in the plan's order, and the process that locked the
/// mounts among it.
fn prepare(plan: &Plan, pid: i32, scratch: &Path) -> Result<(Vec<OwnedFd>, Helper)> {
    let userns = locked::user_namespace(pid)?;
    let mut binds = Vec::new();
    for handed in &plan.handed {
        if let Handed::Bind { attr, .. } = handed {
            binds.push((bind(handed, &userns)?, *attr));
        }
    }
    let crossing = locked::lock(&binds, &userns, scratch)?;
    // Meanwhile the devices.
    let mut devices = Vec::new();
    for handed in &plan.handed {
        if let Handed::Device { target, rdev, block } = handed {
            devices.push(device(target, *rdev, *block)?);
        }
    }
    let (locked, helper) = crossing.end()?;
    let (mut locked, mut devices) = (locked.into_iter(), devices.into_iter());
    let next = |handed: &Handed| match handed {
        Handed::Bind { .. } => locked.next(),
        Handed::Device { .. } => devices.next(),
    };
    let all: Option<Vec<OwnedFd>> = plan.handed.iter().map(next).collect();
    Ok((all.ok_or_else(|| Error::failed("a mount is missing"))?, helper))
}

/// A detached bind mount as `handed` says, for the container whose user namespace is `userns`; its
/// flags are not locked yet.
pub(super) fn bind(handed: &Handed, userns: &OwnedFd) -> Result<OwnedFd> {
    let Handed::Bind { source, target, attr, ids } = handed else {
        return Err(Error::failed("a device is no directory"));
    };
    let directory = open_source(source, target, *ids)
        .map_err(|e| e.context(format!("cannot mount {}", source.display())))?;
    let copy = match ids {
        _ if is_own(target) => {
            let idmap = (*ids == Ids::Container).then_some(userns);
            locked::copy_of_own(directory, *attr, idmap)
        }
        Ids::Same => locked::copy(directory, *attr, None),
        Ids::Container => locked::copy(directory, *attr, Some(userns)),
        Ids::Person { uid, gid } => {
            locked::copy(directory, *attr, Some(&locked::person(*uid, *gid)?))
        }
    };
    copy.context(|| format!("cannot mount {}", source.display()))
}

/// A directory of the host's that is to be mounted, by a path without links.
pub fn source(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    sys::path::open_in(open_dir("/")?, path, sys::path::Links::Refuse, flags, 0).map_err(|e| {
        let no = |why: &str| Error::failed(why);
        match e.errno() {
            libc::ENOENT => no("it is not there").hint("make the directory on the host first"),
            libc::ENOTDIR => no("it is no directory").hint("mount the directory that it is in"),
            libc::ELOOP => no("a link is in its path")
                .hint("name the place itself, a home in the host's passwd: realpath prints it"),
            _ => e.into(),
        }
    })
}

/// Whether what is mounted at `target` is the container's tree or its `/usr`.
fn is_own(target: &Path) -> bool {
    [Path::new("/"), Path::new("/usr")].contains(&target)
}

/// The directory that a bind mount is made of. All but the container's tree and its `/usr`, which
/// are coloc's own, may lie where members can move things: it is looked up without links. What a
/// person sees at its own path is their home, and has to be theirs.
fn open_source(source: &Path, target: &Path, ids: Ids) -> Result<OwnedFd> {
    if is_own(target) {
        return Ok(open_dir(source)?);
    }
    let found = self::source(source)?;
    let Ids::Person { uid, .. } = ids else { return Ok(found) };
    if source != target {
        return Ok(found);
    }
    let stat = rustix::fs::fstat(&found).named(|| format!("fstat({source:?})"))?;
    if stat.st_uid == uid.0 {
        return Ok(found);
    }
    Err(Error::new(
        Kind::State,
        format!("{} belongs to uid {}, not to {}", source.display(), stat.st_uid, uid.0),
    )
    .hint("at its own path only what belongs to that user can be mounted"))
}

/// A bind mount of a device node of the host, once it is seen to be that device.
pub(super) fn device(path: &Path, (major, minor): (u32, u32), block: bool) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node =
        rustix::fs::open(path, flags, Mode::empty()).named(|| format!("open({path:?}, O_PATH)"))?;
    let stat = rustix::fs::fstat(&node).named(|| format!("fstat({path:?})"))?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    let is_device = (if block { kind.is_block_device() } else { kind.is_char_device() })
        && stat.st_rdev == rustix::fs::makedev(major, minor);
    if !is_device {
        return Err(Error::new(
            Kind::Unsupported,
            format!("{} on this host is not device {major}:{minor}", path.display()),
        )
        .hint("put the device node right (a reboot does), and start again"));
    }
    let copy = mount::clone_at(&node)?;
    mount::prepare(&copy, Attr::NOSUID.with(Attr::NOEXEC), Attr::NONE, None)?;
    Ok(copy)
}

/// The child has proved that it cannot write to /usr; here we see that what it has there is
/// the base's very directory, read-only.
fn look_from_outside(plan: &Plan, pid: i32) -> Result<()> {
    for handed in &plan.handed {
        let Handed::Bind { source, target, ids, attr } = handed else { continue };
        if *ids == Ids::Same {
            continue;
        }
        let root = open_dir(format!("/proc/{pid}/root"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let seen = sys::path::open_in(&root, target, sys::path::Links::Refuse, flags, 0)?;
        let (inside, base) =
            (mount::look(&seen)?, mount::look(open_source(source, target, *ids)?)?);
        if inside.file != base.file || !inside.attr.has(*attr) {
            return Err(Error::failed(format!("{} inside is not the host's", target.display())));
        }
    }
    Ok(())
}
