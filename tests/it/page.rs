//! The registry's own page over real sockets: what is served how, and that whoever looks is not taken for whoever asks.
//! What the page does with it is tried in a real browser: `.ci/page`.

use serde_json::{Value, json};

use crate::harness::{Raw, Server, eventually};

async fn raw(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> Raw {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: registry\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    server.raw(format!("{head}\r\n").as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_its_files_are_served_with_their_types_and_a_strict_policy() {
    let server = Server::start().await;
    for (path, media, holds) in [
        ("/ui", "text/html; charset=utf-8", "<title>rollcall</title>"),
        ("/ui/index.html", "text/html; charset=utf-8", "<title>rollcall</title>"),
        ("/ui/main.js", "text/javascript; charset=utf-8", "import "),
        ("/ui/page.css", "text/css; charset=utf-8", ":root"),
        ("/ui/icon.svg", "image/svg+xml", "<svg"),
    ] {
        let answer = server.send("GET", path, &[("accept", "*/*")], None).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        assert!(answer.text.contains(holds), "{path}: {}", answer.text);
        assert_eq!(answer.header("content-type"), media, "{path}");
        assert_eq!(answer.header("cache-control"), "no-cache", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'self';"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");

        let head = server.send("HEAD", path, &[], None).await;
        assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("etag"), answer.header("etag"), "{path}");
        assert_eq!(head.header("content-length"), answer.text.len().to_string(), "{path}");
    }
    // Everything that the page names is there.
    let page = server.send("GET", "/ui", &[], None).await.text;
    let named: Vec<&str> =
        page.split("\"ui/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(named.len() >= 4, "{named:?}");
    for name in named {
        assert_eq!(server.send("GET", &format!("/ui/{name}"), &[], None).await.status, 200);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_has_a_file_is_not_sent_it_again() {
    let server = Server::start().await;
    let first = server.send("GET", "/ui/page.css", &[], None).await;
    let tag = first.header("etag").to_owned();
    assert!(tag.starts_with("\"ui-"), "{tag}");
    let again = server.send("GET", "/ui/page.css", &[("if-none-match", &tag)], None).await;
    assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""));
    assert_eq!(again.header("etag"), tag);
    let other = server.send("GET", "/ui/main.js", &[("if-none-match", &tag)], None).await;
    assert_eq!(other.status, 200, "the tag is of another file");

    // Long files come in a coding, with a tag of their own, which is known again.
    let coded = raw(&server, "GET", "/ui/page.css", &[("accept-encoding", "gzip")]).await;
    assert_eq!((coded.status(), coded.header("content-encoding")), (200, "gzip"), "{coded:?}");
    let length: usize = coded.header("content-length").parse().unwrap();
    assert!(length * 2 < first.text.len(), "{length} of {}", first.text.len());
    let tag = coded.header("etag").to_owned();
    let held = [("accept-encoding", "gzip"), ("if-none-match", &*tag)];
    assert_eq!(raw(&server, "GET", "/ui/page.css", &held).await.status(), 304, "{tag}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_part_of_the_page_is_not_there() {
    let server = Server::start().await;
    for path in [
        "/ui/nothing.js",
        "/ui/../Cargo.toml",
        "/ui/..%2f..%2fCargo.toml",
        "/ui/%2e%2e/%2e%2e/etc/passwd",
        "/ui/a/b.js",
        "/ui//main.js",
        "/ui/main.js%00",
        "/ui/MAIN.JS",
    ] {
        let answer = raw(&server, "GET", path, &[("accept", "text/html")]).await;
        assert_eq!(answer.status(), 404, "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        assert_eq!(answer.json["type"], "/problems/unknown-path", "{path}: {answer:?}");
    }
    for method in ["PUT", "POST", "DELETE"] {
        let answer = raw(&server, method, "/ui", &[("content-length", "0")]).await;
        assert_eq!(answer.status(), 405, "{method}: {answer:?}");
        assert_eq!(answer.json["type"], "/problems/method-not-allowed");
    }
    // Templates and not names are counted.
    let page = server.page().await;
    let asked = |route: &str| {
        let label = format!("http_route=\"{route}\"");
        page.sum("http_server_request_duration_seconds_count", &[&label])
    };
    assert!(asked("/ui/{file}") >= 4.0, "{}", page.0);
    assert_eq!(asked("/ui"), 3.0);
    assert!(!page.0.contains("MAIN.JS"), "a name from the network is in the metrics");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_knows_only_the_address_finds_the_page() {
    let server = Server::start().await;
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for (path, location) in [("/", "ui"), ("/ui/", "../ui")] {
        let answer = raw(&server, "GET", path, &[("accept", browser)]).await;
        assert_eq!((answer.status(), answer.header("location")), (307, location), "{answer:?}");
        for program in ["*/*", "application/json", "text/html;q=0, */*"] {
            let answer = raw(&server, "GET", path, &[("accept", program)]).await;
            assert_eq!(answer.status(), 404, "{path} {program}: {answer:?}");
            assert_eq!(answer.json["type"], "/problems/unknown-path");
        }
    }
    server.stop().await;
}

/// The row of a service in an overview, without its name and revision.
fn row(overview: &Value, service: &str) -> Value {
    let rows = overview["services"].as_array().unwrap();
    let mut row = rows.iter().find(|row| row["service"] == service).unwrap().clone();
    row.as_object_mut().unwrap().retain(|name, _| name != "service" && name != "revision");
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_sees_counts_and_leases_and_is_no_caller() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    server.register("orders", "orders-2", "1h").await;
    server.register("web", "web-1", "1h").await;
    let drain = Some(json!({"mode": "draining"}));
    let path = "/v1/services/web/instances/web-1";
    assert_eq!(server.call("PATCH", path, drain).await.0, 200);
    let before = server.send("GET", "/v1/overview", &[], None).await;
    let seq = before.header("rollcall-seq").to_owned();
    let counts = |namespace: &str, figures: [u64; 6]| {
        let [instances, healthy, unstable, failed, standby, draining] = figures;
        json!({"namespace": namespace, "instances": instances, "healthy": healthy, "unstable": unstable,
            "failed": failed, "standby": standby, "draining": draining})
    };
    assert_eq!(row(&before.json, "orders"), counts("default", [2, 2, 0, 0, 0, 0]));
    assert_eq!(row(&before.json, "web"), counts("default", [1, 1, 0, 0, 0, 1]));
    assert!(!before.text.contains("10.0.0.7"), "an overview hands out no address");

    // Past two thirds of its ttl, an instance is unstable; and it fails by its own word.
    server.advance(11_000);
    let late = eventually(
        "orders-1 to be late",
        || async { server.call("GET", "/v1/overview", None).await.1 },
        |overview| row(overview, "orders")["unstable"] == 1,
    )
    .await;
    assert_eq!(row(&late, "orders"), counts("default", [2, 1, 1, 0, 0, 0]));
    let beat = "/v1/services/orders/instances/orders-2/heartbeat";
    assert_eq!(server.call("PUT", beat, Some(json!({"health": "failing"}))).await.0, 200);
    let now = server.call("GET", "/v1/overview", None).await.1;
    assert_eq!(row(&now, "orders"), counts("default", [2, 0, 1, 1, 0, 0]));
    // As it was then.
    let then = server.send("GET", &format!("/v1/overview?at=@{seq}"), &[], None).await;
    assert_eq!((&then.json, then.header("rollcall-seq")), (&before.json, &*seq));
    let none = server.call("GET", "/v1/overview?namespace=other", None).await.1;
    assert_eq!(none, json!({"services": [], "left_out": 0}));
    let first = server.call("GET", "/v1/overview?limit=1", None).await.1;
    assert_eq!((first["services"].as_array().unwrap().len(), &first["left_out"]), (1, &json!(1)));

    let leases = server.send("GET", "/v1/services/orders/leases", &[], None).await;
    let ages: Vec<_> = leases.json["leases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|lease| (lease["instance"].as_str().unwrap(), lease["age_ms"].as_u64().unwrap()))
        .collect();
    assert_eq!(ages, [("orders-1", 11_000), ("orders-2", 0)], "{}", leases.text);
    assert!(!leases.text.contains("10.0.0.7"), "leases hand out no address");
    assert_eq!(server.call("GET", "/v1/services/ghost/leases", None).await.0, 404);
    let listed = format!("/v1/services/orders/instances?status=any&at=@{seq}");
    assert!(server.call("GET", &listed, None).await.0.is_success());

    // Only who asked for a service is in the log.
    let witness = [("rollcall-caller", "witness")];
    server.send("GET", "/v1/services/orders/instances", &witness, None).await;
    let lookups = "SELECT caller FROM events WHERE kind = 'lookup'";
    let callers = eventually(
        "the lookup to be in the log",
        || async { server.sql(lookups) },
        |rows| !rows.is_empty(),
    )
    .await;
    assert_eq!(callers, [[json!("witness")]]);
    server.stop().await;
}
