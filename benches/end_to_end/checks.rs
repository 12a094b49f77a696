//! What it costs to probe: as many HTTP checks as asked for, of 10 s each, against the bare server, beside a registry with
//! the same instances and no checks. Both run at the same time, so that a noisy machine disturbs both; the difference of
//! their processor time is what the checks cost.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::http1::Client;
use crate::options::Options;
use crate::servers::{Server, await_that};
use crate::work::Work;

/// From one probe of a check to the next.
const INTERVAL: Duration = Duration::from_secs(10);

/// Share of one core that 10,000 checks may cost.
const GOAL: f64 = 0.15;

/// What one window of the measurement saw.
#[derive(Debug, Clone, Copy)]
struct Window {
    seconds: f64,
    /// Seconds of processor time: of the registry with the checks, of the one without, of the server that is probed.
    checked: f64,
    unchecked: f64,
    probed: f64,
    probes: u64,
}

/// Measures and prints the figures.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let bodies = tempfile::tempdir_in(&options.dir)?;
    for work in Work::ALL {
        std::fs::write(bodies.path().join(work.file()), "{}")?;
    }
    let bare = Server::bare(bodies.path(), options)?;
    let registry = |check: bool| -> Result<(Server, tempfile::TempDir), Failure> {
        let dir = tempfile::tempdir_in(&options.dir)?;
        let server = start(dir.path(), options, bare.address, check)?;
        Ok((server, dir))
    };
    let (checked, _dir) = registry(true)?;
    let (unchecked, _other) = registry(false)?;
    let count = options.checks as u64;
    let healthy = "rollcall_instances{status=\"healthy\",mode=\"active\"}";
    await_that("all have passed", || Ok(figure(checked.address, healthy)? == count))?;
    // Until then the first probes of all came close together.
    std::thread::sleep(INTERVAL + INTERVAL / 5);

    let mut windows = Vec::new();
    for _ in 0..options.rounds {
        let cpu = || -> Result<[f64; 3], Failure> {
            let of = |server: &Server| server.cpu().ok_or("the processor time is in /proc only");
            Ok([of(&checked)?, of(&unchecked)?, of(&bare)?].map(|time| time.as_secs_f64()))
        };
        let passed =
            || figure(checked.address, "rollcall_probes_total{kind=\"http\",outcome=\"passed\"}");
        let (began, before, probes) = (now(), cpu()?, passed()?);
        std::thread::sleep(Duration::from_secs_f64(options.seconds).max(INTERVAL));
        let (after, seconds) = (cpu()?, now().duration_since(began).as_secs_f64());
        let [checked, unchecked, probed] = [0, 1, 2].map(|n| after[n] - before[n]);
        windows.push(Window { seconds, checked, unchecked, probed, probes: passed()? - probes });
    }
    let page = Client::open(checked.address)?.get("/metrics")?.1;
    show(options, &windows, checked.resident_bytes(), unchecked.resident_bytes())?;
    faults(&page, count)?;
    checked.end()?;
    unchecked.end()
}

/// A registry with as many instances at `target`, checked or not.
fn start(
    dir: &Path,
    options: &Options,
    target: SocketAddr,
    check: bool,
) -> Result<Server, Failure> {
    let server = Server::rollcall(dir, options)?;
    let mut client = Client::open(server.address)?;
    let check = match check {
        true => format!(
            ",\"check\":{{\"kind\":\"http\",\"path\":\"/bare/up\",\"interval\":{}}}",
            INTERVAL.as_secs()
        ),
        false => String::new(),
    };
    let (ip, port) = (target.ip(), target.port());
    let body = format!("{{\"address\":\"{ip}\",\"port\":{port},\"ttl\":\"24h\"{check}}}");
    for number in 0..options.checks {
        let path =
            format!("/v1/services/service-{:05}/instances/instance-{number:05}", number / 10);
        let request = format!(
            "PUT {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = client.exchange(request.as_bytes())?;
        if answer.status != 201 {
            let body = String::from_utf8_lossy(client.body(&answer)).into_owned();
            return Err(format!("registering: {} {body}", answer.status).into());
        }
    }
    Ok(server)
}

/// The value of one series; 0 if it is not there.
fn figure(server: SocketAddr, series: &str) -> Result<u64, Failure> {
    let (_, page) = Client::open(server)?.get("/metrics")?;
    Ok(value(&page, series))
}

fn value(page: &str, series: &str) -> u64 {
    let mut lines = page.lines().filter_map(|line| line.strip_prefix(series));
    lines.next().and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
}

/// A prober that fails, or that does not keep up, has not done the work that was measured.
fn faults(page: &str, checks: u64) -> Result<(), Failure> {
    let others: u64 = page
        .lines()
        .filter(|line| line.starts_with("rollcall_probes_total{") && !line.contains("passed"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum();
    // The newest probe of each may have been slow while all were registered.
    let all = value(page, "rollcall_probe_lag_seconds_count");
    let prompt = value(page, "rollcall_probe_lag_seconds_bucket{le=\"0.2\"}");
    if others > 0 || all - prompt > checks {
        let late = all - prompt;
        return Err(format!("{others} of {all} probes did not pass, {late} began late").into());
    }
    Ok(())
}

fn show(
    options: &Options,
    windows: &[Window],
    with: Option<u64>,
    without: Option<u64>,
) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    let share = |of: &dyn Fn(&Window) -> f64| {
        let mut shares: Vec<f64> =
            windows.iter().map(|window| of(window) / window.seconds).collect();
        shares.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| 100.0 * shares.get(index).copied().unwrap_or(f64::NAN);
        let text = format!(
            "{:.1} % of a core ({:.1} to {:.1})",
            at(shares.len() / 2),
            at(0),
            at(shares.len() - 1)
        );
        (at(shares.len() / 2) / 100.0, text)
    };
    let (checks, rounds) = (options.checks, options.rounds);
    writeln!(
        out,
        "{checks} HTTP checks of {} s, {rounds} rounds: median (lowest to highest)",
        INTERVAL.as_secs()
    )?;
    let probes: u64 = windows.iter().map(|window| window.probes).sum();
    let seconds: f64 = windows.iter().map(|window| window.seconds).sum();
    writeln!(out, "probes                  {:.0}/s", as_f64(probes) / seconds)?;
    writeln!(out, "rollcall with checks    {}", share(&|window| window.checked).1)?;
    writeln!(out, "rollcall without        {}", share(&|window| window.unchecked).1)?;
    let (cost, text) = share(&|window| window.checked - window.unchecked);
    writeln!(out, "what the checks cost    {text}; to reach: {:.0} %", 100.0 * GOAL)?;
    let each = 1e6 * cost * seconds / as_f64(probes);
    writeln!(out, "for each probe          {each:.0} µs")?;
    writeln!(out, "the server probed       {}", share(&|window| window.probed).1)?;
    if let (Some(with), Some(without)) = (with, without) {
        let [with, without] = [with, without].map(|bytes| as_f64(bytes) / 1e6);
        writeln!(out, "resident MB             {with:.0} with checks, {without:.0} without")?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a measurement of real time")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::cast_precision_loss, reason = "some millions")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
