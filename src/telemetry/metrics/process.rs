//! Figures that are read from the system when the page is asked for: process and asynchronous runtime.
//!
//! Gauges go through the recorder. The two counters of seconds are written by hand, because the recorder's
//! counters are whole numbers, and whole seconds of CPU time make a jagged rate. Caller: the page.

use std::fmt::Write as _;
use std::sync::OnceLock;

use ::metrics::{Counter, Gauge};
use metrics_process::collector;
use parking_lot::Mutex;
use tracing_appender::non_blocking::ErrorCounter;

use super::set_count;
use super::source::Source;
use crate::telemetry::names::{self, METRICS};

/// Handles and the last sample.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    open_fds: Gauge,
    max_fds: Gauge,
    virtual_memory: Gauge,
    resident_memory: Gauge,
    start_time: Gauge,
    threads: Gauge,
    workers: Gauge,
    tasks: Gauge,
    queue: Gauge,
    lines_dropped: Counter,
    /// Who knows how many log lines were lost, once there is somebody.
    lines: OnceLock<ErrorCounter>,
    seconds: Mutex<Seconds>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seconds {
    cpu: f64,
    busy: f64,
}

impl ProcessMetrics {
    pub(super) fn new(source: &Source) -> Self {
        Self {
            open_fds: source.plain_gauge(names::PROCESS_OPEN_FDS),
            max_fds: source.plain_gauge(names::PROCESS_MAX_FDS),
            virtual_memory: source.plain_gauge(names::PROCESS_VIRTUAL_MEMORY),
            resident_memory: source.plain_gauge(names::PROCESS_RESIDENT_MEMORY),
            start_time: source.plain_gauge(names::PROCESS_START_TIME),
            threads: source.plain_gauge(names::PROCESS_THREADS),
            workers: source.plain_gauge(names::RUNTIME_WORKERS),
            tasks: source.plain_gauge(names::RUNTIME_TASKS),
            queue: source.plain_gauge(names::RUNTIME_QUEUE),
            lines_dropped: source.counter::<&'static str>(names::STDERR_LINES_DROPPED, []),
            lines: OnceLock::new(),
            seconds: Mutex::default(),
        }
    }

    /// Counts the lines that `lines` knows to be lost; the first one who counts them stays.
    pub(super) fn count_lines(&self, lines: ErrorCounter) {
        let _ = self.lines.set(lines);
    }

    /// Reads the system. What it does not say keeps its last value.
    pub(super) fn sample(&self) {
        if let Some(lines) = self.lines.get() {
            let dropped = u64::try_from(lines.dropped_lines()).unwrap_or(u64::MAX);
            self.lines_dropped.absolute(dropped);
        }
        let process = collector::collect();
        let gauges = [
            (&self.open_fds, process.open_fds),
            (&self.max_fds, process.max_fds),
            (&self.virtual_memory, process.virtual_memory_bytes),
            (&self.resident_memory, process.resident_memory_bytes),
            (&self.start_time, process.start_time_seconds),
            (&self.threads, process.threads),
        ];
        for (gauge, value) in gauges {
            if let Some(value) = value {
                set_count(gauge, value);
            }
        }
        let busy = tokio::runtime::Handle::try_current()
            .ok()
            .map(|runtime| self.sample_runtime(&runtime.metrics()));
        let mut seconds = self.seconds.lock();
        // Two scrapes at once may read in one order and store in the other; a counter must not fall.
        seconds.cpu = process.cpu_seconds_total.unwrap_or_default().max(seconds.cpu);
        seconds.busy = busy.unwrap_or_default().max(seconds.busy);
    }

    fn sample_runtime(&self, runtime: &tokio::runtime::RuntimeMetrics) -> f64 {
        let gauges = [
            (&self.workers, runtime.num_workers()),
            (&self.tasks, runtime.num_alive_tasks()),
            (&self.queue, runtime.global_queue_depth()),
        ];
        for (gauge, value) in gauges {
            set_count(gauge, u64::try_from(value).unwrap_or(u64::MAX));
        }
        (0..runtime.num_workers())
            .map(|worker| runtime.worker_total_busy_duration(worker).as_secs_f64())
            .sum()
    }

    /// Appends the counters of seconds to a page.
    pub(super) fn append_to(&self, page: &mut String) {
        let seconds = *self.seconds.lock();
        for (name, value) in
            [(names::PROCESS_CPU, seconds.cpu), (names::RUNTIME_BUSY, seconds.busy)]
        {
            let help =
                METRICS.iter().find(|metric| metric.name == name).map_or("", |metric| metric.help);
            // Writing to a String cannot fail.
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n");
        }
    }
}
