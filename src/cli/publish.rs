use std::net::IpAddr;
use std::process::ExitCode;

use super::{set, ui};
use crate::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::network::{Proto, Publish};
use crate::profile::own::Change;
use crate::store::Name;

/// Have ports of the host lead into a container: 8080:80 sends the host's 8080 to its 80.
#[derive(Debug, clap::Args)]
pub(super) struct PublishArgs {
    /// The container.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// The ports; TCP, or UDP with /udp at the end.
    #[arg(value_name = "PORT:INSIDE[/udp]")]
    ports: Vec<String>,
    /// Only for this address of the host's.
    #[arg(long, conflicts_with = "list")]
    address: Option<IpAddr>,
    /// Show the ports that are published.
    #[arg(long)]
    list: bool,
    /// Print JSON.
    #[arg(long, requires = "list")]
    json: bool,
}

/// Have ports of the host not lead into a container any more.
#[derive(Debug, clap::Args)]
pub(super) struct UnpublishArgs {
    /// The container.
    name: String,
    /// The host's ports.
    #[arg(required = true, value_name = "PORT[/udp]")]
    ports: Vec<String>,
}

impl PublishArgs {
    /// Whether nothing is to be changed.
    pub(super) fn looks(&self) -> bool {
        self.list
    }
}

fn changes(op: &str, ports: &[Publish]) -> Result<Vec<Change>> {
    ports.iter().map(|p| Change::parse(&format!("network.publish{op}={p}"))).collect()
}

pub(super) fn run(engine: &Engine, args: &PublishArgs) -> Result<ExitCode> {
    let name = Name::parse("container", args.name.as_deref().unwrap_or_default())?;
    if args.ports.is_empty() {
        return Err(Error::new(Kind::Usage, "no port was given")
            .hint(format!("for example: coloc publish {name} 8080:80")));
    }
    let mut ports = Vec::new();
    for text in &args.ports {
        let mut port = Publish::parse(text)?;
        if args.address.is_some() {
            if port.address.is_some() {
                return Err(Error::new(Kind::Usage, format!("{text} has an address already"))
                    .hint("leave --address away"));
            }
            port.address = args.address.filter(|a| !a.is_unspecified());
        }
        ports.push(port);
    }
    set::print(&engine.set(&name, &changes("+", &ports)?)?);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn run_unpublish(engine: &Engine, args: &UnpublishArgs) -> Result<ExitCode> {
    let name = Name::parse("container", &args.name)?;
    let wanted: Vec<(u16, Option<Proto>)> =
        args.ports.iter().map(|text| Publish::parse_outside(text)).collect::<Result<_>>()?;
    let all = engine.ports()?;
    let mut ports = Vec::new();
    for (port, proto) in wanted {
        let same = |p: &Publish| p.port == port && proto.unwrap_or(Proto::Tcp) == p.proto;
        let found: Vec<Publish> = all
            .iter()
            .filter(|p| p.name == name && same(&p.publish))
            .map(|p| p.publish.clone())
            .collect();
        if found.is_empty() {
            return Err(Error::new(
                Kind::NotFound,
                format!(
                    "port {port}/{} does not lead to {name}",
                    proto.unwrap_or(Proto::Tcp).word()
                ),
            )
            .hint("coloc publish --list shows the ports that do"));
        }
        ports.extend(found);
    }
    set::print(&engine.set(&name, &changes("-", &ports)?)?);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn list(engine: &Engine, args: &PublishArgs) -> Result<ExitCode> {
    let name = ui::name(args.name.as_deref())?;
    let mut ports = engine.ports()?;
    ports.retain(|p| name.as_ref().is_none_or(|n| p.name == *n));
    if args.json {
        return ui::json(&ports);
    }
    let mut table = ui::table(&["ADDRESS", "PORT", "CONTAINER", "INSIDE", "NOW"]);
    for port in &ports {
        let p = &port.publish;
        table.add_row(vec![
            p.address.map_or("all".into(), |a| a.to_string()),
            format!("{}/{}", p.port, p.proto.word()),
            port.name.to_string(),
            p.inside.to_string(),
            if port.active { "yes" } else { "no: it does not run" }.into(),
        ]);
    }
    ui::print(table);
    Ok(ExitCode::SUCCESS)
}
