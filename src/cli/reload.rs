//! SIGHUP: the settings are read again, from the same flags, variables and file, and those that can be changed while the
//! server runs are changed. What is wrong changes nothing.
//!
//! It never touches what is registered, nor a connection. Used by `rollcall serve`.

use std::convert::Infallible;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app;
use crate::config::{Flags, Settings, process_variables};
use crate::telemetry::logs::LogGuard;
use crate::telemetry::signals;
use crate::telemetry::spans::Tracer;

/// The settings that hold at once.
const LIVE: [&str; 10] = [
    "log_level",
    "trace_root_ratio",
    "trace_caller_rate",
    "trace_change_rate",
    "trace_refused_rate",
    "trace_trouble_rate",
    "trace_burst",
    "trace_slow_read",
    "trace_slow_change",
    "trace_slow_question",
];

/// What settings can change.
pub(super) struct Reload<'a> {
    pub(super) flags: &'a Flags,
    pub(super) lines: &'a LogGuard,
    pub(super) tracer: Tracer,
    /// Those that hold now; of those that need a restart, what they were at the start.
    pub(super) settings: Settings,
    pub(super) hangups: Signal,
}

/// Hears SIGHUP from now on, which no longer ends the process.
///
/// # Errors
/// When the system refuses the handler.
pub(super) fn listen() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

impl Reload<'_> {
    /// Reads the settings again at each signal; for ever.
    pub(super) async fn follow(mut self) -> Infallible {
        while self.hangups.recv().await.is_some() {
            self.read();
        }
        std::future::pending().await
    }

    fn read(&mut self) {
        let read = match self.flags.resolve(&process_variables) {
            Ok(effective) => effective.settings,
            Err(error) => return signals::settings_refused(&error),
        };
        let keep = match app::tracing_config(&read, |name| std::env::var(name).ok()) {
            Ok(config) => config.keep,
            Err(error) => return signals::settings_refused(&error),
        };
        if let Err(error) = self.lines.filter_by(&read.log_level) {
            return signals::settings_refused(&error);
        }
        let (taken, left): (Vec<_>, Vec<_>) =
            read.different_from(&self.settings).into_iter().partition(|name| LIVE.contains(name));
        if taken.iter().any(|name| name.starts_with("trace_")) {
            self.tracer.keep_by(&keep);
        }
        let held = &mut self.settings;
        held.log_level = read.log_level;
        held.trace_root_ratio = read.trace_root_ratio;
        held.trace_caller_rate = read.trace_caller_rate;
        held.trace_change_rate = read.trace_change_rate;
        held.trace_refused_rate = read.trace_refused_rate;
        held.trace_trouble_rate = read.trace_trouble_rate;
        held.trace_burst = read.trace_burst;
        held.trace_slow_read = read.trace_slow_read;
        held.trace_slow_change = read.trace_slow_change;
        held.trace_slow_question = read.trace_slow_question;
        signals::settings_taken(&taken);
        if !left.is_empty() {
            signals::settings_need_restart(&left);
        }
    }
}
