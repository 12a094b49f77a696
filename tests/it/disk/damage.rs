//! Bits flip, sectors turn to zeros, files end too early, anywhere in the database and its write-ahead log. Whoever
//! starts on that finds a state that once was, or is told what is wrong and where. Never does it find another one.
//!
//! The history is known: a registry made it, and every state of it was folded from the undamaged file. Damage in the
//! database leaves the last state or a refusal. A write-ahead log ends, for SQLite, where its checksums do not fit any
//! more: what was written to it afterwards is gone, and the state is one before that.

use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use rollcall::app;
use rollcall::clock::ManualClock;
use rollcall::config::Settings;
use rollcall::domain::{Instance, Registry, Seq, ServiceKey};
use rollcall::log::ChangeLog as _;
use rollcall::log::Snapshot;
use rollcall::log::sqlite::{SqliteLog, Synchronous};
use rollcall::log::verify::verify;
use rollcall::projection::Projection;
use rollcall::registrar::{Config, Telemetry, start};
use rollcall::telemetry::spans::Tracer;
use rollcall::watch::Hub;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::journal::Image;
use crate::crash::Child;
use crate::harness::{PATIENCE, START, eventually, sql};
use crate::lines;

const DATABASE: &str = "rollcall.db";
const WAL: &str = "rollcall.db-wal";

/// What readers of a registry see: each service with its revision and its instances.
type Shown = Vec<(ServiceKey, Seq, Vec<Arc<Instance>>)>;

/// A log as it lies on a disk, with all that was ever true.
struct History {
    files: Image,
    /// What was shown at each version.
    shown: Vec<Shown>,
}

fn shown(registry: &Registry) -> Shown {
    let service = |(key, service): (&ServiceKey, &rollcall::domain::registry::Service)| {
        (key.clone(), service.revision, service.instances.values().cloned().collect())
    };
    registry.services().map(service).collect()
}

impl History {
    /// A registry lives for a while and is killed: snapshots, segments and roll-ups are in its database, and some of
    /// its changes only in the write-ahead log.
    async fn make() -> Self {
        let data = TempDir::new().unwrap();
        let child = Child::serve_with(&data, &["--snapshot-every=30", "--checkpoint-every=25"]);
        let child = child.ready().await;
        let http = reqwest::Client::new();
        let put = async |number: u32| {
            let url =
                format!("{}/v1/services/s{}/instances/i{}", child.url, number % 5, number % 23);
            let body = json!({"address": "10.0.0.1", "port": 1 + number, "ttl": "24h",
                              "metadata": {"number": number.to_string(), "text": "x".repeat(200)}});
            let put = http.put(&url).header("content-type", "application/json");
            assert!(put.body(body.to_string()).send().await.unwrap().status().is_success());
            assert!(
                http.put(format!("{url}/heartbeat")).send().await.unwrap().status().is_success()
            );
            if number % 6 == 5 {
                assert!(http.delete(&url).send().await.unwrap().status().is_success());
            }
        };
        for number in 0..200 {
            put(number).await;
        }
        let count = async |table: &str| {
            let rows = sql(data.path(), &format!("SELECT count(*) FROM {table}"));
            rows[0][0].as_u64().unwrap()
        };
        eventually("a snapshot", async || count("snapshots").await, |rows| *rows > 0).await;
        let database = data.path().join(DATABASE);
        let content = || std::fs::read(&database).unwrap();
        let size = async || std::fs::metadata(&database).map_or(0, |file| file.len());
        eventually("a checkpoint", size, |bytes| *bytes > 100_000).await;
        for number in 200..210 {
            put(number).await;
        }
        // Whoever reads keeps the write-ahead log from starting anew: what a checkpoint moves from now on stays in it
        // too, before what is in it alone. An old page there must not stand in for a newer one in the database.
        let reader = rusqlite::Connection::open(&database).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM changes").unwrap();
        let before = content();
        eventually("a second checkpoint", async || content(), |now| *now != before).await;
        for number in 210..225 {
            put(number).await;
        }
        // The last change is one that is seen, so that no other version shows the same.
        put(225).await;
        child.kill();
        let files = Image::load(data.path());
        drop(reader);
        let shown = Self::fold(&data);
        Self { files, shown }
    }

