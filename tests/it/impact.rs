//! Who was handed a dead instance: against an oracle that has seen nothing but the answers themselves.
//!
//! Random outages: instances come, beat, change, fall silent and leave, while callers look them up in every way there
//! is. The test writes down who was handed whom, body by body, and what the answer of `/v1/impact` must be follows
//! from that alone. `ROLLCALL_TEST_SEED` runs one seed, `ROLLCALL_TEST_RUNS` so many of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fastrand::Rng;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Answer, Options, START, Server, eventually};

/// Runs, each on a registry of its own, with two dozen outages or so.
const RUNS: u64 = 6;

/// Steps of one run.
const STEPS: usize = 500;

const SERVICES: [&str; 2] = ["orders", "carts"];
const INSTANCES: [&str; 4] = ["one", "two", "three", "four"];
const CALLERS: [&str; 5] = ["web", "web/web-2", "batch", "admin", "curl"];

/// Filters that tell instances apart in every way, and some that switch the tiers off.
const FILTERS: [&str; 14] = [
    "",
    "",
    "",
    "tag=a",
    "tag=a&tag=b",
    "zone=east",
    "zone=west&tag=b",
    "status=any",
    "status=unstable",
    "mode=draining",
    "meta.env=prod",
    "version=2&include=lease",
    "order=load",
    "tag=b&order=load",
];

/// One life of one instance: service, instance, incarnation.
type Life = (String, String, u64);

