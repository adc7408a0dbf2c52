//! Owners of containers: users of the host, and groups of them.

use crate::error::{Error, Kind, Result};

/// An owner is a user of the host, or `@` and a group of it, by a name that an account file can
/// hold. A new one gets an account inside when they first come; what an earlier one has inside
/// stays.
pub fn check(owner: &str) -> Result<()> {
    let (what, name) = match owner.strip_prefix('@') {
        Some(group) => ("group", group),
        None => ("user", owner),
    };
    let sane = !name.is_empty()
        && name.len() <= 32
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let known = sane
        && match what {
            "group" => nix::unistd::Group::from_name(name).ok().flatten().is_some(),
            _ => nix::unistd::User::from_name(name).ok().flatten().is_some(),
        };
    if known {
        return Ok(());
    }
    Err(Error::new(Kind::NotFound, format!("there is no {what} {name:?} on this host"))
        .hint("an owner is a user of the host, or @ and a group of it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_of_the_host_can_own() {
        assert!(check("root").is_ok() && check("@root").is_ok());
        for bad in ["@", "-x", "@-x", "a b", "no-such-user", "@no-such-group", "@@root", "a\n"] {
            assert_eq!(check(bad).unwrap_err().kind(), Kind::NotFound, "{bad}");
        }
    }
}
