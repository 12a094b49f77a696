//! The limit of connections: what lookups on those that have a place notice of as many clients that wait for one, and how
//! long the next one waits for its place after somebody has left.
//!
//! ```text
//!   limit N:  one who looks + N-1 busy ones │ N who have connected and asked, and are not let in
//!             places, all taken             │ the listener's queue
//! ```
//!
//! A client that is answered before a place is free, or that is not answered when one is, ends the run.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::Failure;
use crate::counters::Ledger;
use crate::fleet;
use crate::http1::{Client, Connection};
use crate::load::{Load, Seen, Times, nanos, now, quantile};
use crate::options::Options;
use crate::requests::Requests;
use crate::servers::{Server, await_that};
use crate::sheet::{Sheet, median, progress};
use crate::work::Work;

/// The limit: enough that the listener's queue and both sides' file descriptors take twice as many anywhere.
const LIMIT: usize = 256;
/// The same in the small form.
const LIMIT_SMALL: usize = 32;

/// How often somebody leaves and the next one comes in, for each round; and in the small form.
const TURNS: usize = 200;
const TURNS_SMALL: usize = 20;

/// Share of the highest rate at which waiting is measured.
const LOAD: f64 = 0.5;

/// How much earlier than the measured time the last instants of an open loop may be over.
const EARLY: Duration = Duration::from_millis(1);

/// How long a client may wait for its place before the run counts as broken.
const LET_IN: Duration = Duration::from_secs(30);

/// A registry with a limit, and all that it was sent.
struct Limited<'a> {
    runtime: &'a Runtime,
    options: &'a Options,
    server: Server,
    limit: usize,
    ledger: Ledger,
    seed: u64,
}

/// What the rounds have found, in requests a second and microseconds; first alone, then with others who wait.
#[derive(Debug, Default)]
struct Found {
    rates: [Vec<f64>; 2],
    p99: [Vec<f64>; 2],
    places: Vec<Vec<u64>>,
    room: Vec<Vec<u64>>,
}

/// Measures both and notes the figures.
pub(super) fn run(runtime: &Runtime, options: &Options, sheet: &mut Sheet) -> Result<(), Failure> {
    let dir = tempfile::tempdir_in(&options.dir)?;
    let (limit, turns) = if options.quick { (LIMIT_SMALL, TURNS_SMALL) } else { (LIMIT, TURNS) };
    let mut with_limit = options.clone();
    with_limit.serve.push(format!("--max-connections={limit}"));
    let server = Server::rollcall(dir.path(), &with_limit)?;
    let mut ledger = Ledger::default();
    let fleet = fleet::register(server.address, options, options.services, options.instances)?;
    ledger.add(Work::Registration, fleet);
    let mut limited = Limited { runtime, options, server, limit, ledger, seed: 1 };
    let mut found = Found::default();
    for round in 1..=options.rounds {
        progress(options, "limit of connections, highest rate", round);
        for waiting in in_turn(round) {
            let seen = limited.lookups(waiting, None)?;
            found.rates[usize::from(waiting)].push(seen.rate());
        }
    }
    let rate = (LOAD * median(found.rates[0].iter().copied())).max(1.0);
    for round in 1..=options.rounds {
        progress(options, &format!("limit of connections, {rate:.0} a second"), round);
        for waiting in in_turn(round) {
            let mut seen = limited.lookups(waiting, Some(rate))?;
            found.p99[usize::from(waiting)].push(seen.quantile(0.99));
        }
    }
    for round in 1..=options.rounds {
        progress(options, "places", round);
        let (places, room) = limited.turns(turns)?;
        found.places.push(places);
        found.room.push(room);
    }
    let Limited { server, ledger, .. } = limited;
    ledger.check(server.address)?;
    server.end()?;
    show(sheet, limit, found);
    Ok(())
}

/// Alone and with others who wait, and in the next round the other way round.
fn in_turn(round: usize) -> [bool; 2] {
    if round.is_multiple_of(2) { [true, false] } else { [false, true] }
}

