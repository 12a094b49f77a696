//! The question that the registry exists for: who may be called now. And one instance with its lease.
//!
//! The default answer is a text that the view made once; with a filter, the texts of the instances are put
//! together. Either way the event of the lookup has its place in the log's queue before the answer goes out.
//! The head is read before the view, so that the event never claims to have seen less than it did.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;

use super::encoding::{Accepted, Coding};
use super::faults::Faults;
use super::names::Path;
use super::pieces::Pieces;
use super::problem::Problem;
use super::query::Query;
use super::registration::json_response;
use super::scope::Scope;
use super::spec::{Method, NAMESPACE, Operation, Parameter, Shape, answer, empty};
use super::{About, Api, Shared, encoding, etag, longpoll, past, wire};
use crate::domain::limits::{
    LABEL_CHARS_MAX, METADATA_KEYS_MAX, METADATA_VALUE_BYTES_MAX, TAG_CHARS_MAX, TAGS_MAX,
};
use crate::domain::selection::{ANY, Filter, Tier};
use crate::domain::traffic::Detail;
use crate::domain::{InstanceId, Namespace, Seq, ServiceKey};
use crate::projection::{Answer, Content, EntryRef, ServiceView};
use crate::telemetry::names::LookupOutcome;

/// The route of lookups.
pub(super) const PATH: &str = "/v1/services/{service}/instances";

/// Longest filter, in bytes of its canonical form: it is written into the event of each lookup.
const FILTER_BYTES_MAX: usize = 4 * 1024;

/// `GET /v1/services/{service}/instances`
pub(super) const LOOKUP: Operation = Operation {
    method: Method::Get,
    id: "lookup",
    summary: "Who may be called now: the best tier of those that the filters let through.",
    query: &[
        NAMESPACE,
        Parameter::new(
            "status",
            "Those of this status, whatever their tier.",
            Shape::Word(&[ANY, "healthy", "unstable", "failed"]),
        ),
        Parameter::new(
            "mode",
            "Those of this mode, whatever their tier.",
            Shape::Word(&["active", "standby", "draining"]),
        ),
        Parameter::new(
            "tag",
            "Those that have this tag; all of them, if it repeats.",
            Shape::Text(TAG_CHARS_MAX),
        )
        .repeated(),
        Parameter::new("zone", "Those in this zone.", Shape::Text(LABEL_CHARS_MAX)),
        Parameter::new("version", "Those of this version.", Shape::Text(LABEL_CHARS_MAX)),
        Parameter::new(
            "meta.*",
            "Those whose metadata has this value for this key.",
            Shape::Text(METADATA_VALUE_BYTES_MAX),
        )
        .repeated(),
        Parameter::new(
            "include",
            "With `lease`, each instance comes with its lease.",
            Shape::Word(&["lease"]),
        ),
        Parameter::new(
            "order",
            "With `load`, those that said the least load come first, then those that said none; such an answer has \
             no etag and is never 304.",
            Shape::Word(&["load"]),
        ),
        past::at(
            "The answer that was given then. Not together with `include`, `order`, `after` or `wait`.",
        ),
        longpoll::AFTER,
        longpoll::WAIT,
    ],
    headers: &["if-none-match"],
    body: None,
    answers: &[
        answer(200, "The list, which may be empty.", "Lookup"),
        empty(304, "The client holds this revision."),
    ],
};

/// `GET /v1/services/{service}/instances/{instance}`
pub(super) const READ_INSTANCE: Operation = Operation {
    method: Method::Get,
    id: "instance",
    summary: "One instance with its lease; with `at`, as it was then, without a lease.",
    query: &[
        NAMESPACE,
        past::at(
            "The instance as it was then: without its lease, which only the present knows, and with the etag \
             that its registration was answered with.",
        ),
    ],
    headers: &["if-none-match"],
    body: None,
    answers: &[
        answer(200, "The instance.", "InstanceNowOrThen"),
        empty(304, "The client holds this revision; only with `at`."),
    ],
};

/// Reads what a lookup asks for.
fn read_filter(query: &Query<'_>, faults: &mut Faults) -> Filter {
    let filter = Filter::from_pairs(query.pairs());
    if filter.tags.len() > TAGS_MAX {
        faults.invalid("tag", format!("may come at most {TAGS_MAX} times"));
    }
    if filter.metadata.len() > METADATA_KEYS_MAX {
        faults.invalid("meta", format!("may come at most {METADATA_KEYS_MAX} times"));
    }
    filter
}

