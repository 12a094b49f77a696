//! The JSON text of answers. Separate from the domain's types and from what is stored: a field that is
//! renamed there must not change the API. Called by the handlers.

use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue};
use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use super::check::CheckText;
use super::encoding::Encoder;
use super::etag::Tags;
use crate::clock::Clock;
use crate::domain::health::ProbeVerdict;
use crate::domain::selection::Filter;
use crate::domain::{Instance, Labels, Millis, Seq, Signals};
use crate::lease::Lease;
use crate::projection::{Answer, Content, EntryRef, ServiceView};
use crate::rfc3339;

/// What the text of an instance is long, about, in bytes.
const TEXT_BYTES: usize = 400;

/// An instance as answered; its order of fields is the contract's.
#[derive(Serialize)]
pub(super) struct InstanceText<'a> {
    namespace: &'a str,
    service: &'a str,
    instance: &'a str,
    incarnation: u64,
    address: &'a str,
    port: u16,
    protocol: &'a str,
    version: Option<&'a str>,
    zone: Option<&'a str>,
    weight: u16,
    #[serde(serialize_with = "tags")]
    tags: &'a Labels,
    #[serde(serialize_with = "metadata")]
    metadata: &'a Labels,
    mode: &'static str,
    status: &'static str,
    ttl: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<CheckText<'a>>,
    registered_at: String,
    revision: u64,
    // What most instances have not is left out, so that these read as they always did.
    #[serde(skip_serializing_if = "Option::is_none")]
    drain_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detector: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phi_threshold: Option<f64>,
}

fn tags<S: Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(labels.tags())
}

fn metadata<S: Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
    let metadata = labels.metadata();
    let mut map = serializer.serialize_map(Some(metadata.len()))?;
    for (key, value) in metadata {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

/// Any answer as JSON.
pub(super) fn json(value: &impl Serialize) -> Bytes {
    let text =
        serde_json::to_vec(value).expect("the answers' types have text keys and no failing parts");
    Bytes::from(text)
}

impl<'a> InstanceText<'a> {
    /// The text of this instance.
    pub(super) fn of(instance: &'a Instance) -> Self {
        Self {
            namespace: instance.key.service.namespace.as_str(),
            service: instance.key.service.service.as_str(),
            instance: instance.key.instance.as_str(),
            incarnation: instance.incarnation.0,
            address: &instance.endpoint.address,
            port: instance.endpoint.port,
            protocol: &instance.endpoint.protocol,
            version: instance.labels.version(),
            zone: instance.labels.zone(),
            weight: instance.weight,
            tags: &instance.labels,
            metadata: &instance.labels,
            mode: instance.mode.as_str(),
            status: instance.status.as_str(),
            ttl: instance.ttl_text(),
            check: instance.check.as_deref().map(CheckText::of),
            registered_at: rfc3339::format(instance.registered_at),
            revision: instance.revision.0,
            drain_until: instance.drain_until.map(rfc3339::format),
            detector: instance.detector.threshold().map(|_| instance.detector.as_str()),
            phi_threshold: instance.detector.threshold(),
        }
    }
}

/// An instance without its lease.
pub(super) fn instance(instance: &Instance) -> Bytes {
    json(&InstanceText::of(instance))
}

/// A lease as answered.
#[derive(Serialize)]
struct LeaseText {
    last_heartbeat_at: Option<String>,
    age_ms: u64,
    expires_in_ms: Option<u64>,
    missed: u64,
    /// Left out as long as it said none.
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<f64>,
    /// How suspicious the silence is to the adaptive detector, where it decides.
    #[serde(flatten)]
    suspicion: Option<Suspicion>,
    /// What speaks for and against the instance, where one instance was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    signals: Option<SignalsText>,
}

/// φ of the silence so far.
#[derive(Serialize)]
struct Suspicion {
    phi: f64,
    mean_gap_ms: u64,
}

/// Signals as answered.
#[derive(Serialize)]
struct SignalsText {
    late: bool,
    reported_failing: bool,
    probe: Option<&'static str>,
    flapping: bool,
}

impl SignalsText {
    fn of(signals: Signals) -> Self {
        let Signals { late, reported_failing, probe, flapping } = signals;
        Self { late, reported_failing, probe: probe.map(ProbeVerdict::as_str), flapping }
    }
}

/// Where a lease stands now. `age_ms` counts from the last sign of life, or from the end of the last stall
/// of the registry itself, which gives every lease a fresh ttl.
fn lease(lease: &Lease, clock: &dyn Clock, signals: Option<Signals>) -> LeaseText {
    let age = clock.monotonic().since(lease.counts_from(clock.awake_since()));
    let (age_ms, ttl_ms) = (age.millis(), lease.ttl().map(Millis::millis));
    let ends_ms = lease.expires_after().map(Millis::millis);
    let suspicion = lease
        .accrual(age)
        .map(|accrual| Suspicion { phi: accrual.phi(), mean_gap_ms: accrual.mean_gap.millis() });
    // Heartbeats that should have come meanwhile, as the arithmetic of an expiry counts them.
    let interval_ms = match &suspicion {
        Some(suspicion) => Some(suspicion.mean_gap_ms),
        None => ttl_ms.map(|ttl_ms| ttl_ms / 4),
    };
    LeaseText {
        last_heartbeat_at: lease.last_heartbeat_at().map(rfc3339::format),
        age_ms,
        expires_in_ms: ends_ms.map(|ends_ms| ends_ms.saturating_sub(age_ms)),
        missed: interval_ms.map_or(0, |interval_ms| age_ms / interval_ms.max(1)),
        load: lease.load(),
        suspicion,
        signals: signals.map(SignalsText::of),
    }
}

/// An instance with its lease and its signals.
pub(super) fn with_lease(living: &Instance, lease: &Lease, clock: &dyn Clock) -> Bytes {
    let mut out = BytesMut::new();
    put_with_lease(&mut out, &instance(living), lease, clock, Some(living.signals));
    out.freeze()
}

/// The text of an instance with its lease put in; without it, where the past is shown.
fn put_with_lease(
    out: &mut BytesMut,
    plain: &[u8],
    lease: &Lease,
    clock: &dyn Clock,
    signals: Option<Signals>,
) {
    if lease.is_for_show() {
        return out.put_slice(plain);
    }
    // The text ends with the brace that the lease goes before.
    out.put_slice(&plain[..plain.len() - 1]);
    out.put_slice(b",\"lease\":");
    out.put_slice(&json(&self::lease(lease, clock, signals)));
    out.put_u8(b'}');
}

/// A lease of a list of them.
#[derive(Serialize)]
struct LeaseOf<'a> {
    instance: &'a str,
    #[serde(flatten)]
    lease: LeaseText,
}

