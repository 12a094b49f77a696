//! What can be chosen of a run. Every choice is printed with the figures.

use std::path::PathBuf;

use crate::Failure;
use crate::work::{BATCH, Work};

/// Connections at which everything is measured unless others are asked for.
const CONNECTIONS: usize = 64;

/// Whether servers and driver have a core each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cores {
    /// Everybody runs where the system puts him.
    Shared,
    /// The servers on the first core, the driver on the second (needs `taskset`).
    Apart,
}

/// Measures rollcall and two bare servers in turn and prints the ratios; or, with one of the modes, something else of
/// rollcall beside its limit.
#[derive(Debug, Clone, clap::Parser)]
pub(crate) struct Options {
    /// Rounds of each measurement: A B C, A B C, ...
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Length of one measurement, after its warm-up of a tenth of that.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Connections, each with one request under way at most; a list measures all work at each. Without it, all work at
    /// 64, and registrations at 1 and 1,000 too.
    #[arg(long, value_delimiter = ',')]
    pub(crate) connections: Vec<usize>,
    /// All work at 1, 64 and 1,000 connections, its latency at 50 and 80 percent of the highest rate: half an hour.
    #[arg(long, conflicts_with_all = ["connections", "load", "quick"])]
    pub(crate) full: bool,
    /// Services registered.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) services: usize,
    /// Instances of each.
    #[arg(long, default_value_t = 5)]
    pub(crate) instances: usize,
    /// Shares of the registry's own highest rate, in percent, at which latency is measured.
    #[arg(long, value_delimiter = ',', default_value = "50")]
    pub(crate) load: Vec<u32>,
    /// Percentage of requests whose caller has sampled them.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) sampled: f64,
    /// Only these kinds of work.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Work>,
    /// Mode: a log of so many changes is replayed without a snapshot, and so many living instances are read from one.
    #[arg(long, default_value_t = 0, value_name = "CHANGES", help_heading = "Modes")]
    pub(crate) start: usize,
    /// Mode: resident memory with so many instances of three tags and three pairs of metadata.
    #[arg(long, default_value_t = 0, value_name = "INSTANCES", help_heading = "Modes")]
    pub(crate) memory: usize,
    /// Mode: so many instances, of which as many beat in batches of 100 as make `--beats`; some die.
    #[arg(long, default_value_t = 0, value_name = "INSTANCES", help_heading = "Modes")]
    pub(crate) scale: usize,
    /// Heartbeats a second with `--scale`.
    #[arg(long, default_value_t = 66_000, help_heading = "Modes")]
    pub(crate) beats: usize,
    /// Mode: one service of so many instances that change while it is looked up.
    #[arg(long, default_value_t = 0, value_name = "INSTANCES", help_heading = "Modes")]
    pub(crate) churn: usize,
    /// Changes a second with `--churn`.
    #[arg(long, default_value_t = 1_000, help_heading = "Modes")]
    pub(crate) changes: usize,
    /// Mode: lookup, registration and expiry with 1,000, 10,000, ... up to so many instances.
    #[arg(long, default_value_t = 0, value_name = "INSTANCES", help_heading = "Modes")]
    pub(crate) growth: usize,
    /// Mode: what a lookup costs more when it is traced, and more when it is sampled too.
    #[arg(long, help_heading = "Modes")]
    pub(crate) tracing: bool,
    /// Mode: bytes on the disk for each of so many lookups, and heartbeats.
    #[arg(long, default_value_t = 0, value_name = "EVENTS", help_heading = "Modes")]
    pub(crate) bytes: usize,
    /// Mode: lookups one by one, pipelined and over HTTP/2; the limit of connections; answers that must not wait for an
    /// acknowledgement.
    #[arg(long, help_heading = "Modes")]
    pub(crate) protocols: bool,
    /// Mode: r-nacos beside rollcall, this binary of it (`cargo install rnacos`).
    #[arg(long, value_name = "BINARY", help_heading = "Modes")]
    pub(crate) nacos: Option<PathBuf>,
    /// Mode: so many long polls wait for one service, and are woken once a round.
    #[arg(long, default_value_t = 0, help_heading = "Modes")]
    pub(crate) watchers: usize,
    /// Beside them, so many streams.
    #[arg(long, default_value_t = 1_000, help_heading = "Modes")]
    pub(crate) streams: usize,
    /// So many crowds of them come and go, one after the other; what the server keeps of their memory is shown.
    #[arg(long, default_value_t = 2, help_heading = "Modes")]
    pub(crate) crowds: usize,
    /// Mode: half, all and twice of what the registry can carry, as a mix of heartbeats, lookups and questions about the
    /// past, over so many connections.
    #[arg(long, default_value_t = 0, help_heading = "Modes")]
    pub(crate) overload: usize,
    /// Of that mix, the percentage of questions about the past.
    #[arg(long, default_value_t = 2.0, help_heading = "Modes")]
    pub(crate) past: f64,
    /// Of that mix, the percentage of heartbeats.
    #[arg(long, default_value_t = 30.0, help_heading = "Modes")]
    pub(crate) heartbeats: f64,
    /// Of that mix, the lookups look through so many instances of a service with a filter that none of them matches:
    /// much work for the registry and little for the driver, which is to last longer. 0: the default answers.
    #[arg(long, default_value_t = 2_000, value_name = "INSTANCES", help_heading = "Modes")]
    pub(crate) searched: usize,
    /// Mode: so many instances are probed by the registry, by HTTP every 10 s.
    #[arg(long, default_value_t = 0, help_heading = "Modes")]
    pub(crate) checks: usize,
    /// Mode: so many instances expire at once, with the guard switched off, while lookups are measured.
    #[arg(long, default_value_t = 0, help_heading = "Modes")]
    pub(crate) expiries: usize,
    /// A setting of the registry, as a flag: `--serve=--shed-queue-time=off`.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) serve: Vec<String>,
    /// Beside the others, another rollcall binary, such as one built from before a change: measured in turn with them,
    /// under the same load.
    #[arg(long)]
    pub(crate) baseline: Option<PathBuf>,
    /// Whether acknowledged changes are synced: full or normal.
    #[arg(long, default_value = "full")]
    pub(crate) synchronous: String,
    /// Where the registry exports its spans to, over OTLP: `own` is a receiver in the driver that takes and forgets
    /// them, `off` exports nothing.
    #[arg(long, default_value = "own", value_name = "own|off|URL")]
    pub(crate) otlp: String,
    /// What `otlp` has become: the URL that the registry is given.
    #[arg(skip)]
    pub(crate) endpoint: Option<String>,
    /// Whether servers and driver share all cores, or have one each.
    #[arg(long, value_enum, default_value_t = Cores::Shared)]
    pub(crate) cores: Cores,
    /// Where the data directories are made; by default on the disk of the build, as a folder in memory would
    /// make syncs free.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    pub(crate) dir: PathBuf,
    /// Writes the figures to this file too, for `benches/plot`.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// A few seconds in total, small: says whether it works, not how fast.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Serves the bodies in this folder: the first other server of the comparison.
    #[arg(long, hide = true)]
    pub(crate) bare: Option<PathBuf>,
    /// That server lets the system gather small answers (no `TCP_NODELAY`).
    #[arg(long, hide = true)]
    pub(crate) bare_nagle: bool,
    /// The same without axum.
    #[arg(long, hide = true)]
    pub(crate) bare_hyper: Option<PathBuf>,
    /// Cargo passes it to every bench.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Options {
    /// The options with those that others imply.
    pub(crate) fn settled(mut self) -> Result<Self, Failure> {
        if self.quick {
            self.rounds = 1;
            self.seconds = self.seconds.min(0.4);
            self.services = self.services.min(200);
            self.instances = self.instances.min(5);
            self.connections = vec![16];
            self.memory = self.memory.min(500);
            self.start = self.start.min(5_000);
            self.scale = self.scale.min(4_000);
            self.beats = self.beats.min(600);
            self.churn = self.churn.min(500);
            self.changes = self.changes.min(200);
            self.growth = self.growth.min(1_000);
            self.bytes = self.bytes.min(2_000);
            self.watchers = self.watchers.min(200);
            self.streams = self.streams.min(50);
            self.crowds = 1;
            self.expiries = self.expiries.min(1_000);
            self.overload = self.overload.min(100);
            self.searched = self.searched.min(100);
            self.checks = self.checks.min(200);
            // A machine that is far too busy refuses lookups, as it should: that is no reason to be red.
            self.serve.push("--shed-queue-time=off".to_owned());
        }
        if self.full {
            self.connections = vec![1, CONNECTIONS, 1_000];
            self.load = vec![50, 80];
        }
        if self.only.is_empty() {
            self.only = Work::ALL.to_vec();
        }
        let fleet = self.services * self.instances;
        if self.only.contains(&Work::Batch) && fleet < BATCH {
            return Err(format!(
                "batches are of {BATCH} heartbeats, so --services times --instances must be as many, was {fleet}; \
                 or leave them out with --only"
            )
            .into());
        }
        // Names would be of several lengths, and the driver's batches are cut by theirs.
        if self.services.max(self.instances) > 100_000 {
            return Err("--services and --instances are at most 100,000".into());
        }
        if self.services * self.instances == 0 || self.connections.contains(&0) || self.rounds == 0
        {
            return Err("--services, --instances, --connections and --rounds begin at 1".into());
        }
        Ok(self)
    }

    /// The most instances that a mode makes.
    pub(crate) fn largest(&self) -> usize {
        self.start.max(self.memory).max(self.scale).max(self.growth)
    }

    /// What is measured over how many connections.
    pub(crate) fn plan(&self) -> Vec<(Work, usize)> {
        let mut plan = Vec::new();
        for work in &self.only {
            let connections = match (self.connections.as_slice(), work) {
                ([], Work::Registration) => [1, CONNECTIONS, 1_000].as_slice(),
                ([], _) => [CONNECTIONS].as_slice(),
                (asked, _) => asked,
            };
            plan.extend(connections.iter().map(|count| (*work, *count)));
        }
        plan
    }
}
