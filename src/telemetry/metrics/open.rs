//! The page in the form of OpenMetrics 1.0, which is the one that has room for exemplars. Made from the plain page, so that
//! the two can't say different things.
//!
//! Differences of the forms: a family of counters is named without the `_total` of its series, there are no empty lines,
//! and the page says where it ends.

use super::exemplars::Exemplars;
use crate::yielding;

/// The page `plain` in this form, with the exemplars of its buckets.
pub(super) fn of(plain: &str, exemplars: &Exemplars) -> String {
    // Some hundred exemplars of a hundred bytes.
    let mut page = String::with_capacity(plain.len() + plain.len() / 4);
    for (position, line) in plain.lines().filter(|line| !line.is_empty()).enumerate() {
        yielding::step(position);
        match line.strip_prefix("# ").and_then(|comment| comment.split_once(' ')) {
            Some((keyword, rest)) => {
                let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
                let family = name.strip_suffix("_total").unwrap_or(name);
                page.extend(["# ", keyword, " ", family, " ", text]);
            }
            None => {
                page.push_str(line);
                page.extend(exemplar_of(line, exemplars));
            }
        }
        page.push('\n');
    }
    page.push_str("# EOF\n");
    page
}

fn exemplar_of(line: &str, exemplars: &Exemplars) -> Option<String> {
    let (series, rest) = line.split_once("le=\"")?;
    let (bound, _) = rest.split_once('"')?;
    exemplars.text(series.strip_suffix(',').unwrap_or(series), bound)
}
