//! One large service that never rests: what a change of it costs, beside a change of a small one; and its lookups while it
//! changes, beside a bare server that sends the same bytes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::runtime::Runtime;

use crate::Failure;
use crate::http1::Client;
use crate::load::{Load, now};
use crate::logs::Fleet;
use crate::options::Options;
use crate::requests::{Entrant, Requests};
use crate::servers::Server;
use crate::sheet::{Sheet, median, progress};
use crate::work::Work;

/// Connections that ask for it: an answer is megabytes.
const READERS: usize = 4;

/// Clients that change it.
const WRITERS: usize = 16;

/// Instances of the small service, which changes as often.
const SMALL: usize = 5;

/// Measures and shows the figures.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let options = &Options { services: 1, instances: options.churn, ..options.clone() };
    let dir = tempfile::tempdir_in(&options.dir)?;
    Fleet { services: 1, instances: options.churn, entrant: Entrant::fleet, snapshot: true }
        .write(dir.path())?;
    let server = Server::rollcall(dir.path(), options)?;
    let bodies = tempfile::tempdir_in(&options.dir)?;
    let (_, body) = Client::open(server.address)?.get("/v1/services/service-00000/instances")?;
    for work in Work::ALL {
        std::fs::write(bodies.path().join(work.file()), "{}")?;
    }
    std::fs::write(bodies.path().join(Work::Lookup.file()), &body)?;
    let bare = Server::bare(bodies.path(), options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;

    let (mut quiet, mut churned, mut bares) = (Vec::new(), Vec::new(), Vec::new());
    let (mut large, mut small) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        progress(options, "churn", round);
        quiet.push(lookups(&runtime, &server, options)?);
        churned.push(while_changing(&server, options, || lookups(&runtime, &server, options))?.0);
        bares.push(lookups(&runtime, &bare, options)?);
        large.push(change_cost(&server, options, "service", options.churn)?);
        small.push(change_cost(&server, options, "load", SMALL)?);
    }
    server.end()?;

    let mut sheet = Sheet::new("churn", options);
    let ratios = churned.iter().zip(&bares).map(|(ours, bare)| ours / bare);
    let ratio = median(ratios);
    sheet.figure("bytes of an answer", body.len() as f64, "B");
    sheet.figure("lookups while nothing changes", median(quiet), "1/s");
    sheet.figure("lookups while it changes", median(churned), "1/s");
    sheet.figure("lookups of the bare server", median(bares), "1/s");
    let (large, small) = (median(large), median(small));
    let changes = options.changes;
    sheet.figure(format!("processor time of a change at {changes}/s, large service"), large, "µs");
    sheet.figure(format!("the same of a service of {SMALL}"), small, "µs");
    let name = format!("lookups of a service of {} that churns: rate over bare", options.churn);
    sheet.at_least(&name, ratio, 0.5, "");
    // A copy of all would cost milliseconds.
    let name = "a change of a large service, over one of a small service";
    sheet.at_most(name, large / small, 2.0, "");
    sheet.show(options)
}

/// The rate of lookups in a closed loop.
fn lookups(runtime: &Runtime, server: &Server, options: &Options) -> Result<f64, Failure> {
    let seen = Load {
        runtime,
        address: server.address,
        work: Work::Lookup,
        connections: READERS,
        seconds: options.seconds,
        requests: &|number| Requests::new(Work::Lookup, options, number),
    }
    .closed()?;
    Ok(seen.rate())
}

/// Processor time of the server for a change, in microseconds, when nobody reads.
fn change_cost(
    server: &Server,
    options: &Options,
    prefix: &'static str,
    instances: usize,
) -> Result<f64, Failure> {
    let length = Duration::from_secs_f64(options.seconds);
    let used = |work: &mut dyn FnMut() -> Result<u64, Failure>| -> Result<(f64, u64), Failure> {
        let before = server.cpu_of("");
        let done = work()?;
        let used = server.cpu_of("").zip(before).map(|(after, before)| after - before);
        let used = used.ok_or("processor time is read from /proc, and there is none here")?;
        Ok((used.as_secs_f64() * 1e6, done))
    };
    let (idle, _) = used(&mut || {
        std::thread::sleep(length);
        Ok(0)
    })?;
    let (busy, changes) = used(&mut || {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let changing = scope.spawn(|| change(server, options, prefix, instances, &stop));
            std::thread::sleep(length);
            stop.store(true, Ordering::Relaxed);
            changing.join().map_err(|_| "the thread that changes panicked")?
        })
    })?;
    Ok((busy - idle) / changes.max(1) as f64)
}

/// Does something while the large service changes; how often it did.
fn while_changing<T>(
    server: &Server,
    options: &Options,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<(T, u64), Failure> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| change(server, options, "service", options.churn, &stop));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let changes = changing.join().map_err(|_| "the thread that changes panicked")??;
        Ok((done?, changes))
    })
}

/// Changes somebody at random, as often as `--changes` says, until it is to stop; how often that was.
fn change(
    server: &Server,
    options: &Options,
    prefix: &'static str,
    instances: usize,
    stop: &AtomicBool,
) -> Result<u64, Failure> {
    let between = Duration::from_secs_f64(WRITERS as f64 / options.changes as f64);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS as u64)
            .map(|number| {
                scope.spawn(move || -> Result<u64, Failure> {
                    let mut client = Client::open(server.address)?;
                    let mut rng = Rng::new();
                    let mut requests = Requests::new(Work::Registration, options, number);
                    let (mut next, mut done) = (now(), 0);
                    while !stop.load(Ordering::Relaxed) {
                        let entrant = Entrant::fleet(0, rng.usize(..instances));
                        let version = rng.u32(10_000_000..100_000_000);
                        let entrant = Entrant { prefix, version, ..entrant };
                        let answer = client.exchange(requests.register(&entrant))?;
                        if !Work::Registration.is_answered_by(answer.status) {
                            return Err(format!("a change was answered {}", answer.status).into());
                        }
                        done += 1;
                        next += between;
                        std::thread::sleep(next.saturating_duration_since(now()));
                    }
                    Ok(done)
                })
            })
            .collect();
        let mut done = 0;
        for writer in writers {
            done += writer.join().map_err(|_| "a writer panicked")??;
        }
        Ok(done)
    })
}
