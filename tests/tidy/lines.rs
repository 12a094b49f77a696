//! The fields of log lines, for the page of signals: a table in the code, held to what the sources write.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rollcall::telemetry::fields::{COMMON_FIELDS, LOG_FIELDS, LogField};

use crate::{files_below, none, read, root, shown};

/// What writes a line.
const MACROS: [&str; 6] = ["error!(", "warn!(", "info!(", "debug!(", "trace!(", "event!("];

/// The fields of all lines in a source, each with the number of its line in the file.
fn fields(source: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for name in MACROS {
        for (at, _) in source.match_indices(name) {
            // `my_info!(` is none of them.
            let before = source[..at].chars().next_back();
            let commented = source[..at].lines().next_back().unwrap_or("").contains("//");
            if commented || before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let number = source[..at].matches('\n').count() + 1;
            let arguments = arguments(&source[at + name.len()..]);
            // What comes after the message fills its places.
            let fields = arguments.iter().take_while(|argument| !argument.starts_with('"'));
            found.extend(fields.filter_map(|argument| Some((field(argument)?, number))));
        }
    }
    found
}

/// The arguments of a macro, up to the parenthesis that closes it.
fn arguments(rest: &str) -> Vec<String> {
    let mut arguments = vec![String::new()];
    let (mut depth, mut text, mut escaped) = (0_usize, false, false);
    for character in rest.chars() {
        if text {
            (text, escaped) = (character != '"' || escaped, character == '\\' && !escaped);
        } else {
            match character {
                '"' => text = true,
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' if depth == 0 => break,
                ')' | ']' | '}' => depth -= 1,
                ',' if depth == 0 => {
                    arguments.push(String::new());
                    continue;
                }
                _ => {}
            }
        }
        if let Some(argument) = arguments.last_mut() {
            argument.push(character);
        }
    }
    arguments.iter().map(|argument| argument.trim().to_owned()).filter(|a| !a.is_empty()).collect()
}

/// The name in `name = value`, `%name`, `error.r#type = ...`; none for what is no field (`target: ...`, a level).
fn field(argument: &str) -> Option<String> {
    let name: String = argument
        .trim_start_matches(['%', '?'])
        .chars()
        .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '#'))
        .collect();
    let is_option = argument[name.len()..].trim_start().starts_with(':');
    let is_field = !is_option && !name.starts_with(char::is_uppercase) && !name.is_empty();
    is_field.then(|| name.replace("r#", ""))
}

/// Fields that lines of the sources have, with a place of each; tests apart, which write what they like.
fn written() -> BTreeMap<String, String> {
    let mut written = BTreeMap::new();
    for path in files_below(&root().join("src")) {
        if path.extension().is_none_or(|extension| extension != "rs")
            || shown(&path).contains("test")
        {
            continue;
        }
        let source = read(&path);
        let source = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (name, line) in fields(source) {
            written.entry(name).or_insert_with(|| format!("{}:{line}", shown(&path)));
        }
    }
    written
}

/// The part of the page about lines.
pub(crate) fn section() -> String {
    let mut text = String::from(
        "\n## Log lines\n\nOne JSON object a line on standard error (`log_format`), and, with `otlp_logs`, an OTLP record with the same fields, whose \
         trace and span stand in their own place. A field stands there where it is known.\n\n| field | values | |\n| --- | --- | --- |\n",
    );
    for LogField { name, values, meaning } in COMMON_FIELDS.iter().chain(LOG_FIELDS) {
        let _ = writeln!(text, "| `{name}` | {values} | {meaning} |");
    }
    text
}

#[test]
fn every_field_of_a_line_is_in_the_table_and_the_other_way_round() {
    let written = written();
    assert!(written.len() > 40, "the sources are read: {written:?}");
    let is_known = |name: &str| LOG_FIELDS.iter().any(|field| field.name == name);
    let mut found: Vec<String> = written
        .iter()
        .filter(|(name, _)| !is_known(name))
        .map(|(name, place)| {
            format!("{place}: the field {name:?} is not in src/telemetry/fields.rs")
        })
        .collect();
    let idle = LOG_FIELDS.iter().filter(|field| !written.contains_key(field.name));
    found.extend(idle.map(|field| format!("{:?} is in the table, and no line has it", field.name)));
    let names: Vec<&str> = COMMON_FIELDS.iter().chain(LOG_FIELDS).map(|field| field.name).collect();
    let twice = names.iter().filter(|name| names.iter().filter(|other| other == name).count() > 1);
    found.extend(twice.map(|name| format!("{name:?} is in the table twice")));
    none("fields of log lines", &found);
}

#[test]
fn fields_are_found_in_every_form() {
    let source = r##"
        info!(version, data = %data.display(), url, "rollcall {version} (a, b) listens");
        // warn!(nothing, "is said in a comment");
        warn!(target: "x", error.r#type = kind(a, "b, c\""), %address, ?held, "text {}", more);
        tracing::event!(Level::INFO, done = [1, 2].len(), "a \"quoted\" text");
        debug!("no field: {error}");
        my_info!(other, "of another macro");
    "##;
    let names: Vec<String> = fields(source).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["error.type", "address", "held", "version", "data", "url", "done"].map(str::to_owned)
    );
}
