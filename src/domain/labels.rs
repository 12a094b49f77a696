//! What an instance says of itself in words: version, zone, tags, metadata, in one block of memory.
//!
//! A registry holds these texts a million times. A string of its own for each of them costs more than the texts
//! themselves: sixteen bytes to point to it and up to as many for the allocator to round it up, ten times an instance. So they
//! stand in one text, one after the other, each with its length before it; and instances that say the same share one block
//! ([`super::registry`] sees to that), which costs them eight bytes each.
//!
//! ```text
//!   version+1 text   zone+1 text   tags  len text  len text ...   pairs  len key len value ...
//! ```
//!
//! Nobody outside reads that form: it is neither stored nor sent, and may change with any version. It is read from the
//! front, which is as fast as following pointers for the few that an instance has. Values: once made, they never change.

use std::fmt;

use arcstr::ArcStr;

use super::instance::Metadata;

/// A number is written in digits of so many bits, one ASCII character each, the lowest first.
const DIGIT_BITS: u32 = 6;
/// What a block is long, about: room to write it in before it is copied to where it stays.
const BLOCK_BYTES: usize = 128;
/// Set in every digit but the last one.
const MORE: u8 = 1 << DIGIT_BITS;

/// Version, zone, tags and metadata of an instance.
#[derive(Clone, PartialEq, Eq)]
pub struct Labels(ArcStr);

impl Labels {
    /// Labels of these texts; tags keep their order.
    #[must_use]
    pub fn new<T: AsRef<str>>(
        version: Option<&str>,
        zone: Option<&str>,
        tags: &[T],
        metadata: &Metadata,
    ) -> Self {
        Self::from_sorted(version, zone, tags.iter().map(AsRef::as_ref), metadata.iter())
    }

    /// The same of pairs that are in the order of their keys, each key once.
    #[must_use]
    pub fn from_sorted<'a>(
        version: Option<&str>,
        zone: Option<&str>,
        tags: impl ExactSizeIterator<Item = &'a str>,
        metadata: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut block = String::with_capacity(BLOCK_BYTES);
        for label in [version, zone] {
            match label {
                None => put_number(&mut block, 0),
                Some(text) => {
                    put_number(&mut block, text.len() + 1);
                    block.push_str(text);
                }
            }
        }
        put_number(&mut block, tags.len());
        tags.for_each(|tag| put_text(&mut block, tag));
        put_number(&mut block, metadata.len());
        for (key, value) in metadata {
            put_text(&mut block, key);
            put_text(&mut block, value);
        }
        Self(ArcStr::from(block))
    }

    /// The version of the software that it runs.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        Reader(&self.0).label()
    }

    /// Where it stands.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        let mut reader = Reader(&self.0);
        reader.label();
        reader.label()
    }

    /// Tags, in the order they were given.
    pub fn tags(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        let mut reader = Reader(&self.0);
        reader.label();
        reader.label();
        let count = reader.number();
        (0..count).map(move |_| reader.text())
    }

    /// Key and value, in the order of the keys.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        let mut reader = Reader(&self.0);
        reader.label();
        reader.label();
        for _ in 0..reader.number() {
            reader.text();
        }
        let count = reader.number();
        (0..count).map(move |_| (reader.text(), reader.text()))
    }

    /// The value of a key of the metadata.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.metadata().find_map(|(known, value)| (known == key).then_some(value))
    }

    /// Takes the block of `other`, if that says the same and is another one; whether it did.
    pub fn share(&mut self, other: &Self) -> bool {
        share(&mut self.0, &other.0)
    }

    /// The same with other metadata or tags.
    #[must_use]
    pub fn with<T: AsRef<str>>(&self, tags: &[T], metadata: &Metadata) -> Self {
        Self::new(self.version(), self.zone(), tags, metadata)
    }
}

impl Default for Labels {
    /// Nothing said.
    fn default() -> Self {
        Self::new::<&str>(None, None, &[], &Metadata::default())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Labels")
            .field("version", &self.version())
            .field("zone", &self.zone())
            .field("tags", &self.tags().collect::<Vec<_>>())
            .field("metadata", &self.metadata().collect::<Vec<_>>())
            .finish()
    }
}

