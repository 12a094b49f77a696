//! What is tried with bytes from outside: a function for each way in.
//!
//! They are shared by the replay of the kept inputs (`tests/fuzz/main.rs`) and by the search for new ones (`fuzz/`). A
//! target panics where the program would, and where an answer is not what the contract says: status 500, an error that
//! is no problem document, a text that does not read back as it was written.

mod http;
mod log;
mod registry;
mod settings;

/// A target: panics if the bytes broke something.
pub(crate) type Target = fn(&[u8]);

/// All of them, by name.
pub(crate) const ALL: [(&str, Target); 12] = [
    ("body", http::body),
    ("query", http::query),
    ("headers", http::headers),
    ("cursor", http::cursor),
    ("stream_id", http::stream_id),
    ("connection", http::connection),
    ("row", log::row),
    ("block", log::block),
    ("rollup", log::rollup),
    ("snapshot", log::snapshot),
    ("import", log::import),
    ("settings", settings::settings),
];
