//! The two forms of output: tables for people, JSON for programs.
//!
//! The JSON is the server's answer with all its fields; a table shows what fits a line. Nothing here may decide what is
//! shown of which command: that is the command's. Used by the commands.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Writes a value as indented JSON and a line end.
pub(super) fn json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Writes a value as one line of JSON.
pub(super) fn json_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// A table without lines: it can be read, and cut by other programs just as well.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.to_vec());
    table
}

/// Writes a table without the blanks around its lines; those that align a first cell stay.
pub(crate) fn write_table(out: &mut dyn Write, table: &Table) -> io::Result<()> {
    for line in table.lines() {
        // One blank is the margin of every line.
        writeln!(out, "{}", line.strip_prefix(' ').unwrap_or(&line).trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_headers_also_when_the_first_has_none() {
        let mut table = table(&["", "INSTANCE", "EVENT"]);
        table.add_row(vec!["+", "orders/orders-1", "14"]).add_row(vec!["", "b", ""]);
        let mut out = Vec::new();
        write_table(&mut out, &table).expect("memory");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, "   INSTANCE         EVENT\n+  orders/orders-1  14\n   b\n");
    }
}
