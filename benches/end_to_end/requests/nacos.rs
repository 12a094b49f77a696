//! The same work in the words of Nacos' HTTP API (version 1), which r-nacos speaks.

use super::{Entrant, Requests, put};
use crate::work::Work;

impl Requests {
    /// The same to a server that speaks like Nacos. It has lookups, heartbeats and registrations.
    pub(crate) fn of_nacos(self) -> Self {
        Self { is_nacos: true, ..self }
    }

    /// The next one, about this instance.
    pub(super) fn next_of_nacos(&mut self, service: usize, instance: usize) {
        let entrant = Entrant::fleet(service, instance);
        match self.work {
            Work::Heartbeat => self.put_nacos("PUT", "/beat", &entrant, ""),
            // A load that is another one each time makes each a change.
            Work::Registration => {
                let weight = format!("&weight={}", self.rng.u32(1..1_000));
                let entrant = Entrant { prefix: "load", ..entrant };
                self.put_nacos("POST", "", &entrant, &weight);
            }
            _ => {
                let (service, _) = entrant.names();
                self.begin_plainly(format_args!("GET {}", list(&service)));
                self.buffer.extend_from_slice(b"\r\n");
            }
        }
    }

    /// The registration of one instance, with what the fleet says of itself.
    pub(crate) fn register_at_nacos(&mut self, entrant: &Entrant) -> &[u8] {
        // {"env":"prod","team":"checkout","region":"eu-1"}
        let metadata = "&metadata=%7B%22env%22%3A%22prod%22%2C%22team%22%3A%22checkout%22%2C%22region%22%3A%22eu-1%22%7D";
        self.put_nacos("POST", "", entrant, metadata);
        &self.buffer
    }

    fn put_nacos(&mut self, method: &str, path: &str, entrant: &Entrant, more: &str) {
        let (service, _) = entrant.names();
        let (high, low) = (entrant.service % 256, entrant.instance % 256);
        self.begin_plainly(format_args!(
            "{method} /nacos/v1/ns/instance{path}?serviceName={service}&ip=10.1.{high}.{low}&port=8080{more}"
        ));
        self.buffer.extend_from_slice(b"content-length: 0\r\n\r\n");
    }

    /// Request line and what any client sends: such a server knows no traces.
    fn begin_plainly(&mut self, line: std::fmt::Arguments<'_>) {
        self.buffer.clear();
        put(&mut self.buffer, format_args!("{line} HTTP/1.1\r\nhost: 127.0.0.1\r\n"));
    }
}

/// The path of the lookup of a service.
pub(crate) fn list(service: &str) -> String {
    format!("/nacos/v1/ns/instance/list?serviceName={service}")
}
