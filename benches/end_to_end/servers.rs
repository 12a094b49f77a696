//! The servers as child processes: how they are started, watched through `/proc` and ended.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Failure;
use crate::http1::Client;
use crate::options::{Cores, Options};
use crate::requests::nacos::list;

/// How often something that is awaited is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often it is looked at before the run counts as broken: half a minute.
pub(crate) const LOOKS_MAX: usize = 1_500;

/// Threads of the registry that decide and write, as the system cuts their names off: the registrar's, and the one that
/// moves the write-ahead log into the file.
const WRITERS: [&str; 2] = ["rollcall-regist", "rollcall-checkp"];

/// Instances that a namespace may have unless it is told otherwise.
const QUOTA: usize = 1_000_000;

/// Linux counts a process's time in hundredths of a second (USER_HZ, the same on every architecture of today).
const TICK: Duration = Duration::from_millis(10);

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts `rollcall serve` with its data in `dir`, waits until it is ready.
    pub(crate) fn rollcall(dir: &Path, options: &Options) -> Result<Self, Failure> {
        Self::registry(env!("CARGO_BIN_EXE_rollcall"), dir, options)
    }

    /// The same with another binary of rollcall.
    pub(crate) fn baseline(binary: &Path, dir: &Path, options: &Options) -> Result<Self, Failure> {
        Self::registry(&binary.to_string_lossy(), dir, options)
    }

    fn registry(binary: &str, dir: &Path, options: &Options) -> Result<Self, Failure> {
        let mut command = pinned(binary, options);
        command.args(["serve", "--listen", "127.0.0.1:0", "--synchronous", &options.synchronous]);
        if options.watchers > 0 {
            let connections = options.watchers + options.streams + 100;
            command.args(["--max-connections", &connections.to_string()]);
        }
        command.args(&options.serve);
        if options.expiries > 0 {
            command.arg("--guard=false");
        }
        // Only where it is needed: an older baseline does not know the flag.
        if options.largest() >= QUOTA {
            command.args(["--max-instances-per-namespace", "off"]);
        }
        command.arg("--data").arg(dir.join("data"));
        // What the shell has set must not change what is measured.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|n| n.starts_with("ROLLCALL_") || n.starts_with("OTEL_")) {
                command.env_remove(name);
            }
        }
        if let Some(endpoint) = &options.endpoint {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        }
        command.stderr(File::create(dir.join("rollcall.log"))?);
        let server = Self::start(command)?;
        let mut client = Client::open(server.address)?;
        // A million instances on a machine that has other things to do.
        let ready = || Ok(client.get("/readyz")?.0 == 200);
        looked_for("rollcall is ready", 10 * LOOKS_MAX, ready)?;
        Ok(server)
    }

    /// Starts r-nacos with its data in `dir`, waits until it answers. It cannot be asked for any free port, so that one is
    /// looked for.
    pub(crate) fn nacos(binary: &Path, dir: &Path, options: &Options) -> Result<Self, Failure> {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let (address, other) = (free()?, free()?);
        let mut command = pinned(&binary.to_string_lossy(), options);
        command
            .env("RNACOS_SDK_HOST", "127.0.0.1")
            .env("RNACOS_HTTP_PORT", address.port().to_string())
            .env("RNACOS_GRPC_PORT", other.port().to_string())
            .env("RNACOS_HTTP_CONSOLE_PORT", "0")
            .env("RNACOS_DATA_DIR", dir.join("data"))
            .env("RUST_LOG", "error")
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("nacos.log"))?);
        let server = Self { child: command.spawn()?, address };
        await_that("r-nacos answers", || {
            let Ok(mut client) = Client::open(address) else { return Ok(false) };
            Ok(client.get(&list("nobody")).is_ok_and(|(status, _)| status == 200))
        })?;
        Ok(server)
    }

    /// Starts this very program as the bare axum server of the bodies in `dir`.
    pub(crate) fn bare(dir: &Path, options: &Options) -> Result<Self, Failure> {
        Self::itself(&["--bare"], dir, options)
    }

    /// The same, but the system may hold small answers back (no `TCP_NODELAY`).
    pub(crate) fn bare_nagle(dir: &Path, options: &Options) -> Result<Self, Failure> {
        Self::itself(&["--bare-nagle", "--bare"], dir, options)
    }

    /// The same as the bare server without axum.
    pub(crate) fn bare_hyper(dir: &Path, options: &Options) -> Result<Self, Failure> {
        Self::itself(&["--bare-hyper"], dir, options)
    }

    fn itself(which: &[&str], dir: &Path, options: &Options) -> Result<Self, Failure> {
        let mut command = pinned(&std::env::current_exe()?.to_string_lossy(), options);
        command.args(which).arg(dir);
        Self::start(command)
    }

    fn start(mut command: Command) -> Result<Self, Failure> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let address = line.trim().strip_prefix("http://").and_then(|text| text.parse().ok());
        match address {
            Some(address) => Ok(Self { child, address }),
            None => {
                let status = child.kill().and_then(|()| child.wait());
                Err(format!("a server began with {line:?} instead of its URL ({status:?})").into())
            }
        }
    }

    /// Processor time used so far; none where there is no `/proc`.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The name in parentheses may hold blanks; user and system time are the 12th and 13th after it.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let user: u32 = fields.next()?.parse().ok()?;
        let system: u32 = fields.next()?.parse().ok()?;
        Some(TICK * (user + system))
    }

    /// Processor time so far of the threads whose name begins so; none where there is no `/proc`. By the nanosecond, but
    /// without the threads that have ended.
    pub(crate) fn cpu_of(&self, thread: &str) -> Option<Duration> {
        let mut sum = Duration::ZERO;
        for entry in std::fs::read_dir(format!("/proc/{}/task", self.child.id())).ok()? {
            let folder = entry.ok()?.path();
            // One that has ended meanwhile is not there any more.
            let Ok(name) = std::fs::read_to_string(folder.join("comm")) else { continue };
            if name.starts_with(thread) {
                let text = std::fs::read_to_string(folder.join("schedstat")).ok()?;
                sum += Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?);
            }
        }
        Some(sum)
    }

    /// The same of the threads that decide and write.
    pub(crate) fn cpu_of_writer(&self) -> Option<Duration> {
        WRITERS.iter().map(|name| self.cpu_of(name)).sum()
    }

    /// Resident memory in bytes; none where there is no `/proc`.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1_024)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) -> Result<(), Failure> {
        let id = self.child.id().to_string();
        match Command::new("kill").args([&format!("-{name}"), &id]).status()? {
            status if status.success() => Ok(()),
            status => Err(format!("kill -{name} ended with {status}").into()),
        }
    }

    /// Asks it to end, as a service manager would, and waits until it has.
    pub(crate) fn end(mut self) -> Result<(), Failure> {
        self.signal("TERM")?;
        await_that("the server has ended", || Ok(self.child.try_wait()?.is_some()))?;
        match self.child.wait()? {
            status if status.success() => Ok(()),
            status => Err(format!("the server ended with {status}").into()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command to run `program`, on the first core if the cores are told apart.
fn pinned(program: &str, options: &Options) -> Command {
    if options.cores == Cores::Shared {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "0", program]);
    command
}

/// Puts this process on the second core. To be called before it has other threads.
pub(crate) fn pin_driver() -> Result<(), Failure> {
    let id = std::process::id().to_string();
    let status = Command::new("taskset")
        .args(["-p", "--cpu-list", "1", &id])
        .stdout(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err("taskset refused to pin the driver".into()) }
}

/// Waits for a condition, within bounds.
pub(crate) fn await_that(
    what: &str,
    holds: impl FnMut() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    looked_for(what, LOOKS_MAX, holds)
}

fn looked_for(
    what: &str,
    looks_max: usize,
    mut holds: impl FnMut() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    for _ in 0..looks_max {
        if holds()? {
            return Ok(());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Err(format!("waited in vain until {what}").into())
}
