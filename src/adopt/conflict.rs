//! The base's versions that were put beside the member's: showing them, and the end of it.

use std::io::Write;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::Conflict;
use super::class::ACCOUNTS;
use super::decide::Meta;
use super::look::{Kind, Seen, Spot, Tree};
use super::merge::{Budget, TEXT_LIMIT, is_text};
use super::plan::own;
use crate::error::{Context, Error, Kind as Failure, Result};
use crate::sys::Named;
use crate::sys::path::reopen;

/// How a conflict ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Take {
    /// The base's version takes the place of the member's.
    Base,
    /// The member's stays.
    Mine,
    /// This text takes the place of both.
    Text(Vec<u8>),
}

/// Those of `list` whose base's version still lies beside. One that nothing could be put beside
/// of is reported by its adoption alone.
pub fn unresolved(private: &Path, list: &[Conflict]) -> Vec<Conflict> {
    let Ok(tree) = Tree::open(private) else { return list.to_vec() };
    let waits = |c: &&Conflict| !c.theirs.is_empty() && !matches!(tree.look(&c.theirs), Ok(None));
    list.iter().filter(waits).cloned().collect()
}

/// Both versions: the member's and the base's.
pub fn texts(private: &Path, conflict: &Conflict) -> Result<(Vec<u8>, Vec<u8>)> {
    let tree = Tree::open(private)?;
    Ok((read(&tree, &conflict.path)?, read(&tree, &conflict.theirs)?))
}

fn read(tree: &Tree, path: &str) -> Result<Vec<u8>> {
    let (spot, seen) = find(tree, path)?;
    let bytes = spot.read(&seen, TEXT_LIMIT)?;
    bytes.ok_or_else(|| Error::failed(format!("/{path} cannot be read, or is larger than 1 MiB")))
}

fn find(tree: &Tree, path: &str) -> Result<(Spot, Seen)> {
    let missing = || Error::new(Failure::NotFound, format!("there is no file /{path}"));
    let spot = tree.spot(path)?.ok_or_else(missing)?;
    let seen = spot.look()?.filter(|s| s.kind == Kind::File).ok_or_else(missing)?;
    Ok((spot, seen))
}

/// A unified diff from the member's version to the base's; None if one of them is no text, or
/// comparing them would take too long.
pub fn difference(conflict: &Conflict, mine: &[u8], base: &[u8]) -> Option<String> {
    if !is_text(mine) || !is_text(base) || !Budget::default().spend(mine, base) {
        return None;
    }
    let (mine, base) = (std::str::from_utf8(mine).ok()?, std::str::from_utf8(base).ok()?);
    let mut options = diffy::DiffOptions::new();
    options.set_original_filename(format!("/{}", conflict.path));
    options.set_modified_filename(format!("/{}", conflict.theirs));
    Some(options.create_patch(mine, base).to_string())
}

/// Ends a conflict. Done again, it fails with [`Failure::NotFound`].
pub fn resolve(private: &Path, shift: u32, conflict: &Conflict, take: &Take) -> Result<()> {
    let tree = Tree::open(private)?;
    let is_account = ACCOUNTS.contains(&conflict.path.as_str());
    if is_account && *take == Take::Base {
        let what = format!("/{} holds the container's accounts and is not replaced", conflict.path);
        return Err(Error::new(Failure::State, what)
            .hint("add the missing account by hand inside, then take mine"));
    }
    let (theirs, base) = find(&tree, &conflict.theirs)?;
    let dir = match take {
        Take::Mine => theirs,
        Take::Base => {
            let spot = place(&tree, &conflict.path)?;
            renameat(&theirs.dir, theirs.name(), &spot.dir, spot.name())
                .named(|| format!("renameat({:?})", conflict.path))?;
            return sync(&spot);
        }
        Take::Text(bytes) => {
            let spot = place(&tree, &conflict.path)?;
            let like = spot.look()?.filter(|s| s.kind == Kind::File).unwrap_or(base);
            write(&spot, bytes, &like, shift)
                .context(|| format!("cannot write /{}", conflict.path))?;
            theirs
        }
    };
    match unlinkat(&dir.dir, dir.name(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => sync(&dir),
        Err(e) => Ok(Err(e).named(|| format!("unlinkat({:?})", conflict.theirs))?),
    }
}

fn place(tree: &Tree, path: &str) -> Result<Spot> {
    let missing = || Error::new(Failure::NotFound, format!("/{path} has no directory any more"));
    tree.spot(path)?.ok_or_else(missing)
}

/// Replaces a file in one step by one of the same owner and mode.
fn write(spot: &Spot, bytes: &[u8], like: &Seen, shift: u32) -> Result<()> {
    let temporary = format!(".coloc-{}.new", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file =
        openat(&spot.dir, temporary.as_str(), flags, mode).named(|| "openat(O_EXCL)".into())?;
    let mut file = std::fs::File::from(file);
    // Whatever else lies in there: what coloc writes belongs to the container.
    let own_id = |id: u32| id.max(shift);
    let meta = Meta { mode: like.mode, uid: own_id(like.uid), gid: own_id(like.gid) };
    let written = own(&file, meta)
        .and_then(|()| Ok(file.write_all(bytes)?))
        .and_then(|()| Ok(file.sync_all()?))
        .and_then(|()| {
            let renamed = renameat(&spot.dir, temporary.as_str(), &spot.dir, spot.name());
            Ok(renamed.named(|| "renameat".into())?)
        });
    if written.is_err() {
        let _ = unlinkat(&spot.dir, temporary.as_str(), AtFlags::empty());
    }
    written
}

fn sync(spot: &Spot) -> Result<()> {
    let dir = reopen(&spot.dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
    Ok(fsync(&dir).named(|| "fsync".into())?)
}
