//! W3C Baggage of a request: those members whose keys the operator has allowed, for the data of its event.
//!
//! Everything else is not even looked at twice: without an allowed key, or without the header, nothing is allocated.
//! What is malformed, or longer than an event may keep, is passed over, and never fails or shortens a request.
//! Called by the HTTP layer for each request whose event keeps it, and by the settings for the keys.
//!
//! Source: W3C Baggage, sections 3.2 and 3.3 (Propagation format for distributed context, Candidate Recommendation of 2024).

use std::collections::BTreeMap;
use std::sync::Arc;

use percent_encoding::percent_decode;

use crate::domain::baggage::Baggage;
use crate::domain::limits::{BAGGAGE_KEY_BYTES_MAX, BAGGAGE_KEYS_MAX, BAGGAGE_VALUE_BYTES_MAX};

/// Most bytes of all headers together that are looked at; as many every system has to carry.
const BYTES_MAX: usize = 8192;
/// Most members of the list that are looked at: the limit of the first drafts, above the 64 of today.
const MEMBERS_MAX: usize = 180;

/// The keys that may become part of events. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaggageKeys(Arc<[Box<str>]>);

impl BaggageKeys {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for BaggageKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&self.0.join(",")),
        }
    }
}

impl std::str::FromStr for BaggageKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() || text.trim() == "none" {
            return Ok(Self::default());
        }
        let keys: Vec<Box<str>> = text.split(',').map(|key| key.trim().into()).collect();
        if let Some(wrong) = keys.iter().find(|key| !is_key(key.as_bytes())) {
            return Err(format!(
                "must be keys of W3C Baggage with commas between, such as tenant,user.tier (1 to {BAGGAGE_KEY_BYTES_MAX} letters, digits \
                 and !#$%&'*+-.^_`|~ each), or none; {wrong:?} is no key"
            ));
        }
        if keys.len() > BAGGAGE_KEYS_MAX {
            return Err(format!("must be {BAGGAGE_KEYS_MAX} keys or fewer, were {}", keys.len()));
        }
        Ok(Self(keys.into()))
    }
}

/// What a request with these `baggage` headers brought along under these keys.
pub fn of<'a>(
    headers: impl IntoIterator<Item = &'a [u8]>,
    keys: &BaggageKeys,
) -> Option<Arc<Baggage>> {
    // An empty map allocates nothing, and is no baggage.
    Baggage::new(read(headers, keys)).map(Arc::new)
}

/// The allowed members of these lists, decoded; of those with one key the last.
fn read<'a>(
    values: impl IntoIterator<Item = &'a [u8]>,
    keys: &BaggageKeys,
) -> BTreeMap<Box<str>, Box<str>> {
    let mut found = BTreeMap::new();
    let (mut bytes, mut members) = (0, 0);
    for member in values.into_iter().flat_map(|value| value.split(|byte| *byte == b',')) {
        bytes += member.len() + 1;
        members += 1;
        if bytes > BYTES_MAX + 1 || members > MEMBERS_MAX {
            break;
        }
        // key = value ; property ; property
        let pair = member.split(|byte| *byte == b';').next().unwrap_or_default();
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
        let (key, value) = (trim(&pair[..equals]), trim(&pair[equals + 1..]));
        let Some(key) = keys.0.iter().find(|allowed| allowed.as_bytes() == key) else { continue };
        if !value.iter().copied().all(is_octet) {
            continue;
        }
        // Octets that are no UTF-8 become U+FFFD, as the Recommendation asks.
        let value = percent_decode(value).decode_utf8_lossy();
        // Not cut off: half of a tenant's name may be the name of another.
        if value.len() <= BAGGAGE_VALUE_BYTES_MAX {
            found.insert(key.clone(), value.into());
        }
    }
    found
}

/// Without the optional white space around it.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// A token of HTTP (RFC 9110, 5.6.2).
fn is_key(key: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    (1..=BAGGAGE_KEY_BYTES_MAX).contains(&key.len()) && key.iter().all(is_allowed)
}

