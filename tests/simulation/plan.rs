//! What one seed stands for: how many instances there are, how patient their leases are, and what goes wrong how often.
//!
//! Each seed leaves out some of the faults altogether (swarm testing, Groce et al. 2012): a bug that one fault hides
//! from another is found by the seeds that have only one of them.

use std::time::Duration;

use fastrand::Rng;
use rollcall::lease::guard::Policy;
use rollcall::registrar;

/// How often something goes wrong; weights, of which many seeds have none of some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// An instance dies without a word.
    Kill,
    /// All instances of a zone die.
    KillZone,
    /// An instance that is down starts again.
    Revive,
    /// An instance stops for a while, as in a long collection of garbage.
    Freeze,
    /// The network between a zone and the registry is cut, or comes back.
    Cut,
    /// An instance says goodbye.
    Leave,
    /// An instance changes its mind about its own health.
    Report,
    /// The log fails for a while.
    LogFails,
    /// The log answers late for a while.
    LogSlow,
    /// The registry's process stops for a while.
    Stall,
    /// The registry's process is killed.
    Crash,
    /// The registry's process is killed in the middle of its next write.
    CrashInWrite,
    /// The registry is stopped in order and started again.
    Restart,
    /// The wall clock jumps.
    Jump,
    /// A probe of an instance comes to another verdict.
    Probe,
    /// An instance is silent until it is late, says one thing more and falls silent again; what else goes wrong in this
    /// seed goes wrong just then.
    Gasp,
    /// Instances die one after the other, each about when the one before it is late; the log becomes slow meanwhile, if
    /// it does so in this seed.
    Wave,
}

impl Trouble {
    const ALL: [(Self, u32); 17] = [
        (Self::Kill, 8),
        (Self::KillZone, 2),
        (Self::Revive, 14),
        (Self::Freeze, 8),
        (Self::Cut, 4),
        (Self::Leave, 6),
        (Self::Report, 8),
        (Self::LogFails, 6),
        (Self::LogSlow, 6),
        (Self::Stall, 4),
        (Self::Crash, 3),
        (Self::CrashInWrite, 3),
        (Self::Restart, 2),
        (Self::Jump, 3),
        (Self::Probe, 8),
        (Self::Gasp, 8),
        (Self::Wave, 3),
    ];
}

/// What one seed stands for.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Instances of each service.
    pub(crate) services: Vec<usize>,
    /// Zones that the instances are spread over.
    pub(crate) zones: u64,
    /// The ttls to choose from, in milliseconds.
    pub(crate) ttls: Vec<u64>,
    /// Milliseconds of trouble, before all is well again.
    pub(crate) span: u64,
    /// Milliseconds between two troubles, on average.
    pub(crate) every: u64,
    /// Streams of changes, and long polls.
    pub(crate) watchers: (usize, usize),
    /// Of a thousand instances, so many are probed.
    pub(crate) probed: u64,
    /// Of a thousand of those, so many have no ttl, and never beat.
    pub(crate) only_probed: u64,
    /// For how many milliseconds a check may fail before its instance is taken out; for ever, if none is given.
    pub(crate) deregister_after: Option<u64>,
    /// Of a thousand instances, so many are judged by φ.
    pub(crate) adaptive: u64,
    /// Settings of the registrar.
    pub(crate) config: registrar::Config,
    troubles: Vec<(Trouble, u32)>,
}

fn settings() -> registrar::Config {
    registrar::Config {
        // Callers give up in the simulation's time, never in the machine's.
        write_timeout: Duration::from_secs(3_600),
        node: "simulated".to_owned(),
        ..registrar::Config::default()
    }
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of(random: &mut Rng) -> Self {
        let services = (0..random.usize(1..=4)).map(|_| [1, 2, 2, 3, 5, 8][random.usize(..6)]);
        let services = services.collect();
        let ttls = [vec![1_000], vec![2_000], vec![1_000, 3_000], vec![5_000]];
        let troubles = Trouble::ALL.into_iter().filter(|_| random.u8(..) < 150).collect::<Vec<_>>();
        Self {
            services,
            zones: random.u64(1..=3),
            ttls: ttls[random.usize(..ttls.len())].clone(),
            span: random.u64(15_000..60_000),
            every: random.u64(200..3_000),
            watchers: (random.usize(0..3), random.usize(0..3)),
            probed: [0, 0, 300][random.usize(..3)],
            only_probed: [0, 500][random.usize(..2)],
            deregister_after: [None, Some(1_000), Some(4_000)][random.usize(..3)],
            adaptive: [0, 0, 500][random.usize(..3)],
            config: registrar::Config {
                checkpoint_every: random.u64(5..200),
                flap_limit: [0, 2, 5][random.usize(..3)],
                flap_window: Duration::from_secs(random.u64(1..10)),
                guard: (random.u8(..4) > 0).then(Policy::default),
                traffic_queue: [65_536, 65_536, 24][random.usize(..3)],
                ..settings()
            },
            troubles,
        }
    }

    /// A world of one ttl in which nothing goes wrong by itself.
    pub(crate) fn quiet(services: Vec<usize>, ttl: u64) -> Self {
        Self {
            services,
            zones: 1,
            ttls: vec![ttl],
            span: 0,
            every: ttl,
            watchers: (1, 1),
            probed: 0,
            only_probed: 0,
            deregister_after: None,
            adaptive: 0,
            config: settings(),
            troubles: Vec::new(),
        }
    }

    /// Whether the wall clock is to be trusted.
    pub(crate) fn keeps_time(&self) -> bool {
        !self.has(Trouble::Jump)
    }

    /// Whether this goes wrong in this seed.
    pub(crate) fn has(&self, trouble: Trouble) -> bool {
        self.troubles.iter().any(|(known, _)| *known == trouble)
    }

    /// Nothing goes wrong any more.
    pub(crate) fn silence(&mut self) {
        self.troubles.clear();
    }

    /// Something that goes wrong next; nothing in a seed that has no trouble at all.
    pub(crate) fn trouble(&self, random: &mut Rng) -> Option<Trouble> {
        let total: u32 = self.troubles.iter().map(|(_, weight)| weight).sum();
        let mut at = random.u32(..total.max(1));
        for (trouble, weight) in &self.troubles {
            if at < *weight {
                return Some(*trouble);
            }
            at -= weight;
        }
        None
    }
}
