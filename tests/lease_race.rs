//! Every interleaving of a heartbeat with what the registrar does to its lease, walked through by loom on
//! the very source that production runs.

/// What `word.rs` takes its atomics from.
mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[path = "../src/lease/word.rs"]
pub mod word;

use loom::sync::Arc;
use loom::thread;

use word::{Mark, Word};

/// The lease was renewed at 10, heartbeats come at 20 and 30. The registrar's clock shows 100 and the ttl is
/// 85, so that a lease renewed at 10 has run out and one renewed at 20 has not.
const GRANTED: u64 = 10;

fn lease(mark: Mark) -> Arc<Word> {
    Arc::new(Word::new(GRANTED, mark))
}

fn in_thread<T: 'static>(
    word: &Arc<Word>,
    act: impl FnOnce(&Word) -> T + 'static,
) -> thread::JoinHandle<T> {
    let word = Arc::clone(word);
    thread::spawn(move || act(&word))
}

/// What the sweep does: closes the lease if it has run out.
fn expire(word: &Word) -> bool {
    let seen = word.read();
    seen.renewed_at() == GRANTED && word.mark(seen, Mark::Closed)
}

#[test]
fn a_renewal_that_meets_its_expiry_has_one_outcome() {
    loom::model(|| {
        let word = lease(Mark::Open);
        let heartbeat = in_thread(&word, |word| word.renew(20));
        let expired = expire(&word);
        let renewed = heartbeat.join().unwrap();
        let after = word.read();
        if expired {
            assert_eq!(renewed, Err(Mark::Closed), "the caller must ask the registrar");
            assert_eq!((after.mark(), after.renewed_at()), (Mark::Closed, GRANTED));
        } else {
            assert_eq!(renewed, Ok(GRANTED), "whoever was not expired was renewed");
            assert_eq!((after.mark(), after.renewed_at()), (Mark::Open, 20));
        }
    });
}

#[test]
fn an_expiry_that_failed_leaves_the_lease_as_it_was() {
    loom::model(|| {
        let word = lease(Mark::Open);
        let heartbeat = in_thread(&word, |word| word.renew(20));
        if expire(&word) {
            word.unmark(Mark::Open);
        }
        let renewed = heartbeat.join().unwrap();
        let after = word.read();
        assert_eq!(after.mark(), Mark::Open);
        match renewed {
            Ok(before) => assert_eq!((before, after.renewed_at()), (GRANTED, 20)),
            Err(mark) => assert_eq!((mark, after.renewed_at()), (Mark::Closed, GRANTED)),
        }
        assert_eq!(word.renew(30), Ok(after.renewed_at()), "and it can be renewed again");
    });
}

/// While the log can't be written a late lease is renewed and stays late; taking its mark back must not
/// take the renewal with it.
#[test]
fn taking_a_mark_back_keeps_the_renewals_since() {
    loom::model(|| {
        let word = lease(Mark::Late);
        let heartbeat = in_thread(&word, |word| word.renew_unless_closed(20));
        word.unmark(Mark::Open);
        assert_eq!(heartbeat.join().unwrap(), Ok(GRANTED));
        let after = word.read();
        assert_eq!((after.mark(), after.renewed_at()), (Mark::Open, 20));
    });
}

#[test]
fn of_several_signs_of_life_the_latest_counts() {
    loom::model(|| {
        let word = lease(Mark::Open);
        let late = in_thread(&word, |word| word.renew(30));
        let early = in_thread(&word, |word| word.renew(20));
        // A registration comes to the registrar at the same time.
        word.open(25);
        assert!(late.join().unwrap().is_ok() && early.join().unwrap().is_ok());
        let after = word.read();
        assert_eq!((after.mark(), after.renewed_at()), (Mark::Open, 30));
    });
}

#[test]
fn a_lease_that_was_closed_for_ever_is_never_renewed() {
    loom::model(|| {
        let word = lease(Mark::Open);
        let heartbeat = in_thread(&word, |word| word.renew(20));
        let outage = in_thread(&word, |word| word.renew_unless_closed(30));
        word.close();
        assert_eq!(word.renew(40), Err(Mark::Closed));
        assert_eq!(word.renew_unless_closed(40), Err(Mark::Closed));
        let signs = [(20, heartbeat.join().unwrap()), (30, outage.join().unwrap())];
        let latest =
            signs.into_iter().filter(|(_, renewed)| renewed.is_ok()).map(|(at, _)| at).max();
        let after = word.read();
        assert_eq!((after.mark(), after.renewed_at()), (Mark::Closed, latest.unwrap_or(GRANTED)));
    });
}
