"""What is asked of a real Prometheus: every expression of the dashboards and of the rules, and whether it returns data.

Shared by the end-to-end run (the stack as it ships, at rest) and the run of the signals (with faults).
"""

import json
import math
import re
import time
import urllib.parse

from stack import ROOT, Failed, get

# One scrape a second, so that a rate over this range has data soon.
RATE_INTERVAL = "15s"

# Annotations mark what should not happen: they have data only where a fault is made.
NEEDS_FAULT = {"Guard holds", "Mass expiry"}


def prometheus_configuration(registry):
    """The shipped configuration with this run's address, and seconds where it has five."""
    text = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    for old, new in [
        ("registry:7655", urllib.parse.urlsplit(registry).netloc),
        ("scrape_interval: 5s", "scrape_interval: 1s"),
        ("scrape_timeout: 4s", "scrape_timeout: 1s"),
        ("evaluation_interval: 15s", "evaluation_interval: 1s"),
        ("refresh_interval: 5s", "refresh_interval: 1s"),
    ]:
        if old not in text:
            raise Failed(f"prometheus.yml has no {old!r} any more: this script must follow")
        text = text.replace(old, new)
    return text


def write_rules(folder):
    """The shipped rules, looked at every second or two; alerts that wait for minutes wait for seconds."""
    for name in ["slo.yml", "alerts.yml"]:
        text = (ROOT / "deploy/prometheus" / name).read_text()
        text = re.sub(r"(?m)^( +interval: ).*$", r"\g<1>2s", text)
        (folder / name).write_text(re.sub(r"(?m)^( +for: \d+)m$", r"\g<1>s", text))


def without_variables(expression, variables):
    """The expression as Grafana sends it when every variable stands at `All`."""
    known = {"__rate_interval": RATE_INTERVAL, "__range": "10m", **{name: ".*" for name in variables}}
    for name in sorted(known, key=len, reverse=True):
        expression = expression.replace(f"${{{name}}}", known[name]).replace(f"${name}", known[name])
    if "$" in expression:
        raise Failed(f"a variable is left in {expression}")
    return expression


def questions(with_faults=False):
    """Every query of every dashboard: (where it stands, how it is asked, what is asked)."""
    for path in sorted((ROOT / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
        for name, variable in variables.items():
            if variable["type"] == "query":
                selector, label = variable["definition"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
                yield f"{path.stem}: ${name}", "values", (label, without_variables(selector, variables))
        marks = dashboard["annotations"]["list"]
        asked = [(mark["name"], mark) for mark in marks if with_faults or mark["name"] not in NEEDS_FAULT]
        asked += [(panel["title"], target) for panel in dashboard["panels"] for target in panel.get("targets", [])]
        for title, query in asked:
            # Which alerts fire depends on the machine; that the series exists is asked where faults are made.
            if "expr" in query and (with_faults or "ALERTS{" not in query["expr"]):
                how = "instant" if query.get("instant") else "range"
                yield f"{path.stem}: {title}", how, without_variables(query["expr"], variables)


def rules():
    """Every rule as (name, whether it is an alert, expression)."""
    for name in ["slo.yml", "alerts.yml"]:
        text = (ROOT / "deploy/prometheus" / name).read_text()
        for kind, rule, expression in re.findall(r"- (alert|record): (.+)\n +expr: (.+)\n", text):
            yield rule, kind == "alert", expression


def measured(expression):
    """What an alert compares, without the limits: that has data also where nothing is wrong."""
    return re.sub(r" (>=?|<|==) -?[\d.e]+(?![\w.])", "", expression)


class Prometheus:
    def __init__(self, url, since):
        self.url, self.since = url, since

    def has_data(self, how, query):
        if how == "values":
            label, selector = query
            return bool(get(f"{self.url}/api/v1/label/{label}/values", **{"match[]": selector})["data"])
        if how == "instant":
            answer = get(f"{self.url}/api/v1/query", query=query)
        else:
            answer = get(f"{self.url}/api/v1/query_range", query=query, start=self.since, end=time.time(), step=2)
        series = answer["data"]["result"]
        samples = [sample for one in series for sample in one.get("values", [one.get("value")])]
        return any(not math.isnan(float(value)) for _, value in samples)

    def fleet(self):
        targets = get(f"{self.url}/api/v1/targets", state="active")["data"]["activeTargets"]
        return [target for target in targets if target["labels"]["job"] == "fleet"]
