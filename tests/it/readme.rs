//! What the README shows is true: its queries find something, its table of settings is the program's own.

use std::collections::BTreeSet;
use std::process::Command;

use crate::harness::{Server, eventually};

const README: &str = include_str!("../../README.md");

#[tokio::test(flavor = "multi_thread")]
async fn every_query_answers_its_question() {
    let server = Server::start().await;
    server.register("orders", "orders-1", "15s").await;
    server.advance(1_000);
    server.beat("orders", "orders-1").await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("rollcall-caller", "web"), ("traceparent", traceparent)];
    let looked = server.send("GET", "/v1/services/orders/instances", &headers, None).await;
    assert_eq!(looked.status, 200);
    server.advance(15_000);
    let gone =
        async || server.sql("SELECT count(*) FROM events WHERE kind IN ('expired', 'lookup')");
    eventually("all is in the log", gone, |rows| rows[0][0] == 2).await;

    let queries: Vec<&str> = README
        .split("<!-- queries -->\n```sql\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(queries.len(), 3);
    for query in queries {
        let rows = server.sql(query);
        assert_eq!(rows.len(), 1, "{query}: {rows:?}");
    }
    server.stop().await;
}

#[test]
fn the_table_of_settings_is_what_the_program_prints() {
    let program = env!("CARGO_BIN_EXE_rollcall");
    let printed =
        Command::new(program).args(["serve", "--print-config"]).env_clear().output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let assignment = |line: &str| {
        let (name, value) = line.split_once(" = ")?;
        // The default of the name is the host's, which is another one everywhere.
        let value = if name == "node" { "{hostname}" } else { value.trim_matches('"') };
        Some((name.to_owned(), value.to_owned()))
    };
    let real: BTreeSet<_> =
        printed.lines().filter(|line| !line.starts_with('#')).filter_map(assignment).collect();
    let cell = |text: &str| text.trim().trim_matches('`').to_owned();
    let told: BTreeSet<_> = README
        .lines()
        .skip_while(|line| !line.starts_with("| setting |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(cell))
        .map(|mut cells| (cells.nth(1).unwrap(), cells.next().unwrap()))
        .collect();
    assert_eq!(told, real);
}
