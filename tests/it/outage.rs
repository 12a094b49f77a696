//! The registry is gone for twice a ttl, and everybody returns within the second in which it is back: nobody is evicted,
//! and all have renewed within five seconds.
//!
//! ```text
//! ROLLCALL_HERD=10000 ROLLCALL_HERD_TTL=10 cargo test --release --test it outage -- --nocapture   # with figures
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::crash::Child;
use crate::harness::{Raw, sql};

/// All have to come back within this time, and to be renewed within that.
const RETURN: Duration = Duration::from_secs(1);
const RENEWED: Duration = Duration::from_secs(5);

fn told(variable: &str, otherwise: u32) -> u32 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// What all of them know.
struct Herd {
    address: SocketAddr,
    size: u32,
    ttl: Duration,
    /// Passed when all are registered, and again when the registry is back.
    registered: Barrier,
    back: Barrier,
}

/// How long after the registry was back an instance was renewed, and how long it waited for that.
struct Renewed {
    after: Duration,
    waited: Duration,
}

async fn ask(connection: &mut BufReader<TcpStream>, path: &str, body: &str) -> Raw {
    let request = format!(
        "PUT /v1/services/{path} HTTP/1.1\r\nhost: registry\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.get_mut().write_all(request.as_bytes()).await.unwrap();
    Raw::read(connection).await
}

async fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    BufReader::new(TcpStream::connect(address).await.unwrap())
}

/// One instance, on a connection of its own: registers, loses the registry, returns at its own moment of the second, and
/// beats on for two ttls.
async fn member(herd: Arc<Herd>, number: u32) -> Renewed {
    let path = format!("s{}/instances/i{number}", number % 50);
    let ttl = format!("{}s", herd.ttl.as_secs());
    let body = json!({"address": "10.0.0.7", "port": 8080, "ttl": ttl}).to_string();
    let answer = ask(&mut connect(herd.address).await, &path, &body).await;
    assert_eq!(answer.status(), 201, "{answer:?}");
    herd.registered.wait().await;
    herd.back.wait().await;
    let back = Instant::now();
    let mut next = back + RETURN * number / herd.size;
    sleep_until(next).await;
    let mut connection = connect(herd.address).await;
    let beat = format!("{path}/heartbeat");
    let answer = ask(&mut connection, &beat, "").await;
    assert_eq!(answer.status(), 200, "{path} returns: {answer:?}");
    let renewed = Renewed { after: back.elapsed(), waited: next.elapsed() };
    while next < back + 2 * herd.ttl {
        next += herd.ttl / 4;
        sleep_until(next).await;
        let answer = ask(&mut connection, &beat, "").await;
        assert_eq!(answer.status(), 200, "{path} beats: {answer:?}");
    }
    renewed
}

#[tokio::test(flavor = "multi_thread")]
async fn who_returns_after_an_outage_is_not_evicted() {
    let (size, ttl) = (told("ROLLCALL_HERD", 200), told("ROLLCALL_HERD_TTL", 4));
    let ttl = Duration::from_secs(ttl.into());
    let data = TempDir::new().unwrap();
    let child = Child::serve(&data).ready().await;
    let address: SocketAddr = child.url.strip_prefix("http://").unwrap().parse().unwrap();
    let everybody = usize::try_from(size).unwrap() + 1;
    let (registered, back) = (Barrier::new(everybody), Barrier::new(everybody));
    let herd = Arc::new(Herd { address, size, ttl, registered, back });
    let mut members = JoinSet::new();
    for number in 0..size {
        members.spawn(member(Arc::clone(&herd), number));
    }
    herd.registered.wait().await;
    child.kill();
    // The outage itself: what is shown is that so much real time of silence evicts nobody.
    tokio::time::sleep(2 * ttl).await;
    let child = Child::serve_at(&data, address.port()).ready().await;
    herd.back.wait().await;
    let renewed = members.join_all().await;
    child.terminate();

    let count = |kind: &str| {
        let rows = sql(data.path(), &format!("SELECT count(*) FROM changes WHERE kind = '{kind}'"));
        rows[0][0].as_u64().unwrap()
    };
    assert_eq!((count("registered"), count("expired")), (u64::from(size), 0));
    let last = renewed.iter().map(|renewed| renewed.after).max().unwrap();
    let mut waited: Vec<Duration> = renewed.iter().map(|renewed| renewed.waited).collect();
    waited.sort();
    let at = |share: usize| waited[(waited.len() - 1) * share / 100];
    println!(
        "{size} instances with a ttl of {ttl:?} returned after an outage of {:?}: 0 expired, {} changes of status, all \
         renewed {last:?} after the registry was back; each waited p50 {:?}, p99 {:?}, at most {:?}",
        2 * ttl,
        count("status_changed"),
        at(50),
        at(99),
        at(100),
    );
    assert!(last <= RENEWED, "the last one was renewed after {last:?}");
}
