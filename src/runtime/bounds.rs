//! What confines whoever enters a container as its init is confined: the capabilities that stay
//! in the bounding set, the limits of a process, and the filter of system calls.
//!
//! A start keeps them beside the state: what enters later then has what the init has, whatever
//! has become of the profile, and nothing is to be compiled for it.
//!
//! ```text
//! one line      "selinux", and the label where there is one
//! one line      the capabilities, with commas, as in the spec
//! one line      the limits, with commas
//! then, 8 bytes for each instruction   code (2), jt (1), jf (1), k (4), little-endian
//! ```

use std::path::Path;

use super::limits::Limit;
use super::plan::{Plan, Step};
use crate::error::Result;
use crate::store::atomic;
use crate::sys::seccomp::Instruction;

/// The file in the container's run directory.
pub const FILE: &str = "bounds";
const LABEL: &str = "selinux ";

/// What init has, and whoever enters gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The SELinux label that init was given.
    pub selinux: Option<String>,
    /// Capabilities that stay in the bounding set, such as `CAP_CHOWN`.
    pub capabilities: Vec<String>,
    /// What a process may have at most.
    pub limits: Vec<Limit>,
    /// The filter of system calls; empty for none.
    pub filter: Vec<Instruction>,
}

impl Bounds {
    /// Those of a container that is started by `plan`.
    pub fn of(plan: &Plan) -> Self {
        let mut bounds =
            Self { selinux: plan.selinux.clone(), limits: plan.limits.clone(), ..Self::default() };
        for step in &plan.steps {
            match step {
                Step::Bound(keep) => bounds.capabilities.clone_from(keep),
                Step::Filter { program, .. } => bounds.filter.clone_from(program),
                _ => {}
            }
        }
        bounds
    }

    /// Writes them to `run`, the container's run directory. They need not outlive the boot.
    pub fn save(&self, run: &Path) -> Result<()> {
        let limits: Vec<String> = self.limits.iter().map(ToString::to_string).collect();
        let label = self.selinux.as_deref().unwrap_or_default();
        let lines =
            format!("{LABEL}{label}\n{}\n{}\n", self.capabilities.join(","), limits.join(","));
        let mut bytes = lines.into_bytes();
        for Instruction { code, jt, jf, k } in &self.filter {
            bytes.extend(code.to_le_bytes());
            bytes.extend([*jt, *jf]);
            bytes.extend(k.to_le_bytes());
        }
        atomic::write_unsynced(&run.join(FILE), &bytes, 0o600)
    }

    /// Reads them from `run`; None if they are not there, or are not whole.
    pub fn load(run: &Path) -> Option<Self> {
        let bytes = std::fs::read(run.join(FILE)).ok()?;
        let mut parts = bytes.splitn(4, |b| *b == b'\n');
        let label = std::str::from_utf8(parts.next()?).ok()?.strip_prefix(LABEL)?;
        let mut words = || {
            let line = std::str::from_utf8(parts.next()?).ok()?;
            Some(line.split(',').filter(|w| !w.is_empty()).map(String::from).collect())
        };
        let (capabilities, limits): (Vec<String>, Vec<String>) = (words()?, words()?);
        let chunks = parts.next()?.chunks(8);
        let instruction = |chunk: &[u8]| {
            let [c0, c1, jt, jf, k0, k1, k2, k3] = chunk.try_into().ok()?;
            let (code, k) = (u16::from_le_bytes([c0, c1]), u32::from_le_bytes([k0, k1, k2, k3]));
            Some(Instruction { code, jt, jf, k })
        };
        Some(Self {
            selinux: Some(label.to_string()).filter(|l| !l.is_empty()),
            capabilities,
            limits: limits.iter().map(|l| l.parse().ok()).collect::<Option<_>>()?,
            filter: chunks.map(instruction).collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = std::env::temp_dir().join(format!("coloc-bounds-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let filter = vec![
            Instruction { code: 0x20, jt: 0, jf: 0, k: 4 },
            Instruction { code: 0x15, jt: 1, jf: 2, k: 0xC000_003E },
        ];
        for bounds in [
            Bounds::default(),
            Bounds {
                selinux: Some("system_u:system_r:container_t:s0:c1,c2".into()),
                capabilities: vec!["CAP_CHOWN".into(), "CAP_KILL".into()],
                limits: vec!["nofile 9:unlimited".parse().unwrap()],
                filter,
            },
        ] {
            bounds.save(&dir).unwrap();
            assert_eq!(Bounds::load(&dir), Some(bounds));
        }
        let path = dir.join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for bad in [
            &whole[..whole.len() - 1],
            b"",
            b"selinux \nCAP_CHOWN",
            b"CAP_CHOWN\n\n",
            b"selinux \nCAP_CHOWN\nnofile\n",
        ] {
            atomic::write(&path, bad, 0o600).unwrap();
            assert_eq!(Bounds::load(&dir), None, "{bad:?}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_dir(&dir).unwrap();
    }
}
