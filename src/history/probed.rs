//! What a probe found, in words: the part of the answer to "why" that is about the registry's own checks.
//!
//! Made of the event alone, so that it says the same years later. It must never say more than the event knows: of a row of
//! failed probes only the last one is kept. Called by [`super::why`].

use super::spoken::{instant, length};
use crate::domain::check::CheckKind;
use crate::domain::event::{Event, StatusReason};
use crate::domain::health::{Evidence, ProbeOutcome, ProbeVerdict, Signals};
use crate::domain::{Change, Instance, Status};
use crate::telemetry::propagation::TraceId;

/// Numbers that are said as words.
const TIMES: [&str; 6] = ["", "once", "twice", "three times", "four times", "five times"];

/// `its http check GET http://10.0.0.7:8080/health failed three times in a row; the last probe answered 503 Service
/// Unavailable, after 12 ms, in trace 4bf9...`: what the probe that made this change found.
pub(super) fn told(instance: &Instance, change: &Change, evidence: &Evidence) -> String {
    let Evidence { outcome, latency, error, in_a_row, .. } = evidence;
    let check = check(instance);
    let after = length(*latency);
    let trace = TraceId::from_bytes(change.trace.trace_id)
        .map_or_else(String::new, |id| format!(", in trace {id}"));
    if *outcome == ProbeOutcome::Passed {
        return format!("its {check} passed {}, after {after}{trace}", times(*in_a_row));
    }
    let error = error.as_deref().unwrap_or(outcome.as_str());
    let which = if *in_a_row > 1 { "the last probe" } else { "the probe" };
    format!("its {check} failed {}; {which}: {error} (after {after}{trace})", times(*in_a_row))
}

/// What speaks against the instance although its probe passes; empty if nothing does.
pub(super) fn still(signals: Signals) -> &'static str {
    let Signals { late, reported_failing, probe, flapping } = signals;
    if probe != Some(ProbeVerdict::Passing) {
        ""
    } else if flapping {
        ", but its status changes too often"
    } else if reported_failing {
        ", but it says itself that it is failing"
    } else if late {
        ", but its heartbeat is late"
    } else {
        ""
    }
}

/// `; it had been failed since ...: its http check ...`, if a probe had made the instance failed by this change, the last
/// one that moved its status.
pub(super) fn before_the_end(instance: &Instance, moved: Option<&Change>) -> String {
    let Some(change) = moved else { return String::new() };
    match &change.event {
        Event::StatusChanged {
            to: to @ (Status::Failed | Status::Unstable),
            reason: StatusReason::Probe,
            probe: Some(evidence),
            ..
        } => format!(
            "; it had been {to} since {}: {}",
            instant(change.at),
            told(instance, change, evidence)
        ),
        _ => String::new(),
    }
}

/// `; its tcp check of 10.0.0.7:8080 has not passed yet`, if that is so.
pub(super) fn pending(instance: &Instance) -> String {
    match instance.signals.probe {
        Some(ProbeVerdict::Pending) => format!("; its {} has not passed yet", check(instance)),
        Some(ProbeVerdict::Passing | ProbeVerdict::Suspect | ProbeVerdict::Failing) | None => {
            String::new()
        }
    }
}

/// `http check GET http://10.0.0.7:8080/health`.
fn check(instance: &Instance) -> String {
    // The check may have been taken back by a later registration.
    let Some(check) = &instance.check else { return "check".to_owned() };
    let address = &instance.endpoint.address;
    let port = check.port.unwrap_or(instance.endpoint.port);
    let place = if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    };
    let kind = check.kind;
    match kind {
        CheckKind::Http => {
            let scheme = if check.tls { "https" } else { "http" };
            format!("{kind} check {} {scheme}://{place}{}", check.method, check.path)
        }
        CheckKind::Tcp => format!("{kind} check of {place}"),
        CheckKind::Grpc if check.service.is_empty() => format!("{kind} check of {place}"),
        CheckKind::Grpc => format!("{kind} check of {place}, service {}", check.service),
    }
}

