//! The order of a run: all servers up, the fleet registered, then each kind of work in turns, and at the end
//! whether everything was counted.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::Failure;
use crate::counters::Ledger;
use crate::http1::Client;
use crate::load::{Load, Seen};
use crate::options::Options;
use crate::report::{self, Figures, Measure, Row};
use crate::requests::{Entrant, Known, Requests, WIDE, WIDE_SERVICES};
use crate::servers::Server;
use crate::sheet::{Sheet, median, progress};
use crate::sink::Sink;
use crate::work::Work;
use crate::{fleet, floors, memory};

/// Pause between measurements, in which the kernel's sockets are closed.
pub(crate) const PAUSE: Duration = Duration::from_millis(250);

/// How long a registry is left alone after a measurement of it. What it has put off (the log's last slice, a turn of the
/// keeper, which looks once a second) is done in this time, so that it counts as its own and disturbs nobody else's.
pub(crate) const PUT_OFF: Duration = Duration::from_millis(1_500);

/// A registry, and what it was sent.
struct Registry {
    server: Server,
    ledger: Ledger,
    known: Arc<Known>,
    /// Its data.
    _dir: TempDir,
}

/// The servers and the one who loads them.
struct Bench<'a> {
    options: &'a Options,
    runtime: Runtime,
    rollcall: Registry,
    baseline: Option<Registry>,
    axum: Server,
    hyper: Server,
    seed: u64,
}

/// A measurement with what it cost its server.
struct Measured {
    seen: Seen,
    cpu: Option<Duration>,
    writer: Option<Duration>,
}

impl Measured {
    /// Some processor time for one request, in microseconds.
    fn micros(&self, time: Option<Duration>) -> Option<f64> {
        Some(time?.as_secs_f64() * 1e6 / self.seen.answered.max(1) as f64)
    }
}

/// Runs everything that `options` ask for, and the floors of it.
pub(crate) fn run(options: &Options, sink: Option<&Sink>) -> Result<(), Failure> {
    let bodies = tempfile::tempdir_in(&options.dir)?;
    let started = |start: &dyn Fn(&Path) -> Result<Server, Failure>| {
        let dir = tempfile::tempdir_in(&options.dir)?;
        let server = start(dir.path())?;
        let mut ledger = Ledger::default();
        let (services, instances) = (options.services, options.instances);
        let fleet = fleet::register(server.address, options, services, instances)?;
        let wide = (WIDE_SERVICES, WIDE);
        let wide = fleet::register_each(server.address, options, wide.0, wide.1, Entrant::wide)?;
        ledger.add(Work::Registration, fleet + wide);
        let known = Known::new(options, tags(server.address, options, &mut ledger)?);
        // The answers are alike but for their times; those of the last one are kept.
        keep_bodies(server.address, bodies.path(), options, &known, &mut ledger)?;
        Ok::<_, Failure>(Registry { server, ledger, known, _dir: dir })
    };
    let baseline = options.baseline.as_deref();
    let baseline = baseline
        .map(|binary| started(&|dir| Server::baseline(binary, dir, options)))
        .transpose()?;
    let rollcall = started(&|dir| Server::rollcall(dir, options))?;
    let axum = Server::bare(bodies.path(), options)?;
    let hyper = Server::bare_hyper(bodies.path(), options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut bench = Bench { options, runtime, rollcall, baseline, axum, hyper, seed: 1 };
    let mut sheet = Sheet::new("rounds", options);
    for (work, connections) in options.plan() {
        bench.work(work, connections, &mut sheet.rows)?;
    }
    let Bench { rollcall, baseline, .. } = bench;
    for Registry { server, ledger, .. } in baseline.into_iter().chain([rollcall]) {
        ledger.check(server.address)?;
        server.end()?;
    }
    if let Some(sink) = sink {
        // They are sent in the end at the latest; with none, no cost of export was measured.
        if sink.spans() == 0 {
            return Err("not a single span was exported".into());
        }
        sheet.figure("spans exported", sink.spans() as f64, "");
    }
    memory::usual(options, &mut sheet)?;
    if let Some(bytes) = stripped(bodies.path()) {
        sheet.at_most("size of the binary, stripped", bytes as f64 / 1e6, 15.0, " MB");
    }
    if options.only.iter().any(|work| matches!(work, Work::Batch | Work::Registration)) {
        floors::run(options, &mut sheet)?;
    }
    report::goals(&mut sheet);
    sheet.show(options)
}

/// Bytes of the program without its symbols; none where nothing can strip it.
fn stripped(dir: &Path) -> Option<u64> {
    let copy = dir.join("stripped");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&copy).arg(env!("CARGO_BIN_EXE_rollcall"));
    strip.status().ok().filter(ExitStatus::success)?;
    Some(std::fs::metadata(copy).ok()?.len())
}

