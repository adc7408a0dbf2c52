//! Locks between coloc's own processes (flock(2)); the kernel drops them with their holder.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::{Layout, Name};
use crate::error::{Context, Error, Kind, Result};

/// What a lock is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Changes of one base, from their first step until every container has adopted them: one at
    /// a time. Taken before all others.
    Transaction(Name),
    /// One container: its record, its private tree, whether it runs.
    Container(Name),
    /// What an adoption left to be run inside one container. May be taken by who has the container's.
    Pending(Name),
    /// One base: its generations. Shared by whoever makes a container over it.
    Base(Name),
    /// The mount over all private trees. Shared by whoever puts a container in its place or takes one
    /// out of it, alone for the moment in which it is made or goes.
    Trees,
    /// What is on the network: files, rules, the bridge.
    Network,
    /// The ledger of id ranges.
    Ids,
    /// The host's ports: that of the host's own store is taken by all stores.
    Ports,
    /// The host's /etc/hosts, likewise.
    Hosts,
    /// The host's ranges of addresses, likewise.
    Ranges,
}

impl Subject {
    fn file(&self) -> String {
        match self {
            Subject::Transaction(name) => format!("transaction.{name}"),
            Subject::Container(name) => format!("container.{name}"),
            Subject::Pending(name) => format!("pending.{name}"),
            Subject::Base(name) => format!("base.{name}"),
            Subject::Trees => "trees".into(),
            Subject::Network => "network".into(),
            Subject::Ids => "ids".into(),
            Subject::Ports => "ports".into(),
            Subject::Hosts => "hosts".into(),
            Subject::Ranges => "ranges".into(),
        }
    }

    fn words(&self) -> String {
        match self {
            Subject::Transaction(name) => format!("the update of base {name}"),
            Subject::Container(name) => format!("container {name}"),
            Subject::Pending(name) => format!("what an update has to run in {name}"),
            Subject::Base(name) => format!("base {name}"),
            Subject::Trees => "the private trees".into(),
            Subject::Network => "the network".into(),
            Subject::Ids => "the id ranges".into(),
            Subject::Ports => "the host's ports".into(),
            Subject::Hosts => "/etc/hosts".into(),
            Subject::Ranges => "the host's networks".into(),
        }
    }
}

/// A lock held; dropping it lets the next one in.
#[derive(Debug)]
pub struct Lock(Flock<File>);

impl AsFd for Lock {
    /// For a child that is to have the lock too, until it has ended itself.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Lock {
    /// Leaves it to a child that was made while this process had it, or to the parent that this child is
    /// of: flock(2) takes the two for one, so that to give it up here would be to give up the other's. And
    /// with a copy left here, it would not go when the other one dies.
    pub fn leave_to_other(self) {
        use std::os::fd::AsRawFd;
        let number = self.0.as_raw_fd();
        std::mem::forget(self);
        let _ = nix::unistd::close(number);
    }
}

/// For how long one command waits for another before it gives up. Longer than a stop with
/// its default time-out takes.
const PATIENCE: Duration = Duration::from_secs(180);

/// Takes the lock of `subject` alone, after whoever has it; says on stderr when it has to wait.
pub fn exclusive(layout: &Layout, subject: &Subject) -> Result<Lock> {
    wait_for(layout, subject, FlockArg::LockExclusiveNonblock)
}

/// Takes the lock of `subject` together with others who only read.
pub fn shared(layout: &Layout, subject: &Subject) -> Result<Lock> {
    wait_for(layout, subject, FlockArg::LockSharedNonblock)
}

/// Takes the lock alone if nobody has it.
pub fn try_exclusive(layout: &Layout, subject: &Subject) -> Result<Option<Lock>> {
    attempt(layout, subject, FlockArg::LockExclusiveNonblock)
}

fn wait_for(layout: &Layout, subject: &Subject, how: FlockArg) -> Result<Lock> {
    let begun = Instant::now();
    let mut told = false;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(lock) = attempt(layout, subject, how)? {
            return Ok(lock);
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::new(
                Kind::State,
                format!("{} is busy: another coloc command holds it", subject.words()),
            )
            .hint("look for it with: pgrep -a coloc"));
        }
        if !told && begun.elapsed() > Duration::from_secs(1) {
            eprintln!("coloc: waiting for another command on {} …", subject.words());
            told = true;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn attempt(layout: &Layout, subject: &Subject, how: FlockArg) -> Result<Option<Lock>> {
    let dir = layout.locks();
    let path = dir.join(subject.file());
    let open = || {
        std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)
    };
    let file = match open() {
        // /run is empty after a boot.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            layout.make_run().and_then(|()| open())
        }
        other => other,
    }
    .context(|| format!("cannot lock {}", path.display()))?;
    match Flock::lock(file, how) {
        Ok(lock) => Ok(Some(Lock(lock))),
        Err((_, nix::Error::EWOULDBLOCK | nix::Error::EINTR)) => Ok(None),
        Err((_, e)) => Err(Error::from(std::io::Error::from(e)))
            .context(|| format!("cannot lock {}", path.display())),
    }
}
