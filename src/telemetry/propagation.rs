//! W3C Trace Context: ids in, ids out, by hand and without allocation.
//!
//! Every request gets its ids here, at its start and whatever happens to it later, because every event row
//! carries them. This path runs once a request, so it parses the 55 bytes itself instead of
//! asking the OpenTelemetry propagator, which allocates.
//!
//! It must never fail a request: a malformed `traceparent` begins a new trace and is only counted. It decides
//! nothing about keeping spans (see [`super::spans`]). Callers: the HTTP layers, expiry, the command line's
//! clients, the demo.
//!
//! Source: W3C Trace Context, Recommendation of 23 November 2021, sections 3.2 and 3.3; `traceresponse` after
//! the Level 2 draft.

pub use super::ids::{IdError, SpanId, TraceId};
use super::ids::{read_hex, write_hex};
pub use super::names::ContextResult;

/// Length in bytes of a `traceparent` of version 00, and of every `traceresponse` written here.
pub const TRACEPARENT_LEN: usize = 55;

/// Longest `tracestate` that is carried on, in bytes. The Recommendation (3.3.1.5) asks to propagate at least
/// 512; what is longer is dropped whole, which it allows.
pub const TRACESTATE_LEN_MAX: usize = 512;

/// Most members of a `tracestate` list (W3C 3.3.1.1).
pub const TRACESTATE_MEMBERS_MAX: usize = 32;

/// The bit of the trace flags that says the caller kept its span.
pub const FLAG_SAMPLED: u8 = 0x01;

/// The ids of one request, or of one step inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace: the caller's, or a new one.
    pub trace_id: TraceId,
    /// The span of this request or step: always new here.
    pub span_id: SpanId,
    /// The caller's span; `None` if the trace begins here.
    pub parent: Option<SpanId>,
    /// Trace flags; of the bits only [`FLAG_SAMPLED`] is kept, as the Recommendation asks of version 00.
    pub flags: u8,
    /// How the headers read.
    pub result: ContextResult,
}

impl TraceContext {
    /// Reads the values of all `traceparent` headers of a request. The result is always usable: with none, with
    /// more than one, or with a malformed one a new trace begins.
    pub fn from_headers<'a>(traceparent: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut values = traceparent.into_iter();
        match (values.next(), values.next()) {
            (None, _) => Self::begin(ContextResult::Absent),
            (Some(value), None) => match parse_traceparent(value) {
                Some((trace_id, parent, flags)) => Self {
                    trace_id,
                    span_id: SpanId::random(),
                    parent: Some(parent),
                    flags,
                    result: ContextResult::Valid,
                },
                None => Self::begin(ContextResult::Malformed),
            },
            (Some(_), Some(_)) => Self::begin(ContextResult::Malformed),
        }
    }

    /// A new trace that begins in this process: an expiry sweep, a replay, a client's call.
    pub fn root() -> Self {
        Self::begin(ContextResult::Absent)
    }

    fn begin(result: ContextResult) -> Self {
        Self {
            trace_id: TraceId::random(),
            span_id: SpanId::random(),
            parent: None,
            flags: 0,
            result,
        }
    }

    /// A step inside this one: same trace and flags, a new span id, this span as the parent.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span_id: SpanId::random(), parent: Some(self.span_id), ..*self }
    }

    /// The same context with the sampled flag set, for outgoing calls whose span is kept.
    #[must_use]
    pub fn sampled(self) -> Self {
        Self { flags: self.flags | FLAG_SAMPLED, ..self }
    }

    /// Whether the caller says that it keeps its span.
    pub fn is_sampled(&self) -> bool {
        self.flags & FLAG_SAMPLED != 0
    }

    /// The value of the `traceresponse` header: `00-<trace>-<span>-<flags>`.
    ///
    /// The same form is the `traceparent` of a call made inside this span.
    pub fn traceresponse(&self) -> [u8; TRACEPARENT_LEN] {
        let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&self.trace_id.to_bytes(), &mut value[3..35]);
        write_hex(&self.span_id.to_bytes(), &mut value[36..52]);
        write_hex(&[self.flags], &mut value[53..55]);
        value
    }
}

