//! The order of a run: both servers up, the fleet registered, then each kind of work in turns, and at the end
//! whether everything was counted.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::Failure;
use crate::counters::Ledger;
use crate::http1::Client;
use crate::load::{self, Seen};
use crate::options::Options;
use crate::report::{Figures, Measure, Report, Row};
use crate::servers::{Server, pin_driver};
use crate::work::{Requests, Work};
use crate::{fleet, memory};

/// Pause between measurements, in which the kernel's sockets are closed.
const PAUSE: Duration = Duration::from_millis(250);

/// How long a registry is left alone after a measurement of it. What it has put off (the log's last slice, a turn of the
/// keeper, which looks once a second) is done in this time, so that it counts as its own and disturbs nobody else's.
const PUT_OFF: Duration = Duration::from_millis(1_500);

/// A registry, and what it was sent.
struct Registry {
    server: Server,
    ledger: Ledger,
    /// Its data.
    _dir: TempDir,
}

/// The servers and the one who loads them.
struct Bench<'a> {
    options: &'a Options,
    runtime: Runtime,
    rollcall: Registry,
    baseline: Option<Registry>,
    bare: Server,
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
    let bodies = tempfile::tempdir_in(&options.dir)?;
    let started = |start: &dyn Fn(&Path) -> Result<Server, Failure>| {
        let dir = tempfile::tempdir_in(&options.dir)?;
        let server = start(dir.path())?;
        let mut ledger = Ledger::default();
        let (services, instances) = (options.services, options.instances);
        let registered = fleet::register(server.address, options, services, instances)?;
        ledger.add(Work::Registration, registered);
        // The answers are alike but for their times; those of the last one are kept.
        keep_bodies(server.address, bodies.path(), options, &mut ledger)?;
        Ok::<_, Failure>(Registry { server, ledger, _dir: dir })
    };
    let baseline = options.baseline.as_deref();
    let baseline = baseline
        .map(|binary| started(&|dir| Server::baseline(binary, dir, options)))
        .transpose()?;
    let rollcall = started(&|dir| Server::rollcall(dir, options))?;
    let bare = Server::bare(bodies.path(), options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut bench = Bench { options, runtime, rollcall, baseline, bare, seed: 1 };
    let mut rows = Vec::new();
    for work in &options.only {
        bench.work(*work, &mut rows)?;
    }
    let Bench { rollcall, baseline, .. } = bench;
    for Registry { server, ledger, _dir } in baseline.into_iter().chain([rollcall]) {
        for work in [Work::Lookup, Work::Heartbeat, Work::Registration] {
            ledger.check(server.address, work)?;
        }
        server.end()?;
    }
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
        let rates = figures(&mut rounds, |m| Some(m.seen.rate()));
        let highest = Row::median(rates.iter().map(|figures| figures.rollcall));
        rows.push(Row::new(work, Measure::Rate, rates));
        rows.push(Row::new(work, Measure::Cpu, figures(&mut rounds, |m| m.cpu_micros())));
        for load in &self.options.load {
            let rate = highest * f64::from(*load) / 100.0;
            let open = |bench: &mut Self, server| bench.open(work, rate, server);
            let mut rounds = self.in_turn(&format!("{}, {rate:.0} a second", work.name()), open)?;
            for (measure, share) in
                [(Measure::P50, 0.5), (Measure::P99, 0.99), (Measure::P999, 0.999)]
            {
                let values = figures(&mut rounds, |m| Some(m.seen.quantile(share)));
                rows.push(Row::new(work, measure, values).at_load(*load));
            }
        }
        Ok(())
    }

    /// A B A B ..., as often as there are rounds. A baseline is measured before and after the registry by turns: who comes
    /// first must not be better off.
    fn in_turn(
        &mut self,
        what: &str,
        measure: impl Fn(&mut Self, Which) -> Result<Measured, Failure>,
    ) -> Result<Vec<Round>, Failure> {
        let mut rounds = Vec::new();
        for round in 1..=self.options.rounds {
            // Progress only: where nobody reads, nothing is lost.
            let _ = writeln!(std::io::stderr(), "{what}: round {round} of {}", self.options.rounds);
            let mut baseline = None;
            if self.baseline.is_some() && round % 2 == 0 {
                baseline = Some(measure(self, Which::Baseline)?);
            }
            let rollcall = measure(self, Which::Rollcall)?;
            if self.baseline.is_some() && round % 2 == 1 {
                baseline = Some(measure(self, Which::Baseline)?);
            }
            let bare = measure(self, Which::Bare)?;
            rounds.push(Round { rollcall, baseline, bare });
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
        let before = self.server(which).cpu();
        let seen = load(self, self.server(which).address)?;
        std::thread::sleep(if which == Which::Bare { PAUSE } else { PUT_OFF });
        let cpu = self.server(which).cpu().zip(before).map(|(after, before)| after - before);
        match (which, &mut self.baseline) {
            (Which::Rollcall, _) => self.rollcall.ledger.add(work, seen.answered),
            (Which::Baseline, Some(baseline)) => baseline.ledger.add(work, seen.answered),
            (Which::Baseline, None) | (Which::Bare, _) => {}
        }
        Ok(Measured { seen, cpu })
    }

    fn server(&self, which: Which) -> &Server {
        match (which, &self.baseline) {
            (Which::Bare, _) => &self.bare,
            (Which::Baseline, Some(baseline)) => &baseline.server,
            (Which::Rollcall | Which::Baseline, _) => &self.rollcall.server,
        }
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
    Baseline,
    Bare,
}

/// One measurement of each server.
struct Round {
    rollcall: Measured,
    baseline: Option<Measured>,
    bare: Measured,
}

/// One figure of the servers, for each round in which they have it.
fn figures(rounds: &mut [Round], figure: impl Fn(&mut Measured) -> Option<f64>) -> Vec<Figures> {
    let one = |round: &mut Round| {
        Some(Figures {
            rollcall: figure(&mut round.rollcall)?,
            baseline: round.baseline.as_mut().and_then(&figure),
            bare: figure(&mut round.bare)?,
        })
    };
    rounds.iter_mut().filter_map(one).collect()
}
