//! Instances come, change and go: PUT, POST (the short form), PATCH, DELETE. Each reads its request into a
//! command, all faults at once, and answers what the registrar made of it. No rule about state is here.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use uuid::{NoContext, Uuid};

use super::check::Around;
use super::faults::Faults;
use super::fields::Fields;
use super::names::Path;
use super::problem::Problem;
use super::query::Query;
use super::scope::Scope;
use super::spec::{
    BodySpec, JSON, MERGE_PATCH, Method, NAMESPACE, Operation, Parameter, Shape, answer, empty,
};
use super::{Api, Shared, body, caller, check, detector, drain, wire};
use crate::domain::command::{
    Deregister, MetadataPatch, PatchEntry, Precondition, Register, Update,
};
use crate::domain::event::{Event, Outcome};
use crate::domain::instance::{Endpoint, Metadata, NO_TTL, check_address, check_protocol};
use crate::domain::limits::{LABEL_CHARS_MAX, REASON_CHARS_MAX, WEIGHT_DEFAULT};
use crate::domain::{
    Check, Command, Detector, InstanceId, InstanceKey, Millis, Mode, Namespace, Seq, ServiceKey,
    ServiceName, Timestamp,
};
use crate::registrar::Applied;

/// Most bytes of a body here.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Protocol of an instance that names none.
const PROTOCOL_DEFAULT: &str = "http";
/// What a PATCH can change.
const PATCHABLE: &str = "mode, weight, tags or metadata";

/// `PUT /v1/services/{service}/instances/{instance}`
pub(super) const REGISTER: Operation = Operation {
    method: Method::Put,
    id: "register",
    summary: "Registers an instance, or replaces it.",
    query: &[NAMESPACE],
    headers: &["if-none-match", "if-match"],
    body: Some(BodySpec {
        schema: "Registration",
        optional: false,
        limit: BODY_BYTES_MAX,
        media: JSON,
    }),
    answers: &[
        answer(200, "Replaced, or found as it was.", "Instance"),
        answer(201, "A life of the instance began.", "Instance"),
    ],
};

/// `POST /v1/register`
pub(super) const REGISTER_SHORT: Operation = Operation {
    method: Method::Post,
    id: "registerShort",
    summary: "Registers an instance, in the short form; without an id the server makes one.",
    query: &[NAMESPACE],
    headers: &[],
    body: Some(BodySpec {
        schema: "ShortRegistration",
        optional: false,
        limit: BODY_BYTES_MAX,
        media: JSON,
    }),
    answers: REGISTER.answers,
};

/// `PATCH /v1/services/{service}/instances/{instance}`
pub(super) const UPDATE: Operation = Operation {
    method: Method::Patch,
    id: "update",
    summary: "Changes mode, weight, tags or metadata (a merge patch, RFC 7396).",
    query: &[NAMESPACE, drain::DEADLINE],
    headers: &["if-match"],
    body: Some(BodySpec {
        schema: "Patch",
        optional: false,
        limit: BODY_BYTES_MAX,
        media: MERGE_PATCH,
    }),
    answers: &[answer(200, "The instance as it is now.", "Instance")],
};

/// `DELETE /v1/services/{service}/instances/{instance}`
pub(super) const DEREGISTER: Operation = Operation {
    method: Method::Delete,
    id: "deregister",
    summary: "Takes an instance out of the registry; its history stays.",
    query: &[
        NAMESPACE,
        Parameter::new("reason", "Why; kept in the event.", Shape::Text(REASON_CHARS_MAX)),
    ],
    headers: &["if-match"],
    body: None,
    answers: &[empty(204, "It has left.")],
};

pub(super) async fn register(
    State(api): State<Shared>,
    scope: Scope,
    path: Path,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let key = path.instance(&read_query(&request, &REGISTER, &mut faults), &mut faults);
    let precondition = precondition(&api, request.headers(), key.as_ref(), &mut faults);
    let from = caller::address(&request);
    let object = read_body(&api, &REGISTER, request).await?;
    let mut fields = Fields::new(object, "", &mut faults);
    let form = read_form(&mut fields, &api, from);
    fields.finish();
    faults.check()?;
    let command = complete(key, form, precondition)?;
    apply_registration(&api, &scope, command).await
}

pub(super) async fn register_short(
    State(api): State<Shared>,
    scope: Scope,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let namespace = read_query(&request, &REGISTER_SHORT, &mut faults).namespace(&mut faults);
    let object = read_body(&api, &REGISTER_SHORT, request).await?;
    let mut fields = Fields::new(object, "", &mut faults);
    let service = fields.required("service_name", ServiceName::new);
    let made = made_id(api.clock.wall());
    let instance = match fields.checked("id", InstanceId::new) {
        Some(id) => Some(id),
        None => InstanceId::new(&made).ok(),
    };
    let form = read_short_form(&mut fields, &api);
    fields.finish();
    faults.check()?;
    let namespace = namespace.unwrap_or_default();
    let key = service.zip(instance).map(|(service, instance)| InstanceKey {
        service: ServiceKey { namespace, service },
        instance,
    });
    apply_registration(&api, &scope, complete(key, form, Precondition::None)?).await
}

