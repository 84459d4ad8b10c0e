//! Tier 1 (pure): the session state machine against invariants and a naive model, over random event sequences.
#![allow(missing_docs, reason = "a test")]

use proptest::prelude::*;
use proto::api::{EndReason, FreezeCause, Phase};
use session_core::lifecycle::freeze::{Holds, NoFreeze, NoThaw};
use session_core::lifecycle::ladder::Quiet;
use session_core::lifecycle::{Effect, Event, Health, Policy, Refusal, Session};
use session_core::moment::Moment;
use std::collections::VecDeque;
use std::time::Duration;

const POLICY: Policy = Policy {
    start_timeout: Duration::from_secs(120),
    idle_timeout: Duration::from_secs(900),
    max_lifetime: Duration::from_secs(28_800),
    stop_grace: Duration::from_secs(15),
    unhealthy_after: Duration::from_secs(30),
    freeze_after: None,
};

/// The same, with the idle ladder.
const LADDER: Policy = Policy {
    freeze_after: Some(Duration::from_secs(40)),
    ..POLICY
};

#[derive(Debug, Clone, Copy)]
enum Op {
    Event(Event),
    Begin,
    /// Begins work that holds the session for so long.
    BeginHeld(u64),
    /// Ends the n-th work of those that hold it.
    EndHeld(usize),
    Freeze(FreezeCause),
    Thaw(FreezeCause),
    Evict,
    Wait(u64),
    /// Waits until exactly the deadline, then ticks.
    ToDeadline,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::Event(Event::Attached)),
        2 => (0_u64..2_000_000).prop_map(|ms| Op::Event(Event::Found { idle: Duration::from_millis(ms) })),
        1 => Just(Op::Event(Event::LaunchFailed)),
        6 => Just(Op::Event(Event::Health(Health::Healthy))),
        3 => Just(Op::Event(Event::Health(Health::HealthyBusy))),
        2 => Just(Op::Event(Event::Health(Health::Unhealthy))),
        6 => Just(Op::Begin),
        3 => (0_u64..60_000_000).prop_map(Op::BeginHeld),
        3 => any::<usize>().prop_map(Op::EndHeld),
        6 => Just(Op::Event(Event::WorkEnds)),
        1 => Just(Op::Event(Event::Stop(EndReason::Stopped))),
        1 => Just(Op::Event(Event::AgentExited)),
        1 => Just(Op::Event(Event::OutOfMemory)),
        1 => Just(Op::Event(Event::ProtocolFault)),
        2 => Just(Op::Event(Event::Gone)),
        2 => Just(Op::Event(Event::TornDown)),
        3 => Just(Op::Event(Event::Tick)),
        2 => (0_u64..2_000_000).prop_map(|ms| found_frozen(Holds::default(), ms)),
        2 => Just(found_frozen(Holds::by(FreezeCause::Operator), 0)),
        4 => Just(Op::Event(Event::Froze)),
        1 => Just(Op::Event(Event::FreezeFailed)),
        4 => Just(Op::Event(Event::Thawed)),
        4 => cause().prop_map(Op::Freeze),
        4 => cause().prop_map(Op::Thaw),
        6 => weighed().prop_map(Op::Event),
        1 => Just(Op::Evict),
        6 => (0_u64..2_000_000).prop_map(Op::Wait),
        4 => Just(Op::ToDeadline),
    ]
}

fn found_frozen(holds: Holds, idle_ms: u64) -> Op {
    let idle = Duration::from_millis(idle_ms);
    Op::Event(Event::FoundFrozen { holds, idle })
}

/// Mostly a session at rest for long enough.
fn weighed() -> impl Strategy<Value = Event> {
    let quiet = |(over, cpu): (u64, u64)| Quiet {
        over: Duration::from_millis(over),
        cpu: Duration::from_millis(cpu),
    };
    prop_oneof![
        1 => Just(Event::Weighed(None)),
        1 => (0_u64..60_000, 0_u64..1000).prop_map(move |of| Event::Weighed(Some(quiet(of)))),
        3 => (20_000_u64..60_000, 0_u64..200).prop_map(move |of| Event::Weighed(Some(quiet(of)))),
    ]
}

fn cause() -> impl Strategy<Value = FreezeCause> {
    prop_oneof![
        Just(FreezeCause::Operator),
        Just(FreezeCause::Budget),
        Just(FreezeCause::Idle)
    ]
}

