//! The visitors: who calls `web` at a steady rate, whatever becomes of the calls.
//!
//! The rate is kept by a clock, not by the answers: visitors do not come more slowly because a shop is slow. What is
//! under way is bounded; a visitor who finds too many others waiting leaves. Used by [`super::play`].

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::telemetry::spans::SpanKind;

use super::call::{Caller, Failure};

/// How many visitors may be in the shop.
const UNDER_WAY_MAX: usize = 256;

/// A source of calls.
pub(super) struct Visitors {
    caller: Caller,
    beat: Interval,
    under_way: JoinSet<()>,
}

impl Visitors {
    /// Visitors at this many a second.
    pub(super) fn new(rate: u32, caller: Caller) -> Self {
        let mut beat = interval(Duration::from_secs(1) / rate);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self { caller, beat, under_way: JoinSet::new() }
    }

    /// Waits for the next one and sends it on its way.
    pub(super) async fn next(&mut self) {
        self.beat.tick().await;
        while self.under_way.try_join_next().is_some() {}
        if self.under_way.len() < UNDER_WAY_MAX {
            self.under_way.spawn(visit(self.caller.clone()));
        }
    }

    /// Sends all home.
    pub(super) fn stop(&mut self) {
        self.under_way.abort_all();
    }
}

async fn visit(caller: Caller) {
    let (context, began) = (caller.spans.root(), caller.spans.begin());
    let failure = caller.call(&context, "web").await.err().map(Failure::as_str);
    caller.spans.end(began, context, SpanKind::Internal, "visit", failure, Vec::new());
}
