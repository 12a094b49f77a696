//! kill -9 at random instants under load: no acknowledged change lost, no hole and no repeat, `verify` clean.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rollcall::log::verify::verify;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::{eventually, sql};

/// The built program, running; killed when dropped.
pub(crate) struct Child {
    process: std::process::Child,
    pub(crate) url: String,
}

impl Child {
    /// Starts `command` and reads the URL from its first line.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        let stdout = process.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        Self { process, url: line.trim().to_owned() }
    }

    /// Starts a registry on `data`.
    pub(crate) fn serve(data: &TempDir) -> Self {
        Self::serve_at(data, 0)
    }

    /// The same on a port of its own.
    pub(crate) fn serve_at(data: &TempDir, port: u16) -> Self {
        Self::start(data, port, &[])
    }

    /// The same with these settings.
    pub(crate) fn serve_with(data: &TempDir, settings: &[&str]) -> Self {
        Self::start(data, 0, settings)
    }

    fn start(data: &TempDir, port: u16, settings: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data"]);
        command.arg(data.path()).args(settings);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        Self::spawn(command)
    }

    /// Waits until its replay is done.
    pub(crate) async fn ready(self) -> Self {
        let url = format!("{}/readyz", self.url);
        let status = async || reqwest::get(&url).await.unwrap().status().as_u16();
        eventually("the registry is ready", status, |status| *status == 200).await;
        self
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// SIGTERM if it still runs; whether it came to its end in order.
    pub(crate) fn end(mut self) -> bool {
        // It may have gone this very moment.
        let _ = kill_process(self.pid(), Signal::TERM);
        self.process.wait().unwrap().success()
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGTERM, and the status 0 that must follow.
    pub(crate) fn terminate(mut self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail if it has ended already, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Cycles: few here; the end-to-end run sets 50.
fn cycles() -> usize {
    std::env::var("ROLLCALL_CRASH_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(4)
}

/// Cycles on one log; then another begins, since each cycle reads the whole of it.
const CYCLES_PER_LOG: usize = 50;

/// What the clients know: the highest version acknowledged, how many requests were answered.
#[derive(Default)]
struct Known {
    acknowledged: AtomicU64,
    answered: AtomicU64,
    stop: AtomicBool,
}

/// Registers, beats and looks up as fast as it goes, until the registry is gone.
async fn client(url: String, number: usize, cycle: usize, known: Arc<Known>) {
    let http = reqwest::Client::new();
    let instance = format!("{url}/v1/services/s{}/instances/i{number}", number % 7);
    for turn in 0.. {
        let request = match turn % 4 {
            0 => {
                let body = json!({"address": "10.0.0.1", "port": 1 + turn % 9, "metadata": {"cycle": cycle.to_string()}});
                http.put(&instance)
                    .header("content-type", "application/json")
                    .body(body.to_string())
            }
            1 | 2 => http.put(format!("{instance}/heartbeat")),
            _ => http.get(format!("{url}/v1/services/s{}/instances", number % 7)),
        };
        let Ok(answer) = request.send().await else { return };
        let seq =
            answer.headers().get("rollcall-seq").and_then(|seq| seq.to_str().ok()?.parse().ok());
        if turn % 4 == 0 && answer.status().is_success() {
            known.acknowledged.fetch_max(seq.unwrap(), Ordering::SeqCst);
        }
        known.answered.fetch_add(1, Ordering::SeqCst);
        if known.stop.load(Ordering::SeqCst) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing_that_was_acknowledged() {
    let mut data = TempDir::new().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let (mut answered, mut loaded) = (0, Duration::ZERO);
    for cycle in 0..cycles() {
        if cycle > 0 && cycle % CYCLES_PER_LOG == 0 {
            println!("{cycle} kills, nothing lost");
            data = TempDir::new().unwrap();
        }
        let child = Child::serve(&data).ready().await;
        let known = Arc::new(Known::default());
        let mut clients = JoinSet::new();
        for number in 0..16 {
            clients.spawn(client(child.url.clone(), number, cycle, Arc::clone(&known)));
        }
        let target = 200 + random.u64(0..1_500);
        let begun = tokio::time::Instant::now();
        while known.answered.load(Ordering::SeqCst) < target {
            assert!(begun.elapsed() < Duration::from_secs(60), "no load comes about");
            tokio::time::sleep(Duration::from_micros(random.u64(100..3_000))).await;
        }
        loaded += begun.elapsed();
        child.kill();
        answered += known.answered.load(Ordering::SeqCst);
        known.stop.store(true, Ordering::SeqCst);
        clients.join_all().await;
        let rows = sql(data.path(), "SELECT max(seq), count(*) FROM changes");
        let (head, count) = (rows[0][0].as_u64().unwrap(), rows[0][1].as_u64().unwrap());
        let acknowledged = known.acknowledged.load(Ordering::SeqCst);
        assert!(
            head >= acknowledged,
            "cycle {cycle}: {acknowledged} was acknowledged, the log ends at {head}"
        );
        assert_eq!(head, count, "cycle {cycle}: a hole");
        let report = verify(data.path(), |_| {}).unwrap();
        assert!(report.is_clean(), "cycle {cycle}: {report:?}");
    }
    let rate = f64::from(u32::try_from(answered).unwrap()) / loaded.as_secs_f64();
    println!("{} kills under {rate:.0} requests a second, each of them an event", cycles());
}
