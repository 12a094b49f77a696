//! The document on detectors says what the detectors do: its tables are made anew from the recorded gaps.

#[path = "../../benches/parts/detectors/table.rs"]
mod table;

use rollcall::domain::Millis;

use crate::{none, read, root};
use table::{Judge, Series};

#[test]
fn the_tables_are_what_the_detectors_do() {
    let text = read("docs/DETECTORS.md");
    let series = Series::all(root());
    let mut missing: Vec<String> = series
        .iter()
        .filter(|one| !text.contains(&one.recipe))
        .map(|one| format!("{}: {}", one.name, one.recipe))
        .collect();
    for (judges, seconds) in [(Judge::all(), 15), (Judge::usual(), 6)] {
        let table = table::table(&series, &judges, Millis::from_millis(seconds * 1_000));
        missing.extend((!text.contains(&table)).then(|| format!("ttl {seconds} s\n\n{table}")));
    }
    none("docs/DETECTORS.md does not say this", &missing);
}
