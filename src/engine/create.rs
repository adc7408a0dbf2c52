//! `coloc create`: a private tree over a base.

use std::ffi::OsStr;
use std::fs::{File, FileTimes};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{FileType, Mode, OFlags};

use super::{Engine, owners};
use crate::error::{Context, Error, Kind, Result};
use crate::profile::Chain;
use crate::profile::keys::Place;
use crate::profile::own::Change;
use crate::request::Verb;
use crate::store::journal::{self, Work};
use crate::store::lock::{self, Subject};
use crate::store::record::{Overrides, current_generation};
use crate::store::{BaseRecord, Name, Record, atomic, ids};
use crate::sys::Named;
use crate::tree::accounts::{self, Accounts};
use crate::tree::copy::{self, Shift};
use crate::tree::inside::Inside;
use crate::tree::volume;

/// What a new container is to be.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// `--base`
    pub base: Option<String>,
    /// `--owner`, any number of times
    pub owners: Vec<String>,
    /// `--profile`
    pub profile: Option<String>,
    /// `--init`, `--network` and `--set`
    pub changes: Vec<Change>,
}

impl Wish {
    fn words(&self) -> Vec<String> {
        let base = self.base.iter().map(|b| format!("--base={b}"));
        let owners = self.owners.iter().map(|o| format!("--owner={o}"));
        let profile = self.profile.iter().map(|p| format!("--profile={p}"));
        let settings = self.changes.iter().map(Change::words);
        base.chain(owners).chain(profile).chain(settings).collect()
    }
}

impl Engine {
    /// Makes the container `name`.
    pub fn create(&self, name: &Name, wish: &Wish) -> Result<Record> {
        self.noting(Verb::Create, name, &wish.words(), || self.create_noted(name, wish))
    }

    fn create_noted(&self, name: &Name, wish: &Wish) -> Result<Record> {
        let base = self.base_or_default(wish.base.as_deref())?;
        let profile = match &wish.profile {
            Some(text) => Name::parse("profile", text)?,
            None => self.config.default_profile.clone(),
        };
        let chain = Chain::load(&self.layout, &profile)?;
        let overrides = own_settings(&chain, &wish.changes)?;
        for owner in &wish.owners {
            owners::check(owner)?;
        }
        let _lock = lock::exclusive(&self.layout, &Subject::Container(name.clone()))?;
        if self.layout.container(name).exists() {
            return Err(Error::new(Kind::State, format!("there is a container {name} already"))
                .hint("choose another name; coloc list shows those that are taken"));
        }
        let _base_lock = lock::shared(&self.layout, &Subject::Base(base.clone()))?;
        BaseRecord::load(&self.layout, &base)?;
        let generation = current_generation(&self.layout, &base)?;
        let tree = self.layout.generation(&base, generation).join("tree");
        let mut accounts = read_accounts(&tree)?;
        for owner in &wish.owners {
            check_free(&accounts, owner, &base)?;
        }
        let mut record = Record::new(name.clone(), base, generation, profile);
        record.owners = wish.owners.clone();
        record.overrides = overrides;
        record.machine_id = new_machine_id()?;
        // Now, and not when it is to start: a port that is taken, a device that is not there.
        self.check_network(&record, &self.all_settings(&record)?)?;

        let work = Work::Create { name: name.clone() };
        work.begin(&self.layout)?;
        let result = self.build(&mut record, &work.staging(&self.layout), &tree, &mut accounts);
        if let Err(e) = result {
            // Undo at once what recovery would undo later; what cannot be undone now is its.
            let undone = volume::remove_container(&work.staging(&self.layout))
                .and_then(|()| self.release_unless_there(name));
            self.let_trees_go();
            if undone.is_ok() {
                let _ = work.end(&self.layout);
            }
            return Err(e.context(format!("cannot create {name}")));
        }
        work.end(&self.layout)?;
        Ok(record)
    }

