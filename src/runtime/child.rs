//! The container's first process, from its birth to the init that it becomes.
//!
//! Up to `EnterRoot` the host's mounts are in sight and nothing of the private tree is opened by
//! a path. After it the process is rooted in the private tree with no power over anything
//! outside, so that whatever its member put there can lead nowhere.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags};

use super::cgroup::Doors;
use super::hooks::Hooks;
use super::plan::{MASK_DIR, MASK_FILE, Plan, Step};
use super::protocol::{Channel, Message};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::label::{Door, Module, When};
use crate::sys::mount::{self, Attr};
use crate::sys::path::{Links, open_dir, open_in};
use crate::sys::{self, Named, tty};

/// The child's whole life; the exit code of it, if it does not become init.
pub fn run(plan: &Plan, v1: Doors, mut channel: Channel) -> i32 {
    match build(plan, v1, &mut channel) {
        Ok(never) => match never {},
        Err(e) => {
            channel.fail(&e);
            1
        }
    }
}

/// What the child holds between steps.
#[derive(Default)]
struct Hands {
    mounts: BTreeMap<PathBuf, OwnedFd>,
    console: Option<tty::Pty>,
    notify: Option<OwnedFd>,
    hooks: Option<Hooks>,
}

fn build(plan: &Plan, v1: Doors, channel: &mut Channel) -> Result<std::convert::Infallible> {
    v1.enter()?;
    channel.hear(Message::Mapped)?;
    sys::process::hide()?;
    sys::process::become_root()?;
    // The supervisor's own is stricter than what is made in here should be.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Only now, in all its cgroups, so that each path of it is `/` inside.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
        .named(|| "unshare(CLONE_NEWCGROUP)".into())?;
    channel.say(Message::Ready, &[])?;
    let fds = channel.hear(Message::Mounts)?;
    let mut hands = Hands { hooks: Some(plan.hooks.clone()), ..Hands::default() };
    hands.mounts.extend(plan.handed.iter().map(|h| h.target().to_path_buf()).zip(fds));

    let Some((Step::Init { kind, args, env }, steps)) = plan.steps.split_last() else {
        return Err(Error::failed("the plan does not end in an init"));
    };
    // Opened while the host's /proc is in sight; gone through last.
    let label = label(plan, kind)?;
    for step in steps {
        carry_out(step, &mut hands).context(|| format!("cannot {}", step.brief()))?;
    }
    let (Some(console), Some(notify)) = (hands.console.take(), hands.notify.take()) else {
        return Err(Error::failed("the plan makes no console"));
    };
    let fds = [console.master.as_fd(), console.slave.as_fd(), notify.as_fd()];
    channel.say(Message::Built, &fds)?;
    drop((console.master, notify, hands));
    channel.hear(Message::Go)?;
    become_init(kind, args, env, &console.slave, label)
}

/// The way to the label of init, which a built-in one takes without executing anything. No kernel
/// has both modules at work.
fn label<'a>(plan: &'a Plan, kind: &str) -> Result<Option<(&'a str, Door)>> {
    let (name, module) = match (&plan.label, &plan.selinux) {
        (Some(name), _) => (name, Module::AppArmor),
        (None, Some(name)) => (name, Module::SeLinux),
        (None, None) => return Ok(None),
    };
    let when = if kind == "builtin" { When::Now } else { When::OnExec };
    Ok(Some((name, Door::open(open_dir("/proc")?, module, when)?)))
}

