//! The past, asked again: what was answered then, what is different since, and why somebody left.

mod diff;
mod life;
mod script;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Answer, Options, Server, eventually};
use script::Script;

/// A path with one more parameter.
fn with(path: &str, parameter: &str) -> String {
    let sign = if path.contains('?') { '&' } else { '?' };
    format!("{path}{sign}{parameter}")
}

/// An answer that was given when it was the present.
struct Kept {
    path: String,
    status: u16,
    text: String,
    etag: String,
    seq: u64,
    /// When, by the registry's clock.
    at: String,
    is_instance: bool,
}

impl Kept {
    async fn ask(server: &Server, path: &str) -> Self {
        let at = server.now();
        let answer = server.send("GET", path, &[], None).await;
        let mut text = answer.text.clone();
        // The lease is of the present only.
        let is_instance = answer.json.get("lease").is_some();
        if is_instance {
            text.truncate(text.find(",\"lease\":").unwrap());
            text.push('}');
        } else if answer.status.is_client_error() {
            text = answer.json["type"].to_string();
        }
        Self {
            path: path.to_owned(),
            status: answer.status.as_u16(),
            text,
            etag: answer.header("etag").to_owned(),
            seq: answer.header("rollcall-seq").parse().unwrap(),
            at,
            is_instance,
        }
    }

    /// Asks the same again, of the past.
    async fn ask_again(&self, server: &Server, at: &str) {
        let path = with(&self.path, &format!("at={at}"));
        let answer = server.send("GET", &path, &[], None).await;
        let told = match answer.status.is_client_error() {
            true => answer.json["type"].to_string(),
            false => answer.text.clone(),
        };
        assert_eq!((answer.status.as_u16(), told), (self.status, self.text.clone()), "{path}");
        if !self.is_instance {
            assert_eq!(answer.header("etag"), self.etag, "{path}");
        }
        if self.status == 200 {
            let seq: u64 = answer.header("rollcall-seq").parse().unwrap();
            assert!(seq == self.seq || !at.starts_with('@'), "{path}: {seq}, was {}", self.seq);
        }
        let etag = answer.header("etag");
        if !etag.is_empty() && at.starts_with('@') {
            let held = server.send("GET", &path, &[("if-none-match", etag)], None).await;
            assert_eq!((held.status.as_u16(), held.text.as_str()), (304, ""), "{path}");
        }
    }

    /// Whether `at=` this instant means the version that was answered: no change of that service, or for a list of any,
    /// that this answer had not seen, has the same time or an earlier one.
    fn is_of_its_instant(&self, changes: &[Vec<Value>]) -> bool {
        let service = self.path.split('?').next().unwrap().split('/').nth(3);
        let (namespace, seq) = (self.path.contains("namespace=staging"), self.seq);
        changes.iter().all(|change| {
            let same_service = service.is_none_or(|service| {
                change[2] == service && (change[3] == "staging") == namespace
            });
            !same_service || change[0].as_u64() <= Some(seq) || change[1].as_str() > Some(&self.at)
        })
    }
}

