//! The command line: one file a verb, whose doc comments are its help. Parsing never acts.

mod adopt;
mod base;
mod change;
mod check;
mod conflicts;
mod console;
mod create;
mod delete;
mod edit;
mod enable;
mod enter;
mod freeze;
mod init;
mod journal;
mod list;
mod login;
mod logs;
mod network;
mod plan;
mod profile;
mod progress;
mod publish;
mod report;
mod serve;
mod set;
mod show;
mod spec;
mod stale;
mod start;
mod status;
mod stop;
mod supervise;
mod top;
mod ui;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::broker::client;
use crate::engine::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::request::Request;
use crate::runtime::enter::OWN_FAILURE;
use crate::runtime::near::Near;
use crate::store::Layout;
use crate::sys::image;

/// Long-lived system containers on one shared, read-only base.
#[derive(Debug, Parser)]
#[command(name = "coloc", version, max_term_width = 100)]
struct Cli {
    /// Keep all state under DIR instead of /.
    #[arg(long, value_name = "DIR", env = "COLOC_ROOT", global = false)]
    root: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Init(init::InitArgs),
    Base(base::BaseArgs),
    Create(create::CreateArgs),
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    Restart(stop::RestartArgs),
    Delete(delete::DeleteArgs),
    Shell(enter::ShellArgs),
    Exec(enter::ExecArgs),
    List(list::ListArgs),
    Status(status::StatusArgs),
    Top(top::TopArgs),
    Console(console::ConsoleArgs),
    Logs(logs::LogsArgs),
    Journal(journal::JournalArgs),
    Freeze(freeze::FreezeArgs),
    Thaw(freeze::ThawArgs),
    Enable(enable::EnableArgs),
    Disable(enable::DisableArgs),
    Adopt(adopt::AdoptArgs),
    Stale(stale::StaleArgs),
    Conflicts(conflicts::ConflictsArgs),
    Set(set::SetArgs),
    Unset(set::UnsetArgs),
    Edit(edit::EditArgs),
    Show(show::ShowArgs),
    Profile(profile::ProfileArgs),
    Publish(publish::PublishArgs),
    Unpublish(publish::UnpublishArgs),
    Network(network::NetworkArgs),
    Plan(plan::PlanArgs),
    Spec(spec::SpecArgs),
    Check(check::CheckArgs),
    Serve(serve::ServeArgs),
    Supervise(supervise::SuperviseArgs),
}

/// What is called often, or while somebody waits: to know all verbs takes longer than what most of
/// these do.
#[derive(Debug, Parser)]
#[command(name = "coloc", disable_help_subcommand = true)]
struct Short {
    #[arg(long, env = "COLOC_ROOT", global = false)]
    root: Option<PathBuf>,
    #[command(subcommand)]
    verb: Often,
}

#[derive(Debug, Subcommand)]
enum Often {
    Start(start::StartArgs),
    Stop(stop::StopArgs),
    Shell(enter::ShellArgs),
    Exec(enter::ExecArgs),
    List(list::ListArgs),
    Supervise(supervise::SuperviseArgs),
}

impl From<Often> for Verb {
    fn from(verb: Often) -> Self {
        match verb {
            Often::Start(args) => Verb::Start(args),
            Often::Stop(args) => Verb::Stop(args),
            Often::Shell(args) => Verb::Shell(args),
            Often::Exec(args) => Verb::Exec(args),
            Often::List(args) => Verb::List(args),
            Often::Supervise(args) => Verb::Supervise(args),
        }
    }
}

/// The first word that is no option of the program's own.
fn verb_word() -> Option<OsString> {
    let mut args = std::env::args_os().skip(1);
    loop {
        let word = args.next()?;
        match word.to_str() {
            Some("--root") => drop(args.next()),
            Some(option) if option.starts_with("--root=") => {}
            _ => return Some(word),
        }
    }
}

