//! Watchers that connect and go leave nothing behind.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::watchers;
use crate::harness::Server;

/// Waves: both ends of each connection are in this process, and what it may open has a limit.
const WAVES: usize = 10;
const WATCHERS: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_watchers_come_and_go() {
    let server = Server::start().await;
    server.register("orders", "a", "15s").await;
    for wave in 0..WAVES {
        let mut waiting: Vec<TcpStream> = Vec::new();
        for number in 0..WATCHERS {
            let mut connection = server.connect().await;
            // Names that nobody else has: they must not stay, either.
            let path = match number % 10 {
                0 => "/v1/watch".to_owned(),
                _ => format!("/v1/services/s{wave}-{number}/instances?after=0&wait=10m"),
            };
            let request = format!("GET {path} HTTP/1.1\r\nhost: registry\r\n\r\n");
            connection.write_all(request.as_bytes()).await.unwrap();
            waiting.push(connection);
        }
        watchers(&server, "longpoll", 900.0).await;
        watchers(&server, "sse", 100.0).await;
        drop(waiting);
        watchers(&server, "longpoll", 0.0).await;
        watchers(&server, "sse", 0.0).await;
    }
    let page = server.page().await;
    assert_eq!(page.sum("rollcall_watch_duration_seconds_count", &["outcome=\"left\""]), 10_000.0);
    assert_eq!(page.sum("http_server_active_requests", &[]), 1.0);
    assert_eq!(server.offered("orders").await, ["a"]);
    server.stop().await;
}
