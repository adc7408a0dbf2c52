//! Running a container: the start protocol, what the child does in its namespaces, the
//! supervisor beside it, entering it, its cgroups, the swap of its `/usr` while it runs.

pub mod agent;
mod aside;
pub mod bounds;
pub mod cgroup;
pub mod child;
pub mod console;
pub mod devices;
pub mod enter;
pub mod given;
pub mod held;
pub mod hooks;
pub mod init;
mod inside;
pub mod label;
pub mod limits;
pub mod locked;
pub mod monitor;
pub mod near;
pub mod parent;
pub mod plan;
pub mod probe;
pub mod protocol;
pub mod relay;
pub mod resources;
pub mod seccomp;
pub mod swap;

/// What the init of a base is, by the program that `/sbin/init` leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitKind {
    /// systemd(1)
    Systemd,
    /// busybox init
    Busybox,
    /// sysvinit, openrc or another that obeys `init 0`
    Sysv,
    /// coloc's own, [`init`]
    Builtin,
}

impl InitKind {
    /// Tells by the name that the links of `/sbin/init` end in.
    pub fn of_program(name: &str) -> Self {
        match name {
            "systemd" => Self::Systemd,
            "busybox" => Self::Busybox,
            _ => Self::Sysv,
        }
    }

    /// The word in records and tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Busybox => "busybox",
            Self::Sysv => "sysv",
            Self::Builtin => "builtin",
        }
    }

    /// The kind that [`word`](Self::word) tells.
    pub fn of_word(word: &str) -> Self {
        match word {
            "systemd" => Self::Systemd,
            "busybox" => Self::Busybox,
            "builtin" => Self::Builtin,
            _ => Self::Sysv,
        }
    }

    /// The signal that asks it to power off; None when a program inside has to be run.
    pub fn poweroff_signal(self) -> Option<i32> {
        match self {
            Self::Systemd | Self::Builtin => Some(crate::sys::process::sig_poweroff()),
            Self::Busybox => Some(libc::SIGUSR2),
            Self::Sysv => None,
        }
    }
}
