//! Settings of trace export, read from OpenTelemetry's standard variables.
//!
//! The SDK reads some of these itself and ignores others (`OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER`), so all
//! that decide something are read here, through a function that tests can replace. Headers and compression of
//! the export stay the exporter's own business. Nothing here may start anything. Caller: `config`.
//!
//! Source: OpenTelemetry specification 1.50, "Environment Variable Specification" and "OTLP Exporter
//! Configuration".

use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::keep::{KeepConfig, RootRatio};

/// What a variable asks for and cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Another protocol than gRPC.
    #[error(
        "{variable} asks for the protocol {value:?}; rollcall exports traces over \"grpc\" only: set it to grpc, or \
         leave it unset, and use the collector's gRPC port (usually 4317)"
    )]
    Protocol {
        /// The variable that asks.
        variable: &'static str,
        /// What it asks for.
        value: String,
    },
    /// An endpoint that is not plain HTTP/2.
    #[error(
        "{variable} is {value:?}; it must be like http://localhost:4317 (exporting over TLS is not built in)"
    )]
    Endpoint {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// An exporter that does not exist here.
    #[error("OTEL_TRACES_EXPORTER is {0:?}; it must be otlp or none")]
    Exporter(String),
}

/// How and whether spans are exported.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// Where to: `http://host:port`. `None` turns tracing off; ids are made and answered all the same.
    pub endpoint: Option<String>,
    /// `service.name`.
    pub service_name: String,
    /// `service.instance.id`: which process this is.
    pub instance_id: String,
    /// Further attributes of the resource.
    pub resource: Vec<(String, String)>,
    /// Which requests' spans are kept.
    pub keep: KeepConfig,
    /// Most spans that may wait for export; more are dropped and counted.
    pub queue_spans_max: usize,
    /// Most spans in one export.
    pub batch_spans_max: usize,
    /// Longest time a span waits for its batch to fill.
    pub batch_delay: Duration,
    /// Time limit of one export.
    pub export_timeout: Duration,
    /// What was not understood and is ignored, as the specification asks; to be logged at the start.
    pub warnings: Vec<String>,
}

impl Default for TelemetryConfig {
    /// Off; queue, batch, delay and time limit are the specification's defaults.
    fn default() -> Self {
        Self {
            endpoint: None,
            service_name: "rollcall".to_owned(),
            instance_id: uuid::Uuid::new_v4().to_string(),
            resource: Vec::new(),
            keep: KeepConfig::default(),
            queue_spans_max: 2048,
            batch_spans_max: 512,
            batch_delay: Duration::from_secs(5),
            export_timeout: Duration::from_secs(10),
            warnings: Vec::new(),
        }
    }
}

impl TelemetryConfig {
    /// Reads the variables through `lookup`. An empty value counts as unset, as the specification says.
    ///
    /// # Errors
    /// [`ConfigError`] if a protocol other than gRPC, an unusable endpoint or an unknown exporter is asked for.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |name: &str| {
            lookup(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let mut config = Self::default();
        config.read_resource(&get);
        if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(config);
        }
        match get("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(config),
            Some(other) => return Err(ConfigError::Exporter(other.to_owned())),
        }
        check_protocol(&get)?;
        config.endpoint = read_endpoint(&get)?;
        config.read_batching(&get);
        config.read_sampler(&get);
        Ok(config)
    }

    /// `service.name` from its own variable, else from the attributes, else `rollcall`.
    fn read_resource(&mut self, get: &impl Fn(&str) -> Option<String>) {
        for pair in get("OTEL_RESOURCE_ATTRIBUTES").iter().flat_map(|list| list.split(',')) {
            let decoded = pair.split_once('=').and_then(|(key, value)| {
                let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
                Some((key.trim(), value.into_owned()))
            });
            match decoded {
                Some(("service.name", value)) => self.service_name = value,
                Some(("service.instance.id", value)) => self.instance_id = value,
                Some((key, value)) if !key.is_empty() => {
                    self.resource.push((key.to_owned(), value))
                }
                _ => self
                    .warnings
                    .push(format!("OTEL_RESOURCE_ATTRIBUTES: {pair:?} is ignored: not key=value")),
            }
        }
        if let Some(name) = get("OTEL_SERVICE_NAME") {
            self.service_name = name;
        }
    }

    fn read_batching(&mut self, get: &impl Fn(&str) -> Option<String>) {
        let mut number = |name: &'static str, default: u64| {
            let Some(text) = get(name) else { return default };
            text.parse().ok().filter(|value| *value > 0).unwrap_or_else(|| {
                self.warnings.push(format!("{name} is ignored: {text:?} is not a number above 0"));
                default
            })
        };
        let queue = number("OTEL_BSP_MAX_QUEUE_SIZE", 2048);
        let batch = number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512);
        let delay = number("OTEL_BSP_SCHEDULE_DELAY", 5_000);
        let timeout = number("OTEL_EXPORTER_OTLP_TIMEOUT", 10_000);
        let timeout = number("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", timeout);
        // The queue is allocated at once, so its size has a limit: some 50 MB.
        self.queue_spans_max = usize::try_from(queue).unwrap_or(usize::MAX).min(100_000);
        self.batch_spans_max =
            usize::try_from(batch).unwrap_or(usize::MAX).min(self.queue_spans_max);
        self.batch_delay = Duration::from_millis(delay);
        self.export_timeout = Duration::from_millis(timeout);
    }

    /// Maps the sampler to the ratio of root traces. Failed, slow and changing requests are kept on top of it,
    /// unless it is `always_off`, which turns tracing off.
    fn read_sampler(&mut self, get: &impl Fn(&str) -> Option<String>) {
        let Some(sampler) = get("OTEL_TRACES_SAMPLER") else { return };
        let (parent_based, kind) = match sampler.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, sampler.as_str()),
        };
        let ratio = match kind {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => match get("OTEL_TRACES_SAMPLER_ARG") {
                None => 1.0,
                Some(text) => match text.parse() {
                    Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
                    _ => {
                        self.warnings.push(format!(
                            "OTEL_TRACES_SAMPLER_ARG is ignored: {text:?} is not 0 to 1"
                        ));
                        1.0
                    }
                },
            },
            _ => {
                self.warnings
                    .push(format!("OTEL_TRACES_SAMPLER is ignored: {sampler:?} is not known here"));
                return;
            }
        };
        if sampler == "always_off" {
            self.endpoint = None;
        }
        self.keep.root_ratio = RootRatio::new(ratio);
        self.keep.follow_caller = parent_based;
    }
}

