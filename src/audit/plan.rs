//! What to restart so that nothing stale is left, and what only its owner can end. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Stale;

/// What to do in one container, in this order: re-execute, then restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Restart {
    /// Whether systemd itself is to be re-executed: `systemctl daemon-reexec`.
    pub reexec: bool,
    /// Users, by number, whose own systemd is to be re-executed:
    /// `systemctl kill --kill-who=main --signal=RTMIN+25 user@UID.service` from systemd 250 on;
    /// an older one would die of that signal.
    pub reexec_users: Vec<u32>,
    /// Units to restart: `systemctl try-restart`.
    pub units: Vec<String>,
    /// What stays as it is.
    pub left: Vec<Left>,
}

/// Something stale that is not restarted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Left {
    /// Its unit; empty for processes of none.
    pub unit: String,
    /// Its processes.
    pub pids: Vec<i32>,
    /// Why not, and what ends it.
    pub why: String,
}

/// What follows for one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Restart,
    Reexec,
    ReexecUser(u32),
    Leave(&'static str),
}

const BUS: &str = "the message bus: all that is connected to it would fail; restart the container";
const SESSION: &str = "a login session: it ends when its user logs out";
const USERS: &str = "a user's own: they restart it with systemctl --user";
const PAM: &str = "keeps a user's session open: it ends with the user's last session";
const ENTERED: &str = "brought in by coloc: it ends with its command";
const SCOPE: &str = "not started by systemd, which cannot restart it";
const NO_UNIT: &str = "in no unit: restart it by hand, or the container";

fn fate(unit: &str, command: &str) -> Fate {
    if let Some(rest) = unit.strip_prefix("user@") {
        let (uid, own) = rest.split_once(".service").unwrap_or((rest, ""));
        return match (uid.parse(), own) {
            (Ok(_), "" | "/init.scope") if command == "(sd-pam)" => Fate::Leave(PAM),
            (Ok(uid), "" | "/init.scope") => Fate::ReexecUser(uid),
            _ => Fate::Leave(USERS),
        };
    }
    match unit {
        "init.scope" => Fate::Reexec,
        ".coloc" => Fate::Leave(ENTERED),
        "" => Fate::Leave(NO_UNIT),
        "dbus.service" | "dbus-broker.service" => Fate::Leave(BUS),
        _ if unit.starts_with("session-") && unit.ends_with(".scope") => Fate::Leave(SESSION),
        _ if unit.ends_with(".service") && is_name(unit) => Fate::Restart,
        _ if unit.ends_with(".socket") && is_name(unit) => Fate::Restart,
        _ => Fate::Leave(SCOPE),
    }
}

/// What systemd takes as a unit's name (systemd.unit(5)); a cgroup can have any. With this no
/// name is an option or a pattern.
fn is_name(unit: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    unit.len() <= 255 && !unit.starts_with('-') && unit.bytes().all(good)
}

/// What to do about the stale processes of one container.
pub fn restart_plan(stale: &[Stale]) -> Restart {
    let mut plan = Restart::default();
    let (mut units, mut users) = (BTreeSet::new(), BTreeSet::new());
    let mut left: BTreeMap<(&str, &'static str), BTreeSet<i32>> = BTreeMap::new();
    for row in stale {
        match fate(&row.unit, &row.command) {
            Fate::Restart => drop(units.insert(row.unit.clone())),
            Fate::Reexec => plan.reexec = true,
            Fate::ReexecUser(uid) => drop(users.insert(uid)),
            Fate::Leave(why) => drop(left.entry((&row.unit, why)).or_default().insert(row.pid)),
        }
    }
    plan.units = units.into_iter().collect();
    plan.reexec_users = users.into_iter().collect();
    let describe = |((unit, why), pids): ((&str, &str), BTreeSet<i32>)| Left {
        unit: unit.into(),
        pids: pids.into_iter().collect(),
        why: why.to_string(),
    };
    plan.left = left.into_iter().map(describe).collect();
    plan
}

#[cfg(test)]
mod tests {
    use super::super::Certainty;
    use super::*;

    fn row(pid: i32, unit: &str, command: &str) -> Stale {
        Stale {
            container: "alice".into(),
            pid,
            user: "root".into(),
            unit: unit.into(),
            command: command.into(),
            package: None,
            file: None,
            certainty: Certainty::Exact,
        }
    }

    #[test]
    fn services_are_restarted_and_people_left_alone() {
        let plan = restart_plan(&[
            row(1, "init.scope", "systemd"),
            row(30, "nginx.service", "nginx"),
            row(31, "nginx.service", "nginx"),
            row(31, "nginx.service", "nginx"),
            row(12, "dbus.service", "dbus-daemon"),
            row(40, "session-c1.scope", "bash"),
            row(41, "session-c1.scope", "vim"),
            row(50, "user@1000.service/init.scope", "systemd"),
            row(51, "user@1000.service/init.scope", "(sd-pam)"),
            row(52, "user@1000.service/app.service", "app"),
            row(60, ".coloc", "sh"),
            row(61, "", "sh"),
            row(62, "run-r1.scope", "sleep"),
        ]);
        assert!(plan.reexec);
        assert_eq!(plan.units, ["nginx.service"]);
        assert_eq!(plan.reexec_users, [1000]);
        let left: Vec<(&str, &[i32], &str)> = plan
            .left
            .iter()
            .map(|l| (l.unit.as_str(), l.pids.as_slice(), l.why.as_str()))
            .collect();
        assert_eq!(
            left,
            [
                ("", &[61][..], NO_UNIT),
                (".coloc", &[60], ENTERED),
                ("dbus.service", &[12], BUS),
                ("run-r1.scope", &[62], SCOPE),
                ("session-c1.scope", &[40, 41], SESSION),
                ("user@1000.service/app.service", &[52], USERS),
                ("user@1000.service/init.scope", &[51], PAM),
            ]
        );
    }

    #[test]
    fn nothing_stale_is_nothing_to_do() {
        assert_eq!(restart_plan(&[]), Restart::default());
    }

    #[test]
    fn a_cgroup_with_a_trick_in_its_name_is_no_unit() {
        for name in ["*.service", "--force.service", "a b.service", "a\\u{1b}.service", "ü.service"]
        {
            let plan = restart_plan(&[row(7, name, "x")]);
            assert_eq!((plan.units.len(), plan.left.len()), (0, 1), "{name}");
        }
        let escaped = restart_plan(&[row(7, "dev-disk\\x2dby.service", "x")]);
        assert_eq!(escaped.units, ["dev-disk\\x2dby.service"]);
    }
}
