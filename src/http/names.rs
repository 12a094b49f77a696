//! Reads the names in a request's path: percent-decoded first, checked afterwards.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use super::faults::Faults;
use super::problem::Problem;
use crate::domain::{InstanceId, InstanceKey, Namespace, ServiceKey, ServiceName};

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

    /// `{service}`, unchecked.
    pub(super) fn service(&self) -> &str {
        self.get("service")
    }

    /// `{instance}`, unchecked.
    pub(super) fn instance(&self) -> &str {
        self.get("instance")
    }

    /// `{service}` in `namespace`, checked; none of it is `default`.
    pub(super) fn service_key(
        &self,
        namespace: Option<Namespace>,
        faults: &mut Faults,
    ) -> Option<ServiceKey> {
        let service = ServiceName::new(self.service())
            .map_err(|error| faults.invalid("service", error.to_string()))
            .ok()?;
        Some(ServiceKey { namespace: namespace.unwrap_or_default(), service })
    }

    /// `{service}` and `{instance}` in `namespace`, checked.
    pub(super) fn instance_key(
        &self,
        namespace: Option<Namespace>,
        faults: &mut Faults,
    ) -> Option<InstanceKey> {
        let service = self.service_key(namespace, faults);
        let instance = InstanceId::new(self.instance())
            .map_err(|error| faults.invalid("instance", error.to_string()))
            .ok();
        Some(InstanceKey { service: service?, instance: instance? })
    }
}
