use std::process::ExitCode;

use crate::engine::Engine;
use crate::engine::enter::Request;
use crate::error::Result;
use crate::store::Name;

/// Open a login session in a container, or run a command in one.
#[derive(Debug, clap::Args)]
pub(super) struct ShellArgs {
    /// The container; the only one there is by default.
    name: Option<String>,
    /// As whom; the first owner by default, else root.
    #[arg(long)]
    user: Option<String>,
    /// What to run instead of a shell.
    #[arg(last = true)]
    command: Vec<String>,
}

/// Run a program in a container, without a login session.
#[derive(Debug, clap::Args)]
pub(super) struct ExecArgs {
    /// The container.
    name: String,
    /// As whom: a name, or UID[:GID]; the first owner by default, else root.
    #[arg(long)]
    user: Option<String>,
    /// Add to its environment; may be given again.
    #[arg(long, value_name = "KEY=value")]
    env: Vec<String>,
    /// Where it begins; its user's home by default.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(super) fn run_shell(engine: &Engine, args: &ShellArgs) -> Result<ExitCode> {
    let name = engine.container_or_only(args.name.as_deref())?;
    let request = Request {
        user: args.user.clone(),
        command: args.command.clone(),
        login: true,
        ..Request::default()
    };
    enter(engine, &name, &request)
}

pub(super) fn run_exec(engine: &Engine, args: &ExecArgs) -> Result<ExitCode> {
    let request = Request {
        user: args.user.clone(),
        command: args.command.clone(),
        env: args.env.clone(),
        cwd: args.cwd.clone(),
        login: false,
    };
    enter(engine, &Name::parse("container", &args.name)?, &request)
}

fn enter(engine: &Engine, name: &Name, request: &Request) -> Result<ExitCode> {
    let end = engine.enter(name, request)?;
    Ok(ExitCode::from(end.shell_code() as u8))
}
