//! Which signals there are, and that everything which names one names it rightly.
//!
//! `docs/SIGNALS.md` is made here from the table of metrics, the dashboards and the rules:
//! `ROLLCALL_WRITE_SIGNALS=1 cargo test --test tidy signals` writes it anew, without the variable it is compared. Then the
//! rules themselves: each alert has its page, its dashboard and its tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use rollcall::telemetry::names::{self, Kind, METRICS, Metric, Unit, label};

use crate::dashboards::Dashboard;
use crate::{files_below, lines, none, promql, read, root, shown, spans};

const PAGE: &str = "docs/SIGNALS.md";
const RULES: [&str; 2] = ["deploy/prometheus/slo.yml", "deploy/prometheus/alerts.yml"];

/// One rule of Prometheus, as far as the tests read it.
pub(crate) struct Rule {
    /// Name of the alert, or of the series that is recorded.
    pub(crate) name: String,
    pub(crate) is_alert: bool,
    pub(crate) expression: String,
    /// Its lines after the first, trimmed.
    pub(crate) lines: Vec<String>,
}

impl Rule {
    /// All rules. Each `expr` stands on one line, which [`alerts_are_complete`] counts.
    pub(crate) fn all() -> Vec<Self> {
        let mut rules: Vec<Self> = Vec::new();
        for file in RULES {
            for line in read(file).lines().map(str::trim) {
                let begins = [("- alert: ", true), ("- record: ", false)]
                    .iter()
                    .find_map(|(start, is_alert)| Some((line.strip_prefix(start)?, *is_alert)));
                if let Some((name, is_alert)) = begins {
                    rules.push(Self {
                        name: name.to_owned(),
                        is_alert,
                        expression: String::new(),
                        lines: Vec::new(),
                    });
                } else if let Some(rule) = rules.last_mut() {
                    if let Some(expression) = line.strip_prefix("expr: ") {
                        expression.clone_into(&mut rule.expression);
                    }
                    rule.lines.push(line.to_owned());
                }
            }
        }
        rules
    }

    fn value(&self, key: &str) -> &str {
        self.lines.iter().find_map(|line| line.strip_prefix(key)).map_or("", str::trim)
    }
}

macro_rules! values {
    ($set:ident) => {
        Some(names::$set::ALL.iter().map(|value| value.as_str()).collect())
    };
}

/// The values that a label of a metric may have; nothing for labels that are no closed set.
pub(crate) fn values(metric: &str, key: &str) -> Option<Vec<&'static str>> {
    match (key, metric) {
        (label::METHOD, _) => values!(Method),
        (label::ERROR_TYPE, _) => values!(ErrorType),
        (label::KIND, names::EVENTS) => values!(EventKind),
        (label::KIND, _) => values!(CheckKind),
        (label::OUTCOME, names::EVENTS) => values!(EventOutcome),
        (label::OUTCOME, names::LOOKUPS) => values!(LookupOutcome),
        (label::OUTCOME, names::HEARTBEATS_LATE) => values!(LateOutcome),
        (label::OUTCOME, names::FLAP_DAMPINGS) => values!(DampingOutcome),
        (label::OUTCOME, names::PROBES | names::PROBE_DURATION) => values!(ProbeOutcome),
        (label::OUTCOME, names::WATCH_DURATION) => values!(WatchOutcome),
        (label::OUTCOME, names::SNAPSHOTS) => values!(SnapshotOutcome),
        (label::CLASS, names::REQUESTS_REFUSED | names::SHED_SHARE) => values!(RequestClass),
        (label::CLASS, _) => values!(Class),
        (label::REASON, names::REQUESTS_REFUSED) => values!(RefusedRequest),
        (label::REASON, names::EVENTS_REFUSED) => values!(RefusedReason),
        (label::REASON, names::EXPIRIES) => values!(ExpiryReason),
        (label::DB_OPERATION, _) => values!(DbOperation),
        (label::DB_COLLECTION, _) => values!(DbCollection),
        (label::PART, _) => values!(LogPart),
        (label::STATUS, _) => values!(Status),
        (label::MODE, _) => values!(Mode),
        (label::PHASE, _) => values!(ReplayPhase),
        (label::WORK, _) => values!(Work),
        (label::TRANSPORT, _) => values!(Transport),
        (label::RESULT, names::SPANS) => values!(SpanResult),
        (label::RESULT, names::LOG_RECORDS) => values!(RecordResult),
        (label::RESULT, names::TRACE_CONTEXT) => values!(ContextResult),
        (label::LIMIT, _) => values!(Limit),
        (label::SCOPE, _) => values!(GuardScope),
        (label::VERDICT, _) => values!(Verdict),
        _ => None,
    }
}

