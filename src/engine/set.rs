//! `coloc set`: settings of a container that an admin may change at any time.

use super::{Engine, home, owners};
use crate::error::{Error, Kind, Result};
use crate::request::Verb;
use crate::store::lock::{self, Subject};
use crate::store::{Name, Record};

/// One `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// `hold`: whether the container stays at its generation.
    Hold(bool),
    /// `owners`: the host users, and `@` groups of them, that the container belongs to.
    Owners(Vec<String>),
    /// `home`: whether the owner's home on the host is mounted inside.
    Home(bool),
}

impl Setting {
    /// Reads `KEY=VALUE`.
    pub fn parse(text: &str) -> Result<Self> {
        let usage = |message: String| Error::new(Kind::Usage, message);
        let Some((key, value)) = text.split_once('=') else {
            return Err(usage(format!("{text:?} is no KEY=VALUE"))
                .hint("for example: coloc set alice hold=true"));
        };
        match (key, value) {
            ("hold", "true") => Ok(Self::Hold(true)),
            ("hold", "false") => Ok(Self::Hold(false)),
            ("hold", _) => {
                Err(usage(format!("hold cannot be {value:?}")).hint("it is true or false"))
            }
            ("home", "shared") => Ok(Self::Home(true)),
            ("home", "private") => Ok(Self::Home(false)),
            ("home", _) => {
                Err(usage(format!("home cannot be {value:?}")).hint("it is shared or private"))
            }
            ("owners", _) => Ok(Self::Owners(owners::parse(value)?)),
            _ => {
                Err(usage(format!("there is no setting {key:?}"))
                    .hint("there are: hold, owners, home"))
            }
        }
    }

    /// As it is given.
    fn words(&self) -> String {
        match self {
            Self::Hold(hold) => format!("hold={hold}"),
            Self::Owners(owners) => format!("owners={}", owners.join(",")),
            Self::Home(true) => "home=shared".into(),
            Self::Home(false) => "home=private".into(),
        }
    }
}

impl Engine {
    /// Changes settings of `name`, all of them or none.
    pub fn set(&self, name: &Name, settings: &[Setting]) -> Result<Record> {
        let _lock = lock::exclusive(&self.layout, &Subject::Container(name.clone()))?;
        let mut record = self.permit(Verb::Set, name)?;
        let words: Vec<String> = settings.iter().map(Setting::words).collect();
        self.noting(Verb::Set, name, &words, || {
            for setting in settings {
                match setting {
                    Setting::Hold(hold) => record.hold = *hold,
                    Setting::Owners(owners) => record.owners = owners.clone(),
                    Setting::Home(shared) => record.shared_home = *shared,
                }
            }
            // Now, and not when it is to start: that may be at night, and by somebody else.
            home::of_host(&self.layout, &record)?;
            record.save_in(&self.layout.container(name))?;
            Ok(record)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_there_is_can_be_set() {
        assert_eq!(Setting::parse("hold=true").unwrap(), Setting::Hold(true));
        for bad in ["hold", "hold=", "hold=yes", "home=yes", "x=1", "=", ""] {
            assert_eq!(Setting::parse(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }
}