/// The leases of a service.
#[derive(Serialize)]
struct LeasesText<'a> {
    namespace: &'a str,
    service: &'a str,
    revision: u64,
    leases: Vec<LeaseOf<'a>>,
}

/// The leases of a service, without those that are for show: where the past is replayed, nobody knows how they stood.
pub(super) fn leases(view: &ServiceView, clock: &dyn Clock) -> Bytes {
    let entries = view.entries.iter().filter(|entry| !entry.lease.is_for_show());
    let leases = entries.map(|entry| LeaseOf {
        instance: entry.instance.key.instance.as_str(),
        lease: lease(entry.lease, clock, None),
    });
    json(&LeasesText {
        namespace: view.key.namespace.as_str(),
        service: view.key.service.as_str(),
        revision: view.revision.0,
        leases: leases.collect(),
    })
}

/// How a list begins.
fn put_head(out: &mut BytesMut, view: &ServiceView, degraded: bool) {
    // Names need no escaping: the rule of names lets nothing through that JSON would.
    out.put_slice(b"{\"namespace\":\"");
    out.put_slice(view.key.namespace.as_str().as_bytes());
    out.put_slice(b"\",\"service\":\"");
    out.put_slice(view.key.service.as_str().as_bytes());
    out.put_slice(b"\",\"revision\":");
    out.put_slice(view.revision.0.to_string().as_bytes());
    if degraded {
        out.put_slice(b",\"degraded\":true");
    }
    out.put_slice(b",\"instances\":[");
}

/// How a list ends.
const TAIL: &[u8] = b"]}";

/// The list of a service: who of it is handed out, and whether only for want of better ones.
pub(super) fn list<'a>(
    view: &ServiceView,
    degraded: bool,
    entries: impl Iterator<Item = EntryRef<'a>> + Clone,
    leases: Option<&dyn Clock>,
    texts: Texts,
) -> Bytes {
    let sizes = entries.clone().map(|entry| entry.known_text().map_or(TEXT_BYTES, <[u8]>::len) + 1);
    let mut out = BytesMut::with_capacity(sizes.sum::<usize>() + 400);
    put_head(&mut out, view, degraded);
    for (index, entry) in entries.enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        match leases {
            Some(clock) => {
                put_with_lease(&mut out, entry.text(put_instance), entry.lease, clock, None)
            }
            None => put_text(&mut out, entry, texts),
        }
    }
    out.put_slice(TAIL);
    out.freeze()
}

/// Whether the texts of instances are kept when a list is made of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Texts {
    /// For the next list that they are in.
    Kept,
    /// Not: the list itself is.
    Used,
}

