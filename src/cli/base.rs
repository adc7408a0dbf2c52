use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::progress::Progress;
use super::{change, ui};
use crate::engine::Engine;
use crate::engine::bases::{BaseView, Source};
use crate::error::{Error, Kind, Result};
use crate::request::Verb;
use crate::status::size_words;
use crate::store::{Layout, Name};
use crate::tree::file::printable;

/// Make and look after bases: the systems that containers share.
#[derive(Debug, Args)]
pub(super) struct BaseArgs {
    #[command(subcommand)]
    verb: BaseVerb,
}

#[derive(Debug, Subcommand)]
enum BaseVerb {
    Create(CreateArgs),
    List(ListArgs),
    Show(ShowArgs),
    Verify(VerifyArgs),
    Update(change::UpdateArgs),
    Install(change::PackagesArgs),
    /// Remove packages from a base, and from its containers with it.
    Remove(change::PackagesArgs),
    Shell(change::BaseShellArgs),
    Diff(change::DiffArgs),
    Rollback(change::RollbackArgs),
    Prune(change::PruneArgs),
    Delete(DeleteArgs),
}

/// Build a base, and publish it as generation 1.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["suite", "from"]))]
struct CreateArgs {
    /// The base's name.
    name: String,
    /// The distribution's release, such as bookworm.
    #[arg(long)]
    suite: Option<String>,
    /// Where to get it; the mirrors of this host's apt by default.
    #[arg(long, value_name = "URL", conflicts_with = "from")]
    mirror: Option<String>,
    /// The archive's components, such as main,contrib.
    #[arg(long, value_name = "LIST", conflicts_with = "from")]
    components: Option<String>,
    /// Packages beside those of the package list.
    #[arg(long, value_name = "PKG,…", value_delimiter = ',', conflicts_with = "from")]
    include: Vec<String>,
    /// What mmdebstrap begins with: minbase, important, …
    #[arg(long, conflicts_with = "from")]
    variant: Option<String>,
    /// Take a root file system made elsewhere instead: a directory or a tarball.
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
}

