//! Lookups one by one on many connections, pipelined on few, and over HTTP/2 on as few: as many requests under way each
//! time, of the registry and of a bare axum server in turn.
//!
//! ```text
//!   one by one    64 connections   ─▶ ◀─ ─▶ ◀─
//!   pipelined      4 connections   ─▶─▶─▶ ... 16 at once, then ◀─◀─◀─ ... in that order, then the next 16
//!   HTTP/2         4 connections   16 streams, of each one by one
//! ```
//!
//! Pipelined and over HTTP/2 each answer must be about the service that was asked for: nobody may be answered for another.

use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::pipeline::Pipeline;
use super::{http2, keep, pipeline};
use crate::Failure;
use crate::counters::Ledger;
use crate::fleet;
use crate::http1::Client;
use crate::load::{Load, Seen, Times, gathered};
use crate::options::Options;
use crate::report::{Figures, Measure, Row};
use crate::requests::Requests;
use crate::rounds::{PAUSE, PUT_OFF};
use crate::servers::Server;
use crate::sheet::{Sheet, progress};
use crate::work::Work;

/// Requests under way in all, unless the options say otherwise.
const UNDER_WAY: usize = 64;

/// Requests under way on one connection where there are several.
const DEPTH: usize = 16;

/// The service that the bare server always answers about.
const CONSTANT: &str = "service-00000";

/// How is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    OneByOne,
    Pipelined,
    Http2,
}

impl Way {
    const ALL: [Self; 3] = [Self::OneByOne, Self::Pipelined, Self::Http2];

    fn name(self) -> String {
        match self {
            Self::OneByOne => "one by one".to_owned(),
            Self::Pipelined => format!("pipelined by {DEPTH}"),
            Self::Http2 => format!("HTTP/2 by {DEPTH}"),
        }
    }

    /// Connections over which so many requests are under way.
    fn connections(self, under_way: usize) -> usize {
        if self == Self::OneByOne { under_way } else { under_way.div_ceil(DEPTH) }
    }
}

/// What answers must be about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    /// What was asked for.
    Asked,
    /// Always the same service.
    Constant,
}

impl Expected {
    /// The service that the answer to a lookup of `asked` must be about.
    pub(super) fn of(self, asked: &str) -> &str {
        match self {
            Self::Asked => asked,
            Self::Constant => CONSTANT,
        }
    }
}

/// What a lookup's request says, so that it can be said over HTTP/2 too.
#[derive(Debug)]
pub(super) struct Lookup<'a> {
    /// The path that it asks for.
    pub(super) path: &'a str,
    /// The trace that it belongs to.
    pub(super) traceparent: &'a str,
}

impl<'a> Lookup<'a> {
    /// Reads it off the bytes that go over HTTP/1.1.
    pub(super) fn read(request: &'a [u8]) -> Result<Self, Failure> {
        let mut lines = std::str::from_utf8(request)?.split("\r\n");
        let path = lines.next().and_then(|line| line.split(' ').nth(1));
        let traceparent = lines.find_map(|line| line.strip_prefix("traceparent: "));
        path.zip(traceparent)
            .map(|(path, traceparent)| Self { path, traceparent })
            .ok_or_else(|| "a request without a path or a trace".into())
    }

    /// The service that it is about.
    pub(super) fn service(&self) -> Result<&'a str, Failure> {
        let segment = self.path.split('/').nth(3);
        segment.ok_or_else(|| format!("{} is about no service", self.path).into())
    }
}

/// One measurement, with the processor time of the server for a request, and its writer's share, in microseconds.
struct Measured {
    seen: Seen,
    cpu: Option<f64>,
    writer: Option<f64>,
}

