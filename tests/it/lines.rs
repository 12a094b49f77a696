//! The WARN and ERROR lines of the registries under test. A line that its test did not declare fails the test:
//! what needs a human in production needs one here.

use std::sync::{LazyLock, Mutex};

use ::tracing::field::{Field, Visit};
use ::tracing::level_filters::LevelFilter;
use ::tracing::{Event, Subscriber};
use tokio::runtime::{Handle, Id};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// A line, and the runtime on which it was written: each test has its own. The registrar's thread is on none.
#[derive(Debug)]
struct Line {
    runtime: Option<Id>,
    text: String,
}

#[derive(Debug, Default)]
struct Book {
    lines: Vec<Line>,
    /// What any test of this process has declared; for the lines that can't be told apart by test.
    declared: Vec<&'static str>,
}

static BOOK: LazyLock<Mutex<Book>> = LazyLock::new(|| {
    let lines = tracing_subscriber::registry().with(Listener.with_filter(LevelFilter::WARN));
    ::tracing::subscriber::set_global_default(lines).unwrap();
    Mutex::default()
});

struct Listener;

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if !metadata.target().starts_with("rollcall") {
            return;
        }
        let mut text = Text(format!("{} ", metadata.level()));
        event.record(&mut text);
        let runtime = Handle::try_current().ok().map(|runtime| runtime.id());
        BOOK.lock().unwrap().lines.push(Line { runtime, text: text.0 });
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.push_str(&format!("{value:?}"));
        }
    }
}

/// Declares what lines of this test may hold. To be called before its registry starts.
pub(crate) fn expect(parts: &[&'static str]) {
    BOOK.lock().unwrap().declared.extend(parts);
}

/// Fails if this test, or a thread that belongs to no test, wrote a line that was not declared.
pub(crate) fn check(parts: &[&'static str]) {
    let own = Handle::current().id();
    let mut book = BOOK.lock().unwrap();
    let Book { lines, declared } = &mut *book;
    let mut surprises = Vec::new();
    lines.retain(|line| {
        let allowed = match line.runtime {
            Some(runtime) if runtime == own => parts,
            Some(_) => return true,
            None => declared.as_slice(),
        };
        if !allowed.iter().any(|part| line.text.contains(part)) {
            surprises.push(line.text.clone());
        }
        false
    });
    drop(book);
    assert!(surprises.is_empty(), "lines that no test declared: {surprises:#?}");
}
