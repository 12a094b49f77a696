//! What can be chosen of a run. Every choice is printed with the figures.

use std::path::PathBuf;

use crate::work::Work;

/// Measures rollcall and a bare axum server in turn and prints the ratios.
#[derive(Debug, Clone, clap::Parser)]
pub(crate) struct Options {
    /// Rounds of each measurement: A B, A B, ...
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Length of one measurement, after its warm-up of a tenth of that.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) seconds: f64,
    /// Connections, each with one request under way at most.
    #[arg(long, default_value_t = 64)]
    pub(crate) connections: usize,
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
    /// Instances registered to measure memory; 0 leaves that out.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) memory: usize,
    /// Instead of all else: so many long polls wait for one service, and are woken once a round.
    #[arg(long, default_value_t = 0)]
    pub(crate) watchers: usize,
    /// Beside them, so many streams.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) streams: usize,
    /// So many crowds of them come and go, one after the other; what the server keeps of their memory is shown.
    #[arg(long, default_value_t = 2)]
    pub(crate) crowds: usize,
    /// Instead of all else: half, all and twice of what the registry can carry, as a mix of heartbeats, lookups and
    /// questions about the past, over so many connections.
    #[arg(long, default_value_t = 0)]
    pub(crate) overload: usize,
    /// Of that mix, the percentage of questions about the past.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) past: f64,
    /// Of that mix, the percentage of heartbeats.
    #[arg(long, default_value_t = 30.0)]
    pub(crate) heartbeats: f64,
    /// A setting of the registry, as a flag: `--serve=--shed-queue-time=off`.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) serve: Vec<String>,
    /// Instead of all else: so many instances are probed by the registry, by HTTP every 10 s.
    #[arg(long, default_value_t = 0)]
    pub(crate) checks: usize,
    /// Instead of all else: so many instances expire at once, with the guard switched off, while lookups are measured.
    #[arg(long, default_value_t = 0)]
    pub(crate) expiries: usize,
    /// Beside the two, another rollcall binary, such as one built from before a change: measured in turn with them, under
    /// the same load.
    #[arg(long)]
    pub(crate) baseline: Option<PathBuf>,
    /// Whether acknowledged changes are synced: full or normal.
    #[arg(long, default_value = "full")]
    pub(crate) synchronous: String,
    /// Where the registry exports its spans to, over OTLP; without it, nowhere.
    #[arg(long)]
    pub(crate) otlp: Option<String>,
    /// The servers on the first core, the driver on the second (needs `taskset`).
    #[arg(long)]
    pub(crate) pin: bool,
    /// Where the data directories are made; by default on the disk of the build, as a folder in memory would
    /// make syncs free.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    pub(crate) dir: PathBuf,
    /// Writes the figures to this file too.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// A few seconds in total, small: says whether it works, not how fast.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Serves the bodies in this folder: the other server of the comparison.
    #[arg(long, hide = true)]
    pub(crate) bare: Option<PathBuf>,
    /// Cargo passes it to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// The options with those that others imply.
    pub(crate) fn settled(mut self) -> Self {
        if self.quick {
            self.rounds = 1;
            self.seconds = 0.4;
            self.services = self.services.min(50);
            self.memory = self.memory.min(500);
            self.watchers = self.watchers.min(200);
            self.streams = self.streams.min(50);
            self.crowds = 1;
            self.expiries = self.expiries.min(1_000);
            self.overload = self.overload.min(100);
            self.checks = self.checks.min(200);
        }
        if self.only.is_empty() {
            self.only = vec![Work::Lookup, Work::Heartbeat, Work::Registration];
        }
        self
    }
}