/// Measures all ways and notes the rows.
pub(super) fn run(runtime: &Runtime, options: &Options, sheet: &mut Sheet) -> Result<(), Failure> {
    let (dir, bodies) = (tempfile::tempdir_in(&options.dir)?, tempfile::tempdir_in(&options.dir)?);
    let server = Server::rollcall(dir.path(), options)?;
    let mut ledger = Ledger::default();
    let fleet = fleet::register(server.address, options, options.services, options.instances)?;
    ledger.add(Work::Registration, fleet);
    let path = format!("/v1/services/{CONSTANT}/instances");
    let (_, body) = Client::open(server.address)?.get(&path)?;
    ledger.add(Work::Lookup, 1);
    keep(bodies.path(), body.as_bytes())?;
    let bare = Server::bare(bodies.path(), options)?;

    let under_way = options.connections.first().copied().unwrap_or(UNDER_WAY);
    let mut rounds = Way::ALL.map(|_| Vec::new());
    let mut seed = 1;
    for round in 1..=options.rounds {
        for (way, rounds) in Way::ALL.into_iter().zip(&mut rounds) {
            progress(options, &way.name(), round);
            let mut measure = |server: &Server, expected| {
                seed += under_way as u64;
                measured(runtime, options, server, (way, under_way), expected, seed)
            };
            let ours = measure(&server, Expected::Asked)?;
            ledger.add(Work::Lookup, ours.seen.answered);
            rounds.push((ours, measure(&bare, Expected::Constant)?));
        }
    }
    for (way, rounds) in Way::ALL.into_iter().zip(&rounds) {
        add_rows(sheet, way, under_way, rounds);
    }
    ledger.check(server.address)?;
    server.end()
}

fn measured(
    runtime: &Runtime,
    options: &Options,
    server: &Server,
    (way, under_way): (Way, usize),
    expected: Expected,
    seed: u64,
) -> Result<Measured, Failure> {
    let ours = matches!(expected, Expected::Asked);
    let writer = || if ours { server.cpu_of_writer() } else { None };
    let (cpu, written) = (server.cpu(), writer());
    let connections = way.connections(under_way);
    let requests = |number| Requests::new(Work::Lookup, options, seed + number);
    let seen = match way {
        Way::OneByOne => {
            let (address, work, seconds) = (server.address, Work::Lookup, options.seconds);
            Load { runtime, address, work, connections, seconds, requests: &requests }.closed()
        }
        Way::Pipelined => runtime.block_on(async {
            let mut connected = Vec::new();
            for number in 0..connections as u64 {
                connected.push((Pipeline::open(server.address).await?, requests(number)));
            }
            let times = Times::of(options.seconds);
            let mut all = JoinSet::new();
            for (connection, requests) in connected {
                all.spawn(pipeline::closed(connection, requests, DEPTH, expected, times));
            }
            gathered(all, times).await
        }),
        Way::Http2 => runtime.block_on(async {
            let mut connected = Vec::new();
            for connection in 0..connections {
                let numbers = (connection * DEPTH) as u64..((connection + 1) * DEPTH) as u64;
                let requests = numbers.map(requests).collect();
                connected.push((http2::Connection::open(server.address).await?, requests));
            }
            let times = Times::of(options.seconds);
            let mut all = JoinSet::new();
            for (connection, requests) in connected {
                all.spawn(http2::closed(connection, requests, expected, times));
            }
            gathered(all, times).await
        }),
    }?;
    std::thread::sleep(if ours && !options.quick { PUT_OFF } else { PAUSE });
    let micros = |before: Option<Duration>, after: Option<Duration>| {
        let used = after?.saturating_sub(before?);
        Some(used.as_secs_f64() * 1e6 / seen.answered.max(1) as f64)
    };
    Ok(Measured { cpu: micros(cpu, server.cpu()), writer: micros(written, writer()), seen })
}

fn add_rows(sheet: &mut Sheet, way: Way, under_way: usize, rounds: &[(Measured, Measured)]) {
    let connections = way.connections(under_way);
    let mut add = |measure, figure: &dyn Fn(&Measured) -> Option<f64>| {
        let figures = rounds.iter().filter_map(|(ours, bare)| {
            let (baseline, hyper) = (None, None);
            Some(Figures { rollcall: figure(ours)?, baseline, axum: figure(bare), hyper })
        });
        let rounds: Vec<Figures> = figures.collect();
        if !rounds.is_empty() {
            let (work, protocol) = (Work::Lookup, Some(way.name()));
            sheet.rows.push(Row { work, protocol, connections, measure, load: None, rounds });
        }
    };
    add(Measure::Rate, &|measured| Some(measured.seen.rate()));
    add(Measure::Cpu, &|measured| measured.cpu);
    add(Measure::Writer, &|measured| measured.writer);
}
