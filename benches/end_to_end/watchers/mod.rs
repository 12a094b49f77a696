//! Ten thousand who wait: long polls of one service and streams on one server, and from the acknowledgement of a
//! change to the first byte of the first and of the last of them; beside a bare axum server that wakes as many with
//! the same bytes. And what a watcher costs while it waits.
//!
//! The driver's own work, to read as many answers on the same cores, is in both.

mod bare;
mod crowd;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use bare::Waiting;
use crowd::Crowd;

use crate::Failure;
use crate::fleet;
use crate::http1::Client;
use crate::options::Options;
use crate::servers::{Server, await_that};
use crate::work::Work;

/// The file with the event that the bare server streams.
pub(crate) const EVENT: &str = "event.txt";

const LIST: &str = "/v1/services/service-00000/instances";

/// How long after a crowd has left memory is looked at.
const GIVEN_BACK: Duration = Duration::from_secs(12);

/// How the servers are asked.
#[derive(Debug, Clone, Copy)]
struct Paths {
    poll: &'static str,
    stream: &'static str,
    change: &'static str,
}

const ROLLCALL: Paths = Paths {
    poll: LIST,
    stream: "/v1/watch",
    change: "/v1/services/service-00000/instances/instance-00000",
};
const BARE: Paths = Paths { poll: "/bare/poll", stream: "/bare/stream", change: "/bare/change" };

/// What one server did.
#[derive(Debug, Default)]
struct Measured {
    first: Vec<Duration>,
    last: Vec<Duration>,
    resident: Resident,
}

/// Resident bytes of a server as crowds come and go.
#[derive(Debug, Default)]
struct Resident {
    before: Option<u64>,
    /// While the first crowd waits, before anything was told.
    waiting: Option<u64>,
    /// [`GIVEN_BACK`] after each crowd has left.
    left: Vec<u64>,
}

/// Measures both servers in turn and prints the figures.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bodies = tempfile::tempdir_in(&options.dir)?;
    let registry = |start: &dyn Fn(&Path) -> Result<Server, Failure>| {
        let dir = tempfile::tempdir_in(&options.dir)?;
        let server = start(dir.path())?;
        fleet::register(server.address, options, 1, options.instances)?;
        keep_bodies(server.address, bodies.path())?;
        let count = |address: SocketAddr| -> Result<usize, Failure> {
            let (_, page) = Client::open(address)?.get("/metrics")?;
            let lines = page.lines().filter(|line| line.starts_with("rollcall_watchers{"));
            let counts = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok());
            Ok(counts.sum())
        };
        let measured = runtime.block_on(measure(&server, ROLLCALL, options, count))?;
        server.end()?;
        Ok::<_, Failure>(measured)
    };
    let mut all = Vec::new();
    if let Some(binary) = &options.baseline {
        all.push(("baseline", registry(&|dir| Server::baseline(binary, dir, options))?));
    }
    all.push(("rollcall", registry(&|dir| Server::rollcall(dir, options))?));
    let server = Server::bare(bodies.path(), options)?;
    let count = |address: SocketAddr| -> Result<usize, Failure> {
        Ok(Client::open(address)?.get("/bare/waiting")?.1.trim().parse()?)
    };
    all.push(("bare", runtime.block_on(measure(&server, BARE, options, count))?));
    drop(server);
    show(options, &all)
}

/// Keeps the bytes that the bare server is to answer.
fn keep_bodies(address: SocketAddr, dir: &Path) -> Result<(), Failure> {
    let mut client = Client::open(address)?;
    let list = client.get(LIST)?.1;
    let one = client.get(ROLLCALL.change)?.1;
    for work in Work::ALL {
        std::fs::write(dir.join(work.file()), "{}")?;
    }
    std::fs::write(dir.join(Work::Lookup.file()), &list)?;
    std::fs::write(dir.join(Work::Registration.file()), &one)?;
    // About what a registration is told as; the registry's own text has a few fields more.
    std::fs::write(dir.join(EVENT), format!("id: 42\nevent: registered\ndata: {one}\n\n"))?;
    Ok(())
}

