//! Whether an answer ever waits for an acknowledgement. A system that gathers small writes (Nagle) holds back what follows
//! on an unacknowledged segment, and the other side delays its acknowledgement by 40 ms: together they are a pause that a
//! server has to switch off (`TCP_NODELAY`). One connection, one exchange after the other, of answers of several segments
//! and of several answers at once.
//!
//! In turn with a bare axum server that sends the same bytes; and once with one that does not switch it off, which shows
//! that the pause would be seen here.

use std::net::SocketAddr;

use tokio::runtime::Runtime;

use super::keep;
use super::pipeline::Pipeline;
use crate::Failure;
use crate::counters::Ledger;
use crate::fleet;
use crate::http1::Client;
use crate::load::{nanos, now, quantile};
use crate::options::Options;
use crate::requests::Entrant;
use crate::servers::Server;
use crate::sheet::{Sheet, median, progress};
use crate::work::Work;

/// Instances of the large service: some segments, even over the loopback with its 64 KiB.
const LARGE: usize = 1_000;
/// Instances of the small one.
const SMALL: usize = 5;

/// Exchanges of a round, in the small form, and of the server that waits.
const EXCHANGES: usize = 500;
const EXCHANGES_SMALL: usize = 20;
const EXCHANGES_DELAYED: usize = 20;

/// The least that Linux delays an acknowledgement by (`TCP_DELACK_MIN`), in nanoseconds.
const DELAYED_ACK: u64 = 40_000_000;

/// What is asked in one exchange.
struct Form {
    name: &'static str,
    /// One request.
    request: String,
    /// How many of them are written at once.
    depth: usize,
}

/// All of them, with one that the system would hold back for sure, which is several small answers at once.
fn forms() -> [Form; 4] {
    let request = |service: &str, header: &str| {
        format!(
            "GET /v1/services/{service}-00000/instances HTTP/1.1\r\nhost: 127.0.0.1\r\n{header}\r\n"
        )
    };
    [
        Form { name: "large answer", request: request("service", ""), depth: 1 },
        Form {
            name: "large answer, zstd",
            request: request("service", "accept-encoding: zstd\r\n"),
            depth: 1,
        },
        Form { name: "two large answers at once", request: request("service", ""), depth: 2 },
        Form { name: "16 small answers at once", request: request("load", ""), depth: 16 },
    ]
}

/// Measures all forms and notes the figures.
pub(super) fn run(runtime: &Runtime, options: &Options, sheet: &mut Sheet) -> Result<(), Failure> {
    let dir = tempfile::tempdir_in(&options.dir)?;
    let server = Server::rollcall(dir.path(), options)?;
    let mut ledger = Ledger::default();
    let large = fleet::register(server.address, options, 1, LARGE)?;
    let small = |service, instance| Entrant { prefix: "load", ..Entrant::fleet(service, instance) };
    let small = fleet::register_each(server.address, options, 1, SMALL, small)?;
    ledger.add(Work::Registration, large + small);
    let exchanges = if options.quick { EXCHANGES_SMALL } else { EXCHANGES };
    let (mut late, mut all, mut worst) = (0, 0, f64::NEG_INFINITY);
    for form in forms() {
        let mut client = Client::open(server.address)?;
        let answer = client.exchange(form.request.as_bytes())?;
        let body = client.body(&answer).to_vec();
        ledger.add(Work::Lookup, 1);
        let bodies = tempfile::tempdir_in(&options.dir)?;
        keep(bodies.path(), &body)?;
        let bare = Server::bare(bodies.path(), options)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 1..=options.rounds {
            progress(options, form.name, round);
            let mut took = runtime.block_on(exchanged(server.address, &form, &body, exchanges))?;
            ledger.add(Work::Lookup, (exchanges * form.depth) as u64);
            late += took.iter().filter(|took| **took >= DELAYED_ACK).count();
            all += took.len();
            ours.push(quantile(&mut took, 0.99) / 1e6);
            let mut took = runtime.block_on(exchanged(bare.address, &form, &body, exchanges))?;
            theirs.push(quantile(&mut took, 0.99) / 1e6);
        }
        let delayed = Server::bare_nagle(bodies.path(), options)?;
        let mut delayed =
            runtime.block_on(exchanged(delayed.address, &form, &body, EXCHANGES_DELAYED))?;
        let name = form.name;
        sheet.figure(format!("{name}, bytes of one"), body.len() as f64, "B");
        sheet.rounds(format!("{name}, p99"), &ours, "ms");
        sheet.rounds(format!("{name}, p99 of the bare server"), &theirs, "ms");
        let held_back = quantile(&mut delayed, 0.5) / 1e6;
        sheet.figure(format!("{name}, median of one without TCP_NODELAY"), held_back, "ms");
        worst = worst.max(median(ours));
    }
    ledger.check(server.address)?;
    server.end()?;
    sheet.figure(format!("of {all} such exchanges, those of 40 ms or more"), late as f64, "");
    let name = "one connection, large and pipelined answers: the worst p99, to stay below a delayed acknowledgement";
    sheet.at_most(name, worst, DELAYED_ACK as f64 / 1e6, " ms");
    Ok(())
}

/// Nanoseconds of each of so many exchanges over one connection, whose answers must all have this body.
async fn exchanged(
    address: SocketAddr,
    form: &Form,
    expected: &[u8],
    count: usize,
) -> Result<Vec<u64>, Failure> {
    let mut connection = Pipeline::open(address).await?;
    let requests = form.request.repeat(form.depth);
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = now();
        connection.send(requests.as_bytes()).await?;
        for _ in 0..form.depth {
            let (status, body) = connection.next().await?;
            if status != 200 || body != expected {
                let bytes = body.len();
                let failure = format!("{}: answered {status} with other {bytes} bytes", form.name);
                return Err(failure.into());
            }
        }
        took.push(nanos(now() - begun));
    }
    Ok(took)
}
