//! Tier 1 (pure): the session state machine: against invariants and a naive model ([`model`]), and by example.
#![allow(missing_docs, reason = "a test")]

mod freezing;
mod life;
mod model;

use session_core::lifecycle::{Event, Health, Policy, Session};
use session_core::moment::Moment;
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

/// One that is ready.
fn live(now: Moment) -> Session {
    let mut session = Session::new(now, POLICY);
    session.step(now, Event::Attached);
    session.step(now, Event::Health(Health::Healthy));
    session
}