/// The metric that a series belongs to: a histogram's series have an ending of their own.
pub(crate) fn metric_of(series: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| {
        let end = series.strip_prefix(metric.name);
        match metric.kind {
            Kind::Histogram(_) => matches!(end, Some("_bucket" | "_count" | "_sum")),
            Kind::Counter | Kind::Gauge => end == Some(""),
        }
    })
}

/// For each metric or recorded series: which panels, and which rules ask it.
fn uses() -> BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> {
    let mut uses: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    let names = |expression: &str| -> Vec<String> {
        let selectors = promql::parts(expression).selectors.into_iter();
        selectors
            .map(|one| metric_of(&one.metric).map_or(one.metric, |metric| metric.name.to_owned()))
            .collect()
    };
    for dashboard in Dashboard::all() {
        for (place, expression) in dashboard.expressions() {
            for name in names(expression) {
                uses.entry(name).or_default().0.insert(place.clone());
            }
        }
    }
    for rule in Rule::all() {
        for name in names(&rule.expression) {
            uses.entry(name).or_default().1.insert(rule.name.clone());
        }
    }
    uses
}

fn unit(metric: &Metric) -> &'static str {
    match metric.unit {
        Unit::Count => "number",
        Unit::Seconds => "seconds",
        Unit::Bytes => "bytes",
        Unit::Ratio => "ratio",
    }
}

fn kind(metric: &Metric) -> &'static str {
    match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    }
}

/// A metric's part of the page.
fn section(metric: &Metric, used: Option<&(BTreeSet<String>, BTreeSet<String>)>) -> String {
    let mut text = format!(
        "### `{}`\n\n{} ({}, {})\n\n",
        metric.name,
        metric.help,
        kind(metric),
        unit(metric)
    );
    // Writing to a String cannot fail.
    for key in metric.labels {
        let said = values(metric.name, key).map_or_else(
            || "an open set".to_owned(),
            |values| {
                let named = |value: &&str| match *value {
                    "" => "empty".to_owned(),
                    value => format!("`{value}`"),
                };
                values.iter().map(named).collect::<Vec<_>>().join(", ")
            },
        );
        let _ = writeln!(text, "- label `{key}`: {said}");
    }
    if let Kind::Histogram(buckets) = metric.kind {
        let bounds: Vec<_> = buckets.iter().map(f64::to_string).collect();
        let _ = writeln!(text, "- buckets: {}", bounds.join(", "));
    }
    if let Some((panels, rules)) = used {
        for (what, places) in [("panels", panels), ("rules", rules)] {
            if !places.is_empty() {
                let places: Vec<_> = places.iter().map(String::as_str).collect();
                let _ = writeln!(text, "- {what}: {}", places.join("; "));
            }
        }
    }
    text.push('\n');
    text
}

/// The whole page.
fn page() -> String {
    let uses = uses();
    let mut text = String::from(
        "# Signals\n\nEvery metric that the registry has on `/metrics`: what it says, its labels with their values, its buckets, and which \
         panels and rules ask it; then what Prometheus makes of them, alerts, spans, and the fields of log lines. This page is made from the code by a test; to make it anew:\n\n\
         ```sh\nROLLCALL_WRITE_SIGNALS=1 cargo test --test tidy signals\n```\n\n\
         Labels are closed sets, so that the number of series has a bound. `job` and `instance` come from Prometheus. What alerts mean and \
         ask to be done stands in [runbooks](runbooks/README.md), what panels show in [dashboards](../dashboards/).\n\n## Metrics\n\n",
    );
    for metric in METRICS {
        text.push_str(&section(metric, uses.get(metric.name)));
    }
    text.push_str("## Recorded series\n\nMade by Prometheus from `deploy/prometheus/slo.yml`, with the label `slo`.\n\n| series | panels | rules |\n| --- | --- | --- |\n");
    let recorded: BTreeSet<_> =
        Rule::all().into_iter().filter(|rule| !rule.is_alert).map(|rule| rule.name).collect();
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join("; ");
    for name in recorded {
        let (panels, rules) = uses.get(&name).cloned().unwrap_or_default();
        let _ = writeln!(text, "| `{name}` | {} | {} |", list(&panels), list(&rules));
    }
    text.push_str(
        "\n## Alerts\n\n| alert | severity | waits | dashboard |\n| --- | --- | --- | --- |\n",
    );
    for rule in Rule::all().iter().filter(|rule| rule.is_alert) {
        let board = rule.value("dashboard_url:").rsplit("/rollcall-").next().unwrap_or_default();
        let _ = writeln!(
            text,
            "| [{name}](runbooks/{name}.md) | {} | {} | [{board}](../dashboards/{board}.md) |",
            rule.value("severity:"),
            rule.value("for:"),
            name = rule.name,
        );
    }
    text.push_str(&spans::section());
    text.push_str(&lines::section());
    text
}

