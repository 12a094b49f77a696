//! How the cost of the same work grows with the registry: a lookup, a registration and an expiry with a thousand, ten
//! thousand, ... instances beside. Processor time of the server, which the driver and the network have no share in; for an
//! expiry that of the writer alone.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use crate::Failure;
use crate::fleet;
use crate::http1::Client;
use crate::load::Load;
use crate::logs::Fleet;
use crate::options::Options;
use crate::requests::{Entrant, Requests};
use crate::servers::Server;
use crate::sheet::{Curve, Series, Sheet, median};
use crate::work::Work;

/// Connections of the closed loops.
const CONNECTIONS: usize = 64;

/// Instances that are registered over and over, whatever the size: 200 services of these.
const REGISTERED: usize = 200;

/// Services of those that expire, and their instances.
const DOOMED: (usize, usize) = (400, 5);

/// Their lease, and how long they are given to be gone.
const TTL: Duration = Duration::from_secs(2);
const GONE: Duration = Duration::from_millis(3_500);

/// Measures each size and shows the curves.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let mut series =
        ["lookup", "registration", "expiry"].map(|name| (name, Vec::<(f64, f64)>::new()));
    let mut size = 1_000;
    while size <= options.growth {
        // Progress only: where nobody reads, nothing is lost.
        let _ = writeln!(std::io::stderr(), "growth: {size} instances");
        for ((_, points), cost) in series.iter_mut().zip(costs(options, size)?) {
            points.push((size as f64, cost));
        }
        size *= 10;
    }
    let mut sheet = Sheet::new("growth", options);
    for (name, points) in &series {
        for (size, cost) in points {
            sheet.figure(format!("{name} with {size} instances"), *cost, "µs");
        }
        let (Some((least, first)), Some((most, last))) = (points.first(), points.last()) else {
            continue;
        };
        // What grows like the logarithm doubles from a thousand to a million. A lookup is a hash of its name; what it
        // costs more is memory that the processor has not at hand.
        let allowed = if *name == "lookup" { 1.5 } else { most.ln() / least.ln() };
        if most > least {
            let name = format!("{name}: cost with {most} instances over that with {least}");
            sheet.at_most(&name, last / first, allowed, "");
        }
    }
    sheet.curve(Curve {
        name: "growth",
        title: "Processor time of the same work in a growing registry".to_owned(),
        x: "instances",
        y: "µs",
        log_x: true,
        series: series.map(|(name, points)| Series { name: name.to_owned(), points }).to_vec(),
    });
    sheet.show(options)
}

/// Microseconds of a lookup, a registration and an expiry.
fn costs(options: &Options, size: usize) -> Result<[f64; 3], Failure> {
    let services = size / options.instances;
    let mut options = Options { services, ..options.clone() };
    // Two thousand of a thousand are to expire.
    options.serve.push("--guard=false".to_owned());
    let dir = tempfile::tempdir_in(&options.dir)?;
    let instances = options.instances;
    Fleet { services, instances, entrant: Entrant::fleet, snapshot: true }.write(dir.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = Server::rollcall(dir.path(), &options)?;
    let loaded = |work: Work, options: &Options| -> Result<f64, Failure> {
        let mut each = Vec::new();
        for round in 0..options.rounds as u64 {
            let before = micros(server.cpu_of(""))?;
            let seen = Load {
                runtime: &runtime,
                address: server.address,
                work,
                connections: CONNECTIONS,
                seconds: options.seconds,
                requests: &|number| Requests::new(work, options, 1_000 * round + number),
            }
            .closed()?;
            let used = micros(server.cpu_of(""))? - before;
            each.push(used / seen.answered as f64);
        }
        Ok(median(each))
    };
    warm(server.address, services)?;
    let lookup = loaded(Work::Lookup, &options)?;
    let few = Options { services: REGISTERED, ..options.clone() };
    let registration = loaded(Work::Registration, &few)?;
    let mut expiry = Vec::new();
    for _ in 0..options.rounds {
        expiry.push(expired(&server, &options)?);
    }
    server.end()?;
    Ok([lookup, registration, median(expiry)])
}

/// Every service is asked for once: the first answer of each is made when it is asked for, the others are kept.
fn warm(address: SocketAddr, services: usize) -> Result<(), Failure> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                scope.spawn(move || -> Result<(), Failure> {
                    let mut client = Client::open(address)?;
                    for service in (number..services).step_by(CONNECTIONS) {
                        let path = format!("/v1/services/service-{service:05}/instances");
                        let (status, _) = client.get(&path)?;
                        if status != 200 {
                            return Err(format!("a lookup was answered {status}").into());
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| "a client panicked")?)
    })
}

/// Microseconds of the writer's time for one that registers once and is never heard again: marked late, then expired. It
/// is all done there, and the writer rests but for that.
fn expired(server: &Server, options: &Options) -> Result<f64, Failure> {
    let living = living(server)?;
    let (services, instances) = DOOMED;
    let doomed = |service, instance| Entrant { ttl: TTL, ..Entrant::doomed(service, instance) };
    let count = fleet::register_each(server.address, options, services, instances, doomed)?;
    let before = micros(server.cpu_of_writer())?;
    std::thread::sleep(GONE);
    let cost = micros(server.cpu_of_writer())? - before;
    match self::living(server)? {
        left if left == living => Ok(cost / count as f64),
        left => Err(format!("{left} instances live, {living} did before {count} came").into()),
    }
}

/// Processor time so far in microseconds.
fn micros(used: Option<Duration>) -> Result<f64, Failure> {
    let used = used.ok_or("processor time is read from /proc, and there is none here")?;
    Ok(used.as_secs_f64() * 1e6)
}

fn living(server: &Server) -> Result<u64, Failure> {
    let (_, status) = Client::open(server.address)?.get("/v1/status")?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    status["instances"].as_u64().ok_or_else(|| "a status without its instances".into())
}
