//! A data directory that is being made: of a backup, or of an export.
//!
//! The database is built under another name and gets its own when it is whole and on the disk. If that does not come
//! about, the directory is left as it was found. Called by [`super::backup`] and [`super::import`].

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{DirLock, FILE, LOCK, directory};

/// What is added to the name of a file that is not whole yet.
const PARTIAL: &str = ".partial";

/// What SQLite puts beside a database.
const COMPANIONS: [&str; 4] = ["", "-journal", "-wal", "-shm"];

/// Why a file or a directory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// There is something already.
    #[error("{path} exists: {remedy}")]
    Exists {
        /// Where.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// The operating system refused.
    #[error("can't {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The directory can't be had.
    #[error(transparent)]
    Lock(#[from] super::OpenError),
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TargetError {
    let path = path.to_owned();
    move |source| TargetError::Io { what, path, source }
}

/// A file that gets its name when it is whole.
#[derive(Debug)]
pub(super) struct PartialFile {
    partial: PathBuf,
    whole: PathBuf,
}

impl PartialFile {
    /// Makes room for a file at `whole`; what an earlier attempt left is removed.
    pub(super) fn new(whole: &Path) -> Self {
        let mut partial = whole.as_os_str().to_owned();
        partial.push(PARTIAL);
        let file = Self { partial: partial.into(), whole: whole.to_owned() };
        file.clear();
        file
    }

    /// Where it is written.
    pub(super) fn path(&self) -> &Path {
        &self.partial
    }

    /// Gives it its name, once it is on the disk.
    pub(super) fn finish(&self) -> Result<(), TargetError> {
        let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
        sync(&self.partial).map_err(io("write", &self.partial))?;
        fs::rename(&self.partial, &self.whole).map_err(io("make", &self.whole))?;
        let folder = self.whole.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        sync(folder).map_err(io("write", folder))
    }

    fn clear(&self) {
        for companion in COMPANIONS {
            let mut path = self.partial.clone().into_os_string();
            path.push(companion);
            // Most of them are not there.
            let _ = fs::remove_file(PathBuf::from(path));
        }
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A data directory whose database is being built.
#[derive(Debug)]
pub(super) struct Target {
    dir: PathBuf,
    /// The folders that were made for it, the outermost first.
    made: Vec<PathBuf>,
    lock: Option<DirLock>,
    file: Option<PartialFile>,
    done: bool,
}

impl Target {
    /// Takes `dir`, which is empty or not there.
    pub(super) fn new(dir: &Path) -> Result<Self, TargetError> {
        if fs::symlink_metadata(dir).is_ok() {
            let mut entries = fs::read_dir(dir).map_err(io("read", dir))?;
            if entries.next().is_some() {
                let remedy = "it must be an empty directory, or one that is not there yet";
                return Err(TargetError::Exists { path: dir.to_owned(), remedy });
            }
        }
        let missing = dir
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && fs::symlink_metadata(path).is_err());
        let mut made: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        made.reverse();
        let mut target = Self { dir: dir.to_owned(), made, lock: None, file: None, done: false };
        directory::make(dir).map_err(io("create", dir))?;
        target.lock = Some(DirLock::take(dir)?);
        target.file = Some(PartialFile::new(&dir.join(FILE)));
        Ok(target)
    }

    /// Where the database is built.
    pub(super) fn path(&self) -> PathBuf {
        let file = self.file.as_ref().map(|file| file.path().to_owned());
        file.unwrap_or_else(|| self.dir.join(FILE))
    }

    /// The database is whole: gives it its name.
    pub(super) fn finish(mut self) -> Result<(), TargetError> {
        if let Some(file) = &self.file {
            file.finish()?;
        }
        self.done = true;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.file = None;
        if self.done {
            return;
        }
        // Only what was made here goes, and a folder only if it is empty: it was found so or not at all.
        let _ = fs::remove_file(self.dir.join(LOCK));
        self.lock = None;
        for made in self.made.iter().rev() {
            let _ = fs::remove_dir(made);
        }
    }
}
