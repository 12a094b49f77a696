//! Content codings: which one a client takes (RFC 9110, section 12.5.3), and an answer in it.
//!
//! Only long answers of reads come in another form than the plain one. Measured in November 2026 on one core: encoding
//! costs 10 µs for the shortest answer already, and 14 µs (zstd) or 17 µs (gzip) for a list of 4 KiB, which then is a sixth
//! of it; a whole lookup costs 13 µs. Below that it would cost more than it saves, and a header more in every answer.
//! What a service's default answer is in a coding is kept beside it, made once per revision however many ask; all others
//! are encoded as they go. Answers to changes, problems and streams always come as they are.
//!
//! ```text
//!   accept-encoding ─▶ Accepted ─▶ best() ─┬─ default answer: kept with the view (`lookup`)
//!                                          └─ any other: on its way out (`scope`)
//! ```
//!
//! A request without `accept-encoding` pays for a look into its headers and at the length of its answer, and for
//! nothing else. Called by the handlers of lookups and by the scope of each request.

use std::io::Write as _;

use axum::body::{Body, HttpBody as _};
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::BodyExt as _;
use tokio::sync::{OnceCell, Semaphore};

use super::etag;
use super::problem::Problem;
use crate::projection::Content;

/// Up to here an answer is encoded where it is made, in less than a millisecond; what is longer goes to a thread that
/// may block, so that nobody else waits for it.
const AT_ONCE_BYTES_MAX: usize = 64 * 1024;
/// zstd's fastest level: lists shrink to a twelfth at 0.9 GB/s, and the next levels make them no shorter.
const ZSTD_LEVEL: i32 = 1;
/// Lists shrink to a tenth at 0.3 GB/s; level 1 is half as fast again for half as many bytes more, level 6 takes five times
/// as long for a tenth fewer.
const GZIP_LEVEL: u32 = 2;

/// A form in which an answer can come besides the plain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

/// The forms of one answer, in the order of [`Coding`]; each is made when it is first asked for, and none if it would not
/// be shorter.
pub(super) type Forms = [OnceCell<Option<Bytes>>; Coding::ALL.len()];

impl Coding {
    /// All of them, the ones that are better at the same quality first.
    pub(super) const ALL: [Self; 2] = [Self::Zstd, Self::Gzip];

    /// Its name in headers and tags.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// What stands for it in the tag of an answer, before the closing quote.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => "-zstd",
            Self::Gzip => "-gzip",
        }
    }

    /// `plain` in this coding; none if that is not shorter.
    fn encode(self, plain: &[u8]) -> Option<Bytes> {
        let encoded = match self {
            Self::Zstd => zstd::bulk::compress(plain, ZSTD_LEVEL),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(
                    Vec::with_capacity(plain.len() / 4),
                    Compression::new(GZIP_LEVEL),
                );
                encoder.write_all(plain).and_then(|()| encoder.finish())
            }
        };
        // Neither fails but for want of memory; the plain form is always right.
        let mut encoded = encoded.ok().filter(|encoded| encoded.len() < plain.len())?;
        // It may be kept as long as the service does not change.
        encoded.shrink_to_fit();
        Some(Bytes::from(encoded))
    }
}

/// What a client says that it takes, as qualities in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Accepted {
    /// By [`Coding`]; 0 is not taken.
    qualities: [u16; Coding::ALL.len()],
    /// Of the plain form. It is sent in the end whatever this says: an answer is better than none.
    plain: u16,
}

impl Accepted {
    /// What these headers say; without `accept-encoding`, nothing but the plain form is sent.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(ACCEPT_ENCODING).iter().peekable();
        if values.peek().is_none() {
            return Self::default();
        }
        let (mut named, mut plain, mut others) = ([None; Coding::ALL.len()], None, None);
        for item in values.flat_map(|value| value.to_str().unwrap_or("").split(',')) {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let Some(quality) = quality(parameters) else { continue };
            let name = name.trim();
            let place = match () {
                () if name == "*" => &mut others,
                () if name.eq_ignore_ascii_case("identity") => &mut plain,
                () if name.eq_ignore_ascii_case("zstd") => &mut named[Coding::Zstd as usize],
                // The old name is to be taken for the new one (RFC 9110, section 8.4.1.3).
                () if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => {
                    &mut named[Coding::Gzip as usize]
                }
                () => continue,
            };
            *place = Some(quality);
        }
        // What is not named is meant by the star, if there is one. The plain form is taken unless it is refused, but
        // nobody who names codings wants it as much as these, unless it says so.
        let qualities = named.map(|quality| quality.or(others).unwrap_or(0));
        Self { qualities, plain: plain.unwrap_or(0) }
    }

    /// The coding that suits the client best; none is the plain form.
    pub(super) fn best(self) -> Option<Coding> {
        let mut best = None;
        let mut most = 1;
        for coding in Coding::ALL {
            let quality = self.qualities[coding as usize];
            if quality >= most && quality >= self.plain {
                // Only a higher one replaces it.
                (best, most) = (Some(coding), quality + 1);
            }
        }
        best
    }

    /// Whether the client can read this coding.
    pub(super) fn takes(self, coding: Coding) -> bool {
        self.qualities[coding as usize] > 0
    }
}