/// Everything that was answered is answered again, to the byte: by version, by time and by age, before and after
/// a restart; and asking leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn the_past_answers_what_it_answered() {
    for seed in 1..=2 {
        let data = TempDir::new().unwrap();
        // How many are late at once depends on how fast the machine is.
        let lines = &["the guard over"];
        let at = || Options { data: Some(data.path().to_owned()), lines, ..Options::default() };
        let server = Server::start_with(at()).await;
        let mut script = Script::of(seed);
        let mut kept = Vec::new();
        for _ in 0..100 {
            script.step(&server).await;
            for path in script.questions() {
                kept.push(Kept::ask(&server, &path).await);
            }
            server.advance(1);
        }
        // What the registrar had begun at an earlier instant is in the log once this is.
        server.register("settled", "1", "24h").await;
        let changes =
            server.sql("SELECT seq, at, service, namespace FROM events WHERE id NOT LIKE 't%'");
        let lookups = async || server.sql("SELECT id FROM events WHERE kind = 'lookup'").len();
        let asked = kept.len();
        eventually("all lookups are in the log", lookups, |found| *found == asked).await;
        let counted = server.page().await.sum("rollcall_lookups_total", &[]);

        let mut by_time = 0;
        for answer in &kept {
            answer.ask_again(&server, &format!("@{}", answer.seq)).await;
            if answer.is_of_its_instant(&changes) {
                answer.ask_again(&server, &answer.at).await;
                answer.ask_again(&server, &format!("-{}ms", server.millis_since(&answer.at))).await;
                by_time += 1;
            }
        }
        assert!(by_time * 2 > kept.len(), "seed {seed}: only {by_time} of {asked} by time");
        // Whether a guard is entered is up to the seed.
        let kinds = server.sql(
            "SELECT DISTINCT kind FROM events WHERE service IS NOT NULL AND kind NOT LIKE 'guard%'",
        );
        // One of heartbeats, lookups, registrations, patches of both kinds, statuses, signals, goodbyes, expiries.
        assert_eq!(kinds.len(), 9, "seed {seed}: the script left something out: {kinds:?}");
        assert_eq!(server.page().await.sum("rollcall_lookups_total", &[]), counted);
        // What comes after the questions in the log comes after all that they could have left there.
        server.call("GET", "/v1/services/witness/instances", None).await;
        eventually("the witness is in the log", lookups, |found| *found > asked).await;
        assert_eq!(
            lookups().await,
            asked + 1,
            "seed {seed}: a question about the past left an event"
        );
        server.stop().await;

        let server = Server::start_with(at()).await;
        for answer in &kept {
            answer.ask_again(&server, &format!("@{}", answer.seq)).await;
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_everything_there_was_nothing() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    for at in ["@0", "@2", "2020-01-01T00:00:00Z", "-24h"] {
        for path in ["/v1/services/orders/instances", "/v1/services/orders/instances/orders-1"] {
            let answer = server.send("GET", &with(path, &format!("at={at}")), &[], None).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.json["type"]),
                (404, &json!("/problems/unknown-service")),
                "{path} {at}"
            );
        }
        let list = server.send("GET", &format!("/v1/services?at={at}"), &[], None).await;
        assert_eq!(list.text, r#"{"services":[],"next":null}"#, "{at}");
    }
    let path = "/v1/services/orders/instances/orders-2?at=@3";
    let (status, problem) = server.call("GET", path, None).await;
    assert_eq!((status.as_u16(), &problem["type"]), (404, &json!("/problems/unknown-instance")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_one_list_are_of_one_version() {
    let server = Server::start().await;
    for service in ["a", "b", "c", "d"] {
        server.register(service, "1", "24h").await;
    }
    server.advance(1_000);
    let names = |page: &Answer| -> Vec<String> {
        let rows = page.json["services"].as_array().unwrap().iter();
        rows.map(|row| row["service"].as_str().unwrap().to_owned()).collect()
    };
    let first = server.send("GET", "/v1/services?limit=2&at=-1s", &[], None).await;
    assert_eq!((names(&first), first.header("rollcall-seq")), (vec!["a".into(), "b".into()], "6"));
    // By the clock, the second page would be of another instant, in which there is one service more.
    server.register("bb", "1", "24h").await;
    server.advance(60_000);
    let next = first.json["next"].as_str().unwrap();
    let ask =
        async |query: &str| server.send("GET", &format!("/v1/services?{query}"), &[], None).await;
    let second = ask(&format!("limit=2&at=-1s&cursor={next}")).await;
    assert_eq!(
        (names(&second), second.header("rollcall-seq")),
        (vec!["c".into(), "d".into()], "6")
    );
    assert_eq!(second.json["next"], Value::Null);

    let live = ask("limit=2").await.json["next"].as_str().unwrap().to_owned();
    for (query, what) in [
        (format!("cursor={next}"), "a cursor of the past in the present"),
        (format!("at=-1s&cursor={live}"), "a cursor of the present in the past"),
        (format!("at=@7&cursor={next}"), "a cursor of another version"),
    ] {
        let answer = ask(&query).await;
        assert_eq!(answer.status.as_u16(), 400, "{what}");
        assert_eq!(answer.json["type"], "/problems/invalid-cursor", "{what}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_asked_of_the_past_is_named() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    let list = "/v1/services/orders/instances";
    let instance = "/v1/services/orders/instances/orders-1";
    for path in [list, instance, "/v1/services"] {
        for (at, status) in [
            ("yesterday", 400),
            ("@", 400),
            ("@-1", 400),
            ("", 400),
            ("@4", 422),
            ("@18446744073709551615", 422),
            ("2026-11-21T08:00:00.000001Z", 422),
        ] {
            let answer = server.send("GET", &with(path, &format!("at={at}")), &[], None).await;
            assert_eq!(answer.status.as_u16(), status, "{path} {at}: {}", answer.text);
            assert_eq!(answer.json["errors"][0]["field"], "at", "{path} {at}");
        }
    }
    let leases = server.send("GET", &format!("{list}?at=@3&include=lease"), &[], None).await;
    let told = (leases.status.as_u16(), &leases.json["errors"][0]["field"]);
    assert_eq!(told, (422, &json!("include")), "{}", leases.text);
    let loads = server.send("GET", &format!("{list}?at=@3&order=load"), &[], None).await;
    let told = (loads.status.as_u16(), &loads.json["errors"][0]["field"]);
    assert_eq!(told, (422, &json!("order")), "{}", loads.text);
    // Nobody waits for the past, and each parameter is refused once.
    let waits = server.send("GET", &format!("{list}?at=@3&after=3&wait=1s"), &[], None).await;
    let errors = waits.json["errors"].as_array().unwrap();
    let named: Vec<&Value> = errors.iter().map(|error| &error["field"]).collect();
    assert_eq!((waits.status.as_u16(), named), (422, vec![&json!("after"), &json!("wait")]));
    server.stop().await;
}
