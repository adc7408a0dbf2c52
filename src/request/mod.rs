//! What may be asked of coloc by somebody who is not root: the request, who asks, and whether
//! they may. Values and pure functions; what is not in [`Request`] a member cannot even say.

pub mod caller;
pub mod policy;

pub use caller::{Caller, Member};

use crate::store::Name;

/// What is asked for. It crosses the broker's socket as JSON: names and flags, never a path of
/// the host. A field that is not known here is an error, so that nothing is dropped in silence.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// `coloc shell`
    Shell(Enter),
    /// `coloc exec`
    Exec(Enter),
    /// `coloc start`
    Start {
        /// Which.
        which: Which,
        /// `--wait`
        wait: bool,
    },
    /// `coloc stop`
    Stop {
        /// Which.
        which: Which,
        /// `--timeout`, in seconds.
        timeout: u64,
    },
    /// `coloc restart`
    Restart {
        /// Which.
        which: Which,
        /// `--timeout`, in seconds.
        timeout: u64,
        /// `--wait`
        wait: bool,
    },
    /// `coloc list`
    List {
        /// `--json`
        json: bool,
    },
    /// `coloc status`
    Status {
        /// Which; all of them by default.
        name: Option<Name>,
        /// `--json`
        json: bool,
    },
    /// `coloc show`
    Show {
        /// Which; the only one by default.
        name: Option<Name>,
        /// `--origin`
        origin: bool,
        /// `--json`
        json: bool,
    },
    /// `coloc logs`
    Logs {
        /// Which; the only one by default.
        name: Option<Name>,
        /// `--follow`
        follow: bool,
    },
    /// `coloc console`
    Console {
        /// Which; the only one by default.
        name: Option<Name>,
    },
    /// `coloc journal`
    Journal {
        /// Which; the only one by default, for the admin the host's.
        name: Option<Name>,
        /// `--json`
        json: bool,
        /// `-n`: only the last so many.
        last: Option<u32>,
    },
    /// `coloc top`, one moment of it.
    Top {
        /// `--json`
        json: bool,
    },
    /// `coloc stale`
    Stale {
        /// Which; all of them by default.
        name: Option<Name>,
        /// `--restart`
        restart: bool,
        /// `--json`
        json: bool,
    },
    /// `coloc conflicts`
    Conflicts {
        /// Which; all of them by default.
        name: Option<Name>,
        /// One file, by its path inside; it is only compared with those of conflicts.
        path: Option<String>,
        /// `--take`
        take: Option<Side>,
        /// `--json`
        json: bool,
    },
}

/// Whose text ends a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The base's.
    Base,
    /// The member's.
    Mine,
    /// What an editor makes of both; for the admin alone, as it would run on the host.
    Edit,
}

impl Side {
    fn word(self) -> &'static str {
        match self {
            Side::Base => "base",
            Side::Mine => "mine",
            Side::Edit => "edit",
        }
    }
}

/// The containers of a verb with NAME… or --all.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Those that are named.
    pub names: Vec<Name>,
    /// `--all`: every one of the caller's.
    pub all: bool,
}

/// What is to run inside, as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enter {
    /// The container; the only one by default.
    pub name: Option<Name>,
    /// `--user`: a name, or a number with or without `:group`.
    pub user: Option<String>,
    /// The program and its arguments; empty for a login shell.
    pub command: Vec<String>,
    /// `--env`, each `KEY=value`.
    pub env: Vec<String>,
    /// `--cwd`, a directory inside.
    pub cwd: Option<String>,
    /// A line for the shell of whoever it is to be, in the place of a command: `coloc-shell -c`.
    pub line: Option<String>,
    /// Whether to start the container first if it does not run.
    pub start: bool,
    /// `--agent`: whether the caller's ssh agent is to be reachable from inside.
    pub agent: bool,
    /// The caller's TERM.
    pub term: Option<String>,
    /// The caller's LANG.
    pub lang: Option<String>,
}

/// Makes the enum of verbs, with the words that are typed, from one list of both.
macro_rules! verbs {
    ($($verb:ident $word:literal,)*) => {
        /// Everything that can be asked for, the admin's verbs too: what policy decides on and the
        /// events journal names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is the verb of that name")]
        pub enum Verb {
            $($verb,)*
        }

        impl Verb {
            /// All of them.
            pub const ALL: &[Verb] = &[$(Verb::$verb,)*];

            /// The verb as it is typed.
            pub fn word(self) -> &'static str {
                match self {
                    $(Verb::$verb => $word,)*
                }
            }
        }
    };
}

verbs! {
    Shell "shell",
    Exec "exec",
    Start "start",
    Stop "stop",
    Restart "restart",
    List "list",
    Status "status",
    Top "top",
    Logs "logs",
    Console "console",
    Journal "journal",
    Stale "stale",
    Conflicts "conflicts",
    Create "create",
    Delete "delete",
    Freeze "freeze",
    Thaw "thaw",
    Enable "enable",
    Disable "disable",
    Set "set",
    Unset "unset",
    Edit "edit",
    Show "show",
    Adopt "adopt",
    BaseCreate "base create",
    BaseUpdate "base update",
    BaseInstall "base install",
    BaseRemove "base remove",
    BaseShell "base shell",
    BaseRollback "base rollback",
    BasePrune "base prune",
    BaseDelete "base delete",
}

