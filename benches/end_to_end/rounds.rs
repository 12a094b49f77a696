//! The order of a run: both servers up, the fleet registered, then each kind of work in turns, and at the end
//! whether everything was counted.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::Failure;
use crate::counters::Ledger;
use crate::http1::Client;
use crate::load::{self, Seen};
use crate::options::Options;
use crate::report::{Measure, Pair, Report, Row};
use crate::servers::{Server, pin_driver};
use crate::work::{Requests, Work};
use crate::{fleet, memory};

/// Pause between measurements, in which the log's last slice is written and the kernel's sockets are closed.
const PAUSE: Duration = Duration::from_millis(250);

/// The two servers and the one who loads them.
struct Bench<'a> {
    options: &'a Options,
    runtime: Runtime,
    rollcall: Server,
    bare: Server,
    ledger: Ledger,
    seed: u64,
}

/// A measurement with what it cost its server.
struct Measured {
    seen: Seen,
    cpu: Option<Duration>,
}

impl Measured {
    /// Processor time for one request, in microseconds.
    fn cpu_micros(&self) -> Option<f64> {
        Some(self.cpu?.as_secs_f64() * 1e6 / self.seen.answered.max(1) as f64)
    }
}

/// Runs everything that `options` ask for.
pub(crate) fn run(options: &Options) -> Result<Report, Failure> {
    if options.pin {
        pin_driver()?;
    }
    let dir = tempfile::tempdir_in(&options.dir)?;
    let rollcall = Server::rollcall(dir.path(), options)?;
    let mut ledger = Ledger::default();
    let registered =
        fleet::register(rollcall.address, options, options.services, options.instances)?;
    ledger.add(Work::Registration, registered);
    keep_bodies(rollcall.address, dir.path(), options, &mut ledger)?;
    let bare = Server::bare(dir.path(), options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut bench = Bench { options, runtime, rollcall, bare, ledger, seed: 1 };
    let mut rows = Vec::new();
    for work in &options.only {
        bench.work(*work, &mut rows)?;
    }
    let Bench { rollcall, ledger, .. } = bench;
    for work in [Work::Lookup, Work::Heartbeat, Work::Registration] {
        ledger.check(rollcall.address, work)?;
    }
    rollcall.end()?;
    Ok(Report::new(options, rows, memory::measure(options)?))
}

/// Keeps an answer of each kind for the bare server: the very bytes of the registry's.
fn keep_bodies(
    rollcall: SocketAddr,
    dir: &Path,
    options: &Options,
    ledger: &mut Ledger,
) -> Result<(), Failure> {
    let mut client = Client::open(rollcall)?;
    for work in [Work::Lookup, Work::Heartbeat, Work::Registration] {
        let answer = client.exchange(Requests::new(work, options, 0).next())?;
        ledger.add(work, 1);
        if !matches!(answer.status, 200 | 201) {
            return Err(format!("a {} was answered {}", work.name(), answer.status).into());
        }
        std::fs::write(dir.join(work.file()), client.body(&answer))?;
    }
    Ok(())
}

impl Bench<'_> {
    /// One kind of work: its highest rate, then its latency at shares of that.
    fn work(&mut self, work: Work, rows: &mut Vec<Row>) -> Result<(), Failure> {
        let closed = |bench: &mut Self, server| bench.closed(work, server);
        let mut rounds = self.in_turn(&format!("{}, closed loop", work.name()), closed)?;
        let rates = pairs(&mut rounds, |m| Some(m.seen.rate()));
        let highest = Row::median(rates.iter().map(|pair| pair.rollcall));
        rows.push(Row::new(work, Measure::Rate, rates));
        rows.push(Row::new(work, Measure::Cpu, pairs(&mut rounds, |m| m.cpu_micros())));
        for load in &self.options.load {
            let rate = highest * f64::from(*load) / 100.0;
            let open = |bench: &mut Self, server| bench.open(work, rate, server);
            let mut rounds = self.in_turn(&format!("{}, {rate:.0} a second", work.name()), open)?;
            for (measure, share) in
                [(Measure::P50, 0.5), (Measure::P99, 0.99), (Measure::P999, 0.999)]
            {
                let values = pairs(&mut rounds, |m| Some(m.seen.quantile(share)));
                rows.push(Row::new(work, measure, values).at_load(*load));
            }
        }
        Ok(())
    }

    /// A B A B ..., as often as there are rounds.
    fn in_turn(
        &mut self,
        what: &str,
        measure: impl Fn(&mut Self, Which) -> Result<Measured, Failure>,
    ) -> Result<Vec<[Measured; 2]>, Failure> {
        let mut rounds = Vec::new();
        for round in 1..=self.options.rounds {
            // Progress only: where nobody reads, nothing is lost.
            let _ = writeln!(std::io::stderr(), "{what}: round {round} of {}", self.options.rounds);
            let rollcall = measure(self, Which::Rollcall)?;
            std::thread::sleep(PAUSE);
            let bare = measure(self, Which::Bare)?;
            std::thread::sleep(PAUSE);
            rounds.push([rollcall, bare]);
        }
        Ok(rounds)
    }

    fn closed(&mut self, work: Work, which: Which) -> Result<Measured, Failure> {
        let seed = self.next_seed();
        self.measured(work, which, |bench, address| {
            load::closed(&bench.runtime, address, work, bench.options, seed)
        })
    }

    fn open(&mut self, work: Work, rate: f64, which: Which) -> Result<Measured, Failure> {
        let seed = self.next_seed();
        self.measured(work, which, |bench, address| {
            load::open(&bench.runtime, address, work, rate, bench.options, seed)
        })
    }

    fn measured(
        &mut self,
        work: Work,
        which: Which,
        load: impl FnOnce(&Self, SocketAddr) -> Result<Seen, Failure>,
    ) -> Result<Measured, Failure> {
        let server = match which {
            Which::Rollcall => &self.rollcall,
            Which::Bare => &self.bare,
        };
        let before = server.cpu();
        let seen = load(self, server.address)?;
        let cpu = server.cpu().zip(before).map(|(after, before)| after - before);
        if which == Which::Rollcall {
            self.ledger.add(work, seen.answered);
        }
        Ok(Measured { seen, cpu })
    }

    /// Every measurement has requests of its own; the seeds of its connections follow from the first.
    fn next_seed(&mut self) -> u64 {
        self.seed += self.options.connections as u64;
        self.seed
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Rollcall,
    Bare,
}

/// One figure of both servers, for each round in which both have it.
fn pairs(rounds: &mut [[Measured; 2]], figure: impl Fn(&mut Measured) -> Option<f64>) -> Vec<Pair> {
    let pair = |[rollcall, bare]: &mut [Measured; 2]| {
        Some(Pair { rollcall: figure(rollcall)?, bare: figure(bare)? })
    };
    rounds.iter_mut().filter_map(pair).collect()
}