    fn build(
        &self,
        record: &mut Record,
        staging: &Path,
        tree: &Path,
        accounts: &mut Accounts,
    ) -> Result<()> {
        let _trees = self.hold_trees()?;
        journal::step("create.mounted");
        // A leftover of this name was recovered before; its claim with it.
        volume::remove_container(staging)?;
        let ranges = self.settings(record)?.id_ranges;
        record.ids = ids::claim(&self.layout, self.config.ids, &record.name, ranges)?;
        journal::step("create.claimed");
        std::fs::create_dir(staging)?;
        std::fs::set_permissions(staging, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let keys = Keys::begin(staging, tree, &record.name)?;
        let place = volume::make_private(staging)?;
        let shift = Shift(record.ids.start);
        let room = Room { tree: Inside::open(&place)?, base: Inside::open(tree)?, shift };
        room.copy_private_parts(&place, tree)?;
        journal::step("create.copied");
        room.make_own(record)?;
        room.move_in(&record.owners, accounts)?;
        keys.finish(&room)?;
        record.save_in(staging)?;
        // Before the rename that makes it all count.
        crate::tree::sync::tree(staging)?;
        journal::step("create.built");
        let place = self.layout.container(&record.name);
        std::fs::rename(staging, &place).context(|| "cannot put it in its place")?;
        atomic::sync_parent(&place)?;
        journal::step("create.placed");
        Ok(())
    }
}

/// What a container says itself that is made with these changes.
fn own_settings(chain: &Chain, changes: &[Change]) -> Result<Overrides> {
    let (mut own, below) = (Overrides::new(), chain.effective());
    for change in changes {
        if change.key.place != Place::Both {
            return Err(Error::new(Kind::Usage, format!("{} is not for --set", change.key.name))
                .hint(
                    "--owner says whose it is, --profile from what it starts; for others coloc set",
                ));
        }
        change.apply(&mut own, &below)?;
    }
    chain.with(&own)?;
    Ok(own)
}

fn check_free(accounts: &Accounts, owner: &str, base: &Name) -> Result<()> {
    if owner == "root" || !accounts.knows(owner) {
        return Ok(());
    }
    Err(Error::new(Kind::State, format!("{owner} is a system account of base {base}"))
        .hint("give the container to a user of another name"))
}

fn new_machine_id() -> Result<String> {
    // A random UUID of the kernel's, which is what machine-id(5) asks for.
    let path = "/proc/sys/kernel/random/uuid";
    let text = std::fs::read_to_string(path).context(|| format!("cannot read {path}"))?;
    Ok(text.trim().replace('-', ""))
}

fn read_accounts(tree: &Path) -> Result<Accounts> {
    let tree = Inside::open(tree)?;
    let read = |path: &str| tree.text(path).context(|| format!("cannot read the base's /{path}"));
    let needed = |path: &str| {
        read(path)?.ok_or_else(|| Error::new(Kind::Damaged, format!("the base has no /{path}")))
    };
    Ok(Accounts {
        passwd: needed("etc/passwd")?,
        group: needed("etc/group")?,
        shadow: read("etc/shadow")?,
        gshadow: read("etc/gshadow")?,
    })
}

/// The private tree while it is made. Nobody else is in it yet; but links of the base's are, and
/// whoever made that may have them lead anywhere.
struct Room {
    tree: Inside,
    base: Inside,
    shift: Shift,
}

/// What of a base's top level is not copied: `/usr` is shared, the rest made at each start.
const NOT_PRIVATE: [&str; 6] = ["usr", "proc", "sys", "dev", "run", "tmp"];

impl Room {
    fn copy_private_parts(&self, place: &Path, tree: &Path) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| {
            rustix::fs::open(path, flags, Mode::empty()).named(|| format!("open({path:?})"))
        };
        self.directory(".", 0o755, 0)?;
        let skip = |name: &OsStr| NOT_PRIVATE.iter().any(|n| name == OsStr::new(n));
        copy::contents(open(tree)?.as_fd(), open(place)?.as_fd(), self.shift, &skip)?;
        for name in NOT_PRIVATE {
            self.directory(name, if name == "tmp" { 0o1777 } else { 0o755 }, 0)?;
        }
        Ok(())
    }

