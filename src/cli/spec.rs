use std::process::ExitCode;

use super::ui;
use crate::engine::Engine;
use crate::error::Result;
use crate::request::Verb;
use crate::store::Name;

/// Print a container's OCI runtime spec, for other runtimes.
///
/// It is the config.json of a bundle whose rootfs is the container's private tree.
#[derive(Debug, clap::Args)]
pub(super) struct SpecArgs {
    /// The container.
    name: String,
}

pub(super) fn run(engine: &Engine, args: &SpecArgs) -> Result<ExitCode> {
    let record = engine.permit(Verb::Show, &Name::parse("container", &args.name)?)?;
    ui::json(&engine.portable_spec(&record)?)
}
