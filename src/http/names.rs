//! Reads the names in a request's path: percent-decoded first, checked afterwards.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use super::faults::Faults;
use super::problem::Problem;
use super::query::Query;
use crate::domain::{InstanceId, InstanceKey, ServiceKey, ServiceName};

/// The decoded segments of a path that are names.
#[derive(Debug)]
pub(super) struct Path(RawPathParams);

impl<S: Send + Sync> FromRequestParts<S> for Path {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        params.map(Self).map_err(|_| Problem::Malformed {
            detail: "the path is not UTF-8 once it is decoded".into(),
        })
    }
}

impl Path {
    /// The segment of this name, unchecked; empty if the path has none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// `{service}` in the namespace that the query names, both checked; without one it is `default`.
    pub(super) fn service(&self, query: &Query<'_>, faults: &mut Faults) -> Option<ServiceKey> {
        let namespace = query.namespace(faults);
        let service = self.name("service", ServiceName::new, faults)?;
        Some(ServiceKey { namespace: namespace.unwrap_or_default(), service })
    }

    /// `{service}` and `{instance}` in the namespace that the query names, all checked.
    pub(super) fn instance(&self, query: &Query<'_>, faults: &mut Faults) -> Option<InstanceKey> {
        let service = self.service(query, faults);
        let instance = self.name("instance", InstanceId::new, faults);
        Some(InstanceKey { service: service?, instance: instance? })
    }

    fn name<T, E: std::fmt::Display>(
        &self,
        name: &str,
        make: impl Fn(&str) -> Result<T, E>,
        faults: &mut Faults,
    ) -> Option<T> {
        make(self.get(name)).map_err(|error| faults.invalid(name, error.to_string())).ok()
    }
}
