//! `?deadline=` of a PATCH: when a drain ends and the instance is taken out of the registry. Called by the handler of
//! patches.

use super::faults::Faults;
use super::query::Query;
use super::spec::{Parameter, Shape};
use crate::domain::limits::DRAIN_DEADLINE_MAX;
use crate::domain::{Millis, Mode, Timestamp};
use crate::rfc3339;

/// `deadline`
pub(super) const DEADLINE: Parameter = Parameter::new(
    "deadline",
    "With `\"mode\": \"draining\"`: when the drain ends and the instance is deregistered, as a duration such as `30s` \
     or as an instant; at most 24h from now.",
    Shape::Text(64),
);

/// The end of the drain that a query asks for, given the mode that the body sets.
pub(super) fn read(
    query: &Query<'_>,
    mode: Option<Mode>,
    now: Timestamp,
    faults: &mut Faults,
) -> Option<Timestamp> {
    let text = query.get("deadline")?;
    if mode != Some(Mode::Draining) {
        faults.invalid("deadline", "is for a drain: it needs \"mode\": \"draining\" in the body");
        return None;
    }
    let until = match (Millis::parse(text), rfc3339::parse(text)) {
        (Ok(length), _) => {
            let micros = i64::try_from(length.micros()).unwrap_or(i64::MAX);
            Timestamp(now.micros().saturating_add(micros))
        }
        (Err(_), Some(until)) => until,
        (Err(_), None) => {
            let message = "must be a duration such as 30s, or an instant in RFC 3339";
            faults.malformed("deadline", message);
            return None;
        }
    };
    if until <= now {
        faults
            .invalid("deadline", "must be after now; to take the instance out at once, DELETE it");
        return None;
    }
    if until.micros().saturating_sub(now.micros()).unsigned_abs() > DRAIN_DEADLINE_MAX.micros() {
        faults.invalid("deadline", format!("must be at most {DRAIN_DEADLINE_MAX} from now"));
        return None;
    }
    Some(until)
}

#[cfg(test)]
mod tests {
    use super::super::problem::Problem;
    use super::super::registration::UPDATE;
    use super::*;
    use crate::testing::START;

    fn until(raw: &str, mode: Option<Mode>) -> Result<Option<i64>, u16> {
        let mut faults = Faults::default();
        let query = Query::read(Some(raw), &UPDATE, &mut faults);
        let until = read(&query, mode, START, &mut faults);
        match faults.check() {
            Ok(()) => Ok(until.map(|until| until.micros() - START.micros())),
            Err(Problem::InvalidRequest { .. }) => Err(400),
            Err(Problem::InvalidFields { .. }) => Err(422),
            Err(other) => panic!("{raw}: {other:?}"),
        }
    }

    #[test]
    fn a_deadline_is_a_duration_or_an_instant_within_a_day() {
        let draining = Some(Mode::Draining);
        for (raw, expected) in [
            ("", Ok(None)),
            ("deadline=30s", Ok(Some(30_000_000))),
            ("deadline=0.5", Ok(Some(500_000))),
            ("deadline=24h", Ok(Some(86_400_000_000))),
            ("deadline=2026-11-21T08:00:30.000001Z", Ok(Some(30_000_001))),
            ("deadline=86401s", Err(422)),
            ("deadline=0s", Err(422)),
            ("deadline=2026-11-21T08:00:00Z", Err(422)),
            ("deadline=2026-11-22T08:00:01Z", Err(422)),
            ("deadline=999999999999999999h", Err(400)),
            ("deadline=-5m", Err(400)),
            ("deadline=@42", Err(400)),
            ("deadline=", Err(400)),
            ("deadline=1s&deadline=2s", Err(400)),
        ] {
            assert_eq!(until(raw, draining), expected, "{raw}");
        }
        for mode in [None, Some(Mode::Active), Some(Mode::Standby)] {
            assert_eq!(until("deadline=30s", mode), Err(422), "{mode:?}");
        }
    }
}
