//! Keys of the annotations that a container's OCI spec carries for the runtime.

/// The init's kind, such as `systemd`.
pub const INIT_KIND: &str = "net.coloc.init";
/// The container's machine-id.
pub const MACHINE_ID: &str = "net.coloc.machine-id";
/// What each user inside may have of namespaces and the like, as `NAME=NUMBER` words with the names
/// of /proc/sys/user.
pub const USER_LIMITS: &str = "net.coloc.user-limits";
