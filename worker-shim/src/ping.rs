//! Health: asks the agent's `/ping`, and tells when the answer changed.
//!
//! ```text
//!  Waiting(at) ──at──▶ Asking ──answer, failure or timeout──▶ Waiting(later)
//! ```
//!
//! - Until the first healthy answer the agent is *starting*: that nobody listens yet is no failure, and the next attempt
//!   comes quickly: a tenth of the time that the start has taken so far, which is the most that it can be prolonged by.
//!   Other bad answers (an error status, no JSON) are told, at most once per interval, so that a start timeout can say what
//!   was seen.
//! - Afterwards it is asked every interval, and every failure is told with its count.
//!
//! Healthy is: status 200 and a JSON object whose `status` is `Healthy` or `HealthyBusy` (contract §1.2). A
//! `time_of_last_update` that is not a number is ignored: it is optional, and the daemon tracks changes itself.

mod answer;

use crate::invocation::port::{AgentPorts, Connection, says_nobody_listens};
use crate::poller::{Poller, Ready};
use crate::socket::{Read, Written};
use answer::{Answer, Reader};
use nix::errno::Errno;
use proto::shim::{AgentWire, Health, HealthStatus, ShimLimits};
use std::time::{Duration, Instant};

/// Between attempts while nobody listens: this share of the time since the start …
const SHARE: u32 = 10;
/// … but at least this (an attempt costs some 50 µs of a processor that the agent may want) …
const FIRST_WAIT: Duration = Duration::from_micros(250);
/// … at most this …
const FAST_WAIT: Duration = Duration::from_millis(5);
/// … and at most this once the start takes longer than [`LONG_START`].
const SLOW_WAIT: Duration = Duration::from_millis(50);
/// An agent that has not come up by then is not delayed noticeably by slower polling.
const LONG_START: Duration = Duration::from_secs(10);

enum State {
    Waiting {
        at: Instant,
    },
    Asking {
        connection: Connection,
        sent: usize,
        reader: Reader,
        until: Instant,
    },
}

/// See the module.
pub(crate) struct Ping {
    request: Option<Vec<u8>>,
    interval: Duration,
    timeout: Duration,
    state: State,
    started: Instant,
    been_healthy: bool,
    failures: u32,
    health: Option<Health>,
    /// While starting: when the next bad answer may be told.
    tell_again: Instant,
}

/// One check's outcome.
enum Outcome {
    Healthy(Health),
    NobodyListens(Errno),
    Unhealthy(String),
}

impl Ping {
    pub(crate) fn new(wire: &AgentWire, limits: &ShimLimits, now: Instant) -> Self {
        Self {
            request: wire.ping_path.as_ref().map(|path| {
                format!(
                    "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\naccept: application/json\r\n\
                     connection: close\r\n\r\n",
                    wire.port
                )
                .into_bytes()
            }),
            interval: Duration::from_millis(limits.ping_interval_ms.max(1)),
            timeout: Duration::from_millis(limits.ping_timeout_ms.max(1)),
            state: State::Waiting {
                at: now + FIRST_WAIT,
            },
            started: now,
            been_healthy: false,
            failures: 0,
            health: None,
            tell_again: now,
        }
    }