#[test]
fn the_page_says_what_there_is() {
    let made = page();
    if std::env::var_os("ROLLCALL_WRITE_SIGNALS").is_some() {
        std::fs::write(root().join(PAGE), &made).expect("the page can be written");
    }
    let kept = read(PAGE);
    let differs = kept.lines().zip(made.lines()).find(|(kept, made)| kept != made);
    assert!(
        kept == made,
        "{PAGE} is not what the code, the dashboards and the rules say; first difference: {differs:?}. Make it anew: \
         ROLLCALL_WRITE_SIGNALS=1 cargo test --test tidy signals"
    );
}

#[test]
fn every_closed_label_has_its_values() {
    const OPEN: [&str; 6] = [
        label::ROUTE,
        label::STATUS_CODE,
        label::SERVICE,
        label::VERSION,
        label::REVISION,
        label::RUSTC,
    ];
    let pairs = METRICS
        .iter()
        .flat_map(|metric| metric.labels.iter().map(move |label| (metric.name, *label)));
    let missing: Vec<_> = pairs
        .filter(|(metric, label)| values(metric, label).is_none() != OPEN.contains(label))
        .map(|(metric, label)| format!("{metric}: {label}"))
        .collect();
    none("labels without their values here, or open ones with some", &missing);
}

#[test]
fn alerts_are_complete() {
    const PARTS: [&str; 4] =
        ["What it means", "What to look at", "What to do", "When it is harmless"];
    let tests: String =
        files_below(&root().join("deploy/prometheus/tests")).iter().map(read).collect();
    let rules = Rule::all();
    let alerts: Vec<_> = rules.iter().filter(|rule| rule.is_alert).collect();
    assert!(alerts.len() >= 20, "the rules are read");
    let mut found = Vec::new();
    for rule in &alerts {
        let name = &rule.name;
        let runbook = format!("docs/runbooks/{name}.md");
        let page = std::fs::read_to_string(root().join(&runbook)).unwrap_or_default();
        let board = rule.value("dashboard_url:").strip_prefix("http://localhost:3000/d/rollcall-");
        let page_url = rule.value("page_url:");
        // Each test asks twice: once who fires, and once when nobody does any more.
        let asked = format!("ALERTS{{alertname=\"{name}\", alertstate=\"firing\"}}");
        let answers: Vec<_> = tests
            .split(&asked)
            .skip(1)
            .filter_map(|rest| rest.split("exp_samples:").nth(1))
            .collect();
        let complaints = [
            (rule.expression.is_empty(), "its expression is not on one line"),
            (rule.value("for:").is_empty(), "does not say how long it waits"),
            (!["critical", "warning"].contains(&rule.value("severity:")), "severity"),
            (rule.value("summary:").is_empty(), "no summary"),
            (!rule.lines.iter().any(|line| line.starts_with("description:")), "no description"),
            (rule.value("runbook_url:") != runbook, "no runbook_url of its own"),
            (
                PARTS.iter().any(|part| !page.contains(&format!("\n## {part}\n\n"))),
                "its runbook lacks a part",
            ),
            (
                !board
                    .is_some_and(|board| root().join(format!("dashboards/{board}.json")).is_file()),
                "leads to no dashboard",
            ),
            (
                !page_url.is_empty() && !events_on_the_page(page_url),
                "its page_url leads to no kind of event on the page",
            ),
            (
                !answers.iter().any(|answer| answer.trim_start().starts_with('-')),
                "no test in which it fires",
            ),
            (
                !answers.iter().any(|answer| answer.starts_with(" []")),
                "no test in which it is quiet",
            ),
        ];
        found.extend(
            complaints
                .iter()
                .filter(|(is_so, _)| *is_so)
                .map(|(_, what)| format!("{name}: {what}")),
        );
    }
    let index = read("docs/runbooks/README.md");
    for path in files_below(&root().join("docs/runbooks")) {
        let name =
            path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let is_alert = alerts.iter().any(|rule| rule.name == name);
        if name != "README" && !(is_alert && index.contains(&format!("[{name}]({name}.md)"))) {
            found.push(format!("{}: of no alert, or not in the index", shown(&path)));
        }
    }
    none("alerts", &found);
}

/// Whether this leads to the events of a kind that there is, on the registry's own page.
fn events_on_the_page(url: &str) -> bool {
    let kind = url.strip_prefix("http://localhost:7655/ui#/events?kind=");
    kind.is_some_and(|kind| names::EventKind::ALL.iter().any(|known| known.as_str() == kind))
}

#[test]
fn every_recorded_series_is_asked() {
    let uses = uses();
    let idle: Vec<_> = Rule::all()
        .into_iter()
        .filter(|rule| !rule.is_alert && !uses.contains_key(&rule.name))
        .map(|rule| rule.name)
        .collect();
    none("recorded for nobody", &idle);
}