    fn directory(&self, path: &str, mode: u32, uid: u32) -> Result<()> {
        let id = uid + self.shift.0;
        let made = self.tree.make_dir(path).and_then(|()| self.tree.give(path, id, id));
        made.and_then(|()| self.tree.set_mode(path, mode))
            .map_err(|e| e.context(format!("cannot make /{path}")))
    }

    /// Writes a file anew, whatever was there; with its group where that is not root's.
    fn file(&self, path: &str, text: &str, mode: u32, gid: u32) -> Result<File> {
        let put = self.tree.put(path, text.as_bytes(), mode, self.shift.0, self.shift.0 + gid);
        put.map_err(|e| e.context(format!("cannot write /{path}")))
    }

    /// What a machine has of its own.
    fn make_own(&self, record: &Record) -> Result<()> {
        let name = record.name.as_str();
        self.file("etc/machine-id", &format!("{}\n", record.machine_id), 0o444, 0)?;
        self.file("etc/hostname", &format!("{name}\n"), 0o644, 0)?;
        let hosts = self.base.text("etc/hosts")?.unwrap_or_default();
        self.file("etc/hosts", &format!("{hosts}127.0.1.1 {name}\n"), 0o644, 0)?;
        self.system_ids()?;
        // As systemd-update-done leaves them: nothing in here is older than this /usr, so the
        // first boot need not bring it up to date.
        let usr = self.base.stat("usr")?.ok_or_else(|| Error::failed("the base has no /usr"))?;
        let since = Duration::new(usr.st_mtime.unsigned_abs(), usr.st_mtime_nsec as u32);
        let stamp = FileTimes::new().set_modified(UNIX_EPOCH + since);
        for dir in ["etc", "var"] {
            self.file(&format!("{dir}/.updated"), "", 0o644, 0)?.set_times(stamp)?;
        }
        Ok(())
    }

    /// Accounts that are made inside stay clear of those that a base update may bring.
    fn system_ids(&self) -> Result<()> {
        let (first, last) = (accounts::PRIVATE_FIRST, accounts::PRIVATE_LAST);
        let edit = |path: &str, lines: [String; 4]| -> Result<()> {
            let Some(text) = self.base.text(path)? else { return Ok(()) };
            self.file(path, &set_lines(&text, &lines), 0o644, 0).map(drop)
        };
        edit(
            "etc/adduser.conf",
            [
                format!("FIRST_SYSTEM_UID={first}"),
                format!("LAST_SYSTEM_UID={last}"),
                format!("FIRST_SYSTEM_GID={first}"),
                format!("LAST_SYSTEM_GID={last}"),
            ],
        )?;
        edit(
            "etc/login.defs",
            [
                format!("SYS_UID_MIN {first}"),
                format!("SYS_UID_MAX {last}"),
                format!("SYS_GID_MIN {first}"),
                format!("SYS_GID_MAX {last}"),
            ],
        )
    }

    /// The owners' accounts, with their homes.
    fn move_in(&self, owners: &[String], accounts: &mut Accounts) -> Result<()> {
        let bash = self.tree.kind("etc/skel/.bashrc")?.is_some();
        let shell = if bash { "/bin/bash" } else { "/bin/sh" };
        // The members of a group get theirs when they come.
        for owner in owners.iter().filter(|o| *o != "root" && !o.starts_with('@')) {
            let id = accounts.add_user(owner, shell);
            for group in ["sudo", "adm", "systemd-journal"] {
                if accounts.has_group(group) {
                    accounts.add_member(group, owner);
                }
            }
            self.home(owner, id)?;
        }
        if owners.is_empty() {
            return Ok(());
        }
        self.file("etc/passwd", &accounts.passwd, 0o644, 0)?;
        self.file("etc/group", &accounts.group, 0o644, 0)?;
        let shadow = accounts::gid_of(&accounts.group, "shadow").unwrap_or(0);
        let secret = [("etc/shadow", &accounts.shadow), ("etc/gshadow", &accounts.gshadow)];
        for (path, text) in secret {
            if let Some(text) = text {
                self.file(path, text, 0o640, shadow)?;
            }
        }
        if self.tree.kind("etc/sudoers.d")?.is_some() {
            // An owner has no password here, and nothing to prove to their own container.
            let rule = "# Made by coloc: the owners are root of their container.\n\
                        %sudo ALL=(ALL:ALL) NOPASSWD: ALL\n";
            self.file("etc/sudoers.d/coloc", rule, 0o440, 0)?;
        }
        Ok(())
    }

