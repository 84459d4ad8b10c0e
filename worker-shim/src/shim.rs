//! The whole shim: what it holds, and the loop that gives each part its turn.
//!
//! One thread, one wait. After every wait each part gets a bounded turn, so none can keep the others waiting; what a part
//! could not finish makes the next wait end at once.

mod forks;
mod orders;
mod processes;

use crate::agent::Agent;
use crate::arrival::Arrival;
use crate::egress::{self, Egress};
use crate::exec::Execs;
use crate::invocation::port::AgentPorts;
use crate::invocation::{Invocations, Io};
use crate::link::Link;
use crate::link::door::Door;
use crate::logs::Logs;
use crate::ping::Ping;
use crate::poller::{Poller, Ready, Token, Watch};
use crate::shutdown::{Ending, Holds};
use crate::template::Template;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::{Pid, getpid};
use proto::ids::SessionId;
use proto::jsonrpc::MAX_PACKET;
use proto::shim::{Boot, ExitCause, ExitRecord, Health, Origin};
use sandbox::seqpacket::SeqpacketListener;
use sandbox::sys::signal;
use std::io;
use std::time::{Duration, Instant};

/// Size of the two buffers. Half would do; but from 128 KiB on malloc maps fresh pages, and what is never used of those
/// costs nothing: an idle session's small packets touch a page or two.
const BUFFER: usize = 136 * 1024;

/// Between two log packets, so that an agent that prints line by line does not cost a packet for each.
const LOG_PAUSE: Duration = Duration::from_millis(5);

/// A wait that ends this much late was not a wait but a freeze.
const FREEZE: Duration = Duration::from_millis(250);

/// Where the agent comes from, and how far that has come.
enum Source {
    Started,
    Template(Template),
    Fork(Arrival),
}

/// See the module.
pub(crate) struct Shim {
    session: SessionId,
    started: Instant,
    poller: Poller,
    scratch: Box<[u8]>,
    packet: Box<[u8]>,
    signals: SignalFd,
    door: Door,
    link: Link,
    agent: Agent,
    source: Source,
    ports: AgentPorts,
    ping: Ping,
    invocations: Invocations,
    execs: Execs,
    logs: Logs,
    next_log: Instant,
    egress: Option<Egress>,
    ending: Ending,
    /// Whether there was work at the last turn, and when there last was, or the health changed.
    working: bool,
    quiet_since: Instant,
    /// It has waited in a pool and been claimed.
    claimed: bool,
    /// `agent.exited` has been said on this link.
    exit_told: bool,
    /// Set by the act that ends the loop.
    over: Option<ExitCause>,
}

impl Shim {
    /// Starts the agent and everything around it.
    pub(crate) fn start(boot: Boot, listener: SeqpacketListener) -> io::Result<Self> {
        let started = Instant::now();
        let poller = Poller::new()?;
        let signals = signal::signalfd(&[Signal::SIGCHLD, Signal::SIGTERM])?;
        poller.add(&signals, Token::Signals, Watch::Reading)?;
        if !is_pid_1() {
            // Outside a pid namespace of our own (tests): orphans still come to us.
            prctl::set_child_subreaper(true)?;
        }
        let door = Door::new(listener, &boot, &poller)?;
        let port = match boot.origin {
            Origin::Started => 0,
            Origin::Template | Origin::Fork => egress::SAME,
        };
        let egress = match boot.egress {
            true => Some(Egress::bind(port, boot.limits.max_egress_backlog, &poller)?),
            false => None,
        };
        let (mut agent, output) = Agent::prepare(boot.agent, egress.as_ref().map(Egress::port))?;
        let source = match boot.origin {
            Origin::Started => {
                agent.start(None);
                Source::Started
            }
            Origin::Template => {
                let (template, orders) = Template::new(&poller)?;
                agent.start(Some(orders));
                Source::Template(template)
            }
            Origin::Fork => Source::Fork(Arrival::default()),
        };
        let mut logs = Logs::new(&boot.limits, started);
        logs.open(output, &poller)?;
        let mut ending = Ending::new(&boot.limits, started);
        if agent.exited().is_some() {
            ending.agent_ended(started);
        }
        Ok(Self {
            session: boot.session,
            started,
            scratch: vec![0; BUFFER].into_boxed_slice(),
            packet: vec![0; BUFFER].into_boxed_slice(),
            signals,
            door,
            link: Link::default(),
            agent,
            source,
            ports: AgentPorts::new(boot.wire.clone()),
            ping: Ping::new(&boot.wire, &boot.limits, Instant::now()),
            invocations: Invocations::new(boot.limits.max_invocations),
            execs: Execs::default(),
            logs,
            next_log: started,
            egress,
            ending,
            working: false,
            quiet_since: started,
            claimed: false,
            exit_told: false,
            over: None,
            poller,
        })
    }

