use std::process::ExitCode;

use super::ui;
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::request::{Enter, Request, Verb};
use crate::runtime::agent;
use crate::runtime::near::Near;
use crate::store::Name;

/// Open a login session in a container, or run a command in one.
#[derive(Debug, clap::Args)]
pub(super) struct ShellArgs {
    /// The container; the only one there is by default.
    name: Option<String>,
    /// As whom; yourself by default, for the admin the first owner, else root.
    #[arg(long)]
    user: Option<String>,
    /// Let programs inside use your ssh agent.
    #[arg(long)]
    agent: bool,
    /// What to run instead of a shell.
    #[arg(last = true)]
    command: Vec<String>,
}

/// Run a program in a container, without a login session.
#[derive(Debug, clap::Args)]
pub(super) struct ExecArgs {
    /// The container.
    name: String,
    /// As whom: a name, or UID[:GID]; yourself by default, for the admin the first owner.
    #[arg(long)]
    user: Option<String>,
    /// Add to its environment; may be given again.
    #[arg(long, value_name = "KEY=value")]
    env: Vec<String>,
    /// Where it begins; its user's home by default.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Let programs inside use your ssh agent.
    #[arg(long)]
    agent: bool,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl ShellArgs {
    pub(super) fn request(&self) -> Result<Request> {
        Ok(Request::Shell(Enter {
            name: ui::name(self.name.as_deref())?,
            user: self.user.clone(),
            command: self.command.clone(),
            agent: agent_of(self.agent)?,
            ..of_caller()
        }))
    }
}

impl ExecArgs {
    pub(super) fn request(&self) -> Result<Request> {
        Ok(Request::Exec(Enter {
            name: Some(Name::parse("container", &self.name)?),
            user: self.user.clone(),
            command: self.command.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            agent: agent_of(self.agent)?,
            ..of_caller()
        }))
    }
}

/// Whether an agent is to be used, and there is one.
fn agent_of(asked: bool) -> Result<bool> {
    if asked && agent::own().is_none() {
        return Err(Error::new(Kind::Usage, "you have no ssh agent: SSH_AUTH_SOCK is not set")
            .hint("start one, as in ssh-agent(1), or come by ssh -A"));
    }
    Ok(asked)
}

/// What passes of the caller's environment.
pub(super) fn of_caller() -> Enter {
    Enter { term: std::env::var("TERM").ok(), lang: std::env::var("LANG").ok(), ..Enter::default() }
}

pub(super) fn run(engine: &Engine, verb: Verb, enter: &Enter) -> Result<ExitCode> {
    let name = engine.container_or_only(enter.name.as_ref())?;
    let end = engine.enter(verb, &name, enter, Near::local()?)?;
    Ok(ExitCode::from(end.shell_code() as u8))
}
