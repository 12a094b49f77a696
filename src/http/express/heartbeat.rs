//! Plain heartbeats: of an instance that is known, whose lease bears no mark of the registrar, and which says nothing of
//! itself that would change what the registry believes. Called by [`super`].
//!
//! A body is read only if it is short and has come together with its head, as it does from nearly everybody; one that
//! has not is left to the long way, which can wait. Its JSON is read into the very fields that the contract knows.
//! Whatever does not fit them, down to a field that comes twice, is left to the long way too, which says what is wrong:
//! what is taken here must mean there what it means here.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use hyper::body::{Body as _, Incoming};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Begun, Done, Express, Found, Unread};
use crate::domain::instance::Health;
use crate::domain::{Namespace, Seq};
use crate::http::caller::Peer;
use crate::http::{body, heartbeat, registration, renewed};
use crate::registrar::QueuedTraffic;
use crate::telemetry::names::{Method, RequestClass};

/// Longest body that is read here: all fields but a note have room.
const BODY_BYTES_MAX: u64 = 256;

/// A heartbeat whose body is still to be read.
#[derive(Debug)]
pub(in crate::http) struct Beat {
    begun: Begun,
}

/// What a plain heartbeat says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said<'a> {
    incarnation: Option<u64>,
    load: Option<f64>,
    #[serde(borrow)]
    health: Option<&'a str>,
    note: Option<IgnoredAny>,
}

impl Express {
    /// The answer to a `PUT` of this path below the services, or the beat whose body is to be read first; none if it is no
    /// plain heartbeat, and nothing has happened then.
    pub(super) fn heartbeat<B: hyper::body::Body>(
        &self,
        request: &Request<B>,
        path: &str,
        peer: &Arc<Peer>,
    ) -> Option<Found> {
        names(path)?;
        let open = self.is_open(request, RequestClass::Heartbeat)
            && !self.api.registrar.is_read_only()
            // Whoever expects to be told to go on may be refused before it sends anything.
            && !request.headers().contains_key(header::EXPECT);
        if !open {
            return None;
        }
        let begun = self.begin(request);
        if request.body().is_end_stream() {
            return self.renew(request, peer, &begun, &[]).map(Found::Answered);
        }
        let length = request.body().size_hint().exact()?;
        (length <= BODY_BYTES_MAX).then_some(Found::Beat(Beat { begun }))
    }

    /// Renews the lease and records that, if nothing has to be asked or waited for; else nothing has happened.
    fn renew<B>(
        &self,
        request: &Request<B>,
        peer: &Arc<Peer>,
        begun: &Begun,
        body: &[u8],
    ) -> Option<Response> {
        let api = &*self.api;
        let (service, instance) = names(request.uri().path().strip_prefix("/v1/services/")?)?;
        let beat = read(request, body)?;
        // The head before the view, so that the event never claims to have seen less than it did.
        let head = api.projection.head();
        api.projection.with_service(Namespace::DEFAULT, service, |cell| {
            let view = cell.guard();
            let entry = view.entry(instance)?;
            let (living, lease) = (entry.instance, entry.lease);
            let what = beat.event(head, living)?;
            let seen = what.1;
            let traffic = self.event(request, peer, begun, what);
            let at = traffic.at;
            let event = QueuedTraffic { traffic, lease: Some(Arc::clone(lease)) };
            let mut gap = None;
            // Renewed if there is a place for its event, and the other way round: on the long way it would be renewed
            // once more, and a gap would be learned that nobody has made.
            let renews = || lease.renew_open(begun.started, at).map(|since| gap = since).is_ok();
            api.registrar.try_record_if(event, renews).ok()?;
            heartbeat::observe_gap(api, gap, lease);
            if let Some(load) = beat.load {
                lease.says_load(load);
            }
            let done = Done {
                request,
                peer,
                begun,
                at,
                method: Method::Put,
                route: &self.heartbeats,
                service: &living.key.service.service,
                instance: Some(&living.key.instance),
            };
            let text = renewed::text(living);
            let response = registration::json_response(StatusCode::OK, text, seen);
            Some(self.end(&done, RequestClass::Heartbeat, response))
        })?
    }
}

