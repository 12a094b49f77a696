//! The JSON of the contract as this client reads and writes it.
//!
//! Only fields that this program looks at have a name here; the others travel in `rest` untouched. Used by [`super`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What an instance tells of itself; what is `None` or empty is left to the server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Registration {
    /// An IP address or a DNS name.
    pub address: String,
    /// 1 to 65535; the server refuses 0.
    pub port: u16,
    /// `http`, `grpc`, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Version of the software.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Share of the calls, 0 to 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Words to filter by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Pairs to filter by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// `active`, `standby` or `draining`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Length of the lease, in the form of the API (`15s`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// How the registry is to probe it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
}

/// How the registry finds out by itself whether an instance lives; what is `None` is left to the server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Check {
    /// `http`, `tcp` or `grpc`.
    pub kind: String,
    /// http: the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// http: what the body must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// grpc: the service that the health service is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// From one probe to the next, in the form of the API (`10s`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// How long a probe may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// An instance as answered.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Instance {
    /// Its namespace.
    pub namespace: String,
    /// Its service.
    pub service: String,
    /// Its id.
    pub instance: String,
    /// The `seq` of the event that began this life.
    pub incarnation: u64,
    /// Where it is called.
    pub address: String,
    /// Where it is called.
    pub port: u16,
    /// The rest of what it told, and of what the registry knows.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Instance {
    /// `address:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> String {
        authority(&self.address, self.port)
    }

    /// A field of the rest as text for people: empty when absent or null.
    #[must_use]
    pub fn text(&self, field: &str) -> String {
        match self.rest.get(field) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }
}

/// `address:port`, with brackets around an IPv6 address.
#[must_use]
pub fn authority(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Renewal {
    /// `healthy`, `unstable` or `failed`.
    pub status: String,
    /// How long to wait before the next heartbeat, in the form of the API; none for an instance that is only probed.
    pub heartbeat_interval: Option<String>,
    /// The other fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Which instances a lookup is about; the default asks for those that may be called now.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Tags that must all be there.
    pub tags: Vec<String>,
    /// Metadata that must all be there.
    pub metadata: Vec<(String, String)>,
    /// Zone.
    pub zone: Option<String>,
    /// Version.
    pub version: Option<String>,
    /// `any`, `healthy`, `unstable` or `failed`.
    pub status: Option<String>,
    /// `active`, `standby` or `draining`.
    pub mode: Option<String>,
    /// Whether to show leases.
    pub lease: bool,
    /// Whether the least loaded come first.
    pub by_load: bool,
}

impl Filter {
    pub(super) fn query(&self) -> Vec<(String, String)> {
        let pair = |name: &str, value: &String| (name.to_owned(), value.clone());
        let mut query: Vec<_> = self.tags.iter().map(|tag| pair("tag", tag)).collect();
        query.extend(
            self.metadata.iter().map(|(key, value)| (format!("meta.{key}"), value.clone())),
        );
        for (name, value) in [
            ("zone", &self.zone),
            ("version", &self.version),
            ("status", &self.status),
            ("mode", &self.mode),
        ] {
            query.extend(value.iter().map(|value| pair(name, value)));
        }
        if self.lease {
            query.push(pair("include", &"lease".to_owned()));
        }
        if self.by_load {
            query.push(pair("order", &"load".to_owned()));
        }
        query
    }
}

/// The answer to a lookup.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Offer {
    /// The namespace that was asked.
    pub namespace: String,
    /// The service that was asked for.
    pub service: String,
    /// The last change of what this lookup can answer.
    pub revision: u64,
    /// Whether these are instances that are called only for want of better ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub degraded: bool,
    /// Those who may be called, sorted by id.
    pub instances: Vec<Instance>,
    /// The other fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One service in the list of all.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// The last change of it.
    pub revision: u64,
    /// How many instances are registered.
    pub instances: u64,
    /// How many of them are healthy.
    pub healthy: u64,
    /// The other fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A page of services.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ServicePage {
    /// The services, sorted by namespace and name.
    pub services: Vec<Service>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<String>,
}

/// One event of the log.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Event {
    /// `42` for change 42, `t1093` for traffic event 1093.
    pub id: String,
    /// When, in RFC 3339.
    pub at: String,
    /// What happened.
    pub kind: String,
    /// The other fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A page of events.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EventPage {
    /// The events in the order that was asked for.
    pub events: Vec<Event>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<String>,
    /// What the page would hold if it had been kept, as the contract shows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Value>,
}
