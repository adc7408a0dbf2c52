//! Which module may use which, as docs/architecture.md draws it; and where unsafe code may be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

const MODULES: [&str; 15] = [
    "cli", "broker", "engine", "request", "status", "adopt", "audit", "base", "network", "profile",
    "runtime", "tree", "store", "sys", "error",
];

/// What each module may use beside itself and `error`.
fn allowed(module: &str) -> &'static [&'static str] {
    match module {
        "cli" => &[
            "broker", "engine", "request", "status", "adopt", "audit", "base", "network",
            "profile", "runtime", "tree", "store", "sys",
        ],
        "broker" => &["engine", "request", "runtime", "store", "sys"],
        "engine" => &[
            "request", "status", "adopt", "audit", "base", "network", "profile", "runtime", "tree",
            "store", "sys",
        ],
        "request" | "status" | "adopt" | "audit" | "base" | "network" | "profile" | "runtime" => {
            &["tree", "store", "sys"]
        }
        "tree" => &["store", "sys"],
        "store" | "error" => &["sys"],
        "sys" => &[],
        other => panic!("src has a module that docs/architecture.md does not: {other}"),
    }
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The code of a file without its tests, which come last, and without comments.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let shipped = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = shipped.lines().map(|l| if l.trim_start().starts_with("//") { "" } else { l });
    lines.collect::<Vec<_>>().join("\n")
}

/// Each module file with the name of its module and its code; not lib.rs and main.rs.
fn modules() -> Vec<(PathBuf, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut list = Vec::new();
    for path in files {
        let inner = path.strip_prefix(&src).unwrap();
        let first = inner.components().next().unwrap().as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_string();
        if module != "lib" && module != "main" {
            let text = code(&path);
            list.push((path, module, text));
        }
    }
    assert!(list.len() > 30);
    list
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The modules that come after each `crate::`, in groups `crate::{a::x, b}` too.
fn uses(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(word(rest).to_string());
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for c in group.chars() {
            match c {
                '}' if depth == 0 => break,
                ',' if depth == 0 => found.push(word(std::mem::take(&mut item).trim()).to_string()),
                _ => {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    item.push(c);
                }
            }
        }
        found.push(word(item.trim()).to_string());
    }
    found.retain(|m| !m.is_empty());
    found
}

#[test]
fn modules_use_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for (path, module, text) in modules() {
        for used in uses(&text) {
            assert!(MODULES.contains(&used.as_str()), "{}: crate::{used}", path.display());
            let right = used == module || used == "error" || allowed(&module).contains(&&*used);
            if !right {
                wrong.push(format!("{}: {module} uses {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn sys_knows_no_error_of_people() {
    for (path, module, text) in modules() {
        let clean = module != "sys" || !uses(&text).iter().any(|u| u == "error");
        assert!(clean, "{}", path.display());
    }
}

#[test]
fn unsafe_code_is_only_in_sys() {
    for (path, module, text) in modules() {
        let words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code"];
        let found = words.iter().find(|w| text.contains(**w));
        assert!(module == "sys" || found.is_none(), "{}: {found:?}", path.display());
    }
}

#[test]
fn every_unsafe_block_has_its_reason() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sys");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let above = &lines[n.saturating_sub(10)..n];
            let reason = above.iter().any(|l| l.contains("SAFETY"));
            assert!(!line.contains("unsafe {") || reason, "{}:{}", path.display(), n + 1);
        }
    }
}

#[test]
fn groups_of_imports_are_read() {
    let text = "use crate::{store::{Name, ids}, sys, tree::file};\nlet x = crate::base::y();";
    assert_eq!(uses(text), ["store", "sys", "tree", "base"]);
}
