use std::process::ExitCode;

use crate::broker::serve;
use crate::engine::Engine;
use crate::error::Result;
use crate::request::Request;
use crate::store::Layout;
use crate::sys::image;
use crate::sys::tty::Size;

/// Let members in, on a host without systemd; runs until it is ended.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// Serve the connection that is standard input, and end.
    #[arg(long, hide = true)]
    connection: bool,
    /// Listen on descriptor 3, and end when nobody is there; systemd runs this.
    #[arg(long, hide = true, conflicts_with = "connection")]
    socket: bool,
}

pub(super) fn run(layout: &Layout, args: &ServeArgs) -> Result<ExitCode> {
    match (args.connection, args.socket) {
        (true, _) => {
            image::seal()?;
            serve::serve_one(layout, talk)?;
        }
        (_, true) => serve::listen_handed(layout)?,
        _ => serve::listen(layout)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What the broker has done for a member by the very code that does it for root.
fn talk(engine: &Engine, request: &Request, screen: Option<Size>) -> u8 {
    super::ui::set_screen(screen);
    let code = super::act(engine, request).unwrap_or_else(|e| super::report(&e));
    // An ExitCode does not tell its number.
    (0..=u8::MAX).find(|n| ExitCode::from(*n) == code).unwrap_or(1)
}
