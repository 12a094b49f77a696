//! Which request goes before which, by route and method.

use axum::http::Method;

use crate::telemetry::names::RequestClass;

/// The classes of one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct Classes {
    reads: Option<RequestClass>,
    changes: Option<RequestClass>,
}

impl Classes {
    /// Those of a route, by its template.
    ///
    /// Prometheus' discovery is none of the lookups: it reads all services at once, and Prometheus keeps the targets
    /// that it has when it is refused.
    pub(in crate::http) fn of(path: &str) -> Self {
        use RequestClass::{Change, Heartbeat, Lookup, Other};
        let (reads, changes) = match path {
            "/v1/services/{service}/instances" | "/v1/watch" => (Some(Lookup), Some(Other)),
            "/v1/services/{service}/instances/{instance}" => (Some(Lookup), Some(Change)),
            "/v1/register" => (Some(Other), Some(Change)),
            "/v1/services/{service}/instances/{instance}/heartbeat" | "/v1/heartbeats" => {
                (Some(Other), Some(Heartbeat))
            }
            // Whoever has to find out what is wrong is let in, and a path that is not there costs what a refusal does.
            "/v1/status" => (None, None),
            path if path.starts_with("/v1/") => (Some(Other), Some(Other)),
            _ => (None, None),
        };
        Self { reads, changes }
    }

    /// The class of a request of this route; none is let in whatever happens.
    pub(in crate::http) fn class(
        &self,
        method: &Method,
        query: Option<&str>,
    ) -> Option<RequestClass> {
        if !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return self.changes;
        }
        // A lookup of the past is a question about the past.
        let past = |query: &str| query.split('&').any(|pair| pair.starts_with("at="));
        match self.reads {
            Some(RequestClass::Lookup) if query.is_some_and(past) => Some(RequestClass::Other),
            class => class,
        }
    }
}

#[cfg(test)]
mod tests {
    use RequestClass::{Change, Heartbeat, Lookup, Other};

    use super::*;

    #[test]
    fn every_request_has_its_class() {
        let one = "/v1/services/{service}/instances/{instance}";
        for (method, path, query, expected) in [
            (Method::GET, "/v1/services/{service}/instances", None, Some(Lookup)),
            (Method::HEAD, "/v1/services/{service}/instances", Some("tag=at=1"), Some(Lookup)),
            (Method::GET, "/v1/services/{service}/instances", Some("tag=a&at=-5m"), Some(Other)),
            (Method::GET, one, None, Some(Lookup)),
            (Method::PUT, one, None, Some(Change)),
            (Method::PATCH, one, Some("at=x"), Some(Change)),
            (Method::DELETE, one, None, Some(Change)),
            (Method::POST, "/v1/register", None, Some(Change)),
            (Method::PUT, &*format!("{one}/heartbeat"), None, Some(Heartbeat)),
            (Method::POST, "/v1/heartbeats", None, Some(Heartbeat)),
            (Method::GET, "/v1/watch", None, Some(Lookup)),
            (Method::GET, "/v1/events", None, Some(Other)),
            (Method::GET, "/v1/sd/prometheus", None, Some(Other)),
            (Method::GET, "/v1/services", None, Some(Other)),
            (Method::GET, "/v1/status", None, None),
            (Method::GET, "/metrics", None, None),
            (Method::GET, "/livez", None, None),
            (Method::GET, "_unmatched", None, None),
        ] {
            assert_eq!(Classes::of(path).class(&method, query), expected, "{method} {path}");
        }
    }

    #[test]
    fn no_route_was_renamed_without_its_class() {
        let important = crate::http::router::resources()
            .iter()
            .map(|resource| Classes::of(resource.path))
            .filter(|classes| *classes != Classes::of("/v1/events") && classes.reads.is_some())
            .count();
        assert_eq!(important, 6, "lookups, instances, watch, register, heartbeat, heartbeats");
    }
}
