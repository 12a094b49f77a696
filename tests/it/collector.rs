//! A collector of spans, as OpenTelemetry's would be: an OTLP receiver over a real socket.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
pub(crate) use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::harness::eventually;

/// A log record, with what its resource says.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) record: LogRecord,
    pub(crate) resource: Vec<KeyValue>,
}

/// What it does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Behaviour {
    Takes,
    Refuses,
    Hangs,
}

/// A running collector; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    records: Arc<Mutex<Vec<Record>>>,
    _running: JoinSet<std::io::Result<()>>,
}

#[derive(Clone)]
struct Receiver {
    behaviour: Behaviour,
    spans: Arc<Mutex<Vec<Span>>>,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Receiver {
    /// Behaves; whoever comes back from it takes what came.
    async fn behave(&self) -> Result<(), tonic::Status> {
        match self.behaviour {
            Behaviour::Takes => Ok(()),
            Behaviour::Refuses => Err(tonic::Status::permission_denied("not from you")),
            Behaviour::Hangs => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        self.behave().await?;
        for of_resource in request.into_inner().resource_logs {
            let resource = of_resource.resource.map(|resource| resource.attributes);
            let resource = resource.unwrap_or_default();
            let records = of_resource.scope_logs.into_iter().flat_map(|scope| scope.log_records);
            let records = records.map(|record| Record { record, resource: resource.clone() });
            self.records.lock().unwrap().extend(records);
        }
        Ok(tonic::Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.behave().await?;
        let of_resources = request.into_inner().resource_spans.into_iter();
        let spans = of_resources.flat_map(|r| r.scope_spans).flat_map(|s| s.spans);
        self.spans.lock().unwrap().extend(spans);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts one on a port of its own.
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let receiver = Receiver { behaviour, spans: Arc::default(), records: Arc::default() };
        let (spans, records) = (Arc::clone(&receiver.spans), Arc::clone(&receiver.records));
        let export = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        let export_logs = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
        let router = axum::Router::new()
            .route_service(export, TraceServiceServer::new(receiver.clone()))
            .route_service(export_logs, LogsServiceServer::new(receiver));
        let mut running = JoinSet::new();
        running.spawn(axum::serve(listener, router).into_future());
        Self { url, spans, records, _running: running }
    }

    /// Every log record so far.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.records.lock().unwrap().clone()
    }

    /// Every span so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// Waits for the span with this id.
    pub(crate) async fn span_of(&self, id: &str) -> Span {
        let find = || self.spans().into_iter().find(|span| hex(&span.span_id) == id);
        eventually(id, async || find(), Option::is_some).await.unwrap()
    }

    /// Waits for the span of this name that `fits`.
    pub(crate) async fn span(&self, name: &str, fits: impl Fn(&Span) -> bool) -> Span {
        let find = || self.spans().into_iter().find(|span| span.name == name && fits(span));
        eventually(name, async || find(), Option::is_some).await.unwrap()
    }
}

/// Bytes of an id as text.
pub(crate) fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The value of an attribute; null if it is not there.
pub(crate) fn attribute(attributes: &[KeyValue], key: &str) -> Value {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::IntValue(number)) => json!(number),
        Some(Any::DoubleValue(number)) => json!(number),
        Some(other) => panic!("{key} is {other:?}"),
        None => Value::Null,
    }
}
