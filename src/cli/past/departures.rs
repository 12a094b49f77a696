//! Whom a person means who knows only the name of a service: those who have left it, the newest first.
//!
//! Asked of the events, which know also those who left long ago. It chooses; the commands say whom it chose.

use std::io::{self, Write};

use super::event_line;
use crate::cli::{Error, Registry};
use crate::client::{Client, Event};

/// Departures of each kind that are looked at, and told.
const LOOKED_AT: usize = 10;

/// Those who have left a service, the newest first.
pub(super) struct Departures {
    service: String,
    events: Vec<Event>,
}

impl Departures {
    /// Asks for them.
    pub(super) async fn of(
        client: &Client,
        registry: &Registry,
        service: &str,
    ) -> Result<Self, Error> {
        let mut found = Vec::new();
        for kind in ["expired", "deregistered"] {
            let mut query = vec![
                ("service", service.to_owned()),
                ("kind", kind.to_owned()),
                ("order", "desc".to_owned()),
                ("limit", LOOKED_AT.to_string()),
            ];
            // Events are of all namespaces unless one is named; the other commands mean the default one.
            if registry.namespace.is_none() {
                query.push(("namespace", "default".to_owned()));
            }
            found.append(&mut client.events(&query).await?.events);
        }
        Ok(Self::among(service, found))
    }

    fn among(service: &str, mut events: Vec<Event>) -> Self {
        events.retain(|event| instance_of(event).is_some() && seq_of(event).is_some());
        events.sort_by_key(|event| std::cmp::Reverse(seq_of(event)));
        Self { service: service.to_owned(), events }
    }

    /// The newest expiry if there is one, else the newest departure: who said goodbye was taken from the lists at
    /// once, and nobody was misled for long. Every command chooses so, or two of them would tell of two instances.
    pub(super) fn newest(&self) -> Option<Departure<'_>> {
        let expired = self.events.iter().find(|event| event.kind == "expired");
        let chosen = expired.or(self.events.first())?;
        Some(Departure { event: chosen, instance: instance_of(chosen)?, seq: seq_of(chosen)? })
    }

    /// What to say when nobody has left.
    pub(super) fn nobody(&self) -> String {
        let service = &self.service;
        format!(
            "nobody has left {service}, as far as the log is kept; `rollcall instances {service}` lists who lives there"
        )
    }

    /// Says who was chosen, and who else it could have been.
    pub(super) fn tell(&self, errors: &mut dyn Write, chosen: &Departure<'_>) -> io::Result<()> {
        let Departure { event, instance, .. } = chosen;
        writeln!(
            errors,
            "{}: taking {instance}, which left last{} ({} at {}, event {})",
            self.service,
            if event.kind == "expired" { " without goodbye" } else { "" },
            event.kind,
            event.at,
            event.id
        )?;
        let others: Vec<&Event> =
            self.events.iter().filter(|event| event.id != chosen.event.id).collect();
        if others.is_empty() {
            return Ok(());
        }
        writeln!(errors, "others that have left:")?;
        for event in others.iter().take(LOOKED_AT) {
            let instance = instance_of(event).unwrap_or_default();
            writeln!(errors, "  {instance} {} at {} (--seq {})", event.kind, event.at, event.id)?;
        }
        writeln!(errors)
    }
}

/// A departure that was chosen.
pub(super) struct Departure<'a> {
    event: &'a Event,
    /// Who left.
    pub(super) instance: &'a str,
    /// The number of the change by which it left.
    pub(super) seq: u64,
}

fn instance_of(event: &Event) -> Option<&str> {
    event.rest.get("instance")?.as_str()
}

fn seq_of(event: &Event) -> Option<u64> {
    event.id.parse().ok()
}

/// The instance whose departure a change is; for a command that was given `--seq` and no instance.
pub(super) async fn instance_of_change(client: &Client, seq: u64) -> Result<String, Error> {
    let event = client.event(&seq.to_string()).await?.body;
    let instance = event.get("instance").and_then(serde_json::Value::as_str).map(str::to_owned);
    instance.ok_or_else(|| {
        Error::Usage(format!("--seq {seq} is no change of an instance: {}", event_line(&event)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, kind: &str, instance: &str) -> Event {
        let at = format!("2026-11-21T08:00:{id:0>2}.000000Z");
        serde_json::from_value(
            serde_json::json!({"id": id, "at": at, "kind": kind, "instance": instance}),
        )
        .unwrap()
    }

    #[test]
    fn the_newest_that_left_without_goodbye_is_chosen_and_the_others_are_told() {
        let events = vec![
            event("9", "expired", "orders-1"),
            event("41", "expired", "orders-2"),
            event("50", "deregistered", "orders-3"),
        ];
        let departures = Departures::among("orders", events);
        let chosen = departures.newest().unwrap();
        assert_eq!((chosen.instance, chosen.seq), ("orders-2", 41));
        let mut told = Vec::new();
        departures.tell(&mut told, &chosen).unwrap();
        let told = String::from_utf8(told).unwrap();
        let mut lines = told.lines();
        assert_eq!(
            lines.next(),
            Some(
                "orders: taking orders-2, which left last without goodbye (expired at 2026-11-21T08:00:41.000000Z, event 41)"
            )
        );
        assert!(told.contains("orders-3 deregistered at") && told.contains("(--seq 9)"), "{told}");
        let said_goodbye = Departures::among("orders", vec![event("50", "deregistered", "a")]);
        assert_eq!(said_goodbye.newest().unwrap().seq, 50);
        assert!(Departures::among("orders", Vec::new()).newest().is_none());
    }
}
