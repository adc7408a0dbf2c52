//! `coloc shell` and `coloc exec`.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::Engine;
use crate::error::{Error, Kind, Result};
use crate::request::{Caller, Enter, Verb};
use crate::runtime::agent;
use crate::runtime::bounds::Bounds;
use crate::runtime::cgroup;
use crate::runtime::enter::{self, Program};
use crate::runtime::held;
use crate::runtime::label;
use crate::runtime::near::Near;
use crate::runtime::relay::gone_within;
use crate::store::running::State;
use crate::store::{Name, Record};
use crate::sys::label::Module;
use crate::sys::path::open_dir;
use crate::sys::process::End;
use crate::tree::accounts::{self, User};
use crate::tree::file;

/// An account file of a member's that is larger than this is not one.
const ACCOUNT_LIMIT: u64 = 8 << 20;
/// For how long whoever comes to a container that has to be started waits for its init.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Somebody inside.
pub(super) struct Account {
    pub(super) user: User,
    groups: Vec<u32>,
}

impl Engine {
    /// Runs what `request` says in `name`, in a login session for `shell`; with a terminal
    /// inside if `near` is on one.
    pub fn enter(&self, verb: Verb, name: &Name, request: &Enter, near: Near) -> Result<End> {
        self.permit(verb, name)?;
        let begun = request.start && self.start_first(name)?;
        let noted = self.note(verb, name, &request.words())?;
        let result = self.enter_noted(verb, name, request, near, begun);
        noted.end(result.as_ref().map(|end| end.shell_code()));
        result
    }

    /// Starts `name` unless it runs, for somebody who wants to get in; whether it had to be.
    fn start_first(&self, name: &Name) -> Result<bool> {
        if State::alive(&self.layout, name).is_some() {
            return Ok(false);
        }
        self.start(name)?;
        // A login session needs what the init starts. One that takes longer is shown as it is.
        let _ = self.wait_until_up(name, BOOT_LIMIT);
        Ok(true)
    }

    fn enter_noted(
        &self,
        verb: Verb,
        name: &Name,
        request: &Enter,
        near: Near,
        begun: bool,
    ) -> Result<End> {
        let (record, state, init) = self.running_for(verb, name)?;
        let account = self.account(&record, request.user.as_deref())?;
        let mut program = match verb {
            Verb::Shell => self.login(&record, &account, request)?,
            _ => self.program(&record, &account, request)?,
        };
        // Not what the plan says: it may have been started before AppArmor was there.
        program.label = label::of(state.init.pid)
            .map(|name| (Module::AppArmor, name))
            .or_else(|| Some((Module::SeLinux, program.bounds.selinux.clone()?)));
        let session = request.command.is_empty() && request.line.is_none();
        let told = verb == Verb::Shell && session && near.terminal.is_some();
        let mut notes = match self.caller.member() {
            Some(who) if told => self.notes(&record, who),
            _ => Vec::new(),
        };
        if told && begun {
            notes.insert(0, format!("{name} did not run, and was started"));
        }
        let first: String =
            notes.iter().map(|n| format!("coloc: {}\r\n", file::printable(n))).collect();
        enter::run(&state, &init, &program, near, first.as_bytes())
            .map_err(|e| e.context(format!("cannot enter {name}")))
    }

    /// Attaches `near` to the console of `name`.
    pub fn console(&self, name: &Name, near: Near) -> Result<()> {
        self.permit(Verb::Console, name)?;
        self.noting(Verb::Console, name, &[], || {
            self.running_for(Verb::Console, name)?;
            crate::runtime::console::attach(&self.layout.run_of(name), near, name.as_str())
                .map_err(|e| e.context(format!("cannot attach to {name}")))
        })
    }

    /// The record and the state of a container that runs, and that the caller may do `verb` to.
    fn running_for(&self, verb: Verb, name: &Name) -> Result<(Record, State, OwnedFd)> {
        let before = self.permit(verb, name)?;
        let (state, init) = self.running(name)?;
        // Between the two it may have been deleted and made anew for somebody else. No two
        // containers have one machine-id, so if it is the same, what runs is its.
        let record = self.permit(verb, name)?;
        if record.machine_id != before.machine_id {
            return Err(Error::new(Kind::State, format!("{name} was made anew meanwhile"))
                .hint("try again"));
        }
        Ok((record, state, init))
    }

    /// The state of a container that runs and is not frozen.
    fn running(&self, name: &Name) -> Result<(State, OwnedFd)> {
        let Some((state, init)) = State::alive(&self.layout, name) else {
            return Err(Error::new(Kind::State, format!("{name} does not run"))
                .hint(format!("start it: coloc start {name}")));
        };
        let run = self.layout.run_of(name);
        if cgroup::frozen(&state.cgroup) && held::is_left(&run) {
            self.let_go(name)?;
        }
        if cgroup::frozen(&state.cgroup) {
            return Err(Error::new(Kind::State, format!("{name} is frozen"))
                .hint(format!("let it go on: coloc thaw {name}")));
        }
        Ok((state, init))
    }

