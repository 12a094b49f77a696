//! What is different between two versions, held against two answers of the past compared field by field.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::script::{SERVICES, Script};
use crate::harness::Server;

/// Namespace, service, instance.
type Who = (String, String, String);

fn who(value: &Value) -> Who {
    let name = |field: &str| value[field].as_str().unwrap().to_owned();
    (name("namespace"), name("service"), name("instance"))
}

/// Everybody who lived at a version, as the lookups of then tell.
async fn everybody(server: &Server, at: u64) -> BTreeMap<Who, Value> {
    let mut found = BTreeMap::new();
    for (namespace, service) in SERVICES {
        let path =
            format!("/v1/services/{service}/instances?namespace={namespace}&status=any&at=@{at}");
        let (_, answer) = server.call("GET", &path, None).await;
        let instances = answer["instances"].as_array().cloned().unwrap_or_default();
        found.extend(instances.into_iter().map(|instance| (who(&instance), instance)));
    }
    found
}

/// The fields of the contract that differ.
fn fields(before: &Value, after: &Value) -> Value {
    let mut fields = Map::new();
    for name in ["protocol", "version", "zone", "weight", "tags", "mode", "status", "ttl"] {
        if before[name] != after[name] {
            fields.insert(name.to_owned(), json!([before[name], after[name]]));
        }
    }
    let metadata = [before, after].map(|instance| instance["metadata"].as_object().unwrap());
    for key in metadata.iter().flat_map(|metadata| metadata.keys()) {
        let [before, after] = metadata.map(|m| m.get(key).cloned().unwrap_or_default());
        if before != after {
            fields.insert(format!("metadata.{key}"), json!([before, after]));
        }
    }
    Value::Object(fields)
}

