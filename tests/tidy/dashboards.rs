//! Rules for dashboards: they name only metrics, labels and label values that the registry has, ask every rate
//! the same way, lead to places that exist, and explain every panel where it stands and in the document beside
//! them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use rollcall::telemetry::names::{self, Kind, METRICS};
use serde_json::Value;

use crate::promql::{self, Parts, Selector};
use crate::signals::{Rule, metric_of, values};
use crate::{files_below, none, read, root};

/// Series that Prometheus itself makes: for a target, with the labels that `prometheus.yml` gives to the fleet, and for
/// alerts.
const SCRAPED: &[(&str, &[&str])] = &[
    ("up", &["namespace", "service", "zone", "version"]),
    ("scrape_duration_seconds", &[]),
    ("scrape_samples_scraped", &[]),
    ("ALERTS", &["alertname", "alertstate", "severity"]),
];

/// Metrics that no panel needs, and why.
const NOT_SHOWN: &[(&str, &str)] = &[
    (
        names::PROCESS_VIRTUAL_MEMORY,
        "reserved address space says nothing about need; resident memory is shown",
    ),
    (names::PROCESS_START_TIME, "the time since which the registry is ready is shown"),
];

/// One dashboard file.
pub(crate) struct Dashboard {
    name: String,
    json: Value,
}

