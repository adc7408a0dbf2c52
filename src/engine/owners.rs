//! Owners of containers: users of the host, and groups of them.

use crate::error::{Error, Kind, Result};

/// Reads `a,b,@devs`, the value of `coloc set NAME owners=`; empty for nobody. A new owner gets
/// an account inside when they first come; what an earlier one has inside stays.
pub fn parse(text: &str) -> Result<Vec<String>> {
    let mut owners: Vec<String> = Vec::new();
    for owner in text.split(',').map(str::trim).filter(|o| !o.is_empty()) {
        check(owner)?;
        if owners.iter().all(|o| o != owner) {
            owners.push(owner.to_string());
        }
    }
    Ok(owners)
}

/// An owner is a user of the host, or `@` and a group of it, by a name that an account file can
/// hold.
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
        assert_eq!(parse("root, @root,root,").unwrap(), ["root", "@root"]);
        assert!(parse("").unwrap().is_empty());
        for bad in ["@", "-x", "@-x", "a b", "no-such-user", "@no-such-group", "@@root", "a\n"] {
            assert_eq!(parse(bad).unwrap_err().kind(), Kind::NotFound, "{bad}");
        }
    }
}
