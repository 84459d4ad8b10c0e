//! The invocations in flight, and those kept ones that have ended and are not settled: who an event belongs to, whose turn it
//! is, when to look again.

use super::port::AgentPorts;
use super::request::RequestFraming;
use super::settling::Settling;
use super::spool::Spool;
use super::{Exchange, Failure, Io, Turn, request};
use crate::link::Link;
use crate::poller::Ready;
use crate::socket::Socket;
use proto::code::ErrorCode;
use proto::ids::InvocationId;
use proto::shim::{
    Ack, BodyEnd, Cancel, Invoke, Keep, Kept, MAX_KEEP_MS, MAX_KEPT, Resume, Settle,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

struct Entry {
    exchange: Exchange,
    /// The serial under which its connection is in `by_agent`.
    agent: u64,
    /// It is in `runnable`.
    queued: bool,
    /// Its place in `timers`.
    timer: Option<Instant>,
}

/// See the module.
pub(crate) struct Invocations {
    most: usize,
    next_serial: u64,
    entries: BTreeMap<u64, Entry>,
    /// Of those that are kept: when each is over, whatever its agent does.
    overdue: BTreeSet<(Instant, u64)>,
    /// By the serials that they had.
    settling: BTreeMap<u64, Settling>,
    by_id: BTreeMap<InvocationId, u64>,
    by_agent: BTreeMap<u64, u64>,
    /// Exchanges that used their turn up, each once, and what has come to be settled: bounded by `most`.
    runnable: VecDeque<u64>,
    timers: BTreeSet<(Instant, u64)>,
    wants_drain: bool,
}

impl Invocations {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn new(most: u32) -> Self {
        Self {
            most: usize::try_from(most).unwrap_or(usize::MAX),
            next_serial: 0,
            entries: BTreeMap::new(),
            overdue: BTreeSet::new(),
            settling: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_agent: BTreeMap::new(),
            runnable: VecDeque::new(),
            timers: BTreeSet::new(),
            wants_drain: false,
        }
    }

    /// Begins one. Everything that can be wrong with the order is answered here.
    pub(crate) fn begin(
        &mut self,
        rpc: u64,
        invoke: &Invoke,
        stream: OwnedFd,
        io: &mut Io<'_>,
        now: Instant,
    ) {
        let known = self.entries.len() + self.settling.len();
        if known >= self.most {
            let text = format!("{known} invocations are in flight or not settled already");
            return io.link.refuse(rpc, ErrorCode::TooManyInvocations, text);
        }
        if self.by_id.contains_key(&invoke.id) {
            let text = format!("invocation {} is in flight already", invoke.id.0);
            return io.link.refuse(rpc, ErrorCode::BadOrder, text);
        }
        let Some(port) = io.ports.asked(invoke.port) else {
            let text = "this session offers no such port";
            return io.link.refuse(rpc, ErrorCode::BadOrder, text.to_owned());
        };
        let request = match request::encode(invoke, port) {
            Ok(request) => request,
            Err(error) => return io.link.refuse(rpc, ErrorCode::BadOrder, error.to_string()),
        };
        let spool = match invoke.keep {
            None => None,
            Some(keep) => match self.keep(keep, request.framing, now) {
                Ok(spool) => Some(spool),
                Err(failure) => return io.link.refuse(rpc, failure.code, failure.text),
            },
        };
        let connection = match io.ports.take(io.poller, port) {
            Ok(connection) => connection,
            Err(error) => {
                let failure = Failure::unreachable(error);
                return io.link.refuse(rpc, failure.code, failure.text);
            }
        };
        let serial = self.next_serial;
        self.next_serial += 1;
        let agent = connection.serial;
        let far = (Socket::new(stream), spool);
        let exchange = Exchange::new(invoke.id, serial, rpc, far, request, connection, now);
        if let Some(spool) = &exchange.spool {
            self.overdue.insert((spool.until, serial));
        }
        let entry = Entry {
            exchange,
            agent,
            queued: false,
            timer: None,
        };
        self.entries.insert(serial, entry);
        self.by_id.insert(invoke.id, serial);
        self.by_agent.insert(agent, serial);
        self.turn(serial, io, now);
    }

    /// Makes room for an answer that is to be kept, if it may be.
    fn keep(
        &self,
        keep: Keep,
        framing: RequestFraming,
        now: Instant,
    ) -> Result<Box<Spool>, Failure> {
        let refused = |text: &str| Err(Failure::new(ErrorCode::BadOrder, text));
        if !(1..=MAX_KEEP_MS).contains(&keep.deadline_ms) {
            return refused("deadline_ms is not from 1 ms to 31 days");
        }
        if framing == RequestFraming::Upgrade {
            return refused("an upgrade cannot be kept");
        }
        if self.overdue.len() + self.settling.len() >= MAX_KEPT {
            let text = "as many invocations are kept already as may be";
            return Err(Failure::new(ErrorCode::TooManyInvocations, text));
        }
        let until = now + Duration::from_millis(keep.deadline_ms);
        Ok(Box::new(Spool::new(until)))
    }

    /// What is kept, for a broker that is new.
    pub(crate) fn kept(&self, now: Instant) -> Vec<Kept> {
        let in_flight = self.overdue.iter().filter_map(|(_, serial)| {
            let entry = self.entries.get(serial)?;
            entry.exchange.kept(now)
        });
        let ended = self.settling.values().map(|ended| ended.kept(now));
        in_flight.chain(ended).collect()
    }

    /// Until when those in flight that are kept hold the session, and those that are not settled.
    pub(crate) fn held(&self) -> (Option<Instant>, Option<Instant>) {
        let in_flight = self.overdue.last().map(|(until, _)| *until);
        let settling = self.settling.values().map(|ended| ended.spool.until).max();
        (in_flight, settling)
    }

    /// Whether the end of one that is kept is, or may be, still to be told.
    pub(crate) fn is_settling(&self) -> bool {
        !self.settling.is_empty()
    }

    /// `resume`.
    pub(crate) fn resume(
        &mut self,
        rpc: u64,
        order: &Resume,
        stream: OwnedFd,
        io: &mut Io<'_>,
        now: Instant,
    ) {
        let serial = self.by_id.get(&order.id).copied().unwrap_or(u64::MAX);
        if let Some(entry) = self.entries.get_mut(&serial) {
            entry.exchange.resume(rpc, order, stream, io.link);
            self.turn(serial, io, now);
        } else if let Some(ended) = self.settling.get_mut(&serial) {
            ended.resume(rpc, order, stream, io.link);
            ended.turn(io);
        } else {
            let text = format!("invocation {} is not kept", order.id.0);
            io.link.refuse(rpc, ErrorCode::NotFound, text);
        }
    }

    /// `ack`. One for an invocation that is not kept, or any more, is late.
    pub(crate) fn ack(&mut self, ack: Ack, io: &mut Io<'_>, now: Instant) {
        let Some(&serial) = self.by_id.get(&ack.id) else {
            return;
        };
        if let Some(ended) = self.settling.get_mut(&serial) {
            ended.spool.ack(ack.bytes);
        } else if let Some(entry) = self.entries.get_mut(&serial)
            && let Some(spool) = &mut entry.exchange.spool
        {
            spool.ack(ack.bytes);
            self.turn(serial, io, now);
        }
    }

    /// `settle`.
    pub(crate) fn settle(&mut self, settle: Settle) {
        if let Some(&serial) = self.by_id.get(&settle.id)
            && self.settling.remove(&serial).is_some()
        {
            self.by_id.remove(&settle.id);
        }
    }

    /// The broker's stream of one became ready.
    pub(crate) fn stream_ready(
        &mut self,
        serial: u64,
        ready: Ready,
        io: &mut Io<'_>,
        now: Instant,
    ) {
        if let Some(entry) = self.entries.get_mut(&serial) {
            if let Some(stream) = entry.exchange.stream() {
                stream.note(ready);
            }
            self.turn(serial, io, now);
        } else if let Some(ended) = self.settling.get_mut(&serial) {
            if let Some(stream) = ended.stream() {
                stream.note(ready);
            }
            ended.turn(io);
        }
    }

    /// A connection to the agent became ready; whether it belongs to one of these.
    pub(crate) fn agent_ready(
        &mut self,
        agent: u64,
        ready: Ready,
        io: &mut Io<'_>,
        now: Instant,
    ) -> bool {
        let Some(&serial) = self.by_agent.get(&agent) else {
            return false;
        };
        if let Some(entry) = self.entries.get_mut(&serial) {
            entry.exchange.agent().socket.note(ready);
            self.turn(serial, io, now);
        }
        true
    }

    /// `body.end`. One for an invocation that is over is late, not wrong.
    pub(crate) fn end(&mut self, end: BodyEnd, io: &mut Io<'_>, now: Instant) {
        let Some(&serial) = self.by_id.get(&end.id) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&serial) else {
            return;
        };
        match entry.exchange.note_end(end.bytes) {
            Ok(()) => self.turn(serial, io, now),
            Err(failure) => self.fail(serial, failure, io.link),
        }
    }

    /// `cancel`.
    pub(crate) fn cancel(&mut self, cancel: Cancel, link: &mut Link) {
        if let Some(&serial) = self.by_id.get(&cancel.id) {
            self.fail(serial, Failure::cancelled("cancelled"), link);
        }
    }

    /// Ends all of them.
    pub(crate) fn fail_all(&mut self, failure: &Failure, link: &mut Link) {
        let all: Vec<u64> = self.entries.keys().copied().collect();
        for serial in all {
            self.fail(serial, failure.clone(), link);
        }
    }

    /// The broker is gone: what is kept goes on without it, the others end.
    pub(crate) fn lose_link(&mut self, failure: &Failure, io: &mut Io<'_>, now: Instant) {
        for ended in self.settling.values_mut() {
            ended.lose_stream();
        }
        let all: Vec<u64> = self.entries.keys().copied().collect();
        for serial in all {
            let kept = self.entries.get_mut(&serial);
            if kept.is_some_and(|entry| entry.exchange.orphan()) {
                // What is left of its request can be taken still.
                self.turn(serial, io, now);
            } else {
                self.fail(serial, failure.clone(), io.link);
            }
        }
    }

    /// The agent's process has ended badly: what it did not frame is not complete.
    pub(crate) fn agent_died(&mut self, link: &mut Link) {
        self.judge_all(link, Exchange::note_agent_died);
    }

    /// The link is empty: streams that ended without `body.end` were cut short.
    pub(crate) fn link_drained(&mut self, link: &mut Link) {
        self.wants_drain = false;
        self.judge_all(link, Exchange::note_drained);
    }

    /// Whether a stream's end can only be judged once the link is empty.
    pub(crate) fn wants_drain(&self) -> bool {
        self.wants_drain
    }

    /// Packets have left the link: exchanges that waited for theirs may end.
    pub(crate) fn link_flushed(&mut self, io: &mut Io<'_>, now: Instant) {
        let all: Vec<u64> = self.entries.keys().copied().collect();
        for serial in all {
            self.turn(serial, io, now);
        }
        for ended in self.settling.values_mut() {
            ended.turn(io);
        }
    }

    /// Gives a turn to everyone who has more to do; whether someone still has.
    pub(crate) fn run(&mut self, io: &mut Io<'_>, now: Instant) -> bool {
        let mut due = Vec::new();
        while let Some((at, serial)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            if let Some(entry) = self.entries.get_mut(&serial) {
                entry.timer = None;
                due.push(serial);
            }
        }
        while let Some((at, serial)) = self.overdue.first().copied()
            && at <= now
        {
            self.overdue.pop_first();
            self.fail(serial, Failure::overdue(), io.link);
        }
        for serial in std::mem::take(&mut self.runnable) {
            if let Some(entry) = self.entries.get_mut(&serial) {
                entry.queued = false;
                due.push(serial);
            } else if let Some(ended) = self.settling.get_mut(&serial) {
                ended.turn(io);
            }
        }
        for serial in due {
            self.turn(serial, io, now);
        }
        !self.runnable.is_empty()
    }

    /// When to call [`Self::run`] next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let overdue = self.overdue.first().map(|(at, _)| *at);
        timer.into_iter().chain(overdue).min()
    }

    fn turn(&mut self, serial: u64, io: &mut Io<'_>, now: Instant) {
        let Some(entry) = self.entries.get_mut(&serial) else {
            return;
        };
        let turn = entry.exchange.turn(io, now);
        let agent = entry.exchange.agent().serial;
        if agent != entry.agent {
            self.by_agent.remove(&entry.agent);
            self.by_agent.insert(agent, serial);
            entry.agent = agent;
        }
        match turn {
            Ok(Turn::Waits) => {}
            Ok(Turn::More) => {
                if !std::mem::replace(&mut entry.queued, true) {
                    self.runnable.push_back(serial);
                }
            }
            Ok(Turn::DrainLink) => self.wants_drain = true,
            Ok(Turn::Until(at)) => {
                if let Some(before) = entry.timer.replace(at) {
                    self.timers.remove(&(before, serial));
                }
                self.timers.insert((at, serial));
            }
            Ok(Turn::Over) => {
                if let Some(mut exchange) = self.remove(serial) {
                    self.remember(&mut exchange, None);
                    exchange.finish(io.ports, now);
                }
            }
            Err(failure) => self.fail(serial, failure, io.link),
        }
    }

    fn judge_all(&mut self, link: &mut Link, judge: impl Fn(&Exchange) -> Result<(), Failure>) {
        let failed: Vec<(u64, Failure)> = self
            .entries
            .iter()
            .filter_map(|(serial, entry)| Some((*serial, judge(&entry.exchange).err()?)))
            .collect();
        for (serial, failure) in failed {
            self.fail(serial, failure, link);
        }
    }

    fn fail(&mut self, serial: u64, failure: Failure, link: &mut Link) {
        if let Some(mut exchange) = self.remove(serial) {
            self.remember(&mut exchange, Some(&failure));
            exchange.fail(failure, link);
        }
    }

    /// Remembers how one ended, if it is kept; it has a turn soon.
    fn remember(&mut self, exchange: &mut Exchange, failure: Option<&Failure>) {
        let Some(far) = exchange.leave() else {
            return;
        };
        let (id, serial) = (exchange.id, exchange.serial);
        let ended = Settling::new(id, serial, far, exchange.taken, failure.cloned());
        self.settling.insert(serial, ended);
        self.by_id.insert(id, serial);
        self.runnable.push_back(serial);
    }

    fn remove(&mut self, serial: u64) -> Option<Exchange> {
        let entry = self.entries.remove(&serial)?;
        self.by_agent.remove(&entry.agent);
        self.by_id.remove(&entry.exchange.id);
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, serial));
        }
        if let Some(spool) = &entry.exchange.spool {
            self.overdue.remove(&(spool.until, serial));
        }
        Some(entry.exchange)
    }
}

impl AgentPorts {
    /// An event of a connection that is in no exchange.
    pub(crate) fn idle_ready(&mut self, serial: u64, ready: Ready) {
        if ready.readable {
            self.drop_idle(serial);
        }
    }
}