impl Dashboard {
    pub(crate) fn all() -> Vec<Self> {
        let found: Vec<_> = files_below(&root().join("dashboards"))
            .iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .map(|path| Self {
                name: path
                    .file_stem()
                    .map(|stem| stem.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                json: serde_json::from_str(&read(path))
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display())),
            })
            .collect();
        assert!(found.len() >= 5, "overview, liveness, log, slo and telemetry");
        found
    }

    /// Panels that show something: rows only head others.
    fn panels(&self) -> Vec<&Value> {
        list(&self.json["panels"]).iter().filter(|panel| panel["type"] != "row").collect()
    }

    fn variables(&self) -> Vec<&Value> {
        list(&self.json["templating"]["list"]).iter().collect()
    }

    /// Every expression with where it stands; those of annotations too.
    pub(crate) fn expressions(&self) -> Vec<(String, &str)> {
        let annotations = list(&self.json["annotations"]["list"]).iter();
        let panels = self.panels().into_iter().flat_map(|panel| {
            list(&panel["targets"]).iter().map(move |target| (text(&panel["title"]), target))
        });
        annotations
            .map(|annotation| (text(&annotation["name"]), annotation))
            .chain(panels)
            .filter(|(_, query)| query["expr"].is_string())
            .map(|(title, query)| (format!("{}: {title}", self.name), text(&query["expr"])))
            .collect()
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// All values that stand under a key, however deep.
fn under<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(object) => {
            for (name, inner) in object {
                if name == key {
                    found.push(inner);
                }
                under(inner, key, found);
            }
        }
        Value::Array(array) => array.iter().for_each(|inner| under(inner, key, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Name of every series that the registry has, with its labels.
fn series() -> HashMap<String, BTreeSet<&'static str>> {
    let mut series = HashMap::new();
    for metric in METRICS {
        let labels: BTreeSet<_> =
            metric.labels.iter().copied().chain(["job", "instance"]).collect();
        if let Kind::Histogram(_) = metric.kind {
            series.insert(format!("{}_sum", metric.name), labels.clone());
            series.insert(format!("{}_count", metric.name), labels.clone());
            series.insert(
                format!("{}_bucket", metric.name),
                labels.into_iter().chain(["le"]).collect(),
            );
        } else {
            series.insert(metric.name.to_owned(), labels);
        }
    }
    for rule in Rule::all().into_iter().filter(|rule| !rule.is_alert) {
        series.insert(rule.name, BTreeSet::from(["instance", "slo"]));
    }
    for (name, labels) in SCRAPED {
        series.insert(
            (*name).to_owned(),
            labels.iter().copied().chain(["job", "instance"]).collect(),
        );
    }
    series
}

/// What is wrong with the names in one expression.
fn wrong_names(parts: &Parts) -> Vec<String> {
    let series = series();
    let mut wrong = Vec::new();
    let mut labels = BTreeSet::new();
    for Selector { metric, matchers } in &parts.selectors {
        let Some(own) = series.get(metric) else {
            wrong.push(format!("no metric {metric}"));
            continue;
        };
        labels.extend(own.iter().copied());
        for (label, asked) in matchers {
            if !own.contains(label.as_str()) {
                wrong.push(format!("{metric} has no label {label}"));
            }
            for value in asked.iter().filter(|value| !value.contains('$')) {
                let known = metric_of(metric).and_then(|metric| values(metric.name, label));
                if known.is_some_and(|known| !known.contains(&value.as_str())) {
                    wrong.push(format!("{metric}: {label} is never {value:?}"));
                }
            }
        }
    }
    let unknown = parts.grouping.iter().filter(|label| !labels.contains(label.as_str()));
    wrong.extend(unknown.map(|label| format!("nothing here has the label {label}")));
    wrong
}

#[test]
fn expressions_name_what_exists() {
    let mut found = Vec::new();
    for dashboard in Dashboard::all() {
        for (place, expression) in dashboard.expressions() {
            found.extend(
                wrong_names(&promql::parts(expression))
                    .iter()
                    .map(|wrong| format!("{place}: {wrong}")),
            );
        }
        for variable in dashboard.variables() {
            let query = text(&variable["definition"]);
            if let Some((selector, label)) = query
                .strip_prefix("label_values(")
                .and_then(|query| query.strip_suffix(')')?.rsplit_once(", "))
            {
                let mut parts = promql::parts(selector);
                parts.grouping.push(label.to_owned());
                found.extend(
                    wrong_names(&parts)
                        .iter()
                        .map(|wrong| format!("{}: ${query}: {wrong}", dashboard.name)),
                );
            }
        }
    }
    none("expressions", &found);
}

#[test]
fn alerts_name_what_exists() {
    let rules = Rule::all();
    assert!(rules.iter().any(|rule| rule.is_alert) && rules.iter().any(|rule| !rule.is_alert));
    let mut wrong = Vec::new();
    for Rule { name, expression, .. } in &rules {
        let names = wrong_names(&promql::parts(expression));
        wrong.extend(names.iter().map(|wrong| format!("{name}: {wrong}")));
    }
    none("rules ask for what is not there", &wrong);
    assert!(read("deploy/prometheus/prometheus.yml").contains("rule_files: [slo.yml, alerts.yml]"));
}

#[test]
fn every_metric_is_shown() {
    let dashboards = Dashboard::all();
    let expressions: Vec<_> = dashboards.iter().flat_map(Dashboard::expressions).collect();
    let shown: BTreeSet<String> = expressions
        .iter()
        .flat_map(|(_, expression)| promql::parts(expression).selectors)
        .map(|selector| selector.metric)
        .collect();
    let mut found = Vec::new();
    for metric in METRICS {
        let is_shown = ["", "_bucket", "_count", "_sum"]
            .iter()
            .any(|end| shown.contains(&format!("{}{end}", metric.name)));
        let is_excused = NOT_SHOWN.iter().any(|(name, _)| *name == metric.name);
        if is_shown == is_excused {
            found.push(format!("{}: shown {is_shown}, excused {is_excused}", metric.name));
        }
    }
    none("metrics on no dashboard, or excused in vain", &found);
}

#[test]
fn rates_look_over_the_rate_interval() {
    let mut found = Vec::new();
    let dashboards = Dashboard::all();
    for (place, expression) in dashboards.iter().flat_map(Dashboard::expressions) {
        for (function, range) in promql::parts(expression).ranges {
            // A total over the time shown is the one thing that an increase over the whole range says.
            let is_right =
                matches!((&*function, &*range), (_, "$__rate_interval") | ("increase", "$__range"));
            if !is_right {
                found.push(format!("{place}: {function}(...[{range}])"));
            }
        }
    }
    none("ranges", &found);
}

#[test]
fn every_panel_explains_itself() {
    let mut found = Vec::new();
    let mut uids = BTreeMap::new();
    for Dashboard { name, json } in Dashboard::all() {
        if let Some(other) = uids.insert(text(&json["uid"]).to_owned(), name.clone()) {
            found.push(format!("{name}: has the uid of {other}"));
        }
        let dashboard = Dashboard { name, json };
        let name = &dashboard.name;
        let (mut titles, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for panel in list(&dashboard.json["panels"]) {
            if !ids.insert(panel["id"].as_u64()) {
                found.push(format!("{name}: id {} twice", panel["id"]));
            }
        }
        for panel in dashboard.panels() {
            let title = text(&panel["title"]);
            let complaints = [
                (title.is_empty() || !titles.insert(title), "no title of its own"),
                (!text(&panel["description"]).contains('?'), "its description asks no question"),
                (text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), "no unit"),
                (list(&panel["targets"]).is_empty(), "shows nothing"),
            ];
            found.extend(
                complaints
                    .iter()
                    .filter(|(is_so, _)| *is_so)
                    .map(|(_, what)| format!("{name}: {title:?}: {what}")),
            );
        }
        let shows = |kind: &str, part: &str| {
            dashboard.panels().iter().any(|panel| {
                panel["type"] == kind
                    && list(&panel["targets"])
                        .iter()
                        .any(|target| text(&target["expr"]).contains(part))
            })
        };
        if !shows("heatmap", "_bucket") || !shows("timeseries", "histogram_quantile(0.99,") {
            found.push(format!("{name}: a latency needs its heatmap and its quantiles"));
        }
    }
    none("panels", &found);
}

#[test]
fn panels_do_not_overlap() {
    let mut found = Vec::new();
    for dashboard in Dashboard::all() {
        let mut taken = BTreeMap::new();
        for panel in list(&dashboard.json["panels"]) {
            let side = |key: &str| panel["gridPos"][key].as_u64().unwrap_or_default();
            let (x, y, w, h) = (side("x"), side("y"), side("w"), side("h"));
            let title = text(&panel["title"]);
            if w == 0 || h == 0 || x + w > 24 {
                found.push(format!("{}: {title:?} does not fit the grid", dashboard.name));
            }
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                if let Some(other) = taken.insert(cell, title) {
                    found.push(format!("{}: {title:?} covers {other:?}", dashboard.name));
                    break;
                }
            }
        }
    }
    none("layout", &found);
}

#[test]
fn data_sources_are_those_provisioned() {
    let provisioning = read("deploy/grafana/provisioning/datasources/rollcall.yaml");
    let value_of = |key: &str| -> BTreeSet<String> {
        let values = provisioning
            .lines()
            .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(key));
        values.map(|value| value.trim().to_owned()).collect()
    };
    let provisioned = value_of("uid:");
    let mut found: Vec<_> = value_of("datasourceUid:")
        .difference(&provisioned)
        .map(|uid| format!("the provisioning links to {uid}, which it does not have"))
        .collect();
    for dashboard in Dashboard::all() {
        let name = &dashboard.name;
        let variables: Vec<_> = dashboard
            .variables()
            .into_iter()
            .filter(|variable| variable["type"] == "datasource")
            .collect();
        match variables[..] {
            [only]
                if only["name"] == "datasource"
                    && provisioned.contains(text(&only["current"]["value"])) => {}
            _ => found.push(format!(
                "{name}: not one variable `datasource` that begins with a provisioned one"
            )),
        }
        let mut sources = Vec::new();
        under(&dashboard.json, "datasource", &mut sources);
        for source in sources {
            let uid = text(&source["uid"]);
            if uid != "${datasource}" && !provisioned.contains(uid) {
                found.push(format!("{name}: the data source {uid:?} is not provisioned"));
            }
        }
    }
    none("data sources", &found);
}