/// Takes the text of `other`, if that is the same and stands elsewhere; whether it did.
pub(super) fn share(own: &mut ArcStr, other: &ArcStr) -> bool {
    let gains = !ArcStr::ptr_eq(own, other) && own == other;
    if gains {
        *own = other.clone();
    }
    gains
}

fn put_text(block: &mut String, text: &str) {
    put_number(block, text.len());
    block.push_str(text);
}

fn put_number(block: &mut String, mut number: usize) {
    loop {
        #[expect(clippy::cast_possible_truncation, reason = "six bits are left")]
        let digit = (number % usize::from(MORE)) as u8;
        number >>= DIGIT_BITS;
        if number == 0 {
            block.push(char::from(digit));
            return;
        }
        block.push(char::from(digit | MORE));
    }
}

/// What is left of a block. It was made by [`Labels::new`] and by nobody else, so that it never ends early; where it did,
/// there would be empty texts, not a panic.
#[derive(Clone)]
struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn number(&mut self) -> usize {
        let (mut number, mut shift) = (0, 0);
        for (position, byte) in self.0.bytes().enumerate() {
            number |= usize::from(byte & (MORE - 1)) << shift;
            shift += DIGIT_BITS;
            if byte & MORE == 0 {
                self.0 = &self.0[position + 1..];
                return number;
            }
        }
        0
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (text, rest) = self.0.split_at_checked(length).unwrap_or_default();
        self.0 = rest;
        text
    }

    fn text(&mut self) -> &'a str {
        let length = self.number();
        self.take(length)
    }

    fn label(&mut self) -> Option<&'a str> {
        let length = self.number().checked_sub(1)?;
        Some(self.take(length))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        // Lengths around those at which a number takes another digit, and characters of one to four bytes.
        prop_oneof![
            "[a-c]{0,3}",
            "[aä€🦀\u{0}]{0,5}",
            (0..3_usize, prop::sample::select(vec![62_usize, 63, 64, 1_024, 4_095, 4_096]))
                .prop_map(|(more, length)| "x".repeat(length + more)),
        ]
    }

    proptest! {
        #[test]
        fn what_was_put_in_comes_out(
            version in prop::option::of(text()),
            zone in prop::option::of(text()),
            tags in prop::collection::vec(text(), 0..70),
            pairs in prop::collection::btree_map(text(), text(), 0..70),
            absent in text(),
        ) {
            let metadata: Metadata =
                pairs.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect();
            let labels = Labels::new(version.as_deref(), zone.as_deref(), &tags, &metadata);
            prop_assert_eq!(labels.version(), version.as_deref());
            prop_assert_eq!(labels.zone(), zone.as_deref());
            prop_assert!(labels.tags().eq(tags.iter().map(String::as_str)));
            prop_assert_eq!(labels.tags().len(), tags.len());
            let out: BTreeMap<String, String> =
                labels.metadata().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            prop_assert_eq!((labels.metadata().len(), &out), (pairs.len(), &pairs));
            for (key, value) in &pairs {
                prop_assert_eq!(labels.get(key), Some(value.as_str()));
            }
            prop_assert_eq!(labels.get(&absent), pairs.get(&absent).map(String::as_str));
            let again = Labels::new(version.as_deref(), zone.as_deref(), &tags, &metadata);
            prop_assert_eq!(&again, &labels);
            let mut shared = again.clone();
            prop_assert!(shared.share(&labels), "it stood elsewhere");
            prop_assert!(!shared.share(&labels), "it does no more");
            prop_assert_eq!(again, shared);
        }

        #[test]
        fn labels_are_equal_only_if_all_texts_are(
            one in prop::collection::vec("[ab]{0,2}", 0..3),
            other in prop::collection::vec("[ab]{0,2}", 0..3),
            (v, w) in (prop::option::of("[ab]{0,1}"), prop::option::of("[ab]{0,1}")),
        ) {
            let of = |version: &Option<String>, tags: &[String]| {
                Labels::new(version.as_deref(), None, tags, &Metadata::default())
            };
            prop_assert_eq!(of(&v, &one) == of(&w, &other), (&v, &one) == (&w, &other));
        }
    }
}
