//! A registry that comes back: the same state, the same answers, a fresh grace, and who may open the log.

use rollcall::log::sqlite::{OpenError, SqliteLog, Synchronous};
use rollcall::log::verify::verify;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Options, Server, eventually, sql};

fn at(data: &TempDir) -> Options {
    Options { data: Some(data.path().to_owned()), ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_is_the_same_to_the_byte() {
    let data = TempDir::new().unwrap();
    let server = Server::start_with(at(&data)).await;
    for (service, instance) in [("orders", "a"), ("orders", "b"), ("web", "a"), ("gone", "a")] {
        server.register(service, instance, "15s").await;
    }
    server
        .call(
            "PATCH",
            "/v1/services/orders/instances/b",
            Some(json!({"mode": "standby", "weight": 7})),
        )
        .await;
    server.call("DELETE", "/v1/services/gone/instances/a", None).await;
    let beat = server.send("PUT", "/v1/services/orders/instances/a/heartbeat", &[], None).await;
    let paths = [
        "/v1/services/orders/instances?status=any",
        "/v1/services/web/instances",
        "/v1/services/gone/instances",
        "/v1/services",
    ];
    let mut before = Vec::new();
    for path in paths {
        before.push(server.send("GET", path, &[], None).await.text);
    }
    server.stop().await;

    let server = Server::start_with(at(&data)).await;
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(server.send("GET", path, &[], None).await.text, before, "{path}");
    }
    let recovered =
        server.sql("SELECT data FROM events WHERE kind = 'recovered' ORDER BY seq DESC LIMIT 1");
    let recovered: serde_json::Value =
        serde_json::from_str(recovered[0][0].as_str().unwrap()).unwrap();
    assert_eq!(
        (&recovered["instances"], &recovered["services"], &recovered["clean"]),
        (&json!(3), &json!(3), &json!(true))
    );

    // An expiry after the restart still names the heartbeat from before it.
    server.advance(15_000);
    let query =
        "SELECT data FROM events WHERE kind = 'expired' AND instance = 'a' AND service = 'orders'";
    let rows = eventually("expired", async || server.sql(query), |rows| rows.len() == 1).await;
    let expired: serde_json::Value = serde_json::from_str(rows[0][0].as_str().unwrap()).unwrap();
    assert_eq!(expired["last_heartbeat"]["trace_id"], beat.header("traceresponse")[3..35]);
    server.stop().await;
    let report = verify(data.path(), |_| {}).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_belongs_to_one_registry() {
    let data = TempDir::new().unwrap();
    let server = Server::start_with(at(&data)).await;
    let second = SqliteLog::open(data.path(), Synchronous::Full, "second");
    assert!(matches!(second, Err(OpenError::Locked { .. })), "{second:?}");
    server.stop().await;
    drop(SqliteLog::open(data.path(), Synchronous::Full, "second").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_says_what_is_wrong_and_where() {
    let data = TempDir::new().unwrap();
    let server = Server::start_with(at(&data)).await;
    server.register("orders", "a", "15s").await;
    server.register("orders", "b", "15s").await;
    server.beat("orders", "a").await;
    server.stop().await;
    let connection = rusqlite::Connection::open(data.path().join("rollcall.db")).unwrap();
    connection
        .execute(
            "UPDATE changes SET data = replace(data, '10.0.0.7', '10.0.0.8') WHERE seq = 4",
            [],
        )
        .unwrap();
    // A cell that is no UTF-8 any more, and one of another type.
    connection
        .execute(
            "UPDATE changes SET caller = CAST(x'ff' AS TEXT), checksum = 'x' WHERE seq = 3",
            [],
        )
        .unwrap();
    connection.execute("UPDATE traffic SET statuses = x'343034'", []).unwrap();
    drop(connection);
    let report = verify(data.path(), |_| {}).unwrap();
    let places: Vec<&str> = report.findings.iter().map(|finding| finding.place.as_str()).collect();
    assert!(places.contains(&"change 3"), "{report:?}");
    assert!(
        places.contains(&"change 4") && places.contains(&"the traffic block from t1"),
        "{report:?}"
    );
    assert_eq!(sql(data.path(), "SELECT count(*) FROM changes")[0][0], 5, "verify changes nothing");
}

/// Every byte of a table's pages matters to somebody: whatever is flipped there, the check ends, and names a
/// place unless the byte stood for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn verify_survives_flipped_bytes_everywhere() {
    let data = TempDir::new().unwrap();
    let server = Server::start_with(at(&data)).await;
    for instance in 0..60 {
        server.register("orders", &format!("i{instance}"), "15s").await;
    }
    server.stop().await;
    let path = data.path().join("rollcall.db");
    let whole = std::fs::read(&path).unwrap();
    let clean = verify(data.path(), |_| {}).unwrap();
    assert!(clean.is_clean(), "{clean:?}");
    let copy = TempDir::new().unwrap();
    let target = copy.path().join("rollcall.db");
    let mut random = fastrand::Rng::with_seed(11);
    let mut found = 0;
    for _ in 0..150 {
        let mut damaged = whole.clone();
        // Beyond the first page, which says what kind of file it is.
        let position = random.usize(4_096..damaged.len());
        damaged[position] ^= 1 << random.u8(0..8);
        std::fs::write(&target, &damaged).unwrap();
        match verify(copy.path(), |_| {}) {
            Ok(report) if report.is_clean() => assert_eq!(report.digest, clean.digest),
            Ok(report) => {
                found += 1;
                assert!(report.findings.iter().all(|f| !f.place.is_empty() && !f.what.is_empty()));
            }
            // The page of the table `log` itself, or of the schema: then nothing can be said of the rest.
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(found > 20, "of 150 flips only {found} were noticed");
}