/// The quality among the parameters of an item, in thousandths; none if it is no number from 0 to 1.
fn quality(parameters: &str) -> Option<u16> {
    for parameter in parameters.split(';') {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        if !name.trim().eq_ignore_ascii_case("q") {
            continue;
        }
        let (whole, part) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !matches!(whole, "0" | "1") || part.len() > 3 || !digits(part) {
            return None;
        }
        let thousandths: u16 = format!("{whole}{part:0<3}").parse().ok()?;
        return (thousandths <= 1_000).then_some(thousandths);
    }
    Some(1_000)
}

/// Encodes, at most so many long answers at once.
#[derive(Debug)]
pub(super) struct Encoder {
    /// From how many bytes on; none is never.
    from: Option<usize>,
    long: Semaphore,
}

impl Encoder {
    /// One that leaves alone what is shorter than `from` bytes; none leaves all alone.
    pub(super) fn of(from: Option<usize>) -> Self {
        // As many as the machine can do at once, less one for everybody else.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { from, long: Semaphore::new((cores - 1).max(1)) }
    }

    /// Whether an answer of so many bytes has other forms.
    pub(super) fn concerns(&self, length: usize) -> bool {
        self.from.is_some_and(|from| length >= from)
    }

    /// The form of a kept answer in `coding`; whoever asks while it is made waits for it.
    pub(super) async fn kept(
        &self,
        forms: &Forms,
        coding: Coding,
        plain: &Content,
    ) -> Option<Bytes> {
        let make = async || {
            if plain.len() <= AT_ONCE_BYTES_MAX {
                return coding.encode(&plain.joined());
            }
            // Never closed.
            let _turn = self.long.acquire().await.ok()?;
            encode_apart(coding, plain.clone()).await
        };
        forms[coding as usize].get_or_init(make).await.clone()
    }

    /// Whether an answer on its way out may have to be changed: a long one that lies in memory.
    pub(super) fn concerns_answer(&self, response: &Response) -> bool {
        let length =
            response.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
        length.is_some_and(|length| self.concerns(length)) && response.status() == StatusCode::OK
    }

    /// An answer on its way out, in the form that suits the client, unless it has its form already.
    pub(super) async fn encode(&self, accepted: Accepted, mut response: Response) -> Response {
        if response.headers().contains_key(CONTENT_ENCODING) {
            return response;
        }
        varies(response.headers_mut());
        let Some(coding) = accepted.best() else { return response };
        let (mut head, body) = response.into_parts();
        // It lies in memory, and nothing of it can be missing.
        let Ok(plain) = body.collect().await else { return Problem::Internal.into_response() };
        let plain = plain.to_bytes();
        let encoded = self.now(coding, &plain).await;
        if encoded.is_some() {
            mark(&mut head.headers, coding);
        }
        Response::from_parts(head, Body::from(encoded.unwrap_or(plain)))
    }

    /// `plain` in `coding`; none if that is not shorter, or if all who could do it are busy.
    async fn now(&self, coding: Coding, plain: &Bytes) -> Option<Bytes> {
        if plain.len() <= AT_ONCE_BYTES_MAX {
            return coding.encode(plain);
        }
        let _turn = self.long.try_acquire().ok()?;
        encode_apart(coding, Content::Whole(plain.clone())).await
    }
}

async fn encode_apart(coding: Coding, plain: Content) -> Option<Bytes> {
    tokio::task::spawn_blocking(move || coding.encode(&plain.joined())).await.ok()?
}

/// Says of an answer which coding it is in, in its tag too: a tag stands for bytes.
pub(super) fn mark(headers: &mut HeaderMap, coding: Coding) {
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
    // The length of another form.
    headers.remove(CONTENT_LENGTH);
    if let Some(tag) = headers.get(ETAG) {
        let tag = etag::header(&etag::in_coding(tag.as_bytes(), coding));
        headers.insert(ETAG, tag);
    }
}