fn carry_out(step: &Step, hands: &mut Hands) -> Result<()> {
    match step {
        Step::Make { target, kind, options, attr } => {
            let options: Vec<(&str, &str)> =
                options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            hands.mounts.insert(target.clone(), mount::make(kind, &options, *attr)?);
        }
        Step::UserLimits(list) => super::limits::set_of_user(list)?,
        Step::EnterRoot => enter_root(hands)?,
        Step::Attach { target } => {
            let made = take(hands, target)?;
            mount::attach(&made, directory(target)?)?;
        }
        Step::ProveLocked { target } => prove_locked(target)?,
        Step::Device { target } => {
            let node = take(hands, target)?;
            // Such as /dev/net, for its tun.
            directory(target.parent().unwrap_or(Path::new("/dev")))?;
            mount::attach(&node, empty_file(target)?)?;
        }
        Step::Link { at, to } => rustix::fs::symlink(to, at).named(|| "symlink".into())?,
        Step::Write { at, text } => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let file = open_in(root()?, at, Links::Refuse, flags, 0o644)?;
            std::io::Write::write_all(&mut std::fs::File::from(file), text.as_bytes())?;
        }
        Step::Directory { at } => {
            rustix::fs::mkdir(at, Mode::from_raw_mode(0o755)).named(|| "mkdir".into())?;
        }
        Step::ReadOnly { at, except } => read_only(at, except.as_deref())?,
        Step::Mask { at } => mask(at)?,
        Step::BootId => boot_id()?,
        Step::Console => console(hands)?,
        Step::Seal { at } => mount::set(look_up(at, OFlags::DIRECTORY)?, Attr::RDONLY)?,
        Step::Share => mount::make_all_shared()?,
        Step::HostName(name) => nix::unistd::sethostname(name).named(|| "sethostname".into())?,
        Step::Loopback => sys::net::loopback_up()?,
        Step::Sysctl { name, value } => sysctl(name, value)?,
        Step::Bound(keep) => bound(keep)?,
        Step::Filter { program, .. } => sys::seccomp::install(program)?,
        Step::Hooks(point) => match &hands.hooks {
            // This process's pid, as seen in here.
            Some(hooks) => hooks.run(point, Some(sys::process::own_pid()))?,
            None => return Err(Error::failed("there are no hooks")),
        },
        Step::Init { .. } => return Err(Error::failed("init comes last")),
    }
    Ok(())
}

fn take(hands: &mut Hands, target: &Path) -> Result<OwnedFd> {
    hands.mounts.remove(target).ok_or_else(|| Error::failed("nothing was made for it"))
}

/// The container's root, after [`enter_root`].
fn root() -> Result<OwnedFd> {
    Ok(open_dir("/")?)
}

fn look_up(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    Ok(open_in(root()?, path, Links::Refuse, OFlags::PATH | flags, 0)?)
}

/// A directory to mount on; made if it is missing. A link in its place is refused: mounting
/// where it leads would put a file system over something that the member did not see coming.
fn directory(path: &Path) -> Result<OwnedFd> {
    match open_in(root()?, path, Links::Refuse, OFlags::PATH | OFlags::DIRECTORY, 0) {
        Ok(fd) => return Ok(fd),
        Err(_) if std::fs::symlink_metadata(path).is_err() => make_directories(path)?,
        Err(e) if [libc::ENOTDIR, libc::ELOOP].contains(&e.errno()) => {
            return Err(Error::new(
                Kind::State,
                format!("{} in the private tree is not a directory", path.display()),
            )
            .hint("move it out of the way, and start again"));
        }
        Err(e) => return Err(e.into()),
    }
    look_up(path, OFlags::DIRECTORY)
}

/// Makes the directory and those above it that are missing.
fn make_directories(path: &Path) -> Result<()> {
    let above: Vec<&Path> = path.ancestors().collect();
    for dir in above.into_iter().rev() {
        match rustix::fs::mkdir(dir, Mode::from_raw_mode(0o755)) {
            Err(rustix::io::Errno::EXIST) => {}
            other => other.named(|| format!("mkdir({dir:?})"))?,
        }
    }
    Ok(())
}

fn empty_file(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    drop(open_in(root()?, path, Links::Refuse, flags, 0o644)?);
    look_up(path, OFlags::empty())
}

/// /proc is a directory on every host, open to all, and no longer needed as such.
fn enter_root(hands: &mut Hands) -> Result<()> {
    let tree = take(hands, Path::new("/"))?;
    mount::attach(&tree, open_dir("/proc")?)?;
    mount::pivot(&tree)?;
    Ok(())
}

/// With all the power that root has in here, `/usr` must stay read-only.
fn prove_locked(target: &Path) -> Result<()> {
    let usr = look_up(target, OFlags::DIRECTORY)?;
    super::locked::prove(&usr, Attr::RDONLY)?;
    if mount::look(&usr)?.attr.has(Attr::RDONLY) {
        return Ok(());
    }
    Err(Error::failed("the shared base is not mounted read-only"))
}

/// Covers `at` with nothing. What this kernel does not have needs no mask.
fn mask(at: &Path) -> Result<()> {
    let Some(covered) = there(at)? else { return Ok(()) };
    let stat = rustix::fs::fstat(&covered).named(|| format!("fstat({at:?})"))?;
    let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    let nothing = if is_dir { MASK_DIR } else { MASK_FILE };
    cover(&covered, nothing)
}