/// Reads the command line. Whatever [`Short`] cannot read, help among it, is for all of it to say.
fn parse(verb: &str) -> std::result::Result<Cli, clap::Error> {
    if !["start", "stop", "shell", "exec", "list", "supervise"].contains(&verb) {
        return Cli::try_parse();
    }
    match Short::try_parse() {
        Ok(Short { root, verb }) => Ok(Cli { root, verb: verb.into() }),
        Err(_) => Cli::try_parse(),
    }
}

/// Prints `error` on stderr and gives its exit code.
pub fn report(error: &Error) -> ExitCode {
    eprintln!("coloc: {}", crate::tree::file::printable(&error.to_string()));
    if let Some(hint) = error.hint_text() {
        eprintln!("hint: {}", crate::tree::file::printable(hint));
    }
    ExitCode::from(error.kind().exit_code() as u8)
}

/// The whole command: parses, runs, reports.
pub fn main() -> ExitCode {
    // Somebody who pipes us into head(1) is not an error.
    crate::sys::process::ignore_signal(libc::SIGPIPE, false);
    if login::is_login_shell() {
        return login::main();
    }
    let verb = verb_word().unwrap_or_default();
    let verb = verb.to_str().unwrap_or_default();
    if ["start", "stop", "restart"].contains(&verb) {
        // What these leave behind goes on for years, and would hold a caller's lock or pipe.
        let _ = crate::sys::process::close_from(3);
    }
    let enters = ["start", "shell", "exec", "supervise"].contains(&verb);
    if enters && nix::unistd::geteuid().is_root() {
        // Before anything is done, as it begins anew. Who needs it asks again, and says why not.
        let _ = image::seal();
    }
    let cli = match parse(verb) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(usage_code(&e));
        }
    };
    let entering = matches!(cli.verb, Verb::Shell(_) | Verb::Exec(_));
    match layout(cli.root).and_then(|layout| run(layout, cli.verb)) {
        Ok(code) => code,
        Err(e) => {
            let code = report(&e);
            // These end with the code of what they ran, so their own must be told from it.
            if entering { ExitCode::from(OWN_FAILURE as u8) } else { code }
        }
    }
}

fn usage_code(e: &clap::Error) -> u8 {
    let entering = std::env::args_os().any(|a| a == "exec" || a == "shell");
    match e.use_stderr() {
        false => 0,
        true if entering => OWN_FAILURE as u8,
        true => 2,
    }
}

fn layout(root: Option<PathBuf>) -> Result<Layout> {
    let Some(root) = root else { return Ok(Layout::new("/")) };
    if root.as_os_str().is_empty() {
        return Err(Error::new(Kind::Usage, "--root is empty").hint("give a directory"));
    }
    // The same store whatever the working directory is, and whichever link leads to it.
    let absolute =
        std::path::absolute(&root).context(|| format!("cannot use {}", root.display()))?;
    Ok(Layout::new(absolute.canonicalize().unwrap_or(absolute)))
}