/// What a lookup answers, before its event is recorded.
pub(super) struct Found {
    /// None is 304.
    body: Option<Content>,
    etag: Option<Bytes>,
    returned: u32,
    outcome: LookupOutcome,
    form: Form,
}

/// In which of its forms an answer comes.
#[derive(Debug, Clone, Copy, Default)]
struct Form {
    /// Another client may get another one.
    varies: bool,
    /// The coding that the body is in.
    coding: Option<Coding>,
    /// The one that would suit the client better, and was not made yet.
    wanted: Option<Coding>,
}

pub(super) async fn lookup(
    State(api): State<Shared>,
    scope: Scope,
    path: Path,
    mut request: Request,
) -> Result<Response, Problem> {
    let head = api.projection.head();
    // Nearly every lookup has no query, and its service is known: no name has to be made or checked then.
    let plain = request.uri().query().is_none_or(str::is_empty);
    if plain && let Some(view) = api.projection.service(Namespace::DEFAULT, path.get("service")) {
        scope.about(&view.key.service, None);
        let found = default_answer(&api, &view, request.headers());
        return finish(&api, &scope, &view, head, (String::new(), None), found).await;
    }
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &LOOKUP, &mut faults);
    let key = path.service(&query, &mut faults);
    let filter = read_filter(&query, &mut faults);
    let wait = longpoll::read(&query, &api.projection, &mut faults);
    let shown =
        Shown { leases: query.get("include").is_some(), by_load: query.get("order").is_some() };
    let text = filter.canonical();
    if text.len() > FILTER_BYTES_MAX {
        let message = format!("all filters together must be at most {FILTER_BYTES_MAX} bytes");
        faults.invalid("filter", message);
    }
    let at = past::moment(&api, &query, &mut faults);
    drop(query);
    faults.check()?;
    let key = key.ok_or(Problem::Internal)?;
    scope.about(&key.service, None);
    if let Some(at) = at {
        return past::lookup(&api, &scope, at, key, &filter, request.headers()).await;
    }
    // A crowd may wait: of the request that waits, nothing is kept but what its answer needs.
    let headers = match wait {
        Some(_) => etag::detached(request.headers()),
        None => std::mem::take(request.headers_mut()),
    };
    drop((path, request));
    let waited = match wait {
        Some(wait) => Some(Box::pin(longpoll::wait(&api, &scope, &key, wait)).await?),
        None => None,
    };
    let head = if waited.is_some() { api.projection.head() } else { head };
    let held = waited.as_ref().map(|waited| waited.held);
    let view = api.projection.service(key.namespace.as_str(), key.service.as_str());
    let Some(view) = view else {
        return Err(unknown(&api, &scope, key, None, head, text, held).await);
    };
    let found = found(&api, &view, &filter, &text, shown, &headers);
    let response = finish(&api, &scope, &view, head, (text, held), found).await?;
    if let Some(waited) = waited {
        waited.told(&api);
    }
    Ok(response)
}

/// How those that a lookup finds are shown. It is no part of the filter: whom a revision and a filter hand out does not
/// depend on it. What it shows moves without a revision, so that such an answer has no etag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// With their leases.
    pub(super) leases: bool,
    /// The least loaded first.
    pub(super) by_load: bool,
}

/// What of a view a lookup is answered.
pub(super) fn found(
    api: &Api,
    view: &ServiceView,
    filter: &Filter,
    text: &str,
    shown: Shown,
    headers: &HeaderMap,
) -> Found {
    match text.is_empty() && shown == Shown::default() {
        true => default_answer(api, view, headers),
        false => filtered(api, view, filter, text, shown, headers),
    }
}

/// The default answer, made once per revision.
fn kept<'a>(api: &Api, view: &'a ServiceView) -> &'a Answer {
    view.answer(|view| wire::default_answer(view, &api.tags, &api.encoder))
}

pub(super) fn default_answer(api: &Api, view: &ServiceView, headers: &HeaderMap) -> Found {
    let answer = kept(api, view);
    let held = etag::held(headers, &answer.etag);
    let is_held = held.is_some();
    let mut found = Found {
        body: (!is_held).then(|| answer.body.clone()),
        etag: Some(held.unwrap_or_else(|| answer.etag.clone())),
        returned: if is_held { 0 } else { answer.returned },
        outcome: outcome(is_held, answer.returned, answer.degraded),
        form: Form { varies: answer.forms.is_some(), ..Form::default() },
    };
    // Nearly all are short, and have no other form.
    if let (false, Some(forms)) = (is_held, &answer.forms)
        && let Some(coding) = Accepted::of(headers).best()
    {
        match forms[coding as usize].get() {
            Some(Some(form)) => found.comes_in(coding, form.clone()),
            Some(None) => {}
            None => found.form.wanted = Some(coding),
        }
    }
    found
}

