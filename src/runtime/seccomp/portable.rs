//! The same filter for runtimes that put rules together by libseccomp.
//!
//! libseccomp has no order among the rules for one call, and lets one without arguments win over
//! those with. So what is refused is said, and the rest is allowed. All calls that the table has and
//! the filter does not are refused by name; only those that are newer than the table pass. "None but
//! these values" cannot be said of an argument; such a call is allowed whole.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompBuilder, LinuxSyscall, LinuxSyscallBuilder,
};

use super::TABLE;
use crate::error::{Error, Result};

/// `filter` as other runtimes take it. One that does not refuse by default is left as it is.
pub fn portable(filter: &LinuxSeccomp) -> Result<LinuxSeccomp> {
    if filter.default_action() != LinuxSeccompAction::ScmpActErrno {
        return Ok(filter.clone());
    }
    let failed = |e: oci_spec::OciSpecError| Error::failed(format!("cannot turn the filter: {e}"));
    let (mut decided, mut partly) = (BTreeSet::new(), BTreeSet::new());
    let mut rules = Vec::new();
    for rule in filter.syscalls().iter().flatten() {
        let allows = rule.action() == LinuxSeccompAction::ScmpActAllow;
        let whole = rule.args().as_ref().is_none_or(Vec::is_empty);
        let open = |n: &&String| !decided.contains(*n) && !partly.contains(*n);
        let names: Vec<String> = rule.names().iter().filter(open).cloned().collect();
        if !allows && !names.is_empty() {
            let mut rule: LinuxSyscall = rule.clone();
            rule.set_names(names.clone());
            rules.push(rule);
        }
        match (whole, allows) {
            (true, _) => decided.extend(names),
            (false, true) => partly.extend(names),
            (false, false) => {}
        }
    }
    let names = TABLE.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split(' ').next());
    let unknown: Vec<String> =
        names.map(String::from).filter(|n| !decided.contains(n) && !partly.contains(n)).collect();
    if !unknown.is_empty() {
        let errno = filter.default_errno_ret().unwrap_or(libc::EPERM as u32);
        let rule = LinuxSyscallBuilder::default()
            .names(unknown)
            .action(LinuxSeccompAction::ScmpActErrno)
            .errno_ret(errno);
        rules.push(rule.build().map_err(failed)?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .architectures(filter.architectures().clone().unwrap_or_default())
        .syscalls(rules)
        .build()
        .map_err(failed)
}
