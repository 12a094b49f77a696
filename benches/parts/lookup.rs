//! Answering a lookup from the projection, without HTTP: find the service, load its view, take its answer.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use criterion::{Criterion, Throughput};
use rollcall::clock::Monotonic;
use rollcall::domain::selection::Filter;
use rollcall::domain::{Instance, ServiceKey, TraceRef};
use rollcall::lease::Lease;
use rollcall::projection::{Answer, Content, EntryRef, Projection, Publisher, ServiceView};

use crate::history;

/// Lookups in one iteration, each of another service.
const LOOKUPS: usize = 100;

/// About the text of an instance as the API gives it. The API's own writer is private to it; what is measured
/// here is how often a text is made, not how.
fn text(instance: &Instance, out: &mut Vec<u8>) {
    let value = serde_json::json!({
        "service": instance.key.service.service.as_str(),
        "instance": instance.key.instance.as_str(),
        "address": instance.endpoint.address.as_str(),
        "port": instance.endpoint.port,
        "tags": instance.labels.tags().collect::<Vec<_>>(),
        "metadata": instance.labels.metadata().collect::<std::collections::BTreeMap<_, _>>(),
    });
    out.extend_from_slice(value.to_string().as_bytes());
}

fn list<'a>(entries: impl Iterator<Item = EntryRef<'a>>) -> Bytes {
    let mut body = BytesMut::new();
    for entry in entries {
        body.put_slice(entry.text(text));
        body.put_u8(b',');
    }
    body.freeze()
}

fn answer(view: &ServiceView) -> Answer {
    let (offered, _) = view.select(&Filter::default());
    Answer {
        body: Content::Whole(list(offered.iter().copied())),
        etag: Bytes::from_static(b"\"1\""),
        forms: None,
        returned: u32::try_from(offered.len()).unwrap_or(u32::MAX),
        degraded: false,
    }
}

fn grant(instance: &Arc<Instance>) -> Lease {
    Lease::granted(instance.ttl, Monotonic::default(), TraceRef::default())
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let registry = history::full_registry();
    let projection = Arc::new(Projection::default());
    let all: BTreeSet<ServiceKey> = registry.services().map(|(key, _)| key.clone()).collect();
    let publisher = Publisher::new(Arc::clone(&projection));
    let _ = publisher.publish(&registry, &all, |instance, _| grant(instance));
    let names: Vec<String> =
        (0..LOOKUPS).map(|number| history::service(number).service.to_string()).collect();

    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(LOOKUPS as u64));
    group.bench_function("default answer, made once", |bencher| {
        bencher.iter(|| {
            for name in &names {
                let body = projection
                    .with_service("default", name, |cell| cell.guard().answer(answer).body.clone());
                black_box(body);
            }
        });
    });
    let in_zone = Filter { zone: Some("eu-1a".to_owned()), ..Filter::default() };
    group.bench_function("filtered answer, put together", |bencher| {
        bencher.iter(|| {
            for name in &names {
                let body = projection
                    .service("default", name)
                    .map(|view| list(view.select(&in_zone).0.into_iter()));
                black_box(body);
            }
        });
    });
    group.bench_function("publish after a change", |bencher| {
        let one: Vec<BTreeSet<ServiceKey>> =
            all.iter().take(LOOKUPS).map(|key| BTreeSet::from([key.clone()])).collect();
        bencher.iter(|| {
            for touched in &one {
                black_box(publisher.publish(&registry, touched, |instance, _| grant(instance)));
            }
        });
    });
    group.finish();
}
