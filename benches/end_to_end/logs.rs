//! Logs that are written before a registry starts on them: to register a million instances over HTTP takes longer than
//! what is measured with them, and longer than their leases.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use rollcall::domain::command::Register;
use rollcall::domain::instance::Endpoint;
use rollcall::domain::{
    Change, Command, InstanceId, InstanceKey, Millis, Namespace, ServiceKey, ServiceName,
    Timestamp, TraceRef, decide,
};
use rollcall::log::sqlite::{SqliteLog, Synchronous};
use rollcall::log::upkeep::Upkeep as _;
use rollcall::log::{ChangeLog as _, Snapshot};

use crate::Failure;
use crate::history;
use crate::plain;
use crate::requests::Entrant;

/// Changes that are appended at once.
const GROUP: usize = 1_024;

/// The folder of a server's log within the folder that the server is given.
pub(crate) const DATA: &str = "data";

/// A fleet as a log: `services` of `instances` each, as `entrant` makes them of their numbers.
pub(crate) struct Fleet<E> {
    pub(crate) services: usize,
    pub(crate) instances: usize,
    pub(crate) entrant: E,
    /// Whether the log gets a snapshot of it too.
    pub(crate) snapshot: bool,
}

impl<E: Fn(usize, usize) -> Entrant> Fleet<E> {
    /// Writes it for a server with its data in `dir`.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), Failure> {
        let mut log = plain::open(&dir.join(DATA), Synchronous::Normal);
        let mut rng = Rng::with_seed(5);
        let mut state = Snapshot::default();
        let mut group = Vec::new();
        let at = now()?;
        for member in 0..self.services * self.instances {
            let entrant = (self.entrant)(member / self.instances, member % self.instances);
            let command = Command::Register(register(&entrant, &mut rng)?);
            let decided = decide(&state.registry, &command, at)
                .map_err(|refused| format!("a registration was refused: {refused:?}"))?;
            let decision = decided.ok_or("a registration changed nothing")?;
            let caller = Some(Arc::from("deployer"));
            let change = decision.into_change(&state.registry, at, caller, trace(&mut rng));
            state.fold(&change);
            group.push(Arc::new(change));
            if group.len() == GROUP {
                append(&mut log, &mut group)?;
            }
        }
        append(&mut log, &mut group)?;
        if self.snapshot {
            let mut upkeep = log.upkeep()?;
            let seq = state.registry.head();
            upkeep.snapshot(seq, &mut state.services(), Millis::ZERO)?;
        }
        Ok(())
    }
}

/// A log of so many changes of few instances, without a snapshot.
pub(crate) fn busy(dir: &Path, changes: usize) -> Result<(), Failure> {
    let mut log = plain::open(&dir.join(DATA), Synchronous::Normal);
    let mut done = Ok(());
    history::random_in_groups(4, changes, |group| {
        if done.is_ok() {
            done = append(&mut log, group);
        }
    });
    done
}

fn append(log: &mut SqliteLog, group: &mut Vec<Arc<Change>>) -> Result<(), Failure> {
    if !group.is_empty() {
        let expected = log.head();
        let _ = log.append(expected, group)?;
        group.clear();
    }
    Ok(())
}

/// What the registration that goes over HTTP becomes.
fn register(entrant: &Entrant, rng: &mut Rng) -> Result<Register, Failure> {
    let body: serde_json::Value = serde_json::from_str(&entrant.body())?;
    let text = |name: &str| -> Box<str> { body[name].as_str().unwrap_or_default().into() };
    let (service, instance) = entrant.names();
    let key = InstanceKey {
        service: ServiceKey {
            namespace: Namespace::default(),
            service: ServiceName::new(&service)?,
        },
        instance: InstanceId::new(&instance)?,
    };
    let tags = body["tags"].as_array().into_iter().flatten();
    let pairs = body["metadata"].as_object().into_iter().flatten();
    let value =
        |value: &serde_json::Value| -> Box<str> { value.as_str().unwrap_or_default().into() };
    let ttl = u64::try_from(entrant.ttl.as_millis())?;
    Ok(Register {
        endpoint: Endpoint { address: text("address").into(), port: 8080, protocol: "http".into() },
        version: Some(text("version")),
        zone: Some(text("zone")),
        tags: tags.map(value).collect(),
        metadata: pairs.map(|(key, text)| (key.as_str().into(), value(text))).collect(),
        ttl: Some(Millis::from_millis(ttl)),
        ..history::register(key, rng)
    })
}

fn trace(rng: &mut Rng) -> TraceRef {
    TraceRef { trace_id: rng.u128(1..).to_be_bytes(), span_id: rng.u64(1..).to_be_bytes() }
}

/// The wall clock: a log of long ago would be thinned out by retention while it is measured.
#[expect(clippy::disallowed_methods, reason = "nobody tests with the time of a bench")]
fn now() -> Result<Timestamp, Failure> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(Timestamp(i64::try_from(since.as_micros())?))
}
