//! Instants in a query: `at`, `since`, `until`, `from`, `to`. Each has the same three forms, the same faults, and a stretch
//! between two of them is refused in the same words when it ends before it begins: an empty answer would look like one.
//!
//! Called by the handlers of everything that asks about the past.

use super::Api;
use super::faults::Faults;
use super::problem::Problem;
use super::query::Query;
use crate::domain::{Seq, Timestamp};
use crate::history::Moment;

/// What such a parameter is, for the document of the API.
pub(super) const INSTANT: &str = "An instant: RFC 3339, an age (`-5m`) or a version (`@1234`).";

/// Longest instant that is read, in characters.
pub(super) const CHARS_MAX: usize = 64;

/// The present, which no instant may lie beyond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present {
    /// By the clock.
    pub(super) now: Timestamp,
    /// The version of the state.
    pub(super) head: Seq,
}

/// Reads an instant in one of its three forms.
pub(super) fn read(
    name: &str,
    text: &str,
    present: Present,
    faults: &mut Faults,
) -> Option<Moment> {
    let Present { now, head } = present;
    let moment = Moment::parse(text, now);
    match moment {
        None => faults.malformed(name, Moment::FORMS),
        Some(Moment::At(at)) if at > now => faults.invalid(name, "must not be in the future"),
        Some(Moment::Version(seq)) if seq > head => {
            faults.invalid(name, format!("must not be above the present version, which is {head}"));
        }
        Some(Moment::At(_) | Moment::Version(_)) => {}
    }
    moment
}

/// Reads both ends of a stretch; an end that is not given is none. Ends of one form are compared at once.
pub(super) fn read_stretch(
    names: [&'static str; 2],
    query: &Query<'_>,
    present: Present,
    faults: &mut Faults,
) -> [Option<Moment>; 2] {
    let ends = names.map(|name| query.get(name).and_then(|text| read(name, text, present, faults)));
    let backwards = match ends {
        [Some(Moment::At(from)), Some(Moment::At(to))] => from > to,
        [Some(Moment::Version(from)), Some(Moment::Version(to))] => from > to,
        _ => false,
    };
    if let (true, [Some(from), Some(to)]) = (backwards, ends) {
        refuse_backwards(names, [from, to], faults);
    }
    ends
}

/// Of two forms only the log can tell which is earlier: compares them as the versions that the state had then.
pub(super) async fn check_order(
    api: &Api,
    names: [&'static str; 2],
    ends: [Moment; 2],
) -> Result<(), Problem> {
    if matches!(ends, [Moment::At(_), Moment::At(_)] | [Moment::Version(_), Moment::Version(_)]) {
        return Ok(());
    }
    let versions = api.ask(move |archive| {
        let [from, to] = ends.map(|end| archive.version(end));
        Ok([from?, to?])
    });
    match versions.await {
        Ok([from, to]) if from.seq > to.seq => Err(backwards(names, ends)),
        // What is older than what is kept can be asked for all the same: the answer says what is missing.
        Ok(_) | Err(Problem::HistoryGone { .. }) => Ok(()),
        Err(problem) => Err(problem),
    }
}

/// That a stretch ends before it begins, with both ends and what to do.
pub(super) fn backwards(names: [&'static str; 2], ends: [Moment; 2]) -> Problem {
    let mut faults = Faults::default();
    refuse_backwards(names, ends, &mut faults);
    faults.check().err().unwrap_or(Problem::Internal)
}

fn refuse_backwards(
    [from, to]: [&'static str; 2],
    [begins, ends]: [Moment; 2],
    faults: &mut Faults,
) {
    let message =
        format!("must not be after {to}: {from} is {begins}, {to} is {ends}; exchange the two");
    faults.invalid(from, message);
}

#[cfg(test)]
mod tests {
    use super::super::events::EVENTS;
    use super::*;

    const PRESENT: Present = Present { now: Timestamp(1_795_248_000_000_000), head: Seq(50) };

    #[test]
    fn an_instant_has_three_forms_and_none_in_the_future() {
        let now = PRESENT.now;
        let read = |text: &str| {
            let mut faults = Faults::default();
            let found = read("since", text, PRESENT, &mut faults);
            faults.check().map(|()| found).map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(read("@42"), Ok(Some(Moment::Version(Seq(42)))));
        assert_eq!(read("-5m"), Ok(Some(Moment::At(Timestamp(now.0 - 300_000_000)))));
        assert_eq!(read("2026-11-21T08:00:00Z"), Ok(Some(Moment::At(now))));
        // However far it is, an instant that is written well is one.
        for future in [
            "2026-11-21T08:00:00.000001Z",
            "9998-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "9999-12-31T23:59:59.999999999-12:00",
            "@51",
        ] {
            assert_eq!(read(future), Err(422), "{future}");
        }
        for broken in
            ["", "@", "@x", "5m", "-5x", "yesterday", "2026-11-21", "9999-12-32T00:00:00Z"]
        {
            assert_eq!(read(broken), Err(400), "{broken}");
        }
    }

    #[test]
    fn a_stretch_that_ends_before_it_begins_is_refused_with_both_ends() {
        let told = |query: &str| {
            let mut faults = Faults::default();
            let query = Query::read(Some(query), &EVENTS, &mut faults);
            read_stretch(["since", "until"], &query, PRESENT, &mut faults);
            match faults.check() {
                Ok(()) => String::new(),
                Err(Problem::InvalidFields { errors }) => errors[0].message.to_string(),
                Err(other) => panic!("{other:?}"),
            }
        };
        assert_eq!(
            told("since=@42&until=@41"),
            "must not be after until: since is @42, until is @41; exchange the two"
        );
        assert_eq!(
            told("since=-1s&until=2026-11-21T07:59:58Z"),
            "must not be after until: since is 2026-11-21T07:59:59.000000Z, until is 2026-11-21T07:59:58.000000Z; \
             exchange the two"
        );
        for fine in
            ["since=@42&until=@42", "since=-2s&until=-1s", "since=@42&until=-1s", "since=@1"]
        {
            assert_eq!(told(fine), "", "{fine}");
        }
    }
}