/// What the answers of the fleet's services are tagged with.
fn tags(
    rollcall: SocketAddr,
    options: &Options,
    ledger: &mut Ledger,
) -> Result<Vec<String>, Failure> {
    let mut client = Client::open(rollcall)?;
    let mut tags = Vec::new();
    for service in 0..options.services {
        let path = format!("/v1/services/service-{service:05}/instances");
        let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
        let answer = client.exchange(request.as_bytes())?;
        ledger.add(Work::Lookup, 1);
        tags.push(client.header(&answer, "etag").ok_or("a lookup was answered without an etag")?);
    }
    Ok(tags)
}

/// Keeps an answer of each kind for the bare servers: the very bytes of the registry's.
fn keep_bodies(
    rollcall: SocketAddr,
    dir: &Path,
    options: &Options,
    known: &Arc<Known>,
    ledger: &mut Ledger,
) -> Result<(), Failure> {
    let mut client = Client::open(rollcall)?;
    for work in Work::ALL {
        if work == Work::Batch && !options.only.contains(&work) {
            std::fs::write(dir.join(work.file()), "{}")?;
            continue;
        }
        let answer = client.exchange(Requests::new(work, options, 0).with(known).next())?;
        ledger.add(work, 1);
        if !work.is_answered_by(answer.status) {
            let body = String::from_utf8_lossy(client.body(&answer)).into_owned();
            return Err(format!("a {} was answered {} {body}", work.name(), answer.status).into());
        }
        std::fs::write(dir.join(work.file()), client.body(&answer))?;
    }
    Ok(())
}

