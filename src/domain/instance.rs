//! An instance as registered, and the words for the state that it can be in.

use std::net::IpAddr;
use std::sync::Arc;

use arcstr::ArcStr;

use super::check::{Check, Detector};
use super::health::Signals;
use super::ids::{InstanceKey, Seq};
use super::labels::{Labels, share};
use super::limits::{ADDRESS_CHARS_MAX, DNS_LABEL_CHARS_MAX, PROTOCOL_CHARS_MAX};
use super::time::{Millis, Timestamp};

macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum $type { $($(#[$vdoc])* $variant),+ }

        impl $type {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used in the API, on disk, in metrics and on dashboards.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value that `word` stands for.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// What the operator or the instance itself wants of it.
    Mode {
        /// Takes calls.
        Active = "active",
        /// Takes calls when no active one is healthy.
        Standby = "standby",
        /// Finishes what it has and is offered to nobody new.
        Draining = "draining",
    }
}

words! {
    /// What the registry believes of it.
    Status {
        /// Lease fresh, nothing speaks against it.
        Healthy = "healthy",
        /// Something speaks against it (see [`Signals`]): offered only if nothing better is left.
        Unstable = "unstable",
        /// Its probe fails, or it says so itself: offered to nobody.
        Failed = "failed",
    }
}

words! {
    /// What an instance says of itself in a heartbeat.
    Health {
        /// All is well.
        Passing = "passing",
        /// Do not call me.
        Failing = "failing",
    }
}

impl Health {
    /// Whether saying this changes what is known of the instance.
    #[must_use]
    pub fn contradicts(self, signals: Signals) -> bool {
        match self {
            Self::Failing => !signals.reported_failing,
            Self::Passing => signals.reported_failing,
        }
    }
}

/// The ttl of an instance that is only probed.
pub const NO_TTL: &str = "none";

/// Where an instance is called.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    /// An IPv4 or IPv6 address, or a DNS name, as it was given.
    pub address: ArcStr,
    /// 1 to 65535.
    pub port: u16,
    /// `http`, `grpc`, ... a short lower-case name.
    pub protocol: ArcStr,
}

/// Why an address or a protocol was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Neither an IP address nor a DNS name.
    #[error("must be an IPv4 address, an IPv6 address without brackets, or a DNS name")]
    Address,
    /// Not a short name.
    #[error(
        "must be a short name of 1 to 16 characters a-z 0-9 + . - such as \"http\" or \"grpc\""
    )]
    Protocol,
}

/// Checks that `text` is an IP address or a DNS name (letters, digits, `-`, `_` in labels of up to 63).
///
/// # Errors
/// [`InvalidEndpoint::Address`] otherwise. Digits and dots that are no IPv4 address are refused too:
/// `10.0.0.300` is a typing mistake, not a host.
pub fn check_address(text: &str) -> Result<(), InvalidEndpoint> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let label_ok = |label: &str| {
        (1..=DNS_LABEL_CHARS_MAX).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let looks_numeric = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if name.len() <= ADDRESS_CHARS_MAX && !looks_numeric && name.split('.').all(label_ok) {
        return Ok(());
    }
    Err(InvalidEndpoint::Address)
}

/// Checks that `text` is a short protocol name.
///
/// # Errors
/// [`InvalidEndpoint::Protocol`] otherwise.
pub fn check_protocol(text: &str) -> Result<(), InvalidEndpoint> {
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'.' | b'-');
    let sized = (1..=PROTOCOL_CHARS_MAX).contains(&text.len());
    if sized && text.bytes().all(allowed) && text.as_bytes()[0].is_ascii_alphanumeric() {
        return Ok(());
    }
    Err(InvalidEndpoint::Protocol)
}

/// Metadata: keys in order, each once.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Metadata(Box<[(Box<str>, Box<str>)]>);

impl Metadata {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[found].1)
    }

    /// Pairs in the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The metadata of these pairs after a merge patch (RFC 7396): a value sets its key, none removes it.
    #[must_use]
    pub fn patched<'a>(
        pairs: impl Iterator<Item = (&'a str, &'a str)>,
        patch: &'a [(Box<str>, Option<Box<str>>)],
    ) -> Self {
        let mut map: std::collections::BTreeMap<&str, &str> = pairs.collect();
        for (key, value) in patch {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&**key),
            };
        }
        map.into_iter().map(|(k, v)| (k.into(), v.into())).collect()
    }
}

