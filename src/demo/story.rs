//! What the demo tells in the terminal: what runs where, what happens, and now and then the figures.
//!
//! It shows and decides nothing. A dead instance is handed out many times before it expires; the first few are told one
//! by one, with the trace that shows them, the others are counted. Called by [`super::play`].

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cli::{table, write_table};
use crate::client::{DEFAULT_URL, Event};
use crate::telemetry::propagation::TraceId;

use super::fleet::{Fleet, SERVICES};
use super::registry::Registry;

/// How many calls to one dead instance are told one by one.
const TOLD_MAX: u64 = 2;

/// Something worth a line.
#[derive(Debug)]
pub(super) enum Happening {
    /// A member was killed.
    Killed { instance: String },
    /// The registry has noticed.
    Expired { instance: String, after: Duration, event: Event },
    /// A member registered, again or anew.
    Registered { instance: String, authority: String, incarnation: u64 },
    /// A caller was handed an instance that is dead.
    HandedDead { caller: String, instance: String, trace_id: TraceId },
    /// The registry does not answer a member.
    Silent { instance: String, why: String },
    /// It does again.
    Heard { instance: String },
    /// Another process has registered under a member's id.
    TakenOver { instance: String },
}

/// Where happenings are told; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Telling(pub(super) mpsc::Sender<Happening>);

impl Telling {
    /// Tells, or lets it be when too many wait: no call is slowed down by a terminal.
    pub(super) fn tell(&self, happening: Happening) {
        drop(self.0.try_send(happening));
    }
}

/// The teller.
pub(super) struct Story {
    began: Instant,
    /// What commands need to find the registry: nothing, where they would find it by themselves.
    flag: String,
    /// How often each dead instance was handed out since it died.
    handed: HashMap<String, u64>,
    /// The members whom the registry does not answer.
    silent: HashSet<String>,
}

impl Story {
    /// Tells what runs where and what can be tried.
    pub(super) fn begin(
        out: &mut dyn Write,
        registry: &Registry,
        fleet: &Fleet<'_>,
    ) -> io::Result<Self> {
        let url = registry.url();
        writeln!(out, "registry     {url}{}\n", registry.remark())?;
        // Those who call before those who are called, as one reads a chain.
        for (service, id, authority) in fleet.living().collect::<Vec<_>>().into_iter().rev() {
            let peers = service.peers.join(" and ");
            let calls = if peers.is_empty() { peers } else { format!("  calls {peers}") };
            writeln!(out, "{id:<12} http://{authority}{calls}")?;
        }
        let flag = if url == DEFAULT_URL { String::new() } else { format!(" --url {url}") };
        writeln!(out, "\ntry:")?;
        writeln!(out, "  curl -s {url}/v1/services/orders/instances")?;
        writeln!(out, "  rollcall events{flag} --follow --service orders")?;
        writeln!(
            out,
            "\nand once somebody has died, not knowing more than the name of a service:"
        )?;
        for line in Self::questions("orders", &flag) {
            writeln!(out, "  {line}")?;
        }
        writeln!(out)?;
        out.flush()?;
        let (handed, silent) = (HashMap::new(), HashSet::new());
        Ok(Self { began: Instant::now(), flag, handed, silent })
    }

    /// The two commands that lead from the name of a service to a failed call.
    fn questions(service: &str, flag: &str) -> [String; 2] {
        [format!("rollcall why {service}{flag}"), format!("rollcall impact {service}{flag}")]
    }

    /// Says what can still be asked when the demo has ended, of a registry that goes on.
    pub(super) fn end(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "\nthe registry remembers: what happened here can still be asked")?;
        let flag = &self.flag;
        for line in Self::questions("orders", flag) {
            writeln!(out, "  {line}")?;
        }
        writeln!(out, "  rollcall diff --from -5m{flag}\n  rollcall graph{flag}")?;
        out.flush()
    }

    /// Tells one happening.
    pub(super) fn tell(&mut self, out: &mut dyn Write, happening: &Happening) -> io::Result<()> {
        let Some(line) = self.line(happening) else { return Ok(()) };
        writeln!(out, "{:>7.1} s  {line}", self.began.elapsed().as_secs_f64())?;
        out.flush()
    }

    fn line(&mut self, happening: &Happening) -> Option<String> {
        Some(match happening {
            Happening::Killed { instance } => {
                self.handed.insert(instance.clone(), 0);
                self.silent.remove(instance);
                format!("killed       {instance}, without a word to the registry")
            }
            Happening::HandedDead { caller, instance, trace_id } => {
                let handed = self.handed.entry(instance.clone()).or_default();
                *handed += 1;
                if *handed > TOLD_MAX {
                    return None;
                }
                format!("failed call  {caller} to {instance}, which is dead; trace {trace_id}")
            }
            Happening::Expired { instance, after, event } => {
                let handed = self.handed.remove(instance).unwrap_or(0);
                let service = event.rest.get("service").and_then(Value::as_str).unwrap_or("orders");
                let [why, impact] = Self::questions(service, &self.flag);
                let data = |field: &str| event.rest.get("data").and_then(|data| data.get(field));
                let gap_ms = data("gap_ms").and_then(Value::as_u64).unwrap_or(0);
                let ttl = data("ttl").and_then(Value::as_str).unwrap_or("its ttl");
                let (id, after) = (&event.id, after.as_secs_f64());
                format!(
                    "expired      {instance}, {after:.1} s after its death: no heartbeat for {gap_ms} ms, ttl {ttl} \
                     (event {id}); {handed} calls met the dead one meanwhile\n\
                     {:>10} ask          {why}\n\
                     {:>10} ask          {impact}",
                    "", ""
                )
            }
            Happening::Registered { instance, authority, incarnation } => {
                self.handed.remove(instance);
                format!("registered   {instance} at {authority}, incarnation {incarnation}")
            }
            Happening::Silent { instance, why } => {
                let first = self.silent.is_empty();
                self.silent.insert(instance.clone());
                if !first {
                    return None;
                }
                format!("no answer    {why}")
            }
            Happening::Heard { instance } => {
                if !self.silent.remove(instance) || !self.silent.is_empty() {
                    return None;
                }
                "answers      the registry answers all members again".to_owned()
            }
            Happening::TakenOver { instance } => {
                format!(
                    "taken over   another process has registered as {instance}; is a second demo running?"
                )
            }
        })
    }

    /// Shows the figures since the start.
    pub(super) fn summary(&self, out: &mut dyn Write, fleet: &Fleet<'_>) -> io::Result<()> {
        let header =
            ["SERVICE", "ALIVE", "SERVED", "MEAN MS", "CALLS TO THE DEAD", "CALLS WITHOUT ADDRESS"];
        let mut table = table(&header);
        for service in SERVICES.iter().rev() {
            let alive = fleet.living().filter(|(of, _, _)| of.name == service.name).count();
            let figures = fleet.totals().of(service.name);
            let [served, micros, dead, unanswered] =
                [&figures.served, &figures.micros, &figures.dead, &figures.unanswered]
                    .map(|figure| figure.load(Relaxed));
            let mean = Duration::from_micros(micros / served.max(1)).as_secs_f64() * 1_000.0;
            table.add_row(vec![
                service.name.to_owned(),
                format!("{alive} of {}", service.members),
                served.to_string(),
                format!("{mean:.1}"),
                dead.to_string(),
                unanswered.to_string(),
            ]);
        }
        writeln!(out)?;
        write_table(out, &table)?;
        writeln!(out)?;
        out.flush()
    }
}
