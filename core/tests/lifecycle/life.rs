//! Start, work, idle time, lifetime and end, and the same after adoption.

use crate::{POLICY, live};
use proto::api::{EndReason, Phase};
use session_core::lifecycle::{Effect, Event, Health, Refusal, Session};
use session_core::moment::Moment;
use std::time::Duration;

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
