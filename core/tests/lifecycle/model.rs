//! Random sequences of events, against invariants and a naive model.

use crate::{LADDER, POLICY};
use proptest::prelude::*;
use proto::api::{EndReason, FreezeCause, Phase};
use session_core::lifecycle::freeze::{Holds, NoFreeze, NoThaw};
use session_core::lifecycle::ladder::Quiet;
use session_core::lifecycle::{Effect, Event, Health, Refusal, Session};
use session_core::moment::Moment;
use std::collections::VecDeque;
use std::time::Duration;

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
