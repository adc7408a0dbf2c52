//! coloc's state on disk: where it lies, how it is written, who may write it.
//!
//! ```text
//! /etc/coloc/coloc.json               Config: the admin's settings
//! /var/lib/coloc/                     0700 root
//!   bases/NAME/base.json              BaseRecord: how it is built
//!   bases/NAME/generations/N/         tree/, manifest, packages; immutable once published
//!   bases/NAME/current                -> generations/N
//!   containers/NAME/container.json    Record
//!   containers/NAME/private/          the private tree
//!   containers/NAME/events.jsonl      who did what with it
//!   events.jsonl                      who did what with all of it
//!   ids/SLOT                          who has, or had, the id range number SLOT
//!   journal/ID.json                   work begun and not finished
//!   staging/                          trees that are being made or taken apart
//! /run/coloc/containers/NAME/         Running state: gone with the boot
//! /run/coloc/locks/                   one lock file for each container, base, and the ids
//! ```
//!
//! Locks are taken in this order, and by name where there are several: changes of bases,
//! containers, bases, the network, ids.

pub mod annotation;
pub mod atomic;
pub mod config;
pub mod events;
pub mod ids;
pub mod journal;
pub mod layout;
pub mod lock;
pub mod name;
pub mod record;
pub mod running;
pub mod usage;

pub use config::Config;
pub use layout::Layout;
pub use name::Name;
pub use record::{BaseRecord, Record};
