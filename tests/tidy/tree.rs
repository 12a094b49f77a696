//! Rules for every file: no text that only makes sense on one machine or on one day, no module without its
//! purpose, no source that nobody compiles.

use std::path::Path;

use crate::{files_below, none, root, shown};

/// Text that must not be in the repository, and why. Put together from halves, so that this list does not find
/// itself.
const BANNED: &[(&str, &str)] = &[
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("TO", "DO"), "an issue says it better, and is found"),
    (concat!("FIX", "ME"), "an issue says it better, and is found"),
    (concat!("to", "do!("), "an issue says it better, and is found"),
    (concat!("unimple", "mented!("), "an issue says it better, and is found"),
    (concat!("db", "g!("), "left over from a search for a defect"),
];

#[test]
fn no_banned_text() {
    let mut found = Vec::new();
    for path in files_below(root()) {
        // What is not text has no words; what is not readable is not ours.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for (banned, why) in BANNED {
                if line.contains(banned) {
                    found.push(format!("{}:{}: {banned} ({why})", shown(&path), number + 1));
                }
            }
        }
    }
    none("banned text", &found);
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for path in files_below(&root().join(folder)) {
            if path.extension().is_some_and(|extension| extension == "rs")
                && !std::fs::read_to_string(&path).is_ok_and(|text| text.starts_with("//! "))
            {
                found.push(shown(&path));
            }
        }
    }
    none("these do not open with `//!`", &found);
}

#[test]
fn every_source_file_is_compiled() {
    let source = root().join("src");
    let mut found = Vec::new();
    for path in files_below(&source) {
        let is_root = path.parent() == Some(&source)
            && (path.ends_with("lib.rs") || path.ends_with("main.rs"));
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        if is_rust
            && !is_root
            && !path.starts_with(source.join("bin"))
            && !is_declared(&path, &source)
        {
            found.push(shown(&path));
        }
    }
    none("no module declares these", &found);
}

/// Whether a parent of the file has `mod NAME;` for it. `foo/mod.rs` is declared where `foo.rs` would be.
fn is_declared(path: &Path, source: &Path) -> bool {
    let unit = if path.ends_with("mod.rs") { path.parent().unwrap_or(path) } else { path };
    let Some(name) = unit.file_stem().and_then(|stem| stem.to_str()) else { return false };
    let Some(folder) = unit.parent() else { return false };
    let parents = if folder == source {
        vec![folder.join("lib.rs"), folder.join("main.rs")]
    } else {
        vec![folder.join("mod.rs"), folder.with_extension("rs")]
    };
    let declaration = format!("mod {name};");
    parents
        .iter()
        .filter_map(|parent| std::fs::read_to_string(parent).ok())
        .any(|text| text.lines().any(|line| line.trim_end().ends_with(&declaration)))
}