pub(super) async fn update(
    State(api): State<Shared>,
    scope: Scope,
    path: Path,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let uri = request.uri().clone();
    let query = Query::read(uri.query(), &UPDATE, &mut faults);
    let key = path.instance(&query, &mut faults);
    let precondition = precondition(&api, request.headers(), key.as_ref(), &mut faults);
    let object = read_body(&api, &UPDATE, request).await?;
    let mut fields = Fields::new(object, "", &mut faults);
    if fields.is_empty() {
        fields.invalid("(body)", format!("must hold at least one of {PATCHABLE}"));
    }
    let mode = nulled(&mut fields, "mode", Mode::Active, read_mode);
    let weight = nulled(&mut fields, "weight", WEIGHT_DEFAULT, |fields| fields.weight("weight"));
    let tags = nulled(&mut fields, "tags", Box::default(), |fields| fields.tags("tags"));
    let metadata = nulled(&mut fields, "metadata", MetadataPatch::Clear, |fields| {
        fields.metadata("metadata", true).map(MetadataPatch::Merge)
    });
    fields.finish();
    let drain_until = drain::read(&query, mode, api.clock.wall(), &mut faults);
    faults.check()?;
    let key = key.ok_or(Problem::Internal)?;
    scope.about(&key.service.service, Some(&key.instance));
    let update = Update { key, mode, weight, tags, metadata, drain_until, precondition };
    let applied = api.submit(&scope, Command::Update(update)).await?;
    answer_instance(&api, &applied, StatusCode::OK)
}

pub(super) async fn deregister(
    State(api): State<Shared>,
    scope: Scope,
    path: Path,
    request: Request,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let query = read_query(&request, &DEREGISTER, &mut faults);
    let key = path.instance(&query, &mut faults);
    let precondition = precondition(&api, request.headers(), key.as_ref(), &mut faults);
    faults.check()?;
    let key = key.ok_or(Problem::Internal)?;
    scope.about(&key.service.service, Some(&key.instance));
    let reason = query.get("reason").filter(|reason| !reason.is_empty()).map(Box::from);
    let command = Command::Deregister(Deregister { key, reason, precondition });
    let applied = api.submit(&scope, command).await?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(wire::SEQ, wire::seq_header(applied.head));
    Ok(response)
}

fn read_query<'a>(request: &'a Request, of: &Operation, faults: &mut Faults) -> Query<'a> {
    Query::read(request.uri().query(), of, faults)
}

/// The body's object. A body that can't be read ends the request at once: there is nothing to gather then.
async fn read_body(
    api: &Api,
    operation: &Operation,
    request: Request,
) -> Result<Map<String, Value>, Problem> {
    let spec = operation.body.as_ref().ok_or(Problem::Internal)?;
    let object = body::read_object(request, spec, api.config.request_timeout).await?;
    Ok(object.unwrap_or_default())
}

/// `if-match` and `if-none-match`, with the instance's present revision to choose among several tags.
fn precondition(
    api: &Api,
    headers: &HeaderMap,
    key: Option<&InstanceKey>,
    faults: &mut Faults,
) -> Precondition {
    let current = key.and_then(|key| {
        let InstanceKey { service, instance } = key;
        let view = api.projection.service(service.namespace.as_str(), service.service.as_str())?;
        Some(view.entry(instance.as_str())?.instance.revision)
    });
    api.tags.precondition(headers, current, faults)
}

/// The fields of a registration, apart from whose it is; `None` where a field that must be there was not right.
struct Form {
    address: Option<Box<str>>,
    port: Option<u16>,
    protocol: Option<Box<str>>,
    version: Option<Box<str>>,
    zone: Option<Box<str>>,
    weight: Option<u16>,
    tags: Box<[Box<str>]>,
    metadata: Metadata,
    mode: Option<Mode>,
    ttl: Option<Millis>,
    check: Option<Arc<Check>>,
    detector: Detector,
}

fn read_form(fields: &mut Fields<'_>, api: &Api, registered_from: Option<IpAddr>) -> Form {
    let address = fields.required("address", address);
    let port = fields.port("port");
    let protocol: Option<Box<str>> =
        fields.checked("protocol", |text| check_protocol(text).map(|()| text.into()));
    // Whether there is a check matters here, and not whether it is right.
    let endless = fields.has("check") && fields.is_word("ttl", NO_TTL);
    let around = Around {
        address: address.as_deref(),
        protocol: protocol.as_deref().unwrap_or(PROTOCOL_DEFAULT),
        registered_from,
        networks: &api.config.check_networks,
    };
    let check = check::read(fields, &around);
    Form {
        address,
        port,
        protocol,
        version: fields.text("version", LABEL_CHARS_MAX),
        zone: fields.text("zone", LABEL_CHARS_MAX),
        weight: fields.weight("weight"),
        tags: fields.tags("tags").unwrap_or_default(),
        metadata: whole(fields.metadata("metadata", false)),
        mode: read_mode(fields),
        ttl: match endless {
            true => None,
            false => Some(fields.ttl("ttl").unwrap_or(api.config.default_ttl)),
        },
        check,
        detector: detector::read(fields, endless),
    }
}