    /// There is someone to ask from now on.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.started = now;
        self.state = State::Waiting {
            at: now + FIRST_WAIT,
        };
    }

    /// The last health told.
    pub(crate) fn health(&self) -> Option<&Health> {
        self.health.as_ref()
    }

    /// When to call [`Self::tick`] next.
    pub(crate) fn deadline(&self) -> Instant {
        match &self.state {
            State::Waiting { at } => *at,
            State::Asking { until, .. } => *until,
        }
    }

    /// Whether an event of this connection belongs here.
    pub(crate) fn owns(&self, agent: u64) -> bool {
        matches!(&self.state, State::Asking { connection, .. } if connection.serial == agent)
    }

    /// The whole session stood still (frozen): a check under way has all its time once more.
    pub(crate) fn note_freeze(&mut self, now: Instant) {
        if let State::Asking { until, .. } = &mut self.state {
            *until = now + self.timeout;
        }
    }

    /// Begins a check or gives one up, whichever is due. Returns the health if it changed.
    pub(crate) fn tick(
        &mut self,
        ports: &mut AgentPorts,
        poller: &Poller,
        now: Instant,
    ) -> Option<Health> {
        if now < self.deadline() {
            return None;
        }
        match &self.state {
            State::Asking { .. } => {
                let text = format!("no answer within {} ms", self.timeout.as_millis());
                self.conclude(Outcome::Unhealthy(text), now)
            }
            State::Waiting { .. } => match ports.take(poller, ports.own()) {
                Ok(connection) => {
                    self.state = State::Asking {
                        connection,
                        sent: 0,
                        reader: Reader::default(),
                        until: now + self.timeout,
                    };
                    self.proceed(ports, poller, now)
                }
                Err(error) => self.conclude(broken(error), now),
            },
        }
    }

    /// The connection became ready. Returns the health if it changed.
    pub(crate) fn ready(
        &mut self,
        ready: Ready,
        ports: &mut AgentPorts,
        poller: &Poller,
        now: Instant,
    ) -> Option<Health> {
        if let State::Asking { connection, .. } = &mut self.state {
            connection.socket.note(ready);
        }
        self.proceed(ports, poller, now)
    }

    fn proceed(&mut self, ports: &mut AgentPorts, poller: &Poller, now: Instant) -> Option<Health> {
        let outcome = loop {
            let State::Asking {
                connection,
                sent,
                reader,
                ..
            } = &mut self.state
            else {
                return None;
            };
            let step = match &self.request {
                Some(request) => ask(request, connection, sent, reader, ports),
                None => knock(connection, ports),
            };
            match step {
                Step::Blocked => return None,
                Step::Done(outcome) => break outcome,
                Step::Failed(error) if !connection.connected => {
                    match ports.redial(poller, connection, error) {
                        Some(Ok(next)) => *connection = next,
                        Some(Err(error)) => break broken(error),
                        None => break broken(error),
                    }
                }
                // A kept connection that closed under us says nothing about the agent.
                Step::Failed(_) if connection.reused => {
                    match ports.dial_again(poller, connection) {
                        Ok(next) => {
                            *connection = next;
                            *sent = 0;
                            *reader = Reader::default();
                        }
                        Err(error) => break broken(error),
                    }
                }
                Step::Failed(error) => break broken(error),
            }
        };
        self.conclude(outcome, now)
    }

    fn conclude(&mut self, outcome: Outcome, now: Instant) -> Option<Health> {
        let wait = if self.been_healthy || matches!(outcome, Outcome::Healthy(_)) {
            self.interval
        } else {
            let taken = now.duration_since(self.started);
            let limit = if taken < LONG_START {
                FAST_WAIT
            } else {
                SLOW_WAIT
            };
            let wait = (taken / SHARE).clamp(FIRST_WAIT, limit);
            // Someone who answers, but badly, gains nothing from being asked every few milliseconds.
            match outcome {
                Outcome::Unhealthy(_) => SLOW_WAIT,
                Outcome::NobodyListens(_) | Outcome::Healthy(_) => wait,
            }
            .min(self.interval)
        };
        self.state = State::Waiting { at: now + wait };
        let health = match outcome {
            Outcome::Healthy(health) => {
                self.been_healthy = true;
                self.failures = 0;
                health
            }
            Outcome::NobodyListens(_) if !self.been_healthy => return None,
            Outcome::NobodyListens(error) => self.failed(format!("connect: {}", error.desc())),
            Outcome::Unhealthy(detail) => self.failed(detail),
        };
        let changed = self.health.as_ref() != Some(&health);
        let early = !self.been_healthy && now < self.tell_again;
        if !changed || early {
            return None;
        }
        self.tell_again = now + self.interval;
        self.health = Some(health.clone());
        Some(health)
    }

    fn failed(&mut self, detail: String) -> Health {
        self.failures = self.failures.saturating_add(1);
        Health {
            status: HealthStatus::Unhealthy {
                failures: self.failures,
                detail,
            },
            time_of_last_update: None,
        }
    }
}

enum Step {
    Blocked,
    Failed(Errno),
    Done(Outcome),
}

fn broken(error: Errno) -> Outcome {
    if says_nobody_listens(error) {
        Outcome::NobodyListens(error)
    } else {
        Outcome::Unhealthy(format!("connection: {}", error.desc()))
    }
}

/// Without a path, an agent is healthy when its port accepts.
fn knock(connection: &mut Connection, ports: &mut AgentPorts) -> Step {
    match connection.socket.error() {
        Some(error) => Step::Failed(error),
        None if connection.socket.is_connected() => {
            ports.note_connected(connection);
            Step::Done(Outcome::Healthy(Health {
                status: HealthStatus::Healthy,
                time_of_last_update: None,
            }))
        }
        None => Step::Blocked,
    }
}

fn ask(
    request: &[u8],
    connection: &mut Connection,
    sent: &mut usize,
    reader: &mut Reader,
    ports: &mut AgentPorts,
) -> Step {
    while *sent < request.len() {
        if !connection.socket.is_writable() {
            return Step::Blocked;
        }
        match connection.socket.write(&request[*sent..]) {
            Written::Some(n) => {
                ports.note_connected(connection);
                *sent += n;
            }
            Written::Blocked => return Step::Blocked,
            Written::Failed(error) => return Step::Failed(error),
        }
    }
    let mut piece = [0; 4096];
    while connection.socket.is_readable() {
        let answer = match connection.socket.read(&mut piece) {
            Read::Data(n) => reader.take(&mut piece[..n]),
            Read::Blocked => return Step::Blocked,
            Read::End if connection.reused && reader.is_empty() => {
                return Step::Failed(Errno::ECONNRESET);
            }
            Read::End => reader.end(),
            Read::Failed(error) => return Step::Failed(error),
        };
        match answer {
            None => {}
            Some(Answer::Healthy(health)) => return Step::Done(Outcome::Healthy(health)),
            Some(Answer::Unhealthy(text)) => return Step::Done(Outcome::Unhealthy(text)),
        }
    }
    Step::Blocked
}
