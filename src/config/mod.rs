//! The settings of the server: one table, three sources, one typed result.
//!
//! Each row of the table below is a flag, a variable `ROLLCALL_...`, a key of the TOML file, a default, a check and a
//! line of the documentation at once, so that none of them can be forgotten. A setting is taken from the first source
//! that has it:
//!
//! ```text
//! flag --listen  >  variable ROLLCALL_LISTEN  >  key `listen` of the file  >  default
//! ```
//!
//! What cannot be understood is refused, never replaced by a default, and all that is wrong is reported at once.
//! This module must not act on settings: it opens nothing but the configuration file. Called by the command line, and
//! by tests and the demo through [`Settings::default`].

mod source;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

pub use source::{Effective, Error, Flags, Refused, Source, Variables, process_variables};
use source::{Found, Spec};
pub use value::Size;
use value::Value;

pub use crate::log::sqlite::Synchronous;
pub use crate::probe::Roots;
pub use crate::probe::allowed::Networks;
pub use crate::telemetry::baggage::BaggageKeys;
pub use crate::telemetry::logs::LogFormat;

/// Makes the typed [`Settings`], the table of their descriptions and the code that reads the one by the other.
///
/// A row is `/// help`, `name: Type = "default", "PLACEHOLDER", check;` where the check gets the parsed value and
/// says what would be allowed.
macro_rules! settings {
    ($( $(#[doc = $help:literal])+ $name:ident : $type:ty = $default:literal, $placeholder:literal, $check:expr; )+) => {
        /// Everything an operator can decide about a server. See the module for where values come from.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings {
            $( $(#[doc = $help])+ pub $name: $type, )+
        }

        /// The rows of the table, in the order in which help and `--print-config` show them.
        ///
        /// A static, not a constant, because clap wants the names of flags to live as long as the process.
        static SPECS: LazyLock<Vec<Spec>> = LazyLock::new(|| vec![
            $( Spec {
                name: stringify!($name),
                flag: stringify!($name).replace('_', "-"),
                variable: format!("ROLLCALL_{}", stringify!($name).to_ascii_uppercase()),
                help: concat!($($help),+).trim(),
                placeholder: $placeholder,
                default: $default,
                switch: <$type as Value>::SWITCH,
            }, )+
        ]);

        impl Settings {
            /// Reads all rows; collects what is refused into `refused` and then gives `None`.
            fn read(found: &Found, refused: &mut Vec<Refused>) -> Option<Self> {
                $( let $name = found.read::<$type>(stringify!($name), $check, refused); )+
                Some(Self { $( $name: $name?, )+ })
            }

            /// The names of those that differ from `other`'s.
            #[must_use]
            pub fn different_from(&self, other: &Self) -> Vec<&'static str> {
                let pairs = self.values().into_iter().zip(other.values());
                pairs.filter(|(own, others)| own != others).map(|((name, _), _)| name).collect()
            }

            /// Name and value of each setting, in the order of the table.
            fn values(&self) -> Vec<(&'static str, toml::Value)> {
                vec![ $( (stringify!($name), Value::to_toml(&self.$name)), )+ ]
            }
        }
    };
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

settings! {
    /// Directory that holds the log; made when it is missing.
    data: PathBuf = "./rollcall-data", "DIR", |path: &PathBuf| check::not_empty(path.as_os_str().is_empty());
    /// Address and port to listen on; port 0 takes a free one.
    listen: SocketAddr = "127.0.0.1:7655", "ADDRESS:PORT", check::any;
    /// When a change is acknowledged: full = it survives a power cut, normal = it survives a crash of the process.
    synchronous: Synchronous = "full", "full|normal", check::any;
    /// How long heartbeats and lookups are gathered before they are written; the contract allows 100ms at most.
    traffic_flush: Duration = "50ms", "DURATION", |v| check::between(v, MS, 100 * MS);
    /// How many changes may wait for the writer; one more is answered 503.
    command_queue: u32 = "16384", "COUNT", |v| check::number(v, 1, 1 << 24);
    /// How many heartbeats and lookups may wait for the writer; one more makes its caller wait.
    traffic_queue: u32 = "65536", "COUNT", |v| check::number(v, 256, 1 << 24);
    /// How long a caller waits for a slow log before it is answered 503.
    write_timeout: Duration = "5s", "DURATION", |v| check::between(v, 10 * MS, HOUR);
    /// How long a client may take to send the body of a request.
    request_timeout: Duration = "10s", "DURATION", |v| check::between(v, 10 * MS, HOUR);
    /// How long a client may take to send the head of a request; an idle connection is closed after as long (on HTTP/1, up to a fourth later).
    header_timeout: Duration = "75s", "DURATION", |v| check::between(v, 10 * MS, HOUR);
    /// From what size on answers to reads come in gzip or zstd, to clients that take that; off = never.
    encode_from: Option<Size> = "4KiB", "SIZE|off", check::answer_size;
    /// How many connections may be open; the next ones wait to be accepted.
    max_connections: u32 = "16384", "COUNT", |v| check::number(v, 1, 1 << 24);
    /// How many requests may be in progress; one more is answered 503. The last places are for heartbeats.
    max_requests: u32 = "16384", "COUNT", |v| check::number(v, 1, 1 << 24);
    /// How many long polls and streams may wait for changes; one more is answered 429.
    max_watchers: u32 = "65536", "COUNT", |v| check::number(v, 1, 1 << 24);
    /// How many of them one caller may have; off = as many as there may be.
    max_watchers_per_caller: Option<u32> = "off", "COUNT|off", check::any;
    /// How many instances may be registered in a namespace; a new one more is answered 429, off = any number.
    max_instances_per_namespace: Option<u32> = "1000000", "COUNT|off", check::any;
    /// How many instances may be registered in a service; a new one more is answered 429, off = any number.
    max_instances_per_service: Option<u32> = "100000", "COUNT|off", check::any;
    /// How many requests a second a caller may make, and as many heartbeats; more are answered 429, off = any number.
    caller_rate: Option<u32> = "off", "PER_SECOND|off", |v: &Option<u32>| check::number(&v.unwrap_or(1), 1, 1_000_000);
    /// How many requests a caller may make at once, if there is a rate.
    caller_burst: u32 = "1000", "COUNT", |v| check::number(v, 1, 1_000_000);
    /// How many questions about the past are worked on at once; the next ones wait for 2s and are then answered 503.
    max_past_reads: u32 = "8", "COUNT", |v| check::number(v, 1, 512);
    /// How long lookups may wait for their turn before some requests are answered 503, heartbeats last; off = none is.
    shed_queue_time: Option<Duration> = "20ms", "DURATION|off", check::queue_time;
    /// How long the reader of a stream may take nothing before it is cut off; it resumes where it was.
    watch_write_timeout: Duration = "30s", "DURATION", |v| check::between(v, 10 * MS, HOUR);
    /// Lease of an instance that registers without a ttl.
    default_ttl: Duration = "15s", "DURATION", |v| check::between(v, SECOND, 24 * HOUR);
    /// How many changes of status within the flap window an instance may make; one more holds it at unstable, 0 never does.
    flap_limit: u32 = "5", "COUNT", |v| check::number(v, 0, 1_000);
    /// The flap window; an instance that is held is let go when it was quiet for as long.
    flap_window: Duration = "1m", "DURATION", |v| check::between(v, SECOND, HOUR);
    /// Networks that checks may go to besides the address that registered; link-local and metadata addresses stay shut.
    check_networks: Networks = "none", "CIDR,...|none", check::any;
    /// Whom https and grpcs checks trust: the authorities that the system knows, or those of a PEM file instead.
    check_ca: Roots = "system", "FILE|system", check::any;
    /// How many checks may be under way at once; the next ones wait.
    check_concurrency: u32 = "1000", "COUNT", |v| check::number(v, 1, 1 << 16);
    /// How many connections are kept open between checks, of HTTP and of gRPC each.
    check_idle_connections: u32 = "1000", "COUNT", |v| check::number(v, 0, 1 << 20);
    /// Let nobody expire for a while when most leases of a service, or of the registry, run out at once.
    guard: bool = "true", "BOOL", check::any;
    /// The guard is entered if more than this share of the instances is late or has just expired, 0 to 1.
    guard_share: f64 = "0.5", "RATIO", check::ratio;
    /// How many instances must be late or just expired for the guard to be entered.
    guard_minimum: u32 = "3", "COUNT", |v| check::number(v, 1, u32::MAX);
    /// From how many instances on the guard watches the registry as a whole too, which protects services of two.
    guard_registry_minimum: u32 = "10", "COUNT", |v| check::number(v, 1, u32::MAX);
    /// For how many ttls the guard holds at most, by the longest ttl of those who are late.
    guard_limit_ttls: u32 = "5", "COUNT", |v| check::number(v, 1, 1_000);
    /// For how long the guard holds at most, whatever the ttl.
    guard_limit_max: Duration = "10m", "DURATION", |v| check::between(v, SECOND, 24 * HOUR);
    /// How many changes lie between two checkpoint events, which carry a hash of the state.
    checkpoint_every: u32 = "10000", "COUNT", |v| check::number(v, 1, u32::MAX);
    /// How old heartbeats and lookups may become; off = they are kept for ever. What they are rolled up to stays.
    traffic_retention_age: Option<Duration> = "168h", "DURATION|off", check::age;
    /// How much space heartbeats and lookups may take, the oldest go first; off = as much as there is.
    traffic_retention_bytes: Option<Size> = "2GiB", "SIZE|off", check::size;
    /// How old changes may become, and with them roll-ups and the traffic of that time; off = they are kept for ever.
    changes_retention_age: Option<Duration> = "2160h", "DURATION|off", check::age;
    /// How often it is looked for what is too old or too much.
    retention_interval: Duration = "30s", "DURATION", |v| check::between(v, SECOND, HOUR);
    /// A snapshot of the state is written after so many changes, or as many as there are instances if these are more.
    snapshot_every: u32 = "25000", "COUNT", |v| check::number(v, 1, u32::MAX);
    /// A snapshot is also written when the last one is so old and anything has changed since.
    snapshot_max_age: Duration = "1h", "DURATION", |v| check::between(v, SECOND, 24 * 30 * HOUR);
    /// How many services have a series of their own in the metrics, the rest being one; 0 turns these series off.
    service_series: u32 = "200", "COUNT", |v| check::number(v, 0, 10_000);
    /// Form of the log lines on standard error; auto = text on a terminal, json elsewhere.
    log_format: LogFormat = "auto", "auto|json|text", check::any;
    /// What is logged: a level, or directives such as info,hyper=debug.
    log_level: String = "info", "LEVEL", check::log_level;
    /// Write a log line for every request, lookups and heartbeats too.
    log_requests: bool = "false", "BOOL", check::any;
    /// How many changes a second have a log line of their own, the rest being counted in one; 0 = all have.
    log_change_rate: u32 = "1000", "PER_SECOND", |v| check::number(v, 0, 1_000_000);
    /// Send log lines to OpenTelemetry's collector too, as records of their traces; standard error has them all the same.
    otlp_logs: bool = "false", "BOOL", check::any;
    /// Share of the traces begun here that is kept though nothing was remarkable about them, 0 to 1.
    trace_root_ratio: f64 = "0.01", "RATIO", check::ratio;
    /// How many requests a second are kept because the caller sampled them.
    trace_caller_rate: u32 = "200", "PER_SECOND", |v| check::number(v, 0, 1_000_000);
    /// How many requests a second are kept because they changed the state.
    trace_change_rate: u32 = "200", "PER_SECOND", |v| check::number(v, 0, 1_000_000);
    /// How many requests a second are kept of those that were refused by overload or before the replay was over, and as many failed checks.
    trace_refused_rate: u32 = "200", "PER_SECOND", |v| check::number(v, 0, 1_000_000);
    /// How many failed and slow requests a second are kept: under overload all are slow, and their spans would take what answers need; off or 0 = all of them.
    trace_trouble_rate: Option<u32> = "1000", "PER_SECOND|off", |v: &Option<u32>| check::number(&v.unwrap_or(1), 1, 1_000_000);
    /// For how long these rates may save up what was not used of them.
    trace_burst: Duration = "2s", "DURATION", |v| check::between(v, MS, HOUR);
    /// A read from memory that takes longer has its trace kept; 0ms = all have.
    trace_slow_read: Duration = "10ms", "DURATION", |v| check::between(v, Duration::ZERO, HOUR);
    /// A change that takes longer has its trace kept; 0ms = all have.
    trace_slow_change: Duration = "100ms", "DURATION", |v| check::between(v, Duration::ZERO, HOUR);
    /// A list, or a question about the past, that takes longer has its trace kept; 0ms = all have.
    trace_slow_question: Duration = "100ms", "DURATION", |v| check::between(v, Duration::ZERO, HOUR);
    /// Which keys of W3C Baggage that requests bring along become part of their events, at most 8 (not of those of streams).
    baggage_keys: BaggageKeys = "none", "KEY,...|none", check::any;
    /// Where a trace can be seen, for the links in answers; {trace_id} and {span_id} are filled in, empty = no links.
    trace_url: String = "http://localhost:16686/trace/{trace_id}?uiFind={span_id}", "URL", check::trace_url;
    /// Give out profiles of the process at /debug/pprof/profile; the first one takes some 80 MiB that stay.
    profiling: bool = "false", "BOOL", check::any;
    /// How long requests in progress, the log and the spans are waited for when the server stops.
    shutdown_timeout: Duration = "10s", "DURATION", |v| check::between(v, 10 * MS, HOUR);
    /// Name of this server in its events; {hostname} stands for the name of the host.
    node: NodeName = "{hostname}", "NAME", check::any;
}

impl Default for Settings {
    /// The defaults of the table, without a look at environment or files.
    fn default() -> Self {
        let flags = Flags::default();
        let effective = flags.resolve(&|_| None).expect("a test reads the default of every row");
        effective.settings
    }
}

/// The name of a server in its events: 1 to 128 characters of `A-Z a-z 0-9 . _ -`, the first one alphanumeric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName(String);

impl NodeName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for NodeName {
    fn parse(text: &str) -> Result<Self, String> {
        let name = text.replace("{hostname}", &host_name());
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.len() <= 128
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(allowed)
        {
            Ok(Self(name))
        } else {
            Err(format!(
                "must be 1 to 128 characters of A-Z a-z 0-9 . _ -, the first one alphanumeric, was {name:?}"
            ))
        }
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.0.clone())
    }
}

/// The name of the host as far as it fits a [`NodeName`], else `rollcall`.
///
/// Read from the kernel's file, because the standard library has no call for it; where that file is missing (not Linux),
/// the name would be worth a dependency to nobody.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fitting: String = name
        .trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(64)
        .collect();
    if fitting.is_empty() { "rollcall".to_owned() } else { fitting }
}

/// The checks of the table: what a value of the right type must satisfy besides.
mod check {
    use super::Duration;
    use crate::domain::Millis;
    use crate::telemetry::logs;

    /// Every value of the type is allowed.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "a row of the table needs a check, also one that allows all"
    )]
    pub(super) fn any<T>(_: &T) -> Result<(), String> {
        Ok(())
    }

    pub(super) fn not_empty(empty: bool) -> Result<(), String> {
        if empty { Err("must not be empty".to_owned()) } else { Ok(()) }
    }

    pub(super) fn between(value: &Duration, least: Duration, most: Duration) -> Result<(), String> {
        if (least..=most).contains(value) {
            return Ok(());
        }
        let [value, least, most] = [*value, least, most].map(Millis::from);
        Err(format!("must be {least} to {most}, was {value}"))
    }

    pub(super) fn age(value: &Option<Duration>) -> Result<(), String> {
        match value {
            Some(age) if *age < Duration::from_secs(1) => {
                Err(format!("must be 1s or more, or off, was {}", Millis::from(*age)))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn queue_time(value: &Option<Duration>) -> Result<(), String> {
        value.as_ref().map_or(Ok(()), |time| between(time, super::MS, super::HOUR))
    }

    pub(super) fn size(value: &Option<super::Size>) -> Result<(), String> {
        match value {
            Some(size) if size.0 < 1 << 20 => {
                Err(format!("must be 1MiB or more, or off, was {size}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn answer_size(value: &Option<super::Size>) -> Result<(), String> {
        match value {
            Some(size) if size.0 < 256 => Err(format!("must be 256 or more, or off, was {size}")),
            _ => Ok(()),
        }
    }

    pub(super) fn number(value: &u32, least: u32, most: u32) -> Result<(), String> {
        if (least..=most).contains(value) {
            Ok(())
        } else {
            Err(format!("must be {least} to {most}, was {value}"))
        }
    }

    pub(super) fn trace_url(text: &String) -> Result<(), String> {
        if text.is_empty() || text.contains("{trace_id}") {
            Ok(())
        } else {
            Err(format!("must hold {{trace_id}}, or be empty for no links; was {text:?}"))
        }
    }

    pub(super) fn ratio(value: &f64) -> Result<(), String> {
        if (0.0..=1.0).contains(value) {
            Ok(())
        } else {
            Err(format!("must be 0 to 1, was {value}"))
        }
    }

    /// Besides what the filter itself refuses, a lone word that is no level is: the filter would take `inof` for the
    /// name of a module and log all of that, which is nothing.
    pub(super) fn log_level(text: &String) -> Result<(), String> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let bare_words_are_levels = text
            .split(',')
            .filter(|part| !part.contains(['=', '[']))
            .all(|word| LEVELS.contains(&word.trim().to_ascii_lowercase().as_str()));
        if bare_words_are_levels && logs::filter(text).is_ok() {
            Ok(())
        } else {
            let levels = LEVELS.join(", ");
            Err(format!(
                "must be one of {levels}, or directives such as info,hyper=debug, was {text:?}"
            ))
        }
    }
}

#[cfg(test)]
mod tests;
