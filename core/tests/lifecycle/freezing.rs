//! What freezes a session, what thaws it, and what that does to its clocks.

use crate::{LADDER, POLICY, live};
use proto::api::{EndReason, FreezeCause, Phase};
use session_core::lifecycle::freeze::{Holds, NoFreeze, NoThaw};
use session_core::lifecycle::ladder::Quiet;
use session_core::lifecycle::{Effect, Event, Health, Refusal, Session};
use session_core::moment::Moment;
use std::time::Duration;

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
