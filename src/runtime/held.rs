//! A container that coloc holds still for a while: its cgroup is frozen, and a marker in its running
//! state says who did it. Without one it was an admin, and nobody else lets it go on.
//!
//! | killed | what is found | what comes of it |
//! |---|---|---|
//! | before the freeze | marker, not frozen | the marker goes |
//! | while it is held | marker, frozen | whoever put the marker there lets it go on |
//! | after the thaw | marker, not frozen | the marker goes |
//!
//! What follows the kill is done under the container's lock, as all of this.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::cgroup;
use crate::error::{Context, Error, Result};
use crate::store::running::{Process, State};
use crate::store::{atomic, journal};

/// The file of a swap of `/usr`, which the next swap goes by.
pub const SWAP: &str = "swap-frozen.json";
/// The file of a walk through the private tree, which [`let_go`] goes by.
pub const WALK: &str = "walk-frozen.json";

/// The file that says who froze the container. It counts for the very init that it names.
pub(super) struct Marker<'a> {
    path: PathBuf,
    init: &'a Process,
}

impl<'a> Marker<'a> {
    /// That of the name `file` in `run`, the directory of the running state of a container.
    pub(super) fn of(run: &Path, file: &str, init: &'a Process) -> Self {
        Self { path: run.join(file), init }
    }

    pub(super) fn is_set(&self) -> bool {
        matches!(atomic::read_json::<Process>(&self.path), Ok(Some(init)) if init == *self.init)
    }

    /// Not by the atomic writer, whose kill would leave a file that nobody clears up: one that
    /// was cut short counts for nothing, and nothing is frozen before it is whole. It need not
    /// outlive the boot.
    pub(super) fn set(&self) -> Result<()> {
        let text = serde_json::to_vec(self.init)
            .map_err(|e| Error::failed(format!("cannot tell its init: {e}")))?;
        std::fs::File::create(&self.path)
            .and_then(|mut file| file.write_all(&text))
            .context(|| format!("cannot write {}", self.path.display()))
    }

    pub(super) fn clear(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Does `work`, a walk through the private tree of the container of `state`, while nothing in there
/// runs. It goes on afterwards, unless an admin had frozen it before. `run` is the directory of its
/// running state.
pub fn while_still(state: &State, run: &Path, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let marker = Marker::of(run, WALK, &state.init);
    let work = || {
        journal::step("walk.frozen");
        work()
    };
    if !marker.is_set() && cgroup::frozen(&state.cgroup) {
        return work();
    }
    marker.set()?;
    // Where that fails it goes on: the thaw is tried all the same.
    let done = cgroup::freeze(&state.cgroup, true).and_then(|()| work());
    cgroup::freeze(&state.cgroup, false)?;
    marker.clear();
    done
}

/// Whether a walk that was killed may have left a container like that; `run` as above.
pub fn is_left(run: &Path) -> bool {
    run.join(WALK).exists()
}

/// Lets the container of `state` go on if a walk that was killed holds it still; true if it did. The
/// caller has the container's lock.
pub fn let_go(state: &State, run: &Path) -> Result<bool> {
    let marker = Marker::of(run, WALK, &state.init);
    let held = marker.is_set() && cgroup::frozen(&state.cgroup);
    if held {
        cgroup::freeze(&state.cgroup, false)?;
    }
    // Of an init that is no more, or cut short, it says nothing.
    marker.clear();
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_counts_for_the_init_that_it_names() {
        let path = std::env::temp_dir().join(format!("coloc-marker-{}", std::process::id()));
        let (one, other) = (Process { pid: 7, start: 1 }, Process { pid: 7, start: 2 });
        let marker = Marker { path: path.clone(), init: &one };
        marker.clear();
        assert!(!marker.is_set());
        marker.set().unwrap();
        assert!(marker.is_set());
        assert!(!Marker { path: path.clone(), init: &other }.is_set());
        // Cut short by a kill.
        std::fs::File::create(&path).unwrap();
        assert!(!marker.is_set());
        marker.clear();
        assert!(!path.exists());
    }
}