fn filtered(
    api: &Api,
    view: &ServiceView,
    filter: &Filter,
    text: &str,
    shown: Shown,
    headers: &HeaderMap,
) -> Found {
    let etag = (shown == Shown::default()).then(|| api.tags.tag(view.revision, text));
    let (mut entries, tier) = view.select(filter);
    if shown.by_load {
        sort_by_load(&mut entries);
    }
    let degraded = tier.is_some_and(Tier::degraded);
    let returned = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    if let Some(held) = etag.as_ref().and_then(|etag| etag::held(headers, etag)) {
        let outcome = LookupOutcome::NotModified;
        // How long the answer would be is not known: it may have other forms.
        let form = Form { varies: true, ..Form::default() };
        return Found { body: None, etag: Some(held), returned: 0, outcome, form };
    }
    let clock = shown.leases.then_some(&*api.clock);
    let body = wire::list(view, degraded, entries.iter().copied(), clock, wire::Texts::Kept);
    let outcome = outcome(false, returned, degraded);
    Found { body: Some(Content::Whole(body)), etag, returned, outcome, form: Form::default() }
}

/// The least loaded first, those of which nothing is known last; equal ones stay in the order of their ids.
fn sort_by_load(entries: &mut Vec<EntryRef<'_>>) {
    // Loads move while this sorts: each is read once.
    let mut loaded: Vec<(f64, EntryRef<'_>)> =
        entries.iter().map(|entry| (entry.lease.load().unwrap_or(f64::INFINITY), *entry)).collect();
    loaded.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    *entries = loaded.into_iter().map(|(_, entry)| entry).collect();
}

fn outcome(held: bool, returned: u32, degraded: bool) -> LookupOutcome {
    match (held, returned, degraded) {
        (true, ..) => LookupOutcome::NotModified,
        (false, 0, _) => LookupOutcome::Empty,
        (false, _, true) => LookupOutcome::Degraded,
        (false, _, false) => LookupOutcome::Hit,
    }
}

async fn finish(
    api: &Api,
    scope: &Scope,
    view: &ServiceView,
    head: Seq,
    (filter, held): (String, Option<Seq>),
    found: Found,
) -> Result<Response, Problem> {
    let (about, seen, detail) = found.event(view, head, (filter, held));
    record(api, scope, about, seen, detail, found.outcome).await?;
    let found = match found.form.wanted {
        // Boxed, so that lookups that need nothing of this need not hold the room for it.
        Some(coding) => Box::pin(found.encoded(api, view, coding)).await,
        None => found,
    };
    Ok(found.answer(view.revision))
}

impl Found {
    /// How it went.
    pub(super) fn outcome(&self) -> LookupOutcome {
        self.outcome
    }

    /// The status that it is answered with.
    pub(super) fn status(&self) -> StatusCode {
        if self.body.is_some() { StatusCode::OK } else { StatusCode::NOT_MODIFIED }
    }

    /// Its event: about whom, what of the state it saw when that was at `head`, and what was asked and answered.
    pub(super) fn event(
        &self,
        view: &ServiceView,
        head: Seq,
        (filter, held): (String, Option<Seq>),
    ) -> (About, Seq, Detail) {
        let about = About {
            namespace: Some(view.key.namespace.clone()),
            service: Some(view.key.service.clone()),
            instance: None,
        };
        let detail = Detail::Lookup {
            filter: filter.into(),
            revision: view.revision,
            returned: self.returned,
            status: self.status().as_u16(),
            held,
            baggage: None,
        };
        (about, head.max(view.revision), detail)
    }

    /// An instance as it was, whose tag is that of its own revision.
    pub(super) fn instance(body: Bytes, etag: Bytes, headers: &HeaderMap) -> Self {
        let held = etag::held(headers, &etag);
        let is_held = held.is_some();
        Self {
            body: (!is_held).then_some(Content::Whole(body)),
            etag: held.or(Some(etag)),
            returned: u32::from(!is_held),
            outcome: outcome(is_held, 1, false),
            form: Form { varies: is_held, ..Form::default() },
        }
    }

    /// Whether nothing of it has to be made first.
    pub(super) fn is_ready(&self) -> bool {
        self.form.wanted.is_none()
    }

    fn comes_in(&mut self, coding: Coding, form: Bytes) {
        self.body = Some(Content::Whole(form));
        self.form.coding = Some(coding);
    }

    /// The same in the coding that suits its client, if it can be had.
    async fn encoded(mut self, api: &Api, view: &ServiceView, coding: Coding) -> Self {
        let answer = kept(api, view);
        if let Some(forms) = &answer.forms
            && let Some(form) = api.encoder.kept(forms, coding, &answer.body).await
        {
            self.comes_in(coding, form);
        }
        self
    }

    /// The response, of a service at `revision`.
    pub(super) fn answer(self, revision: Seq) -> Response {
        let mut response = match self.body {
            Some(Content::Whole(body)) => json_response(StatusCode::OK, body, revision),
            Some(Content::Pieces(pieces)) => {
                let mut response = json_response(StatusCode::OK, Bytes::new(), revision);
                *response.body_mut() = Body::new(Pieces::new(pieces));
                response
            }
            None => not_modified(revision),
        };
        if let Some(etag) = &self.etag {
            response.headers_mut().insert(header::ETAG, etag::header(etag));
        }
        if self.form.varies {
            encoding::varies(response.headers_mut());
        }
        if let Some(coding) = self.form.coding {
            encoding::mark(response.headers_mut(), coding);
        }
        response
    }
}

fn not_modified(revision: Seq) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(wire::SEQ, wire::seq_header(revision));
    response
}