/// Writes the text of an instance.
fn put_instance(instance: &Instance, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &InstanceText::of(instance))
        .expect("a buffer takes everything, and the text has no failing parts");
}

fn put_text(out: &mut BytesMut, entry: EntryRef<'_>, texts: Texts) {
    match entry.known_text() {
        Some(text) => out.put_slice(text),
        None if texts == Texts::Kept => out.put_slice(entry.text(put_instance)),
        None => serde_json::to_writer(out.writer(), &InstanceText::of(entry.instance))
            .expect("a buffer takes everything, and the text has no failing parts"),
    }
}

/// The default answer of a service: once per revision. Of a service on several sheets it is made of their texts, which
/// stay where they are; that of one sheet is written as it is, and then there is no other text of its instances.
pub(super) fn default_answer(view: &ServiceView, tags: &Tags, encoder: &Encoder) -> Answer {
    let offer = view.entries.offer();
    let degraded = offer.is_some_and(|offer| offer.tier.degraded());
    let (body, returned) = if view.entries.sheets().len() > 1 {
        (Content::Pieces(pieces(view, degraded)), view.entries.offered())
    } else {
        let (offered, _) = view.select(&Filter::default());
        let body = list(view, degraded, offered.iter().copied(), None, Texts::Used);
        // It is kept: in as much room as it needs and no more.
        (Content::Whole(Bytes::copy_from_slice(&body)), offered.len())
    };
    Answer {
        forms: encoder.concerns(body.len()).then(Box::default),
        body,
        etag: tags.tag(view.revision, ""),
        returned: u32::try_from(returned).unwrap_or(u32::MAX),
        degraded,
    }
}

/// The default answer in the pieces that the sheets have kept.
fn pieces(view: &ServiceView, degraded: bool) -> Arc<[Bytes]> {
    let mut head = BytesMut::new();
    put_head(&mut head, view, degraded);
    let mut pieces = vec![head.freeze()];
    if let Some(offer) = view.entries.offer() {
        let texts = view.entries.sheets().iter().map(|sheet| sheet.offered(offer, put_instance));
        pieces.extend(texts.filter(|texts| !texts.is_empty()));
        // Each text has a comma after it, and the last one needs none.
        if let Some(last) = pieces.last_mut() {
            last.truncate(last.len() - 1);
        }
    }
    pieces.push(Bytes::from_static(TAIL));
    pieces.into()
}

/// The answer to a heartbeat.
#[derive(Serialize)]
pub(super) struct Renewed {
    status: &'static str,
    mode: &'static str,
    ttl: String,
    heartbeat_interval: Option<String>,
}

impl Renewed {
    /// The answer for this instance.
    pub(super) fn of(instance: &Instance) -> Self {
        Self {
            status: instance.status.as_str(),
            mode: instance.mode.as_str(),
            ttl: instance.ttl_text(),
            heartbeat_interval: instance.heartbeat_interval().map(|interval| interval.to_string()),
        }
    }
}

/// The version of the state that an answer reflects.
pub(super) const SEQ: HeaderName = HeaderName::from_static("rollcall-seq");

