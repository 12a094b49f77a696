//! Instants as text: RFC 3339 in UTC with microseconds, the one form of every answer and of the log.

use crate::domain::Timestamp;

/// `2026-11-21T08:00:00.000000Z`. An instant beyond the calendar's years shows as the epoch.
#[must_use]
pub fn format(instant: Timestamp) -> String {
    let shown = jiff::Timestamp::from_microsecond(instant.micros()).unwrap_or_default();
    format!("{shown:.6}")
}

/// Reads RFC 3339 with any offset and any precision; finer than a microsecond is cut off.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    let instant = text.parse::<jiff::Timestamp>().ok().or_else(|| last(text))?;
    Some(Timestamp(instant.as_microsecond()))
}

/// Whether this is how an instant is written in UTC, in the years of RFC 3339 (0000 to 9999) and with no digit too many.
#[must_use]
pub fn is_canonical(text: &str) -> bool {
    let instant = text.parse::<jiff::Timestamp>();
    instant.is_ok_and(|instant| instant.to_string() == text) && !text.starts_with('-')
}

/// The calendar ends some hours after the last instant that can be had, so that no offset leads out of it. What lies in
/// these hours is well-formed all the same: it is taken for that last instant.
fn last(text: &str) -> Option<jiff::Timestamp> {
    let pieces = jiff::fmt::temporal::Pieces::parse(text).ok()?;
    let whole = pieces.time().is_some() && pieces.offset().is_some();
    (whole && pieces.date() >= jiff::civil::date(9999, 12, 30)).then_some(jiff::Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_form_in_which_it_would_be_written() {
        for text in ["2026-11-21T08:00:00Z", "2026-11-21T08:00:00.000000001Z"] {
            assert!(is_canonical(text), "{text}");
        }
        for text in [
            "2026-11-31T08:00:00Z",
            "2026-11-21T08:00:60Z",
            "2026-11-21 08:00:00Z",
            "2026-11-21t08:00:00Z",
            "2026-11-21T08:00:00.10Z",
            "2026-11-21T08:00:00+01:00",
            "-002026-11-21T08:00:00Z",
            "",
        ] {
            assert!(!is_canonical(text), "{text}");
        }
    }

    #[test]
    fn shows_and_reads_back() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_795_248_000_000_001, "2026-11-21T08:00:00.000001Z"),
            (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
        ] {
            assert_eq!(format(Timestamp(micros)), text);
            assert_eq!(parse(text), Some(Timestamp(micros)));
        }
        assert_eq!(parse("2026-11-21T09:00:00+01:00"), parse("2026-11-21T08:00:00Z"));
        assert_eq!(parse("2026-11-21"), None);
        let end = Some(Timestamp(jiff::Timestamp::MAX.as_microsecond()));
        assert_eq!(parse("9999-12-31T23:59:59.999999-12:00"), end);
        for none in
            ["9999-12-31", "9999-12-31T23:59:59", "9999-12-32T00:00:00Z", "10000-01-01T00:00:00Z"]
        {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}
