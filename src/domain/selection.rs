//! Whom a lookup is answered: filters first, then the first tier that is not empty.
//!
//! Pure, so that the past is answered by the same rules as the present: a revision and a filter always give the same
//! list.

use form_urlencoded::{byte_serialize, parse};

use super::instance::{Instance, Mode, Status};

/// The word for every status.
pub const ANY: &str = "any";

/// How the recorded filter of Prometheus' discovery begins: it hands out all whom the rest of it lets through, whatever
/// their tier.
pub const SD_PROMETHEUS: &str = "sd=prometheus";

/// Whom a lookup without `status=` and `mode=` may be offered, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// Active and healthy.
    Active,
    /// Standby and healthy.
    Standby,
    /// Active and unstable: degraded.
    ActiveUnstable,
    /// Standby and unstable: degraded.
    StandbyUnstable,
}

impl Tier {
    /// All of them, best first.
    pub const ALL: [Self; 4] =
        [Self::Active, Self::Standby, Self::ActiveUnstable, Self::StandbyUnstable];

    /// The tier of an instance; none for those who are offered to nobody.
    #[must_use]
    pub fn of(instance: &Instance) -> Option<Self> {
        match (instance.mode, instance.status) {
            (Mode::Active, Status::Healthy) => Some(Self::Active),
            (Mode::Standby, Status::Healthy) => Some(Self::Standby),
            (Mode::Active, Status::Unstable) => Some(Self::ActiveUnstable),
            (Mode::Standby, Status::Unstable) => Some(Self::StandbyUnstable),
            (Mode::Draining, _) | (_, Status::Failed) => None,
        }
    }

    /// Whether an answer from this tier is degraded.
    #[must_use]
    pub fn degraded(self) -> bool {
        matches!(self, Self::ActiveUnstable | Self::StandbyUnstable)
    }
}

/// What a lookup asks for. The default lets everybody through, by tiers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those of this status; `Some(None)` is any. Asking for a status switches the tiers off.
    pub status: Option<Option<Status>>,
    /// Those of this mode. Asking for a mode switches the tiers off.
    pub mode: Option<Mode>,
    /// Those that have all of these tags.
    pub tags: Vec<String>,
    /// Those in this zone.
    pub zone: Option<String>,
    /// Those of this version.
    pub version: Option<String>,
    /// Those that have these values for these keys.
    pub metadata: Vec<(String, String)>,
}

impl Filter {
    /// The filter of these query parameters; names that are no filter are passed over.
    pub fn from_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut filter = Self::default();
        for (name, value) in pairs {
            match name {
                "status" => filter.status = Some(Status::parse(value)),
                "mode" => filter.mode = Mode::parse(value),
                "tag" => filter.tags.push(value.to_owned()),
                "zone" => filter.zone = Some(value.to_owned()),
                "version" => filter.version = Some(value.to_owned()),
                _ => {
                    let key = name.strip_prefix("meta.").map(str::to_owned);
                    filter.metadata.extend(key.map(|key| (key, value.to_owned())));
                }
            }
        }
        filter
    }

    /// The filter that [`Filter::canonical`] wrote.
    #[must_use]
    pub fn parse(canonical: &str) -> Self {
        let pairs: Vec<_> = parse(canonical.as_bytes()).collect();
        Self::from_pairs(pairs.iter().map(|(name, value)| (&**name, &**value)))
    }

    /// Whether `instance` has all that is asked for.
    #[must_use]
    pub fn lets_through(&self, instance: &Instance) -> bool {
        self.status.flatten().is_none_or(|status| instance.status == status)
            && self.mode.is_none_or(|mode| instance.mode == mode)
            && self.tags.iter().all(|tag| instance.labels.tags().any(|own| own == tag))
            && self.zone.as_deref().is_none_or(|zone| instance.labels.zone() == Some(zone))
            && self.version.as_deref().is_none_or(|v| instance.labels.version() == Some(v))
            && self.metadata.iter().all(|(key, value)| instance.labels.get(key) == Some(value))
    }

    /// Whether the filter asks for a status or a mode, which switches the tiers off.
    #[must_use]
    pub fn ignores_tiers(&self) -> bool {
        self.status.is_some() || self.mode.is_some()
    }

    /// The filter as a query string in which equal filters are equal texts; empty is the default.
    #[must_use]
    pub fn canonical(&self) -> String {
        let status = self.status.map(|status| status.map_or(ANY, Status::as_str));
        let mut pairs: Vec<(String, &str)> = Vec::new();
        pairs.extend(status.map(|status| ("status".into(), status)));
        pairs.extend(self.mode.map(|mode| ("mode".into(), mode.as_str())));
        pairs.extend(self.tags.iter().map(|tag| ("tag".into(), tag.as_str())));
        pairs.extend(self.zone.as_deref().map(|zone| ("zone".into(), zone)));
        pairs.extend(self.version.as_deref().map(|version| ("version".into(), version)));
        pairs.extend(self.metadata.iter().map(|(k, v)| (format!("meta.{k}"), v.as_str())));
        pairs.sort();
        pairs.dedup();
        canonical(pairs.iter().map(|(name, value)| (name.as_str(), *value)))
    }
}

/// Pairs as a query string.
pub fn canonical<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.extend(byte_serialize(name.as_bytes()));
        text.push('=');
        text.extend(byte_serialize(value.as_bytes()));
    }
    text
}

/// Those of `candidates` that a lookup with `filter` is answered, in their order, and the tier that they are of;
/// none where tiers are switched off. Weight 0 is offered only when all in the tier are 0.
pub fn select<T>(
    candidates: impl Iterator<Item = T>,
    instance: impl Fn(&T) -> &Instance,
    filter: &Filter,
) -> (Vec<T>, Option<Tier>) {
    let through = candidates.filter(|candidate| filter.lets_through(instance(candidate)));
    if filter.ignores_tiers() {
        return (through.collect(), None);
    }
    let matching: Vec<(T, Tier)> = through
        .filter_map(|candidate| Tier::of(instance(&candidate)).map(|tier| (candidate, tier)))
        .collect();
    let best = matching.iter().map(|(_, tier)| *tier).min();
    let mut in_best: Vec<T> = matching
        .into_iter()
        .filter(|(_, tier)| Some(*tier) == best)
        .map(|(candidate, _)| candidate)
        .collect();
    if in_best.iter().any(|candidate| instance(candidate).weight > 0) {
        in_best.retain(|candidate| instance(candidate).weight > 0);
    }
    (in_best, best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_filters_have_equal_texts_that_read_back() {
        for (raw, text) in [
            ("", ""),
            ("namespace=a&include=lease", ""),
            ("zone=b&tag=y&tag=x&tag=y", "tag=x&tag=y&zone=b"),
            ("meta.a%26b=1+2%3D3&status=any", "meta.a%26b=1+2%3D3&status=any"),
            ("mode=draining&status=failed&version=1", "mode=draining&status=failed&version=1"),
        ] {
            assert_eq!(Filter::parse(raw).canonical(), text, "{raw}");
            assert_eq!(Filter::parse(text).canonical(), text);
        }
    }
}