/// Order in which phases may follow each other.
fn rank(phase: Phase) -> u8 {
    match phase {
        Phase::Requested | Phase::Launching => 0,
        Phase::Starting => 1,
        Phase::Ready | Phase::Busy | Phase::Frozen => 2,
        Phase::Draining => 3,
        Phase::Ended | Phase::Failed => 4,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_keeps_the_invariants(
        age in prop::option::of(0_u64..40_000_000),
        ladder in any::<bool>(),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let policy = if ladder { LADDER } else { POLICY };
        let mut now = Moment(1_000_000_000);
        let mut session = match age {
            None => Session::new(now, policy),
            Some(age) => Session::adopted(now, Duration::from_millis(age), policy),
        };
        // The model: work that was granted and has not ended, the first reason, and effects that may happen once.
        let mut granted = 0_u32;
        let mut held: Vec<Moment> = Vec::new();
        let born = match age {
            None => now,
            Some(age) => now.before(Duration::from_millis(age)),
        };
        let mut first_reason = None;
        let (mut shutdowns, mut kills, mut removes, mut releases) = (0, 0, 0, 0);
        // Freezes and thaws that the launcher has been told and has not carried out, one after another; what stands still by
        // now; and who holds it.
        let mut orders = VecDeque::new();
        let mut stopped = false;
        let mut found_frozen = false;
        let mut by = Holds::default();
        // For the ladder: when anything last happened that is a reason to run, and what the agent said last.
        let mut active = now;
        let mut said = None;
        for op in ops {
            let before = session.phase();
            let ordered = orders.front().copied();
            let had = granted;
            let weighing = matches!(op, Op::Event(Event::Weighed(_)));
            let effects = match op {
                Op::Wait(ms) => { now = Moment(now.0 + ms); Vec::new() }
                Op::ToDeadline => match session.deadline() {
                    Some(at) => { now = now.max(at); session.step(now, Event::Tick) }
                    None => Vec::new(),
                },
                Op::Begin => match session.begin_work(now) {
                    Ok(effects) => {
                        prop_assert!(matches!(before, Phase::Ready | Phase::Busy));
                        granted += 1;
                        effects
                    }
                    Err(Refusal::NotReady) => { prop_assert!(rank(before) < 2); Vec::new() }
                    Err(Refusal::Ending) => { prop_assert!(rank(before) > 2); Vec::new() }
                    Err(Refusal::Asleep) => {
                        prop_assert_eq!((before, by), (Phase::Frozen, Holds::default()));
                        Vec::new()
                    }
                    Err(Refusal::Frozen(holds)) => {
                        prop_assert_eq!((before, holds), (Phase::Frozen, by));
                        prop_assert!(!holds.is_none());
                        Vec::new()
                    }
                },
                Op::Evict => {
                    let idle = granted == 0 && by.is_none();
                    match session.evict(now) {
                        Some(effects) => {
                            prop_assert!(idle && matches!(before, Phase::Ready | Phase::Frozen), "{before:?} {by:?}");
                            prop_assert_eq!(session.end_reason(), Some(EndReason::Evicted));
                            effects
                        }
                        None => {
                            prop_assert!(!(idle && before == Phase::Ready));
                            Vec::new()
                        }
                    }
                }
                Op::BeginHeld(ms) => match session.begin_work(now) {
                    Ok(effects) => {
                        let until = now + Duration::from_millis(ms);
                        session.hold(until);
                        held.push(until);
                        granted += 1;
                        effects
                    }
                    Err(_refused) => Vec::new(),
                },
                Op::EndHeld(_) if held.is_empty() => Vec::new(),
                Op::EndHeld(nth) => {
                    let until = held.swap_remove(nth % held.len());
                    session.release(until);
                    granted -= 1;
                    session.step(now, Event::WorkEnds)
                }
                // Only work without a hold ends so.
                Op::Event(Event::WorkEnds) if granted as usize == held.len() => Vec::new(),
                Op::Freeze(cause) => match session.freeze(now, cause) {
                    Ok(effects) => {
                        prop_assert_eq!(session.phase(), Phase::Frozen);
                        by.operator |= cause == FreezeCause::Operator;
                        by.budget |= cause == FreezeCause::Budget;
                        effects
                    }
                    Err(NoFreeze::NotReady) => { prop_assert!(rank(before) < 2 || before == Phase::Frozen); Vec::new() }
                    Err(NoFreeze::Working) => { prop_assert_eq!(cause, FreezeCause::Idle); Vec::new() }
                    Err(NoFreeze::Ending) => { prop_assert!(rank(before) > 2); Vec::new() }
                },
                Op::Thaw(cause) => match session.thaw(now, cause) {
                    Ok(effects) => {
                        by.operator &= cause != FreezeCause::Operator;
                        by.budget &= cause != FreezeCause::Budget;
                        // Whom nobody holds is on the way back.
                        if before == Phase::Frozen && by.is_none() {
                            let coming = effects.contains(&Effect::Thaw) || !orders.is_empty();
                            prop_assert!(coming, "it stays frozen: {session:?}");
                        }
                        effects
                    }
                    Err(NoThaw::Held(holds)) => {
                        prop_assert_eq!((before, holds), (Phase::Frozen, by));
                        Vec::new()
                    }
                    Err(NoThaw::Ending) => { prop_assert!(rank(before) > 2); Vec::new() }
                },
                // What nobody was told to do does not happen.
                Op::Event(Event::Froze | Event::FreezeFailed) if ordered != Some(Effect::Freeze) => Vec::new(),
                Op::Event(Event::Thawed) if found_frozen || ordered != Some(Effect::Thaw) => Vec::new(),
                Op::Event(Event::Attached | Event::Found { .. }) if before == Phase::Frozen && !(found_frozen && ordered == Some(Effect::Thaw)) => Vec::new(),
                Op::Event(event) => {
                    if event == Event::WorkEnds { granted -= 1; }
                    match event {
                        // The launcher freezes nothing that it removes.
                        Event::Froze => { orders.pop_front(); stopped = removes == 0; }
                        Event::FreezeFailed | Event::Thawed => { orders.pop_front(); }
                        Event::Attached | Event::Found { .. } if before == Phase::Frozen => { orders.pop_front(); found_frozen = false; }
                        Event::FoundFrozen { holds, .. } if before == Phase::Launching => { stopped = true; found_frozen = true; by = holds; }
                        _ => {}
                    }
                    session.step(now, event)
                }
            };
            let after = session.phase();
            if weighing && effects.contains(&Effect::Freeze) {
                let rested = now.0.saturating_sub(active.0);
                prop_assert!(ladder && granted == 0 && before == Phase::Ready && said != Some(Health::Unhealthy));
                prop_assert!(rested >= 40_000, "frozen {rested} ms after it was wanted");
            }
            if !ladder {
                prop_assert!(!effects.contains(&Effect::Weigh));
            }
            if granted != had { active = now; }
            match op {
                Op::Event(Event::FreezeFailed | Event::Thawed | Event::Attached) if before == Phase::Frozen && after != before => active = now,
                Op::Event(Event::Found { idle }) if before == Phase::Launching => {
                    active = now.before(idle);
                    said = Some(Health::Healthy);
                }
                Op::Event(Event::Found { .. }) if before == Phase::Frozen && after != before => active = now,
                Op::Event(Event::Health(health)) => {
                    // The same again, and again, is no reason to run.
                    if said != Some(health) { active = now; }
                    said = Some(health);
                }
                _ => {}
            }
            // One that was found frozen may turn out not to have been healthy yet.
            let anew = (before, after) == (Phase::Frozen, Phase::Starting);
            prop_assert!(rank(after) >= rank(before) || anew, "{before:?} went back to {after:?}");
            prop_assert_eq!(session.in_flight(), granted);
            // One reason, and the first one stays.
            if let Some(reason) = first_reason {
                prop_assert_eq!(session.end_reason(), Some(reason));
            }
            if first_reason.is_none() && session.end_reason() == Some(EndReason::MaxLifetime) {
                // Not before its time, nor while anything holds it.
                prop_assert!(now >= born + POLICY.max_lifetime);
                prop_assert!(held.iter().all(|until| *until <= now), "{held:?} at {now:?}");
            }
            first_reason = session.end_reason();
            prop_assert_eq!(session.end_reason().is_some(), rank(after) >= 3);
            if session.end_reason() == Some(EndReason::AgentExited) && rank(after) == 3 && shutdowns + kills + removes == 0
                && !effects.iter().any(|effect| *effect != Effect::Publish)
            {
                // It waits for those who hold it, and for nobody else.
                prop_assert!(!held.is_empty());
            }
            // A phase change is published, before anything else is done.
            if after != before {
                prop_assert_eq!(effects.first(), Some(&Effect::Publish));
            }
            for effect in effects {
                match effect {
                    Effect::Publish | Effect::NoteHolds | Effect::Weigh | Effect::WeighAnew => {}
                    Effect::Freeze => orders.push_back(effect),
                    Effect::Thaw => { orders.push_back(effect); stopped = false; }
                    Effect::Shutdown(_) => {
                        // One that a budget holds gets no grace.
                        prop_assert!(before != Phase::Frozen || !by.budget);
                        shutdowns += 1;
                        prop_assert_eq!(kills + removes + releases, 0);
                    }
                    // The launcher leaves nothing frozen that it kills.
                    Effect::Kill => { stopped = false; kills += 1; prop_assert_eq!(removes + releases, 0); }
                    Effect::Remove => { stopped = false; removes += 1; prop_assert_eq!(releases, 0); }
                    Effect::Release => { releases += 1; prop_assert_eq!(removes, 1); }
                }
            }
            prop_assert!(shutdowns <= 1 && kills <= 1 && removes <= 1 && releases <= 1);
            prop_assert_eq!(releases == 1, rank(after) == 4);
            // Whoever is to run, or to hear that it ends, does not stand still; and nobody who is held ends for idleness.
            match after {
                Phase::Starting | Phase::Ready | Phase::Busy | Phase::Draining => prop_assert!(!stopped),
                Phase::Frozen => prop_assert_eq!(session.frozen_by(), Some(by)),
                _ => {}
            }
            if matches!(after, Phase::Starting | Phase::Ready | Phase::Busy) { by = Holds::default(); }
            if !by.is_none() && before == Phase::Frozen {
                prop_assert!(session.end_reason() != Some(EndReason::Idle));
            }
            // Nothing that lives is without a deadline; nothing with work in flight ends for idleness.
            if rank(after) < 3 {
                prop_assert!(session.deadline().is_some());
                // Holds are the only thing that puts the lifetime off, and each only up to its own moment.
                let latest = held.iter().copied().fold(born + POLICY.max_lifetime, Moment::max);
                prop_assert!(session.deadline() <= Some(latest));
            }
            if granted > 0 && rank(before) == 2 {
                prop_assert!(session.end_reason() != Some(EndReason::Idle) || rank(before) >= 3);
                prop_assert!(session.end_reason() != Some(EndReason::Unhealthy) || rank(before) >= 3);
            }
        }
        // Whatever happened, the end comes: ticking at each deadline, with the launcher answering, ends it.
        for _ in 0..20 {
            if let Some(at) = session.deadline() {
                now = now.max(at);
                let _ = session.step(now, Event::Tick);
            } else {
                let _ = session.step(now, Event::TornDown);
            }
            if matches!(session.phase(), Phase::Ready | Phase::Busy | Phase::Frozen) {
                now = now + POLICY.max_lifetime;
            }
        }
        prop_assert_eq!(rank(session.phase()), 4, "{:?}", held);
    }
}

fn live(now: Moment) -> Session {
    let mut session = Session::new(now, POLICY);
    session.step(now, Event::Attached);
    session.step(now, Event::Health(Health::Healthy));
    session
}

#[test]
fn idle_time_counts_from_the_last_end_of_work_or_change_of_health() {
    let start = Moment(0);
    let mut session = live(start);
    assert_eq!(session.deadline(), Some(start + POLICY.idle_timeout));
    let work = Moment(100_000);
    session.begin_work(work).expect("live");
    assert_eq!(
        session.deadline(),
        Some(start + POLICY.max_lifetime),
        "work in flight never idles"
    );
    let done = Moment(5_000_000);
    session.step(done, Event::WorkEnds);
    assert_eq!(session.deadline(), Some(done + POLICY.idle_timeout));
    // HealthyBusy suspends the clock; its end starts it anew.
    session.step(Moment(5_100_000), Event::Health(Health::HealthyBusy));
    assert_eq!(session.deadline(), Some(start + POLICY.max_lifetime));
    let idle_again = Moment(6_000_000);
    session.step(idle_again, Event::Health(Health::Healthy));
    assert_eq!(session.deadline(), Some(idle_again + POLICY.idle_timeout));
    // Saying Healthy again and again is no activity.
    session.step(Moment(6_500_000), Event::Health(Health::Healthy));
    assert_eq!(session.deadline(), Some(idle_again + POLICY.idle_timeout));
    session.step(idle_again + POLICY.idle_timeout, Event::Tick);
    assert_eq!(session.end_reason(), Some(EndReason::Idle));
}

#[test]
fn a_server_that_blocks_while_it_works_is_not_unhealthy() {
    let mut session = live(Moment(0));
    session.begin_work(Moment(1_000)).expect("live");
    session.step(Moment(2_000), Event::Health(Health::Unhealthy));
    session.step(Moment(600_000), Event::Tick);
    assert_eq!(session.end_reason(), None);
    let done = Moment(600_001);
    session.step(done, Event::WorkEnds);
    assert_eq!(session.deadline(), Some(done + POLICY.unhealthy_after));
    session.step(done + POLICY.unhealthy_after, Event::Tick);
    assert_eq!(session.end_reason(), Some(EndReason::Unhealthy));
}

#[test]
fn a_shim_that_does_not_go_is_killed_and_then_removed() {
    let mut session = live(Moment(0));
    let effects = session.step(Moment(10), Event::Stop(EndReason::Stopped));
    assert_eq!(
        effects,
        [Effect::Publish, Effect::Shutdown(POLICY.stop_grace)]
    );
    let kill_at = session.deadline().expect("grace");
    assert_eq!(session.step(kill_at, Event::Tick), [Effect::Kill]);
    let remove_at = session.deadline().expect("margin");
    assert_eq!(session.step(remove_at, Event::Tick), [Effect::Remove]);
    assert_eq!(
        session.step(remove_at, Event::TornDown),
        [Effect::Publish, Effect::Release]
    );
    assert_eq!(
        (session.phase(), session.end_reason()),
        (Phase::Ended, Some(EndReason::Stopped))
    );
}

#[test]
fn a_start_that_takes_too_long_fails() {
    let mut session = Session::new(Moment(0), POLICY);
    session.step(Moment(5), Event::Attached);
    let effects = session.step(Moment(120_000), Event::Tick);
    assert_eq!(effects[0], Effect::Publish);
    session.step(Moment(120_001), Event::Gone);
    session.step(Moment(120_002), Event::TornDown);
    assert_eq!(
        (session.phase(), session.end_reason()),
        (Phase::Failed, Some(EndReason::StartTimeout))
    );
}

#[test]
fn an_adopted_session_keeps_its_age_and_its_idle_time() {
    let now = Moment(1_000_000_000);
    let secs = Duration::from_secs;
    let live = |age, idle| {
        let mut session = Session::adopted(now, age, POLICY);
        let effects = session.step(now, Event::Found { idle });
        assert_eq!(effects, [Effect::Publish]);
        assert_eq!(session.phase(), Phase::Ready);
        session
    };
    let mut idle = live(secs(1000), secs(300));
    assert_eq!(idle.deadline(), Some(now + secs(600)));
    let _ = idle.step(now, Event::Health(Health::Healthy));
    assert_eq!(
        idle.deadline(),
        Some(now + secs(600)),
        "nothing has changed"
    );
    let old = live(secs(28_790), secs(0));
    assert_eq!(old.deadline(), Some(now + secs(10)));
    // A shim that says more than can be is believed up to the session's age.
    let mut liar = live(secs(100), secs(100_000));
    assert_eq!(liar.deadline(), Some(now + secs(800)));
    assert_eq!(liar.begin_work(now), Ok(vec![Effect::Publish]));
    let mut busy = live(secs(1000), secs(900));
    let _ = busy.step(now, Event::Health(Health::HealthyBusy));
    assert_eq!(busy.phase(), Phase::Busy);
    assert_eq!(busy.deadline(), Some(now + secs(27_800)));
}

#[test]
fn an_adopted_session_that_was_starting_has_its_start_anew() {
    let now = Moment(1_000_000_000);
    let mut session = Session::adopted(now, Duration::from_secs(119), POLICY);
    assert_eq!(session.deadline(), Some(now + POLICY.start_timeout));
    let _ = session.step(now, Event::Attached);
    assert_eq!(session.phase(), Phase::Starting);
    let mut old = Session::adopted(now, POLICY.max_lifetime, POLICY);
    assert_eq!(old.step(now, Event::Tick), [Effect::Publish, Effect::Kill]);
    assert_eq!(old.end_reason(), Some(EndReason::MaxLifetime));
}

#[test]
fn work_that_holds_a_session_puts_its_lifetime_off_up_to_its_own_deadline() {
    let hours = |n: u64| Moment(n * 3_600_000);
    let mut session = live(Moment(0));
    session.begin_work(hours(7)).expect("live");
    session.hold(hours(12));
    session.begin_work(hours(7)).expect("live");
    session.hold(hours(15));
    assert_eq!(session.deadline(), Some(hours(15)));
    let mut overdue = session.clone();
    assert_eq!(session.step(hours(10), Event::Tick), []);
    session.begin_work(hours(10)).expect("still live");
    session.step(hours(10), Event::WorkEnds);
    session.release(hours(15));
    session.step(hours(11), Event::WorkEnds);
    assert_eq!(session.deadline(), Some(hours(12)));
    // Its work is done and its time over: it ends at the next look.
    session.release(hours(12));
    session.step(hours(11), Event::WorkEnds);
    session.step(hours(11), Event::Tick);
    assert_eq!(session.end_reason(), Some(EndReason::MaxLifetime));
    // Work that does not end does not hold it for longer than it said.
    overdue.step(hours(15), Event::Tick);
    assert_eq!(overdue.end_reason(), Some(EndReason::MaxLifetime));
}

#[test]
fn what_an_agent_that_ended_has_left_is_fetched_before_its_session_goes() {
    let mut session = live(Moment(0));
    session.begin_work(Moment(0)).expect("live");
    session.begin_work(Moment(0)).expect("live");
    let until = Moment(3_600_000);
    session.hold(until);
    let now = Moment(1000);
    assert_eq!(session.step(now, Event::AgentExited), [Effect::Publish]);
    assert_eq!(session.phase(), Phase::Draining);
    assert_eq!(session.begin_work(now), Err(Refusal::Ending));
    assert_eq!(session.step(now, Event::AgentExited), []);
    let mut slow = session.clone();
    // Whoever does not hold it is not waited for.
    session.release(until);
    assert_eq!(
        session.step(now, Event::WorkEnds),
        [Effect::Shutdown(Duration::ZERO)]
    );
    let at = slow.deadline().expect("it is bounded");
    assert_eq!(
        slow.step(at, Event::Tick),
        [Effect::Shutdown(Duration::ZERO)]
    );
    assert_eq!(slow.end_reason(), Some(EndReason::AgentExited));
}

#[test]
fn an_old_session_that_is_adopted_with_work_goes_on() {
    let now = Moment(1_000_000_000);
    let hour = Duration::from_secs(3600);
    let mut session = Session::adopted(now, 9 * hour, POLICY);
    session.step(
        now,
        Event::Found {
            idle: Duration::ZERO,
        },
    );
    session.begin_work(now).expect("live");
    session.hold(now + hour);
    assert_eq!(session.step(now, Event::Tick), []);
    assert_eq!(session.deadline(), Some(now + hour));
    session.step(now + hour, Event::Tick);
    assert_eq!(session.end_reason(), Some(EndReason::MaxLifetime));
}

#[test]
fn idle_time_and_failing_checks_stand_still_while_somebody_holds_a_session() {
    let secs = Duration::from_secs;
    let start = Moment(1_000_000);
    let mut session = live(start);
    let frozen = start + secs(100);
    let effects = session.freeze(frozen, FreezeCause::Operator);
    assert_eq!(effects, Ok(vec![Effect::Publish, Effect::Freeze]));
    session.step(frozen, Event::Froze);
    assert_eq!(session.deadline(), Some(start + POLICY.max_lifetime));
    let held = Holds::by(FreezeCause::Operator);
    assert_eq!(session.begin_work(frozen), Err(Refusal::Frozen(held)));
    let thawed = frozen + secs(10_000);
    assert_eq!(
        session.thaw(thawed, FreezeCause::Operator),
        Ok(vec![Effect::Thaw])
    );
    assert_eq!(session.step(thawed, Event::Thawed), [Effect::Publish]);
    assert_eq!(
        session.deadline(),
        Some(thawed + (POLICY.idle_timeout - secs(100))),
        "it had been idle for 100 s"
    );
}

#[test]
fn work_that_is_frozen_goes_on_afterwards() {
    let mut session = live(Moment(0));
    session.begin_work(Moment(10)).expect("live");
    assert_eq!(
        session.freeze(Moment(20), FreezeCause::Idle),
        Err(NoFreeze::Working)
    );
    session
        .freeze(Moment(30), FreezeCause::Operator)
        .expect("frozen");
    session.step(Moment(31), Event::Froze);
    assert_eq!((session.phase(), session.in_flight()), (Phase::Frozen, 1));
    session
        .thaw(Moment(40), FreezeCause::Operator)
        .expect("thawed");
    session.step(Moment(41), Event::Thawed);
    assert_eq!(session.phase(), Phase::Busy);
    session.step(Moment(50), Event::WorkEnds);
    assert_eq!(session.deadline(), Some(Moment(50) + POLICY.idle_timeout));
}

#[test]
fn frozen_for_idleness_it_ends_for_idleness_and_any_work_thaws_it() {
    let mut session = live(Moment(0));
    session.freeze(Moment(10), FreezeCause::Idle).expect("idle");
    session.step(Moment(11), Event::Froze);
    let end = Moment(0) + POLICY.idle_timeout;
    assert_eq!(session.deadline(), Some(end));
    let mut woken = session.clone();
    assert_eq!(woken.begin_work(Moment(20)), Err(Refusal::Asleep));
    assert_eq!(
        woken.thaw(Moment(20), FreezeCause::Idle),
        Ok(vec![Effect::Thaw])
    );
    assert_eq!(woken.begin_work(Moment(21)), Err(Refusal::Asleep));
    woken.step(Moment(22), Event::Thawed);
    assert_eq!(woken.begin_work(Moment(23)), Ok(vec![Effect::Publish]));
    let effects = session.step(end, Event::Tick);
    assert_eq!(
        effects,
        [
            Effect::Publish,
            Effect::Thaw,
            Effect::Shutdown(POLICY.stop_grace)
        ]
    );
    assert_eq!(session.end_reason(), Some(EndReason::Idle));
}

#[test]
fn an_operator_does_not_lift_a_budgets_hold() {
    let mut session = live(Moment(0));
    session
        .freeze(Moment(10), FreezeCause::Operator)
        .expect("live");
    session.step(Moment(11), Event::Froze);
    assert_eq!(
        session.freeze(Moment(12), FreezeCause::Budget),
        Ok(vec![Effect::Publish, Effect::NoteHolds])
    );
    assert_eq!(
        session.thaw(Moment(13), FreezeCause::Operator),
        Ok(vec![Effect::Publish, Effect::NoteHolds])
    );
    let budget = Holds::by(FreezeCause::Budget);
    assert_eq!(
        session.thaw(Moment(14), FreezeCause::Operator),
        Err(NoThaw::Held(budget))
    );
    assert_eq!(
        session.thaw(Moment(15), FreezeCause::Budget),
        Ok(vec![Effect::Thaw])
    );
}

#[test]
fn one_that_was_found_frozen_has_its_clocks_from_its_shim() {
    let now = Moment(1_000_000_000);
    let secs = Duration::from_secs;
    let mut session = Session::adopted(now, secs(1000), POLICY);
    let held = Holds::by(FreezeCause::Operator);
    assert_eq!(
        session.step(
            now,
            Event::FoundFrozen {
                holds: held,
                idle: Duration::ZERO
            }
        ),
        [Effect::Publish]
    );
    assert_eq!(
        session.deadline(),
        Some(now + (POLICY.max_lifetime - secs(1000)))
    );
    let later = now + secs(50);
    session.thaw(later, FreezeCause::Operator).expect("held");
    // A thaw alone is not enough: its shim has to answer.
    assert!(session.step(later, Event::Thawed).is_empty());
    let idle = secs(300);
    assert_eq!(
        session.step(later, Event::Found { idle }),
        [Effect::Publish]
    );
    assert_eq!(session.phase(), Phase::Ready);
    assert_eq!(
        session.deadline(),
        Some(later + (POLICY.idle_timeout - idle))
    );
}

/// Idle since `since`, and never computing.
fn resting() -> Option<Quiet> {
    Some(Quiet {
        over: Duration::from_secs(39),
        cpu: Duration::from_millis(100),
    })
}

fn on_the_ladder(now: Moment) -> Session {
    let mut session = Session::new(now, LADDER);
    session.step(now, Event::Attached);
    session.step(now, Event::Health(Health::Healthy));
    session
}

#[test]
fn an_idle_session_is_weighed_and_frozen_and_ends_in_its_time() {
    let mut session = on_the_ladder(Moment(0));
    let due = Moment(40_000);
    assert_eq!(session.deadline(), Some(due));
    assert_eq!(session.step(due, Event::Tick), [Effect::Weigh]);
    let effects = session.step(due, Event::Weighed(resting()));
    assert_eq!(effects, [Effect::Publish, Effect::Freeze]);
    assert_eq!(session.frozen_by(), Some(Holds::default()));
    session.step(due, Event::Froze);
    // Its idle time has gone on.
    assert_eq!(session.deadline(), Some(Moment(0) + POLICY.idle_timeout));
}

#[test]
fn one_that_computes_is_not_frozen_until_it_has_stopped() {
    let mut session = on_the_ladder(Moment(0));
    let due = Moment(40_000);
    let computes = Some(Quiet {
        over: Duration::from_secs(39),
        cpu: Duration::from_millis(390),
    });
    let effects = session.step(due, Event::Weighed(computes));
    assert_eq!(effects, [Effect::WeighAnew]);
    assert_eq!(session.deadline(), Some(Moment(80_000)));
    // Too little is known: it is asked again soon.
    let short = Some(Quiet {
        over: Duration::from_secs(19),
        cpu: Duration::ZERO,
    });
    for unknown in [None, short] {
        let mut session = on_the_ladder(Moment(0));
        assert_eq!(session.step(due, Event::Weighed(unknown)), []);
        assert_eq!(session.deadline(), Some(Moment(41_000)));
    }
}

#[test]
fn what_is_in_use_busy_or_ill_is_not_weighed() {
    let late = Moment(500_000);
    let mut works = on_the_ladder(Moment(0));
    works.begin_work(Moment(1)).expect("live");
    let mut busy = on_the_ladder(Moment(0));
    busy.step(Moment(1), Event::Health(Health::HealthyBusy));
    let mut ill = on_the_ladder(Moment(0));
    ill.step(Moment(1), Event::Health(Health::Unhealthy));
    let mut starts = Session::new(Moment(0), LADDER);
    starts.step(Moment(0), Event::Attached);
    for session in [works, busy, ill, starts] {
        let mut session = session;
        assert_eq!(session.step(late, Event::Weighed(resting())), []);
        assert_ne!(session.phase(), Phase::Frozen);
    }
}

#[test]
fn a_request_while_it_is_being_frozen_thaws_it_as_soon_as_it_is() {
    let mut session = on_the_ladder(Moment(0));
    let now = Moment(40_000);
    session.step(now, Event::Weighed(resting()));
    assert_eq!(session.begin_work(now), Err(Refusal::Asleep));
    assert_eq!(session.thaw(now, FreezeCause::Idle), Ok(Vec::new()));
    assert_eq!(session.step(now, Event::Froze), [Effect::Thaw]);
    // Another one comes: the order is given once.
    assert_eq!(session.begin_work(now), Err(Refusal::Asleep));
    assert_eq!(session.thaw(now, FreezeCause::Idle), Ok(Vec::new()));
    assert_eq!(session.step(now, Event::Thawed), [Effect::Publish]);
    // Nobody has begun yet, and it is not frozen again under their hands.
    assert_eq!(session.step(now, Event::Tick), []);
    assert_eq!(session.step(now, Event::Weighed(resting())), []);
    assert_eq!(session.begin_work(now), Ok(vec![Effect::Publish]));
}

#[test]
fn a_session_that_ends_while_it_is_being_frozen_is_thawed_to_end() {
    let now = Moment(40_000);
    for (event, told) in [
        (Event::Stop(EndReason::Stopped), POLICY.stop_grace),
        (Event::AgentExited, Duration::ZERO),
    ] {
        let mut session = on_the_ladder(Moment(0));
        session.step(now, Event::Weighed(resting()));
        let effects = session.step(now, event);
        assert_eq!(effects, [Effect::Publish, Effect::Shutdown(told)]);
        assert_eq!(session.step(now, Event::Froze), [Effect::Thaw]);
        assert_eq!(session.step(now, Event::Thawed), []);
        assert_eq!(session.step(now, Event::Weighed(resting())), []);
        session.step(now, Event::Gone);
        session.step(now, Event::TornDown);
        assert_eq!(session.phase(), Phase::Ended);
    }
}

#[test]
fn a_stop_while_it_is_being_thawed_ends_it_once() {
    let now = Moment(40_000);
    let mut session = on_the_ladder(Moment(0));
    session.step(now, Event::Weighed(resting()));
    session.step(now, Event::Froze);
    session.thaw(now, FreezeCause::Idle).expect("asleep");
    let effects = session.step(now, Event::Stop(EndReason::Stopped));
    // The thaw is under way already.
    assert_eq!(
        effects,
        [Effect::Publish, Effect::Shutdown(POLICY.stop_grace)]
    );
    assert_eq!(session.step(now, Event::Thawed), []);
    assert_eq!(session.begin_work(now), Err(Refusal::Ending));
}

#[test]
fn one_that_could_not_be_frozen_is_left_alone_for_a_while() {
    let mut session = on_the_ladder(Moment(0));
    let now = Moment(40_000);
    session.step(now, Event::Weighed(resting()));
    assert_eq!(session.step(now, Event::FreezeFailed), [Effect::Publish]);
    assert_eq!(session.phase(), Phase::Ready);
    assert_eq!(session.deadline(), Some(Moment(80_000)));
}

#[test]
fn a_clock_that_jumps_freezes_nobody_who_was_just_used_and_ends_nobody_early() {
    let mut session = on_the_ladder(Moment(1_000_000));
    session.begin_work(Moment(1_000_000)).expect("live");
    // The machine slept for an hour while it worked.
    let woke = Moment(4_600_000);
    session.step(woke, Event::WorkEnds);
    assert_eq!(session.step(woke, Event::Tick), []);
    assert_eq!(session.step(woke, Event::Weighed(resting())), []);
    assert_eq!(session.deadline(), Some(woke + Duration::from_secs(40)));
    // And again while it was frozen: that was idle time, and it is over.
    let later = woke + Duration::from_secs(40);
    session.step(later, Event::Weighed(resting()));
    session.step(later, Event::Froze);
    let much_later = woke + POLICY.idle_timeout;
    session.step(much_later, Event::Tick);
    assert_eq!(session.end_reason(), Some(EndReason::Idle));
    // A clock that goes back is as one that stands.
    let mut session = on_the_ladder(Moment(1_000_000));
    assert_eq!(session.step(Moment(10), Event::Tick), []);
    assert_eq!(session.step(Moment(10), Event::Weighed(resting())), []);
    assert_eq!(session.phase(), Phase::Ready);
}

#[test]
fn only_idle_sessions_give_their_place_away() {
    let evicted = |session: &mut Session| {
        let effects = session.evict(Moment(50_000));
        (effects.is_some(), session.end_reason())
    };
    let gone = (true, Some(EndReason::Evicted));
    assert_eq!(evicted(&mut live(Moment(0))), gone);
    let mut asleep = on_the_ladder(Moment(0));
    asleep.step(Moment(40_000), Event::Weighed(resting()));
    asleep.step(Moment(40_000), Event::Froze);
    assert_eq!(evicted(&mut asleep.clone()), gone);
    asleep
        .freeze(Moment(41_000), FreezeCause::Operator)
        .expect("frozen");
    assert_eq!(evicted(&mut asleep), (false, None));
    let mut works = live(Moment(0));
    works.begin_work(Moment(1)).expect("live");
    assert_eq!(evicted(&mut works), (false, None));
}
