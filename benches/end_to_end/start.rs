//! How soon a registry answers after its start: a long log without a snapshot, beside a bare SELECT that decodes the same
//! rows; and many living instances from a snapshot, to the first right answer.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::Failure;
use crate::http1::Client;
use crate::load::now;
use crate::logs::{self, DATA, Fleet};
use crate::options::Options;
use crate::plain;
use crate::requests::Entrant;
use crate::servers::Server;
use crate::sheet::{Sheet, median, round};

/// Instances of a service that lives.
const PER_SERVICE: usize = 100;

/// Measures both and shows the figures.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let mut sheet = Sheet::new("start", options);
    replayed(options, &mut sheet)?;
    living(options, &mut sheet)?;
    sheet.show(options)
}

/// Replays a log that has no snapshot, each time a fresh copy: a registry that ran would have made one.
fn replayed(options: &Options, sheet: &mut Sheet) -> Result<(), Failure> {
    let original = tempfile::tempdir_in(&options.dir)?;
    logs::busy(original.path(), options.start)?;
    let changes = options.start as f64;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let copy = copied(original.path(), options)?;
        let began = now();
        let read = plain::select(&copy.path().join(DATA));
        bare.push(changes / began.elapsed().as_secs_f64());
        if read != options.start as u64 {
            return Err(format!("the log holds {read} changes").into());
        }
        let server = Server::rollcall(copy.path(), options)?;
        let status: serde_json::Value =
            serde_json::from_str(&Client::open(server.address)?.get("/v1/status")?.1)?;
        let figure = |name: &str| {
            let figure = status["replay"][name].as_u64();
            figure.ok_or_else(|| format!("a status without replay.{name}"))
        };
        if figure("changes")? != read {
            return Err(format!("{} of {read} changes were replayed", figure("changes")?).into());
        }
        // At least one, so that the small form of it does not divide by nothing.
        let took = Duration::from_millis(figure("took_ms")?.max(1));
        ours.push(changes / took.as_secs_f64());
        server.end()?;
    }
    let ratios = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare);
    let ratio = median(ratios);
    sheet.figure(format!("replay of {changes} changes"), median(ours), "1/s");
    sheet.figure("bare SELECT that decodes them", median(bare), "1/s");
    sheet.at_least("replay without a snapshot: rate over a bare SELECT", ratio, 0.6, "");
    Ok(())
}

fn copied(original: &Path, options: &Options) -> Result<TempDir, Failure> {
    let copy = tempfile::tempdir_in(&options.dir)?;
    std::fs::create_dir(copy.path().join(DATA))?;
    for entry in std::fs::read_dir(original.join(DATA))? {
        let file = entry?;
        std::fs::copy(file.path(), copy.path().join(DATA).join(file.file_name()))?;
    }
    Ok(copy)
}

/// Starts with as many living instances as there were changes, from a snapshot.
fn living(options: &Options, sheet: &mut Sheet) -> Result<(), Failure> {
    let services = options.start.div_ceil(PER_SERVICE);
    let dir = tempfile::tempdir_in(&options.dir)?;
    Fleet { services, instances: PER_SERVICE, entrant: Entrant::fleet, snapshot: true }
        .write(dir.path())?;
    let mut seconds = Vec::new();
    for _ in 0..options.rounds {
        let began = now();
        let server = Server::rollcall(dir.path(), options)?;
        let path = format!("/v1/services/service-{:05}/instances", services - 1);
        let (status, body) = Client::open(server.address)?.get(&path)?;
        seconds.push(began.elapsed().as_secs_f64());
        let answered = body.matches("\"incarnation\"").count();
        if (status, answered) != (200, PER_SERVICE) {
            return Err(format!("the first answer was {status} with {answered} instances").into());
        }
        server.end()?;
    }
    let took = median(seconds);
    let count = services * PER_SERVICE;
    sheet.figure(format!("start with {count} instances from a snapshot"), took, "s");
    // The goal is one of a million; less is held against its share of it.
    let most = 2.5 * count as f64 / 1e6;
    let name = format!("start with {count} instances, first right answer within {} s", round(most));
    if count >= 1_000_000 {
        sheet.at_most(&name, took, most, " s");
    }
    Ok(())
}