impl Verb {
    /// Whether it is about a base, not a container.
    pub fn of_base(self) -> bool {
        self.word().starts_with("base ")
    }
}

impl Request {
    /// Its verb.
    pub fn verb(&self) -> Verb {
        match self {
            Request::Shell(_) => Verb::Shell,
            Request::Exec(_) => Verb::Exec,
            Request::Start { .. } => Verb::Start,
            Request::Stop { .. } => Verb::Stop,
            Request::Restart { .. } => Verb::Restart,
            Request::List { .. } => Verb::List,
            Request::Status { .. } => Verb::Status,
            Request::Top { .. } => Verb::Top,
            Request::Show { .. } => Verb::Show,
            Request::Logs { .. } => Verb::Logs,
            Request::Console { .. } => Verb::Console,
            Request::Journal { .. } => Verb::Journal,
            Request::Stale { .. } => Verb::Stale,
            Request::Conflicts { .. } => Verb::Conflicts,
        }
    }

    /// The containers that it names.
    pub fn names(&self) -> &[Name] {
        match self {
            Request::Shell(e) | Request::Exec(e) => e.name.as_slice(),
            Request::Start { which, .. }
            | Request::Stop { which, .. }
            | Request::Restart { which, .. } => &which.names,
            Request::Status { name, .. }
            | Request::Show { name, .. }
            | Request::Logs { name, .. }
            | Request::Console { name }
            | Request::Journal { name, .. }
            | Request::Stale { name, .. }
            | Request::Conflicts { name, .. } => name.as_slice(),
            Request::List { .. } | Request::Top { .. } => &[],
        }
    }

    /// Whether it ends with the exit code of a program inside, so that coloc's own failure has
    /// to be told from it.
    pub fn enters(&self) -> bool {
        matches!(self.verb(), Verb::Shell | Verb::Exec)
    }

    /// Whether it changes state, so that what an earlier command left half-done is tidied first.
    pub fn changes(&self) -> bool {
        match self {
            Request::Stale { restart, .. } => *restart,
            Request::Conflicts { take, .. } => take.is_some(),
            Request::Shell(e) | Request::Exec(e) => e.start,
            _ => matches!(self.verb(), Verb::Start | Verb::Stop | Verb::Restart),
        }
    }

    /// What was asked for beside the container, in words, for the events journal. The values of
    /// variables stay out: they are where people put their secrets.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut flag = |on: bool, word: &str| {
            if on {
                words.push(word.to_string());
            }
        };
        match self {
            Request::Shell(e) | Request::Exec(e) => return e.words(),
            Request::Start { wait, .. } => flag(*wait, "--wait"),
            Request::Stop { timeout, .. } => flag(true, &format!("--timeout={timeout}")),
            Request::Restart { timeout, wait, .. } => {
                flag(true, &format!("--timeout={timeout}"));
                flag(*wait, "--wait");
            }
            Request::Logs { follow, .. } => flag(*follow, "--follow"),
            Request::Stale { restart, .. } => flag(*restart, "--restart"),
            Request::Conflicts { path, take, .. } => {
                flag(path.is_some(), path.as_deref().unwrap_or_default());
                flag(take.is_some(), &format!("--take={}", take.map_or("", Side::word)));
            }
            Request::List { .. }
            | Request::Top { .. }
            | Request::Status { .. }
            | Request::Show { .. }
            | Request::Console { .. }
            | Request::Journal { .. } => {}
        }
        words
    }
}

impl Enter {
    /// What is to be done inside, in words.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(self.user.iter().map(|u| format!("--user={u}")));
        words.extend(self.cwd.iter().map(|d| format!("--cwd={d}")));
        let key = |pair: &String| pair.split('=').next().unwrap_or_default().to_string();
        words.extend(self.env.iter().map(|e| format!("--env={}", key(e))));
        words.extend(self.agent.then(|| "--agent".to_string()));
        if let Some(line) = &self.line {
            words.extend(["-c".to_string(), line.clone()]);
        }
        if !self.command.is_empty() {
            words.push("--".into());
            words.extend(self.command.iter().cloned());
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_read() {
        let read = |text: &str| serde_json::from_str::<Request>(text);
        assert!(read(r#"{"list":{"json":false}}"#).is_ok());
        for bad in [
            r#"{"list":{"json":false,"x":1}}"#,
            r#"{"list":{}}"#,
            r#"{"delete":{"which":{"names":["a"],"all":false}}}"#,
            r#"{"console":{"name":"../x"}}"#,
            r#"{"console":{"name":"a\u0000"}}"#,
            r#"{"start":{"which":{"names":["a/b"],"all":false},"wait":false}}"#,
            r#"{"start":{"which":{"names":[],"all":true,"root":"/"},"wait":false}}"#,
            r#"["list"]"#,
            "7",
            "",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_stay_out_of_the_journal() {
        let enter = Enter {
            env: vec!["PASSWORD=hunter2".into()],
            command: vec!["id".into()],
            ..Enter::default()
        };
        assert_eq!(Request::Exec(enter).words(), ["--env=PASSWORD", "--", "id"]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,300}") {
            let _ = serde_json::from_str::<Request>(&text);
        }
    }
}