impl FromIterator<(Box<str>, Box<str>)> for Metadata {
    /// Sorts by key; of a key given twice the last value stays.
    fn from_iter<I: IntoIterator<Item = (Box<str>, Box<str>)>>(pairs: I) -> Self {
        let map: std::collections::BTreeMap<_, _> = pairs.into_iter().collect();
        Self(map.into_iter().collect())
    }
}

/// One registered instance. A value: a change makes a new one, so that readers may keep the old.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// Who it is.
    pub key: InstanceKey,
    /// The `seq` of the event that created this life of the instance.
    pub incarnation: Seq,
    /// Where it is called.
    pub endpoint: Endpoint,
    /// Version, zone, tags and metadata.
    pub labels: Labels,
    /// Its share of the calls, 0 to 10000.
    pub weight: u16,
    /// What is wanted of it.
    pub mode: Mode,
    /// When the drain ends and it is taken out; none unless it drains with a deadline.
    pub drain_until: Option<Timestamp>,
    /// What is believed of it: [`Signals::status`] of the next.
    pub status: Status,
    /// What that follows from.
    pub signals: Signals,
    /// How long one heartbeat lasts; none for an instance that is only probed.
    pub ttl: Option<Millis>,
    /// By which rule a silence counts as a death.
    pub detector: Detector,
    /// How the registry probes it, if it does.
    pub check: Option<Arc<Check>>,
    /// When this life began.
    pub registered_at: Timestamp,
    /// The `seq` of the last change of anything in here.
    pub revision: Seq,
}

impl Instance {
    /// The same instance with those texts from `other` that it has in common with it: of a service's instances, all but
    /// the id and the address is nearly always the same. None if it has them already, or has none in common.
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> Option<Self> {
        let mut shared = self.clone();
        shared.share(other).then_some(shared)
    }

    /// Takes the texts of `other` that are the same and stand elsewhere; whether there were any.
    pub fn share(&mut self, other: &Self) -> bool {
        let Self { key, endpoint, labels, .. } = self;
        let gains = [
            key.service.share(&other.key.service),
            key.instance.share(&other.key.instance),
            share(&mut endpoint.address, &other.endpoint.address),
            share(&mut endpoint.protocol, &other.endpoint.protocol),
            labels.share(&other.labels),
        ];
        gains.contains(&true)
    }

    /// The recommended interval between heartbeats: a quarter of the ttl, so that a single lost one
    /// changes nothing; none for an instance that is only probed.
    #[must_use]
    pub fn heartbeat_interval(&self) -> Option<Millis> {
        self.ttl.map(|ttl| Millis::from_millis(ttl.millis() / 4))
    }

    /// The ttl in the words of the API.
    #[must_use]
    pub fn ttl_text(&self) -> String {
        self.ttl.map_or_else(|| NO_TTL.to_owned(), |ttl| ttl.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ip_or_dns() {
        let long_label = "a".repeat(64);
        let long_name = vec!["a".repeat(63); 4].join(".");
        for good in
            ["10.0.0.7", "::1", "fe80::1", "localhost", "orders.svc.cluster.local.", "a_b.c"]
        {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            ".",
            "10.0.0.300",
            "1234",
            "[::1]",
            "a b",
            "-a",
            "a..b",
            "http://a",
            "ä",
            &long_label,
            &long_name,
        ] {
            assert_eq!(check_address(bad), Err(InvalidEndpoint::Address), "{bad}");
        }
    }

    #[test]
    fn a_merge_patch_sets_and_removes() {
        let base: Metadata =
            [("a", "1"), ("b", "2")].map(|(k, v)| (k.into(), v.into())).into_iter().collect();
        let patch = [("a".into(), None), ("c".into(), Some("3".into()))];
        let patched = Metadata::patched(base.iter(), &patch);
        assert_eq!(patched.iter().collect::<Vec<_>>(), [("b", "2"), ("c", "3")]);
        assert_eq!((patched.get("c"), patched.get("a")), (Some("3"), None));
    }
}
