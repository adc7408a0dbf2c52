//! The one error type: what could not be done, why, and what to do about it.
//!
//! Every error ends as one line on stderr and an exit code; see [`Kind`].

use std::fmt;

/// What sort of failure it is; decides the exit code (documented in coloc(1)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something that should work did not (exit code 1).
    Failed,
    /// The command line or a file of the admin's says something impossible (2).
    Usage,
    /// A container, base, generation, profile or user that is not there (3).
    NotFound,
    /// The thing is in a state that does not allow it: exists already, in use, frozen (4).
    State,
    /// The caller may not do this (5).
    Denied,
    /// The host lacks something that is needed: a kernel feature, a tool (6).
    Unsupported,
    /// A file of coloc's own state cannot be understood (7).
    Damaged,
}

impl Kind {
    /// The process exit code for this kind.
    pub fn exit_code(self) -> i32 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::NotFound => 3,
            Kind::State => 4,
            Kind::Denied => 5,
            Kind::Unsupported => 6,
            Kind::Damaged => 7,
        }
    }
}

/// A failure as a person reads it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Error {
    kind: Kind,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// Shorthand for results with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; `message` is one line that names the thing, with no full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// [`Kind::Failed`] with `message`.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// Adds one line that says what to do; an earlier hint, nearer to the cause, stays.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Puts what was being done before why it failed: `context: message`.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What to do about it, if it is known.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Says in words what the operating system refused, for an errno that a person may meet.
fn words(e: &std::io::Error) -> String {
    let text = match e.raw_os_error() {
        Some(libc::ENOSPC) => "the disk is full".into(),
        Some(libc::EDQUOT) => "the disk quota is used up".into(),
        Some(libc::EROFS) => "the file system is read-only".into(),
        Some(libc::EMFILE | libc::ENFILE) => "too many open files".into(),
        Some(libc::ENOMEM) => "out of memory".into(),
        _ => e.to_string(),
    };
    // std writes "No such file or directory (os error 2)"; the number helps nobody.
    match text.find(" (os error") {
        Some(cut) => text[..cut].to_string(),
        None => text,
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        let error = Self::failed(words(&e));
        match e.raw_os_error() {
            Some(libc::ENOSPC) => error.hint("free some space (df shows where) and run it again"),
            _ => error,
        }
    }
}

impl From<crate::sys::Error> for Error {
    fn from(e: crate::sys::Error) -> Self {
        let why = Self::from(std::io::Error::from_raw_os_error(e.errno()));
        let error = why.context(e.call());
        match e.errno() {
            libc::ENOSYS => {
                Self { kind: Kind::Unsupported, ..error }.hint("coloc needs Linux 6.1 or newer")
            }
            _ => error,
        }
    }
}

/// Adds what was being done to any failure.
pub trait Context<T> {
    /// `context` runs only on failure and gives the words before the cause.
    fn context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|e| e.into().context(context()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_reads_outside_in_and_the_first_hint_stays() {
        let e = Error::failed("the disk is full").hint("free some").hint("other");
        let e = e.context("cannot write x").context("cannot create alice");
        assert_eq!(e.to_string(), "cannot create alice: cannot write x: the disk is full");
        assert_eq!(e.hint_text(), Some("free some"));
    }

    #[test]
    fn os_errors_carry_no_number() {
        let e = Error::from(std::io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(e.to_string(), "No such file or directory");
    }
}
