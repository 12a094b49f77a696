//! Entity tags: which log, which revision and, for a filtered list, which filter. And the preconditions that
//! carry them back (RFC 9110, section 13).
//!
//! ```text
//!   "1f2e3d4c-41"                     a service's default answer, or an instance, at revision 41
//!   "1f2e3d4c-41-8c1d5e0a9b7f6e3d"    an answer of that service to a filter
//!   "1f2e3d4c-41-gzip"                either of them in a coding: other bytes, so another tag
//! ```
//!
//! The log's id is in it because revisions begin again with a new log. Used by the handlers and by nothing else.

use std::fmt::Write as _;

use axum::http::header::{ACCEPT_ENCODING, GetAll, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::encoding::{Accepted, Coding};
use super::faults::Faults;
use crate::domain::Seq;
use crate::domain::command::Precondition;

/// Digits of the log's id in a tag.
const LOG_DIGITS: usize = 8;

/// Makes and reads the tags of one log.
#[derive(Debug)]
pub(super) struct Tags {
    log: String,
}

impl Tags {
    /// The tags of the log of this id.
    pub(super) fn of(log_id: uuid::Uuid) -> Self {
        let mut log = log_id.simple().to_string();
        log.truncate(LOG_DIGITS);
        Self { log }
    }

    /// The tag of a revision, for what was answered to `filter`; an empty one is the default answer, or an
    /// instance.
    pub(super) fn tag(&self, revision: Seq, filter: &str) -> Bytes {
        let mut text = String::with_capacity(48);
        text.push('"');
        text.push_str(&self.log);
        // Writing to a string can't fail.
        let _ = write!(text, "-{revision}");
        if !filter.is_empty() {
            let _ = write!(text, "-{:016x}", xxh3_64(filter.as_bytes()));
        }
        text.push('"');
        Bytes::from(text)
    }

    /// The tag as a header.
    pub(super) fn header(&self, revision: Seq) -> HeaderValue {
        header(&self.tag(revision, ""))
    }

    /// What `if-match` and `if-none-match` ask of a change. `current` is the instance's revision as readers
    /// see it; it chooses among several tags, and the registrar then checks the chosen one.
    pub(super) fn precondition(
        &self,
        headers: &HeaderMap,
        current: Option<Seq>,
        faults: &mut Faults,
    ) -> Precondition {
        let none_match = list(headers.get_all(IF_NONE_MATCH));
        let matching = list(headers.get_all(IF_MATCH));
        match (none_match.as_deref(), matching.as_deref()) {
            (None, None) => Precondition::None,
            (Some(["*"]), None) => Precondition::Free,
            (Some(_), None) => {
                faults.malformed("if-none-match", "must be * here: the id is not in use");
                Precondition::None
            }
            (None, Some(["*"])) => Precondition::Present,
            (None, Some(tags)) => {
                let revisions: Vec<Seq> =
                    tags.iter().filter_map(|tag| self.revision(tag)).collect();
                let seen = revisions.iter().find(|revision| Some(**revision) == current);
                Precondition::Revision(seen.or(revisions.first()).copied())
            }
            (Some(_), Some(_)) => {
                faults.malformed("if-match", "can't be given together with if-none-match");
                Precondition::None
            }
        }
    }

    /// The revision in a strong tag of an instance; none for a tag that this log never gave to one.
    fn revision(&self, tag: &str) -> Option<Seq> {
        let text = tag.strip_prefix('"')?.strip_suffix('"')?;
        // An instance that was read in a coding is the same instance.
        let text = Coding::ALL
            .into_iter()
            .find_map(|coding| text.strip_suffix(coding.suffix()))
            .unwrap_or(text);
        let digits = text.strip_prefix(self.log.as_str())?.strip_prefix('-')?;
        let plain = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok().map(Seq)).flatten()
    }
}

/// A tag, which is plain ASCII by its making, as a header.
pub(super) fn header(tag: &Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(tag.clone()).expect("a tag is made of hexadecimal digits")
}

/// The tag of what `tag` stands for in a coding.
pub(super) fn in_coding(tag: &[u8], coding: Coding) -> Bytes {
    let inner = tag.strip_suffix(b"\"").unwrap_or(tag);
    Bytes::from([inner, coding.suffix().as_bytes(), b"\""].concat())
}

/// What of `headers` says which tags and which codings a client takes, in buffers of its own: headers are parts of the
/// buffer that the connection read them into, and whoever keeps one of them keeps all of it.
pub(super) fn detached(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in [IF_NONE_MATCH, ACCEPT_ENCODING] {
        for value in headers.get_all(&name) {
            // What was a value is one.
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                kept.append(&name, value);
            }
        }
    }
    kept
}

/// The tag that the client holds, if `if-none-match` says that it holds what `tag` stands for: plain, or in a coding that
/// it still takes.
pub(super) fn held(headers: &HeaderMap, tag: &Bytes) -> Option<Bytes> {
    headers.get_all(IF_NONE_MATCH).iter().find_map(|value| {
        // One tag alone is what nearly everybody sends.
        if value.as_bytes() == tag {
            return Some(tag.clone());
        }
        value.to_str().unwrap_or("").split(',').map(str::trim).find_map(|item| {
            let item = item.strip_prefix("W/").unwrap_or(item);
            if item == "*" || item.as_bytes() == tag {
                return Some(tag.clone());
            }
            let is_form = |coding: &Coding| {
                let inner =
                    item.strip_suffix('"').and_then(|item| item.strip_suffix(coding.suffix()));
                inner.is_some_and(|inner| tag.strip_suffix(b"\"") == Some(inner.as_bytes()))
            };
            let coding = Coding::ALL.into_iter().find(is_form)?;
            Accepted::of(headers).takes(coding).then(|| in_coding(tag, coding))
        })
    })
}

