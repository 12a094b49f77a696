//! A registry that is kept busy at random: registrations, patches, goodbyes, heartbeats, silence.

use fastrand::Rng;
use serde_json::{Value, json};

use crate::harness::{START, Server};

impl Server {
    /// What the registry's clock shows, as the contract writes it.
    pub(super) fn now(&self) -> String {
        use rollcall::clock::Clock as _;
        rollcall::rfc3339::format(self.clock.as_ref().unwrap().wall())
    }

    /// Milliseconds that have passed since an instant.
    pub(super) fn millis_since(&self, at: &str) -> u64 {
        let [now, then] = [self.now().as_str(), at].map(|at| rollcall::rfc3339::parse(at).unwrap());
        assert!(then >= START);
        now.since(then).millis()
    }
}

/// A random script; one seed gives one script.
pub(super) struct Script {
    random: Rng,
}

/// Namespace and service.
pub(super) const SERVICES: [(&str, &str); 4] =
    [("default", "orders"), ("default", "web"), ("staging", "orders"), ("staging", "pay")];

const INSTANCES: [&str; 3] = ["a", "b", "c-3"];

impl Script {
    pub(super) fn of(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed) }
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.random.usize(..from.len())]
    }

    fn registration(&mut self) -> Value {
        let mut body = json!({
            "address": *self.pick(&["10.0.0.7", "10.0.0.7", "10.0.0.7", "::1"]),
            "port": 8080,
            "ttl": *self.pick(&["5s", "5s", "15s"]),
            "tags": *self.pick(&[&[] as &[&str], &["canary"], &["canary", "größer \"1\""]]),
            "metadata": {"env": *self.pick(&["prod", "test", ""])},
        });
        if self.random.bool() {
            body["weight"] = json!(self.random.u16(0..3));
            body["zone"] = json!(*self.pick(&["eu-1a", "eu-1b"]));
            body["mode"] = json!(*self.pick(&["active", "standby", "draining"]));
        }
        body
    }

    /// Does something, and then lets some time pass.
    pub(super) async fn step(&mut self, server: &Server) {
        let (namespace, service) = *self.pick(&SERVICES);
        let instance = *self.pick(&INSTANCES);
        let path = format!("/v1/services/{service}/instances/{instance}");
        let at = format!("{path}?namespace={namespace}");
        let (method, path, body) = match self.random.u8(..10) {
            0..4 => ("PUT", at, Some(self.registration())),
            4 => ("PATCH", at, Some(json!({"weight": self.random.u16(0..3)}))),
            5 => ("PATCH", at, Some(json!({"mode": *self.pick(&["active", "standby"])}))),
            6 => {
                let metadata = json!({"env": null, "build": self.random.u8(..3).to_string()});
                ("PATCH", at, Some(json!({"metadata": metadata, "tags": ["x"]})))
            }
            7 => ("DELETE", format!("{at}&reason=by%20chance"), None),
            _ => {
                let health = *self.pick(&["passing", "passing", "failing"]);
                let beat = format!("{path}/heartbeat?namespace={namespace}");
                ("PUT", beat, Some(json!({"health": health})))
            }
        };
        let (status, answer) = server.call(method, &path, body).await;
        assert!(status.is_success() || status == 404, "{method} {path}: {status} {answer}");
        if self.random.u8(..3) == 0 {
            server.advance(self.random.u64(200..2_500));
        }
    }

    /// Some questions about the present.
    pub(super) fn questions(&mut self) -> Vec<String> {
        let mut questions = Vec::new();
        for _ in 0..2 {
            let (namespace, service) = *self.pick(&SERVICES);
            let instance = *self.pick(&INSTANCES);
            let path = format!("/v1/services/{service}/instances");
            questions.push(match self.random.u8(..8) {
                0 => format!("/v1/services?namespace={namespace}"),
                1 => format!("/v1/services?namespace={namespace}&prefix=o"),
                2 => format!("{path}/{instance}?namespace={namespace}"),
                3 => format!("{path}?namespace={namespace}&status=any"),
                4 => format!("{path}?namespace={namespace}&tag=canary&meta.env=prod"),
                5 => format!("{path}?namespace={namespace}&mode=standby&zone=eu-1a"),
                _ if namespace == "default" => path,
                _ => format!("{path}?namespace={namespace}"),
            });
        }
        questions
    }
}