async fn measure(
    server: &Server,
    paths: Paths,
    options: &Options,
    count: impl Fn(SocketAddr) -> Result<usize, Failure>,
) -> Result<Measured, Failure> {
    let mut measured = Measured::default();
    measured.resident.before = server.resident_bytes();
    let mut writer = Client::open(server.address)?;
    let mut crowd = Crowd::gather(server.address, paths.poll, paths.stream, options).await?;
    let all = options.watchers + options.streams;
    // One round warms up.
    for round in 0..=options.rounds {
        tokio::task::block_in_place(|| {
            await_that("all wait", || Ok(count(server.address)? == all))
        })?;
        if round == 0 {
            measured.resident.waiting = server.resident_bytes();
        }
        let body = format!(
            "{{\"address\":\"10.1.0.0\",\"port\":8080,\"version\":\"{}\",\"ttl\":\"24h\",\
             \"tags\":[],\"metadata\":{{}}}}",
            10_000_001 + round
        );
        let request = format!(
            "PUT {} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            paths.change,
            body.len()
        );
        // On a thread of its own, so that the acknowledgement does not wait behind the answers of the crowd.
        let (answer, acknowledged) = tokio::task::block_in_place(|| {
            let answer = writer.exchange(request.as_bytes());
            (answer, now())
        });
        let answer = answer?;
        if answer.status != 200 {
            return Err(format!("the change was answered {}", answer.status).into());
        }
        let (first, last) = crowd.told().await?;
        if round > 0 {
            measured.first.push(first.saturating_duration_since(acknowledged));
            measured.last.push(last.saturating_duration_since(acknowledged));
        }
        crowd.again();
    }
    for gone in 0..options.crowds {
        if gone > 0 {
            crowd = Crowd::gather(server.address, paths.poll, paths.stream, options).await?;
            tokio::task::block_in_place(|| {
                await_that("all wait", || Ok(count(server.address)? == all))
            })?;
        }
        crowd.leave().await;
        tokio::task::block_in_place(|| {
            await_that("all have left", || Ok(count(server.address)? == 0))
        })?;
        tokio::time::sleep(GIVEN_BACK).await;
        measured.resident.left.extend(server.resident_bytes());
    }
    Ok(measured)
}

#[expect(clippy::disallowed_methods, reason = "a measurement of real time")]
fn now() -> Instant {
    Instant::now()
}

fn show(options: &Options, all: &[(&str, Measured)]) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    let Options { watchers, streams, rounds, .. } = options;
    writeln!(
        out,
        "{watchers} long polls and {streams} streams, {rounds} rounds: median (lowest to highest)"
    )?;
    let theirs = all.last().map_or(f64::NAN, |(_, bare)| spread(&bare.last).0);
    for (name, measured) in all {
        let (_, first) = spread(&measured.first);
        let (ours, last) = spread(&measured.last);
        writeln!(out, "{name}, acknowledgement to first byte {first}")?;
        writeln!(
            out,
            "{name}, acknowledgement to last byte  {last}, {:.2} of bare",
            ours / theirs
        )?;
        let Resident { before, waiting, left } = &measured.resident;
        let (Some(before), Some(waiting)) = (*before, *waiting) else { continue };
        let kib =
            as_f64(waiting.saturating_sub(before)) / as_f64((watchers + streams) as u64) / 1024.0;
        writeln!(out, "{name}, resident per idle watcher     {kib:.1} KiB")?;
        let megabytes = |bytes: u64| format!("{:.1}", as_f64(bytes) / 1e6);
        let left: Vec<String> = left.iter().copied().map(megabytes).collect();
        writeln!(
            out,
            "{name}, resident MB: {} before, {} while all wait; {} s after each crowd has left: {}",
            megabytes(before),
            megabytes(waiting),
            GIVEN_BACK.as_secs(),
            left.join(", "),
        )?;
    }
    Ok(())
}

/// The median in milliseconds; and as a text, with the lowest and the highest.
fn spread(times: &[Duration]) -> (f64, String) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let ms = |time: Option<&Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    let median = ms(times.get(times.len() / 2));
    let (low, high) = (ms(times.first()), ms(times.last()));
    (median, format!("{median:.2} ms ({low:.2} to {high:.2})"))
}

#[expect(clippy::cast_precision_loss, reason = "some megabytes")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}