/// The names of service and instance in the path of a heartbeat below the services.
fn names(path: &str) -> Option<(&str, &str)> {
    let (service, instance) = path.strip_suffix("/heartbeat")?.split_once("/instances/")?;
    (!service.contains('/') && !instance.contains('/')).then_some((service, instance))
}

/// What this body says; none if it is not plain.
fn read<B>(request: &Request<B>, body: &[u8]) -> Option<heartbeat::Plain> {
    if body.is_empty() {
        return Some(heartbeat::Plain::default());
    }
    let spec = heartbeat::HEARTBEAT.body.as_ref()?;
    body::check_media_type(request.headers(), spec).ok()?;
    // A list would be read into the same fields, by their order.
    if body.first() != Some(&b'{') {
        return None;
    }
    let said: Said<'_> = serde_json::from_slice(body).ok()?;
    let Said { incarnation, load, health, note } = said;
    let health = match health {
        Some(word) => Some(Health::parse(word)?),
        None => None,
    };
    let plain = incarnation != Some(0) && load.is_none_or(|load| load >= 0.0) && note.is_none();
    plain.then_some(heartbeat::Plain { incarnation: incarnation.map(Seq), load, health })
}

impl Beat {
    /// Reads the body of `request` and answers it; or gives the request back as it came, for the long way.
    #[expect(
        clippy::result_large_err,
        reason = "the request itself goes back, for the long way; boxing would cost each that has to wait"
    )]
    pub(in crate::http) fn answer(
        &self,
        express: &Express,
        peer: &Arc<Peer>,
        mut request: Request<Incoming>,
        context: &mut Context<'_>,
    ) -> Result<Response, Request<Unread>> {
        let read = match Pin::new(request.body_mut()).poll_frame(context) {
            Poll::Ready(Some(frame)) => frame,
            // Whoever polls next hears it again.
            Poll::Ready(None) | Poll::Pending => return Err(request.map(Unread::whole)),
        };
        let whole = read.as_ref().ok().and_then(|frame| frame.data_ref());
        let answer = match whole.filter(|_| request.body().is_end_stream()) {
            Some(whole) => express.renew(&request, peer, &self.begun, whole),
            None => None,
        };
        answer.ok_or_else(|| request.map(|rest| Unread::after(read, rest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &str) -> Option<heartbeat::Plain> {
        read(&Request::new(()), body.as_bytes())
    }

    #[test]
    fn what_is_plain_is_read_and_all_else_is_left() {
        let plain = |incarnation: Option<u64>, load, health| {
            Some(heartbeat::Plain { incarnation: incarnation.map(Seq), load, health })
        };
        for (body, expected) in [
            ("", plain(None, None, None)),
            ("{}", plain(None, None, None)),
            (r#"{"load":0.42}"#, plain(None, Some(0.42), None)),
            (r#"{ "load" : 3 , "incarnation" : 41 }"#, plain(Some(41), Some(3.0), None)),
            (r#"{"health":"passing","load":null}"#, plain(None, None, Some(Health::Passing))),
            (r#"{"note":null}"#, plain(None, None, None)),
        ] {
            assert_eq!(said(body), expected, "{body}");
        }
        for left in [
            r#"{"note":"x"}"#,
            r#"{"note":""}"#,
            r#"{"load":-1}"#,
            r#"{"load":"1"}"#,
            r#"{"load":1,"load":2}"#,
            r#"{"lode":1}"#,
            r#"{"incarnation":0}"#,
            r#"{"incarnation":41.0}"#,
            r#"{"health":"meh"}"#,
            r#"{"health":"p\u0061ssing"}"#,
            r#"{"load":1}x"#,
            r#"{"load":1"#,
            "[41,0.5,null,null]",
            " {}",
            "7",
        ] {
            assert_eq!(said(left), None, "{left}");
        }
        let mut typed = Request::new(());
        typed.headers_mut().insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());
        assert_eq!(read(&typed, b"{}"), None);
        assert!(read(&typed, b"").is_some(), "no body has no type");
    }

    #[test]
    fn only_the_path_of_a_heartbeat_has_its_names() {
        assert_eq!(names("a/instances/b/heartbeat"), Some(("a", "b")));
        for other in ["a/instances/b", "a/instances/b/c/heartbeat", "a/b/instances/c/heartbeat"] {
            assert_eq!(names(other), None, "{other}");
        }
    }
}