fn run(layout: Layout, verb: Verb) -> Result<ExitCode> {
    let look = |what: &str| Engine::open(layout.clone(), what);
    let change = |what: &str| Engine::open_to_change(layout.clone(), what);
    match verb {
        Verb::Init(args) => init::run(&layout, &args),
        Verb::Base(args) => base::run(layout, &args),
        Verb::Start(args) if args.autostart => {
            start::run_autostart(&change("start what the host starts at boot")?, &args)
        }
        Verb::Start(args) => ask(layout, args.request()?),
        Verb::Stop(args) => ask(layout, args.request()?),
        Verb::Restart(args) => ask(layout, args.request()?),
        Verb::Shell(args) => login::ask_which(&args.request()?, |r| ask(layout.clone(), r)),
        Verb::Exec(args) => ask(layout, args.request()?),
        Verb::List(args) => ask(layout, args.request()),
        Verb::Status(args) => ask(layout, args.request()?),
        Verb::Top(args) => match args.request() {
            Some(request) => ask(layout, request),
            None => top::run(&layout, &args),
        },
        Verb::Console(args) => ask(layout, args.request()?),
        Verb::Logs(args) => ask(layout, args.request()?),
        Verb::Journal(args) => ask(layout, args.request()?),
        Verb::Serve(args) => serve::run(&layout, &args),
        Verb::Create(args) => create::run(&change("create a container")?, &args),
        Verb::Delete(args) => delete::run(&change("delete a container")?, &args),
        Verb::Freeze(args) => freeze::run(&change("freeze a container")?, &args.names, true),
        Verb::Thaw(args) => freeze::run(&change("thaw a container")?, &args.names, false),
        Verb::Enable(args) => enable::run(&change("enable a container")?, &args.names, true),
        Verb::Disable(args) => enable::run(&change("disable a container")?, &args.names, false),
        Verb::Adopt(args) if args.is_part() => adopt::run(&look("adopt a generation")?, &args),
        Verb::Adopt(args) => adopt::run(&change("change a container's generation")?, &args),
        Verb::Stale(args) => ask(layout, args.request()?),
        Verb::Conflicts(args) => ask(layout, args.request()?),
        Verb::Set(args) => set::run(&change("change a container's settings")?, &args),
        Verb::Unset(args) => set::run_unset(&change("change a container's settings")?, &args),
        Verb::Edit(args) => edit::run(&change("change a container's settings")?, &args),
        Verb::Profile(args) => profile::run(&layout, &args),
        Verb::Show(args) => ask(layout, args.request()?),
        Verb::Publish(args) if args.looks() => publish::list(&look("list published ports")?, &args),
        Verb::Publish(args) => publish::run(&change("publish a port")?, &args),
        Verb::Unpublish(args) => publish::run_unpublish(&change("unpublish a port")?, &args),
        Verb::Network(args) if args.reload => network::reload(&change("change the network")?),
        Verb::Network(args) => network::run(&look("look at the network")?, &args),
        Verb::Plan(args) => plan::run(&look("plan a start")?, &args),
        Verb::Spec(args) => spec::run(&look("print a spec")?, &args),
        Verb::Check(args) => check::run(&look("check")?, &args),
        Verb::Supervise(args) => supervise::run(&look("supervise a container")?, &args),
    }
}

/// Has `request` done: by this process if it is root's, else by the broker.
fn ask(layout: Layout, request: Request) -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        return client::call(&layout, request).map(ExitCode::from);
    }
    if matches!(request, Request::Shell(_) | Request::Exec(_)) {
        // Before anything is done, as it begins anew.
        image::seal()?;
    }
    let engine = match request.changes() {
        true => Engine::open_to_change(layout, request.verb().word())?,
        false => Engine::open(layout, request.verb().word())?,
    };
    act(&engine, &request)
}

/// Does `request` for the caller of `engine`, on the standard streams of this process.
fn act(engine: &Engine, request: &Request) -> Result<ExitCode> {
    match request {
        Request::Shell(e) | Request::Exec(e) => enter::run(engine, request.verb(), e),
        Request::Console { name } => {
            let name = engine.container_or_only(name.as_ref())?;
            engine.console(&name, Near::local()?).map(|()| ExitCode::SUCCESS)
        }
        Request::Start { which, wait } => start::run(engine, which, *wait),
        Request::Stop { which, timeout } => stop::run(engine, which, *timeout),
        Request::Restart { which, timeout, wait } => {
            stop::run_restart(engine, which, *timeout, *wait)
        }
        Request::List { json } => list::run(engine, *json),
        Request::Top { .. } => top::moment(engine),
        Request::Status { name, json } => status::run(engine, name.as_ref(), *json),
        Request::Show { name, origin, json } => show::run(engine, name.as_ref(), *origin, *json),
        Request::Logs { name, follow } => logs::run(engine, name.as_ref(), *follow),
        Request::Stale { name, restart, json } => {
            stale::run(engine, name.as_ref(), *restart, *json)
        }
        Request::Conflicts { name, path, take, json } => {
            conflicts::run(engine, name.as_ref(), path.as_deref(), *take, *json)
        }
        Request::Journal { name, json, last } => journal::run(engine, name.as_ref(), *json, *last),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