    /// Serves until the session is over.
    pub(crate) fn run(mut self) -> io::Result<ExitRecord> {
        let cause = loop {
            let now = Instant::now();
            let (more, deadline) = self.turn(now);
            if let Some(cause) = self.over {
                break cause;
            }
            let timeout = match more {
                true => Some(Duration::ZERO),
                false => deadline.map(|at| at.saturating_duration_since(Instant::now())),
            };
            self.poller.wait(timeout)?;
            let woke = Instant::now();
            if let Some(late) = deadline.and_then(|at| woke.checked_duration_since(at))
                && late > FREEZE
            {
                self.ping.note_freeze(woke);
            }
            self.dispatch(woke);
        };
        self.last_words();
        Ok(ExitRecord {
            cause,
            agent: self.agent.exited().cloned(),
        })
    }

    /// Everyone's turn after the events. Whether there is more to do at once, and when the next thing is due.
    fn turn(&mut self, now: Instant) -> (bool, Option<Instant>) {
        self.note_holds(now);
        if let Some(act) = self.ending.tick(now) {
            self.perform(act);
        }
        // An agent that is being ended, or has ended, is not asked how it is.
        let asking = self.ending.is_running() && self.has_agent();
        let health = if asking {
            self.ping.tick(&mut self.ports, &self.poller, now)
        } else {
            None
        };
        self.tell_health(health);
        if self.invocations.wants_drain() {
            self.drain_link(now);
        }
        let mut more = false;
        if self.invocations.is_settling() {
            self.tell_output(now);
        }
        self.with_io(|invocations, io| more = invocations.run(io, now));
        let Self {
            execs,
            scratch,
            link,
            ..
        } = self;
        more |= execs.run(scratch, link);
        self.note_work(now);
        let log_due = self.send_logs(now);
        let blocked = self.link.is_attached() && !self.link.is_idle();
        self.link.flush(&self.poller);
        if blocked && self.link.is_idle() {
            self.with_io(|invocations, io| invocations.link_flushed(io, now));
            more = true;
        }
        if self.link.broken().is_some() {
            self.lose_link(now);
        }
        if let Some(egress) = &mut self.egress {
            egress.settle(&self.link, &self.poller);
        }
        self.note_holds(now);
        let ping = asking.then(|| self.ping.deadline());
        let deadline = [
            self.ending.deadline(),
            ping,
            self.invocations.deadline(),
            self.logs.tick(&self.poller, now),
            log_due,
            self.door.expire(now),
            self.ports.expire(now),
        ]
        .into_iter()
        .flatten()
        .min();
        (more, deadline)
    }

    fn dispatch(&mut self, now: Instant) {
        // The link comes last: an order takes an idle connection, whose end may be in the same batch.
        let mut orders = false;
        for index in 0..self.poller.ready() {
            match self.poller.event(index) {
                Some((Token::Link(serial), _)) => orders |= self.link.is(serial),
                Some((token, ready)) => self.ready(token, ready, now),
                None => {}
            }
        }
        // One order for each wait: the usual case is that there is one, and asking for more would be a call in vain.
        if orders && self.link.has_room() {
            self.take_order(now);
        }
    }

