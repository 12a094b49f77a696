//! Resident memory of a registry of its own: at the start, with the instances in it, and after every service was
//! looked up once, when all answers are kept.

use std::time::Duration;

use crate::Failure;
use crate::fleet;
use crate::http1::Client;
use crate::options::Options;
use crate::requests::Entrant;
use crate::servers::Server;
use crate::sheet::Sheet;

/// Instances that every run measures with, in services of as many as the fleet's.
const USUAL: usize = 10_000;

/// Services of the mode.
const SERVICES: usize = 10_000;

/// How long the registry rests after the registrations: its allocator gives back within some ten seconds what they took
/// on their way, which is no part of what an instance takes.
const GIVEN_BACK: Duration = Duration::from_secs(12);

/// What a registry takes, in bytes.
struct Resident {
    at_start: u64,
    registered: u64,
    looked_up: u64,
}

/// As a part of every run: few instances.
pub(crate) fn usual(options: &Options, sheet: &mut Sheet) -> Result<(), Failure> {
    let services = if options.quick { 20 } else { USUAL / options.instances };
    let Some(resident) = measure(options, services, options.instances)? else { return Ok(()) };
    let count = services * options.instances;
    note(sheet, &resident, count);
    sheet.at_most("memory at the start", resident.at_start as f64 / 1e6, 15.0, " MB");
    Ok(())
}

/// As a mode: as many as asked for, in ten thousand services.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let services = SERVICES.min(options.memory);
    let each = options.memory / services;
    let count = services * each;
    let Some(resident) = measure(options, services, each)? else {
        return Err("resident memory is read from /proc, and there is none here".into());
    };
    let strings: usize = (0..services).map(|service| strings(service, each)).sum();
    let per = |bytes: f64| bytes / count as f64;
    let grown = resident.registered.saturating_sub(resident.at_start) as f64;
    let mut sheet = Sheet::new("memory", options);
    note(&mut sheet, &resident, count);
    sheet.figure("bytes of an instance", per(grown), "B");
    sheet.figure("bytes of its strings", per(strings as f64), "B");
    let over = per(grown) - per(strings as f64);
    sheet.at_most("memory of an instance over the bytes of its strings", over, 400.0, " B");
    sheet.at_most("memory at the start", resident.at_start as f64 / 1e6, 15.0, " MB");
    if count == 1_000_000 {
        let registered = resident.registered as f64 / 1e9;
        sheet.at_most("memory with 1,000,000 instances", registered, 1.0, " GB");
    }
    sheet.show(options)
}

fn note(sheet: &mut Sheet, resident: &Resident, count: usize) {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    sheet.figure("resident at the start", megabytes(resident.at_start), "MB");
    let name = format!("resident with {count} instances of 3 tags and 3 metadata");
    sheet.figure(name, megabytes(resident.registered), "MB");
    let name = "resident after a lookup of every service";
    sheet.figure(name, megabytes(resident.looked_up), "MB");
}

/// Measures; none where the system does not say.
fn measure(
    options: &Options,
    services: usize,
    instances: usize,
) -> Result<Option<Resident>, Failure> {
    let dir = tempfile::tempdir_in(&options.dir)?;
    let server = Server::rollcall(dir.path(), options)?;
    let Some(at_start) = server.resident_bytes() else { return Ok(None) };
    fleet::register(server.address, options, services, instances)?;
    if !options.quick {
        std::thread::sleep(GIVEN_BACK);
    }
    let registered = server.resident_bytes().unwrap_or_default();
    let mut client = Client::open(server.address)?;
    for service in 0..services {
        let (status, _) = client.get(&format!("/v1/services/service-{service:05}/instances"))?;
        if status != 200 {
            return Err(format!("a lookup was answered {status}").into());
        }
    }
    let looked_up = server.resident_bytes().unwrap_or_default();
    server.end()?;
    Ok(Some(Resident { at_start, registered, looked_up }))
}

/// Bytes of the strings of a service: its own name, and of each instance what it says of itself and its id.
fn strings(service: usize, instances: usize) -> usize {
    let name = format!("service-{service:05}").len();
    let one = |instance: usize| -> usize {
        let body = Entrant::fleet(service, instance).body();
        let id = format!("instance-{instance:05}").len();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        id + texts(&body)
    };
    name + (0..instances).map(one).sum::<usize>()
}

/// Bytes of all texts in a value that are kept as such: not the names of its fields, not the ttl, which is a number.
fn texts(body: &serde_json::Value) -> usize {
    let text = |value: &serde_json::Value| value.as_str().map_or(0, str::len);
    let plain: usize = ["address", "version", "zone"].iter().map(|name| text(&body[*name])).sum();
    let tags: usize = body["tags"].as_array().into_iter().flatten().map(text).sum();
    let pairs = body["metadata"].as_object().into_iter().flatten();
    plain + tags + pairs.map(|(key, value)| key.len() + text(value)).sum::<usize>()
}