    fn fold(data: &TempDir) -> Vec<Shown> {
        let mut log = SqliteLog::open(data.path(), Synchronous::Full, "history").unwrap();
        let mut state = Snapshot::default();
        let mut all = vec![shown(&state.registry)];
        for change in log.read(Seq(1), 100_000).unwrap() {
            state.fold(&change);
            all.push(shown(&state.registry));
        }
        assert!(all.len() > 100, "{} versions", all.len());
        all
    }

    fn file(&self, name: &str) -> &[u8] {
        self.files.0[name].as_deref().unwrap()
    }
}

/// One damage: to which file, and what it holds afterwards.
#[derive(Clone)]
struct Damage {
    what: String,
    file: &'static str,
    content: Vec<u8>,
}

impl Damage {
    fn flip(history: &History, file: &'static str, at: usize, bit: u8) -> Self {
        let mut content = history.file(file).to_vec();
        content[at] ^= 1 << bit;
        Self { what: format!("bit {bit} of byte {at} of {file} flipped"), file, content }
    }

    fn cut(history: &History, file: &'static str, length: usize) -> Self {
        let content = history.file(file)[..length].to_vec();
        Self { what: format!("{file} ends after {length} bytes"), file, content }
    }

    fn zero(history: &History, file: &'static str, sector: usize) -> Self {
        let mut content = history.file(file).to_vec();
        let end = content.len().min((sector + 1) * 512);
        content[sector * 512..end].fill(0);
        Self { what: format!("sector {sector} of {file} is zeros"), file, content }
    }

    fn random(history: &History, random: &mut Rng) -> Self {
        let file = *random.choice(&[DATABASE, DATABASE, WAL]).unwrap();
        let length = history.file(file).len();
        match random.u8(0..8) {
            0 => Self::cut(history, file, random.usize(0..length)),
            1 => Self::zero(history, file, random.usize(0..length / 512)),
            // The first page says what kind of file it is and where its tables begin.
            2 => Self::flip(history, file, random.usize(0..4_096), random.u8(0..8)),
            // What a table is made of stands in the file as text, on pages that everything else rests on.
            3 => {
                let content = history.file(DATABASE);
                let word = b"CREATE ";
                let begins = |at: &usize| content[*at..].starts_with(word);
                let definitions: Vec<usize> = (0..content.len()).filter(begins).collect();
                let at = random.choice(&definitions).unwrap() + random.usize(0..400);
                Self::flip(history, DATABASE, at.min(content.len() - 1), random.u8(0..8))
            }
            _ => Self::flip(history, file, random.usize(0..length), random.u8(0..8)),
        }
    }

    /// Each byte, a bit of it; each sector; each length at a sector's edge, and one byte less.
    fn every(history: &History) -> impl Iterator<Item = Self> + '_ {
        [DATABASE, WAL].into_iter().flat_map(move |file| {
            let length = history.file(file).len();
            let flips = (0..length)
                .map(move |at| Self::flip(history, file, at, u8::try_from(at * 5 % 8).unwrap()));
            let zeros = (0..length / 512).map(move |sector| Self::zero(history, file, sector));
            let lengths = (0..length / 512).flat_map(|sector| [sector * 512, sector * 512 + 511]);
            flips.chain(zeros).chain(lengths.map(move |length| Self::cut(history, file, length)))
        })
    }
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Starts on these files; gives what is shown, or the whole reason why nothing is.
async fn start_on(files: &Path) -> Result<Shown, String> {
    let log = match SqliteLog::open(files, Synchronous::Normal, "damage") {
        Ok(log) => log,
        Err(error) => return Err(chain(&error)),
    };
    let projection = Arc::new(Projection::default());
    let telemetry =
        Telemetry { metrics: app::metrics(&Settings::default()), tracer: Tracer::off() };
    let hub = Hub::new(Arc::clone(&projection));
    let clock = ManualClock::new(START);
    let view = Arc::clone(&projection);
    let running =
        start(Box::new(log), projection, hub, clock, telemetry, &Config::default()).unwrap();
    tokio::time::timeout(PATIENCE, running.readiness.settled()).await.expect("it starts or not");
    running.stop().map_err(|error| chain(&error))?;
    let (_, views) = view.views(None);
    let row = |view: &Arc<rollcall::projection::ServiceView>| {
        let instances = view.entries.iter().map(|entry| Arc::clone(entry.instance)).collect();
        (view.key.clone(), view.revision, instances)
    };
    let mut shown: Shown = views.iter().map(row).collect();
    shown.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(shown)
}

/// What became of a damaged log.
enum Outcome {
    /// The last state was shown.
    Last,
    /// An earlier one was.
    Earlier,
    /// Nothing was, for this reason.
    Refused(String),
}

