//! Bytes from outside end in an answer or in an error, never in a panic: replays the kept inputs of each target.
//!
//! The inputs in `corpus/` were kept by the search for new ones, `.ci/fuzz`, which runs the same functions with coverage
//! as its guide (`fuzz/` is its crate). An input that once broke something stays there for ever. Here they run as they
//! are, without instruments, so that everybody's test run holds what the search has found.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]

mod targets;

use std::path::{Path, PathBuf};

/// The kept inputs of a target, in a stable order.
fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn replay(name: &str) {
    let (_, target) = targets::ALL.iter().find(|(known, _)| *known == name).unwrap();
    let paths = corpus(name);
    assert!(!paths.is_empty(), "{name} has no inputs");
    for path in paths {
        let input = std::fs::read(&path).unwrap();
        let tried = std::panic::catch_unwind(|| target(&input));
        assert!(tried.is_ok(), "{} breaks it", path.display());
    }
}

macro_rules! replays {
    ($( $name:ident, )+) => {
        $( #[test] fn $name() { replay(stringify!($name)); } )+

        #[test]
        fn every_target_is_replayed_and_every_folder_has_one() {
            let mut replayed = vec![$( stringify!($name) ),+];
            replayed.sort_unstable();
            let mut known: Vec<&str> = targets::ALL.iter().map(|(name, _)| *name).collect();
            known.sort_unstable();
            assert_eq!(replayed, known);
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
            let entries = std::fs::read_dir(folder).unwrap();
            let mut folders: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            folders.sort_unstable();
            assert_eq!(folders, known);
        }
    };
}

replays!(
    body, query, headers, cursor, stream_id, connection, row, block, rollup, snapshot, import,
    settings,
);
