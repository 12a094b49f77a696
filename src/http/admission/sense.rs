//! Measures what waits, ten times a second, and moves what is refused.
//!
//! A request whose bytes are there waits twice: in the system's list of sockets that are ready, of which the runtime takes
//! some at a time, and then in the runtime's queue. So tasks that do nothing else, one begun every ten milliseconds, send
//! themselves a byte over a socket and look how long that takes to be read, behind all who were ready before it: that is how
//! long a lookup waits at the door, whether its own requests or others have the processors (see [`super::pressure`],
//! which tells the two apart). The runtime's queue alone would never be long: what it is given at once is a thousand
//! sockets at most. It runs as long as the server does.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pressure::{Pressure, Reading, Targets};
use super::ratio;
use crate::http::Shared;
use crate::telemetry::names::RequestClass;
use crate::telemetry::signals;

/// How often it asks for a turn.
const EVERY: Duration = Duration::from_millis(10);
/// The same while hardly anything is asked of the registry.
const EVERY_IDLE: Duration = Duration::from_millis(100);
/// So few requests in a window are hardly anything.
const IDLE: u64 = 32;
/// How long a window is, at least.
const WINDOW: Duration = Duration::from_millis(100);
/// And how many turns it has: one alone would take a single pause of the process for a queue.
const TURNS_MIN: u32 = 3;
/// Turns that are waited for at once, so that windows stay short where turns have become long: what is to be met within
/// a tenth of a second must be seen in it.
const AT_ONCE: usize = 16;

/// What was seen since the window began.
#[derive(Debug, Clone, Copy)]
struct Window {
    begun: Instant,
    turns: u32,
    waited: Duration,
    log_fill: f64,
    past_fill: f64,
}

impl Window {
    fn begin() -> Self {
        let (waited, log_fill, past_fill) = (Duration::MAX, f64::MAX, f64::MAX);
        Self { begun: Instant::now(), turns: 0, waited, log_fill, past_fill }
    }
}

/// A socket to itself.
struct Echo {
    sends: UnixStream,
    reads: UnixStream,
}

impl Echo {
    fn new() -> std::io::Result<Self> {
        let (sends, reads) = UnixStream::pair()?;
        Ok(Self { sends, reads })
    }

    /// Sends a byte, and waits until it is this socket's turn to be read.
    async fn turn(&mut self) -> std::io::Result<()> {
        self.sends.write_all(&[0]).await?;
        // Room for one more than comes: a read that fills its room leaves the socket marked as ready, and the next one
        // would not wait for its turn.
        self.reads.read(&mut [0; 2]).await.map(drop)
    }
}

/// Measures, until it is dropped.
pub(in crate::http) async fn sense(api: Shared) {
    let Some(targets) = api.admission.targets() else { return };
    let echoes = std::iter::repeat_with(Echo::new).take(AT_ONCE).collect::<Result<_, _>>();
    let measured = async { follow(&api, &targets, echoes?).await };
    if let Err(error) = measured.await {
        signals::not_sensing(&error);
    }
}

async fn follow(api: &Shared, targets: &Targets, mut free: Vec<Echo>) -> std::io::Result<()> {
    let door = &api.admission;
    let mut pressure = Pressure::default();
    let mut window = Window::begin();
    let mut every = EVERY_IDLE;
    let mut next = Instant::now() + every;
    let mut turns = JoinSet::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {
                next = Instant::now() + every;
                if let Some(mut echo) = free.pop() {
                    turns.spawn(async move {
                        let asked = Instant::now();
                        echo.turn().await?;
                        std::io::Result::Ok((echo, asked.elapsed()))
                    });
                }
            }
            Some(turn) = turns.join_next() => {
                let (echo, waited) = turn.map_err(std::io::Error::other)??;
                free.push(echo);
                api.metrics.door.turn_seconds.record(waited.as_secs_f64());
                window.turns += 1;
                window.waited = window.waited.min(waited);
            }
        }
        let (commands, most) = api.registrar.inbox_fill();
        // Half of what fits: the other half is for bursts, which go away by themselves.
        window.log_fill = window.log_fill.min(ratio(commands, most / 2));
        window.past_fill = window.past_fill.min(door.past_fill());
        let span = window.begun.elapsed();
        if span < WINDOW || window.turns < TURNS_MIN {
            continue;
        }
        let arrivals = door.take_arrivals();
        let Window { waited, log_fill, past_fill, .. } = window;
        let before = pressure;
        let reading = Reading { waited, span, arrivals, log_fill, past_fill };
        pressure.follow(&reading, targets);
        door.put(waited, pressure);
        tell(api, before, pressure, waited);
        let idle = arrivals.iter().sum::<u64>() < IDLE && !pressure.any();
        every = if idle { EVERY_IDLE } else { EVERY };
        window = Window::begin();
    }
}

/// Says when shedding begins and ends; what it does meanwhile is counted.
fn tell(api: &Arc<crate::http::Api>, before: Pressure, now: Pressure, waited: Duration) {
    for class in RequestClass::ALL {
        api.metrics.door.refused_share.get(*class).set(now.share(*class));
    }
    match (before.any(), now.any()) {
        (false, true) => signals::shedding_began(waited),
        (true, false) => signals::shedding_ended(),
        (true, true) | (false, false) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[tokio::test]
    async fn every_turn_waits_for_the_system_to_say_that_the_socket_is_ready() {
        let mut echo = Echo::new().unwrap();
        for _ in 0..3 {
            let mut turn = pin!(echo.turn());
            // Nobody has asked the system yet: whoever is ready at once has not waited behind the others.
            let first = turn.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(first, Poll::Pending), "{first:?}");
            turn.await.unwrap();
        }
    }
}