    fn ready(&mut self, token: Token, ready: Ready, now: Instant) {
        match token {
            Token::Signals => self.take_signals(now),
            Token::Listener => self.door.accept(&self.poller, now),
            Token::Pending(serial) => {
                if let Some(admitted) = self.door.hear(serial, &mut self.packet[..MAX_PACKET]) {
                    self.attach(admitted, now);
                }
            }
            // Dispatched by itself.
            Token::Link(_) => {}
            Token::Output(index) => {
                let Self {
                    logs,
                    scratch,
                    poller,
                    ..
                } = self;
                logs.ready(index, scratch, poller, now);
            }
            Token::Stream(serial) => self.with_io(|invocations, io| {
                invocations.stream_ready(serial, ready, io, now);
            }),
            Token::Agent(serial) => {
                if self.ping.owns(serial) {
                    let health = self.ping.ready(ready, &mut self.ports, &self.poller, now);
                    self.tell_health(health);
                    return;
                }
                let mut taken = false;
                self.with_io(|invocations, io| {
                    taken = invocations.agent_ready(serial, ready, io, now);
                });
                if !taken {
                    self.ports.idle_ready(serial, ready);
                }
            }
            Token::Egress => {
                if let Some(egress) = &mut self.egress {
                    egress.ready(&mut self.link);
                }
            }
            Token::ExecStream(serial) => self.execs.stream_ready(serial, ready),
            Token::ExecTerminal(serial) => self.execs.terminal_ready(serial, ready),
            Token::Template => self.template_ready(),
            Token::Fork => self.channel_ready(now),
            Token::Life => self.life_ready(now),
        }
    }

    fn with_io(&mut self, act: impl FnOnce(&mut Invocations, &mut Io<'_>)) {
        let mut io = Io {
            poller: &self.poller,
            link: &mut self.link,
            ports: &mut self.ports,
            scratch: &mut self.scratch,
        };
        act(&mut self.invocations, &mut io);
    }

    /// Invocations that are kept hold the session.
    fn note_holds(&mut self, now: Instant) {
        let (in_flight, unsettled) = self.invocations.held();
        let holds = Holds {
            in_flight,
            unsettled,
        };
        self.ending.hold(holds, now);
    }

    /// Work that has ended since the last look ended now.
    fn note_work(&mut self, now: Instant) {
        let working = !self.invocations.is_empty() || !self.execs.is_empty();
        if working || self.working {
            self.quiet_since = now;
        }
        self.working = working;
    }

    fn tell_health(&mut self, health: Option<Health>) {
        if let Some(health) = health {
            self.quiet_since = Instant::now();
            self.link.notify("health", &health);
        }
    }

    /// Sends all output that there is, in front of what is told next.
    fn tell_output(&mut self, now: Instant) {
        let Self {
            logs,
            scratch,
            poller,
            ..
        } = self;
        logs.take_now(scratch, poller, now);
        while self.link.has_room()
            && let Some(packet) = self.logs.packet()
        {
            self.link.push(packet);
            self.next_log = now + LOG_PAUSE;
        }
    }

    /// Sends output, and after all of it how the agent ended. When more can go.
    fn send_logs(&mut self, now: Instant) -> Option<Instant> {
        if !self.link.is_idle() {
            return None;
        }
        if !self.logs.is_empty() {
            if now < self.next_log {
                return Some(self.next_log);
            }
            if let Some(packet) = self.logs.packet() {
                self.link.push(packet);
                self.next_log = now + LOG_PAUSE;
            }
            if !self.logs.is_empty() {
                return Some(self.next_log);
            }
        }
        if !self.exit_told
            && let Some(exited) = self.agent.exited()
        {
            self.link.notify("agent.exited", exited);
            self.exit_told = true;
        }
        None
    }
}

fn is_pid_1() -> bool {
    getpid() == Pid::from_raw(1)
}
