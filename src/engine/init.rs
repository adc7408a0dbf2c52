//! `coloc init`: sets a host up.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::require_root;
use crate::error::{Context, Error, Kind, Result};
use crate::store::config::{Pool, check_owner};
use crate::store::record::RANGE;
use crate::store::{Config, Layout, atomic, ids, layout};

/// What `coloc init` did, line by line; empty when everything was there. `shell` is the members'
/// login shell, if it is installed.
pub fn init(layout: &Layout, containers: Option<u32>, shell: Option<&Path>) -> Result<Vec<String>> {
    require_root("set a host up")?;
    check_owner(layout)?;
    // Of the whole host, as the pool must be clear of other stores' too.
    let _accounts = lock_accounts()?;
    let mut done = Vec::new();
    let existing: Option<Config> = atomic::read_json(&layout.config())?;
    let pool = pool(existing.as_ref(), containers)?;
    for (dir, mode) in directories(layout) {
        if make_directory(&dir, mode)? {
            done.push(format!("made {} (mode {mode:04o})", dir.display()));
        }
    }
    for file in ["/etc/subuid", "/etc/subgid"] {
        if add_line(Path::new(file), pool)? {
            done.push(format!("wrote {}:{}:{} to {file}", ids::OWNER, pool.start, pool.count));
        }
    }
    if existing.as_ref().map(|c| c.ids) != Some(pool) {
        let config = match existing {
            Some(config) => Config { ids: pool, ..config },
            None => Config::new(pool),
        };
        atomic::write_json(&layout.config(), &config, 0o644)?;
        done.push(format!("wrote {}", layout.config().display()));
    }
    // What is beside the host's own store is nobody's login.
    if let Some(shell) = shell.filter(|_| layout.is_default()) {
        if list_shell(Path::new("/etc/shells"), shell)? {
            done.push(format!("added {} to /etc/shells", shell.display()));
        }
    }
    Ok(done)
}

/// Adds `shell` to the shells(5) that a user may have; false if it is there.
fn list_shell(file: &Path, shell: &Path) -> Result<bool> {
    let mut text = match std::fs::read_to_string(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.context(|| format!("cannot read {}", file.display()))?,
    };
    let shell = shell.display().to_string();
    if text.lines().any(|l| l.trim() == shell) {
        return Ok(false);
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&shell);
    text.push('\n');
    atomic::write(file, text.as_bytes(), 0o644)?;
    Ok(true)
}

/// Takes the lock under which useradd and its kin change account files, subuid(5) among them: a
/// record lock on /etc/.pwd.lock, as lckpwdf(3) takes it. It ends with the file returned.
fn lock_accounts() -> Result<std::fs::File> {
    use nix::fcntl::{FcntlArg, fcntl};
    let path = "/etc/.pwd.lock";
    let context = || format!("cannot lock the account files by {path}");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .context(context)?;
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // Whoever has it is done in a moment; a stuck one would be a broken host.
    for _ in 0..1500 {
        match fcntl(&file, FcntlArg::F_SETLK(&whole)) {
            Ok(_) => return Ok(file),
            Err(nix::Error::EAGAIN | nix::Error::EACCES | nix::Error::EINTR) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(e) => return Err(std::io::Error::from(e)).context(context),
        }
    }
    Err(Error::new(Kind::State, format!("somebody holds {path}"))
        .hint("another program is changing accounts; see: fuser /etc/.pwd.lock"))
}

fn directories(layout: &Layout) -> Vec<(PathBuf, u32)> {
    vec![
        (layout.etc(), 0o755),
        (layout.etc().join("profiles"), 0o755),
        (layout.etc().join("bases"), 0o755),
        (layout.state(), 0o700),
        (layout.bases(), 0o700),
        (layout.containers(), 0o700),
        (layout.ids(), 0o700),
        (layout.journal(), 0o700),
        (layout.staging(), 0o700),
        (layout.run(), 0o755),
        (layout.run().join("containers"), 0o700),
        (layout.locks(), 0o700),
    ]
}

fn make_directory(dir: &Path, mode: u32) -> Result<bool> {
    let context = || format!("cannot make {}", dir.display());
    let right = |m: &std::fs::Metadata| m.is_dir() && m.permissions().mode() & 0o7777 == mode;
    if std::fs::symlink_metadata(dir).is_ok_and(|m| right(&m)) {
        return Ok(false);
    }
    layout::make_all(dir).context(context)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).context(context)?;
    Ok(true)
}

