//! Reads the repository as text and holds it to its own rules: what no compiler checks, and no reader should
//! have to.
//!
//! It starts nothing and asks no network. [`tree`] reads sources and documents, [`dashboards`] the dashboards
//! with what they lean on (the table of metric names, Grafana's provisioning, the compose file), [`detectors`] a table of figures, [`signals`] the
//! page of all signals and the rules of Prometheus, [`spans`] what they say of spans, [`lines`] the fields of log lines, and [`promql`] takes their expressions apart. Whether an expression returns data is another question; the end-to-end run
//! answers it with a real Prometheus.

mod dashboards;
mod detectors;
mod lines;
mod promql;
mod signals;
mod spans;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

/// The top of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file that must be there.
fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder, in a stable order, without what builds and runs leave behind.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    const LEFT_BEHIND: [&str; 3] = [".git", "target", "rollcall-data"];
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if LEFT_BEHIND.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// A path as it is written in the repository.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Fails with all that was found, not only the first: one run shows everything that is to be done.
#[track_caller]
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}
