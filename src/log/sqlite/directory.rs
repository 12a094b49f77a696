//! The data directory, made so that it is still there after a power cut: SQLite syncs the directory in which it makes
//! a file, but a new directory is a name in its parent, and nobody syncs that by itself.

use std::fs::{DirBuilder, File};
use std::io;
use std::path::Path;

/// Makes `dir` and what is missing above it, and syncs each directory that got a new name. Nothing is done to one
/// that exists.
///
/// # Errors
/// Of the operating system.
pub(super) fn make(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(Path::new(""));
    make(parent)?;
    match DirBuilder::new().create(dir) {
        Ok(()) => {}
        // Somebody was faster; what it is will be seen when it is used.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::make;

    #[test]
    fn what_is_missing_is_made_and_what_is_there_stays() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b/c");
        make(&dir).unwrap();
        std::fs::write(dir.join("file"), "x").unwrap();
        make(&dir).unwrap();
        assert!(dir.join("file").exists());
        let error = make(&dir.join("file/d")).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotADirectory);
    }
}
