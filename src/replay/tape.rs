//! Where a replay stands: the replayed present as a function of the clock, the pace and what was asked for last.
//!
//! Plain arithmetic behind one small lock. It reads nothing and applies nothing; the engine does, and writes down here
//! how far it has come. Asked by everything that wants to know what time it is in the replay.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::{Clock, Monotonic};
use crate::domain::{Millis, Seq, Timestamp};

/// How fast the past goes by: a multiple of the recorded pace, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Speed(u32);

/// Why a speed was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a speed from 0.01x to 100000x, such as \"10x\" or \"0.5x\"")]
pub struct InvalidSpeed;

impl Speed {
    /// The recorded pace.
    pub const NORMAL: Self = Self(1_000);
    /// The slowest.
    pub const MIN: Self = Self(10);
    /// The fastest: a day in less than a second.
    pub const MAX: Self = Self(100_000_000);

    /// Reads `10x`, `0.5x` or a bare number.
    ///
    /// # Errors
    /// [`InvalidSpeed`] for anything else, and for what is out of range.
    pub fn parse(text: &str) -> Result<Self, InvalidSpeed> {
        let number = text.strip_suffix('x').unwrap_or(text);
        let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        // A bare number of seconds has thousandths, too: the reading of durations is the one that is needed here.
        let thousandths = Millis::parse(number).ok().filter(|_| plain).ok_or(InvalidSpeed)?;
        let speed = Self(u32::try_from(thousandths.millis()).map_err(|_| InvalidSpeed)?);
        (Self::MIN..=Self::MAX).contains(&speed).then_some(speed).ok_or(InvalidSpeed)
    }

    /// Twice as fast, as far as there is such a speed.
    #[must_use]
    pub fn doubled(self) -> Self {
        Self(self.0.saturating_mul(2)).min(Self::MAX)
    }

    /// Half as fast, as far as there is such a speed.
    #[must_use]
    pub fn halved(self) -> Self {
        Self(self.0 / 2).max(Self::MIN)
    }

    /// The recorded time that goes by in `micros` of real time.
    fn recorded(self, micros: u64) -> i64 {
        let recorded = u128::from(micros) * u128::from(self.0) / 1_000;
        i64::try_from(recorded).unwrap_or(i64::MAX)
    }

    /// The real time in which `micros` of recorded time go by, rounded up: never too early.
    fn real(self, micros: u64) -> Millis {
        let real = (u128::from(micros) * 1_000).div_ceil(u128::from(self.0));
        Millis::from_millis(u64::try_from(real.div_ceil(1_000)).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1_000, self.0 % 1_000);
        if part == 0 {
            return write!(f, "{whole}x");
        }
        write!(f, "{whole}.{}x", format!("{part:03}").trim_end_matches('0'))
    }
}

/// A place in the past: a version, and an instant at which it was the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The instant.
    pub at: Timestamp,
    /// The version.
    pub seq: Seq,
}

crate::domain::instance::words! {
    /// Whether the past goes by.
    Playing {
        /// It does.
        Playing = "playing",
        /// It stands still.
        Paused = "paused",
        /// It has come to the end of the stretch.
        Ended = "ended",
    }
}

/// How a replay stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Where it is.
    pub place: Place,
    /// Where it began.
    pub from: Place,
    /// Where it ends.
    pub to: Place,
    /// How fast it goes.
    pub speed: Speed,
    /// Whether it goes.
    pub state: Playing,
    /// Why it stopped where it was not asked to: the log could not be read.
    pub trouble: Option<Arc<str>>,
}

#[derive(Debug)]
struct State {
    /// The recorded instant that was the present one when the clock showed `since`.
    at: Timestamp,
    since: Monotonic,
    seq: Seq,
    speed: Speed,
    playing: bool,
    trouble: Option<Arc<str>>,
}

/// The replayed present.
#[derive(Debug)]
pub(super) struct Tape {
    clock: Arc<dyn Clock>,
    from: Place,
    to: Place,
    state: Mutex<State>,
}

impl Tape {
    /// A tape that stands at `from`.
    pub(super) fn new(clock: Arc<dyn Clock>, from: Place, to: Place, speed: Speed) -> Self {
        let since = clock.monotonic();
        let state =
            State { at: from.at, since, seq: from.seq, speed, playing: false, trouble: None };
        Self { clock, from, to, state: Mutex::new(state) }
    }

    pub(super) fn from(&self) -> Place {
        self.from
    }

    pub(super) fn to(&self) -> Place {
        self.to
    }

    /// The version that is published, and the present instant.
    pub(super) fn place(&self) -> Place {
        let state = self.state.lock();
        Place { at: self.present(&state), seq: state.seq }
    }

    pub(super) fn position(&self) -> Position {
        let state = self.state.lock();
        let place = Place { at: self.present(&state), seq: state.seq };
        let ended = place.at >= self.to.at && place.seq >= self.to.seq;
        Position {
            place,
            from: self.from,
            to: self.to,
            speed: state.speed,
            state: match state.playing {
                true if !ended => Playing::Playing,
                _ if ended => Playing::Ended,
                _ => Playing::Paused,
            },
            trouble: state.trouble.clone(),
        }
    }

