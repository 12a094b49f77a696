//! Baggage as it is stored: a JSON object of texts, `"baggage": {"tenant": "acme"}` in the data of its event.
//!
//! What has none has not a byte of it. Used by [`super::codec`] for changes and by [`super::blocks`] for traffic.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::domain::baggage::Baggage;

/// Baggage, stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StoredBaggage(pub(super) Arc<Baggage>);

impl Serialize for StoredBaggage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.pairs())
    }
}

impl<'de> Deserialize<'de> for StoredBaggage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = BTreeMap::<Box<str>, Box<str>>::deserialize(deserializer)?;
        let baggage = Baggage::new(pairs);
        baggage.map(|baggage| Self(Arc::new(baggage))).ok_or_else(|| {
            de::Error::custom(
                "baggage must hold 1 to 8 keys of up to 128 bytes, with values of up to 256",
            )
        })
    }
}

/// Baggage to be stored.
pub(super) fn store(baggage: Option<&Arc<Baggage>>) -> Option<StoredBaggage> {
    baggage.map(|baggage| StoredBaggage(Arc::clone(baggage)))
}

/// Baggage that was stored.
pub(super) fn load(stored: Option<StoredBaggage>) -> Option<Arc<Baggage>> {
    stored.map(|stored| stored.0)
}

/// Puts baggage at the end of the text of a JSON object.
pub(super) fn put(data: &mut String, baggage: &Arc<Baggage>) {
    let baggage = serde_json::to_string(&StoredBaggage(Arc::clone(baggage)));
    let baggage = baggage.expect("texts are always JSON");
    let closed = data.pop();
    debug_assert_eq!(closed, Some('}'), "the data of every event is an object");
    if !data.ends_with('{') {
        data.push(',');
    }
    data.push_str("\"baggage\":");
    data.push_str(&baggage);
    data.push('}');
}
