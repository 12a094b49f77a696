//! The shim of `shim.c`: compiled once, and the built program started with it in between.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use tempfile::TempDir;

use super::journal::{self, Image, Op};
use crate::crash::Child;

/// The library; compiled by the first test that needs it.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/disk/shim.c");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join("rollcall-shim.so");
    // Another run of the tests may be using the one that is there: it is replaced in one step.
    let made = folder.join(format!("rollcall-shim-{}.so", std::process::id()));
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(&compiler)
        .args(["-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o"])
        .args([&made, &source])
        .args(["-ldl", "-lpthread"])
        .status();
    let status = status.unwrap_or_else(|error| panic!("{compiler} can't be run: {error}"));
    assert!(status.success(), "the shim does not compile: {status}");
    std::fs::rename(&made, &library).unwrap();
    library
});

/// A disk of its own for one run of the program.
pub(super) struct Disk {
    folder: TempDir,
}

impl Disk {
    /// A disk that holds `image`.
    pub(super) fn of(image: &Image) -> Self {
        let disk = Self { folder: TempDir::new().unwrap() };
        std::fs::create_dir(disk.root()).unwrap();
        image.store(&disk.root());
        disk
    }

    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// The data directory of the registry, which it makes itself.
    pub(super) fn data(&self) -> PathBuf {
        self.root().join("data")
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    pub(super) fn operations(&self) -> Vec<Op> {
        journal::read(&self.journal())
    }

    /// The program with the shim in between, to be run on this disk with these settings.
    fn command(&self, settings: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(self.data());
        command.args(settings);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        command.env("LD_PRELOAD", &*LIBRARY).env("POWERCUT_ROOT", self.root());
        command
    }

    /// Starts a registry that loses its power after so many operations of a kind: `wal:17`, or never. Each sync takes
    /// up to `delay_us`.
    pub(super) fn serve_until(&self, cut: Option<&str>, delay_us: u64, settings: &[&str]) -> Child {
        let mut command = self.command(settings);
        command.env("POWERCUT_JOURNAL", self.journal());
        command.env("POWERCUT_DELAY_US", delay_us.to_string());
        command.envs(cut.map(|cut| ("POWERCUT_AT", cut)));
        Child::spawn(command)
    }

    /// Starts a registry on a disk that can be made to fail.
    pub(super) fn serve(&self, settings: &[&str]) -> (Child, Switches) {
        let switches = Switches { path: self.folder.path().join("switches") };
        std::fs::write(&switches.path, [0; 4_096]).unwrap();
        let mut command = self.command(settings);
        command.env("POWERCUT_SWITCHES", &switches.path);
        command.env("POWERCUT_JOURNAL", self.journal());
        (Child::spawn(command), switches)
    }
}

/// How a disk fails from now on.
pub(super) struct Switches {
    path: PathBuf,
}

impl Switches {
    fn set(&self, place: u64, value: u32) {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::options().write(true).open(&self.path).unwrap();
        file.write_all_at(&value.to_le_bytes(), place * 4).unwrap();
    }

    fn get(&self, place: usize) -> u32 {
        let bytes = std::fs::read(&self.path).unwrap();
        u32::from_le_bytes(bytes[place * 4..place * 4 + 4].try_into().unwrap())
    }

    /// Every write fails with this error of the system; 0 = none does.
    pub(super) fn fail_writes(&self, errno: rustix::io::Errno) {
        self.set(0, u32::try_from(errno.raw_os_error()).unwrap());
    }

    /// Every sync fails with it.
    pub(super) fn fail_syncs(&self, errno: rustix::io::Errno) {
        self.set(1, u32::try_from(errno.raw_os_error()).unwrap());
    }

    /// Every sync takes so long.
    pub(super) fn slow_syncs(&self, millis: u32) {
        self.set(2, millis);
    }

    /// Nothing fails any more.
    pub(super) fn heal(&self) {
        for place in 0..3 {
            self.set(place, 0);
        }
    }

    /// Writes and syncs that failed so far.
    pub(super) fn refused(&self) -> (u32, u32) {
        (self.get(3), self.get(4))
    }
}
