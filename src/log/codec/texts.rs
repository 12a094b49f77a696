//! Texts of payloads as they stand there: what is read borrows from the payload, unless something in it is escaped, and
//! what is written borrows from the instance. A snapshot of a million instances holds some twenty million of them.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// A text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(in crate::log) struct Text<'a>(Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;

        impl<'de> Visitor<'de> for Seen {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_string<E>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }

        deserializer.deserialize_str(Seen)
    }
}

/// Key and value, in the order of the keys, each key once: of one that comes twice the last value stays, as in a map.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(in crate::log) struct Pairs<'a>(Vec<(Text<'a>, Text<'a>)>);

impl<'a> Pairs<'a> {
    /// In their order.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl<'a> FromIterator<(Text<'a>, Text<'a>)> for Pairs<'a> {
    fn from_iter<I: IntoIterator<Item = (Text<'a>, Text<'a>)>>(pairs: I) -> Self {
        let mut pairs: Vec<(Text<'a>, Text<'a>)> = pairs.into_iter().collect();
        if !pairs.is_sorted_by(|(one, _), (next, _)| one < next) {
            // The last of those that are alike comes first, and is the one that is kept.
            pairs.reverse();
            pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
            pairs.dedup_by(|(next, _), (kept, _)| next == kept);
        }
        Self(pairs)
    }
}

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seen;

        impl<'de> Visitor<'de> for Seen {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("texts by their names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                std::iter::from_fn(|| map.next_entry().transpose()).collect()
            }
        }

        deserializer.deserialize_map(Seen)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_needs_no_copy_is_none() {
        let read: Vec<Text<'_>> = serde_json::from_str(r#"["plain ä","a\nb"]"#).unwrap();
        assert!(matches!(read[0].0, Cow::Borrowed("plain ä")));
        assert!(matches!(&read[1].0, Cow::Owned(text) if text == "a\nb"));
    }

    proptest! {
        #[test]
        fn pairs_are_a_map(given in prop::collection::vec(("[a-c\n]{0,2}", "[x\"]{0,2}"), 0..8)) {
            let object: Vec<String> = given
                .iter()
                .map(|(k, v)| {
                    [k, v].map(|text| serde_json::to_string(text).unwrap()).join(":")
                })
                .collect();
            let json = format!("{{{}}}", object.join(","));
            let map: BTreeMap<String, String> = serde_json::from_str(&json).unwrap();
            let pairs: Pairs<'_> = serde_json::from_str(&json).unwrap();
            prop_assert!(pairs.iter().eq(map.iter().map(|(k, v)| (k.as_str(), v.as_str()))));
            let [ours, map] =
                [serde_json::to_string(&pairs).unwrap(), serde_json::to_string(&map).unwrap()];
            prop_assert_eq!(ours, map);
        }
    }
}
