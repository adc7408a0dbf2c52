//! Thin wrappers over system calls: the only place with `unsafe`.
//!
//! A failure says which call it was, with its arguments, like a line of strace.
//! Nothing in here decides anything.
#![allow(unsafe_code, reason = "the one module that may; the rest of the crate denies it")]

pub mod bpf;
pub mod btrfs;
pub mod clock;
pub mod clone;
pub mod fdpass;
pub mod file;
pub mod image;
pub mod label;
pub mod mount;
pub mod mountinfo;
pub mod net;
pub mod path;
pub mod process;
pub mod quota;
mod remap;
pub mod seccomp;
pub mod tty;

use std::fmt;

/// A system call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    call: String,
    errno: i32,
}

/// Shorthand for results with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `call` as strace would print it, without the result.
    pub fn new(call: impl Into<String>, errno: i32) -> Self {
        Self { call: call.into(), errno }
    }

    /// The error that the C library just left in `errno`.
    fn last(call: impl Into<String>) -> Self {
        Self::new(call, std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    /// The call with its arguments.
    pub fn call(&self) -> &str {
        &self.call
    }

    /// The error number, as in errno(3).
    pub fn errno(&self) -> i32 {
        self.errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, std::io::Error::from_raw_os_error(self.errno))
    }
}

impl std::error::Error for Error {}

/// Names the call in the failure of another crate's wrapper.
pub trait Named<T> {
    /// `call` runs only on failure.
    fn named(self, call: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Named<T> for std::result::Result<T, rustix::io::Errno> {
    fn named(self, call: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::new(call(), e.raw_os_error()))
    }
}

impl<T> Named<T> for nix::Result<T> {
    fn named(self, call: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::new(call(), e as i32))
    }
}

impl<T> Named<T> for std::io::Result<T> {
    fn named(self, call: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::new(call(), e.raw_os_error().unwrap_or(libc::EIO)))
    }
}