impl Bench<'_> {
    /// One kind of work: its highest rate, then its latency at shares of that.
    fn work(&mut self, work: Work, connections: usize, rows: &mut Vec<Row>) -> Result<(), Failure> {
        let what = format!("{}, {connections} connections", work.name());
        let mut add = |measure, load, rounds: Vec<Figures>| {
            if !rounds.is_empty() {
                rows.push(Row { work, protocol: None, connections, measure, load, rounds });
            }
        };
        let mut rounds = self.in_turn(&format!("{what}, closed loop"), true, |bench, which| {
            bench.measured(work, connections, which, |load| load.closed())
        })?;
        let rates = figures(&mut rounds, |m| Some(m.seen.rate()));
        let highest = median(rates.iter().map(|figures| figures.rollcall));
        add(Measure::Rate, None, rates);
        add(Measure::Cpu, None, figures(&mut rounds, |m| m.micros(m.cpu)));
        add(Measure::Writer, None, figures(&mut rounds, |m| m.micros(m.writer)));
        // Who is alone never waits for others: this is his round trip.
        if connections == 1 {
            add(Measure::P50, None, figures(&mut rounds, |m| Some(m.seen.quantile(0.5))));
        }
        for load in &self.options.load {
            // The small form on a machine that is far too busy may have got no answer in its time.
            let rate = (highest * f64::from(*load) / 100.0).max(1.0);
            let what = format!("{what}, {rate:.0} a second");
            let mut rounds = self.in_turn(&what, false, |bench, which| {
                bench.measured(work, connections, which, |load| load.open(rate))
            })?;
            for (measure, share) in [
                (Measure::P50, 0.5),
                (Measure::P99, 0.99),
                (Measure::P999, 0.999),
                (Measure::Max, 1.0),
            ] {
                let values = figures(&mut rounds, |m| Some(m.seen.quantile(share)));
                add(measure, Some(*load), values);
            }
        }
        Ok(())
    }

    /// A B C A B C ..., as often as there are rounds. A baseline is measured before and after the registry by turns: who
    /// comes first must not be better off.
    fn in_turn(
        &mut self,
        what: &str,
        with_hyper: bool,
        measure: impl Fn(&mut Self, Which) -> Result<Measured, Failure>,
    ) -> Result<Vec<Round>, Failure> {
        let mut rounds = Vec::new();
        for round in 1..=self.options.rounds {
            progress(self.options, what, round);
            let mut baseline = None;
            if self.baseline.is_some() && round % 2 == 0 {
                baseline = Some(measure(self, Which::Baseline)?);
            }
            let rollcall = measure(self, Which::Rollcall)?;
            if self.baseline.is_some() && round % 2 == 1 {
                baseline = Some(measure(self, Which::Baseline)?);
            }
            let axum = measure(self, Which::Axum)?;
            let hyper = with_hyper.then(|| measure(self, Which::Hyper)).transpose()?;
            rounds.push(Round { rollcall, baseline, axum, hyper });
        }
        Ok(rounds)
    }

    fn measured(
        &mut self,
        work: Work,
        connections: usize,
        which: Which,
        load: impl FnOnce(Load<'_>) -> Result<Seen, Failure>,
    ) -> Result<Measured, Failure> {
        // Every measurement has requests of its own; the seeds of its connections follow from the first.
        self.seed += connections as u64;
        let (options, seed) = (self.options, self.seed);
        let known = match (which, &self.baseline) {
            (Which::Baseline, Some(baseline)) => &baseline.known,
            _ => &self.rollcall.known,
        };
        let server = self.server(which);
        let writer = |server: &Server| -> Option<Duration> {
            if which == Which::Rollcall { server.cpu_of_writer() } else { None }
        };
        let (cpu, written) = (server.cpu(), writer(server));
        let seen = load(Load {
            runtime: &self.runtime,
            address: server.address,
            work,
            connections,
            seconds: options.seconds,
            requests: &|number| Requests::new(work, options, seed + number).with(known),
        })?;
        let bare = matches!(which, Which::Axum | Which::Hyper);
        std::thread::sleep(if bare || options.quick { PAUSE } else { PUT_OFF });
        let cpu = server.cpu().zip(cpu).map(|(after, before)| after.saturating_sub(before));
        let writer = writer(server).zip(written);
        let writer = writer.map(|(after, before)| after.saturating_sub(before));
        match (which, &mut self.baseline) {
            (Which::Rollcall, _) => self.rollcall.ledger.add(work, seen.answered),
            (Which::Baseline, Some(baseline)) => baseline.ledger.add(work, seen.answered),
            (Which::Baseline, None) | (Which::Axum | Which::Hyper, _) => {}
        }
        Ok(Measured { seen, cpu, writer })
    }

    fn server(&self, which: Which) -> &Server {
        match (which, &self.baseline) {
            (Which::Axum, _) => &self.axum,
            (Which::Hyper, _) => &self.hyper,
            (Which::Baseline, Some(baseline)) => &baseline.server,
            (Which::Rollcall | Which::Baseline, _) => &self.rollcall.server,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Rollcall,
    Baseline,
    Axum,
    Hyper,
}

/// One measurement of each server.
struct Round {
    rollcall: Measured,
    baseline: Option<Measured>,
    axum: Measured,
    hyper: Option<Measured>,
}

/// One figure of the servers, for each round in which the registry has it.
fn figures(rounds: &mut [Round], figure: impl Fn(&mut Measured) -> Option<f64>) -> Vec<Figures> {
    let one = |round: &mut Round| {
        Some(Figures {
            rollcall: figure(&mut round.rollcall)?,
            baseline: round.baseline.as_mut().and_then(&figure),
            axum: figure(&mut round.axum),
            hyper: round.hyper.as_mut().and_then(&figure),
        })
    };
    rounds.iter_mut().filter_map(one).collect()
}
