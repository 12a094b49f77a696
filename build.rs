//! Tells the program what it was built from: the commit and the compiler, for `rollcall_build_info`.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=ROLLCALL_REVISION");
    // A path that is not there would rebuild every time. Commits on the same branch do not rebuild either: a
    // clean clone, which releases are built from, has the right one.
    if Path::new(".git/HEAD").exists() {
        println!("cargo::rerun-if-changed=.git/HEAD");
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let revision = std::env::var("ROLLCALL_REVISION").ok();
    let revision = revision.or_else(|| said("git", &["rev-parse", "--short=12", "HEAD"]));
    // Without git, such as in a source archive, it stays unknown.
    for (name, value) in [("REVISION", revision), ("RUSTC", said(&rustc, &["--version"]))] {
        println!("cargo::rustc-env=ROLLCALL_{name}={}", value.as_deref().unwrap_or("unknown"));
    }
}

/// The first line that a program prints, if it runs.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}
