//! What tracing costs a lookup: with no collector, with one but unsampled, and sampled with its span exported. Processor
//! time at one steady rate, in turn; the sampled ones within what the registry keeps of a caller.

use std::io::Write as _;
use std::time::Duration;

use crate::Failure;
use crate::fleet;
use crate::load::Load;
use crate::options::Options;
use crate::requests::Requests;
use crate::servers::Server;
use crate::sheet::{Sheet, median};
use crate::sink::Sink;
use crate::work::Work;

/// Lookups a second.
const RATE: f64 = 2_000.0;

/// Connections that they come over.
const CONNECTIONS: usize = 8;

/// How long the exporter may take to send what it holds; it waits for up to five seconds.
const EXPORTED: Duration = Duration::from_secs(6);

/// The three ways, with the percentage that the caller samples.
const WAYS: [(&str, bool, f64); 3] =
    [("no collector", false, 0.0), ("unsampled", true, 0.0), ("sampled", true, 100.0)];

/// Measures the three ways in turn and shows the figures.
pub(crate) fn run(options: &Options, sink: Option<&Sink>) -> Result<(), Failure> {
    let sink = sink.ok_or("what a sampled lookup costs is measured with `--otlp own`")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut servers = Vec::new();
    for (_, collector, sampled) in WAYS {
        let mut options = Options { sampled, ..options.clone() };
        if !collector {
            options.endpoint = None;
        }
        // All that are sampled shall be kept: the cap is what protects from this.
        options.serve.push("--trace-caller-rate=1000000".to_owned());
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
        for (way, (server, options, _)) in servers.iter().enumerate() {
            let what = WAYS[way].0;
            // Progress only: where nobody reads, nothing is lost.
            let _ =
                writeln!(std::io::stderr(), "{what}: round {} of {}", round + 1, options.rounds);
            let (before, spans) = (server.cpu_of(""), sink.spans());
            let seen = Load {
                runtime: &runtime,
                address: server.address,
                work: Work::Lookup,
                connections: CONNECTIONS,
                seconds: options.seconds,
                requests: &|number| Requests::new(Work::Lookup, options, 1_000 * round + number),
            }
            .open(RATE)?;
            std::thread::sleep(rest);
            let used = server.cpu_of("").zip(before).map(|(after, before)| after - before);
            let used = used.ok_or("processor time is read from /proc, and there is none here")?;
            micros[way].push(used.as_secs_f64() * 1e6 / seen.answered as f64);
            if way == 2 {
                exported += sink.spans() - spans;
                sampled += seen.answered;
            }
        }
    }
    for (server, ..) in servers {
        server.end()?;
    }
    show(options, &micros, exported, sampled)
}

fn show(
    options: &Options,
    micros: &[Vec<f64>; 3],
    exported: u64,
    sampled: u64,
) -> Result<(), Failure> {
    let mut sheet = Sheet::new("tracing", options);
    for ((name, ..), micros) in WAYS.iter().zip(micros) {
        let name = format!("processor time of a lookup, {name}");
        sheet.figure(name, median(micros.iter().copied()), "µs");
    }
    sheet.figure("spans exported of lookups sampled", exported as f64 / sampled as f64, "");
    let more = |way: usize, than: usize| {
        median(micros[way].iter().zip(&micros[than]).map(|(more, less)| more - less))
    };
    sheet.at_most("a sampled lookup costs more than one that is not", more(2, 1), 12.0, " µs");
    sheet.at_most("unsampled tracing costs more than none", more(1, 0), 0.4, " µs");
    // What was dropped was not paid for. The small form does not wait for the last export.
    if !options.quick && (exported as f64) < 0.9 * sampled as f64 {
        return Err(format!("{exported} of {sampled} spans were exported").into());
    }
    sheet.show(options)
}
