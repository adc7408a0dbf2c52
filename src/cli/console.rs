use crate::error::Result;
use crate::request::Request;

/// Attach to the console of a container; leave with ^] three times.
#[derive(Debug, clap::Args)]
pub(super) struct ConsoleArgs {
    /// The container; the only one there is by default.
    name: Option<String>,
}

impl ConsoleArgs {
    pub(super) fn request(&self) -> Result<Request> {
        Ok(Request::Console { name: super::ui::name(self.name.as_deref())? })
    }
}