/// A version as a header.
pub(super) fn seq_header(seq: Seq) -> HeaderValue {
    HeaderValue::from(seq.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::Command;
    use crate::domain::TraceRef;
    use crate::domain::instance::{Endpoint, Metadata};
    use crate::domain::{
        Detector, InstanceId, InstanceKey, Millis, Mode, Namespace, ServiceKey, ServiceName,
        Signals, Status, Timestamp,
    };
    use crate::projection::{Entries, Sheet};
    use crate::testing::archive::Past;
    use crate::testing::{key, register};

    fn orders(status: Status) -> Instance {
        let service = ServiceKey {
            namespace: Namespace::default(),
            service: ServiceName::new("orders").unwrap(),
        };
        Instance {
            key: InstanceKey { service, instance: InstanceId::new("orders-1").unwrap() },
            incarnation: Seq(41),
            endpoint: Endpoint { address: "10.0.0.7".into(), port: 8080, protocol: "http".into() },
            labels: Labels::new(
                Some("1.4.2"),
                Some("eu-1a"),
                &["canary"],
                &Metadata::from_iter([("env".into(), "prod".into())]),
            ),
            weight: 100,
            mode: Mode::Active,
            drain_until: None,
            signals: Signals::implied_by(status),
            detector: Detector::Fixed,
            check: None,
            status,
            ttl: Some(Millis::from_millis(15_000)),
            registered_at: Timestamp(1_795_248_000_000_000),
            revision: Seq(41),
        }
    }

    const ORDERS: &str = r#"{"namespace":"default","service":"orders","instance":"orders-1","incarnation":41,"address":"10.0.0.7","port":8080,"protocol":"http","version":"1.4.2","zone":"eu-1a","weight":100,"tags":["canary"],"metadata":{"env":"prod"},"mode":"active","status":"healthy","ttl":"15s","registered_at":"2026-11-21T08:00:00.000000Z","revision":41}"#;

    fn view(instance: Instance, clock: &ManualClock) -> ServiceView {
        let lease = Arc::new(Lease::granted(instance.ttl, clock.monotonic(), TraceRef::default()));
        let key = instance.key.service.clone();
        let sheet = Sheet::new(Arc::new(vec![Arc::new(instance)]), [lease].into());
        ServiceView::new(key, Seq(41), Entries::new([Arc::new(sheet)].into()))
    }

    #[test]
    fn an_instance_reads_as_in_the_contract() {
        assert_eq!(instance(&orders(Status::Healthy)), ORDERS);
    }

    #[test]
    fn a_list_says_only_what_is_so() {
        let clock = ManualClock::new(Timestamp(0));
        let (tags, encoder) = (Tags::of(uuid::Uuid::nil()), Encoder::of(Some(4_096)));
        let head = r#"{"namespace":"default","service":"orders","revision":41"#;
        let default_answer = |view: &ServiceView| super::default_answer(view, &tags, &encoder);
        let healthy = default_answer(&view(orders(Status::Healthy), &clock));
        assert_eq!(healthy.body.joined(), format!("{head},\"instances\":[{ORDERS}]}}"));
        assert_eq!((healthy.returned, healthy.etag), (1, "\"00000000-41\"".into()));
        let degraded = default_answer(&view(orders(Status::Unstable), &clock));
        assert!(
            degraded.body.joined().starts_with(format!("{head},\"degraded\":true,").as_bytes())
        );
        let nobody = default_answer(&view(orders(Status::Failed), &clock));
        assert_eq!(nobody.body.joined(), format!("{head},\"instances\":[]}}"));
    }

    #[test]
    fn the_answer_of_a_large_service_is_the_same_list_in_pieces() {
        let (tags, encoder) = (Tags::of(uuid::Uuid::nil()), Encoder::of(Some(4_096)));
        // Everybody, all but some of each sheet, one sheet of several, nobody.
        let modes: [fn(usize) -> (Mode, u16); 4] = [
            |_| (Mode::Active, 100),
            |n| (Mode::Active, u16::from(n % 7 > 0)),
            |n| (if n < 128 { Mode::Standby } else { Mode::Draining }, 1),
            |_| (Mode::Draining, 1),
        ];
        for mode in modes {
            let mut past = Past::new();
            for n in 0..300 {
                let (mode, weight) = mode(n);
                let mut one = register(&key("orders", &format!("o-{n:03}")));
                (one.mode, one.weight) = (Some(mode), Some(weight));
                past.happens(&Command::Register(one));
            }
            let key = key("orders", "o").service;
            let view = ServiceView::of_the_past(key.clone(), past.present().service(&key).unwrap());
            let answer = default_answer(&view, &tags, &encoder);
            assert!(matches!(answer.body, Content::Pieces(_)));
            let offered = view.select(&Filter::default()).0;
            let whole = list(&view, false, offered.iter().copied(), None, Texts::Used);
            assert_eq!((answer.body.joined(), answer.body.len()), (whole.clone(), whole.len()));
            assert_eq!(answer.returned as usize, offered.len());
        }
    }

    #[test]
    fn a_lease_tells_its_arithmetic() {
        let clock = ManualClock::new(Timestamp(1_795_248_000_000_000));
        let view = view(orders(Status::Healthy), &clock);
        clock.advance(Millis::from_millis(8_000));
        let told = |entry: EntryRef<'_>| {
            let text = with_lease(entry.instance, entry.lease, &*clock).to_vec();
            let text = String::from_utf8(text).unwrap();
            text.split_once(",\"lease\":").unwrap().1.trim_end_matches('}').to_owned()
        };
        let entry = view.entries.iter().next().unwrap();
        assert_eq!(
            told(entry),
            r#"{"last_heartbeat_at":null,"age_ms":8000,"expires_in_ms":7000,"missed":2,"signals":{"late":false,"reported_failing":false,"probe":null,"flapping":false"#
        );
        entry.lease.renew(clock.monotonic(), clock.wall()).unwrap();
        entry.lease.says_load(0.42);
        assert!(
            told(entry)
                .starts_with(r#"{"last_heartbeat_at":"2026-11-21T08:00:08.000000Z","age_ms":0,"#)
        );
        assert!(told(entry).contains(r#""missed":0,"load":0.42,"signals""#), "{}", told(entry));
    }
}