/// What the last sign of life of a life was: after how many steps, of which kind, in which trace.
type Sign = (usize, &'static str, String);

/// One answer, as far as the oracle understands it.
#[derive(Debug)]
struct Seen {
    step: usize,
    service: &'static str,
    caller: &'static str,
    at: String,
    /// The version that it says it is of.
    seq: u64,
    status: u16,
    trace_id: String,
    span_id: String,
    /// Whose lives its caller holds with it.
    lives: BTreeSet<Life>,
    /// The only instance that it is about.
    only: Option<&'static str>,
}

#[derive(Default)]
struct Oracle {
    step: usize,
    elapsed: u64,
    traffic: usize,
    /// The life that was last begun under each name.
    living: HashMap<(String, String), u64>,
    signs: BTreeMap<Life, Sign>,
    answers: Vec<Seen>,
    /// What an etag stands for.
    lists: HashMap<(String, String), BTreeSet<Life>>,
    etags: Vec<(String, &'static str, String)>,
}

fn instant(elapsed_ms: u64) -> String {
    let micros = START.0 + i64::try_from(elapsed_ms).unwrap() * 1_000;
    rollcall::rfc3339::format(rollcall::domain::Timestamp(micros))
}

fn ids(answer: &Answer) -> (String, String) {
    let response = answer.header("traceresponse");
    (response[3..35].to_owned(), response[36..52].to_owned())
}

fn pick<T: Copy>(rng: &mut Rng, among: &[T]) -> T {
    among[rng.usize(..among.len())]
}

/// A question that a caller asks.
#[derive(Clone)]
struct Question {
    caller: &'static str,
    service: &'static str,
    path: String,
    only: Option<&'static str>,
    etag: Option<String>,
    filter: String,
    discovery: bool,
}

impl Question {
    fn random(rng: &mut Rng, oracle: &Oracle) -> Self {
        let (caller, service) = (pick(rng, &CALLERS), pick(rng, &SERVICES));
        let mut question = Self {
            caller,
            service,
            path: String::new(),
            only: None,
            etag: None,
            filter: String::new(),
            discovery: false,
        };
        match rng.u8(..10) {
            0 => {
                let instance = pick(rng, &INSTANCES);
                question.path = format!("/v1/services/{service}/instances/{instance}");
                question.only = Some(instance);
            }
            1 => {
                question.path = pick(
                    rng,
                    &["/v1/sd/prometheus", "/v1/sd/prometheus?tag=a", "/v1/sd/prometheus?service="],
                )
                .to_owned();
                if question.path.ends_with('=') {
                    question.path += service;
                }
                question.discovery = true;
            }
            2 => question.path = pick(rng, &["/v1/services", "/v1/namespaces"]).to_owned(),
            3 | 4 if !oracle.etags.is_empty() => {
                let (filter, service, etag) = oracle.etags
                    [oracle.etags.len() - 1 - rng.usize(..oracle.etags.len().min(8))]
                .clone();
                question.service = service;
                question.path = format!("/v1/services/{service}/instances?{filter}");
                question.filter = filter;
                question.etag = Some(etag);
            }
            _ => {
                let filter = pick(rng, &FILTERS);
                question.path = format!("/v1/services/{service}/instances?{filter}");
                question.filter = filter.to_owned();
            }
        }
        question
    }
}

async fn ask(server: &Server, question: &Question) -> Answer {
    let mut headers = vec![("rollcall-caller", question.caller)];
    headers.extend(question.etag.as_deref().map(|etag| ("if-none-match", etag)));
    server.send("GET", &question.path, &headers, None).await
}

impl Oracle {
    fn life(&self, service: &str, instance: &str) -> Option<Life> {
        let incarnation = self.living.get(&(service.to_owned(), instance.to_owned()))?;
        Some((service.to_owned(), instance.to_owned(), *incarnation))
    }

    fn sign(&mut self, life: Life, kind: &'static str, answer: &Answer) {
        self.signs.insert(life, (self.step, kind, ids(answer).0));
    }

    /// Writes down what an answer handed out.
    fn note(&mut self, question: &Question, answer: &Answer) {
        self.traffic += 1;
        let life = |item: &Value| -> Life {
            let text = |name: &str| item[name].as_str().unwrap().to_owned();
            (text("service"), text("instance"), item["incarnation"].as_u64().unwrap())
        };
        let lives: BTreeSet<Life> = match (answer.status, question.only) {
            (StatusCode::NOT_MODIFIED, _) => {
                let etag = answer.header("etag").to_owned();
                self.lists[&(question.service.to_owned(), etag)].clone()
            }
            (StatusCode::OK, Some(_)) => BTreeSet::from([life(&answer.json)]),
            (StatusCode::OK, None) if question.discovery => {
                let labels = answer.json.as_array().unwrap().iter().map(|group| &group["labels"]);
                let name = |labels: &Value, of: &str| {
                    labels[format!("__meta_rollcall_{of}")].as_str().unwrap().to_owned()
                };
                labels
                    .filter_map(|l| self.life(&name(l, "service"), &name(l, "instance")))
                    .collect()
            }
            (StatusCode::OK, None) => {
                let items = answer.json["instances"].as_array();
                items.into_iter().flatten().map(life).collect()
            }
            _ => BTreeSet::new(),
        };
        if !answer.header("etag").is_empty() && answer.status == 200 {
            let etag = answer.header("etag").to_owned();
            self.lists.insert((question.service.to_owned(), etag.clone()), lives.clone());
            self.etags.push((question.filter.clone(), question.service, etag));
        }
        // Lists of names hand out nobody, and tell nobody who has left.
        if question.path == "/v1/services" || question.path == "/v1/namespaces" {
            return;
        }
        let (trace_id, span_id) = ids(answer);
        let services: &[&'static str] =
            match question.discovery && !question.path.contains("service=") {
                true => &SERVICES,
                false => &[question.service],
            };
        for service in services {
            self.answers.push(Seen {
                step: self.step,
                service,
                caller: question.caller,
                at: instant(self.elapsed),
                seq: answer.header("rollcall-seq").parse().unwrap(),
                status: answer.status.as_u16(),
                trace_id: trace_id.clone(),
                span_id: span_id.clone(),
                lives: lives.iter().filter(|life| life.0 == **service).cloned().collect(),
                only: question.only,
            });
        }
    }

    /// What the answer must be for the departure `seq` of `life`.
    fn expected(&self, life: &Life, seq: u64) -> Vec<Value> {
        let (step, ..) = &self.signs[life];
        let mut callers: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
        for seen in &self.answers {
            if seen.step > *step && seen.lives.contains(life) {
                callers.entry(seen.caller).or_default().push(seen);
            }
        }
        let mut expected: Vec<Value> = callers
            .into_iter()
            .map(|(caller, handed)| {
                let told = self.answers.iter().find(|seen| {
                    let about = seen.service == life.0 && seen.only.is_none_or(|o| o == life.1);
                    about && seen.caller == caller && seen.seq >= seq && seen.step >= *step
                });
                let count = |status| handed.iter().filter(|seen| seen.status == status).count();
                let mut traces: Vec<Value> = handed
                    .iter()
                    .map(|s| json!([s.at, s.trace_id, s.span_id, s.status, s.seq]))
                    .collect();
                traces.sort_by_key(Value::to_string);
                json!({
                    "caller": caller, "lookups": count(200), "confirmations": count(304),
                    "first": handed[0].at, "last": handed[handed.len() - 1].at,
                    "held_until": told.map(|seen| &seen.at), "traces": traces,
                })
            })
            .collect();
        expected.sort_by_key(|caller| (caller["first"].to_string(), caller["caller"].to_string()));
        expected
    }
}

/// What the registry says, in the oracle's words.
fn told(impact: &Value) -> Vec<Value> {
    let callers = impact["callers"].as_array().unwrap().iter();
    callers
        .map(|caller| {
            let mut caller = caller.clone();
            let traces = caller["traces"].as_array().unwrap().iter();
            let mut traces: Vec<Value> = traces
                .map(|t| json!([t["at"], t["trace_id"], t["span_id"], t["status"], t["revision"]]))
                .collect();
            traces.sort_by_key(Value::to_string);
            caller["traces"] = traces.into();
            caller
        })
        .collect()
}

async fn register(server: &Server, rng: &mut Rng, oracle: &mut Oracle) {
    let (service, instance) = (pick(rng, &SERVICES), pick(rng, &INSTANCES));
    let mut tags = vec!["a", "b"];
    tags.retain(|_| rng.bool());
    let mut body = json!({
        "address": "10.0.0.7", "port": if rng.u8(..4) == 0 { 81 } else { 80 }, "ttl": "15s", "tags": tags,
        "zone": pick(rng, &["east", "west"]), "version": pick(rng, &["1", "2"]),
        "metadata": {"env": pick(rng, &["prod", "test"])},
    });
    if rng.u8(..4) == 0 {
        body["mode"] = pick(rng, &["active", "standby", "draining"]).into();
    }
    let path = format!("/v1/services/{service}/instances/{instance}");
    let answer = server.send("PUT", &path, &[], Some(body)).await;
    assert!(answer.status.is_success(), "{}", answer.text);
    let incarnation = answer.json["incarnation"].as_u64().unwrap();
    oracle.living.insert((service.to_owned(), instance.to_owned()), incarnation);
    let life = oracle.life(service, instance).unwrap();
    oracle.sign(life, "registered", &answer);
}

async fn beat(server: &Server, rng: &mut Rng, oracle: &mut Oracle) {
    let (service, instance) = (pick(rng, &SERVICES), pick(rng, &INSTANCES));
    let path = format!("/v1/services/{service}/instances/{instance}/heartbeat");
    let body = match rng.u8(..12) {
        0 => json!({"health": "failing"}),
        1 | 2 => json!({"health": "passing"}),
        _ => json!({}),
    };
    let answer = server.send("PUT", &path, &[], Some(body)).await;
    if answer.status == 200 {
        oracle.traffic += 1;
        let life = oracle.life(service, instance).unwrap();
        oracle.sign(life, "heartbeat", &answer);
    }
}

async fn patch(server: &Server, rng: &mut Rng) {
    let (service, instance) = (pick(rng, &SERVICES), pick(rng, &INSTANCES));
    let path = format!("/v1/services/{service}/instances/{instance}");
    let body = match rng.u8(..4) {
        0 => json!({"mode": pick(rng, &["active", "standby", "draining"])}),
        1 => json!({"weight": pick(rng, &[0, 0, 100])}),
        2 => json!({"tags": pick(rng, &[&["a"][..], &["b"], &["a", "b"], &[]])}),
        _ => json!({"metadata": {"env": pick(rng, &["prod", "test"])}}),
    };
    server.call("PATCH", &path, Some(body)).await;
}

/// Lookups at the same time, one of several things happening meanwhile: what they were handed tells which came first.
async fn burst(server: &Server, rng: &mut Rng, oracle: &mut Oracle) {
    let (service, instance) = (pick(rng, &SERVICES), pick(rng, &INSTANCES));
    let questions: Vec<Question> = (0..6)
        .map(|_| Question::random(rng, oracle))
        .filter(|question| !question.discovery)
        .collect();
    let mut lookups = JoinSet::new();
    for question in questions {
        let (http, url) = (server.http.clone(), server.url.clone());
        lookups.spawn(async move {
            let mut request = http.get(format!("{url}{}", question.path));
            request = request.header("rollcall-caller", question.caller);
            if let Some(etag) = &question.etag {
                request = request.header("if-none-match", etag);
            }
            let response = request.send().await.unwrap();
            let (status, headers) = (response.status(), response.headers().clone());
            let text = response.text().await.unwrap();
            let json = serde_json::from_str(&text).unwrap_or(Value::Null);
            (question, Answer { status, headers, text, json })
        });
    }
    let path = format!("/v1/services/{service}/instances/{instance}");
    server.call("DELETE", &path, None).await;
    for (question, answer) in lookups.join_all().await {
        oracle.note(&question, &answer);
    }
}

/// The departures that the log knows: number and life.
async fn departures(server: &Server) -> Vec<(u64, Life)> {
    let mut found = Vec::new();
    for kind in ["expired", "deregistered"] {
        let path = format!("/v1/events?kind={kind}&limit=1000");
        let (_, page) = server.call("GET", &path, None).await;
        assert_eq!(page["next"], Value::Null);
        for event in page["events"].as_array().unwrap() {
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            let (service, instance) = (text("service"), text("instance"));
            let seq = event["seq"].as_u64().unwrap();
            // The cause of an expiry may be the end of a guard; the last life that began before it is the one that ended.
            let began = server.sql(&format!(
                "SELECT max(json_extract(data, '$.instance.incarnation')) FROM events WHERE kind = 'registered' \
                 AND service = '{service}' AND instance = '{instance}' AND seq < {seq}"
            ));
            let began = began[0][0].as_u64().unwrap();
            if event["cause"].as_u64() != Some(began) {
                let cause =
                    server.call("GET", &format!("/v1/events/{}", event["cause"]), None).await.1;
                assert_eq!(cause["kind"], "guard_left", "{event}");
            }
            found.push((seq, (service, instance, began)));
        }
    }
    found
}

/// One run; gives how many outages it had and how many answers had handed out the dead.
async fn run(seed: u64) -> (usize, usize) {
    let server =
        Server::start_with(Options { lines: &["the guard over "], ..Options::default() }).await;
    let (mut rng, mut oracle) = (Rng::with_seed(seed), Oracle::default());
    for step in 0..STEPS {
        oracle.step = step;
        match rng.u8(..100) {
            0..12 => register(&server, &mut rng, &mut oracle).await,
            12..32 => beat(&server, &mut rng, &mut oracle).await,
            32..40 => patch(&server, &mut rng).await,
            40..43 => burst(&server, &mut rng, &mut oracle).await,
            43..58 => {
                let millis = rng.u64(1..4_000);
                oracle.elapsed += millis;
                server.advance(millis);
            }
            _ => {
                let question = Question::random(&mut rng, &oracle);
                oracle.note(&question, &ask(&server, &question).await);
            }
        }
    }
    let status = async || server.call("GET", "/v1/status", None).await.1["traffic_head"].clone();
    eventually("all traffic is in the log", status, |head| *head == json!(oracle.traffic)).await;

    let (mut outages, mut handed) = (0, 0);
    for (seq, life) in departures(&server).await {
        let path = format!("/v1/impact?seq={seq}&limit=10000");
        let (status, impact) = server.call("GET", &path, None).await;
        assert_eq!(status, 200, "{impact}");
        let expected = oracle.expected(&life, seq);
        assert_eq!(
            json!(told(&impact)),
            json!(expected),
            "seed {seed}, departure {seq} of {life:?}"
        );
        let (_, kind, trace_id) = &oracle.signs[&life];
        let sign = &impact["last_sign_of_life"];
        assert_eq!(
            (&sign["kind"], &sign["trace_id"]),
            (&json!(kind), &json!(trace_id)),
            "seed {seed}, departure {seq} of {life:?}"
        );
        assert_eq!(impact["instance"]["incarnation"], life.2);
        assert_eq!((&impact["complete"], &impact["missing"]), (&json!(true), &Value::Null));
        outages += 1;
        handed += expected.iter().map(|c| c["traces"].as_array().unwrap().len()).sum::<usize>();
    }
    server.stop().await;
    (outages, handed)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_that_handed_out_the_dead_is_found_and_no_other() {
    let given = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds: Vec<u64> = match given("ROLLCALL_TEST_SEED") {
        Some(seed) => vec![seed],
        None => (0..given("ROLLCALL_TEST_RUNS").unwrap_or(RUNS)).collect(),
    };
    let (mut outages, mut handed) = (0, 0);
    for seed in &seeds {
        let (more_outages, more_handed) = run(*seed).await;
        outages += more_outages;
        handed += more_handed;
    }
    // Nothing is shown by runs in which nothing happened.
    assert!(outages >= 15 * seeds.len(), "only {outages} outages");
    assert!(handed >= 15 * seeds.len(), "only {handed} answers handed out the dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_can_t_be_answered_says_why() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    server.register("orders", "orders-2", "15s").await;
    server.call("DELETE", "/v1/services/orders/instances/orders-2", None).await;
    for (query, status, problem, field) in [
        ("", 422, "invalid-fields", "service"),
        ("instance=orders-2", 422, "invalid-fields", "service"),
        ("service=web", 404, "no-departure", ""),
        ("service=orders&instance=a/b", 422, "invalid-fields", "instance"),
        ("service=orders&instance=orders-2&limit=0", 422, "invalid-fields", "limit"),
        ("seq=x", 400, "invalid-request", "seq"),
        ("seq=0", 400, "invalid-request", "seq"),
        ("instanze=a", 400, "invalid-request", "instanze"),
        ("seq=3", 422, "invalid-fields", "seq"),
        ("seq=5&instance=orders-1", 422, "invalid-fields", "seq"),
        ("seq=5&namespace=shop", 422, "invalid-fields", "seq"),
        ("seq=99", 404, "unknown-event", ""),
        ("seq=18446744073709551615", 404, "unknown-event", ""),
        ("service=orders&instance=orders-1", 404, "no-departure", ""),
        ("service=orders&instance=orders-3", 404, "no-departure", ""),
    ] {
        let (found, body) = server.call("GET", &format!("/v1/impact?{query}"), None).await;
        assert_eq!(
            (found.as_u16(), &body["type"]),
            (status, &json!(format!("/problems/{problem}"))),
            "{query}: {body}"
        );
        assert_eq!(body["errors"][0]["field"].as_str().unwrap_or(""), field, "{query}: {body}");
    }
    let (_, lives) = server.call("GET", "/v1/impact?service=orders&instance=orders-1", None).await;
    assert!(lives["detail"].as_str().unwrap().starts_with("it lives"));
    for query in ["seq=5", "service=orders&instance=orders-2", "seq=5&service=orders"] {
        let (status, impact) = server.call("GET", &format!("/v1/impact?{query}"), None).await;
        assert_eq!((status.as_u16(), &impact["departure"]["id"]), (200, &json!("5")), "{query}");
        assert_eq!((&impact["callers"], &impact["lookups"]), (&json!([]), &json!(0)));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_traces_than_asked_for_and_where_to_see_them() {
    let server = Server::start().await;
    let incarnation = server.register("orders", "orders-1", "15s").await["incarnation"].clone();
    for _ in 0..5 {
        assert_eq!(server.offered("orders").await, ["orders-1"]);
    }
    server.call("DELETE", "/v1/services/orders/instances/orders-1?reason=scale-in", None).await;
    let path = "/v1/impact?service=orders&instance=orders-1&limit=3";
    let ask = async || server.call("GET", path, None).await.1;
    let impact = eventually("the lookups are in the log", ask, |found| found["lookups"] == 5).await;
    let caller = &impact["callers"][0];
    assert_eq!((&caller["lookups"], &caller["held_until"]), (&json!(5), &Value::Null));
    let traces = caller["traces"].as_array().unwrap();
    let ids: Vec<&str> = traces.iter().map(|trace| trace["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["t1", "t2", "t3"], "the first ones");
    // Without spans there is nowhere to look at them.
    assert_eq!(traces[0]["trace_url"], Value::Null);
    assert_eq!(impact["departure"]["data"], json!({"reason": "scale-in"}));
    assert_eq!(impact["instance"]["incarnation"], incarnation);
    server.stop().await;
}