fn read_short_form(fields: &mut Fields<'_>, api: &Api) -> Form {
    let address = fields.required("host", address);
    let port = fields.port("port");
    let metadata = whole(fields.metadata("metadata", false));
    let version = metadata.get("version").filter(|version| !version.is_empty()).map(Box::from);
    if let Some(was) = version.as_deref().map(|version: &str| version.chars().count())
        && was > LABEL_CHARS_MAX
    {
        let message =
            format!("is taken as the version: at most {LABEL_CHARS_MAX} characters, was {was}");
        fields.invalid("metadata.version", message);
    }
    Form {
        address,
        port,
        protocol: None,
        version,
        zone: None,
        weight: None,
        tags: Box::default(),
        metadata,
        mode: None,
        ttl: Some(fields.ttl("ttl").unwrap_or(api.config.default_ttl)),
        check: None,
        detector: Detector::Fixed,
    }
}

fn address(text: &str) -> Result<Box<str>, crate::domain::instance::InvalidEndpoint> {
    check_address(text).map(|()| text.into())
}

fn read_mode(fields: &mut Fields<'_>) -> Option<Mode> {
    fields.word("mode", Mode::ALL, Mode::parse, Mode::as_str)
}

fn whole(entries: Option<Box<[PatchEntry]>>) -> Metadata {
    let entries = entries.unwrap_or_default().into_iter();
    entries.filter_map(|(key, value)| Some((key, value?))).collect()
}

/// A field of a merge patch: absent leaves it as it is, `null` gives it its default.
fn nulled<T>(
    fields: &mut Fields<'_>,
    name: &str,
    default: T,
    read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
) -> Option<T> {
    match fields.is_null(name) {
        true => Some(default),
        false => read(fields),
    }
}

/// The command, once the faults have been checked: by then nothing that must be there is missing.
fn complete(
    key: Option<InstanceKey>,
    form: Form,
    precondition: Precondition,
) -> Result<Register, Problem> {
    let (Some(key), Some(address), Some(port)) = (key, form.address, form.port) else {
        return Err(Problem::Internal);
    };
    let protocol = form.protocol.unwrap_or_else(|| PROTOCOL_DEFAULT.into());
    Ok(Register {
        key,
        endpoint: Endpoint { address: address.into(), port, protocol: protocol.into() },
        version: form.version,
        zone: form.zone,
        weight: form.weight,
        tags: form.tags,
        metadata: form.metadata,
        mode: form.mode,
        ttl: form.ttl,
        detector: form.detector,
        check: form.check,
        precondition,
    })
}

async fn apply_registration(
    api: &Api,
    scope: &Scope,
    register: Register,
) -> Result<Response, Problem> {
    scope.about(&register.key.service.service, Some(&register.key.instance));
    let applied = api.submit(scope, Command::Register(register)).await?;
    let created = applied.change.as_deref().is_some_and(|change| {
        matches!(change.event, Event::Registered { outcome: Outcome::Created, .. })
    });
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = answer_instance(api, &applied, status)?;
    if let (true, Some(instance)) = (created, &applied.instance) {
        response.headers_mut().insert(header::LOCATION, location(&instance.key));
    }
    Ok(response)
}

fn answer_instance(api: &Api, applied: &Applied, status: StatusCode) -> Result<Response, Problem> {
    // A change that was accepted leaves an instance behind, except a deregistration.
    let instance = applied.instance.as_deref().ok_or(Problem::Internal)?;
    let mut response = json_response(status, wire::instance(instance), applied.head);
    response.headers_mut().insert(header::ETAG, api.tags.header(instance.revision));
    Ok(response)
}

/// An answer with this body that reflects this version.
pub(super) fn json_response(status: StatusCode, body: bytes::Bytes, seq: Seq) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(wire::SEQ, wire::seq_header(seq));
    response
}

fn location(key: &InstanceKey) -> HeaderValue {
    let InstanceKey { service: ServiceKey { namespace, service }, instance } = key;
    let mut text = format!("/v1/services/{service}/instances/{instance}");
    if *namespace != Namespace::default() {
        text.push_str("?namespace=");
        text.extend(utf8_percent_encode(namespace.as_str(), NON_ALPHANUMERIC));
    }
    HeaderValue::try_from(text).expect("names hold only characters that a header may hold")
}

/// A UUIDv7 of this instant: ids that were made one after the other also sort so.
fn made_id(now: Timestamp) -> String {
    let micros = u64::try_from(now.micros()).unwrap_or(0);
    let nanos = u32::try_from(micros % 1_000_000 * 1_000).unwrap_or(0);
    let instant = uuid::Timestamp::from_unix(NoContext, micros / 1_000_000, nanos);
    Uuid::new_v7(instant).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ids_are_names_and_sort_by_time() {
        let [one, two] =
            [1_795_248_000_000_000, 1_795_248_000_001_000].map(|t| made_id(Timestamp(t)));
        assert!(InstanceId::new(&one).is_ok() && one < two, "{one} {two}");
    }
}
