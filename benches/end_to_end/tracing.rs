//! What tracing costs a lookup: with no collector, with one but unsampled, with one of a hundred kept, and with each span
//! exported. Processor time at a steady rate, in turn, there and back. And what a scrape of a large page of metrics costs the
//! lookups beside it.
//!
//! What is to be told apart are tenths of a microsecond, and what a server does of itself, some milliseconds a second, is
//! shared by the lookups of that second: so the ways that differ by little are compared at a high rate, and the one with
//! each span exported at a rate that the queue of spans can take, beside the unsampled one at the same rate. Many short
//! rounds tell more than a few long ones.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::Failure;
use crate::fleet;
use crate::http1::Client;
use crate::load::{Load, Seen, nanos, now, quantile};
use crate::options::Options;
use crate::requests::Requests;
use crate::servers::Server;
use crate::sheet::{Sheet, median, progress};
use crate::sink::Sink;
use crate::work::Work;

/// Lookups a second of the ways that differ by little.
const RATE: f64 = 8_000.0;
/// Lookups a second where each has a span.
const RATE_SAMPLED: f64 = 2_000.0;

/// Connections that they come over.
const CONNECTIONS: usize = 8;

/// How long the exporter may take to send what it holds; it waits for up to five seconds.
const EXPORTED: Duration = Duration::from_secs(6);

/// The servers: what they are called, whether they have a collector, and the percentage that the caller samples.
const SERVERS: [(&str, bool, f64); 4] = [
    ("no collector", false, 0.0),
    ("unsampled", true, 0.0),
    ("one of a hundred kept", true, 1.0),
    ("sampled", true, 100.0),
];

/// What is measured in turn: which of the servers, and at which rate.
const WAYS: [(usize, f64); 5] =
    [(0, RATE), (1, RATE), (2, RATE), (1, RATE_SAMPLED), (3, RATE_SAMPLED)];
/// Where each of them stands.
const OFF: usize = 0;
const UNSAMPLED: usize = 1;
const ONE_PERCENT: usize = 2;
const UNSAMPLED_SLOWLY: usize = 3;
const SAMPLED: usize = 4;

/// Services with series of their own, which make a page of some 3,000 with all others.
const SERVICE_SERIES: usize = 800;

/// How often the page is asked for while lookups are measured: far more often than anybody scrapes.
const SCRAPE_EVERY: Duration = Duration::from_millis(100);

/// Measures the ways in turn and shows the figures.
pub(crate) fn run(options: &Options, sink: Option<&Sink>) -> Result<(), Failure> {
    let sink = sink.ok_or("what a sampled lookup costs is measured with `--otlp own`")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut servers = Vec::new();
    for (_, collector, sampled) in SERVERS {
        let mut options = Options { sampled, ..options.clone() };
        if !collector {
            options.endpoint = None;
        }
        // All that are sampled shall be kept: the cap is what protects from this.
        options.serve.push("--trace-caller-rate=1000000".to_owned());
        options.serve.push(format!("--service-series={SERVICE_SERIES}"));
        let dir = tempfile::tempdir_in(&options.dir)?;
        let server = Server::rollcall(dir.path(), &options)?;
        fleet::register(server.address, &options, options.services, options.instances)?;
        servers.push((server, options, dir));
    }
    let rest = if options.quick { Duration::from_millis(100) } else { EXPORTED };
    // The spans of the registrations.
    std::thread::sleep(rest);
    let mut micros = [const { Vec::new() }; WAYS.len()];
    let (mut exported, mut sampled) = (0, 0);
    for round in 0..options.rounds as u64 {
        for turn in 0..WAYS.len() {
            // There and back, so that a machine that gets slower or faster does so for both of a pair.
            let way = if round % 2 == 0 { turn } else { WAYS.len() - 1 - turn };
            let (place, rate) = WAYS[way];
            let (server, options, _) = &servers[place];
            progress(options, &format!("{} at {rate}/s", SERVERS[place].0), round + 1);
            let (before, spans) = (server.cpu_of(""), sink.spans());
            let seen = lookups(&runtime, server, options, (rate, round))?;
            std::thread::sleep(rest);
            let used = server.cpu_of("").zip(before).map(|(after, before)| after - before);
            let used = used.ok_or("processor time is read from /proc, and there is none here")?;
            micros[way].push(used.as_secs_f64() * 1e6 / seen.answered as f64);
            if way == SAMPLED {
                exported += sink.spans() - spans;
                sampled += seen.answered;
            }
        }
    }
    let (server, at, _) = &servers[WAYS[ONE_PERCENT].0];
    let scraped = scrapes(&runtime, server, at)?;
    for (server, ..) in servers {
        server.end()?;
    }
    show(options, &micros, (exported, sampled), &scraped)
}

