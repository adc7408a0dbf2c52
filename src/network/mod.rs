//! A container's network: its address, its device, the rules of the host that it needs, its name.
//!
//! ```text
//! /run/coloc/network/NAME.json     what a container that runs, or starts, has: the only truth
//! /run/coloc/network/hosts         names and addresses of all of them, for dnsmasq
//! /run/coloc/network/dnsmasq.*     its settings, its pid
//! /run/coloc/network/resolved      the number of the bridge that systemd-resolved was told of
//! /run/coloc/network/forwarding    what was changed so that the host passes packets on
//! /run/coloc/network/ruled         which rules the kernel has, and nftables' number of that change
//! /var/lib/coloc/network.json      the range of addresses, where another store had the usual one
//! ```
//!
//! Everything else follows from these files: the bridge is there while one of them is, the tables
//! `inet` and `bridge` of the store's name hold what they say, and are replaced as a whole. So a
//! change is: write the file, make the rest so. What a killed command left undone, the next one
//! does; and a file whose container does not run any more is removed by whoever comes by.
//!
//! Each container of a store has a number, that of its id range. Its addresses, its MAC and the
//! name of its device follow from it: they are fixed for as long as it exists, and no two have the
//! same.

mod apply;
mod forward;
mod link;
mod names;
mod netfilter;
mod openings;
pub mod plan;
mod ruled;
mod rules;
mod sets;
pub mod sockets;
mod taken;
mod tool;

pub use apply::{Admitted, House, Look, check_device, has_dnsmasq, has_nft};
pub use plan::{Member, Net, Proto, Publish};
pub use taken::listening;

use crate::store::Name;

/// What a container is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The container.
    pub name: Name,
    /// The number of its id range.
    pub slot: u32,
    /// How it is to be connected.
    pub mode: Mode,
    /// Which ports of the host lead to it.
    pub publish: Vec<Publish>,
}

/// How a container with a network of its own is connected.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By coloc's own bridge.
    Private {
        /// Whether it reaches others that say so too, and they it.
        neighbours: bool,
    },
    /// By a bridge of the admin's.
    Bridge(String),
    /// By an address of its own on a device of the host's.
    Macvlan(String),
}