/// Says that an answer depends on what the client takes, so that a cache does not hand it to others.
pub(super) fn varies(headers: &mut HeaderMap) {
    headers.insert(VARY, HeaderValue::from(ACCEPT_ENCODING));
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn accepted(value: &str) -> Accepted {
        Accepted::of(&HeaderMap::from_iter([(ACCEPT_ENCODING, value.parse().unwrap())]))
    }

    #[test]
    fn the_best_coding_is_found_by_quality() {
        use Coding::{Gzip, Zstd};
        assert_eq!(Accepted::of(&HeaderMap::new()).best(), None);
        for (value, expected) in [
            ("gzip", Some(Gzip)),
            ("zstd", Some(Zstd)),
            ("gzip, deflate, br, zstd", Some(Zstd)),
            ("gzip;q=1.0, zstd;q=0.9", Some(Gzip)),
            ("X-GZIP ; Q=0.5", Some(Gzip)),
            ("zstd;q=0, gzip;q=0.001", Some(Gzip)),
            ("*", Some(Zstd)),
            ("*, zstd;q=0", Some(Gzip)),
            ("gzip;q=0.5, *;q=0", Some(Gzip)),
            ("identity;q=0, gzip;q=0.1", Some(Gzip)),
            ("identity;q=0.5, gzip;q=0.5", Some(Gzip)),
            ("identity, gzip;q=0.5", None),
            ("gzip;q=0", None),
            ("gzip;q=0.000, zstd;q=0", None),
            ("*;q=0", None),
            ("identity", None),
            ("br, deflate, gzipped", None),
            ("gzip;q=2, zstd;q=x, *;q=-1", None),
            ("gzip;q=0.1234", None),
            ("", None),
        ] {
            assert_eq!(accepted(value).best(), expected, "{value:?}");
        }
        let several = HeaderMap::from_iter([
            (ACCEPT_ENCODING, "br".parse().unwrap()),
            (ACCEPT_ENCODING, HeaderValue::from_bytes(b"\xff").unwrap()),
        ]);
        let mut several = several;
        several.append(ACCEPT_ENCODING, "gzip".parse().unwrap());
        assert_eq!(Accepted::of(&several).best(), Some(Gzip));
        assert!(accepted("gzip;q=0.1").takes(Gzip) && !accepted("gzip").takes(Zstd));
    }

    #[test]
    fn what_is_encoded_is_the_same_and_shorter() {
        let plain = br#"{"instance":"orders-1"},"#.repeat(300);
        let gzip = Coding::Gzip.encode(&plain).unwrap();
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(&*gzip).read_to_end(&mut read).unwrap();
        assert_eq!(read, plain);
        let zstd = Coding::Zstd.encode(&plain).unwrap();
        assert_eq!(zstd::bulk::decompress(&zstd, plain.len()).unwrap(), plain);
        assert!(gzip.len() < plain.len() / 10 && zstd.len() < plain.len() / 10);
        assert_eq!(Coding::ALL.map(|coding| coding.encode(b"short")), [None, None]);
    }

    #[tokio::test]
    async fn a_kept_form_is_made_once_however_many_ask() {
        let encoder = Encoder::of(Some(1));
        let plain = Content::Whole(b"0123456789".repeat(AT_ONCE_BYTES_MAX / 5).into());
        let forms = Forms::default();
        let asked = [(); 3].map(|()| encoder.kept(&forms, Coding::Zstd, &plain));
        let [one, two, three] = asked;
        let (one, two, three) = tokio::join!(one, two, three);
        let places = [one, two, three].map(|form| form.unwrap().as_ptr());
        assert!(places[0] == places[1] && places[1] == places[2]);
        assert!(forms[Coding::Gzip as usize].get().is_none(), "nobody asked for it");
    }

    #[tokio::test]
    async fn a_long_answer_goes_out_plain_when_all_are_busy() {
        let encoder = Encoder::of(Some(1));
        let _busy = encoder
            .long
            .acquire_many(u32::try_from(encoder.long.available_permits()).unwrap())
            .await;
        let plain = vec![b'x'; AT_ONCE_BYTES_MAX + 1];
        let response = encoder.encode(accepted("gzip"), Response::new(Body::from(plain))).await;
        assert!(!response.headers().contains_key(CONTENT_ENCODING));
        assert_eq!(response.headers()[VARY], "accept-encoding");
        let short = Response::new(Body::from("xxxxxxxxxx".repeat(100)));
        let response = encoder.encode(accepted("gzip"), short).await;
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
    }
}