    fn home(&self, owner: &str, id: u32) -> Result<()> {
        let home = format!("home/{owner}");
        self.directory(&home, 0o700, id)?;
        for name in self.tree.names("etc/skel")? {
            let from = format!("etc/skel/{name}");
            let Some(stat) = self.tree.stat(&from)? else { continue };
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                continue;
            }
            let bytes = self.tree.bytes(&from)?.unwrap_or_default();
            let (mode, id) = (stat.st_mode & 0o7777, id + self.shift.0);
            self.tree.put(&format!("{home}/{name}"), &bytes, mode, id, id)?;
        }
        Ok(())
    }
}

/// Sets `KEY=value` or `KEY value` lines, in the place of a commented-out one where there is one.
fn set_lines(text: &str, lines: &[String]) -> String {
    let key = |line: &str| -> String {
        let bare = line.trim_start_matches(['#', ' ', '\t']);
        bare.split(['=', ' ', '\t']).next().unwrap_or("").to_string()
    };
    let mut out: Vec<String> = text.lines().map(str::to_string).collect();
    for line in lines {
        let at = out.iter().position(|l| {
            let setting = !l.trim_start_matches('#').starts_with(' ');
            setting && key(l) == key(line)
        });
        match at {
            Some(at) => out[at] = line.clone(),
            None => out.push(line.clone()),
        }
    }
    out.join("\n") + "\n"
}

/// The ssh host keys, made by ssh-keygen(1) while the tree is copied. RSA is left out: it takes
/// longer than all the rest, and every client of the last ten years knows the others.
struct Keys {
    dir: PathBuf,
    running: Vec<(String, Child)>,
}

impl Keys {
    fn begin(staging: &Path, tree: &Path, name: &Name) -> Result<Self> {
        let mut keys = Self { dir: staging.join("keys"), running: Vec::new() };
        if !tree.join("usr/sbin/sshd").exists() {
            return Ok(keys);
        }
        std::fs::create_dir(&keys.dir)?;
        for kind in ["ed25519", "ecdsa"] {
            let file = format!("ssh_host_{kind}_key");
            let child = Command::new("ssh-keygen")
                .args(["-q", "-t", kind, "-N", "", "-C", &format!("root@{name}"), "-f"])
                .arg(keys.dir.join(&file))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|e| match e.kind() {
                    std::io::ErrorKind::NotFound => {
                        Error::new(Kind::Unsupported, "ssh-keygen is not installed")
                            .hint("apt install openssh-client")
                    }
                    _ => e.into(),
                })?;
            keys.running.push((file, child));
        }
        Ok(keys)
    }

    fn finish(mut self, room: &Room) -> Result<()> {
        for (file, mut child) in std::mem::take(&mut self.running) {
            if !child.wait()?.success() {
                return Err(Error::failed("ssh-keygen could not make a host key"));
            }
            for (file, mode) in [(file.clone(), 0o600), (format!("{file}.pub"), 0o644)] {
                let text = std::fs::read_to_string(self.dir.join(&file))?;
                room.file(&format!("etc/ssh/{file}"), &text, mode, 0)?;
            }
        }
        crate::tree::remove(&self.dir)
    }
}

/// Where something else fails, before what was made is removed: nothing more is to be put there.
impl Drop for Keys {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_take_the_place_of_their_comment() {
        let text = "# FIRST_UID is a number\n#FIRST_UID=1\nB=2\nSYS\t3\n";
        let new = set_lines(text, &["FIRST_UID=7".into(), "SYS 4".into(), "NEW=1".into()]);
        assert_eq!(new, "# FIRST_UID is a number\nFIRST_UID=7\nB=2\nSYS 4\nNEW=1\n");
    }
}
