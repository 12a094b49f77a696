//! Reads a request's body: within its size, its time and its media type, and as JSON in which nothing comes
//! twice. Called by the handlers that take a body; what each field means is not decided here.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::problem::Problem;
use super::spec::BodySpec;

/// Reads the body of `request` as a JSON object; none if there is no body and `spec` lets it be left out.
///
/// # Errors
/// The problem: too long, too slow, cut off, another media type, not JSON, not an object.
pub(super) async fn read_object(
    request: Request,
    spec: &BodySpec,
    limit: Duration,
) -> Result<Option<Map<String, Value>>, Problem> {
    let (parts, body) = request.into_parts();
    if declared_length(&parts.headers).is_some_and(|length| length > spec.limit) {
        return Err(Problem::BodyTooLarge { limit: spec.limit });
    }
    let bytes = tokio::time::timeout(limit, collect(body, spec.limit))
        .await
        .map_err(|_| Problem::BodyTimeout { seconds: limit.as_secs().max(1) })??;
    if bytes.is_empty() && spec.optional {
        return Ok(None);
    }
    check_media_type(&parts.headers, spec)?;
    parse_object(&bytes).map(Some)
}

fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, Problem> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let cut_off = |_| Problem::Malformed { detail: "the body ended before its end".into() };
        // Trailers say nothing that the contract knows.
        let Ok(data) = frame.map_err(cut_off)?.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            return Err(Problem::BodyTooLarge { limit });
        }
        // Most bodies come in one piece, which is then not copied.
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

/// A body without a type is taken for what it has to be; one that says something else is refused.
///
/// # Errors
/// [`Problem::UnsupportedMediaType`].
pub(super) fn check_media_type(headers: &HeaderMap, spec: &BodySpec) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or("");
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or("");
    let known = spec.media.iter().any(|media| media.eq_ignore_ascii_case(essence));
    let utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, charset)) if name.trim().eq_ignore_ascii_case("charset") => {
            charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    if known && utf8 {
        return Ok(());
    }
    Err(Problem::UnsupportedMediaType { accepted: spec.media.last().copied().unwrap_or("") })
}

/// Reads a JSON object in which no key comes twice, at any depth.
///
/// # Errors
/// [`Problem::Malformed`], with the place.
pub(super) fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, Problem> {
    let malformed = |detail: String| Problem::Malformed { detail };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        malformed(format!("the body is not UTF-8 from byte {} on", error.valid_up_to()))
    })?;
    match serde_json::from_str(text) {
        Ok(Unique(Value::Object(object))) => Ok(object),
        Ok(_) => Err(malformed("the body must be a JSON object".into())),
        Err(error) => Err(malformed(format!("the body is not JSON: {error}"))),
    }
}

/// A JSON value in which no key comes twice: the second one would win in silence.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        UniqueSeed.deserialize(deserializer).map(Self)
    }
}

struct UniqueSeed;

impl<'de> DeserializeSeed<'de> for UniqueSeed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueSeed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let Unique(value) = entries.next_value()?;
            if object.contains_key(&key) {
                let shown: String = key.chars().take(50).collect();
                return Err(de::Error::custom(format!("the field {shown:?} comes twice")));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::MERGE_PATCH;
    use super::*;

    const SPEC: BodySpec = BodySpec { schema: "", optional: true, limit: 32, media: MERGE_PATCH };

    async fn read(content_type: &str, body: Body) -> Result<Option<Map<String, Value>>, Problem> {
        let request =
            Request::builder().header(header::CONTENT_TYPE, content_type).body(body).unwrap();
        read_object(request, &SPEC, Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn size_and_media_type_are_checked() {
        let json = r#"{"a":[1,{"b":null}]}"#;
        for good in [
            "application/json",
            "Application/JSON; charset=\"UTF-8\"",
            "application/merge-patch+json",
        ] {
            let object = read(good, Body::from(json)).await.unwrap().unwrap();
            assert_eq!(Value::Object(object).to_string(), json, "{good}");
        }
        for bad in ["text/plain", "application/json;charset=latin1", "application/json5", ""] {
            let problem = read(bad, Body::from(json)).await.unwrap_err();
            let accepted = "application/merge-patch+json";
            assert_eq!(problem, Problem::UnsupportedMediaType { accepted }, "{bad}");
        }
        assert_eq!(read("text/plain", Body::empty()).await, Ok(None), "no body has no type");
        let exact = format!("{{\"a\":\"{}\"}}", "x".repeat(24));
        assert!(read("application/json", Body::from(exact)).await.is_ok());
        let long = Body::from(" ".repeat(33));
        assert_eq!(read("application/json", long).await, Err(Problem::BodyTooLarge { limit: 32 }));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let never = std::future::pending();
        let stalled = Body::new(http_body_util::Full::new(Bytes::from("{}")).with_trailers(never));
        let request = Request::new(stalled);
        assert_eq!(
            read_object(request, &SPEC, Duration::from_millis(1)).await,
            Err(Problem::BodyTimeout { seconds: 1 })
        );
    }

    #[test]
    fn what_is_no_object_is_told_with_its_place() {
        for (body, part) in [
            (&b""[..], "EOF"),
            (b"{\"a\":1", "line 1 column 6"),
            (b"[]", "must be a JSON object"),
            (b"{\"a\":\"\xff\"}", "not UTF-8 from byte 6 on"),
            (b"{\"a\":1,\"a\":2}", "the field \"a\" comes twice"),
            (b"{\"m\":{\"k\":1,\"k\":1}}", "the field \"k\" comes twice"),
            (b"{\"a\":1e999}", "out of range"),
        ] {
            let Err(Problem::Malformed { detail }) = parse_object(body) else { panic!("{body:?}") };
            assert!(detail.contains(part), "{detail}");
        }
        assert!(parse_object("[".repeat(100_000).as_bytes()).is_err(), "depth has a bound");
    }
}
