//! A new tree: by mmdebstrap, or from a root file system made elsewhere.

use std::path::Path;

use super::sandbox::{self, PATH, Streams, failure, follow};
use super::{BuildSpec, Said, sources};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::process::End;

pub use super::import::import;

/// Run as process 1 of the new namespaces: what mmdebstrap mounts must not reach the host,
/// and its /proc must be of its own processes. All of it dies with the namespaces.
const PREPARE: &str = "mount --make-rprivate / && mount -t proc proc /proc && exec \"$0\" \"$@\"";

/// Builds `spec` into `tree`, a directory that is empty or not there yet. `progress` gets
/// mmdebstrap's own lines of what it is doing, `log` everything it says. Gives the sources.list
/// lines that it was built from. What it leaves in between when it is killed lies in `scratch`,
/// which is made.
pub fn bootstrap(
    spec: &BuildSpec,
    tree: &Path,
    scratch: &Path,
    log: &Path,
    progress: &mut dyn FnMut(Said),
) -> Result<Vec<String>> {
    check(spec)?;
    if !PATH.split(':').any(|dir| Path::new(dir).join("mmdebstrap").is_file()) {
        return Err(Error::new(Kind::Unsupported, "mmdebstrap is not installed")
            .hint("apt install mmdebstrap"));
    }
    let components = words(&spec.components).join(" ");
    let lines = match &spec.mirror {
        Some(url) => vec![format!("deb {} {} {components}", url.trim_end_matches('/'), spec.suite)],
        None => sources::of_host(&spec.suite, &components),
    };
    let mut output = sandbox::open_log(log)?;
    // mmdebstrap runs in another directory than we do.
    let tree = &std::path::absolute(tree).context(|| "cannot tell where to build")?;
    std::fs::create_dir(scratch).context(|| format!("cannot make {}", scratch.display()))?;
    let temporary = std::path::absolute(scratch).context(|| "cannot tell where to build")?;
    let temporary = temporary.to_string_lossy();
    let env = [("DEBIAN_FRONTEND", "noninteractive"), ("TMPDIR", &*temporary)];
    let args = arguments(spec, tree, &lines);
    let run = sandbox::spawn(PREPARE, &args, &env, Streams::Pipe)?;
    let last = follow(run.output, &mut output, None, &mut |line| {
        if let Some(step) = line.strip_prefix("I: ") {
            progress(Said::Phase(step.into()));
        }
        Ok(())
    });
    let end = sandbox::wait(run.child)?;
    let last = last?;
    if end != End::Code(0) {
        return Err(failure("mmdebstrap", end, &last, log));
    }
    crate::tree::remove(scratch)?;
    match lines.is_empty() {
        true => used_by(tree),
        false => Ok(lines),
    }
}

/// Refuses what mmdebstrap, apt or a shell could take for something else than a name.
fn check(spec: &BuildSpec) -> Result<()> {
    let sane = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".+:-=~_".contains(&b))
    };
    let refuse = |what: &str, text: &str| {
        let text: String = text.chars().take(60).collect();
        Err(Error::new(Kind::Usage, format!("{text:?} cannot be {what}")))
    };
    if !sane(&spec.suite) {
        return refuse("the name of a suite", &spec.suite)
            .map_err(|e: Error| e.hint("a suite is a word such as bookworm or trixie"));
    }
    if !sane(&spec.variant) {
        return refuse("a variant of mmdebstrap", &spec.variant);
    }
    let components = words(&spec.components);
    if components.is_empty() || components.iter().any(|c| !sane(c)) {
        return refuse("components of an archive", &spec.components);
    }
    if let Some(bad) = spec.include.iter().find(|p| !sane(p)) {
        return refuse("the name of a package", bad);
    }
    match &spec.mirror {
        // sources.list takes options in brackets, which could turn signatures off.
        Some(url)
            if !url.contains(":/")
                || !url.starts_with(|c: char| c.is_ascii_lowercase())
                || !url.bytes().all(|b| b.is_ascii_graphic() && !b"[]\"'#".contains(&b)) =>
        {
            refuse("the address of a mirror", url)
                .map_err(|e: Error| e.hint("such as https://mirror.example.org/debian"))
        }
        _ => Ok(()),
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split([',', ' ']).filter(|w| !w.is_empty()).collect()
}

fn arguments(spec: &BuildSpec, tree: &Path, lines: &[String]) -> Vec<std::ffi::OsString> {
    let mut args: Vec<std::ffi::OsString> = vec![
        "mmdebstrap".into(),
        "--mode=root".into(),
        "--format=directory".into(),
        format!("--variant={}", spec.variant).into(),
        format!("--components={}", words(&spec.components).join(",")).into(),
        // One syncfs at publication does what dpkg would do file by file.
        "--dpkgopt=force-unsafe-io".into(),
    ];
    if !spec.include.is_empty() {
        args.push(format!("--include={}", spec.include.join(",")).into());
    }
    args.push(spec.suite.clone().into());
    args.push(tree.into());
    args.extend(lines.iter().map(|line| line.clone().into()));
    args
}

/// The sources that mmdebstrap chose by itself.
fn used_by(tree: &Path) -> Result<Vec<String>> {
    let root = crate::sys::path::open_dir(tree)?;
    let text = crate::tree::file::read(&root, "etc/apt/sources.list", 1 << 20).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(text.lines().filter(|l| l.starts_with("deb ")).map(str::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> BuildSpec {
        BuildSpec {
            suite: "trixie".into(),
            mirror: None,
            components: "main contrib".into(),
            include: vec!["libstdc++6".into(), "nano".into()],
            variant: "minbase".into(),
        }
    }

    #[test]
    fn only_names_get_through() {
        check(&spec()).unwrap();
        check(&BuildSpec { mirror: Some("https://x.org/debian".into()), ..spec() }).unwrap();
        for bad in ["", "-x", "a b", "a/b", "$(x)", "a\n", "é"] {
            assert!(check(&BuildSpec { suite: bad.into(), ..spec() }).is_err(), "{bad}");
            assert!(check(&BuildSpec { include: vec![bad.into()], ..spec() }).is_err(), "{bad}");
            assert!(check(&BuildSpec { variant: bad.into(), ..spec() }).is_err(), "{bad}");
        }
        for bad in ["", "x", "[trusted=yes] http://x/", "http://x/ a", "-o:/x", "http://x/\n"] {
            let spec = BuildSpec { mirror: Some(bad.into()), ..spec() };
            assert_eq!(check(&spec).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }

    #[test]
    fn arguments_are_in_mmdebstraps_order() {
        let args = arguments(&spec(), Path::new("/t"), &["deb u s main".into()]);
        let args: Vec<_> = args.iter().map(|a| a.to_string_lossy()).collect();
        assert_eq!(args[4], "--components=main,contrib");
        assert_eq!(args[6..], ["--include=libstdc++6,nano", "trixie", "/t", "deb u s main"]);
    }
}