/// List the bases.
#[derive(Debug, Args)]
struct ListArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Show one base.
#[derive(Debug, Args)]
struct ShowArgs {
    /// The base.
    name: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Compare a generation with what was published; exit code 1 when it differs.
#[derive(Debug, Args)]
struct VerifyArgs {
    /// The base.
    name: String,
    /// Which generation; the current one by default.
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Delete a base that no container uses.
#[derive(Debug, Args)]
struct DeleteArgs {
    /// The base.
    name: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(layout: Layout, args: &BaseArgs) -> Result<ExitCode> {
    match &args.verb {
        BaseVerb::Create(a) => create(&Engine::open_to_change(layout, "create a base")?, a),
        BaseVerb::List(a) => list(&Engine::open(layout, "list the bases")?, a),
        BaseVerb::Show(a) => show(&Engine::open(layout, "see a base")?, a),
        BaseVerb::Verify(a) => verify(&Engine::open(layout, "verify a base")?, a),
        BaseVerb::Update(a) => change::update(&Engine::open_to_change(layout, "update a base")?, a),
        BaseVerb::Install(a) => {
            change::install(&Engine::open_to_change(layout, "change a base")?, a)
        }
        BaseVerb::Remove(a) => change::remove(&Engine::open_to_change(layout, "change a base")?, a),
        BaseVerb::Shell(a) => change::shell(&Engine::open_to_change(layout, "change a base")?, a),
        BaseVerb::Diff(a) => change::diff(&Engine::open(layout, "compare generations")?, a),
        BaseVerb::Rollback(a) => {
            change::rollback(&Engine::open_to_change(layout, "roll a base back")?, a)
        }
        BaseVerb::Prune(a) => change::prune(&Engine::open_to_change(layout, "prune a base")?, a),
        BaseVerb::Delete(a) => delete(&Engine::open_to_change(layout, "delete a base")?, a),
    }
}

fn create(engine: &Engine, args: &CreateArgs) -> Result<ExitCode> {
    let name = Name::parse("base", &args.name)?;
    let source = match (&args.from, &args.suite) {
        (Some(from), _) => Source::Tree(from.clone()),
        (None, Some(suite)) => Source::Suite {
            suite: suite.clone(),
            mirror: args.mirror.clone(),
            components: args.components.clone(),
            include: args.include.clone(),
            variant: args.variant.clone(),
        },
        (None, None) => return Err(Error::new(Kind::Usage, "give --suite or --from")),
    };
    let words = match &source {
        Source::Tree(from) => vec![format!("--from={}", from.display())],
        Source::Suite { suite, .. } => vec![format!("--suite={suite}")],
    };
    let line = Progress::new();
    let published = engine.noting(Verb::BaseCreate, &name, &words, || {
        engine.create_base(&name, &source, &mut |said| line.tell(&said))
    })?;
    line.clear();
    println!(
        "base {name}: generation 1 with {} packages, {} files, {}",
        published.packages,
        published.files,
        size_words(published.bytes)
    );
    Ok(ExitCode::SUCCESS)
}

fn list(engine: &Engine, args: &ListArgs) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    let mut views: Vec<BaseView> = Vec::new();
    for view in engine.base_views()? {
        match view {
            Ok(view) => views.push(view),
            Err(e) => code = super::report(&e),
        }
    }
    if args.json {
        ui::json(&views)?;
        return Ok(code);
    }
    if views.is_empty() && std::io::stdout().is_terminal() {
        eprintln!("no base yet; make one: coloc base create debian --suite bookworm");
        return Ok(code);
    }
    let mut table = ui::table(&["NAME", "ORIGIN", "GENERATION", "PACKAGES", "CONTAINERS"]);
    for v in &views {
        table.add_row(vec![
            v.name.to_string(),
            printable(&v.origin.words()),
            v.generation.to_string(),
            v.packages.to_string(),
            v.containers.len().to_string(),
        ]);
    }
    ui::print(table);
    Ok(code)
}

fn show(engine: &Engine, args: &ShowArgs) -> Result<ExitCode> {
    let view = engine.base_view(&Name::parse("base", &args.name)?)?;
    if args.json {
        return ui::json(&view);
    }
    let numbers: Vec<String> = view.generations.iter().map(u64::to_string).collect();
    let containers: Vec<&str> = view.containers.iter().map(Name::as_str).collect();
    println!("name         {}", view.name);
    println!("origin       {}", printable(&view.origin.words()));
    println!("created      {}", view.created);
    println!("generation   {} (there are: {})", view.generation, numbers.join(", "));
    println!("packages     {}", view.packages);
    println!(
        "containers   {}",
        if containers.is_empty() { "none".into() } else { containers.join(", ") }
    );
    println!("tree         {}", view.path);
    Ok(ExitCode::SUCCESS)
}

fn verify(engine: &Engine, args: &VerifyArgs) -> Result<ExitCode> {
    let name = Name::parse("base", &args.name)?;
    let (generation, differences) = engine.verify_base(&name, args.generation)?;
    if args.json {
        let list: Vec<_> = differences
            .iter()
            .map(|d| serde_json::json!({ "path": d.path, "what": d.what }))
            .collect();
        ui::json(&list)?;
    } else if differences.is_empty() {
        println!("base {name}: generation {generation} is as it was published");
    } else {
        for d in &differences {
            println!("{}: {}", printable(&d.path), printable(&d.what));
        }
        eprintln!("coloc: base {name}: generation {generation} differs in {}", differences.len());
    }
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn delete(engine: &Engine, args: &DeleteArgs) -> Result<ExitCode> {
    let name = Name::parse("base", &args.name)?;
    engine.check_delete_base(&name)?;
    if !ui::confirm(&format!("Delete base {name} with all its generations?"), args.yes)? {
        return Ok(ExitCode::FAILURE);
    }
    engine.noting(Verb::BaseDelete, &name, &[], || engine.delete_base(&name))?;
    println!("deleted base {name}");
    Ok(ExitCode::SUCCESS)
}