    /// Who it is to be: who was asked for; else a member's own account, which is made if it is
    /// not there yet, and for the admin the first owner's, else root's.
    fn account(&self, record: &Record, asked: Option<&str>) -> Result<Account> {
        match (asked, &self.caller) {
            (None, Caller::Member(member)) => {
                let found = self.find_account(record, Some(&member.name));
                if found.as_ref().is_err_and(|e| e.kind() == Kind::NotFound) {
                    self.make_account(&record.name, &member.name);
                    return self.find_account(record, Some(&member.name)).map_err(|e| {
                        e.hint(format!("come in as root: coloc shell {} --user root", record.name))
                    });
                }
                found
            }
            _ => self.find_account(record, asked),
        }
    }

    /// Makes an account inside for somebody who owns the container and was not there when it
    /// was made. The container's own program does it, in there: at worst it makes none.
    fn make_account(&self, name: &Name, who: &str) {
        let limit = Duration::from_secs(20);
        let add = ["useradd", "--create-home", "--shell", "/bin/bash", "--groups", "sudo", who];
        let plain = ["adduser", "-D", who];
        let _ = self.run_quietly(name, &add, limit) || self.run_quietly(name, &plain, limit);
    }

    /// Looks an account up. The account files are the container's word, which can only hurt
    /// itself.
    pub(super) fn find_account(&self, record: &Record, asked: Option<&str>) -> Result<Account> {
        let tree = open_dir(self.layout.private(&record.name))?;
        let read = |path| -> Result<String> {
            Ok(String::from_utf8_lossy(&file::read(&tree, path, ACCOUNT_LIMIT)?).into_owned())
        };
        let users = accounts::users(&read("etc/passwd").unwrap_or_default());
        let group = read("etc/group").unwrap_or_default();
        let named = |name: &str| users.iter().find(|u| u.name == name).cloned();
        let root = User {
            name: "root".into(),
            uid: 0,
            gid: 0,
            home: "/root".into(),
            shell: "/bin/sh".into(),
        };
        let user = match asked {
            None => record.owners.first().and_then(|o| named(o)).or_else(|| named("root")),
            Some(text) => named(text).or_else(|| by_number(text, &users)),
        };
        let user = match (user, asked) {
            (Some(user), _) => user,
            (None, None | Some("root")) => root,
            (None, Some(text)) => {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("there is no user {text:?} in {}", record.name),
                )
                .hint("see who there is: coloc exec --user root NAME -- getent passwd"));
            }
        };
        let in_range = |id: u32| id < record.ids.count;
        if !in_range(user.uid) || !in_range(user.gid) {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "{} has an id that {} has not: {}:{}",
                    user.name, record.name, user.uid, user.gid
                ),
            )
            .hint(format!("ids inside are 0 to {}", record.ids.count - 1)));
        }
        let groups =
            accounts::groups_of(&group, &user.name).into_iter().filter(|g| in_range(*g)).collect();
        Ok(Account { user, groups })
    }

    /// The environment of whatever enters: of the caller's only what a terminal needs.
    fn environment(account: &User, request: &Enter) -> Result<Vec<String>> {
        let mut env = vec![
            PATH.to_string(),
            format!("HOME={}", account.home),
            format!("USER={}", account.name),
            format!("LOGNAME={}", account.name),
            format!("SHELL={}", account.shell),
            "container=coloc".to_string(),
        ];
        for (key, value) in [("TERM", &request.term), ("LANG", &request.lang)] {
            let value = value.as_ref().filter(|v| v.len() < 256 && !v.contains('\0'));
            env.extend(value.map(|v| format!("{key}={v}")));
        }
        for pair in &request.env {
            let Some((key, _)) = pair.split_once('=').filter(|(k, _)| !k.is_empty()) else {
                return Err(Error::new(Kind::Usage, format!("{pair:?} is no KEY=value"))
                    .hint("for example: --env EDITOR=nano"));
            };
            env.retain(|e| !e.starts_with(&format!("{key}=")));
            env.push(pair.clone());
        }
        Ok(env)
    }

    fn program(&self, record: &Record, account: &Account, request: &Enter) -> Result<Program> {
        let user = &account.user;
        Ok(Program {
            path: request.command.first().cloned().unwrap_or_else(|| user.shell.clone()),
            args: match request.command.is_empty() {
                true => vec![login_name(&user.shell)],
                false => request.command.clone(),
            },
            env: Self::environment(user, request)?,
            uid: user.uid,
            gid: user.gid,
            groups: account.groups.clone(),
            cwd: match &request.cwd {
                Some(dir) => vec![dir.clone()],
                None => vec![user.home.clone(), "/".into()],
            },
            stream_uid: user.uid,
            bounds: self.bounds(record)?,
            label: None,
            ids_start: record.ids.start,
            agent: request.agent,
        })
    }

    /// A login session by the container's own su(1), which asks its PAM; where the base has
    /// none, the login shell itself.
    fn login(&self, record: &Record, account: &Account, request: &Enter) -> Result<Program> {
        let mut program = self.program(record, account, request)?;
        let user = &account.user;
        let base = self.layout.generation(&record.base, record.generation).join("tree");
        if !base.join("etc/pam.d/su").exists() || !base.join("usr/bin/su").exists() {
            program.path = user.shell.clone();
            program.args = vec![login_name(&user.shell)];
            match &request.line {
                // As sshd runs one: by the shell, which is no login shell then.
                Some(line) => {
                    program.args = vec![base_name(&user.shell), "-c".into(), line.clone()]
                }
                None if request.command.is_empty() => {}
                None => program.args.extend(["-c".to_string(), quoted(&request.command)]),
            }
            return Ok(program);
        }
        program.path = "/usr/bin/su".into();
        program.args = vec!["su".into()];
        match &request.line {
            // What a profile prints would be in the way of the protocols that go through here.
            Some(line) => program.args.push(format!("--session-command={line}")),
            None => {
                let keep = format!("--whitelist-environment=LANG,{}", agent::VARIABLE);
                program.args.extend(["--login".into(), keep]);
                program.cwd = vec!["/".into()];
            }
        }
        if !request.command.is_empty() {
            program.args.push(format!("--session-command={}", quoted(&request.command)));
        }
        program.args.extend(["--".into(), user.name.clone()]);
        // su becomes the user itself, once PAM has opened the session.
        (program.uid, program.gid, program.groups) = (0, 0, Vec::new());
        Ok(program)
    }

    /// What confines the container's init: as its start has kept it, else, if that is lost, as
    /// the next one would have it.
    fn bounds(&self, record: &Record) -> Result<Bounds> {
        if let Some(bounds) = Bounds::load(&self.layout.run_of(&record.name)) {
            return Ok(bounds);
        }
        let (_, plan, _) = self.plan_with(record, None)?;
        Ok(Bounds::of(&plan))
    }

    /// Runs a command of coloc's own inside as root, without streams; whether it went well.
    pub(super) fn run_quietly(&self, name: &Name, command: &[&str], limit: Duration) -> bool {
        self.output(name, command, limit).is_ok_and(|(well, _)| well)
    }

    /// What `systemctl is-system-running` says inside.
    pub(super) fn system_state(&self, name: &Name) -> Result<String> {
        let command = ["systemctl", "is-system-running"];
        let (_, text) = self.output(name, &command, Duration::from_secs(30))?;
        Ok(file::printable(text.lines().next().unwrap_or("unknown").trim()))
    }

    /// Runs a command inside as root, by a second coloc, and gives whether it went well and what
    /// it printed. The program is the container's: it may hang, which costs `limit`, or flood
    /// us, which a full pipe stops.
    fn output(&self, name: &Name, command: &[&str], limit: Duration) -> Result<(bool, String)> {
        use std::os::unix::process::CommandExt;
        use std::process::Stdio;
        let mut child = crate::sys::image::again()
            .arg("--root")
            .arg(self.layout.root())
            .args(["exec", "--user", "root", name.as_str(), "--"])
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A Ctrl-C is its caller's to answer.
            .process_group(0)
            .spawn()?;
        let pidfd = crate::sys::process::pidfd(child.id() as i32)?;
        if !gone_within(&pidfd, limit) {
            child.kill()?;
        }
        let well = child.wait()?.success();
        let mut text = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            pipe.take(4096).read_to_end(&mut text)?;
        }
        Ok((well, String::from_utf8_lossy(&text).into_owned()))
    }
}

