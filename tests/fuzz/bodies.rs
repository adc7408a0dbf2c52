//! What is asked of each parser of what a container, a member or a hostile archive writes: that it
//! neither panics nor hangs nor takes much memory, whatever the bytes say, and what else holds of
//! what it understood. `main.rs` feeds them with what is nearly right, `fuzz/` with what libFuzzer finds.

use std::path::Path;

use coloc::adopt::{self, Budget, Clash, Keyed};
use coloc::audit;
use coloc::base::{apt, hints, publish};
use coloc::broker::frames;
use coloc::network::{Member, Publish};
use coloc::profile::Profile;
use coloc::profile::keys::KEYS;
use coloc::runtime::{bounds, cgroup, limits, near, plan};
use coloc::store::{Name, Record, events, running};
use coloc::sys::mountinfo;
use coloc::tree::{accounts, file, manifest};

/// A body, by the name of its target.
pub(crate) type Body = fn(&[u8]);

/// All of them.
pub(crate) const BODIES: &[(&str, Body)] = &[
    ("accounts", accounts_of_a_container),
    ("adoption", adoption),
    ("apt", words_of_apt),
    ("documents", documents),
    ("dpkg", packages),
    ("events", journals_of_events),
    ("frames", frames_on_a_socket),
    ("manifest", manifests),
    ("mounts", mounts_of_a_process),
    ("process", processes),
    ("profile", profiles),
    ("request", requests_of_a_member),
    ("terminal", what_reaches_a_terminal),
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Has `read` see a file with these bytes in a directory of its own, as some parsers take a path.
fn kept<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let thread = format!("{:?}", std::thread::current().id());
    let number: String = thread.chars().filter(char::is_ascii_digit).collect();
    let dir = std::env::temp_dir().join(format!("coloc-fuzz-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(name), bytes).unwrap();
    let said = read(&dir);
    std::fs::remove_dir_all(&dir).unwrap();
    said
}

/// passwd, group, shadow and gshadow.
pub(crate) fn accounts_of_a_container(bytes: &[u8]) {
    let text = text(bytes);
    for user in accounts::users(&text) {
        assert!(!user.name.contains([':', '\n']));
        accounts::groups_of(&text, &user.name);
    }
    accounts::gid_of(&text, "sudo");
    assert!(accounts::ids_of(&text).count() <= text.len());
    let mut four = accounts::Accounts {
        passwd: text.clone(),
        group: text.clone(),
        shadow: Some(text.clone()),
        gshadow: Some(text),
    };
    four.add_user("zoe", "/bin/sh");
    four.add_member("sudo", "zoe");
    assert!(four.knows("zoe"));
    four.strip_passwords();
}

/// The member's version of a file, between two of the base's: the bytes fall into three by NULs.
pub(crate) fn adoption(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |b| *b == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (old, mine, new) = (next(), next(), next());
    match adopt::merge_text(&mut Budget::default(), old, mine, new) {
        Ok(merged) => {
            let known = |line: &[u8]| {
                [mine, new].iter().any(|t| t.split(|b| *b == b'\n').any(|l| l == line))
            };
            assert!(merged.split(|b| *b == b'\n').all(known), "a line of nowhere");
        }
        Err(Clash::Binary | Clash::Overlap | Clash::TooLarge) => {}
        Err(other) => panic!("{other:?}"),
    }
    let [old, mine, new] = [old, mine, new].map(text);
    for keyed in [Keyed::CaConf, Keyed::Ucf, Keyed::Debconf] {
        assert_eq!(keyed.merge(&old, &mine, &old), mine);
        keyed.merge(&old, &mine, &new);
    }
    let six = |t: &str| [(); 6].map(|()| Some(t.to_string()));
    adopt::merge_accounts(&six(&old), &six(&mine), &six(&new));
    let conflict = adopt::Conflict {
        path: "etc/x".into(),
        theirs: "etc/x.dpkg-dist".into(),
        what: String::new(),
    };
    adopt::difference(&conflict, mine.as_bytes(), new.as_bytes());
}

/// What apt and maintainer scripts print, a line each.
pub(crate) fn words_of_apt(bytes: &[u8]) {
    let lines: Vec<String> = text(bytes).lines().map(str::to_string).collect();
    assert!(apt::foreseen(&lines).len() <= lines.len());
    apt::unknown(&lines);
    for line in &lines {
        apt::step(line);
        if let Some(unit) = hints::restart(line) {
            assert!(!unit.contains(' '), "{unit:?} would be two arguments");
        }
    }
}

/// Records, states, OCI specs with the plan that they become, and what confines those who enter.
pub(crate) fn documents(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Record>(bytes);
    let _ = serde_json::from_slice::<running::State>(bytes);
    let _ = serde_json::from_slice::<Member>(bytes);
    if let Ok(spec) = serde_json::from_slice::<oci_spec::runtime::Spec>(bytes) {
        for selinux in [false, true] {
            let host = plan::HostFacts { selinux, ..plan::HostFacts::default() };
            if let Ok(plan) = plan::plan(&spec, &host) {
                assert!(plan.steps.iter().all(|step| !step.to_string().is_empty()));
            }
        }
    }
    let _ = limits::of_user(&text(bytes));
    kept(bounds::FILE, bytes, bounds::Bounds::load);
}

/// A status file of dpkg's, and the list of packages that a generation keeps.
pub(crate) fn packages(bytes: &[u8]) {
    let text = text(bytes);
    let (installed, unfinished) = (publish::installed(&text), publish::unfinished(&text));
    assert!(installed.len() + unfinished.len() <= text.len());
    for package in installed.iter().chain(&unfinished) {
        let words = [&package.name, &package.version, &package.architecture];
        assert!(words.iter().all(|w| !w.contains('\n')), "{package:?} would be two lines");
    }
    let _ = kept("packages", bytes, publish::packages);
}

/// A journal of events.
pub(crate) fn journals_of_events(bytes: &[u8]) {
    let _ = kept("events.jsonl", bytes, |dir| events::read(&dir.join("events.jsonl")));
}

/// A member's connection: the bytes as they come, and with a right beginning.
pub(crate) fn frames_on_a_socket(bytes: &[u8]) {
    let mut begun = frames::encode(&()).unwrap();
    begun.truncate(6);
    begun.extend(bytes);
    for frame in [bytes, &begun] {
        let (ours, theirs) = coloc::sys::fdpass::pair().unwrap();
        frames::tell(&theirs, frame);
        drop(theirs);
        let _ = frames::receive(&ours, std::time::Duration::from_secs(5));
    }
    if let Some(header) = bytes.first_chunk() {
        assert!(frames::decode_header(*header).unwrap_or(0) <= frames::LIMIT);
    }
    if let Some(frame) = bytes.first_chunk() {
        if let near::Event::Size(size) = near::Event::of_frame(*frame) {
            assert!(size.rows > 0 && size.columns > 0);
        }
    }
}

/// A generation's manifest.
pub(crate) fn manifests(bytes: &[u8]) {
    if let Ok(entries) = kept("manifest", bytes, manifest::read) {
        assert!(entries.len() <= bytes.len());
        manifest::text(&entries);
    }
}

/// mountinfo, where paths are whatever a container calls them.
pub(crate) fn mounts_of_a_process(bytes: &[u8]) {
    let found = mountinfo::parse(bytes);
    assert!(found.len() <= bytes.len());
    mountinfo::top(&found, Path::new("/usr"));
    cgroup::parse(&text(bytes));
}

/// maps, stat and status of a process, where names are whatever it calls itself and its files.
pub(crate) fn processes(bytes: &[u8]) {
    let (mut found, mut lines) = (0, 1);
    lines += bytes.iter().filter(|b| **b == b'\n').count();
    audit::each_mapping(bytes, |mapping| {
        assert!(mapping.inode != 0);
        found += 1;
    });
    assert!(found <= lines);
    let text = text(bytes);
    audit::start_in(&text);
    audit::user_in(&text);
}

/// A profile, and the value of each setting.
pub(crate) fn profiles(bytes: &[u8]) {
    let name = Name::parse("profile", "fuzz").unwrap();
    let _ = kept("fuzz.json", bytes, |dir| Profile::read(name, dir.join("fuzz.json")));
    let text = text(bytes);
    let _ = Name::parse("container", &text);
    let _ = Publish::parse(&text);
    for key in KEYS {
        let _ = key.kind.parse(&text);
    }
}

/// What a member's client asks for.
pub(crate) fn requests_of_a_member(bytes: &[u8]) {
    if let Ok(ask) = frames::decode::<frames::Ask>(bytes) {
        // What is understood is said again in the same way.
        let again = serde_json::to_vec(&ask).unwrap();
        assert_eq!(frames::decode::<frames::Ask>(&again).unwrap(), ask);
    }
}

/// Whatever is printed.
pub(crate) fn what_reaches_a_terminal(bytes: &[u8]) {
    let shown = file::printable(&text(bytes));
    let harmless = |c: char| !c.is_control() || ['\n', '\t'].contains(&c);
    assert!(shown.chars().all(harmless), "{shown:?}");
}