/// The pool that the config has, grown if asked for; a new one where no other line overlaps.
fn pool(existing: Option<&Config>, containers: Option<u32>) -> Result<Pool> {
    if let (Some(config), None) = (existing, containers) {
        return Ok(config.ids);
    }
    let others = taken_ranges(existing.map(|c| c.ids))?;
    let here = ids::here()?;
    let wanted = match containers {
        Some(number) => number,
        None if here == u32::MAX => CONTAINERS,
        // A container has few ids: all that its own users leave.
        None => (1..=CONTAINERS)
            .rev()
            .find(|n| ids::find_pool(&others, n * RANGE, here).is_some())
            .ok_or_else(|| no_ids(here))?,
    };
    if !(1..=4000).contains(&wanted) {
        return Err(Error::new(
            Kind::Usage,
            format!("there cannot be ids for {wanted} containers"),
        )
        .hint("give a number from 1 to 4000"));
    }
    let count = wanted * RANGE;
    if let Some(config) = existing {
        let start = config.ids.start;
        // Containers keep their ids, so the pool can only grow at its end.
        if count < config.ids.count {
            return Err(Error::new(Kind::Usage, "the id pool cannot shrink")
                .hint(format!("it has room for {} containers", config.ids.count / RANGE)));
        }
        let end = u64::from(start) + u64::from(count);
        if end > u64::from(here) {
            return Err(no_ids(here));
        }
        // One that begins where a new one would ends where that would have to; an admin's own may differ.
        if (ids::FIRST..ids::LAST).contains(&start) && end > u64::from(ids::LAST) {
            let most = (ids::LAST - start) / RANGE;
            return Err(Error::new(
                Kind::State,
                format!("the pool begins at {start}, and cannot have ids for {wanted} containers"),
            )
            .hint(format!(
                "other programs have the ids after {}; ask for {most} at most",
                ids::LAST
            )));
        }
        if others
            .iter()
            .any(|(s, n)| u64::from(*s) < end && u64::from(*s) + u64::from(*n) > u64::from(start))
        {
            return Err(Error::new(Kind::State, "the ids after the pool are somebody else's")
                .hint("look at /etc/subuid and /etc/subgid"));
        }
        return Ok(Pool { start, count });
    }
    let start = ids::find_pool(&others, count, here).ok_or_else(|| match here {
        u32::MAX => Error::new(Kind::State, format!("no run of {count} free ids is left"))
            .hint("look at /etc/subuid and /etc/subgid, or ask for less: --containers NUMBER"),
        _ => no_ids(here),
    })?;
    Ok(Pool { start, count })
}

/// For how many containers there are ids if nobody says.
const CONTAINERS: u32 = 1000;

fn no_ids(here: u32) -> Error {
    Error::new(
        Kind::Unsupported,
        format!("this host is a container, and its {here} ids leave too few for others in it"),
    )
    .hint("its host's admin makes one with more: coloc create NAME --profile nest")
}

/// All ranges of subuid(5) and subgid(5) but `own`.
fn taken_ranges(own: Option<Pool>) -> Result<Vec<(u32, u32)>> {
    let mut list = Vec::new();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = match std::fs::read_to_string(file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.context(|| format!("cannot read {file}"))?,
        };
        for line in text.lines() {
            let mut fields = line.split(':');
            let who = fields.next().unwrap_or("");
            let mut number = || fields.next()?.trim().parse().ok();
            if let (Some(start), Some(count)) = (number(), number()) {
                let is_own = who == ids::OWNER && own.is_some_and(|p| p.start == start);
                if !is_own {
                    list.push((start, count));
                }
            }
        }
    }
    Ok(list)
}

/// Writes the pool's line, in the place of an earlier, smaller one; false if it is there.
fn add_line(file: &Path, pool: Pool) -> Result<bool> {
    let text = match std::fs::read_to_string(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.context(|| format!("cannot read {}", file.display()))?,
    };
    let line = format!("{}:{}:{}", ids::OWNER, pool.start, pool.count);
    if text.lines().any(|l| l == line) {
        return Ok(false);
    }
    let older = format!("{}:{}:", ids::OWNER, pool.start);
    let mut new: String =
        text.lines().filter(|l| !l.starts_with(&older)).map(|l| format!("{l}\n")).collect();
    new.push_str(&line);
    new.push('\n');
    atomic::write(file, new.as_bytes(), 0o644)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_shell_is_listed_once() {
        let dir = std::env::temp_dir().join(format!("coloc-shells-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (file, shell) = (dir.join("shells"), Path::new("/usr/local/bin/coloc-shell"));
        atomic::write(&file, b"/bin/sh\n/bin/bash", 0o644).unwrap();
        assert!(list_shell(&file, shell).unwrap());
        assert!(!list_shell(&file, shell).unwrap());
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, "/bin/sh\n/bin/bash\n/usr/local/bin/coloc-shell\n");
        std::fs::remove_file(&file).unwrap();
        assert!(list_shell(&file, shell).unwrap());
        std::fs::remove_file(&file).unwrap();
        std::fs::remove_dir(&dir).unwrap();
    }
}