impl Limited<'_> {
    /// Lookups over all places but one, at this rate or at the highest; with `waiting`, while as many clients as there are
    /// places wait for one.
    fn lookups(&mut self, waiting: bool, rate: Option<f64>) -> Result<Seen, Failure> {
        self.seed += 2 * self.limit as u64;
        let (options, seed, server) = (self.options, self.seed, &self.server);
        let load = Load {
            runtime: self.runtime,
            address: server.address,
            work: Work::Lookup,
            connections: self.limit - 1,
            seconds: options.seconds,
            requests: &|number| Requests::new(Work::Lookup, options, seed + number),
        };
        let mut looks = Client::open(server.address)?;
        let connected = load.connect()?;
        await_that("all places are taken", || Ok(places_taken(&mut looks)? == self.limit))?;
        let crowd = if waiting { self.crowd(seed)? } else { JoinSet::new() };
        let times = Times::of(options.seconds);
        let (seen, until) = match rate {
            None => (load.closed_over(connected, times)?, times.end),
            Some(rate) => (load.open_over(connected, times, rate)?, times.end - EARLY),
        };
        drop(looks);
        self.ledger.add(Work::Lookup, seen.answered);
        let let_in = self.runtime.block_on(let_in(crowd))?;
        if let Some(early) = let_in.iter().find(|at| **at < until) {
            let early = until - *early;
            let failure = format!("with all places taken, a client was let in {early:?} too early");
            return Err(failure.into());
        }
        self.ledger.add(Work::Lookup, let_in.len() as u64);
        Ok(seen)
    }

    /// As many clients as there are places, each of which has connected and waits for the answer to a lookup: when it comes.
    fn crowd(&self, seed: u64) -> Result<JoinSet<Result<Instant, Failure>>, Failure> {
        self.runtime.block_on(async {
            let mut crowd = JoinSet::new();
            for number in 0..self.limit as u64 {
                let mut connection = Connection::open(self.server.address).await?;
                let seed = seed + self.limit as u64 + number;
                let mut requests = Requests::new(Work::Lookup, self.options, seed);
                crowd.spawn(async move {
                    let answer = connection.exchange(requests.next()).await?;
                    right(answer.status)?;
                    Ok(now())
                });
            }
            Ok(crowd)
        })
    }

    /// Nanoseconds from one who leaves to the answer to the next one, who has asked before, for each of so many turns;
    /// and, for as many, those of a lookup over a new connection where there is room.
    fn turns(&mut self, turns: usize) -> Result<(Vec<u64>, Vec<u64>), Failure> {
        self.seed += 1;
        let mut requests = Requests::new(Work::Lookup, self.options, self.seed);
        let mut asked = 0;
        let mut ask = |client: &mut Client| -> Result<(), Failure> {
            asked += 1;
            right(client.exchange(requests.next())?.status)
        };
        let mut holders = VecDeque::new();
        for _ in 0..self.limit {
            let mut holder = Client::open(self.server.address)?;
            ask(&mut holder)?;
            holders.push_back(holder);
        }
        let (mut places, mut room) = (Vec::new(), Vec::new());
        let mut others = Requests::new(Work::Lookup, self.options, self.seed + 1_000_000);
        for _ in 0..turns {
            let mut next = Client::open(self.server.address)?;
            next.send(others.next())?;
            // While somebody else is answered, it would be too.
            holders.iter_mut().rev().take(2).try_for_each(&mut ask)?;
            if !next.is_silent()? {
                return Err("with all places taken, one more client was answered".into());
            }
            let left = now();
            drop(holders.pop_front());
            let status = next.receive()?.status;
            places.push(nanos(now() - left));
            right(status)?;
            holders.push_back(next);
        }
        // Half of the places: nobody waits for one, even before those who leave are noticed.
        holders.truncate(self.limit / 2);
        for _ in 0..turns {
            let begun = now();
            ask(&mut Client::open(self.server.address)?)?;
            room.push(nanos(now() - begun));
        }
        self.ledger.add(Work::Lookup, asked + turns as u64);
        Ok((places, room))
    }
}

/// Waits until all of them were let in and answered; when each of them was.
async fn let_in(mut crowd: JoinSet<Result<Instant, Failure>>) -> Result<Vec<Instant>, Failure> {
    let mut times = Vec::new();
    let all = async {
        while let Some(ended) = crowd.join_next().await {
            times.push(ended??);
        }
        Ok::<_, Failure>(())
    };
    match tokio::time::timeout(LET_IN, all).await {
        Ok(ended) => ended.map(|()| times),
        Err(_) => Err("places are free, but not all who waited for one were let in".into()),
    }
}

/// Places that the registry says are taken.
fn places_taken(client: &mut Client) -> Result<usize, Failure> {
    let (status, body) = client.get("/v1/status")?;
    let used = serde_json::from_str::<Value>(&body)?["limits"]["connections"]["used"].as_u64();
    let used = used.ok_or_else(|| format!("/v1/status was answered {status} {body}"))?;
    Ok(usize::try_from(used)?)
}

fn right(status: u16) -> Result<(), Failure> {
    match status {
        200 => Ok(()),
        status => Err(format!("a lookup was answered {status}").into()),
    }
}

fn show(sheet: &mut Sheet, limit: usize, found: Found) {
    let Found { rates, p99, places, room } = found;
    let busy = limit - 1;
    let whom = [
        format!("{busy} connections of at most {limit}, nobody waits"),
        format!("the same while {limit} wait for a place"),
    ];
    for (whom, rates) in whom.iter().zip(&rates) {
        sheet.rounds(format!("lookups, {whom}"), rates, "1/s");
    }
    for (whom, p99) in whom.iter().zip(&p99) {
        sheet.rounds(format!("p99 of lookups at half of the first rate, {whom}"), p99, "µs");
    }
    for (what, mut rounds) in [
        ("one leaves until the next one is answered", places),
        ("a new connection until it is answered, where there is room", room),
    ] {
        for (name, share) in [("median", 0.5), ("p99", 0.99)] {
            let micros: Vec<f64> =
                rounds.iter_mut().map(|round| quantile(round, share) / 1e3).collect();
            sheet.rounds(format!("{what}, {name}"), &micros, "µs");
        }
    }
}