fn times(count: u32) -> String {
    let known = usize::try_from(count).ok().and_then(|count| TIMES.get(count));
    let said = known.map_or_else(|| format!("{count} times"), |word| (*word).to_owned());
    if count > 1 { format!("{said} in a row") } else { said }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Check, Millis, Seq, Timestamp, TraceRef};
    use crate::probe::testing;

    fn evidence(outcome: ProbeOutcome, error: Option<&str>, in_a_row: u32) -> Evidence {
        let latency = Millis::from_millis(12);
        Evidence { outcome, status: None, latency, error: error.map(Box::from), in_a_row }
    }

    fn change(instance: &Instance, to: Status, evidence: &Evidence) -> Change {
        let event = Event::StatusChanged {
            key: instance.key.clone(),
            from: Status::Healthy,
            to,
            signals: Signals::default(),
            reason: StatusReason::Probe,
            health: None,
            overdue: None,
            probe: Some(evidence.clone()),
            flaps: None,
        };
        let trace = TraceRef { trace_id: [0x4b; 16], span_id: [1; 8] };
        let (seq, at) = (Seq(2), Timestamp(1_795_248_000_000_000));
        Change { seq, at, caller: None, trace, cause: None, baggage: None, event }
    }

    #[test]
    fn what_was_found_is_said_with_the_check_and_the_trace() {
        let http = testing::check();
        let tcp = Check { kind: CheckKind::Tcp, port: Some(81), ..testing::check() };
        let grpc = Check { kind: CheckKind::Grpc, service: "v1".into(), ..testing::check() };
        let secure = Check { tls: true, ..testing::check() };
        let unavailable = "answered 503 Service Unavailable";
        let trace = "in trace 4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b";
        for (check, evidence, said) in [
            (
                http,
                evidence(ProbeOutcome::Rejected, Some(unavailable), 3),
                format!(
                    "its http check GET http://10.0.0.7:8080/health failed three times in a row; the last probe: \
                     {unavailable} (after 12 ms, {trace})"
                ),
            ),
            (
                tcp,
                evidence(ProbeOutcome::Unreachable, None, 1),
                format!(
                    "its tcp check of 10.0.0.7:81 failed once; the probe: unreachable (after 12 ms, {trace})"
                ),
            ),
            (
                grpc,
                evidence(ProbeOutcome::Passed, None, 7),
                format!(
                    "its grpc check of 10.0.0.7:8080, service v1 passed 7 times in a row, after 12 ms, {trace}"
                ),
            ),
            (
                secure,
                evidence(ProbeOutcome::Passed, None, 1),
                format!(
                    "its http check GET https://10.0.0.7:8080/health passed once, after 12 ms, {trace}"
                ),
            ),
        ] {
            let instance = testing::instance("orders-1", check, ProbeVerdict::Pending);
            let change = change(&instance, Status::Failed, &evidence);
            assert_eq!(told(&instance, &change, &evidence), said);
        }
    }

    #[test]
    fn the_end_of_one_that_had_failed_says_so() {
        let instance = testing::instance("orders-1", testing::check(), ProbeVerdict::Pending);
        assert!(pending(&instance).ends_with("/health has not passed yet"));
        assert_eq!(before_the_end(&instance, None), "");
        let evidence = evidence(ProbeOutcome::Timeout, Some("no answer"), 2);
        let failed = change(&instance, Status::Failed, &evidence);
        let said = before_the_end(&instance, Some(&failed));
        assert!(said.starts_with("; it had been failed since 2026-11-21 08:00:00"), "{said}");
        assert!(said.contains("failed twice in a row; the last probe: no answer"), "{said}");
        let recovered = change(&instance, Status::Healthy, &evidence);
        assert_eq!(before_the_end(&instance, Some(&recovered)), "");
    }

    #[test]
    fn what_still_speaks_against_one_that_passes_is_named() {
        let passing = Signals { probe: Some(ProbeVerdict::Passing), ..Signals::default() };
        for (signals, said) in [
            (passing, ""),
            (Signals { late: true, ..passing }, "heartbeat is late"),
            (Signals { reported_failing: true, late: true, ..passing }, "says itself"),
            (Signals { flapping: true, ..passing }, "changes too often"),
            (Signals { late: true, probe: None, ..passing }, ""),
        ] {
            let told = still(signals);
            assert!(told.contains(said) && told.is_empty() == said.is_empty(), "{told}");
        }
    }
}