    pub(super) fn is_playing(&self) -> bool {
        self.state.lock().playing
    }

    /// When the clock will show that `at` is the present.
    pub(super) fn due(&self, at: Timestamp) -> Monotonic {
        let state = self.state.lock();
        let ahead = u64::try_from(at.micros().saturating_sub(state.at.micros())).unwrap_or(0);
        state.since.plus(state.speed.real(ahead))
    }

    /// Says that this version is published.
    pub(super) fn reached(&self, seq: Seq) {
        self.state.lock().seq = seq;
    }

    /// Goes to another place.
    pub(super) fn jump(&self, place: Place) {
        let mut state = self.state.lock();
        (state.at, state.since, state.seq) = (place.at, self.clock.monotonic(), place.seq);
        state.trouble = None;
    }

    /// Goes on, or stands still from now on.
    pub(super) fn play(&self, playing: bool) {
        self.turn(|state| state.playing = playing);
    }

    /// Changes the pace from now on.
    pub(super) fn set_speed(&self, speed: Speed) {
        self.turn(|state| state.speed = speed);
    }

    /// Stands still because of this.
    pub(super) fn fail(&self, cause: Arc<str>) {
        self.turn(|state| (state.playing, state.trouble) = (false, Some(cause)));
    }

    /// Changes what the present depends on, without moving the present.
    fn turn(&self, edit: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        (state.at, state.since) = (self.present(&state), self.clock.monotonic());
        edit(&mut state);
    }

    fn present(&self, state: &State) -> Timestamp {
        if !state.playing {
            return state.at;
        }
        let real = self.clock.monotonic().micros_since(state.since);
        Timestamp(state.at.micros().saturating_add(state.speed.recorded(real))).min(self.to.at)
    }
}

/// The clock of a replay: the wall shows the replayed present, so that ages (`-5m`) and "in the future" mean what
/// they meant then; what is measured, such as how long a request takes, is measured in real time.
#[derive(Debug)]
pub struct ReplayClock {
    pub(super) tape: Arc<Tape>,
    pub(super) real: Arc<dyn Clock>,
}

impl Clock for ReplayClock {
    fn wall(&self) -> Timestamp {
        self.tape.place().at
    }

    fn monotonic(&self) -> Monotonic {
        self.real.monotonic()
    }

    fn awake_since(&self) -> Monotonic {
        self.real.awake_since()
    }

    fn park(&self, until: Monotonic) {
        self.real.park(until);
    }

    fn worked_micros(&self) -> Option<u64> {
        self.real.worked_micros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn speeds_read_and_show_as_people_write_them() {
        for (text, shown) in [("10x", "10x"), ("10", "10x"), ("0.5x", "0.5x"), ("1.25x", "1.25x")] {
            assert_eq!(Speed::parse(text).map(|speed| speed.to_string()), Ok(shown.to_owned()));
        }
        for text in [
            "",
            "x",
            "0x",
            "-1x",
            "1ms",
            "1h",
            "100001x",
            "0.001x",
            "fast",
            "1e3",
            "99999999999999x",
        ] {
            assert_eq!(Speed::parse(text), Err(InvalidSpeed), "{text}");
        }
        assert_eq!(Speed::MAX.doubled(), Speed::MAX);
        assert_eq!(Speed::MIN.halved(), Speed::MIN);
    }

    #[test]
    fn the_present_moves_with_the_pace_and_never_beyond_the_end() {
        let clock = ManualClock::new(Timestamp(0));
        let place = |at, seq| Place { at: Timestamp(at), seq: Seq(seq) };
        let speed = Speed::parse("10x").unwrap();
        let tape = Tape::new(clock.clone(), place(1_000_000, 1), place(31_000_000, 9), speed);
        clock.advance(Millis::from_millis(500));
        assert_eq!(
            (tape.place().at, tape.position().state),
            (Timestamp(1_000_000), Playing::Paused)
        );
        tape.play(true);
        assert_eq!(tape.due(Timestamp(11_000_000)).micros_since(clock.monotonic()), 1_000_000);
        clock.advance(Millis::from_millis(500));
        assert_eq!(
            (tape.place().at, tape.position().state),
            (Timestamp(6_000_000), Playing::Playing)
        );
        tape.set_speed(Speed::NORMAL);
        clock.advance(Millis::from_millis(500));
        assert_eq!(tape.place().at, Timestamp(6_500_000));
        tape.play(false);
        clock.advance(Millis::from_millis(500));
        assert_eq!(tape.place().at, Timestamp(6_500_000));
        tape.play(true);
        clock.advance(Millis::from_millis(3_600_000));
        assert_eq!(
            (tape.place().at, tape.position().state),
            (Timestamp(31_000_000), Playing::Playing)
        );
        tape.reached(Seq(9));
        assert_eq!(tape.position().state, Playing::Ended);
    }
}
