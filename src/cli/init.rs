use std::process::ExitCode;

use crate::engine;
use crate::error::Result;
use crate::store::Layout;

/// Set this host up: directories, a pool of ids, the config file.
#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// For how many containers to claim ids (1000); later, to grow the pool.
    #[arg(long, value_name = "NUMBER")]
    containers: Option<u32>,
}

pub(super) fn run(layout: &Layout, args: &InitArgs) -> Result<ExitCode> {
    let done = engine::init::init(layout, args.containers, super::login::installed().as_deref())?;
    for line in &done {
        println!("{line}");
    }
    if done.is_empty() {
        println!("this host is set up for coloc already");
    }
    Ok(ExitCode::SUCCESS)
}
