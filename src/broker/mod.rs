//! How somebody who is not root has something done: their `coloc` asks, over a Unix socket, and
//! a process of root's, one for each connection, does it and is gone.
//!
//! ```text
//! client (the member)                         server (root, one process a connection)
//!        ── connect ─────────────────────────>  who it is: SO_PEERCRED
//!        <───────────────── hello ────────────
//!        ── request + 3 descriptors ─────────>  may they? (request::policy)
//!                                               starts the program, becomes the member
//!        ── window sizes, signals ───────────>  passes them on
//!        <──────── exit code, or error ───────
//! ```
//!
//! - The server never reads or writes a descriptor of the member's as root, and asks no terminal
//!   of theirs anything: whoever relays has become the member before (see `runtime::near`), and
//!   what there is to know of the terminal the client says, who can only fool itself.
//! - The client sets its own terminal to raw and reads it. A server that is killed leaves no raw
//!   terminal, and a client in the background is stopped by its own shell's job control.
//! - Nothing of the member's environment, directory, umask or limits reaches the server; their
//!   TERM and LANG are part of the request.
//! - A client that goes, in whatever way, closes its end: the server hangs the session up.

pub mod client;
pub mod frames;
mod peer;
pub mod serve;
