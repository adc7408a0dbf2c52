use std::process::ExitCode;

use crate::engine::Engine;
use crate::engine::supervise::report_failure;
use crate::error::Result;
use crate::store::Name;
use crate::sys::image;

/// Start a container and watch over it; coloc runs this itself, or systemd does.
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(super) struct SuperviseArgs {
    /// The container.
    name: String,
    /// How its init ended: reboot or off.
    #[arg(long)]
    ended: Option<String>,
}

pub(super) fn run(engine: &Engine, args: &SuperviseArgs) -> Result<ExitCode> {
    let name = Name::parse("container", &args.name)?;
    if let Some(how) = &args.ended {
        engine.ended(&name, how == "reboot")?;
        return Ok(ExitCode::SUCCESS);
    }
    match supervise(engine, &name) {
        Ok(never) => match never {},
        Err(e) => {
            report_failure(&engine.layout, &name, &e);
            Err(e)
        }
    }
}

fn supervise(engine: &Engine, name: &Name) -> Result<std::convert::Infallible> {
    image::seal()?;
    // Whatever the caller had open is not to stay open for years.
    crate::sys::process::close_from(3)?;
    engine.supervise(name)
}
