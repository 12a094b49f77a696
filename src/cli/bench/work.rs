//! What is asked of the registry under load: the kinds of request, the fleet that they are about, and how often each
//! comes. Only builds requests; sends none.

use bytes::Bytes;
use fastrand::Rng;
use http_body_util::Full;
use hyper::{Method, Request};

use super::Plan;

/// What `--work` may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Work {
    /// The default answer of a service
    Lookup,
    /// A renewed lease
    Heartbeat,
    /// A registration that replaces another one with a new version: always a change
    Register,
    /// 80 % lookups, 18 % heartbeats, 2 % registrations
    Mixed,
}

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lookup,
    Heartbeat,
    Register,
}

impl Kind {
    /// All kinds, in the order of tables and of [`Kind::index`].
    pub(super) const ALL: [Self; 3] = [Self::Lookup, Self::Heartbeat, Self::Register];

    /// Its word in tables and in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Heartbeat => "heartbeat",
            Self::Register => "register",
        }
    }

    /// Its place among all.
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

impl Work {
    /// Its word.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Heartbeat => "heartbeat",
            Self::Register => "register",
            Self::Mixed => "mixed",
        }
    }

    /// The kinds of request that it consists of.
    pub(super) fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Lookup => &[Kind::Lookup],
            Self::Heartbeat => &[Kind::Heartbeat],
            Self::Register => &[Kind::Register],
            Self::Mixed => &Kind::ALL,
        }
    }

    fn draw(self, rng: &mut Rng) -> Kind {
        match (self, rng.u8(..100)) {
            (Self::Lookup, _) | (Self::Mixed, ..80) => Kind::Lookup,
            (Self::Heartbeat, _) | (Self::Mixed, ..98) => Kind::Heartbeat,
            (Self::Register, _) | (Self::Mixed, _) => Kind::Register,
        }
    }
}

/// Makes the requests of one connection.
#[derive(Debug)]
pub(super) struct Requests {
    plan: Plan,
    rng: Rng,
}

impl Requests {
    /// The requests of connection `number`.
    pub(super) fn of(plan: &Plan, number: usize) -> Self {
        Self { plan: plan.clone(), rng: Rng::with_seed(number as u64) }
    }

    /// The next request of the load.
    pub(super) fn next(&mut self) -> (Kind, Request<Full<Bytes>>) {
        let kind = self.plan.work.draw(&mut self.rng);
        let service = self.rng.usize(..self.plan.services);
        let instance = self.rng.usize(..self.plan.instances);
        let request = match kind {
            Kind::Lookup => {
                let path = format!("{}/instances", self.plan.service(service));
                self.plan.request(Method::GET, &path, Bytes::new())
            }
            Kind::Heartbeat => {
                let path = format!("{}/heartbeat", self.plan.instance(service, instance));
                self.plan.request(Method::PUT, &path, Bytes::new())
            }
            Kind::Register => {
                let version = self.rng.u32(1..);
                self.register(service, instance, version)
            }
        };
        (kind, request)
    }

    /// The registration of one instance of the fleet.
    pub(super) fn register(
        &self,
        service: usize,
        instance: usize,
        version: u32,
    ) -> Request<Full<Bytes>> {
        let Plan { ttl_seconds, .. } = self.plan;
        let body = format!(
            "{{\"address\":\"10.{}.{}.{}\",\"port\":8080,\"version\":\"{version}\",\"zone\":\"bench\",\
             \"tags\":[\"bench\"],\"metadata\":{{\"made-by\":\"rollcall bench\"}},\"ttl\":\"{ttl_seconds}s\"}}",
            service / 256 % 256,
            service % 256,
            instance % 256,
        );
        let path = self.plan.instance(service, instance);
        self.plan.request(Method::PUT, &path, body.into())
    }

    /// The end of one instance of the fleet.
    pub(super) fn deregister(&self, service: usize, instance: usize) -> Request<Full<Bytes>> {
        self.plan.request(Method::DELETE, &self.plan.instance(service, instance), Bytes::new())
    }
}

impl Plan {
    fn service(&self, service: usize) -> String {
        format!("{}/v1/services/service-{service:05}", self.target.base)
    }

    fn instance(&self, service: usize, instance: usize) -> String {
        format!("{}/instances/instance-{instance:05}", self.service(service))
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{path}?namespace={}", self.namespace))
            .header("host", &*self.target.authority)
            .header("rollcall-caller", &*self.caller);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        request.body(Full::new(body)).expect("names and addresses were checked before the load")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_work_is_mixed_as_it_says() {
        let mut rng = Rng::with_seed(7);
        let mut drawn = [0_u32; 3];
        for _ in 0..100_000 {
            drawn[Work::Mixed.draw(&mut rng).index()] += 1;
        }
        for (count, share) in drawn.into_iter().zip([80, 18, 2]) {
            assert!(count.abs_diff(share * 1_000) < 500, "{drawn:?}");
        }
    }
}
