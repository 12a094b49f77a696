//! Plain lookups: the default answer of a known service in the default namespace. Called by [`super`].

use std::sync::Arc;

use axum::http::Request;
use hyper::body::Body;

use super::{Done, Express, Found};
use crate::domain::Namespace;
use crate::http::caller::Peer;
use crate::http::lookup;
use crate::registrar::QueuedTraffic;
use crate::telemetry::names::{Method, RequestClass};

impl Express {
    /// The answer to a `GET` of this path below the services, if it is a lookup that can be answered at once; else
    /// nothing has happened. A name that is not plain is left to those who decode and check it: no service has one.
    pub(super) fn lookup<B: Body>(
        &self,
        request: &Request<B>,
        path: &str,
        peer: &Arc<Peer>,
    ) -> Option<Found> {
        let service = path.strip_suffix("/instances")?;
        let class = RequestClass::Lookup;
        if service.contains('/') || !request.body().is_end_stream() || !self.is_open(request, class)
        {
            return None;
        }
        let api = &*self.api;
        // The head before the view, so that the event never claims to have seen less than it did.
        let head = api.projection.head();
        let begun = self.begin(request);
        api.projection.with_service(Namespace::DEFAULT, service, |cell| {
            let view = cell.guard();
            let found = lookup::default_answer(api, &view, request.headers());
            if !found.is_ready() {
                return None;
            }
            let what = found.event(&view, head, (String::new(), None));
            let traffic = self.event(request, peer, &begun, what);
            let at = traffic.at;
            api.registrar.try_record(QueuedTraffic { traffic, lease: None }).ok()?;
            api.metrics.registry.lookups.get(found.outcome()).increment(1);
            let done = Done {
                request,
                peer,
                begun: &begun,
                at,
                method: Method::Get,
                route: &self.lookups,
                service: &view.key.service,
                instance: None,
            };
            Some(Found::Answered(self.end(&done, class, found.answer(view.revision))))
        })?
    }
}
