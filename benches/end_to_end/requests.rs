//! The work as requests: the very bytes that go over the wire. All servers get the same ones.

pub(crate) mod nacos;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::options::Options;
use crate::work::{BATCH, Work};

/// A ttl so long that nothing expires while others are measured.
pub(crate) const LONG: Duration = Duration::from_secs(24 * 3_600);

/// The ttl of those that are to expire: time enough to register them all.
pub(crate) const DOOMED_TTL: Duration = Duration::from_secs(60);

/// Services that are large enough to be filtered.
pub(crate) const WIDE_SERVICES: usize = 10;

/// Instances of each of them; one in twenty matches [`FILTER`].
pub(crate) const WIDE: usize = 100;

/// The filter of filtered lookups.
pub(crate) const FILTER: &str = "tag=canary&zone=eu-1a&meta.env=prod";

/// One instance to be registered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entrant {
    /// The part of the service's name before its number.
    pub(crate) prefix: &'static str,
    /// The number of its service.
    pub(crate) service: usize,
    /// Its number there.
    pub(crate) instance: usize,
    /// Its version: another one makes the registration a change.
    pub(crate) version: u32,
    /// Its lease.
    pub(crate) ttl: Duration,
}

impl Entrant {
    /// One of the fleet that lookups and heartbeats are about.
    pub(crate) fn fleet(service: usize, instance: usize) -> Self {
        Self { prefix: "service", service, instance, version: 10_000_000, ttl: LONG }
    }

    /// One of a service that is filtered.
    pub(crate) fn wide(service: usize, instance: usize) -> Self {
        Self { prefix: "wide", ..Self::fleet(service, instance) }
    }

    /// One that nobody will beat for.
    pub(crate) fn doomed(service: usize, instance: usize) -> Self {
        Self { prefix: "doomed", ttl: DOOMED_TTL, ..Self::fleet(service, instance) }
    }

    /// The names of its service and its own.
    pub(crate) fn names(&self) -> (String, String) {
        let Self { prefix, service, instance, .. } = self;
        (format!("{prefix}-{service:05}"), format!("instance-{instance:05}"))
    }

    /// The path that it is registered at.
    pub(crate) fn path(&self) -> String {
        let (service, instance) = self.names();
        format!("/v1/services/{service}/instances/{instance}")
    }

    /// What it says of itself: three tags, three pairs of metadata, as many bytes for everybody.
    pub(crate) fn body(&self) -> String {
        // In the fleet all are alike; of the wide ones each filter takes its share: 1/2, 1/2 and 1/5.
        let wide = if self.prefix == "wide" { self.instance } else { 0 };
        format!(
            "{{\"address\":\"10.1.{}.{}\",\"port\":8080,\"version\":\"{}\",\"zone\":\"{}\",\
             \"tags\":[\"{}\",\"blue\",\"edge\"],\
             \"metadata\":{{\"env\":\"{}\",\"team\":\"checkout\",\"region\":\"eu-1\"}},\"ttl\":\"{}ms\"}}",
            self.service % 256,
            self.instance % 256,
            self.version,
            if wide.is_multiple_of(2) { "eu-1a" } else { "eu-1b" },
            if (wide / 2).is_multiple_of(2) { "canary" } else { "stable" },
            if (wide / 4).is_multiple_of(5) { "prod" } else { "test" },
            self.ttl.as_millis(),
        )
    }
}

/// What a driver knows of the fleet before it begins.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// What the answers of the services were tagged with, for [`Work::Unchanged`].
    tags: Vec<String>,
    /// The whole fleet as entries of a batch of heartbeats, each with a comma and equally long: to write them anew for
    /// every request would cost the driver as much as the server that is measured.
    beats: Vec<u8>,
}

impl Known {
    /// What is known of a fleet as large as `options` say.
    pub(crate) fn new(options: &Options, tags: Vec<String>) -> Arc<Self> {
        let mut beats = Vec::new();
        for member in 0..options.services * options.instances {
            put_beat(&mut beats, member / options.instances, member % options.instances);
        }
        Arc::new(Self { tags, beats })
    }
}

