//! The broker's orders, carried out.

use super::Shim;
use crate::invocation::Failure;
use crate::link::door::Admitted;
use crate::link::order::{self, Order, Refusal};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use proto::code::ErrorCode;
use proto::jsonrpc::MAX_PACKET;
use proto::shim::{Attached, Claim, GENERATION, Invoke};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

impl Shim {
    /// A broker has shown its token: it replaces the one before.
    pub(super) fn attach(&mut self, admitted: Admitted, now: Instant) {
        if self.link.is_attached() {
            // What an earlier broker has said is heard first: it may be dead, and may have told its caller so already.
            self.drain_link(now);
        }
        if self.link.is_attached() {
            self.lose_link(now);
        }
        let attached = self
            .link
            .attach(&self.poller, admitted.socket, admitted.serial);
        if attached.is_err() {
            return;
        }
        let since = |moment: Instant| {
            u64::try_from(now.duration_since(moment).as_millis()).unwrap_or(u64::MAX)
        };
        self.link.answer(
            admitted.rpc,
            &Attached {
                generation: GENERATION,
                session: self.session.clone(),
                health: self.ping.health().cloned(),
                exited: self.agent.exited().cloned(),
                uptime_ms: since(self.started),
                ending: !self.ending.is_running(),
                idle_ms: if self.working {
                    0
                } else {
                    since(self.quiet_since)
                },
                kept: self.invocations.kept(now),
            },
        );
        self.ending.attached();
        self.tell_source();
        // Said once on every link, after the output that came before it.
        self.exit_told = false;
        self.next_log = now;
    }

    /// The broker is gone, or must go. Its invocations and processes have no caller any more, but for those that are kept; the
    /// agent goes on.
    pub(super) fn lose_link(&mut self, now: Instant) {
        self.link.detach();
        let failure = Failure::cancelled("the daemon is gone");
        self.with_io(|invocations, io| invocations.lose_link(&failure, io, now));
        self.execs.abandon();
        self.note_work(now);
        self.ending.detached(now);
    }

    /// Takes everything that is on the link now, so that streams that have ended can be judged.
    pub(super) fn drain_link(&mut self, now: Instant) {
        while self.link.broken().is_none() && self.take_order(now) {}
        self.invocations.link_drained(&mut self.link);
    }

    /// Takes one packet; whether there was one.
    pub(super) fn take_order(&mut self, now: Instant) -> bool {
        let Some(received) = self.link.receive(&mut self.packet[..MAX_PACKET]) else {
            return false;
        };
        if received.len == 0 {
            self.lose_link(now);
            return false;
        }
        if received.truncated {
            self.link.give_up("a packet over the limit".to_owned());
            return false;
        }
        match order::parse(&self.packet[..received.len], received.fds) {
            Ok(order) => self.carry_out(order, now),
            Err(Refusal::Answer { rpc, code, text }) => self.link.refuse(rpc, code, text),
            Err(Refusal::Close(why)) => {
                self.link.give_up(why);
                return false;
            }
        }
        true
    }

    fn carry_out(&mut self, order: Order, now: Instant) {
        match order {
            Order::Invoke {
                rpc,
                invoke,
                stream,
            } => self.invoke(rpc, &invoke, stream, now),
            Order::Resume {
                rpc,
                resume,
                stream,
            } => self.with_io(|invocations, io| invocations.resume(rpc, &resume, stream, io, now)),
            Order::Ack(ack) => self.with_io(|invocations, io| invocations.ack(ack, io, now)),
            Order::Settle(settle) => self.invocations.settle(settle),
            Order::Cancel(cancel) => self.invocations.cancel(cancel, &mut self.link),
            Order::BodyEnd(end) => self.with_io(|invocations, io| invocations.end(end, io, now)),
            Order::Exec { rpc, exec, stdio } => {
                if !self.ending.is_running() {
                    return self.refuse_late(rpc);
                }
                let identity = self.agent.identity();
                self.execs
                    .start(rpc, &exec, stdio, identity, &mut self.link, &self.poller);
            }
            Order::Resize(resize) => self.execs.resize(resize),
            Order::Signal { rpc, signal } => match self.signal(signal.id, signal.signal) {
                Ok(()) => self.link.answer(rpc, &serde_json::Map::new()),
                Err((code, text)) => self.link.refuse(rpc, code, text.to_owned()),
            },
            Order::Claim { rpc, claim } => self.claim(rpc, claim, now),
            Order::ClockGap(gap) => self.stood_still(Duration::from_millis(gap.gap_ms), now),
            Order::Shutdown(shutdown) => {
                let grace = Duration::from_millis(shutdown.grace_ms);
                if let Some(act) = self.ending.shutdown(grace, now) {
                    self.perform(act);
                }
            }
            Order::Fork { rpc, channel } => match self.fork(channel) {
                Ok(()) => self.link.answer(rpc, &serde_json::Map::new()),
                Err(text) => self.link.refuse(rpc, ErrorCode::BadOrder, text),
            },
            Order::Go => self.go(now),
            Order::Unknown => {}
        }
    }

    /// The session is somebody's from now on, if its agent lives and nobody was there before.
    fn claim(&mut self, rpc: u64, claim: Claim, now: Instant) {
        // Of an agent that is dead by now its end must be known before it is promised to anybody.
        self.take_signals(now);
        self.life_ready(now);
        if !self.ending.is_running() {
            return self.refuse_late(rpc);
        }
        if self.claimed || self.working || !self.invocations.is_empty() || !self.execs.is_empty() {
            let text = "somebody has used the session".to_owned();
            return self.link.refuse(rpc, ErrorCode::Conflict, text);
        }
        self.claimed = true;
        self.quiet_since = now;
        self.ending
            .begin_anew(Duration::from_millis(claim.max_lifetime_ms), now);
        self.link.answer(rpc, &serde_json::Map::new());
    }

    /// The session was frozen for so long, until now: it has not been idle meanwhile, and nobody could have answered.
    fn stood_still(&mut self, gap: Duration, now: Instant) {
        let later = self.quiet_since.checked_add(gap);
        self.quiet_since = later.map_or(now, |later| later.min(now));
        self.ping.note_freeze(now);
    }

    fn invoke(&mut self, rpc: u64, invoke: &Invoke, stream: OwnedFd, now: Instant) {
        if self.ending.is_running() {
            self.with_io(|invocations, io| invocations.begin(rpc, invoke, stream, io, now));
        } else {
            self.refuse_late(rpc);
        }
    }

    fn refuse_late(&mut self, rpc: u64) {
        let (code, text) = if self.agent.exited().is_some() {
            (ErrorCode::AgentUnreachable, "the agent has ended")
        } else {
            (ErrorCode::RetryableConflict, "the session is ending")
        };
        self.link.refuse(rpc, code, text.to_owned());
    }

    fn signal(
        &self,
        id: Option<proto::ids::ExecId>,
        number: i32,
    ) -> Result<(), (ErrorCode, &'static str)> {
        let signal = Signal::try_from(number)
            .map_err(|_| (ErrorCode::BadOrder, "signal must be 1 to 31"))?;
        let sent = match id {
            Some(id) => self.execs.signal(id, signal),
            None => self.agent.signal(signal),
        };
        sent.map_err(|error| match error {
            Errno::ESRCH => (ErrorCode::NotFound, "there is no such process any more"),
            other => (ErrorCode::Internal, other.desc()),
        })
    }
}
