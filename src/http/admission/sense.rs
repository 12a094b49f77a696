//! Measures what waits, ten times a second, and moves what is refused.
//!
//! A request that is ready waits in the runtime's queue until a worker takes it up, behind all who were ready before it.
//! So a task that does nothing else asks for its turn and looks how long that takes: that is how long a lookup waits at
//! the door, whether its own requests or others have the processors (see [`super::pressure`], which tells the two
//! apart). It runs as long as the server does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pressure::{Pressure, Reading};
use super::ratio;
use crate::http::Shared;
use crate::telemetry::names::RequestClass;
use crate::telemetry::signals;

/// How often it asks for its turn.
const EVERY: Duration = Duration::from_millis(10);
/// The same while hardly anything is asked of the registry.
const EVERY_IDLE: Duration = Duration::from_millis(100);
/// So few requests in a window are hardly anything.
const IDLE: u64 = 32;
/// How long a window is, at least.
const WINDOW: Duration = Duration::from_millis(100);
/// And how many turns it has: one alone would take a single pause of the process for a queue.
const TURNS_MIN: u32 = 3;

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

/// Measures, until it is dropped.
pub(in crate::http) async fn sense(api: Shared) {
    let door = &api.admission;
    let Some(targets) = door.targets() else { return };
    let mut pressure = Pressure::default();
    let mut window = Window::begin();
    let mut every = EVERY_IDLE;
    loop {
        tokio::time::sleep(every).await;
        let asked = Instant::now();
        // To the end of the queue: a task that a timer has woken would be taken up before those who wait.
        tokio::task::yield_now().await;
        let waited = asked.elapsed();
        api.metrics.door.turn_seconds.record(waited.as_secs_f64());
        let (commands, most) = api.registrar.inbox_fill();
        window.turns += 1;
        window.waited = window.waited.min(waited);
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
        pressure.follow(&reading, &targets);
        door.put(waited, pressure);
        tell(&api, before, pressure, waited);
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