/// One entry of a batch of heartbeats, with a comma.
fn put_beat(body: &mut Vec<u8>, service: usize, instance: usize) {
    put(
        body,
        format_args!(
            "{{\"service\":\"service-{service:05}\",\"instance\":\"instance-{instance:05}\"}},"
        ),
    );
}

/// Makes requests, one after the other, into one buffer.
pub(crate) struct Requests {
    work: Work,
    rng: Rng,
    services: usize,
    instances: usize,
    /// Of a million.
    sampled: u32,
    known: Arc<Known>,
    buffer: Vec<u8>,
    body: Vec<u8>,
    /// Says it in the words of Nacos.
    is_nacos: bool,
}

impl Requests {
    /// The requests of one connection; `seed` tells it from the others.
    pub(crate) fn new(work: Work, options: &Options, seed: u64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a percentage, clamped"
        )]
        let sampled = (options.sampled.clamp(0.0, 100.0) * 10_000.0) as u32;
        Self {
            work,
            rng: Rng::with_seed(seed),
            services: options.services,
            instances: options.instances,
            sampled,
            known: Arc::default(),
            buffer: Vec::new(),
            body: Vec::new(),
            is_nacos: false,
        }
    }

    /// The same, by somebody who knows the fleet: what [`Work::Unchanged`] and [`Work::Batch`] need.
    pub(crate) fn with(self, known: &Arc<Known>) -> Self {
        Self { known: Arc::clone(known), ..self }
    }

    /// The next one, about somebody at random.
    pub(crate) fn next(&mut self) -> &[u8] {
        let service = self.rng.usize(..self.services);
        let instance = self.rng.usize(..self.instances);
        if self.is_nacos {
            self.next_of_nacos(service, instance);
            return &self.buffer;
        }
        match self.work {
            Work::Lookup => {
                self.begin(format_args!("GET /v1/services/service-{service:05}/instances"));
                self.buffer.extend_from_slice(b"\r\n");
            }
            Work::Unchanged => {
                self.begin(format_args!("GET /v1/services/service-{service:05}/instances"));
                let tag = self.known.tags.get(service).map_or("", String::as_str);
                put(&mut self.buffer, format_args!("if-none-match: {tag}\r\n\r\n"));
            }
            Work::Filtered => {
                let service = service % WIDE_SERVICES;
                self.begin(format_args!("GET /v1/services/wide-{service:05}/instances?{FILTER}"));
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
            // A thousand who follow on each other, from somebody at random on; after the last comes the first.
            Work::Batch => {
                let known = Arc::clone(&self.known);
                let members = self.services * self.instances;
                let (first, each) = (self.rng.usize(..members), known.beats.len() / members);
                let one = &known.beats[first * each..known.beats.len().min((first + BATCH) * each)];
                let rest = &known.beats[..BATCH * each - one.len()];
                self.begin_batch();
                self.body.extend_from_slice(one);
                self.body.extend_from_slice(rest);
                self.end_batch();
            }
            // Services of their own, so that lookups stay what they are. A random version makes each a change.
            Work::Registration => {
                let version = self.rng.u32(10_000_000..100_000_000);
                let entrant = Entrant::fleet(service, instance);
                self.register(&Entrant { prefix: "load", version, ..entrant });
            }
        }
        &self.buffer
    }

    /// A batch of heartbeats of these members of the fleet, counted over all services.
    pub(crate) fn batch(&mut self, members: impl Iterator<Item = usize>) -> &[u8] {
        self.begin_batch();
        for member in members {
            put_beat(&mut self.body, member / self.instances, member % self.instances);
        }
        self.end_batch();
        &self.buffer
    }

    fn begin_batch(&mut self) {
        self.begin(format_args!("POST /v1/heartbeats"));
        self.body.clear();
        self.body.extend_from_slice(b"{\"instances\":[");
    }

    fn end_batch(&mut self) {
        // The comma after the last one.
        if self.body.ends_with(b",") {
            self.body.pop();
        }
        self.body.extend_from_slice(b"]}");
        self.end_with_body();
    }

    /// The registration of one instance.
    pub(crate) fn register(&mut self, entrant: &Entrant) -> &[u8] {
        self.begin(format_args!("PUT {}", entrant.path()));
        self.body.clear();
        self.body.extend_from_slice(entrant.body().as_bytes());
        self.end_with_body();
        &self.buffer
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
