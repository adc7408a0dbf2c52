//! Who asks, by the kernel's word.

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Root, in a process of its own.
    Admin,
    /// Somebody else, through the broker.
    Member(Member),
}

/// A host user who is not root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Their uid, as the kernel told it.
    pub uid: u32,
    /// Their name in the host's passwd.
    pub name: String,
    /// Their groups by name, the main one too.
    pub groups: Vec<String>,
    /// As whom they logged in to the host (proc(5), loginuid), where the kernel knows.
    pub login: Option<u32>,
}

impl Member {
    /// Whether they are among `owners`: by name, or `@` and the name of a group of theirs.
    pub fn is_among(&self, owners: &[String]) -> bool {
        owners.iter().any(|owner| match owner.strip_prefix('@') {
            Some(group) => self.groups.iter().any(|g| g == group),
            None => *owner == self.name,
        })
    }
}

impl Caller {
    /// The name of the member; None for the admin.
    pub fn member(&self) -> Option<&str> {
        match self {
            Caller::Admin => None,
            Caller::Member(member) => Some(&member.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, groups: &[&str]) -> Member {
        let groups = groups.iter().map(ToString::to_string).collect();
        Member { uid: 1000, name: name.into(), groups, login: None }
    }

    #[test]
    fn a_group_is_no_user_and_a_user_no_group() {
        let owners = ["alice".to_string(), "@devs".to_string()];
        assert!(member("alice", &[]).is_among(&owners));
        assert!(member("bob", &["devs"]).is_among(&owners));
        assert!(!member("devs", &[]).is_among(&owners));
        assert!(!member("@devs", &[]).is_among(&owners));
        assert!(!member("bob", &["alice", "@devs"]).is_among(&owners));
        assert!(!member("", &[""]).is_among(&owners));
        assert!(!member("alice", &[]).is_among(&[]));
    }
}