#[test]
fn variables_are_defined_and_used() {
    const BUILT_IN: [&str; 4] = ["__rate_interval", "__range", "__value", "__from"];
    let mut found = Vec::new();
    for dashboard in Dashboard::all() {
        let defined: BTreeSet<_> =
            dashboard.variables().iter().map(|variable| text(&variable["name"])).collect();
        let all = dashboard.json.to_string();
        let used: BTreeSet<_> = all
            .split('$')
            .skip(1)
            .map(|after| after.trim_start_matches('{'))
            .map(|after| {
                after
                    .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .next()
                    .unwrap_or_default()
            })
            .filter(|name| !name.is_empty() && !BUILT_IN.contains(name) && *name != "__all")
            .collect();
        found.extend(
            used.symmetric_difference(&defined).map(|name| format!("{}: {name}", dashboard.name)),
        );
    }
    none("variables used and not defined, or defined and not used", &found);
}

#[test]
fn links_lead_somewhere() {
    let dashboards = Dashboard::all();
    let uids: BTreeSet<_> =
        dashboards.iter().map(|dashboard| text(&dashboard.json["uid"])).collect();
    // `127.0.0.1:3000:3000` in the compose file is what `localhost:3000` in a link means.
    let compose = read("docker-compose.yml");
    let published: BTreeSet<_> = compose
        .split("127.0.0.1:")
        .skip(1)
        .filter_map(|port| port.split_once(':'))
        .map(|(port, _)| port)
        .collect();
    let is_reached = |url: &str| {
        let dashboard =
            url.strip_prefix("/d/").or_else(|| url.strip_prefix("http://localhost:3000/d/"));
        match dashboard {
            Some(uid) => uids.contains(uid),
            None => url
                .strip_prefix("http://localhost:")
                .and_then(|rest| rest.split_once('/'))
                .is_some_and(|(port, _)| published.contains(port)),
        }
    };
    let jaeger: Value =
        serde_json::from_str(&read("deploy/jaeger/ui.json")).expect("Jaeger reads it as JSON");
    let mut found = Vec::new();
    for json in dashboards.iter().map(|dashboard| &dashboard.json).chain([&jaeger]) {
        // A variable that a link begins with says where something is, unless somebody changes it.
        let boxes = list(&json["templating"]["list"]).iter().filter(|one| one["type"] == "textbox");
        let places: Vec<(String, &str)> = boxes
            .map(|one| (format!("${{{}:raw}}", text(&one["name"])), text(&one["query"])))
            .collect();
        let mut urls = Vec::new();
        under(json, "url", &mut urls);
        assert!(!urls.is_empty(), "every dashboard leads on");
        found.extend(
            urls.iter()
                .map(|url| {
                    let url = text(url).to_owned();
                    places.iter().fold(url, |url, (name, place)| url.replace(name, place))
                })
                .filter(|url| !is_reached(url)),
        );
    }
    none("links to nowhere", &found);
}

#[test]
fn documents_describe_the_panels_that_there_are() {
    let mut found = Vec::new();
    for dashboard in Dashboard::all() {
        let path = format!("dashboards/{}.md", dashboard.name);
        if !root().join(&path).is_file() {
            found.push(format!("no {path}"));
            continue;
        }
        let document = read(Path::new(&path));
        let described: BTreeSet<_> = document
            .lines()
            .filter_map(|line| line.strip_prefix("| **"))
            .filter_map(|row| row.split_once("** |"))
            .map(|(title, _)| title)
            .collect();
        let panels: BTreeSet<_> =
            dashboard.panels().iter().map(|panel| text(&panel["title"])).collect();
        found.extend(
            panels.symmetric_difference(&described).map(|title| format!("{path}: {title}")),
        );
    }
    none("panels without a row in the document, or rows without a panel", &found);
}
