//! systemd on the host: containers as units.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};
use crate::store::{Layout, Name};

/// Whether the host runs systemd (sd_booted(3)).
pub fn booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The unit of a container: `coloc@NAME.service`, or one of its own store.
pub fn name(layout: &Layout, container: &Name) -> String {
    format!("{}@{container}.service", layout.id())
}

fn systemctl(args: &[&str]) -> Result<std::process::Output> {
    Command::new("systemctl")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context(|| "cannot run systemctl")
}

fn done(out: std::process::Output, what: &str) -> Result<()> {
    if out.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&out.stderr);
    let line = text.lines().next().unwrap_or("it failed without a word").to_string();
    Err(Error::failed(format!("{what}: {line}")))
}

/// Whether the unit template that comes with coloc is installed.
fn template_installed() -> bool {
    ["/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"]
        .iter()
        .any(|dir| Path::new(dir).join("systemd/system/coloc@.service").exists())
}

/// Starts a container's unit and returns when its init runs, or says that it does not.
pub fn start(layout: &Layout, container: &Name) -> Result<()> {
    let unit = name(layout, container);
    if layout.is_default() && template_installed() {
        return done(systemctl(&["start", &unit])?, &format!("cannot start {unit}"));
    }
    // Another store, or a coloc that was not installed: the same unit, for this once.
    let exe = crate::sys::image::path().context(|| "cannot tell where coloc is")?;
    let out = Command::new("systemd-run")
        .args(["--quiet", "--collect", "--service-type=notify", "--slice=coloc.slice"])
        .arg(format!("--unit={unit}"))
        .args(["-p", "Delegate=yes", "-p", "KillMode=process", "-p", "TasksMax=infinity"])
        .arg(format!("--setenv=COLOC_ROOT={}", layout.root().display()))
        .arg(&exe)
        .args(["supervise", container.as_str()])
        .stdin(Stdio::null())
        .output()
        .context(|| "cannot run systemd-run")?;
    done(out, &format!("cannot start {unit}"))
}

/// Waits until the unit of a container that has ended is inactive, so that the next start of it
/// is one. Does nothing when called from within the unit, by its own `ExecStop=`.
pub fn settle(layout: &Layout, container: &Name) {
    let unit = name(layout, container);
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if booted() && !own.contains(&unit) {
        let _ = systemctl(&["stop", &unit]);
    }
}

/// Whether systemd can start containers of this store at boot: the host's own, with coloc's units
/// installed.
pub fn can_enable(layout: &Layout) -> bool {
    booted() && layout.is_default() && template_installed()
}

/// Has a container started at boot, or not any more; see [`can_enable`].
pub fn enable(layout: &Layout, container: &Name, on: bool) -> Result<()> {
    if is_enabled(layout, container) == on {
        return Ok(());
    }
    let verb = if on { "enable" } else { "disable" };
    let unit = name(layout, container);
    done(systemctl(&["--quiet", verb, &unit])?, &format!("cannot {verb} {unit}"))
}

/// By the link that the unit's `WantedBy=` asks for.
fn is_enabled(layout: &Layout, container: &Name) -> bool {
    let link = format!("/etc/systemd/system/multi-user.target.wants/{}", name(layout, container));
    std::fs::symlink_metadata(link).is_ok()
}

/// Forgets that a container, which is deleted, was to start at boot.
pub fn forget(layout: &Layout, container: &Name) {
    for file in told(&name(layout, container)) {
        let _ = std::fs::remove_file(file);
    }
    if can_enable(layout) {
        let _ = enable(layout, container, false);
    }
}

/// Where systemd keeps, until the next boot, what it was told of the unit's shares.
fn told(unit: &str) -> [PathBuf; 2] {
    ["CPUWeight", "IOWeight"]
        .map(|key| Path::new("/run/systemd/system.control").join(format!("{unit}.d/50-{key}.conf")))
}

/// Tells systemd the shares of processor and disk time that a container's unit has: else it puts its
/// own back whenever it reads its units again. Nothing is to be told while they are `default`.
pub fn shares(
    layout: &Layout,
    container: &Name,
    payload: &Path,
    [cpu, io]: [u64; 2],
    default: u64,
) -> Result<()> {
    let unit = name(layout, container);
    let of_unit = payload.parent().and_then(Path::file_name).is_some_and(|n| n == unit.as_str());
    let known = told(&unit).iter().any(|file| file.exists());
    if !of_unit || !booted() || (!known && cpu == default && io == default) {
        return Ok(());
    }
    let (cpu, io) = (format!("CPUWeight={cpu}"), format!("IOWeight={io}"));
    let out = systemctl(&["set-property", "--runtime", &unit, &cpu, &io])?;
    done(out, &format!("cannot tell systemd the shares of {unit}"))
}

/// Tells systemd, if it started this process as a unit, that it is ready (sd_notify(3)).
pub fn ready() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(b"READY=1", &address);
    }
}
