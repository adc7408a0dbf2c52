//! Hooks of the OCI runtime spec (its "POSIX-platform Hooks"): programs that are run at points of a
//! container's life, with its state on their standard input.
//!
//! | point | run by | where |
//! |---|---|---|
//! | createRuntime | supervisor | on the host, with the namespaces made and nothing mounted |
//! | createContainer | child | in the container's namespaces, the host's programs in sight |
//! | startContainer | child | inside, before init, under all that confines it |
//! | poststart | supervisor | on the host, when init runs |
//! | poststop | who cleans up | on the host, before what was made is forgotten |

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use oci_spec::runtime::{Hooks as OciHooks, Spec};
use rustix::pipe::PipeFlags;
use serde_json::{Value as Json, json};

use super::relay::readable_within;
use crate::error::{Context, Error, Result};
use crate::sys::{Named, clone, process};

/// For how long a hook may run that does not say so itself: the container's lock is held meanwhile.
const LIMIT: Duration = Duration::from_secs(30);

/// One program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The point, as the spec calls it.
    pub point: &'static str,
    /// The program.
    pub path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
    limit: Duration,
}

/// All hooks of a container, and what they are told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hooks {
    list: Vec<Hook>,
    /// The state without what changes.
    about: Json,
}

impl Hooks {
    /// Those of `spec`, for the container whose directory is `bundle`.
    pub fn of(spec: &Spec, bundle: &std::path::Path) -> Self {
        let none = OciHooks::default();
        let hooks = spec.hooks().as_ref().unwrap_or(&none);
        let points = [
            ("createRuntime", hooks.create_runtime()),
            ("createContainer", hooks.create_container()),
            ("startContainer", hooks.start_container()),
            ("poststart", hooks.poststart()),
            ("poststop", hooks.poststop()),
        ];
        let one = |point, hook: &oci_spec::runtime::Hook| Hook {
            point,
            path: hook.path().clone(),
            args: hook.args().clone().unwrap_or_default(),
            env: hook.env().clone().unwrap_or_default(),
            limit: hook
                .timeout()
                .and_then(|s| u64::try_from(s).ok())
                .map_or(LIMIT, Duration::from_secs),
        };
        let list = points
            .into_iter()
            .flat_map(|(point, list)| list.iter().flatten().map(move |h| one(point, h)));
        let about = json!({
            "ociVersion": spec.version(),
            "id": spec.hostname(),
            "bundle": bundle,
            "annotations": spec.annotations(),
        });
        Self { list: list.collect(), about }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them.
    pub fn all(&self) -> &[Hook] {
        &self.list
    }

    /// Those of one point.
    pub fn at(&self, point: &str) -> impl Iterator<Item = &Hook> {
        self.list.iter().filter(move |h| h.point == point)
    }

    /// Runs those of `point` in their order, up to the first that fails.
    pub fn run(&self, point: &str, pid: Option<i32>) -> Result<()> {
        self.at(point).try_for_each(|hook| hook.run(&self.about, pid))
    }

    /// Runs those of `point`, all of them; gives what went wrong.
    pub fn run_all(&self, point: &str, pid: Option<i32>) -> Vec<Error> {
        self.at(point).filter_map(|hook| hook.run(&self.about, pid).err()).collect()
    }
}

impl Hook {
    fn run(&self, about: &Json, pid: Option<i32>) -> Result<()> {
        let what = || format!("hook {} {}", self.point, self.path.display());
        let mut state = about.clone();
        state["status"] = json!(match self.point {
            "createRuntime" | "createContainer" => "creating",
            "startContainer" => "created",
            "poststart" => "running",
            _ => "stopped",
        });
        if let Some(pid) = pid {
            state["pid"] = json!(pid);
        }
        let mut input = Some(self.input(&state.to_string()).context(what)?);
        let child = clone::spawn(0, None, || {
            let _ = input.take().map(|input| self.become_it(input));
            127
        })
        .context(what)?;
        if !readable_within(&child.pidfd, self.limit) {
            let _ = process::signal(&child.pidfd, libc::SIGKILL);
            let _ = process::wait(child.pidfd.as_fd());
            return Err(Error::failed(format!("{} takes too long", what())));
        }
        match process::wait(child.pidfd.as_fd())?.shell_code() {
            0 => Ok(()),
            code => Err(Error::failed(format!("{} failed with exit code {code}", what()))),
        }
    }

    /// The reading end of a pipe that holds all of `state`, so that nobody waits for a reader.
    fn input(&self, state: &str) -> Result<OwnedFd> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .named(|| "pipe2".into())?;
        let mut write = std::fs::File::from(write);
        std::io::Write::write_all(&mut write, state.as_bytes())?;
        // For the program it is a pipe as any other.
        rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::empty())
            .named(|| "fcntl(F_SETFL)".into())?;
        Ok(read)
    }

    /// Only returns if the program cannot be executed.
    fn become_it(&self, input: OwnedFd) -> std::io::Error {
        let mut command = Command::new(&self.path);
        if let Some((name, args)) = self.args.split_first() {
            command.arg0(name).args(args);
        }
        command.env_clear().envs(self.env.iter().filter_map(|e| e.split_once('=')));
        command.stdin(input).stdout(Stdio::null()).stderr(Stdio::null()).exec()
    }
}
