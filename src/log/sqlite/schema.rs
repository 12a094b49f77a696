//! Whether a SQLite file is a log of rollcall, of a version that is known, and built as its migrations left it.
//!
//! Everything else in here names the tables and columns it wants and trusts SQLite to know them. A bit that flipped in
//! the text of a table's definition would otherwise show as "no such column" in the middle of the work, or, in a
//! default, as nothing at all. Called whenever a database is opened, before anything is read from it.

use std::collections::BTreeMap;
use std::path::Path;

use refinery::Target;
use rusqlite::Connection;

use super::{APPLICATION_ID, OpenError, migrations};
use crate::rfc3339;

/// The versions `[found, known]` of a database's schema: of the file, 0 if it is empty, and of this program.
///
/// # Errors
/// [`OpenError::Foreign`] if it is no log, [`OpenError::Newer`] if this program does not know it yet,
/// [`OpenError::Schema`] if something in it is not as it was made.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<[i32; 2], OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let id: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(sqlite)?;
    let found = objects(connection).map_err(sqlite)?;
    if id != APPLICATION_ID && !(id == 0 && found.is_empty()) {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    let known = migrations::runner()
        .get_migrations()
        .iter()
        .map(|m| to_i32(m.version()))
        .max()
        .unwrap_or(0);
    if !has_notes(connection).map_err(sqlite)? {
        return Ok([0, known]);
    }
    // Asked in SQL: the runner would read all of the row, and panics where a newer version of it wrote its
    // date in another form.
    let applied: Option<i32> = connection
        .query_row("SELECT max(version) FROM refinery_schema_history", [], |row| row.get(0))
        .map_err(sqlite)?;
    let version = applied.unwrap_or(0);
    if version > known {
        return Err(OpenError::Newer { path: path.to_owned(), found: version, known });
    }
    let made = made_by(version, path)?;
    // What somebody has added, an index for questions of their own, is theirs.
    if let Some((object, _)) = made.iter().find(|(object, text)| found.get(*object) != Some(text)) {
        let object = format!("{} {}", object.0, object.1);
        return Err(OpenError::Schema { path: path.to_owned(), object, version });
    }
    Ok([version, known])
}

/// Tables, indexes and views by kind and name, each with its definition.
type Objects = BTreeMap<(String, String), String>;

/// What a database holds, without what belongs to SQLite and to the migrations' runner, who may write theirs otherwise
/// in another version.
fn objects(connection: &Connection) -> rusqlite::Result<Objects> {
    const ALL: &str = "SELECT type, name, sql FROM sqlite_schema
                       WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite!_%' ESCAPE '!'
                         AND name <> 'refinery_schema_history'";
    let mut statement = connection.prepare(ALL)?;
    let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
    rows.collect()
}

/// What the migrations up to a version make of an empty database: made anew in memory.
fn made_by(version: i32, path: &Path) -> Result<Objects, OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let mut model = Connection::open_in_memory().map_err(sqlite)?;
    let target = Target::Version(version);
    let migrated = migrations::runner().set_target(target).run(&mut model);
    migrated.map_err(|source| OpenError::Migration {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    objects(&model).map_err(sqlite)
}

/// Refuses notes of migrations that the runner could not read: it wrote them, and panics where they are of another form.
pub(super) fn check_notes(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    if !has_notes(connection).map_err(sqlite)? {
        return Ok(());
    }
    let mut statement = connection
        .prepare("SELECT version, applied_on, checksum FROM refinery_schema_history")
        .map_err(sqlite)?;
    let mut rows = statement.query([]).map_err(sqlite)?;
    while let Some(row) = rows.next().map_err(sqlite)? {
        let version = row.get(0).map_err(sqlite)?;
        let (applied_on, checksum): (String, String) =
            (row.get(1).map_err(sqlite)?, row.get(2).map_err(sqlite)?);
        if !rfc3339::is_canonical(&applied_on) || checksum.parse::<u64>().is_err() {
            return Err(OpenError::Note { path: path.to_owned(), version });
        }
    }
    Ok(())
}

/// Whether migrations have ever been applied.
fn has_notes(connection: &Connection) -> rusqlite::Result<bool> {
    const EXISTS: &str =
        "SELECT count(*) FROM sqlite_schema WHERE name = 'refinery_schema_history'";
    connection.query_row(EXISTS, [], |row| row.get(0))
}

fn to_i32(version: impl TryInto<i32>) -> i32 {
    version.try_into().unwrap_or(i32::MAX)
}