/// Records a lookup and counts it.
pub(super) async fn record(
    api: &Api,
    scope: &Scope,
    about: About,
    seen: Seq,
    detail: Detail,
    outcome: LookupOutcome,
) -> Result<(), Problem> {
    let recorded = api.record(scope, about, seen, detail, None).await;
    let outcome = if recorded.is_ok() { outcome } else { LookupOutcome::Error };
    api.metrics.registry.lookups.get(outcome).increment(1);
    recorded
}

/// Records a lookup that found nothing; the problem to answer, which is another one if that can't be recorded.
async fn unknown(
    api: &Api,
    scope: &Scope,
    key: ServiceKey,
    known: Option<(&ServiceView, InstanceId)>,
    head: Seq,
    filter: String,
    held: Option<Seq>,
) -> Problem {
    let revision = known.as_ref().map_or(Seq::ZERO, |(view, _)| view.revision);
    let (problem, instance) = match known {
        Some((_, instance)) => (Problem::UnknownInstance, Some(instance)),
        None => (Problem::UnknownService, None),
    };
    let detail = Detail::Lookup {
        filter: filter.into(),
        revision,
        returned: 0,
        status: problem.status().as_u16(),
        held,
        baggage: None,
    };
    let about = About { namespace: Some(key.namespace), service: Some(key.service), instance };
    let outcome = LookupOutcome::Unknown;
    scope.reflects(head.max(revision));
    match record(api, scope, about, head.max(revision), detail, outcome).await {
        Ok(()) => problem,
        Err(other) => other,
    }
}

pub(super) async fn instance(
    State(api): State<Shared>,
    scope: Scope,
    path: Path,
    request: Request,
) -> Result<Response, Problem> {
    let head = api.projection.head();
    let mut faults = Faults::default();
    let query = Query::read(request.uri().query(), &READ_INSTANCE, &mut faults);
    let key = path.instance(&query, &mut faults);
    let at = past::moment(&api, &query, &mut faults);
    faults.check()?;
    let key = key.ok_or(Problem::Internal)?;
    scope.about(&key.service.service, Some(&key.instance));
    if let Some(at) = at {
        return past::instance(&api, &scope, at, key, request.headers()).await;
    }
    let ServiceKey { namespace, service } = &key.service;
    let Some(view) = api.projection.service(namespace.as_str(), service.as_str()) else {
        return Err(unknown(&api, &scope, key.service, None, head, String::new(), None).await);
    };
    let Some(entry) = view.entry(key.instance.as_str()) else {
        let known = Some((&*view, key.instance));
        return Err(unknown(&api, &scope, key.service, known, head, String::new(), None).await);
    };
    let body = wire::with_lease(entry.instance, entry.lease, &*api.clock);
    let detail = Detail::Lookup {
        filter: Box::default(),
        revision: view.revision,
        returned: 1,
        status: StatusCode::OK.as_u16(),
        held: None,
        baggage: None,
    };
    let about = About {
        namespace: Some(key.service.namespace),
        service: Some(key.service.service),
        instance: Some(key.instance),
    };
    record(&api, &scope, about, head.max(view.revision), detail, LookupOutcome::Hit).await?;
    Ok(json_response(StatusCode::OK, body, view.revision))
}