fn check_protocol(get: &impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    // The one for traces wins over the general one.
    for variable in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        match get(variable) {
            None => {}
            Some(value) if value == "grpc" => return Ok(()),
            Some(value) => return Err(ConfigError::Protocol { variable, value }),
        }
    }
    Ok(())
}

fn read_endpoint(get: &impl Fn(&str) -> Option<String>) -> Result<Option<String>, ConfigError> {
    for variable in ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
        let Some(value) = get(variable) else { continue };
        let usable = value.parse::<hyper::Uri>().is_ok_and(|uri| {
            uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty())
        });
        if !usable {
            return Err(ConfigError::Endpoint { variable, value });
        }
        return Ok(Some(value));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<TelemetryConfig, ConfigError> {
        TelemetryConfig::from_env(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");

    #[test]
    fn off_unless_an_endpoint_is_set_and_nothing_forbids_it() {
        let endpoint = |variables: &[_]| read(variables).unwrap().endpoint;
        assert_eq!(endpoint(&[]), None);
        assert_eq!(endpoint(&[ENDPOINT]).as_deref(), Some("http://localhost:4317"));
        assert_eq!(endpoint(&[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")]), None);
        assert_eq!(endpoint(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]), None);
        assert_eq!(endpoint(&[ENDPOINT, ("OTEL_TRACES_SAMPLER", "always_off")]), None);
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://tempo:4317");
        assert_eq!(endpoint(&[ENDPOINT, traces]).as_deref(), Some("http://tempo:4317"));
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_name() {
        let message = |variables: &[_]| read(variables).unwrap_err().to_string();
        let protocol = message(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]);
        assert!(
            protocol
                .contains("OTEL_EXPORTER_OTLP_PROTOCOL asks for the protocol \"http/protobuf\""),
            "{protocol}"
        );
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc");
        assert!(read(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), traces]).is_ok());
        for endpoint in ["https://collector:4317", "localhost:4317", "http://", "::"] {
            assert!(message(&[(ENDPOINT.0, endpoint)]).contains(endpoint));
        }
        assert!(message(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "zipkin")]).contains("zipkin"));
    }

    #[test]
    fn samplers_become_a_ratio_and_unknown_ones_a_warning() {
        let sampler = |name, argument| {
            let config = read(&[
                ENDPOINT,
                ("OTEL_TRACES_SAMPLER", name),
                ("OTEL_TRACES_SAMPLER_ARG", argument),
            ]);
            let config = config.unwrap();
            (config.keep.root_ratio.get(), config.keep.follow_caller, config.warnings.len())
        };
        assert_eq!(sampler("always_on", ""), (1.0, false, 0));
        assert_eq!(sampler("parentbased_always_off", ""), (0.0, true, 0));
        assert_eq!(sampler("parentbased_traceidratio", "0.25"), (0.25, true, 0));
        assert_eq!(sampler("traceidratio", "2"), (1.0, false, 1));
        let default = KeepConfig::default();
        assert_eq!(
            sampler("jaeger_remote", ""),
            (default.root_ratio.get(), default.follow_caller, 1)
        );
    }

    #[test]
    fn the_resource_names_the_service() {
        let attributes = (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=a,deployment.environment.name=pr%20od,broken",
        );
        let config = read(&[attributes]).unwrap();
        assert_eq!(config.service_name, "a");
        assert_eq!(
            config.resource,
            [("deployment.environment.name".to_owned(), "pr od".to_owned())]
        );
        assert_eq!(config.warnings.len(), 1);
        assert_eq!(read(&[attributes, ("OTEL_SERVICE_NAME", "b")]).unwrap().service_name, "b");
    }
}
