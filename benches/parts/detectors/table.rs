//! What the detectors make of the series in `gaps/`: how often a living sender is suspected or given up, and how long a
//! dead one is believed. `tests/tidy` compiles this file, too, and holds `docs/DETECTORS.md` to it.

use std::fmt::Write as _;
use std::path::Path;

use rollcall::clock::Monotonic;
use rollcall::domain::{Detector, Millis, Timestamp, TraceRef};
use rollcall::lease::Lease;
use rollcall::lease::phi::{Window, deviations_at};

/// Each with the name of its file.
pub(crate) const SERIES: [&str; 6] =
    ["regular", "jittery", "heavy_tailed", "gc_pauses", "lossy", "changing"];

/// A series: how it was made, and its gaps.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) recipe: String,
    pub(crate) gaps: Vec<Millis>,
}

impl Series {
    /// Reads the files, which lie below `root`, the top of the repository.
    pub(crate) fn all(root: &Path) -> Vec<Self> {
        let folder = root.join("benches/parts/detectors/gaps");
        let read = |name: &'static str| {
            let path = folder.join(name).with_extension("txt");
            let text = std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let (recipe, gaps) = text.split_once('\n').expect("a line that says how it was made");
            let gap = |line: &str| Millis::from_millis(line.parse().expect("milliseconds"));
            let recipe = recipe.trim_start_matches("# ").to_owned();
            Self { name, recipe, gaps: gaps.lines().map(gap).collect() }
        };
        SERIES.map(read).into()
    }
}

/// Who judges.
#[derive(Clone, Copy)]
pub(crate) enum Judge {
    /// A lease of the registry under this detector.
    Lease(Detector),
    /// φ as in the paper: gone at the threshold, late no sooner, and no bounds.
    Textbook(f64),
}

impl Judge {
    /// Those that are compared where the ttl is what it should be.
    pub(crate) fn all() -> Vec<Self> {
        let phi = |threshold| Self::Lease(Detector::phi(threshold).expect("within the bounds"));
        vec![Self::Lease(Detector::Fixed), phi(4.0), phi(8.0), phi(12.0), Self::Textbook(8.0)]
    }

    /// Those that are compared where the ttl is too short.
    pub(crate) fn usual() -> Vec<Self> {
        vec![Self::Lease(Detector::Fixed), Self::Lease(Detector::PHI)]
    }

    fn name(self) -> String {
        match self {
            Self::Lease(detector) => match detector.threshold() {
                None => "fixed".to_owned(),
                Some(threshold) => format!("phi, {threshold}"),
            },
            Self::Textbook(threshold) => format!("phi, {threshold}, of the paper"),
        }
    }
}

/// What came of a series.
#[derive(Default)]
struct Outcome {
    beats: u32,
    /// Heartbeats that came after the sender was called late, or was given up.
    late: u32,
    gone: u32,
    /// Sums, over all heartbeats, of how long a silence after it would have lasted until that.
    late_after: f64,
    gone_after: f64,
    longest: Millis,
}

/// A judge at work on one sender, who begins anew after it was given up.
enum Work {
    Lease(Box<Lease>, Detector, Millis),
    Textbook(Window, f64, Millis),
}

impl Work {
    fn begin(judge: Judge, ttl: Millis, now: Monotonic) -> Self {
        match judge {
            Judge::Lease(detector) => {
                let lease = Lease::granted(Some(ttl), now, TraceRef::default()).judged_by(detector);
                Self::Lease(Box::new(lease), detector, ttl)
            }
            Judge::Textbook(threshold) => {
                Self::Textbook(Window::new(), deviations_at(threshold), ttl)
            }
        }
    }

    /// After how long a silence the sender would be late and gone.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length of time")]
    fn bounds(&self) -> (Millis, Millis) {
        match self {
            Self::Lease(lease, ..) => {
                let ends = lease.late_after().zip(lease.expires_after());
                ends.expect("a lease with a ttl runs out")
            }
            Self::Textbook(window, z, ttl) => match window.estimate() {
                None => (Millis::from_millis(ttl.millis() * 2 / 3), *ttl),
                Some(estimate) => {
                    let end = Millis::from_millis((estimate.mean + z * estimate.deviation) as u64);
                    (end, end)
                }
            },
        }
    }

    fn beat(&mut self, gap: Millis, now: Monotonic) {
        match self {
            Self::Lease(lease, ..) => {
                lease.renew(now, Timestamp::default()).expect("nobody marks it");
            }
            Self::Textbook(window, ..) => window.push(gap, Millis::from_millis(u64::MAX)),
        }
    }

    fn again(&mut self, now: Monotonic) {
        let (judge, ttl) = match self {
            Self::Lease(_, detector, ttl) => (Judge::Lease(*detector), *ttl),
            // Its threshold is known as deviations only.
            Self::Textbook(window, _, _) => return *window = Window::new(),
        };
        *self = Self::begin(judge, ttl, now);
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of minutes")]
fn judge(series: &Series, judge: Judge, ttl: Millis) -> Outcome {
    let mut outcome = Outcome::default();
    let mut now = Monotonic(0);
    let mut work = Work::begin(judge, ttl, now);
    for gap in &series.gaps {
        let (late_after, gone_after) = work.bounds();
        outcome.beats += 1;
        outcome.late_after += late_after.millis() as f64;
        outcome.gone_after += gone_after.millis() as f64;
        outcome.longest = outcome.longest.max(gone_after);
        now = now.plus(*gap);
        outcome.late += u32::from(*gap >= late_after);
        if *gap >= gone_after {
            outcome.gone += 1;
            work.again(now);
        } else {
            work.beat(*gap, now);
        }
    }
    outcome
}

/// The table of these judges over all series, as it stands in the document.
pub(crate) fn table(series: &[Series], judges: &[Judge], ttl: Millis) -> String {
    let mut text = "| series | detector | late wrongly, of 1,000 | gone wrongly, of 1,000 | late after, mean | gone after, mean | gone after, longest |\n\
                    | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for one in series {
        for (place, who) in judges.iter().enumerate() {
            let found = judge(one, *who, ttl);
            let beats = f64::from(found.beats);
            let share = |count: u32| f64::from(count) * 1_000.0 / beats;
            let name = if place == 0 { one.name.replace('_', " ") } else { String::new() };
            writeln!(
                text,
                "| {name} | {} | {:.1} | {:.1} | {:.1} s | {:.1} s | {:.1} s |",
                who.name(),
                share(found.late),
                share(found.gone),
                found.late_after / beats / 1_000.0,
                found.gone_after / beats / 1_000.0,
                found.longest.to_duration().as_secs_f64(),
            )
            .expect("a text takes everything");
        }
    }
    text
}
