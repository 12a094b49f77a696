//! Whether `accept` allows what a route produces (RFC 9110, section 12.5.1).

use axum::http::{HeaderMap, header};

/// Whether a client with these headers takes `media`, such as `application/json`.
pub(super) fn allows(headers: &HeaderMap, media: &str) -> bool {
    let mut values = headers.get_all(header::ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return true;
    }
    // The most specific range that fits decides, so that `*/*, text/plain;q=0` excludes text.
    let mut best: Option<(u8, bool)> = None;
    for value in values {
        if value == "*/*" {
            return true;
        }
        for range in value.to_str().unwrap_or("").split(',') {
            let mut parts = range.split(';').map(str::trim);
            let Some(rank) = specificity(parts.next().unwrap_or(""), media) else { continue };
            let refused = parts.any(|part| match part.split_once('=') {
                Some((name, quality)) if name.trim().eq_ignore_ascii_case("q") => {
                    quality.trim().parse::<f32>().is_ok_and(|quality| quality <= 0.0)
                }
                _ => false,
            });
            if best.is_none_or(|(known, _)| rank >= known) {
                best = Some((rank, !refused));
            }
        }
    }
    best.is_some_and(|(_, taken)| taken)
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
}