/// Joins the values of all `tracestate` headers, in their order (W3C 3.3.1.1).
///
/// `None` if there is none, or if the whole is too long, has too many members, the same key twice, or a member whose
/// key or value the Recommendation does not allow: vendors' data are carried or dropped whole, never repaired. The
/// caller drops it too when the `traceparent` was not [`ContextResult::Valid`].
pub fn join_tracestate<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<String> {
    let mut joined = String::new();
    let mut keys = Vec::new();
    for value in values {
        // Optional white space is spaces and tabs, and an empty member is none (3.3.1.1).
        let members = std::str::from_utf8(value).ok()?.split(',');
        for member in members.map(|member| member.trim_matches([' ', '\t'])) {
            if member.is_empty() {
                continue;
            }
            let (key, state) = member.split_once('=')?;
            let is_new = !keys.contains(&key);
            if !is_new || !is_state_key(key) || !is_state_value(state) {
                return None;
            }
            keys.push(key);
            if !joined.is_empty() {
                joined.push(',');
            }
            joined.push_str(member);
            if keys.len() > TRACESTATE_MEMBERS_MAX || joined.len() > TRACESTATE_LEN_MAX {
                return None;
            }
        }
    }
    (!joined.is_empty()).then_some(joined)
}

/// The keys of W3C 3.3.1.3.1: `vendor` of up to 256 characters, or `tenant@vendor` of up to 241 and 14. A digit may
/// begin either, as the draft of Level 2 has it.
fn is_state_key(key: &str) -> bool {
    let is_part = |part: &str, longest: usize| {
        part.len() <= longest
            && part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && part
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'))
    };
    match key.split_once('@') {
        None => is_part(key, 256),
        Some((tenant, vendor)) => is_part(tenant, 241) && is_part(vendor, 14),
    }
}

/// The values of W3C 3.3.1.3.2: up to 256 printable characters of ASCII, without `,` and `=`.
fn is_state_value(value: &str) -> bool {
    let is_allowed = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    (1..=256).contains(&value.len()) && value.bytes().all(is_allowed)
}