/// Puts a damaged log somewhere, starts on it, and holds what is shown against the history.
async fn try_out(history: Arc<History>, damage: Damage) -> Result<Outcome, String> {
    let place = TempDir::new_in(memory()).unwrap();
    let mut files = history.files.clone();
    files.0.insert(damage.file.to_owned(), Some(damage.content.clone()));
    files.store(place.path());
    // It is for reading only, and ends whatever it finds.
    let found = verify(place.path(), |_| {});
    let state = start_on(place.path()).await;
    let last = history.shown.last().unwrap();
    match state {
        Err(reason) if reason.is_empty() => Err("refused without a reason".to_owned()),
        Err(reason) => Ok(Outcome::Refused(reason)),
        Ok(state) if state == *last => Ok(Outcome::Last),
        Ok(state) if !history.shown.contains(&state) => Err("shows what never was".to_owned()),
        Ok(_) if damage.file == DATABASE => Err("shows an earlier state".to_owned()),
        Ok(_) => match found {
            Ok(report) if report.is_clean() => Ok(Outcome::Earlier),
            Ok(report) => Err(format!(
                "shows an earlier state of a log that is not whole: {:?}",
                report.findings
            )),
            Err(error) => Err(format!("shows an earlier state, where verify says: {error}")),
        },
    }
}

/// Where small files cost nothing, if there is such a place.
fn memory() -> std::path::PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

/// A refusal says where: a change, a block, a snapshot, or the file whose structure is broken.
fn names_a_place(reason: &str) -> bool {
    ["change ", "snapshot ", "block ", "rollcall.db", "state before", "instance ", "service "]
        .iter()
        .any(|place| reason.contains(place))
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_anywhere_never_shows_a_state_that_was_not() {
    // The registrar's thread belongs to no test: what it says of damage is expected from now on.
    lines::expect(&["is damaged", "the log cannot be written", "the log is written again"]);
    let history = Arc::new(History::make().await);
    let whole = try_out(
        Arc::clone(&history),
        Damage { what: "nothing".into(), file: WAL, content: history.file(WAL).to_vec() },
    );
    assert!(matches!(whole.await, Ok(Outcome::Last)), "the undamaged log shows the last state");

    let wish = std::env::var("ROLLCALL_DAMAGE").unwrap_or_default();
    let mut random = Rng::with_seed(wish.parse().unwrap_or(23));
    let count = wish.parse().unwrap_or(100);
    let all: Box<dyn Iterator<Item = Damage> + Send> = match wish.as_str() {
        "all" => Box::new(Damage::every(&history)),
        _ => Box::new((0..count).map(|_| Damage::random(&history, &mut random))),
    };
    let (mut last, mut earlier, mut refused, mut tried) = (0, 0, 0, 0);
    let (mut wrong, mut placeless) = (Vec::new(), Vec::new());
    let mut trials = JoinSet::new();
    for damage in all.map(Some).chain([None, None]) {
        if let Some(damage) = damage {
            let history = Arc::clone(&history);
            let what = damage.what.clone();
            trials.spawn(async move {
                (what, JoinSet::from_iter([try_out(history, damage)]).join_next().await)
            });
            tried += 1;
            if trials.len() < 2 {
                continue;
            }
        }
        let Some(done) = trials.join_next().await else { break };
        let (what, outcome) = done.unwrap();
        match outcome.unwrap() {
            Ok(Ok(Outcome::Last)) => last += 1,
            Ok(Ok(Outcome::Earlier)) => earlier += 1,
            Ok(Ok(Outcome::Refused(reason))) => {
                refused += 1;
                if !names_a_place(&reason) {
                    placeless.push(format!("{what}: {reason}"));
                }
            }
            Ok(Err(error)) => wrong.push(format!("{what}: {error}")),
            Err(panic) => wrong.push(format!("{what}: {panic}")),
        }
    }
    println!(
        "{tried} damages: {last} showed the last state, {earlier} an earlier one, {refused} were refused"
    );
    let few = |found: &[String]| found.iter().take(40).cloned().collect::<Vec<_>>().join("\n  ");
    assert!(wrong.is_empty(), "{} wrong:\n  {}", wrong.len(), few(&wrong));
    assert!(placeless.is_empty(), "{} without a place:\n  {}", placeless.len(), few(&placeless));
    assert!(last > 0 && earlier > 0 && (refused > 0 || tried < 500), "not everything was tried");
}
