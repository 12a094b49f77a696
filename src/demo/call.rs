//! One call to a peer: ask the registry who may be called, and call one of those.
//!
//! There is no cache and no second try, so that what the registry knows is what callers get: a dead instance that is
//! still handed out is a failed call. Used by the members and the visitors.

use std::sync::Arc;
use std::time::Duration;

use crate::client::{Client, Filter, Instance};
use crate::telemetry::propagation::TraceContext;
use crate::telemetry::spans::{KeyValue, SpanKind};

use super::fleet::Totals;
use super::spans::{Spans, traceparent};
use super::story::{Happening, Telling};

/// How long a peer may take; a killed one is noticed at once, as its port is closed.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a call did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The registry did not answer, or refused.
    Registry,
    /// Nobody of the service may be called.
    Nobody,
    /// The instance that was handed out is dead.
    Dead,
    /// The peer lives, but one of its own calls failed.
    Peer,
}

impl Failure {
    /// The word for it in labels and answers.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Nobody => "nobody",
            Self::Dead => "dead",
            Self::Peer => "peer",
        }
    }
}

/// Somebody who calls peers.
#[derive(Clone)]
pub(super) struct Caller {
    /// `service/instance`, as the registry records it.
    pub(super) name: String,
    pub(super) client: Client,
    pub(super) http: reqwest::Client,
    pub(super) spans: Spans,
    pub(super) totals: Arc<Totals>,
    pub(super) telling: Telling,
}

impl Caller {
    /// The HTTP client that callers share among them, as one process would.
    pub(super) fn http() -> reqwest::Result<reqwest::Client> {
        reqwest::Client::builder().no_proxy().timeout(PEER_TIMEOUT).build()
    }

    /// Calls somebody of the service inside the span of `context`.
    pub(super) async fn call(
        &self,
        context: &TraceContext,
        service: &'static str,
    ) -> Result<(), Failure> {
        let result = match self.find(context, service).await {
            Ok(instance) => self.ask(context, &instance).await,
            Err(failure) => Err(failure),
        };
        self.totals.called(service, result.err());
        result
    }

    async fn find(
        &self,
        context: &TraceContext,
        service: &'static str,
    ) -> Result<Instance, Failure> {
        let (context, began) = (context.child(), self.spans.begin());
        let client = self.client.clone().traced(traceparent(&context));
        let offer = client.lookup(service, &Filter::default()).await;
        let failure = offer.as_ref().err().map(|_| Failure::Registry.as_str());
        let attributes = vec![KeyValue::new("rollcall.service", service)];
        self.spans.end(
            began,
            context,
            SpanKind::Client,
            format!("lookup {service}"),
            failure,
            attributes,
        );
        match offer {
            // At random: with a weight of 100 each, that is the registry's share for everyone.
            Ok(offer) => fastrand::choice(offer.instances).ok_or(Failure::Nobody),
            Err(error) if error.is_not_found() => Err(Failure::Nobody),
            Err(_) => Err(Failure::Registry),
        }
    }

    async fn ask(&self, context: &TraceContext, instance: &Instance) -> Result<(), Failure> {
        let (context, began) = (context.child(), self.spans.begin());
        let url = format!("http://{}/", instance.authority());
        let answer = self.http.get(&url).header("traceparent", traceparent(&context)).send().await;
        let (result, status) = match answer {
            Ok(answer) if answer.status().is_success() => (Ok(()), Some(answer.status())),
            Ok(answer) => (Err(Failure::Peer), Some(answer.status())),
            Err(_) => (Err(Failure::Dead), None),
        };
        let mut attributes = vec![
            KeyValue::new("http.request.method", "GET"),
            KeyValue::new("url.full", url),
            KeyValue::new("server.address", instance.address.clone()),
            KeyValue::new("server.port", i64::from(instance.port)),
            KeyValue::new("peer.service", instance.service.clone()),
        ];
        attributes.extend(
            status.map(|status| {
                KeyValue::new("http.response.status_code", i64::from(status.as_u16()))
            }),
        );
        let failure = result.err().map(Failure::as_str);
        self.spans.end(began, context, SpanKind::Client, "GET", failure, attributes);
        if result == Err(Failure::Dead) {
            self.telling.tell(Happening::HandedDead {
                caller: self.name.clone(),
                instance: instance.instance.clone(),
                trace_id: context.trace_id,
            });
        }
        result
    }
}