/// The rules of W3C 3.2.2: version `ff` never; version 00 is exactly 55 bytes; a higher version may go on after
/// a `-`; digits are lower case; no id is all zeros.
fn parse_traceparent(value: &[u8]) -> Option<(TraceId, SpanId, u8)> {
    // 0  3                                36               53
    // 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
    let (head, rest) = value.split_at_checked(TRACEPARENT_LEN)?;
    let mut version = [0];
    let mut flags = [0];
    let dashes = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
    if !dashes || !read_hex(&head[..2], &mut version) || !read_hex(&head[53..], &mut flags) {
        return None;
    }
    match (version, rest.first()) {
        ([0xff], _) | ([0], Some(_)) => return None,
        (_, Some(next)) if *next != b'-' => return None,
        _ => {}
    }
    let trace_id = TraceId::parse(&head[3..35]).ok()?;
    let parent = SpanId::parse(&head[36..52]).ok()?;
    Some((trace_id, parent, flags[0] & FLAG_SAMPLED))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "12345678901234567890123456789012";
    const SPAN: &str = "1234567890123456";

    fn read(value: &str) -> TraceContext {
        TraceContext::from_headers([value.as_bytes()])
    }

    #[test]
    fn a_valid_header_is_continued_and_answered() {
        let context = read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(context.result, ContextResult::Valid);
        assert_eq!(context.trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.parent, Some("b7ad6b7169203331".parse().unwrap()));
        assert!(context.is_sampled());
        assert_ne!(Some(context.span_id), context.parent);
        let answer = String::from_utf8(context.traceresponse().to_vec()).unwrap();
        assert_eq!(answer, format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", context.span_id));

        let step = context.child();
        assert_eq!((step.trace_id, step.parent), (context.trace_id, Some(context.span_id)));
    }

    /// The cases of the W3C's own suite (trace-context, test/test.py), with what it expects.
    #[test]
    fn the_lists_of_the_w3c() {
        let valid = [
            format!("00-{TRACE}-{SPAN}-00"),
            format!("00-{TRACE}-{SPAN}-ff"),
            format!("cc-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like"),
            format!("01-{TRACE}-{SPAN}-00-"),
        ];
        for header in valid {
            let context = read(&header);
            assert_eq!(context.result, ContextResult::Valid, "{header}");
            assert_eq!(context.trace_id.to_string(), TRACE, "{header}");
        }
        let malformed = [
            String::new(),
            format!("00-{TRACE}-{SPAN}-01."),
            format!("00-{TRACE}-{SPAN}-01-what-the-future-will-not-be-like"),
            format!("cc-{TRACE}-{SPAN}-01.what-the-future-will-be-like"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!(".0-{TRACE}-{SPAN}-01"),
            format!("0.-{TRACE}-{SPAN}-01"),
            format!("000-{TRACE}-{SPAN}-01"),
            format!("0000-{TRACE}-{SPAN}-01"),
            format!("00-00000000000000000000000000000000-{SPAN}-01"),
            format!("00-.2345678901234567890123456789012-{SPAN}-01"),
            format!("00-1234567890123456789012345678901.-{SPAN}-01"),
            format!("00-{TRACE}0-{SPAN}-01"),
            format!("00-1234567890123456789012345678901-{SPAN}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-.234567890123456-01"),
            format!("00-{TRACE}-123456789012345.-01"),
            format!("00-{TRACE}-{SPAN}0-01"),
            format!("00-{TRACE}-123456789012345-01"),
            format!("00-{TRACE}-{SPAN}-.0"),
            format!("00-{TRACE}-{SPAN}-0."),
            format!("00-{TRACE}-{SPAN}-001"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0X"),
            format!("00-1234567890123456789012345678901A-{SPAN}-01"),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}_{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}_01"),
        ];
        for header in malformed {
            let context = read(&header);
            assert_eq!(context.result, ContextResult::Malformed, "{header}");
            assert_eq!((context.parent, context.flags), (None, 0), "{header}");
        }
    }

    #[test]
    fn none_and_two_begin_a_new_trace() {
        let header = format!("00-{TRACE}-{SPAN}-01");
        let absent = TraceContext::from_headers([]);
        let twice = TraceContext::from_headers([header.as_bytes(), header.as_bytes()]);
        assert_eq!(
            (absent.result, twice.result),
            (ContextResult::Absent, ContextResult::Malformed)
        );
        assert_ne!(absent.trace_id, twice.trace_id);
        assert_ne!(twice.trace_id.to_string(), TRACE);
    }

    #[test]
    fn tracestate_is_joined_or_dropped_whole() {
        let join = |values: &[&str]| join_tracestate(values.iter().map(|value| value.as_bytes()));
        assert_eq!(join(&["a=1 ,\tb=2", "", "c=x y,,"]).as_deref(), Some("a=1,b=2,c=x y"));
        let longest_key = format!("{}@{}=1", "t".repeat(241), "v".repeat(14));
        let longest_value = format!("a={}", "x".repeat(256));
        let most = (1..=32).map(|n| format!("k{n:02}={n:02}")).collect::<Vec<_>>().join(",");
        for carried in [&*longest_key, &*longest_value, &*most, "0a=1", "a-_*/0@9b=~!"] {
            assert_eq!(join(&[carried]).as_deref(), Some(carried));
        }
        let too_many = format!("{most},more=1");
        let too_long = format!("b=1,{longest_value},{longest_key}");
        assert!(too_long.len() > TRACESTATE_LEN_MAX);
        let long_parts = [
            format!("{}=1", "z".repeat(257)),
            format!("{}@v=1", "t".repeat(242)),
            format!("t@{}=1", "v".repeat(15)),
            format!("a={}", "x".repeat(257)),
        ];
        let dropped = long_parts.iter().map(String::as_str).chain([
            &*too_many,
            &*too_long,
            "a",
            "a=1,b",
            "a=",
            "=1",
            "a=1\u{e9}",
            "a=1\u{1}",
            "a=x=y",
            "A=1",
            "a b=1",
            "-a=1",
            "a@=1",
            "@a=1",
            "a@b@c=1",
            "a=1,b=2,a=3",
        ]);
        for dropped in dropped {
            assert_eq!(join(&["v=1", dropped]), None, "{dropped}");
        }
        assert_eq!(join(&[]), None);
        assert_eq!(join(&[" , "]), None);
        assert_eq!(join(&["a=1", "a=1"]), None, "a key of another header");
    }
}