/// The members of a list of tags; none if the header was not sent. No tag of this registry has a comma.
fn list(values: GetAll<'_, HeaderValue>) -> Option<Vec<&str>> {
    let mut values = values.iter().peekable();
    values.peek()?;
    let members = values
        .flat_map(|value| value.to_str().unwrap_or("").split(','))
        .map(str::trim)
        .filter(|member| !member.is_empty());
    Some(members.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags() -> Tags {
        Tags::of(uuid::Uuid::from_u128(0x1f2e3d4c_0000_4000_8000_000000000000))
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn tags_name_log_revision_and_filter() {
        assert_eq!(tags().tag(Seq(41), ""), "\"1f2e3d4c-41\"");
        let filtered = tags().tag(Seq(41), "tag=a");
        assert!(
            filtered.starts_with(b"\"1f2e3d4c-41-") && filtered != tags().tag(Seq(41), "tag=b")
        );
    }

    #[test]
    fn a_held_tag_is_found_in_any_list() {
        let tag = Bytes::from("\"1f2e3d4c-41\"");
        let is_held = |value: &str| held(&headers(&[("if-none-match", value)]), &tag);
        for value in ["\"1f2e3d4c-41\"", "W/\"1f2e3d4c-41\"", "\"x\" , \"1f2e3d4c-41\"", "*"] {
            assert_eq!(is_held(value).as_ref(), Some(&tag), "{value}");
        }
        for other in ["\"1f2e3d4c-4\"", "1f2e3d4c-41", "", "\"1f2e3d4c-41-br\""] {
            assert_eq!(is_held(other), None, "{other}");
        }
        assert_eq!(held(&headers(&[]), &tag), None);
    }

    #[test]
    fn a_tag_of_another_form_is_held_by_who_can_still_read_it() {
        let tag = Bytes::from("\"1f2e3d4c-41\"");
        let form = in_coding(&tag, Coding::Gzip);
        assert_eq!(form, "\"1f2e3d4c-41-gzip\"");
        let ask = |accepted: &'static str| {
            let text = std::str::from_utf8(&form).unwrap();
            held(&headers(&[("if-none-match", text), ("accept-encoding", accepted)]), &tag)
        };
        assert_eq!(ask("zstd, gzip;q=0.5"), Some(form.clone()));
        assert_eq!(ask("zstd"), None);
        assert_eq!(ask("gzip;q=0"), None);
    }

    #[test]
    fn tags_that_are_kept_do_not_keep_the_buffer_of_the_request() {
        let buffer = Bytes::from(b"\"x\", \"1f2e3d4c-41\"".to_vec());
        let value = HeaderValue::from_maybe_shared(buffer.clone()).unwrap();
        let request = HeaderMap::from_iter([
            (IF_NONE_MATCH, value.clone()),
            (ACCEPT_ENCODING, value),
            (axum::http::header::ETAG, header(&buffer)),
        ]);
        let kept = detached(&request);
        drop(request);
        assert!(buffer.is_unique(), "something still holds the buffer");
        assert!(held(&kept, &Bytes::from("\"1f2e3d4c-41\"")).is_some() && kept.len() == 2);
    }

    #[test]
    fn preconditions_are_read_and_contradictions_refused() {
        let read = |lines: &[(&'static str, &str)]| {
            let mut faults = Faults::default();
            let found = tags().precondition(&headers(lines), Some(Seq(42)), &mut faults);
            faults.check().map(|()| found).map_err(|problem| problem.status().as_u16())
        };
        let revision = |seq: u64| Ok(Precondition::Revision(Some(Seq(seq))));
        assert_eq!(read(&[]), Ok(Precondition::None));
        assert_eq!(read(&[("if-none-match", "*")]), Ok(Precondition::Free));
        assert_eq!(read(&[("if-match", "*")]), Ok(Precondition::Present));
        assert_eq!(read(&[("if-match", "\"1f2e3d4c-41\"")]), revision(41));
        assert_eq!(read(&[("if-match", "\"1f2e3d4c-41-zstd\"")]), revision(41));
        assert_eq!(read(&[("if-match", "\"1f2e3d4c-41\", \"1f2e3d4c-42\"")]), revision(42));
        for never in
            ["\"aaaaaaaa-41\"", "W/\"1f2e3d4c-41\"", "\"1f2e3d4c-041\"", "\"1f2e3d4c-\"", "x"]
        {
            assert_eq!(read(&[("if-match", never)]), Ok(Precondition::Revision(None)), "{never}");
        }
        assert_eq!(read(&[("if-none-match", "\"1f2e3d4c-41\"")]), Err(400));
        assert_eq!(read(&[("if-none-match", "*"), ("if-match", "*")]), Err(400));
    }
}