/// Binds `with` over `covered`, read-only.
fn cover(covered: &OwnedFd, with: &str) -> Result<()> {
    let copy = mount::clone_at(look_up(Path::new(with), OFlags::empty())?)?;
    mount::set(&copy, Attr::RDONLY)?;
    Ok(mount::attach(&copy, covered)?)
}

/// What is at `at`, if something is.
fn there(at: &Path) -> Result<Option<OwnedFd>> {
    match open_in(root()?, at, Links::Refuse, OFlags::PATH, 0) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if e.errno() == libc::ENOENT => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The kernel's own says which boot of the host it is: who has it can tell that two containers
/// are on one host, and journald would take two boots of a container for one.
fn boot_id() -> Result<()> {
    const PLACE: &str = "/run/host/boot-id";
    let random = |name: &str| Path::new("/proc/sys/kernel/random").join(name);
    let fresh = std::fs::read_to_string(random("uuid")).context(|| "cannot read a new uuid")?;
    carry_out(&Step::Write { at: PLACE.into(), text: fresh }, &mut Hands::default())?;
    cover(&look_up(&random("boot_id"), OFlags::empty())?, PLACE)
}

/// What this kernel does not have needs no value.
fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    match open_in(root()?, &path, Links::Refuse, OFlags::WRONLY, 0) {
        Ok(file) => {
            Ok(std::io::Write::write_all(&mut std::fs::File::from(file), value.as_bytes())?)
        }
        Err(e) if e.errno() == libc::ENOENT => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn read_only(at: &Path, except: Option<&Path>) -> Result<()> {
    if there(at)?.is_none() {
        return Ok(());
    }
    let open = except.map(|path| -> Result<_> {
        Ok((path, mount::clone_at(look_up(path, OFlags::DIRECTORY)?)?))
    });
    let open = open.transpose()?;
    let copy = mount::clone_at(look_up(at, OFlags::DIRECTORY)?)?;
    mount::set(&copy, Attr::RDONLY)?;
    mount::attach(&copy, look_up(at, OFlags::DIRECTORY)?)?;
    if let Some((path, copy)) = open {
        mount::attach(&copy, look_up(path, OFlags::DIRECTORY)?)?;
    }
    Ok(())
}

/// The console is a pty of the container's own devpts, its slave bound to /dev/console.
fn console(hands: &mut Hands) -> Result<()> {
    let pty = tty::open_pty(root()?)?;
    let slave = PathBuf::from(format!("/dev/pts/{}", tty::pty_number(&pty.master)?));
    let node = mount::clone_at(look_up(&slave, OFlags::empty())?)?;
    mount::attach(&node, empty_file(Path::new("/dev/console"))?)?;
    let socket = std::os::unix::net::UnixDatagram::bind("/run/host/notify")
        .context(|| "cannot bind /run/host/notify")?;
    hands.notify = Some(socket.into());
    hands.console = Some(pty);
    Ok(())
}

/// Drops from the bounding set what is not in `keep`: names without the `CAP_`.
pub fn bound(keep: &[String]) -> Result<()> {
    let number = |name: &String| {
        let bare = name.trim_start_matches("CAP_");
        caps::Capability::from_str(&format!("CAP_{bare}")).ok().map(|c| c.index())
    };
    let keep: Vec<u8> = keep.iter().filter_map(number).collect();
    Ok(sys::process::bound_capabilities(&keep)?)
}

fn become_init(
    kind: &str,
    args: &[String],
    env: &[String],
    console: &OwnedFd,
    label: Option<(&str, Door)>,
) -> Result<std::convert::Infallible> {
    rustix::process::setsid().named(|| "setsid".into())?;
    tty::take_stdio([console.as_fd(); 3])?;
    sys::process::close_others_on_exec()?;
    sys::process::default_signals()?;
    if let Some((name, door)) = label {
        door.enter(name).context(|| format!("the kernel refuses the label {name}"))?;
    }
    if kind == "builtin" {
        super::init::run();
    }
    let args = c_strings(args)?;
    let env = c_strings(env)?;
    let program = args.first().ok_or_else(|| Error::failed("init has no program"))?.clone();
    let e = sys::process::exec(&program, &args, &env);
    Err(Error::from(e).context(format!("cannot run {}", program.to_string_lossy())))
}

/// Strings as exec takes them; a NUL inside is an error.
pub fn c_strings(list: &[String]) -> Result<Vec<CString>> {
    list.iter()
        .map(|s| {
            CString::new(s.as_str())
                .map_err(|_| Error::new(Kind::Usage, format!("{s:?} holds a NUL byte")))
        })
        .collect()
}