/// The changes of the log: number, kind, whom, incarnation (where the event says), effect.
async fn changes(server: &Server) -> Vec<(u64, String, Who, Value)> {
    let rows = server.sql(
        "SELECT seq, kind, namespace, service, instance, data FROM events \
         WHERE id NOT LIKE 't%' AND instance IS NOT NULL ORDER BY seq",
    );
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let read = |row: &Vec<Value>| {
        let who = (text(&row[2]), text(&row[3]), text(&row[4]));
        let data = serde_json::from_str(row[5].as_str().unwrap()).unwrap();
        (row[0].as_u64().unwrap(), text(&row[1]), who, data)
    };
    rows.iter().map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_are_those_of_the_two_answers() {
    let server = Server::start().await;
    let mut script = Script::of(7);
    for _ in 0..150 {
        script.step(&server).await;
    }
    let changes = changes(&server).await;
    let head = changes.last().unwrap().0;
    let mut random = fastrand::Rng::with_seed(7);
    let (mut came, mut left, mut changed, mut passed) = (0, 0, 0, 0);
    for _ in 0..40 {
        let from = random.u64(0..=head);
        let to = random.u64(from..=head.min(from + 40));
        let [before, after] = [everybody(&server, from).await, everybody(&server, to).await];
        let path = format!("/v1/diff?from=@{from}&to=@{to}");
        let (status, diff) = server.call("GET", &path, None).await;
        assert_eq!(status, 200, "{diff}");
        assert_eq!((&diff["from"]["seq"], &diff["to"]["seq"]), (&json!(from), &json!(to)));
        let rows = |field: &str| diff[field].as_array().unwrap().clone();
        let life = |instances: &BTreeMap<Who, Value>, who: &Who| {
            instances.get(who).map(|instance| instance["incarnation"].as_u64().unwrap())
        };
        let moved = |of: &BTreeMap<Who, Value>, not_in: &BTreeMap<Who, Value>| -> BTreeSet<Who> {
            of.keys().filter(|who| life(of, who) != life(not_in, who)).cloned().collect()
        };

        assert_eq!(rows("came").iter().map(who).collect::<BTreeSet<_>>(), moved(&after, &before));
        for mut row in rows("came") {
            let event = row.as_object_mut().unwrap().remove("event").unwrap();
            assert_eq!(row, after[&who(&row)], "{path}");
            assert_eq!(
                (&event["seq"], &event["kind"]),
                (&row["incarnation"], &json!("registered"))
            );
            came += 1;
        }
        let gone: BTreeSet<Who> = rows("left").iter().map(|row| who(&row["instance"])).collect();
        assert_eq!(gone, moved(&before, &after), "{path}");
        for row in rows("left") {
            let who = who(&row["instance"]);
            assert_eq!(row["instance"], before[&who], "{path}");
            // The first change after `from` that ended a life of it.
            let ends = |(seq, kind, of, data): &&(u64, String, Who, Value)| {
                let replaced =
                    kind == "registered" && data["instance"]["incarnation"] == json!(*seq);
                *seq > from
                    && *of == who
                    && (kind == "expired" || kind == "deregistered" || replaced)
            };
            let (seq, kind, ..) = changes.iter().find(ends).unwrap();
            let told = (&row["event"]["seq"], &row["event"]["kind"], &row["event"]["instance"]);
            assert_eq!(told, (&json!(seq), &json!(kind), &json!(who.2)), "{path}");
            left += 1;
        }
        let mut expected = BTreeMap::new();
        let mut reverted = 0;
        for (who, was) in &before {
            let Some(is) = after.get(who).filter(|is| is["incarnation"] == was["incarnation"])
            else {
                continue;
            };
            if fields(was, is) != json!({}) {
                expected.insert(who.clone(), fields(was, is));
            } else if was["revision"] != is["revision"] {
                reverted += 1;
            }
        }
        let told = rows("changed").iter().map(|row| (who(row), row["fields"].clone())).collect();
        assert_eq!(expected, told, "{path}");
        assert_eq!(diff["reverted"], reverted, "{path}");
        for row in rows("changed") {
            let touched = changes.iter().filter(|(seq, _, of, data)| {
                let nothing = data["outcome"] == "unchanged"
                    || (!data["from"].is_null() && data["from"] == data["to"]);
                (from + 1..=to).contains(seq) && *of == who(&row) && !nothing
            });
            let ids: Vec<String> = touched.map(|(seq, ..)| seq.to_string()).collect();
            assert_eq!(row["events"], json!(ids), "{path}");
            changed += 1;
        }
        let begun = changes.iter().filter(|(seq, kind, _, data)| {
            let begins = kind == "registered" && data["instance"]["incarnation"] == json!(seq);
            (from + 1..=to).contains(seq) && begins
        });
        assert_eq!(diff["passed"], begun.count() - rows("came").len(), "{path}");
        passed += diff["passed"].as_u64().unwrap();
        narrower(&server, &path, &diff).await;
    }
    assert!(
        came > 20 && left > 20 && changed > 10 && passed > 10,
        "{came} {left} {changed} {passed}"
    );
    server.stop().await;
}

/// Asked of one namespace or service, the same without the others.
async fn narrower(server: &Server, path: &str, whole: &Value) {
    for (query, namespace, service) in [
        ("namespace=staging&service=orders", Some("staging"), Some("orders")),
        ("service=orders", None, Some("orders")),
        ("namespace=default", Some("default"), None),
    ] {
        let (_, part) = server.call("GET", &format!("{path}&{query}"), None).await;
        for list in ["came", "left", "changed"] {
            let rows = whole[list].as_array().unwrap().iter();
            let expected: Vec<&Value> = rows
                .filter(|row| {
                    let of = if list == "left" { &row["instance"] } else { *row };
                    namespace.is_none_or(|namespace| of["namespace"] == namespace)
                        && service.is_none_or(|service| of["service"] == service)
                })
                .collect();
            assert_eq!(part[list], json!(expected), "{path}&{query}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_it_is_told() {
    let server = Server::start().await;
    let path = "/v1/services/orders/instances/orders-1";
    server.register("orders", "orders-1", "15s").await;
    server.register("orders", "orders-2", "15s").await;
    server.advance(1_000);
    server.call("PATCH", path, Some(json!({"weight": 50}))).await;
    server.call("PATCH", path, Some(json!({"metadata": {"env": "prod"}}))).await;
    let bye = "/v1/services/orders/instances/orders-2?reason=scale-in";
    server.call("DELETE", bye, None).await;
    server.register("orders", "orders-3", "15s").await;
    let (_, diff) = server.call("GET", "/v1/diff?from=-1s", None).await;
    assert_eq!((&diff["from"]["seq"], &diff["to"]["seq"]), (&json!(4), &json!(8)));
    assert_eq!(diff["to"]["at"], "2026-11-21T08:00:01.000000Z");
    let fields = json!({"metadata.env": [null, "prod"], "weight": [100, 50]});
    assert_eq!(
        diff["changed"],
        json!([{"namespace": "default", "service": "orders", "instance": "orders-1",
                "fields": fields, "events": ["5", "6"]}])
    );
    let left = &diff["left"][0];
    assert_eq!(
        (&left["instance"]["instance"], &left["event"]["id"]),
        (&json!("orders-2"), &json!("7"))
    );
    assert_eq!(left["event"]["data"], json!({"reason": "scale-in"}));
    assert_eq!(
        (&diff["came"][0]["instance"], &diff["came"][0]["event"]["id"]),
        (&json!("orders-3"), &json!("8"))
    );
    // Back as it was: nothing is different, and that something happened is not kept back.
    server.call("PATCH", path, Some(json!({"weight": 100, "metadata": {"env": null}}))).await;
    let (_, diff) = server.call("GET", "/v1/diff?from=@4&service=orders", None).await;
    assert_eq!((&diff["changed"], &diff["reverted"]), (&json!([]), &json!(1)));

    // Lists have an end, and what lies behind it is counted.
    server.register("orders", "orders-4", "15s").await;
    for (limit, came, left_out) in [("", 2, 0), ("&limit=2", 2, 0), ("&limit=1", 1, 1)] {
        let path = format!("/v1/diff?from=@4{limit}");
        let (_, diff) = server.call("GET", &path, None).await;
        let told = (diff["came"].as_array().unwrap().len(), &diff["truncated"], &diff["left_out"]);
        let expected = json!({"came": left_out, "left": 0, "changed": 0});
        assert_eq!(told, (came, &json!(left_out > 0), &expected), "{limit}");
        assert_eq!(diff["came"][0]["instance"], "orders-3", "the first by name");
    }

    for (query, status, field) in [
        ("", 422, "from"),
        ("from=@1&limit=0", 422, "limit"),
        ("to=@1", 422, "from"),
        ("from=@3&to=@2", 422, "from"),
        ("from=-1s&to=-2s", 422, "from"),
        ("from=@2&to=@99", 422, "to"),
        ("from=soon", 400, "from"),
        ("from=@1&since=@2", 400, "since"),
        ("from=@1&service=a%2Fb", 422, "service"),
    ] {
        let (told, problem) = server.call("GET", &format!("/v1/diff?{query}"), None).await;
        let told = (told.as_u16(), &problem["errors"][0]["field"]);
        assert_eq!(told, (status, &json!(field)), "{query}: {problem}");
    }
    server.stop().await;
}