fn by_number(text: &str, users: &[User]) -> Option<User> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, ""));
    let uid: u32 = uid.parse().ok()?;
    let known = users.iter().find(|u| u.uid == uid).cloned();
    let mut user = known.unwrap_or(User {
        name: uid.to_string(),
        uid,
        gid: uid,
        home: "/".into(),
        shell: "/bin/sh".into(),
    });
    if !gid.is_empty() {
        user.gid = gid.parse().ok()?;
    }
    Some(user)
}

/// argv[0] of a login shell: a dash before its name.
fn login_name(shell: &str) -> String {
    format!("-{}", base_name(shell))
}

fn base_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or("sh").to_string()
}

/// The words as a POSIX shell reads them back.
fn quoted(words: &[String]) -> String {
    let quote = |w: &String| format!("'{}'", w.replace('\'', r"'\''"));
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_a_shell() {
        let words: Vec<String> =
            ["printf", "%s|", "a b", "it's", "$HOME", "\n", ""].map(String::from).into();
        let out = std::process::Command::new("sh").args(["-c", &quoted(&words)]).output().unwrap();
        assert_eq!(out.stdout, b"a b|it's|$HOME|\n||");
    }

    #[test]
    fn numbers_are_users_too() {
        let user = by_number("1000:7", &[]).unwrap();
        assert_eq!((user.uid, user.gid), (1000, 7));
        assert!(by_number("x", &[]).is_none());
    }
}
