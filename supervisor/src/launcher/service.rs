//! The event loop: one thread, one epoll, no call that waits for long.
//!
//! Sources: the broker's link, SIGCHLD (a signalfd), each stager's and steward's socket, each session's out-of-memory event. What has
//! no event (a cgroup that becomes empty on v1, a kill for want of memory that is not counted yet) is looked at on a short
//! timer that runs only while something waits for it.

mod foreign;
mod forks;
mod freezer;
mod limits;
mod metering;
mod orders;
mod orphans;
mod reclaim;
mod removal;
mod storage;

use super::ground::Ground;
use super::message::{Exited, FromLauncher, MAX_PACKET, OrderFault, Ordered, Replied, Reply};
use super::session::{Farewell, OomSuspicion, Phase, Session};
use super::stager::{StagerReport, step_fault};
use forks::Looking;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use proto::ids::SessionId;
use sandbox::seqpacket::Seqpacket;
use sandbox::sys::pidfd;
use sandbox::sys::reap::{Status, reap_all};
use sandbox::sys::signal::signalfd;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use storage::Errand;

/// How often sessions on their way out are looked at, while there are any.
const TICK: Duration = Duration::from_millis(2);

/// How long after an out-of-memory hint a kill is expected to show in the counters.
const OOM_SUSPICION: Duration = Duration::from_secs(1);

/// How often it is looked for. An agent can be at its limit all the time, and every look is one of the launcher's.
const OOM_TICK: Duration = Duration::from_millis(20);

/// Most events taken at once.
const MAX_EVENTS: usize = 64;

const LINK: u64 = 0;
const SIGNALS: u64 = 1;

/// What a descriptor in the epoll belongs to.
#[derive(Debug, Clone)]
enum Source {
    Stager(SessionId),
    Oom(SessionId),
    /// PID 1 of a session that was adopted.
    Life(SessionId),
    Steward(SessionId),
    Leaving(SessionId),
    Errand,
    Inspector,
}

/// A packet on its way to the broker.
type Packet = (Vec<u8>, Option<OwnedFd>);

/// See the module.
#[derive(Debug)]
pub(super) struct Launcher {
    ground: Ground,
    link: Seqpacket,
    signals: SignalFd,
    epoll: Epoll,
    sessions: HashMap<SessionId, Session>,
    /// Keys of the epoll from 2 up. A key is never used again, so a late event of a closed descriptor finds nothing.
    sources: HashMap<u64, Source>,
    next_key: u64,
    /// PID 1 of running sessions.
    pids: HashMap<Pid, SessionId>,
    /// Ends of processes that no report has named yet: a session may end before its stager's report is read. Emptied when
    /// nothing is being launched; a number alone is not believed, its pidfd must say the same.
    early_ends: HashMap<Pid, Status>,
    /// Answers that the broker has no room for. No order is read while there are any, which bounds it by the number of
    /// sessions.
    outbox: VecDeque<Packet>,
    /// What the link is watched for.
    link_events: EpollFlags,
    /// Stewards that work for no session, by their key in the epoll.
    errands: HashMap<u64, Errand>,
    /// Inspectors at work, by their key in the epoll.
    looking: HashMap<u64, Looking>,
    /// When the shelf is swept next.
    next_sweep: Instant,
    /// The broker has said that it ends in order.
    retiring: bool,
    /// Sessions whose counters may be held open.
    most_gauges: usize,
}