/// Lookups at a steady rate.
fn lookups(
    runtime: &Runtime,
    server: &Server,
    options: &Options,
    (rate, round): (f64, u64),
) -> Result<Seen, Failure> {
    Load {
        runtime,
        address: server.address,
        work: Work::Lookup,
        connections: CONNECTIONS,
        seconds: options.seconds,
        requests: &|number| Requests::new(Work::Lookup, options, 1_000 * round + number),
    }
    .open(rate)
}

/// What is seen of lookups with and without somebody who scrapes, and of scrapes.
#[derive(Debug, Default)]
struct Scraped {
    /// Series on the page.
    series: usize,
    /// Nanoseconds of each scrape.
    took: Vec<u64>,
    /// p99 of the lookups in µs, a round each: alone, and while the page is asked for.
    alone: Vec<f64>,
    beside: Vec<f64>,
}

/// Measures lookups in turn alone and with somebody who scrapes.
fn scrapes(runtime: &Runtime, server: &Server, options: &Options) -> Result<Scraped, Failure> {
    let mut found = Scraped::default();
    for round in 0..options.rounds as u64 {
        found
            .alone
            .push(lookups(runtime, server, options, (RATE_SAMPLED, 2 * round))?.quantile(0.99));
        let ended = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let scraping = scope.spawn(|| scrape(server.address, &ended));
            let seen = lookups(runtime, server, options, (RATE_SAMPLED, 2 * round + 1));
            ended.store(true, Ordering::Release);
            let scraped = scraping.join().map_err(|_| "the thread that scrapes panicked")?;
            let (series, took) = scraped?;
            found.series = series;
            found.took.extend(took);
            seen
        });
        found.beside.push(seen?.quantile(0.99));
    }
    Ok(found)
}

/// Asks for the page until that is ended: how many series it had, and how long each answer took in nanoseconds.
fn scrape(address: SocketAddr, ended: &AtomicBool) -> Result<(usize, Vec<u64>), Failure> {
    let mut client = Client::open(address)?;
    let (mut series, mut took) = (0, Vec::new());
    while !ended.load(Ordering::Acquire) {
        let began = now();
        let (status, page) = client.get("/metrics")?;
        took.push(nanos(began.elapsed()));
        if status != 200 {
            return Err(format!("/metrics was answered {status}").into());
        }
        series = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
        std::thread::sleep(SCRAPE_EVERY);
    }
    Ok((series, took))
}

fn show(
    options: &Options,
    micros: &[Vec<f64>; WAYS.len()],
    (exported, sampled): (u64, u64),
    scraped: &Scraped,
) -> Result<(), Failure> {
    let mut sheet = Sheet::new("tracing", options);
    for ((server, rate), micros) in WAYS.iter().zip(micros) {
        let name = format!("processor time of a lookup, {}, {rate}/s", SERVERS[*server].0);
        sheet.figure(name, median(micros.iter().copied()), "µs");
    }
    sheet.figure("spans exported of lookups sampled", exported as f64 / sampled as f64, "");
    let more = |way: usize, than: usize| {
        median(micros[way].iter().zip(&micros[than]).map(|(more, less)| more - less))
    };
    sheet.at_most(
        "a sampled lookup costs more than one that is not",
        more(SAMPLED, UNSAMPLED_SLOWLY),
        12.0,
        " µs",
    );
    sheet.at_most("unsampled tracing costs more than none", more(UNSAMPLED, OFF), 0.4, " µs");
    let more = more(ONE_PERCENT, OFF);
    sheet.at_most("tracing with one of a hundred kept costs more than none", more, 0.4, " µs");
    let Scraped { series, took, alone, beside } = scraped;
    sheet.figure("series on the page of metrics", *series as f64, "");
    let mut took = took.clone();
    sheet.at_most(
        "that page is answered within (median)",
        quantile(&mut took, 0.5) / 1e6,
        5.0,
        " ms",
    );
    sheet.figure("the slowest answer of it", quantile(&mut took, 1.0) / 1e6, "ms");
    sheet.figure("p99 of a lookup", median(alone.iter().copied()), "µs");
    sheet.figure(
        "p99 of a lookup while it is scraped ten times a second",
        median(beside.iter().copied()),
        "µs",
    );
    let ratio = median(beside.iter().zip(alone).map(|(beside, alone)| beside / alone));
    sheet.at_most("p99 of lookups while scraped over alone", ratio, 1.5, "");
    // What was dropped was not paid for. The small form does not wait for the last export.
    if !options.quick && (exported as f64) < 0.9 * sampled as f64 {
        return Err(format!("{exported} of {sampled} spans were exported").into());
    }
    sheet.show(options)
}
