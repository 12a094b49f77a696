//! Times and numbers as people say them, for sentences that are read aloud. Machines read the fields beside the sentence.

use crate::domain::{Millis, Timestamp};
use crate::rfc3339;

/// `2026-11-21 08:00:15.021 UTC`: to the millisecond.
#[must_use]
pub fn instant(instant: Timestamp) -> String {
    let text = rfc3339::format(instant);
    // `2026-11-21T08:00:15.021000Z`; years beyond 9999 are longer, so that the parts are found and not counted.
    let Some((date, time)) = text.split_once('T') else { return text };
    let time = time.trim_end_matches('Z');
    let millis = time.find('.').map_or(time.len(), |point| time.len().min(point + 4));
    format!("{date} {} UTC", &time[..millis])
}

/// A number and the word after it: `1 life`, `2 lives`.
#[must_use]
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// `21 ms`, `15.02 s`, `4 min 5 s`, `3 h 12 min`, `2 d 3 h`: the two units that say enough, and what is finer is cut off.
#[must_use]
pub fn length(length: Millis) -> String {
    let millis = length.millis();
    let seconds = millis / 1_000;
    let two = |large: u64, unit: &str, small: u64, smaller: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {smaller}"),
    };
    match (millis, seconds) {
        (..1_000, _) => format!("{millis} ms"),
        (_, ..60) => {
            let text = format!("{seconds}.{:02}", millis % 1_000 / 10);
            format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
        }
        (_, ..3_600) => two(seconds / 60, "min", seconds % 60, "s"),
        (_, ..86_400) => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!(
            [0, 1, 2].map(|n| counted(n, "life", "lives")),
            ["0 lives", "1 life", "2 lives"]
        );
    }

    #[test]
    fn times_read_as_people_say_them() {
        assert_eq!(instant(Timestamp(1_795_248_015_021_999)), "2026-11-21 08:00:15.021 UTC");
        for (millis, said) in [
            (0, "0 ms"),
            (21, "21 ms"),
            (15_000, "15 s"),
            (15_021, "15.02 s"),
            (10_500, "10.5 s"),
            (59_999, "59.99 s"),
            (60_000, "1 min"),
            (245_000, "4 min 5 s"),
            (3 * 3_600_000, "3 h"),
            (11_520_000, "3 h 12 min"),
            (51 * 3_600_000, "2 d 3 h"),
        ] {
            assert_eq!(length(Millis::from_millis(millis)), said);
        }
    }
}