impl Launcher {
    pub(super) fn new(ground: Ground, link: Seqpacket) -> io::Result<Self> {
        // TERM, INT and HUP reach the whole control group or terminal; when to end is the broker's word, by closing the link.
        let signals = signalfd(&[
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ])?;
        link.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&link, EpollEvent::new(EpollFlags::EPOLLIN, LINK))?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        let mut launcher = Self {
            ground,
            link,
            signals,
            epoll,
            sessions: HashMap::new(),
            sources: HashMap::new(),
            next_key: SIGNALS + 1,
            pids: HashMap::new(),
            early_ends: HashMap::new(),
            outbox: VecDeque::new(),
            link_events: EpollFlags::EPOLLIN,
            errands: HashMap::new(),
            looking: HashMap::new(),
            next_sweep: Instant::now(),
            retiring: false,
            most_gauges: metering::most_gauges(),
        };
        launcher.find_foreign()?;
        Ok(launcher)
    }

    /// Serves until the broker is gone.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        loop {
            let ready = match self.epoll.wait(&mut events, self.timeout()) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            for event in &events[..ready] {
                match event.data() {
                    LINK => {
                        if !self.link_event(event.events())? {
                            self.give_up_parked();
                            self.retire();
                            return Ok(());
                        }
                    }
                    SIGNALS => self.signal_event()?,
                    key => self.source_event(key),
                }
            }
            self.look_for_oom_kills();
            self.sweep_if_due();
            self.advance_removals();
            self.advance_freezing();
            self.flush()?;
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let waits = |session: &Session| match (&session.removal, &session.oom_suspicion) {
            (Some(_), _) => Some(TICK),
            (None, _) if session.freezing.is_some() => Some(TICK),
            (None, Some(_)) => Some(OOM_TICK),
            (None, None) => None,
        };
        let sweep = self.until_sweep();
        match self.sessions.values().filter_map(waits).chain(sweep).min() {
            Some(tick) => EpollTimeout::try_from(tick).unwrap_or(EpollTimeout::ZERO),
            None => EpollTimeout::NONE,
        }
    }

    /// Takes one order. Says false when the broker is gone.
    fn link_event(&mut self, events: EpollFlags) -> io::Result<bool> {
        if events.contains(EpollFlags::EPOLLOUT) {
            self.flush()?;
        }
        if !self.outbox.is_empty() || !events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP)
        {
            return Ok(!events.contains(EpollFlags::EPOLLERR));
        }
        let mut buffer = [0; MAX_PACKET];
        let received = match self.link.recv(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            other => other?,
        };
        if received.len == 0 {
            return Ok(false);
        }
        let packet = &buffer[..received.len];
        match postcard::from_bytes::<Ordered>(packet) {
            Ok(ordered) if !received.truncated => self.order(ordered, received.fds),
            Ok(ordered) if received.lost_fds => {
                let fault = host_fault("take the order's descriptors", Errno::EMFILE as i32);
                self.reply(ordered.number, Err(fault), None);
            }
            // Without a number there is no one to answer. Only a broken or subverted broker sends such a thing.
            Ok(_) | Err(_) => tracing::error!(bytes = received.len, "order not understood"),
        }
        Ok(true)
    }

    fn signal_event(&mut self) -> io::Result<()> {
        while self.signals.read_signal()?.is_some() {}
        for (pid, status) in reap_all() {
            match self.pids.remove(&pid) {
                Some(session) => self.ended(&session, Some(status)),
                None => {
                    self.early_ends.insert(pid, status);
                }
            }
        }
        let launching = |s: &Session| matches!(s.phase, Phase::Launching { .. });
        if !self.sessions.values().any(launching) {
            self.early_ends.clear();
        }
        Ok(())
    }

    /// `status`: of a child's end.
    fn ended(&mut self, id: &SessionId, status: Option<Status>) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        session.phase = Phase::Ended;
        let oom_kills = session.cgroup.counters().map_or(0, |c| c.oom_kills);
        self.push(
            &FromLauncher::Exited(Exited {
                session: id.clone(),
                code: status.map(Status::shell_code),
                oom_kills,
            }),
            None,
        );
    }

    fn source_event(&mut self, key: u64) {
        match self.sources.get(&key).cloned() {
            Some(Source::Stager(id)) => {
                self.sources.remove(&key);
                self.stager_event(&id);
            }
            Some(Source::Oom(id)) => self.oom_event(&id, key),
            Some(Source::Life(id)) => {
                self.unwatch_life(&id);
                self.ended(&id, None);
            }
            Some(Source::Steward(id)) => {
                self.sources.remove(&key);
                self.steward_event(&id);
            }
            Some(Source::Leaving(id)) => {
                self.sources.remove(&key);
                self.leaving_event(&id);
            }
            Some(Source::Inspector) => {
                self.sources.remove(&key);
                self.inspector_event(key);
            }
            Some(Source::Errand) => {
                self.sources.remove(&key);
                self.errand_event(key);
            }
            // Closed while its event was already taken.
            None => {}
        }
    }

    /// A stager speaks, once, or has ended.
    fn stager_event(&mut self, id: &SessionId) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let (stager, order) = match std::mem::replace(&mut session.phase, Phase::Ended) {
            Phase::Parked { stager, .. } => (stager, None),
            Phase::Launching { stager, order } => (stager, Some(order)),
            other => {
                session.phase = other;
                return;
            }
        };
        // Forked processes may hold a copy of the socket, so closing it would not take it out of the epoll.
        let _ = self.epoll.delete(&stager.socket);
        let report = stager.report().unwrap_or_else(|error| {
            tracing::error!(session_id = %id, error = %error, "stager's report");
            None
        });
        match (report, order) {
            (
                Some((
                    StagerReport::Launched {
                        pid,
                        start_time,
                        times,
                    },
                    Some(pidfd),
                )),
                Some(order),
            ) => {
                tracing::debug!(session_id = %id, clone_us = times[0], maps_us = times[1], child_us = times[2], "launched");
                self.launched(id, order, (pid, start_time), pidfd);
            }
            (Some((StagerReport::Failed { stage, errno }, _)), Some(order)) => {
                self.fail(id, order, step_fault(stage, errno));
            }
            // Parked, and cannot take an order: kept for whoever launches it.
            (Some((StagerReport::Failed { stage, errno }, _)), None) => {
                session.phase = Phase::Parked {
                    stager,
                    fault: Some(step_fault(stage, errno)),
                };
            }
            // Killed, or out of its protocol.
            (_, Some(order)) => {
                self.fail(
                    id,
                    order,
                    step_fault("stager".to_owned(), Errno::ECHILD as i32),
                );
            }
            (_, None) => {
                session.phase = Phase::Parked {
                    stager,
                    fault: Some(step_fault("stager".to_owned(), Errno::ECHILD as i32)),
                };
            }
        }
    }

    fn launched(
        &mut self,
        id: &SessionId,
        order: u64,
        (pid, start_time): (i32, u64),
        pidfd: OwnedFd,
    ) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let cgroup_inode = match session.cgroup.inode() {
            Ok(inode) => inode,
            Err(error) => {
                let fault = host_fault("read the inode of its cgroup", error.errno());
                return self.fail(id, order, fault);
            }
        };
        let pid = Pid::from_raw(pid);
        let over = pidfd::has_ended(pidfd.as_fd());
        session.phase = Phase::Running;
        self.pids.insert(pid, id.clone());
        let reply = Reply::Launched {
            pid: pid.as_raw(),
            start_time,
            cgroup_inode,
        };
        self.reply(order, Ok(reply), Some(pidfd));
        // Ended and collected before its report was read. (Ended since then: its signal is still to come.)
        if over && let Some(status) = self.early_ends.remove(&pid) {
            self.pids.remove(&pid);
            self.ended(id, Some(status));
        }
    }

    /// The launch has failed: clears away what is there, then answers.
    fn fail(&mut self, id: &SessionId, order: u64, fault: OrderFault) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.phase = Phase::Ended;
        }
        self.remove(id, Farewell::Failed { order, fault });
    }

    fn oom_event(&mut self, id: &SessionId, key: u64) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let Some((_, event)) = &session.oom else {
            return;
        };
        // Re-arms it. The removal of the cgroup is an event too: no more of those.
        let _ = nix::unistd::read(event, &mut [0; 8]);
        if session.removal.is_some() {
            let _ = self.epoll.delete(event);
            session.oom = None;
            self.sources.remove(&key);
        } else {
            let now = Instant::now();
            let next = session.oom_suspicion.map_or(now, |ongoing| ongoing.next);
            let until = now + OOM_SUSPICION;
            session.oom_suspicion = Some(OomSuspicion { next, until });
        }
    }

    /// A session of which one process was killed for want of memory is broken in a way that nobody inside sees: it ends as
    /// a whole. v2 does that by itself (`memory.oom.group`); v1 kills one process only.
    fn look_for_oom_kills(&mut self) {
        let now = Instant::now();
        for (id, session) in &mut self.sessions {
            let Some(suspicion) = session.oom_suspicion.as_mut().filter(|s| s.next <= now) else {
                continue;
            };
            suspicion.next = now + OOM_TICK;
            let over = now >= suspicion.until;
            let killed = session.cgroup.oom_kills().is_ok_and(|kills| kills > 0);
            if killed || over {
                session.oom_suspicion = None;
            }
            if killed && let Err(error) = session.cgroup.kill() {
                tracing::error!(session_id = %id, error = %error, "kill after out of memory");
            }
        }
    }

    /// Watches a descriptor on behalf of a session; says by which key.
    fn watch(&mut self, fd: BorrowedFd<'_>, source: Source, events: EpollFlags) -> io::Result<u64> {
        let key = self.next_key;
        self.epoll.add(fd, EpollEvent::new(events, key))?;
        self.next_key += 1;
        self.sources.insert(key, source);
        Ok(key)
    }

    fn reply(&mut self, number: u64, reply: Result<Reply, OrderFault>, fd: Option<OwnedFd>) {
        self.push(&FromLauncher::Replied(Replied { number, reply }), fd);
    }

    fn push(&mut self, message: &FromLauncher, fd: Option<OwnedFd>) {
        match postcard::to_stdvec(message) {
            Ok(bytes) => self.outbox.push_back((bytes, fd)),
            Err(error) => tracing::error!(error = %error, "message not encoded"),
        }
    }

    /// Sends what the broker has room for, and asks to be woken for the rest.
    fn flush(&mut self) -> io::Result<()> {
        while let Some((bytes, fd)) = self.outbox.front() {
            let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
            match self.link.send(bytes, &fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The broker is gone; the next read says so, and that is where this ends.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.outbox.clear();
                    break;
                }
                other => other?,
            }
            self.outbox.pop_front();
        }
        let wanted = if self.outbox.is_empty() {
            EpollFlags::EPOLLIN
        } else {
            EpollFlags::EPOLLOUT
        };
        if wanted != self.link_events {
            self.epoll
                .modify(&self.link, &mut EpollEvent::new(wanted, LINK))?;
            self.link_events = wanted;
        }
        Ok(())
    }
}

/// An order's fault from something on the host.
fn host_fault(detail: impl Into<String>, errno: i32) -> OrderFault {
    OrderFault::Host {
        detail: detail.into(),
        errno,
    }
}
