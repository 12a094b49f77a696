//! The three kinds of work as requests: the very bytes that go over the wire. Both servers get the same ones.

use std::io::Write as _;
use std::time::Duration;

use fastrand::Rng;

use crate::options::Options;

/// What is asked of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Work {
    /// The default answer of a service.
    Lookup,
    /// A renewed lease, with a load in its body.
    Heartbeat,
    /// A registration that is new or replaces another one: always a change, never an `unchanged`.
    Registration,
}

impl Work {
    /// Its word in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Heartbeat => "heartbeat",
            Self::Registration => "registration",
        }
    }

    /// The kind of event that one request of it becomes.
    pub(crate) fn event(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Heartbeat => "heartbeat",
            Self::Registration => "registered",
        }
    }

    /// Method and route, as the metrics label them.
    pub(crate) fn route(self) -> (&'static str, &'static str) {
        match self {
            Self::Lookup => ("GET", "/v1/services/{service}/instances"),
            Self::Heartbeat => ("PUT", "/v1/services/{service}/instances/{instance}/heartbeat"),
            Self::Registration => ("PUT", "/v1/services/{service}/instances/{instance}"),
        }
    }

    /// The file with the body that the bare server answers to it.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Lookup => "lookup.json",
            Self::Heartbeat => "heartbeat.json",
            Self::Registration => "registration.json",
        }
    }
}

/// A ttl so long that nothing expires while others are measured.
const LONG: Duration = Duration::from_secs(24 * 3_600);

/// The ttl of those that are to expire: time enough to register them all.
pub(crate) const DOOMED_TTL: Duration = Duration::from_secs(60);

/// Makes requests, one after the other, into one buffer.
pub(crate) struct Requests {
    work: Work,
    rng: Rng,
    services: usize,
    instances: usize,
    /// Of a million.
    sampled: u32,
    buffer: Vec<u8>,
    body: Vec<u8>,
}

impl Requests {
    /// The requests of one connection; `seed` tells it from the others.
    pub(crate) fn new(work: Work, options: &Options, seed: u64) -> Self {
        let (services, instances) = (options.services, options.instances);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a percentage, clamped"
        )]
        let sampled = (options.sampled.clamp(0.0, 100.0) * 10_000.0) as u32;
        let rng = Rng::with_seed(seed);
        Self { work, rng, services, instances, sampled, buffer: Vec::new(), body: Vec::new() }
    }

    /// The next one, about somebody at random.
    pub(crate) fn next(&mut self) -> &[u8] {
        let service = self.rng.usize(..self.services);
        let instance = self.rng.usize(..self.instances);
        match self.work {
            Work::Lookup => {
                self.begin(format_args!("GET /v1/services/service-{service:05}/instances"));
                self.buffer.extend_from_slice(b"\r\n");
            }
            Work::Heartbeat => {
                self.begin(format_args!(
                    "PUT /v1/services/service-{service:05}/instances/instance-{instance:05}/heartbeat"
                ));
                self.body.clear();
                put(&mut self.body, format_args!("{{\"load\":0.{:02}}}", self.rng.u8(10..100)));
                self.end_with_body();
            }
            // Services of their own, so that lookups stay what they are. A random version makes each a change.
            Work::Registration => {
                let version = self.rng.u32(10_000_000..100_000_000);
                self.register("load", service, instance, version, LONG);
            }
        }
        &self.buffer
    }

    /// The registration of one instance of the fleet that lookups and heartbeats are about.
    pub(crate) fn fleet(&mut self, service: usize, instance: usize) -> &[u8] {
        self.register("service", service, instance, 10_000_000, LONG);
        &self.buffer
    }

    /// The registration of one that nobody will beat for.
    pub(crate) fn doomed(&mut self, service: usize, instance: usize) -> &[u8] {
        self.register("doomed", service, instance, 10_000_000, DOOMED_TTL);
        &self.buffer
    }

    fn register(
        &mut self,
        prefix: &str,
        service: usize,
        instance: usize,
        version: u32,
        ttl: Duration,
    ) {
        self.begin(format_args!(
            "PUT /v1/services/{prefix}-{service:05}/instances/instance-{instance:05}"
        ));
        self.body.clear();
        put(
            &mut self.body,
            format_args!(
                "{{\"address\":\"10.1.{}.{}\",\"port\":8080,\"version\":\"{version}\",\"zone\":\"eu-1a\",\
                 \"tags\":[\"canary\",\"blue\",\"edge\"],\
                 \"metadata\":{{\"env\":\"prod\",\"team\":\"checkout\",\"region\":\"eu-1\"}},\"ttl\":\"{}s\"}}",
                service % 256,
                instance % 256,
                ttl.as_secs(),
            ),
        );
        self.end_with_body();
    }

    /// Request line and the headers that all have.
    fn begin(&mut self, line: std::fmt::Arguments<'_>) {
        let flags = u8::from(self.rng.u32(..1_000_000) < self.sampled);
        let (trace, span) = (self.rng.u128(1..), self.rng.u64(1..));
        self.buffer.clear();
        put(
            &mut self.buffer,
            format_args!(
                "{line} HTTP/1.1\r\nhost: 127.0.0.1\r\nrollcall-caller: driver\r\n\
                 traceparent: 00-{trace:032x}-{span:016x}-{flags:02x}\r\n"
            ),
        );
    }

    fn end_with_body(&mut self) {
        let length = self.body.len();
        put(
            &mut self.buffer,
            format_args!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n"),
        );
        self.buffer.extend_from_slice(&self.body);
    }
}

fn put(buffer: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    buffer.write_fmt(text).expect("a vector takes what it is given");
}
