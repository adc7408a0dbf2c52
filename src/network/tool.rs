//! Programs of the distribution that do a part of the work.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use crate::error::{Context, Error, Kind, Result};
use crate::store::lock::Lock;
use crate::sys::process;

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether `program` is installed.
pub(super) fn there(program: &str) -> bool {
    PATH.split(':').any(|dir| std::path::Path::new(dir).join(program).exists())
}

/// A command that sees nothing of the caller's environment.
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Runs a program to its end and gives what it wrote; `package` is where it comes from.
pub(super) fn run(program: &str, package: &str, args: &[&str], input: &str) -> Result<Vec<u8>> {
    finish(program, begin(program, package, args, input)?)
}

/// As [`run`], of a program that leaves a service behind.
pub(super) fn run_service(program: &str, package: &str, args: &[&str]) -> Result<()> {
    let mut command = command(program);
    // A supervisor that starts its container again has some signals blocked.
    process::with_no_mask(&mut command);
    finish(program, begin_command(command, program, package, args, "")?).map(drop)
}

fn begin(program: &str, package: &str, args: &[&str], input: &str) -> Result<Child> {
    begin_command(command(program), program, package, args, input)
}

fn begin_command(
    mut command: Command,
    program: &str,
    package: &str,
    args: &[&str],
    input: &str,
) -> Result<Child> {
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(Kind::Unsupported, format!("{program} is not installed"))
                .hint(format!("apt install {package}"))
        }
        _ => Error::from(e).context(format!("cannot run {program}")),
    })?;
    if let Some(mut pipe) = child.stdin.take() {
        // Each of these reads all of its input before it says anything.
        let _ = pipe.write_all(input.as_bytes());
    }
    Ok(child)
}

fn finish(program: &str, child: Child) -> Result<Vec<u8>> {
    let out = child.wait_with_output().context(|| format!("cannot run {program}"))?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    let said = String::from_utf8_lossy(&out.stderr);
    let line = said.lines().next().unwrap_or("it failed without a word").to_string();
    Err(Error::failed(format!("{program}: {line}")))
}

/// A command that has `lock` too, as long as it runs: what it does is not over when we are killed.
fn command_with(lock: &Lock, program: &str) -> Result<Command> {
    let mut command = command(program);
    process::with_hold_of(&mut command, lock)?;
    Ok(command)
}

/// Has nftables load `text`: all of it, or nothing. `lock` is the network's.
pub(super) fn nft_load(lock: &Lock, text: &str) -> Result<()> {
    Loading::begin(lock, text)?.end()
}

/// nftables while it loads something; it waits for the kernel most of the time. Whoever drops it
/// waits too, and does not learn what came of it.
#[derive(Debug)]
pub(super) struct Loading(Option<Child>);

impl Loading {
    /// Has nftables begin to load `text`: all of it, or nothing. It has the network's `lock` until it is
    /// done, whatever becomes of us: nobody else's newer rules can come before these.
    pub(super) fn begin(lock: &Lock, text: &str) -> Result<Self> {
        let command = command_with(lock, "nft")?;
        let child = begin_command(command, "nft", "nftables", &["-f", "-"], text)?;
        Ok(Self(Some(child)))
    }

    /// Waits until it is done.
    pub(super) fn end(mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), |child| finish("nft", child).map(drop))
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.wait();
        }
    }
}

/// What nftables lists, as it is in its JSON.
pub(super) fn nft_list(args: &[&str]) -> Result<Vec<serde_json::Value>> {
    let bytes = run("nft", "nftables", &[&["-j", "-a", "list"], args].concat(), "")?;
    let mut all: serde_json::Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::failed(format!("cannot read what nft lists: {e}")))?;
    match all["nftables"].take() {
        serde_json::Value::Array(list) => Ok(list),
        _ => Err(Error::failed("cannot read what nft lists")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Layout;
    use crate::store::lock::{self, Subject};

    #[test]
    fn what_a_killed_command_has_begun_holds_its_lock() {
        let root = std::env::temp_dir().join(format!("coloc-tool-{}", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        let layout = Layout::new(&root);
        let free = || lock::try_exclusive(&layout, &Subject::Network).unwrap().is_some();
        let held = lock::exclusive(&layout, &Subject::Network).unwrap();
        let program = |command: Command| {
            let mut command = command;
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        };
        // Both run until their input ends.
        let mut with = program(command_with(&held, "cat").unwrap());
        let mut without = program(command("cat"));
        // As a kill does: closed, and not unlocked.
        held.leave_to_other();
        assert!(!free());
        drop(with.stdin.take());
        with.wait().unwrap();
        assert!(free(), "the other one has nothing of it");
        drop(without.stdin.take());
        without.wait().unwrap();
        crate::tree::remove(&root).unwrap();
    }
}
