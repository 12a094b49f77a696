//! What a stream is told of.

use crate::domain::event::Kind;
use crate::domain::selection::canonical;
use crate::domain::traffic::Traffic;
use crate::domain::{Change, Namespace, ServiceKey, ServiceName};

/// What a stream is told of. What is `None` or empty lets all through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamFilter {
    /// Events of this namespace; the registry's own have none.
    pub namespace: Option<Namespace>,
    /// Events of this service.
    pub service: Option<ServiceName>,
    /// Events of these kinds.
    pub kinds: Vec<Kind>,
    /// Whether it is told of traffic too.
    pub traffic: bool,
}

impl StreamFilter {
    /// Whether a change is told.
    #[must_use]
    pub fn tells(&self, change: &Change) -> bool {
        let key = change.event.service();
        self.is_about(key.map(|key| &key.namespace), key.map(|key| &key.service))
            && self.is_of(change.event.kind())
    }

    /// Whether a traffic event is told.
    #[must_use]
    pub fn tells_traffic(&self, traffic: &Traffic) -> bool {
        self.traffic
            && self.is_about(traffic.namespace.as_ref(), traffic.service.as_ref())
            && self.is_of(traffic.detail.kind())
    }

    fn is_about(&self, namespace: Option<&Namespace>, service: Option<&ServiceName>) -> bool {
        (self.namespace.is_none() || self.namespace.as_ref() == namespace)
            && (self.service.is_none() || self.service.as_ref() == service)
    }

    fn is_of(&self, kind: Kind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    /// The one service that it is about, if it names one.
    #[must_use]
    pub fn service_key(&self) -> Option<ServiceKey> {
        let (namespace, service) = (self.namespace.clone()?, self.service.clone()?);
        Some(ServiceKey { namespace, service })
    }

    /// The filter as a query string in which equal filters are equal texts; empty is every change.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        pairs.extend(self.kinds.iter().map(|kind| ("kind", kind.as_str())));
        pairs.extend(self.namespace.as_ref().map(|name| ("namespace", name.as_str())));
        pairs.extend(self.service.as_ref().map(|name| ("service", name.as_str())));
        pairs.extend(self.traffic.then_some(("traffic", "true")));
        pairs.sort_unstable();
        pairs.dedup();
        canonical(pairs.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_filters_have_equal_texts() {
        assert_eq!(StreamFilter::default().canonical(), "");
        let filter = StreamFilter {
            namespace: Namespace::new("staging").ok(),
            service: ServiceName::new("orders").ok(),
            kinds: vec![Kind::Registered, Kind::Expired, Kind::Registered],
            traffic: true,
        };
        let text = "kind=expired&kind=registered&namespace=staging&service=orders&traffic=true";
        assert_eq!(filter.canonical(), text);
    }
}
