//! Tier 1 (pure): whatever happens to a task, in whatever order, it has one outcome, and its agent gets it no more often than it may.
#![allow(missing_docs, reason = "a test")]

use proptest::prelude::*;
use session_core::moment::Moment;
use session_core::task::{
    Cause, Effect, Event, Hindrance, LONGEST_BACKOFF, Outcome, State, Task, Terms,
};
use std::time::Duration;

const START: Moment = Moment(1_000_000);

fn event() -> impl Strategy<Value = Event> {
    let again = (0_u64..5_000).prop_map(Duration::from_millis);
    prop_oneof![
        4 => Just(Event::Turn),
        4 => Just(Event::Obtained),
        1 => again.clone().prop_map(|again| Event::NotObtained(Hindrance::Busy { again })),
        1 => Just(Event::NotObtained(Hindrance::Agent)),
        1 => any::<bool>().prop_map(|ok| Event::Answered { ok }),
        1 => again.prop_map(|again| Event::Broke(Cause::Unsent { again })),
        2 => Just(Event::Broke(Cause::Agent)),
        1 => Just(Event::Broke(Cause::Stopped)),
        2 => Just(Event::Broke(Cause::Interrupted)),
        1 => Just(Event::Cancel),
        1 => any::<bool>().prop_map(|kept| Event::Found { kept }),
    ]
}

fn terms() -> impl Strategy<Value = Terms> {
    (0_u32..4, 0_u64..20_000, 0_u64..200_000).prop_map(|(retries, backoff, deadline)| Terms {
        retries,
        backoff: Duration::from_millis(backoff),
        deadline: START + Duration::from_millis(deadline),
    })
}

proptest! {
    #[test]
    fn one_outcome_and_no_attempt_too_many(
        terms in terms(),
        events in prop::collection::vec((event(), 0_u64..10_000), 0..120),
    ) {
        let mut task = Task::submitted(terms, START);
        let mut now = START;
        let (mut sent, mut unseen, mut unstarted) = (0_u32, 0_u32, 0_u32);
        // What a disk would have: a daemon that comes back reads no more than this.
        let mut disk = task;
        for (event, later) in events {
            now = now + Duration::from_millis(later);
            let before = task;
            // As its owner does: the deadline is an event of its own.
            let event = if now >= terms.deadline && task.outcome().is_none() { Event::Deadline } else { event };
            let effects = task.step(now, event);
            if before.outcome().is_some() {
                prop_assert!(effects.is_empty() && task == before, "{event:?} after {before:?}");
                continue;
            }
            prop_assert_eq!(task != before, effects.first() == Some(&Effect::Record), "{:?} in {:?}: what changes is written first", event, before);
            if task != before { disk = task; }
            for effect in effects {
                match effect {
                    Effect::Send => {
                        // Written down as running, with this attempt, before it is sent.
                        prop_assert_eq!(disk.state(), State::Running);
                        prop_assert_eq!(disk.attempts(), before.attempts() + 1);
                        sent += 1;
                    }
                    Effect::Obtain => prop_assert_eq!(task.state(), State::Starting),
                    Effect::Resume => prop_assert_eq!((before.state(), task.state()), (State::Running, State::Running)),
                    Effect::Abort => prop_assert!(matches!(task.outcome(), Some(Outcome::Cancelled | Outcome::TimedOut))),
                    Effect::Record => {}
                }
            }
            if let (State::Running, Event::Broke(Cause::Unsent { .. })) = (before.state(), event) { unseen += 1; }
            if let (State::Starting, Event::NotObtained(Hindrance::Agent)) = (before.state(), event) { unstarted += 1; }
            if let State::Queued { not_before } = task.state() {
                prop_assert!(task.retried() == before.retried() || not_before < terms.deadline, "a retry that cannot begin");
            }
            if task.outcome() == Some(Outcome::Lost) {
                prop_assert_eq!(before.state(), State::Running, "only what an agent had can be lost");
            }
            if task.outcome() == Some(Outcome::Succeeded) {
                prop_assert_eq!((before.state(), event), (State::Running, Event::Answered { ok: true }));
            }
        }
        // The agent saw it once, and once more for each retry that was allowed.
        prop_assert!(sent - unseen + unstarted <= 1 + terms.retries, "sent {sent}, of which {unseen} unseen, {unstarted} unstarted: {task:?}");
        prop_assert_eq!(task.attempts(), sent + unstarted);
        prop_assert!(task.retried() <= terms.retries);
    }
}

fn running(retries: u32) -> Task {
    let terms = Terms {
        retries,
        backoff: Duration::from_secs(10),
        deadline: START + Duration::from_secs(100_000),
    };
    let mut task = Task::submitted(terms, START);
    task.step(START, Event::Turn);
    task.step(START, Event::Obtained);
    assert_eq!(task.state(), State::Running);
    task
}

#[test]
fn what_is_interrupted_is_lost_unless_it_is_safe_to_repeat() {
    let mut task = running(0);
    assert_eq!(
        task.step(START, Event::Found { kept: false }),
        &[Effect::Record]
    );
    assert_eq!(task.outcome(), Some(Outcome::Lost));
    let mut task = running(1);
    task.step(START, Event::Found { kept: false });
    let not_before = START + Duration::from_secs(10);
    assert_eq!(task.state(), State::Queued { not_before });
    let mut task = running(0);
    assert_eq!(
        task.step(START, Event::Found { kept: true }),
        &[Effect::Resume]
    );
}

#[test]
fn a_stop_is_not_followed_by_a_retry() {
    let mut task = running(3);
    task.step(START, Event::Broke(Cause::Stopped));
    assert_eq!(task.outcome(), Some(Outcome::Cancelled));
}

#[test]
fn pauses_double_up_to_a_bound() {
    let mut task = running(30);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        task.step(START, Event::Broke(Cause::Agent));
        let State::Queued { not_before } = task.state() else {
            panic!("{task:?}");
        };
        pauses.push((not_before - START).as_secs());
        task.step(START, Event::Turn);
        task.step(START, Event::Obtained);
    }
    assert_eq!(pauses[..4], [10, 20, 40, 80]);
    assert_eq!(pauses.last(), Some(&LONGEST_BACKOFF.as_secs()));
}
