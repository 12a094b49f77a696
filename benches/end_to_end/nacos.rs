//! r-nacos beside rollcall, in turn and under the same load: the registry in Rust that engineers would take otherwise. It
//! keeps everything in memory and logs nothing, so that what rollcall remembers is in the comparison.
//!
//! Called by `main` for `--nacos BINARY` (`cargo install rnacos`). Both have the same fleet, whom nobody beats for while
//! lookups are measured: at Nacos' own 15 s it would go, so that it is registered anew before each round.

use std::path::Path;
use std::time::Duration;

use crate::Failure;
use crate::counters::Ledger;
use crate::fleet;
use crate::http1::Client;
use crate::load::{Load, Seen};
use crate::options::Options;
use crate::requests::nacos::list;
use crate::requests::{Entrant, Requests};
use crate::rounds::{PAUSE, PUT_OFF};
use crate::servers::Server;
use crate::sheet::{Sheet, progress};
use crate::work::Work;

/// Connections, unless the options say otherwise.
const CONNECTIONS: usize = 64;

/// What is measured, and how many times r-nacos' rate is to be reached, where that is a goal.
const WORKS: [(Work, Option<f64>); 3] =
    [(Work::Lookup, Some(3.5)), (Work::Heartbeat, Some(3.0)), (Work::Registration, None)];

/// What one round has seen of one of them.
struct Round {
    /// Requests a second.
    rate: f64,
    /// Microseconds of the server's processor time for one; NaN where the system does not say.
    cpu: f64,
}

impl Round {
    fn of(seen: &Seen, before: Option<Duration>, after: Option<Duration>) -> Self {
        let used = before.zip(after).map(|(before, after)| after.saturating_sub(before));
        let used = used.map_or(f64::NAN, |used| used.as_secs_f64());
        Self { rate: seen.rate(), cpu: used * 1e6 / seen.answered.max(1) as f64 }
    }
}

/// Measures both and shows the figures.
pub(crate) fn run(options: &Options, binary: &Path) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut sheet = Sheet::new("nacos", options);
    let (ours, theirs) = (tempfile::tempdir_in(&options.dir)?, tempfile::tempdir_in(&options.dir)?);
    let server = Server::rollcall(ours.path(), options)?;
    let nacos = Server::nacos(binary, theirs.path(), options)?;
    let mut ledger = Ledger::default();
    let fleet = fleet::register(server.address, options, options.services, options.instances)?;
    ledger.add(Work::Registration, fleet);

    let connections = options.connections.first().copied().unwrap_or(CONNECTIONS);
    let load = |server: &Server, work, requests: &dyn Fn(u64) -> Requests| {
        let (runtime, address, seconds) = (&runtime, server.address, options.seconds);
        Load { runtime, address, work, connections, seconds, requests }.closed()
    };
    let mut seed = 1;
    for (work, goal) in WORKS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 1..=options.rounds {
            progress(options, work.name(), round);
            let requests = |number| Requests::new(work, options, seed + number);
            let before = server.cpu();
            let seen = load(&server, work, &requests)?;
            ledger.add(work, seen.answered);
            // What it puts off counts too.
            std::thread::sleep(if options.quick { PAUSE } else { PUT_OFF });
            ours.push(Round::of(&seen, before, server.cpu()));
            register(&nacos, options)?;
            let before = nacos.cpu();
            let seen = load(&nacos, work, &|number| requests(number).of_nacos())?;
            std::thread::sleep(PAUSE);
            theirs.push(Round::of(&seen, before, nacos.cpu()));
            is_whole(&nacos, options)?;
            seed += connections as u64;
        }
        let name = work.name();
        let ratio = beside(&mut sheet, name, "1/s", (&ours, &theirs), |round| round.rate);
        if let Some(goal) = goal {
            sheet.at_least(&format!("{name}: rate over r-nacos'"), ratio, goal, "");
        }
        beside(&mut sheet, name, "µs of processor time", (&ours, &theirs), |round| round.cpu);
    }
    ledger.check(server.address)?;
    server.end()?;
    sheet.show(options)
}

/// Notes a figure of both, and gives the first one's over the other's.
fn beside(
    sheet: &mut Sheet,
    name: &str,
    unit: &'static str,
    (ours, theirs): (&[Round], &[Round]),
    figure: impl Fn(&Round) -> f64,
) -> f64 {
    let of = |rounds: &[Round]| rounds.iter().map(&figure).collect::<Vec<f64>>();
    let (ours, theirs) = (of(ours), of(theirs));
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    sheet.rounds(format!("{name}, rollcall"), &ours, unit);
    sheet.rounds(format!("{name}, r-nacos"), &theirs, unit);
    sheet.rounds(format!("{name}, {unit}, rollcall over r-nacos"), &ratios, "")
}

/// Registers the fleet, or says anew that it is there.
fn register(nacos: &Server, options: &Options) -> Result<(), Failure> {
    let mut client = Client::open(nacos.address)?;
    let mut requests = Requests::new(Work::Registration, options, 0);
    for member in 0..options.services * options.instances {
        let entrant = Entrant::fleet(member / options.instances, member % options.instances);
        let answer = client.exchange(requests.register_at_nacos(&entrant))?;
        if answer.status != 200 {
            return Err(format!("r-nacos answered a registration with {}", answer.status).into());
        }
    }
    Ok(())
}

/// Whether it still answers with everybody: a registry that has lost its fleet would be fast.
fn is_whole(nacos: &Server, options: &Options) -> Result<(), Failure> {
    let (service, _) = Entrant::fleet(options.services - 1, 0).names();
    let (status, body) = Client::open(nacos.address)?.get(&list(&service))?;
    let answered = body.matches("\"ip\":").count();
    if (status, answered) == (200, options.instances) {
        return Ok(());
    }
    Err(format!("r-nacos answered {status} with {answered} instances of {service}").into())
}
