//! Whether a history of one instance's id could have been that of a register which does one thing at a time: the search
//! of Wing and Gong (1993) with the memory of Lowe (2017). Instances do not touch each other, and linearizability is
//! local (Herlihy and Wing 1990): if each id's history is linearizable, so is all of it.

use std::collections::HashSet;

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Register with this value, whoever is there.
    Put(u32),
    /// Register with this value, if nobody is there.
    Create(u32),
    /// Deregister.
    Delete,
    /// Who is there?
    Read,
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was done.
    Done,
    /// Somebody was there already.
    Taken,
    /// Nobody was there.
    Missing,
    /// This one is there, or nobody.
    Saw(Option<u32>),
    /// The connection broke, or the answer was that nobody knows.
    Unknown,
}

/// One operation, from when it was sent until when it was answered, in microseconds of the clients' clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) ask: Ask,
    pub(crate) answer: Answer,
    pub(crate) sent: u64,
    pub(crate) answered: u64,
}

impl Operation {
    /// What the register holds after this, if it can have happened where it held `held`.
    fn apply(&self, held: Option<u32>) -> Option<Option<u32>> {
        match (self.ask, self.answer, held) {
            (Ask::Put(value), Answer::Done | Answer::Unknown, _)
            | (Ask::Create(value), Answer::Done | Answer::Unknown, None) => Some(Some(value)),
            (Ask::Create(_), Answer::Taken | Answer::Unknown, Some(_))
            | (Ask::Read, Answer::Unknown, _) => Some(held),
            (Ask::Delete, Answer::Done, Some(_))
            | (Ask::Delete, Answer::Missing, None)
            | (Ask::Delete, Answer::Unknown, _) => Some(None),
            (Ask::Read, Answer::Saw(seen), held) if seen == held => Some(held),
            _ => None,
        }
    }

    fn is_known(&self) -> bool {
        self.answer != Answer::Unknown
    }
}

/// Which operations have happened, a bit each.
type Done = Box<[u64]>;

fn has(done: &[u64], operation: usize) -> bool {
    done[operation / 64] & (1 << (operation % 64)) != 0
}

/// Whether there is an order of `history` in which each operation happens between its sending and its answer, and each
/// answer is what a register would have given. Operations without an answer may have happened late, or never.
pub(crate) fn is_linearizable(history: &[Operation]) -> bool {
    let mut history = history.to_vec();
    history.sort_by_key(|operation| operation.sent);
    let nothing: Done = vec![0; history.len().div_ceil(64)].into();
    let mut seen: HashSet<(Done, Option<u32>)> = HashSet::new();
    let mut open: Vec<(Done, Option<u32>)> = vec![(nothing, None)];
    while let Some((done, held)) = open.pop() {
        let mut left = history.iter().enumerate().filter(|(n, _)| !has(&done, *n));
        // Whatever comes next was sent before the first answer among those that are left.
        let known = left.clone().filter(|(_, operation)| operation.is_known());
        let Some(first_answer) = known.map(|(_, operation)| operation.answered).min() else {
            return true;
        };
        let next: Vec<_> = left
            .by_ref()
            .take_while(|(_, operation)| operation.sent <= first_answer)
            .filter_map(|(n, operation)| Some((n, operation.apply(held)?)))
            .collect();
        for (n, held) in next {
            let mut done = done.clone();
            done[n / 64] |= 1 << (n % 64);
            if seen.insert((done.clone(), held)) {
                open.push((done, held));
            }
        }
    }
    false
}

fn of(ask: Ask, answer: Answer, sent: u64, answered: u64) -> Operation {
    Operation { ask, answer, sent, answered }
}

#[test]
fn good_histories_pass() {
    use {Answer::*, Ask::*};
    let good: [&[Operation]; 6] = [
        &[],
        &[of(Read, Saw(None), 0, 1), of(Put(1), Done, 2, 3), of(Read, Saw(Some(1)), 4, 5)],
        // Two at once, seen in the order that nobody sent them in.
        &[of(Put(1), Done, 0, 9), of(Put(2), Done, 1, 8), of(Read, Saw(Some(1)), 10, 11)],
        // A read beside a write may see it or not.
        &[of(Put(1), Done, 0, 9), of(Read, Saw(Some(1)), 1, 2), of(Read, Saw(Some(1)), 3, 4)],
        // One that nobody answered: it happens after others that were sent later, or never.
        &[
            of(Put(1), Unknown, 0, 0),
            of(Put(2), Done, 2, 3),
            of(Read, Saw(Some(2)), 4, 5),
            of(Read, Saw(Some(1)), 6, 7),
        ],
        &[of(Create(1), Done, 0, 5), of(Create(2), Taken, 1, 6), of(Delete, Done, 7, 8)],
    ];
    for history in good {
        assert!(is_linearizable(history), "{history:?}");
    }
}

#[test]
fn bad_histories_are_found() {
    use {Answer::*, Ask::*};
    let bad: [(&str, &[Operation]); 8] = [
        (
            "a stale read",
            &[of(Put(1), Done, 0, 1), of(Put(2), Done, 2, 3), of(Read, Saw(Some(1)), 4, 5)],
        ),
        ("a write that was lost", &[of(Put(1), Done, 0, 1), of(Read, Saw(None), 2, 3)]),
        (
            "a departure that was undone",
            &[of(Put(1), Done, 0, 1), of(Delete, Done, 2, 3), of(Read, Saw(Some(1)), 4, 5)],
        ),
        ("a value that nobody wrote", &[of(Put(1), Done, 0, 1), of(Read, Saw(Some(7)), 2, 3)]),
        ("one id given out twice", &[of(Create(1), Done, 0, 5), of(Create(2), Done, 1, 6)]),
        (
            "a value that comes and goes",
            &[of(Put(1), Done, 0, 20), of(Read, Saw(Some(1)), 1, 2), of(Read, Saw(None), 3, 4)],
        ),
        (
            "one that nobody answered happens twice",
            &[
                of(Put(1), Unknown, 0, 0),
                of(Read, Saw(Some(1)), 2, 3),
                of(Delete, Done, 4, 5),
                of(Read, Saw(Some(1)), 6, 7),
            ],
        ),
        (
            "two readers see two writes in two orders",
            &[
                of(Put(1), Done, 0, 20),
                of(Put(2), Done, 0, 20),
                of(Read, Saw(Some(1)), 1, 2),
                of(Read, Saw(Some(2)), 3, 4),
                of(Read, Saw(Some(1)), 5, 6),
            ],
        ),
    ];
    for (what, history) in bad {
        assert!(!is_linearizable(history), "{what}: {history:?}");
    }
}
