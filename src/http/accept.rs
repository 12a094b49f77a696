//! Whether `accept` allows what a route produces (RFC 9110, section 12.5.1).

use axum::http::{HeaderMap, header};

/// Whether a client with these headers takes `media`, such as `application/json`.
pub(super) fn allows(headers: &HeaderMap, media: &str) -> bool {
    quality(headers, media) > 0.0
}

/// Whether it would rather have `media` than `other`.
pub(super) fn prefers(headers: &HeaderMap, media: &str, other: &str) -> bool {
    quality(headers, media) > quality(headers, other)
}

/// How much it wants `media`: 0, not at all, to 1.
fn quality(headers: &HeaderMap, media: &str) -> f32 {
    let mut values = headers.get_all(header::ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return 1.0;
    }
    // The most specific range that fits decides, so that `*/*, text/plain;q=0` excludes text.
    let mut best: Option<(u8, f32)> = None;
    for value in values {
        if value == "*/*" {
            return 1.0;
        }
        for range in value.to_str().unwrap_or("").split(',') {
            let mut parts = range.split(';').map(str::trim);
            let Some(rank) = specificity(parts.next().unwrap_or(""), media) else { continue };
            let quality = parts.find_map(|part| match part.split_once('=') {
                Some((name, quality)) if name.trim().eq_ignore_ascii_case("q") => {
                    quality.trim().parse::<f32>().ok()
                }
                _ => None,
            });
            let quality = quality.unwrap_or(1.0);
            // Of two that are as specific (versions of one type), the better one.
            if best.is_none_or(|known| (rank, quality) >= known) {
                best = Some((rank, quality));
            }
        }
    }
    best.map_or(0.0, |(_, quality)| quality)
}

fn specificity(range: &str, media: &str) -> Option<u8> {
    let (kind, _) = media.split_once('/')?;
    if range.eq_ignore_ascii_case(media) {
        Some(2)
    } else if range.strip_suffix("/*").is_some_and(|prefix| prefix.eq_ignore_ascii_case(kind)) {
        Some(1)
    } else {
        (range == "*/*").then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_range_decides() {
        let allowed = |value: &str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, value.parse().unwrap())]);
            allows(&headers, "application/json")
        };
        for good in [
            "*/*",
            "application/json",
            "Application/*;q=0.1",
            "text/html, application/xml;q=0.9, */*;q=0.8",
            "application/json;q=0.5, */*;q=0",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in ["text/html", "application/json;q=0, */*", "", "application/jsonx", "text/*"] {
            assert!(!allowed(bad), "{bad}");
        }
        assert!(allows(&HeaderMap::new(), "application/json"));
    }

    #[test]
    fn of_two_forms_the_one_that_is_wanted_more() {
        const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
                                  q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (value, open) in [
            (PROMETHEUS, true),
            ("application/openmetrics-text", true),
            ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.2", false),
            ("text/plain", false),
            ("*/*", false),
            ("application/openmetrics-text;q=0, */*", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, value.parse().unwrap())]);
            assert_eq!(
                prefers(&headers, "application/openmetrics-text", "text/plain"),
                open,
                "{value}"
            );
        }
        assert!(!prefers(&HeaderMap::new(), "application/openmetrics-text", "text/plain"));
    }
}
