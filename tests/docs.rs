//! What is generated from the table of settings is what is in the repository: the key list of
//! coloc-profile(5), and the JSON schema. With COLOC_BLESS=1 it is written there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// What tests write need not survive a crash.
#![allow(clippy::disallowed_methods)]

use std::path::{Path, PathBuf};

use coloc::profile::keys::{KEYS, Key, Place, When};
use coloc::profile::schema::schema;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[track_caller]
fn same(name: &str, want: &str) {
    let path = file(name);
    if std::env::var_os("COLOC_BLESS").is_some() {
        std::fs::write(&path, want).unwrap();
    }
    let is = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        is == want,
        "{name} is not what src/profile/keys.rs says: COLOC_BLESS=1 cargo test --test docs"
    );
}

/// The sentences of a text, each on its line, as mdoc(7) wants it; a page of another program's
/// as a reference to it.
fn sentences(text: &str) -> String {
    let mut out = String::new();
    for sentence in text.split_inclusive('.').fold(Vec::<String>::new(), |mut all, part| {
        // A stop that no space follows is within a word, such as an option's name.
        match all.last_mut() {
            Some(last) if !part.starts_with(' ') => last.push_str(part),
            _ => all.push(part.to_string()),
        }
        all
    }) {
        out.push_str(sentence.trim_start());
        out.push('\n');
    }
    out
}

fn entry(key: &Key) -> String {
    let default = match key.default {
        "" | "{}" => String::new(),
        word => format!("The default is\n.Ql {word} .\n"),
    };
    let when = match (key.place, key.when) {
        (Place::Profile, _) => "",
        (_, When::Now) => "A change takes effect at once.\n",
        (_, When::Start) => "A change takes effect at the next start.\n",
        (_, When::Create) => "It counts when a container is made.\n",
    };
    let what = key.kind.expects();
    let what = format!("{}{}.\n", what[..1].to_uppercase(), &what[1..]);
    format!(".It Cm {}\n{}{what}{default}{when}", key.name, sentences(key.doc))
}

const BEGIN: &str = ".\\\" Begin of the keys, made from src/profile/keys.rs\n";
const END: &str = ".\\\" End of the keys\n";

#[test]
fn the_manual_has_every_key() {
    let page = std::fs::read_to_string(file("man/coloc-profile.5")).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let list = |place: &[Place]| {
        let keys = KEYS.iter().filter(|k| place.contains(&k.place));
        let items: String = keys.map(entry).collect();
        format!(".Bl -tag -width Ds\n{items}.El\n")
    };
    let keys = format!(
        "{}.Pp\nThese are a container's alone, for\n.Ql coloc set :\n{}",
        list(&[Place::Profile, Place::Both]),
        list(&[Place::Container])
    );
    same("man/coloc-profile.5", &format!("{before}{BEGIN}{keys}{END}{after}"));
}

#[test]
fn the_schema_is_the_tables() {
    same("docs/coloc-profile.schema.json", &format!("{:#}\n", schema()));
}
