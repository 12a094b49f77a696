//! The table of problems is the contract: types, statuses and when to come back.

use super::*;

fn unseen(oldest: u64, compacted: bool) -> Problem {
    let version = |seq| Version { seq: Seq(seq), at: crate::testing::START };
    let unseen = Unseen { compacted, oldest: version(oldest), newest: version(240) };
    Problem::Unseen { service_lives: true, unseen }
}

/// One of each, for the table and for the OpenAPI document.
fn examples() -> Vec<Problem> {
    let errors =
        vec![FieldError { field: "port".into(), message: "must be 1 to 65535, was 0".into() }];
    vec![
        Problem::Malformed { detail: "not JSON".into() },
        Problem::InvalidRequest { errors: errors.clone() },
        Problem::InvalidCursor { detail: "of another log" },
        Problem::ReadOnly,
        Problem::NotAReplay,
        Problem::NotProfiling,
        Problem::UnknownPath,
        Problem::UnknownService,
        Problem::UnknownInstance,
        unseen(0, false),
        Problem::MethodNotAllowed,
        Problem::NotAcceptable { produces: "application/json" },
        Problem::BodyTimeout { seconds: 10 },
        Problem::OtherIncarnation { current: Seq(41), given: Seq(7) },
        Problem::ProfileRunning,
        Problem::HistoryGone { oldest: Version::default() },
        Problem::UnknownEvent,
        Problem::NoDeparture { lives: true },
        Problem::InUse { incarnation: Seq(41) },
        Problem::Stale,
        Problem::BodyTooLarge { limit: 65_536 },
        Problem::UriTooLong { limit: 16_384 },
        Problem::UnsupportedMediaType { accepted: "application/json" },
        Problem::InvalidFields { errors },
        Problem::Internal,
        Problem::LogDamaged,
        Problem::NotReady { phase: "replaying".into() },
        Problem::LogFailed { cause: "disk full".into() },
        Problem::LogSlow,
        Problem::Busy,
        Problem::Stopping,
        Problem::QuotaReached { quota: Quota::Service, present: 10, limit: 10 },
        Problem::CallerRate { per_second: 10, wait: Duration::from_millis(1_500) },
        Problem::TooManyWatchers { limit: 10, of_caller: true },
        Problem::Overloaded { by: Overload::Waiting },
    ]
}

#[test]
fn types_and_statuses_are_the_contract() {
    let table: Vec<String> = examples()
        .iter()
        .map(|problem| {
            let Kind { status, name, .. } = problem.kind();
            let at_hand = crate::telemetry::metrics::STATUSES.contains(&status.as_u16());
            assert!(at_hand, "{status} looks its histogram up among all series each time");
            let retry =
                problem.retry_after().map_or(String::new(), |s| format!(" retry-after {s}"));
            let failure = problem.error_type().as_str();
            format!("{} {name}{retry} {failure}", status.as_u16()).trim_end().to_owned()
        })
        .collect();
    assert_eq!(
        table,
        [
            "400 malformed-request",
            "400 invalid-request",
            "400 invalid-cursor",
            "403 read-only",
            "404 not-a-replay",
            "404 not-profiling",
            "404 unknown-path",
            "404 unknown-service",
            "404 unknown-instance",
            "404 unknown-instance",
            "405 method-not-allowed",
            "406 not-acceptable",
            "408 body-timeout",
            "409 other-incarnation",
            "409 profile-running",
            "410 history-gone",
            "404 unknown-event",
            "404 no-departure",
            "412 id-in-use",
            "412 instance-changed",
            "413 body-too-large",
            "414 uri-too-long",
            "415 unsupported-media-type",
            "422 invalid-fields",
            "500 internal internal",
            "500 log-damaged internal",
            "503 not-ready retry-after 1 not_ready",
            "503 log-failed retry-after 5 log_failed",
            "503 log-slow retry-after 1 log_slow",
            "503 busy retry-after 1 log_slow",
            "503 stopping retry-after 5 not_ready",
            "429 quota-reached retry-after 30",
            "429 rate-limited retry-after 2",
            "429 too-many-watchers retry-after 5",
            "503 overloaded retry-after 1 overloaded",
        ]
    );
}

#[test]
fn a_body_has_the_members_of_the_contract() {
    let body = |problem: Problem| String::from_utf8(problem.body("0af7")).unwrap();
    let errors =
        vec![FieldError { field: "port".into(), message: "must be 1 to 65535, was 0".into() }];
    assert_eq!(
        body(Problem::InvalidFields { errors }),
        r#"{"type":"/problems/invalid-fields","title":"Fields are missing or out of range","status":422,"detail":"nothing was done; see errors for each field","trace_id":"0af7","errors":[{"field":"port","message":"must be 1 to 65535, was 0"}]}"#
    );
    assert!(
        body(Problem::OtherIncarnation { current: Seq(41), given: Seq(7) })
            .ends_with(r#""incarnation":41}"#)
    );
}

#[test]
fn what_the_log_does_not_tell_of_is_said_with_how_far_it_reaches() {
    const AT: &str = "2026-11-21T08:00:00.000000Z";
    for (oldest, compacted, expected) in [
        (
            0,
            false,
            format!(
                "never registered: the log holds everything from its beginning to version 240 of {AT}"
            ),
        ),
        (
            101,
            false,
            format!(
                "never registered: the log reaches from version 101 of {AT} to version 240 of {AT}"
            ),
        ),
        (
            101,
            true,
            format!(
                "the log reaches from version 101 of {AT} to version 240 of {AT} and tells of no life"
            ),
        ),
    ] {
        let problem = unseen(oldest, compacted);
        assert!(problem.detail().contains(&expected), "{}", problem.detail());
        let body: Value = serde_json::from_slice(&problem.body("0af7")).unwrap();
        let range = [&body["oldest"]["seq"], &body["newest"]["seq"]];
        assert_eq!(range, [&json!(oldest), &json!(240)]);
    }
}
