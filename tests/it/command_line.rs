//! The built program as people and scripts use it: what it prints, and the code that it ends with.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Options, PATIENCE, Server, eventually};

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) errors: String,
}

impl Ended {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The program with these arguments, and without what the environment of the test says.
pub(crate) fn rollcall<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.env_clear().args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn run(mut command: Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    Ended { code, out: text(output.stdout), errors: text(output.stderr) }
}

/// Runs a command line of words against a server.
pub(crate) fn ask(server: &Server, line: &str) -> Ended {
    let mut command = rollcall(line.split(' '));
    command.env("ROLLCALL_URL", &server.url);
    run(command)
}

/// A command that runs until it is stopped; killed when dropped.
struct Running {
    process: Child,
    /// Lines of its output, as they come; a thread reads them, so that waiting for one has an end.
    out: Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (lines, out) = sync_channel(1_000);
        std::thread::spawn(move || output.lines().try_for_each(|line| lines.send(line.unwrap())));
        Self { process, out }
    }

    fn line(&mut self) -> String {
        self.out.recv_timeout(PATIENCE).expect("a line of output")
    }

    fn terminate(self) -> Ended {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        self.wait()
    }

    /// Waits for its end; gives what it printed since it was last read.
    fn wait(mut self) -> Ended {
        let mut out = String::new();
        loop {
            match self.out.recv_timeout(PATIENCE) {
                Ok(line) => out.push_str(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end; it said {out:?}"),
            }
        }
        let mut errors = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        Ended { code: self.process.wait().unwrap().code().unwrap(), out, errors }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended already, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_registered_found_and_taken_off() {
    let server = Server::start().await;
    assert_eq!(ask(&server, "services").code, 1, "there is none");
    let line = "register orders --id orders-1 --address 10.0.0.7 --port 8080 --tag canary --meta env=prod \
                --zone eu-1a --version 1.4.2 --weight 7 --ttl 30s";
    let told = ask(&server, line);
    assert_eq!(told.code, 0, "{told:?}");
    assert_eq!(told.out, "registered orders/orders-1 at 10.0.0.7:8080, ttl 30s, incarnation 3\n");
    let told = ask(&server, "register orders --port 9090 --output json --caller deploy");
    assert_eq!((told.code, &told.json()["port"]), (0, &json!(9090)), "{told:?}");

    let direct = server.call("GET", "/v1/services/orders/instances?tag=canary", None).await.1;
    let found = ask(&server, "lookup orders --tag canary --meta env=prod --output json");
    assert_eq!((found.code, found.json()), (0, direct));
    let table = ask(&server, "lookup orders --zone eu-1a");
    let row: Vec<&str> = table.out.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["orders-1", "10.0.0.7:8080", "healthy", "1.4.2", "eu-1a", "canary"]);
    let services = ask(&server, "services --output json").json();
    assert_eq!(services["services"][0]["instances"], 2);
    let instances = ask(&server, "instances orders --output json").json();
    assert_eq!(instances["instances"].as_array().unwrap().len(), 2);
    assert!(instances["instances"][0]["lease"]["expires_in_ms"].is_number(), "{instances}");

    let drain = "drain orders orders-1";
    for (line, out) in [
        (drain.to_owned(), "orders/orders-1 is draining\n"),
        (
            format!("{drain} --deadline 30s"),
            "orders/orders-1 is draining and leaves at 2026-11-21T08:00:30.000000Z\n",
        ),
        (format!("{drain} --undo"), "orders/orders-1 is active\n"),
    ] {
        let told = ask(&server, &line);
        assert_eq!((told.code, told.out.as_str()), (0, out), "{line}: {told:?}");
    }
    let drained = ask(&server, "drain orders orders-1 --output json").json();
    assert_eq!((&drained["mode"], drained.get("drain_until")), (&json!("draining"), None));
    let beat = Some(json!({"load": 3}));
    let path = format!(
        "/v1/services/orders/instances/{}/heartbeat",
        told.json()["instance"].as_str().unwrap()
    );
    server.call("PUT", &path, beat).await;
    assert_eq!(ask(&server, "drain orders orders-1 --undo").code, 0);
    let ordered = ask(&server, "lookup orders --by-load --output json").json();
    assert_eq!(ordered["instances"][1]["instance"], "orders-1", "it said no load: {ordered}");
    let line = "register mail --id mail-1 --port 25 --ttl none --check-http /up --check-expect ok \
                --check-interval 1m --check-timeout 3s --output json";
    let check = &ask(&server, line).json()["check"];
    let asked =
        json!([check["kind"], check["path"], check["expect"], check["interval"], check["timeout"]]);
    assert_eq!(asked, json!(["http", "/up", "ok", "1m", "3s"]));
    for (kind, told) in
        [("--check-tcp", json!(["tcp", null])), ("--check-grpc v1", json!(["grpc", "v1"]))]
    {
        let line = format!("register mail --id mail-1 --port 25 {kind} --output json");
        let check = &ask(&server, &line).json()["check"];
        assert_eq!(json!([check["kind"], check["service"]]), told);
    }

    let gone = ask(&server, "deregister orders orders-1 --reason scale-in");
    assert_eq!((gone.code, gone.out.as_str()), (0, "deregistered orders/orders-1\n"));
    let rows = server.sql("SELECT data FROM events WHERE kind = 'deregistered'");
    assert_eq!(rows[0][0], json!(r#"{"reason":"scale-in"}"#));
    for (line, code, part) in [
        ("deregister orders orders-1", 1, "not registered"),
        ("lookup orders --zone mars", 1, "no instance of orders may be called now"),
        ("lookup nobody", 1, "not known"),
        ("instances nobody", 1, "not known"),
        ("lookup or/ders", 2, "has '/' at position 3"),
        ("register orders --port 80 --ttl 25h", 2, "ttl"),
        ("register orders --port 80 --ttl none", 2, "needs a check"),
        ("register orders --port 80 --check-tcp --check-http /up", 2, "cannot be used with"),
        ("register orders --port 80 --check-tcp --check-expect up", 2, "check.expect"),
        ("lookup orders --status dead", 2, "status"),
        ("services --url ftp://x", 2, "ftp://x"),
        ("drain orders orders-1", 1, "not registered"),
        ("drain orders orders-2 --deadline soon", 2, "deadline"),
        ("drain orders orders-2 --deadline 30s --undo", 2, "--undo"),
    ] {
        let ended = ask(&server, line);
        assert_eq!(ended.code, code, "{line}: {ended:?}");
        assert!(ended.errors.contains(part), "{line}: {ended:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_kept_alive_leaves_when_it_is_told_to() {
    let server = Server::start().await;
    let line = "register orders --id orders-1 --port 8080 --ttl 1s --keep-alive";
    let start = || {
        let mut command = rollcall(line.split(' '));
        command.env("ROLLCALL_URL", &server.url);
        Running::start(command)
    };
    let mut kept = start();
    assert_eq!(kept.line(), "registered orders/orders-1 at 127.0.0.1:8080, ttl 1s, incarnation 3");
    let beats = async || server.sql("SELECT count(*) FROM events WHERE kind = 'heartbeat'");
    eventually("it beats", beats, |rows| rows[0][0].as_u64() >= Some(2)).await;
    let ended = kept.terminate();
    assert_eq!((ended.code, ended.errors.as_str()), (0, ""));
    assert_eq!(server.offered("orders").await, [""; 0]);

    // It does not fight for an id: who took it over keeps it.
    let mut robbed = start();
    assert!(robbed.line().starts_with("registered"));
    server.register("orders", "orders-1", "15s").await;
    let ended = robbed.wait();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert_eq!(server.offered("orders").await, ["orders-1"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_read_the_same_from_the_server_and_from_the_file() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    server.beat("orders", "orders-1").await;
    server.offered("orders").await;
    let data = server.data.to_str().unwrap();
    let lines = |ended: &Ended| -> Vec<Value> {
        ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let both = async || {
        let served = ask(&server, "events --output json");
        (lines(&served), lines(&ask(&server, &format!("events --output json --data {data}"))))
    };
    let (served, stored) =
        eventually("all is in the log", both, |(served, _)| served.len() == 5).await;
    assert_eq!(served, stored);
    let mut kinds: Vec<&str> = served.iter().map(|e| e["kind"].as_str().unwrap()).collect();
    kinds[3..].sort_unstable();
    assert_eq!(kinds, ["started", "recovered", "registered", "heartbeat", "lookup"]);
    let trace_id = served[2]["trace_id"].as_str().unwrap();
    for line in [
        "--kind registered",
        "--instance orders-1 --kind registered",
        &format!("--trace-id {trace_id}"),
    ] {
        for source in ["", &format!(" --data {data}")] {
            let ended = ask(&server, &format!("events --output json {line}{source}"));
            assert_eq!(lines(&ended), [served[2].clone()], "{line}{source}: {ended:?}");
        }
    }
    assert!(ask(&server, "events").out.contains("registered      orders/orders-1"));
    for (line, code) in [("--service nobody", 1), ("--kind born", 2), ("--since soon", 2)] {
        for source in ["", &format!(" --data {data}")] {
            assert_eq!(
                ask(&server, &format!("events {line}{source}")).code,
                code,
                "{line}{source}"
            );
        }
    }
    assert_eq!(ask(&server, "events --data /no/such/directory").code, 3);

    let mut command = rollcall("events --follow --kind registered --output json".split(' '));
    command.env("ROLLCALL_URL", &server.url);
    let mut follower = Running::start(command);
    let first: Value = serde_json::from_str(&follower.line()).unwrap();
    assert_eq!(first, served[2]);
    server.register("orders", "orders-2", "15s").await;
    let next: Value = serde_json::from_str(&follower.line()).unwrap();
    assert_eq!((&next["id"], &next["instance"]), (&json!("4"), &json!("orders-2")));
    assert_eq!(follower.terminate().code, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_verify_answer_with_their_code() {
    let data = TempDir::new().unwrap();
    let options = Options { data: Some(data.path().to_owned()), ..Options::default() };
    let server = Server::start_with(options).await;
    assert_eq!(ask(&server, "health").out, "ready\n");
    server.register("orders", "orders-1", "15s").await;
    let path = data.path().to_str().unwrap();
    let beside = ask(&server, &format!("verify {path}"));
    assert_eq!(beside.code, 0, "beside a registry that runs: {beside:?}");
    let url = server.url.clone();
    server.stop().await;
    let health = run(rollcall(["health", "--url", &url]));
    assert_eq!(health.code, 1, "{health:?}");
    assert!(health.out.starts_with("not ready: "), "{health:?}");

    let verify = |more: &[&str]| run(rollcall(["verify", path].iter().chain(more)));
    let clean = verify(&[]);
    assert_eq!((clean.code, clean.out.lines().last()), (0, Some("clean")), "{clean:?}");
    assert_eq!(verify(&["--output", "json"]).json()["findings_total"], 0);
    let connection = rusqlite::Connection::open(data.path().join("rollcall.db")).unwrap();
    connection.execute("UPDATE changes SET data = replace(data, '8080', '8081')", []).unwrap();
    drop(connection);
    let damaged = verify(&[]);
    assert_eq!(damaged.code, 1, "{damaged:?}");
    assert!(damaged.out.contains("damaged   change 3: "), "{damaged:?}");
    assert_eq!(verify(&["--output", "json"]).json()["findings"][0]["place"], "change 3");
    let file = data.path().join("note.txt");
    std::fs::write(&file, "no database at all, and long enough to be looked at").unwrap();
    for path in [Path::new("/no/such/file"), &file] {
        let ended = run(rollcall([OsStr::new("verify"), path.as_os_str()]));
        assert_eq!(ended.code, 3, "{ended:?}");
    }
}

/// `rollcall serve` on this directory and a free port.
fn serve(data: &Path) -> Command {
    let mut command = rollcall(["serve", "--listen", "127.0.0.1:0", "--data"]);
    command.arg(data);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_prints_its_address_and_ends_when_told_to() {
    let data = TempDir::new().unwrap();
    let mut server = Running::start(serve(data.path()));
    let url = server.line();
    let address = url.strip_prefix("http://").unwrap();
    assert!(address.parse::<std::net::SocketAddr>().is_ok_and(|a| a.port() != 0), "{url}");
    let status = async || reqwest::get(format!("{url}/readyz")).await.unwrap().status().as_u16();
    eventually("it is ready", status, |status| *status == 200).await;

    let second = run(serve(data.path()));
    assert_eq!((second.code, second.out.as_str()), (3, ""), "{second:?}");
    assert!(second.errors.contains("is in use by another registry"), "{second:?}");
    let other = TempDir::new().unwrap();
    let mut command = rollcall(["serve", "--listen", address, "--data"]);
    command.arg(other.path());
    let occupied = run(command);
    assert_eq!((occupied.code, occupied.out.as_str()), (3, ""), "{occupied:?}");
    assert!(occupied.errors.contains("choose another one with --listen"), "{occupied:?}");

    let ended = server.terminate();
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (0, ""),
        "the address and nothing else: {ended:?}"
    );
    let lines: Vec<Value> =
        ended.errors.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        let texts = ["timestamp", "level", "target", "message"];
        assert!(texts.iter().all(|field| line[field].is_string()), "{line}");
        let fine = line["level"] == "INFO";
        assert!(fine, "{line}");
    }
    for part in
        ["listens on http://127.0.0.1:", "recovered 0 instances", "shutdown: the log is flushed"]
    {
        let said = |line: &Value| line["message"].as_str().unwrap().contains(part);
        assert!(lines.iter().any(said), "{part}: {}", ended.errors);
    }
    // The lock is free again.
    let mut again = Running::start(serve(data.path()));
    assert!(again.line().starts_with("http://"));
    assert_eq!(again.terminate().code, 0, "told to end while it replays");
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_name_of_a_service_to_who_was_handed_its_dead_instance() {
    let server = Server::start().await;
    for (line, part) in [("why orders", "nobody has left orders"), ("impact orders", "nobody has")]
    {
        let ended = ask(&server, line);
        assert_eq!((ended.code, ended.out.as_str()), (1, ""), "{line}: {ended:?}");
        assert!(ended.errors.contains(part), "{line}: {ended:?}");
    }
    server.register("orders", "orders-1", "15s").await;
    server.register("orders", "orders-2", "1h").await;
    server.register("web", "web-1", "1h").await;
    server.advance(1_000);
    let (status, answer) = server.beat("orders", "orders-1").await;
    assert!(status.is_success(), "{answer}");
    server.advance(1_000);
    let caller = [("rollcall-caller", "web/web-1")];
    let looked = server.send("GET", "/v1/services/orders/instances", &caller, None).await;
    let trace_id = looked.header("traceresponse").split('-').nth(1).unwrap().to_owned();
    server.advance(15_000);
    let gone = async || server.offered("orders").await;
    eventually("orders-1 expires", gone, |offered| offered == &["orders-2"]).await;
    server.call("DELETE", "/v1/services/web/instances/web-1?reason=scale-in", None).await;

    let why = ask(&server, "why orders");
    assert_eq!(why.code, 0, "{why:?}");
    let sentence = why.out.lines().next().unwrap();
    assert!(
        sentence.starts_with("orders-1 expired") && sentence.contains("no heartbeat"),
        "{why:?}"
    );
    assert!(why.errors.contains("taking orders-1, which left last without goodbye"), "{why:?}");
    let next =
        why.out.lines().last().unwrap().strip_prefix("who was handed it: rollcall ").unwrap();
    let named = ask(&server, next);
    let impact = ask(&server, "impact orders");
    assert_eq!((impact.code, &impact.out), (0, &named.out), "{impact:?} {named:?}");
    assert!(impact.out.contains("web/web-1") && impact.out.contains(&trace_id), "{impact:?}");
    let json = ask(&server, "impact orders orders-1 --output json").json();
    assert_eq!(json["callers"][0]["caller"], "web/web-1", "{json}");
    let (_, direct) = server.call("GET", "/v1/impact?service=orders&instance=orders-1", None).await;
    assert_eq!(json, direct);
    // What the dashboard links to: the service alone.
    assert_eq!(server.call("GET", "/v1/impact?service=orders", None).await.1, direct);
    let seq = direct["departure"]["id"].as_str().unwrap();
    assert_eq!(ask(&server, &format!("impact orders --seq {seq}")).out, impact.out);
    assert!(ask(&server, "why web").out.contains("scale-in"));
    let graph = ask(&server, "graph");
    assert!(
        graph.out.lines().any(|l| l.starts_with("web/web-1") || l.starts_with("web ")),
        "{graph:?}"
    );
    assert!(ask(&server, "graph --format mermaid").out.starts_with("graph "));

    // The past: 8 is after the three registrations, before anybody turned late.
    let then = ask(&server, "at @5 --service orders --output json").json();
    assert_eq!(then, looked.json);
    assert!(ask(&server, "at -1s").errors.contains("as of version @"));
    let diff = ask(&server, "diff --from @5");
    assert_eq!(diff.code, 0, "{diff:?}");
    let rows: Vec<Vec<&str>> =
        diff.out.lines().skip(4).map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(
        rows[..2],
        [["-", "orders/orders-1", "expired"], ["-", "web/web-1", "deregistered"]]
    );
    assert_eq!(ask(&server, "diff --from @5 --to @5").code, 1);
    let history = ask(&server, "history orders orders-1");
    assert_eq!(history.code, 0, "{history:?}");
    assert!(
        history.out.contains("incarnation 3: ") && history.out.contains("widest gaps: "),
        "{history:?}"
    );
    for (line, code, part) in [
        ("at 2036-01-01T00:00:00Z", 2, "at "),
        ("at soon", 2, "at "),
        ("why orders nobody", 1, "never registered"),
        ("history nobody nobody-1", 1, "never registered"),
        ("diff --from @5 --to @4", 2, "from"),
        ("impact orders --seq 3", 2, "seq"),
        ("impact orders --seq 999999", 1, "event is not in the log"),
        ("why orders --seq 1", 2, "started"),
        ("trace 0af7", 2, "must be 32 hexadecimal digits, has 4"),
        ("verify ./nowhere", 3, "there is no log at ./nowhere"),
        ("events --data ./nowhere", 3, "there is no log at ./nowhere"),
        ("impact orders orders-2", 1, ""),
    ] {
        let ended = ask(&server, line);
        assert_eq!(ended.code, code, "{line}: {ended:?}");
        assert!(ended.errors.contains(part), "{line}: {ended:?}");
    }
    server.stop().await;
}

/// Registers an instance at a registry that may just be coming up.
async fn register_at(url: &str, instance: &str) {
    let path = format!("{url}/v1/services/orders/instances/{instance}");
    let put = async || {
        let body = r#"{"address": "10.0.0.7", "port": 8080, "ttl": "1h"}"#;
        let request = reqwest::Client::new().put(&path).body(body);
        request.send().await.map(|answer| answer.status().as_u16()).unwrap_or(0)
    };
    eventually("it registers", put, |status| *status == 201).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_follow_are_there_again_after_a_crash_of_the_registry() {
    let data = TempDir::new().unwrap();
    let mut server = Running::start(serve(data.path()));
    let url = server.line();
    register_at(&url, "orders-1").await;
    let lines = [
        "events --follow --kind registered --output json --url",
        "watch --after 0 --kind registered --output json --url",
    ];
    let mut followers: Vec<Running> = lines
        .iter()
        .map(|line| Running::start(rollcall(line.split(' ').chain([url.as_str()]))))
        .collect();
    let instance = |line: String| serde_json::from_str::<Value>(&line).unwrap()["instance"].clone();
    for follower in &mut followers {
        assert_eq!(instance(follower.line()), "orders-1");
    }
    // Killed, not told to stop.
    drop(server);
    let address = url.trim_start_matches("http://");
    let mut again = rollcall(["serve", "--listen", address, "--data"]);
    again.arg(data.path());
    let mut server = Running::start(again);
    assert_eq!(server.line(), url);
    register_at(&url, "orders-2").await;
    for mut follower in followers {
        assert_eq!(instance(follower.line()), "orders-2", "the next one, and nothing twice");
        let ended = follower.terminate();
        assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{ended:?}");
    }
    assert_eq!(server.terminate().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_refuses_what_it_can_not_do() {
    let data = TempDir::new().unwrap();
    let options = Options { data: Some(data.path().to_owned()), ..Options::default() };
    Server::start_with(options).await.stop().await;
    let connection = rusqlite::Connection::open(data.path().join("rollcall.db")).unwrap();
    let newer = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum) \
                 VALUES (9999, 'of_the_future', '2036-01-01T00:00:00Z', '1')";
    connection.execute(newer, []).unwrap();
    drop(connection);
    let mut verify = rollcall(["verify"]);
    verify.arg(data.path());
    for command in [serve(data.path()), verify] {
        let ended = run(command);
        assert_eq!((ended.code, ended.out.as_str()), (3, ""), "{ended:?}");
        assert!(ended.errors.contains("has schema version 9999"), "{ended:?}");
    }

    let data = TempDir::new().unwrap();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
    for (variable, value, part) in [
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "http/protobuf",
            "rollcall exports traces over \"grpc\" only",
        ),
        ("OTEL_TRACES_EXPORTER", "zipkin", "it must be otlp or none"),
        ("ROLLCALL_DEFAULT_TTL", "25h", "must be 1s to 24h"),
        ("ROLLCALL_TRAFFIC_FLUSH", "1s", "must be 1ms to 100ms"),
    ] {
        let mut command = serve(data.path());
        command.env(endpoint.0, endpoint.1).env(variable, value);
        let ended = run(command);
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{ended:?}");
        assert!(ended.errors.contains(variable) && ended.errors.contains(part), "{ended:?}");
    }
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0, "nothing was begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_prints_its_address_and_shows_the_past_beside_the_living() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    server.advance(1_000);
    server.register("orders", "orders-2", "15s").await;
    let data = server.data.to_str().unwrap();
    let replay = |more: &str| {
        let line = format!("replay {data} --listen 127.0.0.1:0 {more}");
        rollcall(line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    };
    let mut player = Running::start(replay("--from @3 --paused --speed 60x"));
    let url = player.line();
    let past = async |path: &str| -> Value {
        reqwest::get(format!("{url}{path}")).await.unwrap().json().await.unwrap()
    };
    let position = past("/v1/replay").await;
    assert_eq!(
        (&position["state"], &position["speed"], &position["position"]["seq"]),
        (&json!("paused"), &json!("60x"), &json!(3))
    );
    let then = past("/v1/services/orders/instances").await;
    assert_eq!(then["instances"].as_array().unwrap().len(), 1, "{then}");
    assert_eq!(server.offered("orders").await, ["orders-1", "orders-2"]);
    // Commands ask it like any other registry.
    let asked = run(rollcall(["lookup", "orders", "--url", &url, "--output", "json"]));
    assert_eq!((asked.code, asked.json()), (0, then));
    let refused = run(rollcall(["register", "orders", "--port", "80", "--url", &url]));
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.errors.contains("The past can't be changed"), "{refused:?}");
    let ended = player.terminate();
    assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{ended:?}");

    for (more, part) in [
        ("--from soon", "--from must be RFC 3339"),
        ("--from @4 --to @3", "--from must not be after --to"),
        ("--from @99", "must not be beyond the last change"),
        ("--to 2036-01-01T00:00:00Z", "--to must not be in the future"),
        ("--speed 0x", "must be a speed from 0.01x to 100000x"),
    ] {
        let ended = run(replay(more));
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{more}: {ended:?}");
        assert!(ended.errors.contains(part), "{more}: {ended:?}");
    }
    assert_eq!(run(rollcall(["replay", "/no/such/directory"])).code, 3);
    server.stop().await;
}

#[test]
fn a_printed_configuration_is_one_that_can_be_read() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("rollcall.toml");
    let settings = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    let mut command = rollcall(["serve", "--print-config", "--default-ttl", "90s", "--node", "n1"]);
    command
        .env("ROLLCALL_LOG_LEVEL", "info,rollcall::http=debug")
        .env("ROLLCALL_SYNCHRONOUS", "normal");
    let printed = run(command);
    assert_eq!(printed.code, 0, "{printed:?}");
    std::fs::write(&file, &printed.out).unwrap();
    let mut command = rollcall(["serve", "--print-config", "--config"]);
    command.arg(&file);
    let again = run(command);
    assert_eq!(settings(&again.out), settings(&printed.out));
    for line in ["default_ttl = \"90s\"", "node = \"n1\"", "synchronous = \"normal\""] {
        assert!(printed.out.contains(line), "{line}: {}", printed.out);
    }
    std::fs::write(&file, "default_tll = '5s'\nlisten = 'here'").unwrap();
    let mut command = rollcall(["serve", "--print-config", "--config"]);
    command.arg(&file);
    let refused = run(command);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        ["default_tll", "listen"].iter().all(|key| refused.errors.contains(key)),
        "{refused:?}"
    );
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ended = run(rollcall(["completions", shell]));
        assert_eq!(ended.code, 0, "{shell}");
        for word in ["deregister", "keep-alive", "print-config"] {
            assert!(ended.out.contains(word), "{shell}: {word}");
        }
    }
    let help = run(rollcall(["--help"]));
    assert_eq!((help.code, help.errors.as_str()), (0, ""));
    assert_eq!(run(rollcall(["lokup"])).code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_what_happens_and_is_no_caller_itself() {
    let server = Server::start().await;
    for instance in ["a", "b"] {
        let body = json!({"address": "10.0.0.7", "port": 8080});
        let path = format!("/v1/services/orders/instances/{instance}");
        assert_eq!(server.send("PUT", &path, &[], Some(body)).await.status, 201);
    }
    let caller = [("rollcall-caller", "web")];
    for _ in 0..3 {
        let answer = server.send("GET", "/v1/services/orders/instances", &caller, None).await;
        assert_eq!(answer.status, 200);
    }
    let look = async || ask(&server, "top --once --interval 0.1 --output json").json();
    let looked = eventually("top", look, |look| look["busiest_services"][0]["times"] == 3).await;
    assert_eq!(looked["busiest_services"], json!([{"name": "orders", "times": 3}]));
    assert_eq!(looked["busiest_callers"], json!([{"name": "web", "times": 3}]));
    assert_eq!((&looked["services"], &looked["healthy"]), (&json!(1.0), &json!(2.0)));
    // What it asks in between is the only thing that happens now.
    let routes = looked["routes"].as_array().unwrap();
    assert!(routes.iter().any(|route| route["route"] == "GET /metrics"), "{looked}");
    let table = ask(&server, "top --once --interval 0.1");
    assert_eq!(table.code, 0, "{table:?}");
    assert!(
        table.out.contains("services: 1, instances: 2 healthy")
            && table.out.contains("BUSIEST CALLERS")
    );
    assert_eq!(ask(&server, "top --interval 0").code, 2);
}
