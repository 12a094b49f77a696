//! Takes a PromQL expression apart as far as the rules need it: the metrics that it selects with their matchers,
//! the labels that it groups by, and the ranges that its functions look over.
//!
//! It is no parser and accepts what is not PromQL: the end-to-end run hands every expression to Prometheus,
//! which refuses it if it is wrong.

/// One metric as an expression selects it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    /// Name of the series.
    pub(crate) metric: String,
    /// Label and the values that are asked for; a regular expression's alternatives count one by one.
    pub(crate) matchers: Vec<(String, Vec<String>)>,
}

/// What an expression is made of.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Metrics, in order.
    pub(crate) selectors: Vec<Selector>,
    /// Labels in `by (...)`, `without (...)`, `on (...)`, `ignoring (...)`.
    pub(crate) grouping: Vec<String>,
    /// The function that is called on a range, and the range: `("rate", "$__rate_interval")`.
    pub(crate) ranges: Vec<(String, String)>,
}

const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// What stands between an aggregation and its parentheses.
const AGGREGATED: [&str; 2] = ["by", "without"];
const OPERATORS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "atan2"];

/// Takes an expression apart.
pub(crate) fn parts(expression: &str) -> Parts {
    let mut parts = Parts::default();
    let mut rest = expression;
    let mut function = String::new();
    while let Some(next) = rest.chars().next() {
        if next == '"' {
            rest = string(rest).1;
        } else if next.is_ascii_alphabetic() || next == '_' || next == ':' {
            let (word, after) = word(rest);
            let follows = after.trim_start();
            rest = after;
            if GROUPING.contains(&word) {
                if let Some(list) = follows.strip_prefix('(') {
                    let (labels, after) = list.split_once(')').unwrap_or((list, ""));
                    let labels = labels.split(',').map(str::trim).filter(|label| !label.is_empty());
                    parts.grouping.extend(labels.map(str::to_owned));
                    rest = after;
                }
            } else if follows.starts_with('(') || AGGREGATED.contains(&self::word(follows).0) {
                word.clone_into(&mut function);
            } else if !OPERATORS.contains(&word) {
                let (matchers, after) = matchers(follows);
                parts.selectors.push(Selector { metric: word.to_owned(), matchers });
                rest = after;
            }
        } else if let Some(range) = rest.strip_prefix('[') {
            let (range, after) = range.split_once(']').unwrap_or((range, ""));
            parts.ranges.push((function.clone(), range.to_owned()));
            rest = after;
        } else if next == '$' || next.is_ascii_digit() {
            // A variable or a number: neither is a name, and its letters (1e9, 5m) are none either.
            rest = word(&rest[1..]).1;
        } else {
            rest = &rest[next.len_utf8()..];
        }
    }
    parts
}

/// `{label="value", ...}` if the text begins with it, and what follows.
fn matchers(text: &str) -> (Vec<(String, Vec<String>)>, &str) {
    let Some(mut rest) = text.strip_prefix('{') else { return (Vec::new(), text) };
    let mut matchers = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return (matchers, after);
        }
        let (label, after) = word(rest);
        let after = after.trim_start_matches(['=', '~', '!', ' ']);
        if label.is_empty() || !after.starts_with('"') {
            return (matchers, after);
        }
        let (value, after) = string(after);
        matchers.push((label.to_owned(), value.split('|').map(str::to_owned).collect()));
        rest = after;
    }
}

/// The name that the text begins with, and what follows.
fn word(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .unwrap_or(text.len());
    text.split_at(end)
}

/// The string that the text begins with, without its quotes, and what follows. No expression here has an escape.
fn string(text: &str) -> (&str, &str) {
    text.strip_prefix('"').and_then(|text| text.split_once('"')).unwrap_or((text, ""))
}

#[test]
fn an_expression_comes_apart() {
    let parts = parts(
        "histogram_quantile(0.99, sum by (le, kind) (rate(a_seconds_bucket{job=~\"$job\", kind=~\"x|y\"}[5m]))) / on (job) b > 1e3 or vector(0)",
    );
    let names: Vec<_> = parts.selectors.iter().map(|selector| selector.metric.as_str()).collect();
    assert_eq!(names, ["a_seconds_bucket", "b"]);
    assert_eq!(
        parts.selectors[0].matchers[1],
        ("kind".to_owned(), vec!["x".to_owned(), "y".to_owned()])
    );
    assert_eq!(parts.grouping, ["le", "kind", "job"]);
    assert_eq!(parts.ranges, [("rate".to_owned(), "5m".to_owned())]);
}