/// An octet of a value: printable ASCII, without blanks, quotes, `,`, `;` and `\`.
fn is_octet(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(text: &str) -> BaggageKeys {
        text.parse().unwrap()
    }

    fn said(lists: &[&str]) -> Vec<(String, String)> {
        let read = read(lists.iter().map(|list| list.as_bytes()), &keys("tenant,user.tier"));
        read.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    fn tenant(value: &str) -> Vec<(String, String)> {
        vec![("tenant".to_owned(), value.to_owned())]
    }

    #[test]
    fn allowed_members_are_decoded_and_all_else_is_passed_over() {
        let both = vec![tenant("acme").remove(0), ("user.tier".to_owned(), "gold".to_owned())];
        assert_eq!(said(&["tenant=acme,user.tier=gold,secret=x"]), both);
        assert_eq!(said(&["secret=x", " user.tier \t= gold ; p=1 ;q", "tenant = acme;p"]), both);
        for (lists, value) in [
            (vec!["tenant=a%20b%2C%3B%22%25"], "a b,;\"%"),
            (vec!["tenant=%E2%82%AC"], "€"),
            (vec!["tenant=%FF"], "\u{fffd}"),
            (vec!["tenant=100%"], "100%"),
            (vec!["tenant="], ""),
            (vec!["tenant=a=b"], "a=b"),
            (vec!["tenant=one,tenant=two"], "two"),
            (vec!["tenant=one", "tenant=t wo"], "one"),
            (vec![",,;,=,=x,tenant=acme,"], "acme"),
        ] {
            assert_eq!(said(&lists), tenant(value), "{lists:?}");
        }
        for nothing in [
            "",
            "tenant",
            "Tenant=acme",
            "tenant;x=acme",
            "tenant=\"acme\"",
            "tenant=a\\b",
            "tenant=\u{e9}",
        ] {
            assert_eq!(said(&[nothing]), [], "{nothing}");
        }
    }

    #[test]
    fn limits_hold_to_the_byte() {
        let long = |bytes: usize| format!("tenant={}", "x".repeat(bytes));
        assert_eq!(said(&[&long(BAGGAGE_VALUE_BYTES_MAX)]).len(), 1);
        assert_eq!(said(&[&long(BAGGAGE_VALUE_BYTES_MAX + 1)]).len(), 0);
        // Three bytes each as they come, one as they are kept.
        let encoded = format!("tenant={}", "%78".repeat(BAGGAGE_VALUE_BYTES_MAX));
        assert_eq!(said(&[&encoded]).len(), 1);
        let after = |members: usize| "k=v,".repeat(members) + "tenant=acme";
        assert_eq!(said(&[&after(MEMBERS_MAX - 1)]).len(), 1);
        assert_eq!(said(&[&after(MEMBERS_MAX)]).len(), 0);
        let behind =
            |bytes: usize| format!("k={},tenant=acme", "x".repeat(bytes - "k=,tenant=acme".len()));
        assert_eq!(said(&[&behind(BYTES_MAX)]).len(), 1);
        assert_eq!(said(&[&behind(BYTES_MAX + 1)]).len(), 0);
        assert_eq!(said(&[&behind(BYTES_MAX - 20), &long(100)]), tenant("acme"));
    }

    #[test]
    fn the_setting_takes_keys_only() {
        assert!(keys("none").is_empty() && keys(" ").is_empty());
        assert_eq!(keys("tenant, user.tier").to_string(), "tenant,user.tier");
        assert_eq!(keys("none").to_string(), "none");
        for wrong in ["a b", "tenant,", "a=b", "ä", "a;b", "\"a\""] {
            assert!(wrong.parse::<BaggageKeys>().unwrap_err().contains("is no key"), "{wrong}");
        }
        assert!(
            "a,b,c,d,e,f,g,h,i".parse::<BaggageKeys>().unwrap_err().contains("8 keys or fewer")
        );
        assert!("k".repeat(129).parse::<BaggageKeys>().is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_no_panic_and_within_limits(lists in prop::collection::vec(".{0,600}", 0..4)) {
            let headers: Vec<String> = lists.iter().map(|list| format!("tenant={list}")).collect();
            let headers = || headers.iter().map(String::as_bytes);
            if let Some(baggage) = of(headers(), &keys("tenant")) {
                prop_assert!(baggage.pairs().values().all(|value| value.len() <= BAGGAGE_VALUE_BYTES_MAX));
            }
            prop_assert_eq!(of(headers(), &BaggageKeys::default()), None);
        }
    }
}
